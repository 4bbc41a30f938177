//! Reads the pickle of a tensor's item: how the tensor is laid out in its storage.
//!
//! `_rebuild_tensor_v2(storage, offset, size, strides, requires_grad, hooks[, metadata])`, or `_rebuild_tensor_v3` with
//! the element type before `metadata`; the storage is the persistent id `('storage', class, key, location, numel)`.
//!
//! Source: torch/_utils.py and torch/serialization.py, PyTorch 2.4 to 2.15.

use crate::format::wire::pickle_nodes::{NodeId, Pickle, View};
use crate::model::DType;

/// A tensor as its pickle describes it; sizes in elements.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rebuilt {
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
    /// Position of its first element in the storage.
    pub(super) offset: u64,
    /// The storage is in the record `data/KEY`.
    pub(super) storage_key: String,
}

/// Reads the tensor that is the pickle's root. The error says what is wrong.
pub(super) fn read(pickle: &Pickle<'_>) -> Result<Rebuilt, String> {
    tensor(pickle, pickle.root())
}

fn tensor(pickle: &Pickle<'_>, id: NodeId) -> Result<Rebuilt, String> {
    let object = pickle.object(id).ok_or("it is no tensor")?;
    let arguments = pickle.tuple(object.args).ok_or("its arguments are no tuple")?;
    let version = match pickle.global(object.callee) {
        Some(("torch._utils", "_rebuild_tensor_v2")) => 2,
        Some(("torch._utils", "_rebuild_tensor_v3")) => 3,
        Some((module, name)) => return Err(format!("it is made by {module}.{name}, which is not supported")),
        None => return Err("it is no tensor".to_owned()),
    };
    let (&[storage, offset, size, strides, _, _], rest) =
        arguments.split_first_chunk::<6>().ok_or("its call has too few arguments")?;
    let (named_dtype, rest) = match (version, rest) {
        (3, [dtype, rest @ ..]) => (Some(*dtype), rest),
        (3, []) => return Err("its call has no element type".to_owned()),
        _ => (None, rest),
    };
    if let Some(&metadata) = rest.first() {
        refuse_lazy(pickle, metadata)?;
    }
    let (storage_dtype, storage_key) = storage_of(pickle, storage)?;
    let dtype = match named_dtype {
        Some(id) => match pickle.global(id) {
            Some(("torch", name)) => Some(
                DType::from_torch_name(name)
                    .ok_or_else(|| format!("element type torch.{name} is not known"))?,
            ),
            _ => return Err("its element type is no torch.dtype".to_owned()),
        },
        None => storage_dtype,
    };
    Ok(Rebuilt {
        dtype: dtype.ok_or("its storage has no element type")?,
        shape: pickle.shape(size).ok_or("its size is no shape")?,
        strides: pickle.shape(strides).ok_or("its strides are no tuple of integers from 0 on")?,
        offset: pickle.u64(offset).ok_or("its storage offset is no integer from 0 on")?,
        storage_key,
    })
}

/// A conjugated or negated view: the stored bytes are not its elements.
fn refuse_lazy(pickle: &Pickle<'_>, metadata: NodeId) -> Result<(), String> {
    let pairs = pickle.dict(metadata).unwrap_or_default();
    for mark in ["conj", "neg"] {
        let set = pickle.entry(pairs, mark).is_some_and(|id| pickle.view(id) == View::Bool(true));
        if set {
            return Err(format!(
                "it is a view with the `{mark}` mark, whose stored bytes are not its elements"
            ));
        }
    }
    Ok(())
}

fn storage_of(pickle: &Pickle<'_>, id: NodeId) -> Result<(Option<DType>, String), String> {
    let View::Persistent(id) = pickle.view(id) else { return Err("its storage is missing".to_owned()) };
    let parts = pickle.tuple(id).filter(|parts| parts.len() == 5).ok_or("its storage is no tuple of 5")?;
    if pickle.str(parts[0]) != Some("storage") {
        return Err("its persistent id is no storage".to_owned());
    }
    let dtype = match pickle.global(parts[1]) {
        Some(("torch.storage" | "torch", "UntypedStorage")) => None,
        Some(("torch", class)) => {
            Some(storage_dtype(class).ok_or_else(|| format!("its storage is a torch.{class}"))?)
        }
        _ => return Err("its storage's class is not known".to_owned()),
    };
    let key = pickle.str(parts[2]).ok_or("its storage's key is no string")?;
    Ok((dtype, key.to_owned()))
}

fn storage_dtype(class: &str) -> Option<DType> {
    Some(match class {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "CharStorage" => DType::I8,
        "ByteStorage" => DType::U8,
        "ShortStorage" => DType::I16,
        "IntStorage" => DType::I32,
        "LongStorage" => DType::I64,
        "BoolStorage" => DType::Bool,
        "ComplexFloatStorage" => DType::C64,
        "ComplexDoubleStorage" => DType::C128,
        _ => return None,
    })
}
