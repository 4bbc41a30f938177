//! Values in `torch.save` archives: decoded from an allow-list of types, without running anything.
//!
//! What PyTorch's restricted loader admits is decoded, and numpy's scalars and arrays; anything else becomes
//! [`Value::Opaque`] with the name of what was met, and is carried as the archive it came in.
//!
//! Source: `torch/_weights_only_unpickler.py`, PyTorch 2.11; `numpy/_core/multiarray` reconstruction, numpy 2.

use super::item::Item;
use super::pickle_nodes::{NodeId, Object, Pickle, View};
use super::pickle_read::parse;
use super::pickle_write::PickleWriter;
use super::tensor::{StoredTensor, tensor_of, write_tensor};
use super::zip_read::ZipIndex;
use super::zip_write::{ALIGN_BYTES, Contents, NewRecord, ZipLayout};
use crate::error::{Error, Result};
use crate::layout::{copy_box, row_major};
use crate::model::{DType, InlineTensor, Value};
use crate::storage::memory::MemoryObject;

/// Deepest nesting that is decoded; Python's own recursion limit is near it.
const DEPTH_MAX: usize = 500;
/// Most nodes of one value: a list that holds itself twice would otherwise grow without end.
const NODES_MAX: usize = 50_000_000;
/// Largest tensor inside a value.
const TENSOR_BYTES_MAX: u64 = 1 << 30;

/// Decodes the archive of one value; `object` names it in errors.
///
/// Errors: [`Error::Malformed`] for what is no archive, nests too deep or has impossible tensors.
pub fn decode(bytes: &[u8], object: &str) -> Result<Value> {
    let memory = MemoryObject::new(object, bytes);
    let mut item = Item::whole(&memory, object);
    let index = ZipIndex::read(&mut item)?;
    let data = index.read_record(&mut item, "data.pkl", bytes.len() as u64)?;
    let pickle = parse(&data).map_err(|error| error.of(object))?;
    let mut fetch = |tensor: &StoredTensor| {
        let storage =
            index.read_record(&mut item, &format!("data/{}", tensor.storage_key), TENSOR_BYTES_MAX)?;
        gather(tensor, &storage).map_err(|why| Error::malformed(object, "tensor in a value", why))
    };
    Decoder { pickle: &pickle, object, fetch: &mut fetch, nodes: 0 }.value(pickle.root(), 0)
}

/// Decodes a node of a pickle; `fetch` brings the row-major bytes of a tensor.
pub fn value_of(
    pickle: &Pickle,
    id: NodeId,
    object: &str,
    fetch: &mut dyn FnMut(&StoredTensor) -> Result<Vec<u8>>,
) -> Result<Value> {
    Decoder { pickle, object, fetch, nodes: 0 }.value(id, 0)
}

/// Brings a tensor's elements into row-major order.
///
/// Errors: in words, where the storage is shorter than the tensor says.
pub fn gather(tensor: &StoredTensor, storage: &[u8]) -> Result<Vec<u8>, String> {
    if storage.len() as u64 != tensor.storage_bytes {
        return Err(format!("a storage of {} bytes, {} are expected", storage.len(), tensor.storage_bytes));
    }
    let block_bytes = tensor.spec.dtype.block_bytes() as usize;
    let byte_len = tensor.spec.bytes().filter(|&bytes| bytes <= TENSOR_BYTES_MAX);
    let byte_len =
        byte_len.ok_or_else(|| format!("a tensor of shape {:?} inside a value", tensor.spec.shape))?;
    let mut bytes = vec![0; byte_len as usize];
    if !bytes.is_empty() {
        let (shape, source) = (&tensor.spec.shape, &storage[tensor.byte_offset() as usize..]);
        copy_box(source, &tensor.strides, &mut bytes, &row_major(shape), shape, block_bytes);
    }
    Ok(bytes)
}

struct Decoder<'a> {
    pickle: &'a Pickle<'a>,
    object: &'a str,
    fetch: &'a mut dyn FnMut(&StoredTensor) -> Result<Vec<u8>>,
    nodes: usize,
}

impl Decoder<'_> {
    fn value(&mut self, id: NodeId, depth: usize) -> Result<Value> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            let why = format!("it nests over {DEPTH_MAX} deep or has over {NODES_MAX} parts");
            return Err(Error::malformed(self.object, "value", why));
        }
        Ok(match self.pickle.view(id) {
            View::None => Value::None,
            View::Bool(flag) => Value::Bool(flag),
            View::Int(int) => Value::Int(int),
            View::BigInt(bytes) => Value::BigInt(bytes.to_vec()),
            View::Float(float) => Value::Float(float),
            View::Str(text) => Value::Str(text.to_owned()),
            View::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            View::ByteArray(bytes) => Value::ByteArray(bytes.to_vec()),
            View::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            View::List(items) => Value::List(self.values(items, depth)?),
            View::Set(items) => Value::Set(self.values(items, depth)?),
            View::FrozenSet(_) => opaque("builtins", "frozenset"),
            View::Dict(pairs) => Value::Dict(self.pairs(pairs, depth)?),
            View::Global { module: "torch", name } if DType::from_torch_name(name).is_some() => {
                DType::from_torch_name(name).map_or(Value::None, Value::DType)
            }
            View::Global { module, name } => opaque(module, name),
            View::Persistent(_) => opaque("torch", "Storage"),
            View::Object(object) => self.object(id, object, depth)?,
        })
    }

    fn values(&mut self, items: &[NodeId], depth: usize) -> Result<Vec<Value>> {
        items.iter().map(|&item| self.value(item, depth + 1)).collect()
    }

    /// Pairs with distinct keys: a key that occurs again keeps its place and takes the later value, as a dict does.
    fn pairs(&mut self, pairs: &[[NodeId; 2]], depth: usize) -> Result<Vec<(Value, Value)>> {
        let mut decoded: indexmap::IndexMap<String, (Value, Value)> =
            indexmap::IndexMap::with_capacity(pairs.len());
        for &[key, value] in pairs {
            let (key, value) = (self.value(key, depth + 1)?, self.value(value, depth + 1)?);
            match decoded.entry(key.py_repr()) {
                indexmap::map::Entry::Occupied(mut old) => old.get_mut().1 = value,
                indexmap::map::Entry::Vacant(new) => {
                    new.insert((key, value));
                }
            }
        }
        Ok(decoded.into_values().collect())
    }

    fn object(&mut self, id: NodeId, object: Object, depth: usize) -> Result<Value> {
        let pickle = self.pickle;
        if let Some(tensor) = tensor_of(pickle, id) {
            let tensor = tensor.map_err(|why| Error::malformed(self.object, "tensor in a value", why))?;
            let bytes = (self.fetch)(&tensor)?;
            return Ok(Value::Tensor(InlineTensor { spec: tensor.spec, bytes }));
        }
        let Some((module, name)) = pickle.global(object.callee) else { return Ok(opaque("?", "?")) };
        let args = pickle.tuple(object.args).unwrap_or_default();
        let decoded = match (module, name, args) {
            ("collections", "OrderedDict", []) if object.items.is_empty() => {
                // A state dict's `_metadata` attribute is left behind, as loading a state dict does.
                Some(Value::OrderedDict(self.pairs(object.pairs, depth)?))
            }
            _ if !object.pairs.is_empty() || !object.items.is_empty() => None,
            ("torch", "Size", _) => pickle
                .shape(id)
                .and_then(|shape| {
                    shape.into_iter().map(|size| i64::try_from(size).ok()).collect::<Option<_>>()
                })
                .map(Value::Size),
            ("torch", "device", [kind]) => pickle.str(*kind).map(|kind| Value::Device(kind.to_owned())),
            ("torch", "device", [kind, index]) => pickle
                .str(*kind)
                .zip(pickle.int(*index))
                .map(|(kind, index)| Value::Device(format!("{kind}:{index}"))),
            ("_codecs", "encode", [text, codec]) => latin1(pickle, *text, *codec).map(Value::Bytes),
            ("builtins" | "__builtin__", "bytes", []) => Some(Value::Bytes(Vec::new())),
            ("builtins" | "__builtin__", "bytearray", []) => Some(Value::ByteArray(Vec::new())),
            ("builtins" | "__builtin__", "bytearray", [text, codec]) => {
                latin1(pickle, *text, *codec).map(Value::ByteArray)
            }
            ("builtins" | "__builtin__", "set", [items]) => match pickle.sequence(*items) {
                Some(items) => Some(Value::Set(self.values(items, depth)?)),
                None => None,
            },
            ("builtins" | "__builtin__", "set", []) => Some(Value::Set(Vec::new())),
            ("builtins" | "__builtin__", "complex", [re, im]) => match (pickle.view(*re), pickle.view(*im)) {
                (View::Float(re), View::Float(im)) => Some(Value::Complex(re, im)),
                _ => None,
            },
            ("numpy._core.multiarray" | "numpy.core.multiarray", "scalar", [dtype, data]) => {
                self.numpy_scalar(*dtype, *data)
            }
            ("numpy._core.multiarray" | "numpy.core.multiarray", "_reconstruct", _) => {
                self.numpy_array(object)
            }
            _ => None,
        };
        Ok(decoded.unwrap_or_else(|| opaque(module, name)))
    }

    fn bytes(&self, id: NodeId) -> Option<Vec<u8>> {
        match self.pickle.view(id) {
            View::Bytes(bytes) => Some(bytes.to_vec()),
            View::Object(object) if self.pickle.global(object.callee)? == ("_codecs", "encode") => {
                let [text, codec] = *self.pickle.tuple(object.args)? else { return None };
                latin1(self.pickle, text, codec)
            }
            View::Object(object) => {
                let (_, name) = self.pickle.global(object.callee)?;
                (name == "bytes" && self.pickle.tuple(object.args)?.is_empty()).then(Vec::new)
            }
            _ => None,
        }
    }

    /// numpy's dtype string, byte order included: `<f4`, `|b1`. Structured and object types are not decoded.
    fn numpy_dtype(&self, id: NodeId) -> Option<String> {
        let object = self.pickle.object(id)?;
        let ("numpy", "dtype") = self.pickle.global(object.callee)? else { return None };
        let code = self.pickle.str(*self.pickle.tuple(object.args)?.first()?)?;
        let order = self.pickle.str(*self.pickle.tuple(object.state?)?.get(1)?)?;
        let plain = matches!(
            code.as_bytes(),
            [b'b' | b'i' | b'u' | b'f' | b'c', b'1' | b'2' | b'4' | b'8'] | [b'c', b'1', b'6']
        );
        (plain && matches!(order, "<" | "|")).then(|| format!("{order}{code}"))
    }

    fn numpy_scalar(&self, dtype: NodeId, data: NodeId) -> Option<Value> {
        let (dtype, bytes) = (self.numpy_dtype(dtype)?, self.bytes(data)?);
        (item_bytes(&dtype) == Some(bytes.len() as u64)).then_some(Value::NumpyScalar { dtype, bytes })
    }

    /// `_reconstruct(ndarray, (0,), b'b')` with state `(1, shape, dtype, is_fortran, data)`.
    fn numpy_array(&self, object: Object) -> Option<Value> {
        let [_version, shape, dtype, fortran, data] = *self.pickle.tuple(object.state?)? else { return None };
        let (shape, dtype, bytes) = (self.pickle.shape(shape)?, self.numpy_dtype(dtype)?, self.bytes(data)?);
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
        let row_major = self.pickle.view(fortran) == View::Bool(false) || shape.len() < 2;
        let fits = elements.checked_mul(item_bytes(&dtype)?) == Some(bytes.len() as u64);
        (row_major && fits).then_some(Value::NumpyArray { dtype, shape, bytes })
    }
}

fn opaque(module: &str, name: &str) -> Value {
    Value::Opaque { global: format!("{module}.{name}") }
}

/// Bytes of one element of a numpy type such as `<f4`.
fn item_bytes(dtype: &str) -> Option<u64> {
    dtype.get(2..)?.parse().ok()
}

/// Protocol 2 spells bytes as a text of the characters 0 to 255.
fn latin1(pickle: &Pickle, text: NodeId, codec: NodeId) -> Option<Vec<u8>> {
    let ("latin1" | "latin-1") = pickle.str(codec)? else { return None };
    pickle.str(text)?.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect()
}

/// Encodes a value as an archive that `torch.load` reads, under `weights_only=True` for every type but numpy's.
///
/// Errors: in words, for opaque values and types that PyTorch does not have.
pub fn encode(value: &Value) -> Result<Vec<u8>, String> {
    let mut writer = PickleWriter::new();
    let mut storages = Vec::new();
    write_value(&mut writer, value, &mut |writer, tensor| {
        write_tensor(writer, &tensor.spec, &storages.len().to_string())?;
        storages.push(tensor.bytes.clone());
        Ok(())
    })?;
    let mut records = vec![record("data.pkl", writer.finish()), record("byteorder", b"little".to_vec())];
    records
        .extend(storages.into_iter().enumerate().map(|(key, bytes)| record(&format!("data/{key}"), bytes)));
    records.push(record("version", b"3\n".to_vec()));
    Ok(ZipLayout::new("archive", records).to_bytes())
}

fn record(name: &str, bytes: Vec<u8>) -> NewRecord {
    NewRecord { name: name.to_owned(), contents: Contents::Known(bytes), align_bytes: ALIGN_BYTES }
}

/// Writes a tensor that a value contains.
pub type WriteTensor<'a> = dyn FnMut(&mut PickleWriter, &InlineTensor) -> Result<(), String> + 'a;

/// Writes a value into a pickle.
///
/// Errors: in words, for opaque values and types that PyTorch does not have.
pub fn write_value(writer: &mut PickleWriter, value: &Value, tensor: &mut WriteTensor) -> Result<(), String> {
    let mut outcome = Ok(());
    // The writer's containers take closures that return nothing; the first error is kept beside them.
    let mut all = |writer: &mut PickleWriter, items: &mut dyn Iterator<Item = &Value>| {
        for item in items {
            if outcome.is_ok() {
                outcome = write_value(writer, item, tensor);
            }
        }
    };
    let flat = |pairs: &'_ [(Value, Value)]| {
        pairs.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect::<Vec<_>>()
    };
    match value {
        Value::None => writer.none(),
        Value::Bool(flag) => writer.bool(*flag),
        Value::Int(int) => writer.int(*int),
        Value::BigInt(bytes) => writer.big_int(bytes),
        Value::Float(float) => writer.float(*float),
        Value::Complex(re, im) => writer.call("__builtin__", "complex", 2, |writer| {
            writer.float(*re);
            writer.float(*im);
        }),
        Value::Str(text) => writer.str(text),
        Value::Bytes(bytes) => writer.bytes(bytes),
        Value::ByteArray(bytes) => writer.byte_array(bytes),
        Value::List(items) => writer.list(|writer| all(writer, &mut items.iter())),
        Value::Tuple(items) => writer.tuple(items.len(), |writer| all(writer, &mut items.iter())),
        Value::Set(items) => writer.call("__builtin__", "set", 1, |writer| {
            writer.list(|writer| all(writer, &mut items.iter()));
        }),
        Value::Dict(pairs) => writer.dict(|writer| all(writer, &mut flat(pairs).iter())),
        Value::OrderedDict(pairs) => {
            writer.call("collections", "OrderedDict", 0, |_| {});
            writer.set_items(|writer| all(writer, &mut flat(pairs).iter()));
        }
        Value::Size(sizes) => {
            let sizes: Vec<u64> = sizes.iter().map(|&size| size.max(0) as u64).collect();
            writer.size(&sizes);
        }
        Value::DType(dtype) => writer.global("torch", dtype.torch_name().ok_or(dtype.name())?),
        Value::Device(device) => write_device(writer, device),
        Value::Tensor(own) => return tensor(writer, own),
        Value::NumpyScalar { dtype, bytes } => writer.call("numpy._core.multiarray", "scalar", 2, |writer| {
            write_numpy_dtype(writer, dtype);
            writer.bytes(bytes);
        }),
        Value::NumpyArray { dtype, shape, bytes } => write_numpy_array(writer, dtype, shape, bytes),
        Value::Opaque { global } => return Err(format!("a value of type {global}")),
    }
    outcome
}

fn write_device(writer: &mut PickleWriter, device: &str) {
    match device.split_once(':').map(|(kind, index)| (kind, index.parse::<u64>())) {
        Some((kind, Ok(index))) => writer.call("torch", "device", 2, |writer| {
            writer.str(kind);
            writer.u64(index);
        }),
        _ => writer.call("torch", "device", 1, |writer| writer.str(device)),
    }
}

/// `numpy.dtype(code, False, True)` with state `(3, order, None, None, None, -1, -1, 0)`.
fn write_numpy_dtype(writer: &mut PickleWriter, dtype: &str) {
    let (order, code) = dtype.split_at(dtype.len().min(1));
    writer.call("numpy", "dtype", 3, |writer| {
        writer.str(code);
        writer.bool(false);
        writer.bool(true);
    });
    writer.build(|writer| {
        writer.tuple(8, |writer| {
            writer.int(3);
            writer.str(order);
            (0..3).for_each(|_| writer.none());
            writer.int(-1);
            writer.int(-1);
            writer.int(0);
        });
    });
}

fn write_numpy_array(writer: &mut PickleWriter, dtype: &str, shape: &[u64], bytes: &[u8]) {
    writer.call("numpy._core.multiarray", "_reconstruct", 3, |writer| {
        writer.global("numpy", "ndarray");
        writer.int_tuple(&[0]);
        writer.bytes(b"b");
    });
    writer.build(|writer| {
        writer.tuple(5, |writer| {
            writer.int(1);
            writer.int_tuple(shape);
            write_numpy_dtype(writer, dtype);
            writer.bool(false);
            writer.bytes(bytes);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TensorSpec;

    #[test]
    fn decodes_what_it_encodes() {
        let tensor =
            InlineTensor { spec: TensorSpec::new(DType::F32, [2]), bytes: vec![0, 0, 0, 0, 0, 0, 128, 63] };
        let dict =
            vec![(Value::Int(0), Value::Str("s".into())), (Value::Str("k".into()), Value::Float(-0.5))];
        for value in [
            Value::None,
            Value::BigInt(vec![0, 0, 0, 0, 0, 0, 0, 0, 1]),
            Value::Bytes(vec![]),
            Value::Bytes(vec![0, 1, 255]),
            Value::ByteArray(vec![200, 1]),
            Value::Complex(1.0, 2.0),
            Value::Tuple(vec![Value::Tensor(tensor.clone()), Value::Int(5), Value::Tensor(tensor)]),
            Value::List(vec![]),
            Value::Set(vec![Value::Int(3)]),
            Value::Dict(dict.clone()),
            Value::OrderedDict(dict),
            Value::Size(vec![2, 3]),
            Value::DType(DType::BF16),
            Value::Device("cuda:1".into()),
            Value::NumpyScalar { dtype: "<f4".into(), bytes: vec![0, 0, 192, 63] },
            Value::NumpyArray { dtype: "<i8".into(), shape: vec![1, 2], bytes: vec![1; 16] },
        ] {
            assert_eq!(decode(&encode(&value).unwrap(), "test").unwrap(), value);
        }
        assert!(encode(&Value::Opaque { global: "os.system".into() }).is_err());
    }

    #[test]
    fn classes_that_are_not_admitted_are_named_and_not_run() {
        let mut writer = PickleWriter::new();
        writer.call("os", "system", 1, |writer| writer.str("true"));
        let records = vec![record("data.pkl", writer.finish()), record("version", b"3\n".to_vec())];
        let bytes = ZipLayout::new("archive", records).to_bytes();
        assert_eq!(decode(&bytes, "test").unwrap(), Value::Opaque { global: "os.system".into() });
    }

    #[test]
    fn a_list_that_holds_itself_is_refused() {
        // EMPTY_LIST, memoised, appended to itself.
        let cyclic = b"\x80\x02]q\x00h\x00a.".to_vec();
        let bytes = ZipLayout::new("archive", vec![record("data.pkl", cyclic)]).to_bytes();
        assert!(matches!(decode(&bytes, "test"), Err(Error::Malformed { .. })));
    }
}
