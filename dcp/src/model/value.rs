//! Values that are not top-level tensors: steps, learning rates, data-loader state.

use super::{DType, TensorSpec};

/// A value decoded from a checkpoint without running anything.
///
/// The variants are the Python types that PyTorch's restricted loader admits, plus numpy scalars and arrays. What is
/// none of them is [`Value::Opaque`] and is carried verbatim.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` that fits 64 bits.
    Int(i64),
    /// `int` of any size: two's complement, little-endian, as pickle's LONG1 stores it.
    BigInt(Vec<u8>),
    /// `float`.
    Float(f64),
    /// `complex`.
    Complex(f64, f64),
    /// `str`.
    Str(String),
    /// `bytes`.
    Bytes(Vec<u8>),
    /// `bytearray`.
    ByteArray(Vec<u8>),
    /// `list`.
    List(Vec<Value>),
    /// `tuple`.
    Tuple(Vec<Value>),
    /// `set`, in stored order.
    Set(Vec<Value>),
    /// `dict`, in insertion order; keys may be any hashable value.
    Dict(Vec<(Value, Value)>),
    /// `collections.OrderedDict`.
    OrderedDict(Vec<(Value, Value)>),
    /// `torch.Size`.
    Size(Vec<i64>),
    /// `torch.dtype`.
    DType(DType),
    /// `torch.device`, such as `cpu` or `cuda:0`.
    Device(String),
    /// A tensor inside a tuple or another leaf that PyTorch pickles whole.
    Tensor(InlineTensor),
    /// A numpy scalar: numpy's dtype string (`<f4`) and its bytes.
    NumpyScalar {
        /// numpy's dtype string, such as `<f4` or `|b1`.
        dtype: String,
        /// The element's bytes.
        bytes: Vec<u8>,
    },
    /// A numpy array in row-major order.
    NumpyArray {
        /// numpy's dtype string, such as `<f4` or `|b1`.
        dtype: String,
        /// Shape in elements.
        shape: Vec<u64>,
        /// The elements, row-major.
        bytes: Vec<u8>,
    },
    /// A value whose type is not admitted; `global` names the first class or function that was refused.
    Opaque {
        /// `module.name` of what was refused.
        global: String,
    },
}

/// A small tensor held in memory as part of a [`Value`].
#[derive(Clone, PartialEq, Debug)]
pub struct InlineTensor {
    /// Element type and shape.
    pub spec: TensorSpec,
    /// The elements, row-major.
    pub bytes: Vec<u8>,
}

impl Value {
    /// Whether the value, anywhere inside, is [`Value::Opaque`].
    pub fn is_opaque(&self) -> bool {
        match self {
            Value::Opaque { .. } => true,
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                items.iter().any(Value::is_opaque)
            }
            Value::Dict(pairs) | Value::OrderedDict(pairs) => {
                pairs.iter().any(|(key, value)| key.is_opaque() || value.is_opaque())
            }
            _ => false,
        }
    }
}
