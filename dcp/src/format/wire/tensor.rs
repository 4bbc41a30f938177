//! A tensor as `data.pkl` describes it: which storage, which elements of it, in which order.
//!
//! A tensor is the result of `torch._utils._rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad,
//! backward_hooks[, metadata])`; types newer than the storage classes use `_rebuild_tensor_v3`, which takes the dtype as
//! a seventh argument; `_rebuild_parameter` wraps a tensor, and `torch._tensor._rebuild_from_type_v2` one that carries
//! Python attributes. `storage` is the persistent id `('storage', class, key, location, numel[, view])`, where `numel`
//! counts bytes for `UntypedStorage` and elements otherwise. `view`, in files before PyTorch 1.6 only, cuts a part out
//! of the storage: `(key, offset, numel)`.
//!
//! Source: torch/_utils.py, torch/_tensor.py and torch/serialization.py, PyTorch 2.11.

use super::pickle_nodes::{NodeId, Pickle, View};
use super::pickle_write::PickleWriter;
use crate::layout::row_major;
use crate::model::{DType, TensorSpec};

/// One tensor of an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredTensor {
    /// Element type and shape.
    pub spec: TensorSpec,
    /// Strides in elements; any that stay inside the storage.
    pub strides: Vec<u64>,
    /// First element, counted in the storage.
    pub storage_offset: u64,
    /// Name of the storage: its bytes are the record `data/KEY`.
    pub storage_key: String,
    /// Length of the storage in bytes.
    pub storage_bytes: u64,
}

impl StoredTensor {
    /// Byte of the storage where the first element is.
    pub fn byte_offset(&self) -> u64 {
        self.storage_offset * self.spec.dtype.block_bytes()
    }

    /// The strides, where the elements are not simply row-major.
    pub fn unusual_strides(&self) -> Option<Vec<u64>> {
        let plain = row_major(&self.spec.shape);
        let differs = (0..plain.len()).any(|dim| self.spec.shape[dim] > 1 && self.strides[dim] != plain[dim]);
        (differs && self.spec.elements() != Some(0)).then(|| self.strides.clone())
    }

    /// Bytes from its first element to the end of its last one in memory order; 0 without elements.
    pub fn span_bytes(&self) -> u64 {
        if self.spec.shape.contains(&0) {
            return 0;
        }
        // The last element is inside the storage, so that none of this overflows.
        let steps = self.spec.shape.iter().zip(&self.strides).map(|(size, stride)| (size - 1) * stride);
        (steps.sum::<u64>() + 1) * self.spec.dtype.block_bytes()
    }

    /// Whether the tensor is the whole storage, each element once, in the order of some permutation of its dims.
    pub fn covers_storage(&self) -> bool {
        if self.storage_offset != 0 || self.spec.bytes() != Some(self.storage_bytes) {
            return false;
        }
        let mut dims: Vec<usize> = (0..self.strides.len()).filter(|&dim| self.spec.shape[dim] > 1).collect();
        dims.sort_by_key(|&dim| self.strides[dim]);
        let mut dense = 1u64;
        let is_dense = dims.iter().all(|&dim| {
            let follows = self.strides[dim] == dense;
            dense = dense.saturating_mul(self.spec.shape[dim]);
            follows
        });
        is_dense || self.storage_bytes == 0
    }
}

/// Storage classes, with the element type they imply.
static STORAGES: &[(&str, DType)] = &[
    ("FloatStorage", DType::F32),
    ("DoubleStorage", DType::F64),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("CharStorage", DType::I8),
    ("ByteStorage", DType::U8),
    ("ShortStorage", DType::I16),
    ("IntStorage", DType::I32),
    ("LongStorage", DType::I64),
    ("BoolStorage", DType::Bool),
    ("ComplexFloatStorage", DType::C64),
    ("ComplexDoubleStorage", DType::C128),
];

/// Parameters of parameters do not occur; this is how many wrappings are undone.
const WRAPPINGS_MAX: usize = 4;

/// Why a node that should be a tensor cannot be read as one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TensorError {
    /// A tensor of a kind that has no plain elements, such as a sparse one: `module.name` of what would rebuild it.
    #[error("a tensor made by {0} is not supported")]
    Unsupported(String),
    /// Not a tensor that PyTorch would load, in words.
    #[error("{0}")]
    Invalid(String),
}

impl From<&str> for TensorError {
    fn from(why: &str) -> Self {
        TensorError::Invalid(why.to_owned())
    }
}

/// Reads the node as a tensor. `None` where it is not one.
///
/// Errors: [`TensorError::Unsupported`] for sparse, quantised and nested tensors, for subclasses, and for views whose
/// stored bytes are not their values (lazily conjugated or negated).
pub fn tensor_of(pickle: &Pickle, id: NodeId) -> Option<Result<StoredTensor, TensorError>> {
    let object = pickle.object(id)?;
    let (mut callee, mut args) = (object.callee, object.args);
    for _ in 0..WRAPPINGS_MAX {
        let (module, name) = pickle.global(callee)?;
        match (module, name, pickle.tuple(args).unwrap_or_default()) {
            ("torch._utils", "_rebuild_tensor", &[storage, offset, size, stride])
            | ("torch._utils", "_rebuild_tensor_v2", &[storage, offset, size, stride, _, _]) => {
                return Some(rebuild(pickle, [storage, offset, size, stride], None));
            }
            ("torch._utils", "_rebuild_tensor_v2", &[storage, offset, size, stride, _, _, flags]) => {
                let checked = check_flags(pickle, flags, name);
                return Some(checked.and_then(|()| rebuild(pickle, [storage, offset, size, stride], None)));
            }
            (
                "torch._utils",
                "_rebuild_tensor_v3",
                &[storage, offset, size, stride, _, _, dtype, ref flags @ ..],
            ) => {
                let checked = flags.first().map_or(Ok(()), |flags| check_flags(pickle, *flags, name));
                return Some(
                    checked.and_then(|()| rebuild(pickle, [storage, offset, size, stride], Some(dtype))),
                );
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", &[data, ..]) => {
                let Some(inner) = pickle.object(data) else {
                    return Some(Err("a parameter of no tensor".into()));
                };
                (callee, args) = (inner.callee, inner.args);
            }
            ("torch._tensor", "_rebuild_from_type_v2", &[function, class, inner_args, _]) => {
                match pickle.global(class)? {
                    // Python attributes of a plain tensor are left behind, as PyTorch's own checkpoints do.
                    ("torch", "Tensor") | ("torch.nn.parameter", "Parameter" | "Buffer") => {}
                    (module, name) => return Some(Err(unsupported(module, name))),
                }
                (callee, args) = (function, inner_args);
            }
            ("torch._utils", name, _) if name.starts_with("_rebuild_tensor") => {
                return Some(Err(TensorError::Invalid(format!("{name} with other arguments than expected"))));
            }
            ("torch._utils", name, _) if name.starts_with("_rebuild_") => {
                return Some(Err(unsupported(module, name)));
            }
            _ => return None,
        }
    }
    Some(Err("a tensor that is wrapped again and again".into()))
}

fn unsupported(module: &str, name: &str) -> TensorError {
    TensorError::Unsupported(format!("{module}.{name}"))
}

/// Refuses the lazy operations `conj` and `neg`.
fn check_flags(pickle: &Pickle, flags: NodeId, function: &str) -> Result<(), TensorError> {
    let pairs = pickle.dict(flags).unwrap_or_default();
    match pairs.iter().find(|[_, set]| pickle.view(*set) == View::Bool(true)) {
        Some([flag, _]) => {
            let flag = pickle.str(*flag).unwrap_or("?");
            Err(TensorError::Unsupported(format!("torch._utils.{function}[{flag}]")))
        }
        None => Ok(()),
    }
}

fn rebuild(
    pickle: &Pickle,
    [storage, offset, size, stride]: [NodeId; 4],
    dtype: Option<NodeId>,
) -> Result<StoredTensor, TensorError> {
    let storage = match pickle.view(storage) {
        View::Persistent(id) => storage_of(pickle, id)?,
        _ => return Err("its storage is not a persistent id".into()),
    };
    let dtype = match dtype.map(|dtype| pickle.global(dtype)) {
        // An untyped storage without a dtype is one of bytes.
        None => storage.dtype,
        Some(Some(("torch", name))) => {
            DType::from_torch_name(name).ok_or_else(|| unsupported("torch", name))?
        }
        Some(_) => return Err("its dtype is not a torch dtype".into()),
    };
    let shape = pickle.shape(size).ok_or("its size is not a tuple of integers")?;
    let strides = pickle.shape(stride).ok_or("its stride is not a tuple of integers")?;
    let offset = pickle.u64(offset).ok_or("its storage offset is not an integer")?;
    let spec = TensorSpec::new(dtype, shape);
    check_inside(&spec, &strides, offset, storage.view_bytes)?;
    let block_bytes = dtype.block_bytes();
    if !storage.view_byte_offset.is_multiple_of(block_bytes) {
        return Err("its view starts inside an element".into());
    }
    let storage_offset = offset
        .checked_add(storage.view_byte_offset / block_bytes)
        .filter(|elements| elements.checked_mul(block_bytes).is_some())
        .ok_or("its storage offset is over 2^64 bytes")?;
    let (storage_key, storage_bytes) = (storage.key, storage.byte_len);
    Ok(StoredTensor { spec, strides, storage_offset, storage_key, storage_bytes })
}

/// A storage as its persistent id describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageId {
    /// Its name: its bytes are the record `data/KEY`.
    pub key: String,
    /// The type of its elements; [`DType::U8`] for an untyped one.
    pub dtype: DType,
    /// Its length in bytes.
    pub byte_len: u64,
    /// First byte of the part that is meant; 0 but in old files.
    view_byte_offset: u64,
    /// Bytes of the part that is meant; all but in old files.
    view_bytes: u64,
}

/// Reads what a persistent id names: the node inside [`View::Persistent`].
pub fn storage_of(pickle: &Pickle, id: NodeId) -> Result<StorageId, TensorError> {
    let [tag, class, key, _location, numel, ref rest @ ..] = *pickle.tuple(id).unwrap_or_default() else {
        return Err("its storage is not a tuple ('storage', class, key, location, numel)".into());
    };
    if pickle.str(tag) != Some("storage") {
        return Err("its persistent id is not of a storage".into());
    }
    let (module, class) = pickle.global(class).ok_or("the class of its storage is not a name")?;
    let typed = STORAGES.iter().find(|(name, _)| *name == class).map(|(_, dtype)| *dtype);
    let dtype = match (module, typed) {
        ("torch" | "torch.cuda" | "torch.storage", Some(dtype)) => dtype,
        ("torch" | "torch.storage", None) if class == "UntypedStorage" => DType::U8,
        _ => return Err(unsupported(module, class)),
    };
    let bytes = |elements| pickle.u64(elements).and_then(|elements| dtype.bytes(elements));
    let key = pickle.str(key).ok_or("the key of its storage is not a text")?.to_owned();
    let byte_len = bytes(numel).ok_or("the length of its storage is not an integer below 2^63")?;
    let (view_byte_offset, view_bytes) = match rest.first().and_then(|view| pickle.tuple(*view)) {
        Some(&[_key, offset, numel]) => {
            bytes(offset).zip(bytes(numel)).ok_or("its view is not one of integers")?
        }
        _ => (0, byte_len),
    };
    if view_byte_offset.checked_add(view_bytes).is_none_or(|end| end > byte_len) {
        return Err("its view leaves its storage".into());
    }
    Ok(StorageId { key, dtype, byte_len, view_byte_offset, view_bytes })
}

/// Every element is inside the part of the storage that is meant, and the element count fits.
fn check_inside(
    spec: &TensorSpec,
    strides: &[u64],
    offset: u64,
    storage_bytes: u64,
) -> Result<(), TensorError> {
    let shape = &spec.shape;
    if shape.len() != strides.len() {
        return Err(TensorError::Invalid(format!("{} strides for {} dims", strides.len(), shape.len())));
    }
    let bytes = spec.bytes();
    let bytes = bytes.ok_or_else(|| TensorError::Invalid(format!("shape {shape:?} is over 2^64 bytes")))?;
    let last = shape.iter().zip(strides).try_fold(offset, |last, (&size, &stride)| {
        last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
    });
    // Offsets and strides of empty tensors may be anything.
    let end = match last {
        _ if bytes == 0 => Some(0),
        Some(last) => last.checked_add(1).and_then(|end| end.checked_mul(spec.dtype.block_bytes())),
        None => None,
    };
    match end {
        Some(end) if end <= storage_bytes => Ok(()),
        _ => Err(TensorError::Invalid(format!(
            "shape {shape:?}, strides {strides:?} and offset {offset} leave its storage of {storage_bytes} bytes"
        ))),
    }
}

/// Writes a row-major tensor that is the whole of storage `storage_key`.
///
/// Errors: the type's name where PyTorch does not have it.
pub fn write_tensor(writer: &mut PickleWriter, spec: &TensorSpec, storage_key: &str) -> Result<(), String> {
    let torch_name = spec.dtype.torch_name().ok_or_else(|| spec.dtype.name().to_owned())?;
    let class = STORAGES.iter().find(|(_, dtype)| *dtype == spec.dtype).map(|(name, _)| *name);
    let elements = spec.elements().unwrap_or(0);
    let (function, arg_count) =
        if class.is_some() { ("_rebuild_tensor_v2", 6) } else { ("_rebuild_tensor_v3", 7) };
    writer.call("torch._utils", function, arg_count, |writer| {
        match class {
            Some(class) => write_storage(writer, ("torch", class), storage_key, elements),
            None => {
                let byte_len = spec.bytes().unwrap_or(0);
                write_storage(writer, ("torch.storage", "UntypedStorage"), storage_key, byte_len);
            }
        }
        writer.u64(0);
        writer.int_tuple(&spec.shape);
        // PyTorch gives a zero-size dim the stride of a dim of size 1.
        let strides = row_major(&spec.shape.iter().map(|&size| size.max(1)).collect::<Vec<_>>());
        writer.int_tuple(&strides);
        writer.bool(false);
        writer.call("collections", "OrderedDict", 0, |_| {});
        if class.is_none() {
            writer.global("torch", torch_name);
        }
    });
    Ok(())
}

/// Writes the persistent id of a storage of `numel` elements, or bytes where the class is the untyped one.
pub fn write_storage(writer: &mut PickleWriter, (module, class): (&str, &str), key: &str, numel: u64) {
    writer.persistent(|writer| {
        writer.tuple(5, |writer| {
            writer.key("storage");
            writer.global(module, class);
            writer.str(key);
            writer.key("cpu");
            writer.u64(numel);
        });
    });
}

#[cfg(test)]
#[path = "tensor_tests.rs"]
mod tests;
