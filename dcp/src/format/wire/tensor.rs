//! A tensor as `data.pkl` describes it: which storage, which elements of it, in which order.
//!
//! A tensor is the result of `torch._utils._rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad,
//! backward_hooks[, metadata])`; types newer than the storage classes use `_rebuild_tensor_v3`, which takes the dtype as
//! a seventh argument; `_rebuild_parameter` wraps a tensor. `storage` is the persistent id `('storage', class, key,
//! location, numel)`, where `numel` counts bytes for `UntypedStorage` and elements otherwise.
//!
//! Source: torch/_utils.py and torch/serialization.py, PyTorch 2.11.

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

    /// Whether the tensor is the whole storage, each element once.
    pub fn covers_storage(&self) -> bool {
        let mut dims: Vec<usize> = (0..self.strides.len()).filter(|&dim| self.spec.shape[dim] > 1).collect();
        dims.sort_by_key(|&dim| self.strides[dim]);
        let mut dense = 1u64;
        let is_dense = dims.iter().all(|&dim| {
            let fits = self.strides[dim] == dense;
            dense = dense.saturating_mul(self.spec.shape[dim]);
            fits
        });
        is_dense && self.storage_offset == 0 && self.spec.bytes() == Some(self.storage_bytes)
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

/// Reads the node as a tensor. `None` where it is not one.
///
/// Errors: in words, what is wrong with a node that should be one, or that its data is not its value (lazily conjugated
/// or negated views).
pub fn tensor_of(pickle: &Pickle, id: NodeId) -> Option<Result<StoredTensor, String>> {
    let object = pickle.object(id)?;
    let (module, name) = pickle.global(object.callee)?;
    if module != "torch._utils" {
        return None;
    }
    let args = pickle.tuple(object.args).unwrap_or_default();
    match (name, args) {
        ("_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => tensor_of(pickle, *data),
        ("_rebuild_tensor_v2", [storage, offset, size, stride, _, _, rest @ ..]) => {
            Some(rebuild(pickle, [*storage, *offset, *size, *stride], None, rest.first()))
        }
        ("_rebuild_tensor_v3", [storage, offset, size, stride, _, _, dtype, rest @ ..]) => {
            Some(rebuild(pickle, [*storage, *offset, *size, *stride], Some(*dtype), rest.first()))
        }
        (other, _) if other.starts_with("_rebuild_") => {
            Some(Err(format!("a tensor made by {other} is not supported")))
        }
        _ => None,
    }
}

fn rebuild(
    pickle: &Pickle,
    [storage, offset, size, stride]: [NodeId; 4],
    dtype: Option<NodeId>,
    metadata: Option<&NodeId>,
) -> Result<StoredTensor, String> {
    let lazy = |flag| {
        let pairs = metadata.and_then(|metadata| pickle.dict(*metadata))?;
        Some(pickle.view(pickle.entry(pairs, flag)?) == View::Bool(true))
    };
    if let Some(flag) = ["conj", "neg"].into_iter().find(|flag| lazy(flag) == Some(true)) {
        return Err(format!("a view with the {flag} bit set; its stored bytes are not its values"));
    }
    let (storage_key, storage_dtype, numel) = storage_of(pickle, storage)
        .ok_or("its storage is not a persistent id ('storage', class, key, location, numel)")?;
    let explicit = match dtype.map(|dtype| pickle.global(dtype)) {
        None => None,
        Some(Some(("torch", name))) => {
            Some(DType::from_torch_name(name).ok_or(format!("unknown dtype torch.{name}"))?)
        }
        Some(_) => return Err("its dtype is not a torch dtype".to_owned()),
    };
    let dtype = explicit.or(storage_dtype).ok_or("an untyped storage without a dtype")?;
    let shape = pickle.shape(size).ok_or("its size is not a tuple of integers")?;
    let strides = pickle.shape(stride).ok_or("its stride is not a tuple of integers")?;
    let storage_offset = pickle.u64(offset).ok_or("its storage offset is not an integer")?;
    let element_bytes = storage_dtype.map_or(1, DType::block_bytes);
    let storage_bytes = numel.checked_mul(element_bytes).ok_or("its storage is over 2^64 bytes")?;
    let spec = TensorSpec::new(dtype, shape);
    let tensor = StoredTensor { spec, strides, storage_offset, storage_key, storage_bytes };
    check_inside(&tensor)?;
    Ok(tensor)
}

/// Key, element type (`None`: untyped) and count of a storage.
fn storage_of(pickle: &Pickle, id: NodeId) -> Option<(String, Option<DType>, u64)> {
    let View::Persistent(id) = pickle.view(id) else { return None };
    let [tag, class, key, _location, numel, ..] = *pickle.tuple(id)? else { return None };
    let ("torch" | "torch.storage", class) = pickle.global(class)? else { return None };
    let dtype = match class {
        "UntypedStorage" => None,
        _ => Some(STORAGES.iter().find(|(name, _)| *name == class)?.1),
    };
    (pickle.str(tag)? == "storage").then_some((pickle.str(key)?.to_owned(), dtype, pickle.u64(numel)?))
}

/// Every element is inside the storage, and the element count fits.
fn check_inside(tensor: &StoredTensor) -> Result<(), String> {
    let (shape, strides) = (&tensor.spec.shape, &tensor.strides);
    if shape.len() != strides.len() {
        return Err(format!("{} strides for {} dims", strides.len(), shape.len()));
    }
    let bytes = tensor.spec.bytes().ok_or_else(|| format!("shape {shape:?} is over 2^64 bytes"))?;
    let last = shape.iter().zip(strides).try_fold(tensor.storage_offset, |last, (&size, &stride)| {
        last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
    });
    let end = match last {
        _ if bytes == 0 => Some(0),
        Some(last) => last.checked_add(1).and_then(|end| end.checked_mul(tensor.spec.dtype.block_bytes())),
        None => None,
    };
    match end {
        Some(end) if end <= tensor.storage_bytes => {
            // What is inside is also countable: offsets of empty tensors may lie anywhere.
            tensor
                .storage_offset
                .checked_mul(tensor.spec.dtype.block_bytes())
                .map(|_| ())
                .ok_or("offset overflows".into())
        }
        _ => Err(format!(
            "shape {shape:?}, strides {strides:?} and offset {} leave its storage of {} bytes",
            tensor.storage_offset, tensor.storage_bytes
        )),
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
        writer.persistent(|writer| {
            writer.tuple(5, |writer| {
                writer.key("storage");
                match class {
                    Some(class) => writer.global("torch", class),
                    None => writer.global("torch.storage", "UntypedStorage"),
                }
                writer.str(storage_key);
                writer.key("cpu");
                writer.u64(if class.is_some() { elements } else { spec.bytes().unwrap_or(0) });
            });
        });
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

#[cfg(test)]
mod tests {
    use super::super::pickle_read::parse;
    use super::*;

    fn written(spec: &TensorSpec) -> Vec<u8> {
        let mut writer = PickleWriter::new();
        write_tensor(&mut writer, spec, "0").unwrap();
        writer.finish()
    }

    #[test]
    fn reads_what_it_writes_for_every_type_of_torch() {
        for dtype in DType::all().filter(|dtype| dtype.torch_name().is_some()) {
            for shape in [&[][..], &[0, 3], &[2, 3, 4]] {
                let spec = TensorSpec::new(dtype, shape);
                let bytes = written(&spec);
                let pickle = parse(&bytes).unwrap();
                let tensor = tensor_of(&pickle, pickle.root()).unwrap().unwrap();
                assert_eq!(
                    (&tensor.spec, tensor.storage_offset, tensor.storage_key.as_str()),
                    (&spec, 0, "0")
                );
                assert_eq!(Some(tensor.storage_bytes), spec.bytes());
                assert!(tensor.covers_storage() && tensor.unusual_strides().is_none());
            }
        }
        let mut writer = PickleWriter::new();
        assert!(write_tensor(&mut writer, &TensorSpec::new(DType::F4, [2]), "0").is_err());
    }

    #[test]
    fn strides_may_not_leave_the_storage() {
        let tensor = |shape: &[u64], strides: &[u64], storage_offset, storage_bytes| StoredTensor {
            spec: TensorSpec::new(DType::F32, shape),
            strides: strides.to_vec(),
            storage_offset,
            storage_key: "0".to_owned(),
            storage_bytes,
        };
        assert!(check_inside(&tensor(&[2, 3], &[1, 2], 0, 24)).is_ok());
        assert!(check_inside(&tensor(&[3, 4], &[1, 0], 0, 12)).is_ok());
        assert!(check_inside(&tensor(&[2, 3], &[3, 1], 1, 24)).is_err());
        assert!(check_inside(&tensor(&[2], &[u64::MAX], 0, 24)).is_err());
        assert!(check_inside(&tensor(&[2], &[1, 1], 0, 24)).is_err());
        assert!(check_inside(&tensor(&[u64::MAX, 8], &[0, 0], 0, 24)).is_err());
        let transposed = tensor(&[2, 3], &[1, 2], 0, 24);
        assert!(transposed.covers_storage());
        assert_eq!(transposed.unusual_strides(), Some(vec![1, 2]));
        assert!(!tensor(&[3], &[2], 0, 24).covers_storage());
    }
}
