//! Turns a pickle's graph into a [`Value`]: the types of PyTorch's restricted loader, and numpy's.
//!
//! What is of another type becomes [`Value::Opaque`] with its class's name. A graph may refer to one node many times
//! and to itself, while a value is a tree, so depth and total size are bounded.
//!
//! Source: `_get_allowed_globals` in `torch/_weights_only_unpickler.py` of PyTorch 2.11.

use super::numpy;
use super::pickle_nodes::{NodeId, Object, Pickle, View};
use super::tensor::{StoredTensor, TensorError, tensor_of};
use crate::error::{Error, Result};
use crate::layout::{copy_box, row_major};
use crate::model::{DType, InlineTensor, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// The deepest nesting of a value. CPython's pickler gives up at some 300 levels.
pub const VALUE_DEPTH_MAX: usize = 256;
/// The most memory that the values of one file may take, counting what is referred to twice as two.
const VALUE_BYTES_MAX: u64 = 4 << 30;
/// What the values of any file may take. Few bytes can stand for many: by references, and by expanded tensors.
const VALUE_BYTES_MIN: u64 = 64 << 20;
/// What values may take for each byte of the file. A small integer takes two bytes in a pickle, and a [`Value`] here.
const VALUE_BYTES_PER_BYTE: u64 = 64;

/// How much memory may still be taken by the values and names of a file.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    bytes: u64,
    bytes_left: u64,
}

impl Budget {
    /// For what is in a file of this length.
    pub fn of_file(byte_len: u64) -> Self {
        let bytes = VALUE_BYTES_MIN.saturating_add(byte_len.saturating_mul(VALUE_BYTES_PER_BYTE));
        let bytes = bytes.min(VALUE_BYTES_MAX);
        Budget { bytes, bytes_left: bytes }
    }

    /// Takes so many bytes for something in `object`.
    ///
    /// Errors: [`Error::OverLimit`] where fewer are left.
    pub fn take(&mut self, bytes: u64, object: &str) -> Result<()> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(Error::OverLimit {
                object: object.to_owned(),
                what: "the memory that its values need",
                found: (self.bytes - self.bytes_left).saturating_add(bytes),
                limit: self.bytes,
            }),
        }
    }
}

/// Gives the elements, row-major, of a tensor inside a value.
pub type ReadTensor<'r> = dyn FnMut(&StoredTensor) -> Result<Vec<u8>> + 'r;

/// Decodes the value at a node, taking its memory from `budget`. `object` names the pickle's file in errors.
///
/// Errors: [`Error::Malformed`] for nesting beyond [`VALUE_DEPTH_MAX`] and for tensors that leave their storage;
/// [`Error::OverLimit`] beyond the budget; what `read_tensor` gives.
pub fn value_of(
    pickle: &Pickle<'_>,
    id: NodeId,
    object: &str,
    budget: &mut Budget,
    read_tensor: &mut ReadTensor<'_>,
) -> Result<Value> {
    Decoder { pickle, object, read_tensor, budget }.value(id, 0)
}

/// Brings a tensor's elements to row-major order. `bytes` are those from its first to its last element in memory
/// order: [`StoredTensor::span_bytes`] of them.
pub fn in_row_major(stored: &StoredTensor, bytes: Vec<u8>) -> Vec<u8> {
    let Some(strides) = stored.unusual_strides() else { return bytes };
    let (shape, element_bytes) = (&stored.spec.shape, stored.spec.dtype.block_bytes() as usize);
    let mut ordered = vec![0; stored.spec.bytes().unwrap_or(0) as usize];
    copy_box(&bytes, &strides, &mut ordered, &row_major(shape), shape, element_bytes);
    ordered
}

/// The bytes of a `bytes` or `bytearray` node, or of the call that protocol 2 spells `bytes` with.
pub(super) fn bytes_of<'p>(pickle: &'p Pickle<'_>, id: NodeId) -> Option<Cow<'p, [u8]>> {
    match pickle.view(id) {
        View::Bytes(bytes) | View::ByteArray(bytes) => Some(Cow::Borrowed(bytes)),
        View::Object(object) => {
            let args = pickle.tuple(object.args)?;
            match (pickle.global(object.callee)?, args) {
                (("_codecs", "encode"), [text, codec])
                    if matches!(pickle.str(*codec), Some("latin1" | "latin-1")) =>
                {
                    latin1(pickle.str(*text)?).map(Cow::Owned)
                }
                (("builtins", "bytes"), []) => Some(Cow::Borrowed(&[])),
                _ => None,
            }
        }
        _ => None,
    }
}

fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|char| u8::try_from(char).ok()).collect()
}

struct Decoder<'a> {
    pickle: &'a Pickle<'a>,
    object: &'a str,
    read_tensor: &'a mut ReadTensor<'a>,
    budget: &'a mut Budget,
}

impl Decoder<'_> {
    fn value(&mut self, id: NodeId, depth: usize) -> Result<Value> {
        if depth > VALUE_DEPTH_MAX {
            let why = format!("it is nested deeper than {VALUE_DEPTH_MAX} levels, or holds itself");
            return Err(Error::malformed(self.object, "value", why));
        }
        self.charge(size_of::<Value>() as u64)?;
        let pickle = self.pickle;
        Ok(match pickle.view(id) {
            View::None => Value::None,
            View::Bool(flag) => Value::Bool(flag),
            View::Int(int) => Value::Int(int),
            View::BigInt(bytes) => Value::BigInt(self.charged(bytes)?.to_vec()),
            View::Float(float) => Value::Float(float),
            View::Str(text) => {
                self.charge(text.len() as u64)?;
                Value::Str(text.to_owned())
            }
            View::Bytes(bytes) => Value::Bytes(self.charged(bytes)?.to_vec()),
            View::ByteArray(bytes) => Value::ByteArray(self.charged(bytes)?.to_vec()),
            View::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            View::List(items) => Value::List(self.values(items, depth)?),
            View::Set(items) => Value::Set(self.values(items, depth)?),
            View::FrozenSet(_) => opaque("builtins", "frozenset"),
            View::Dict(pairs) => Value::Dict(self.pairs(pairs.iter().copied(), depth)?),
            View::Global { module: "torch", name } => match DType::from_torch_name(name) {
                Some(dtype) => Value::DType(dtype),
                None => opaque("torch", name),
            },
            View::Global { module, name } => opaque(module, name),
            View::Persistent(storage) => {
                let class = pickle.tuple(storage).and_then(|items| pickle.global(*items.get(1)?));
                class.map_or_else(|| opaque("torch", "Storage"), |(module, name)| opaque(module, name))
            }
            View::Object(object) => self.call(id, &object, depth)?,
        })
    }

    /// The result of a call: of an admitted class or function with the arguments it takes, else opaque.
    fn call(&mut self, id: NodeId, object: &Object<'_>, depth: usize) -> Result<Value> {
        let Some((module, name)) = self.pickle.global(object.callee) else {
            return Ok(opaque("builtins", "object"));
        };
        let known = match (module, name) {
            ("collections", "OrderedDict") => self.ordered_dict(object, depth)?,
            ("builtins", "set") => self.set(object, depth)?,
            ("torch._utils" | "torch._tensor", _) => self.tensor(id)?,
            _ => self.leaf(id, object, module, name)?,
        };
        Ok(known.unwrap_or_else(|| opaque(module, name)))
    }

    /// Calls whose arguments hold no further values.
    fn leaf(&mut self, id: NodeId, object: &Object<'_>, module: &str, name: &str) -> Result<Option<Value>> {
        let pickle = self.pickle;
        let args = pickle.tuple(object.args).unwrap_or_default();
        Ok(match (module, name, args) {
            ("torch", "Size", [sizes]) => match pickle.sequence(*sizes) {
                Some(sizes) => {
                    self.charge(sizes.len() as u64 * 8)?;
                    sizes.iter().map(|&size| pickle.int(size)).collect::<Option<_>>().map(Value::Size)
                }
                None => None,
            },
            ("torch", "device", [kind]) => pickle.str(*kind).map(|kind| Value::Device(kind.to_owned())),
            ("torch", "device", [kind, index]) => match (pickle.str(*kind), pickle.int(*index)) {
                (Some(kind), Some(index)) => Some(Value::Device(format!("{kind}:{index}"))),
                _ => None,
            },
            ("_codecs", "encode", [text, _]) | ("builtins", "bytearray", [text, _]) => {
                self.charge(pickle.str(*text).map_or(0, str::len) as u64)?;
                match name {
                    "encode" => bytes_of(pickle, id).map(|bytes| Value::Bytes(bytes.into_owned())),
                    _ => pickle.str(*text).and_then(latin1).map(Value::ByteArray),
                }
            }
            ("builtins", "bytes", []) => Some(Value::Bytes(Vec::new())),
            ("builtins", "bytearray", []) => Some(Value::ByteArray(Vec::new())),
            ("builtins", "bytearray", [bytes]) => {
                bytes_of(pickle, *bytes).map(|bytes| Value::ByteArray(bytes.into_owned()))
            }
            ("builtins", "complex", [real, imaginary]) => {
                match (pickle.view(*real), pickle.view(*imaginary)) {
                    (View::Float(real), View::Float(imaginary)) => Some(Value::Complex(real, imaginary)),
                    _ => None,
                }
            }
            _ => numpy::read(pickle, object),
        })
        .and_then(|value| match &value {
            Some(
                Value::NumpyArray { bytes, .. } | Value::NumpyScalar { bytes, .. } | Value::ByteArray(bytes),
            ) => self.charge(bytes.len() as u64).map(|()| value),
            _ => Ok(value),
        })
    }

    fn ordered_dict(&mut self, object: &Object<'_>, depth: usize) -> Result<Option<Value>> {
        let pickle = self.pickle;
        // Python 2 and protocol 0 give the items as an argument: a list of pairs.
        let given = match pickle.tuple(object.args) {
            Some([]) => &[],
            Some([items]) => pickle.sequence(*items).unwrap_or_default(),
            _ => return Ok(None),
        };
        let given: Option<Vec<[NodeId; 2]>> =
            given.iter().map(|pair| pickle.sequence(*pair)?.try_into().ok()).collect();
        let Some(given) = given else { return Ok(None) };
        let pairs = given.into_iter().chain(object.pairs.iter().copied());
        Ok(Some(Value::OrderedDict(self.pairs(pairs, depth)?)))
    }

    fn set(&mut self, object: &Object<'_>, depth: usize) -> Result<Option<Value>> {
        let items = match self.pickle.tuple(object.args) {
            Some([]) => &[],
            Some([items]) => match self.pickle.sequence(*items) {
                Some(items) => items,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let items: Vec<NodeId> = items.iter().chain(object.items).copied().collect();
        Ok(Some(Value::Set(self.values(&items, depth)?)))
    }

    fn tensor(&mut self, id: NodeId) -> Result<Option<Value>> {
        match tensor_of(self.pickle, id) {
            Some(Ok(stored)) => {
                // An expanded tensor has more elements than its storage has bytes.
                let bytes = stored.spec.bytes().unwrap_or(u64::MAX);
                self.charge(bytes.saturating_add(stored.span_bytes()))?;
                let bytes = (self.read_tensor)(&stored)?;
                Ok(Some(Value::Tensor(InlineTensor { spec: stored.spec, bytes })))
            }
            Some(Err(TensorError::Unsupported(global))) => Ok(Some(Value::Opaque { global })),
            Some(Err(TensorError::Invalid(why))) => {
                Err(Error::malformed(self.object, "tensor in a value", why))
            }
            None => Ok(None),
        }
    }

    fn values(&mut self, items: &[NodeId], depth: usize) -> Result<Vec<Value>> {
        items.iter().map(|&item| self.value(item, depth + 1)).collect()
    }

    /// Keys and values; of two equal string keys, the first gives the place and the last the value, as in Python.
    fn pairs(
        &mut self,
        pairs: impl Iterator<Item = [NodeId; 2]>,
        depth: usize,
    ) -> Result<Vec<(Value, Value)>> {
        let mut decoded: Vec<(Value, Value)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        let pickle = self.pickle;
        for [key, value] in pairs {
            let value = self.value(value, depth + 1)?;
            let seen = pickle.str(key).and_then(|key| places.insert(key, decoded.len()).map(|at| (key, at)));
            if let Some((key, at)) = seen {
                places.insert(key, at);
                decoded[at].1 = value;
            } else {
                decoded.push((self.value(key, depth + 1)?, value));
            }
        }
        Ok(decoded)
    }

    fn charged<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8]> {
        self.charge(bytes.len() as u64).map(|()| bytes)
    }

    fn charge(&mut self, bytes: u64) -> Result<()> {
        self.budget.take(bytes, self.object)
    }
}

fn opaque(module: &str, name: &str) -> Value {
    Value::Opaque { global: format!("{module}.{name}") }
}
