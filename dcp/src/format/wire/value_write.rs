//! Writes a [`Value`] as a pickle that `torch.load(weights_only=True)` admits, where its type allows.

use super::numpy;
use super::pickle_write::PickleWriter;
use crate::model::{InlineTensor, Value};

/// Writes a tensor that a value contains.
pub type WriteTensor<'w> = dyn FnMut(&mut PickleWriter, &InlineTensor) -> Result<(), String> + 'w;

/// Writes a value.
///
/// Errors: in words, for opaque values and for types that PyTorch or numpy does not have.
pub fn write_value(
    writer: &mut PickleWriter,
    value: &Value,
    tensor: &mut WriteTensor<'_>,
) -> Result<(), String> {
    match value {
        Value::None => writer.none(),
        Value::Bool(flag) => writer.bool(*flag),
        Value::Int(int) => writer.int(*int),
        Value::BigInt(bytes) => writer.big_int(bytes),
        Value::Float(float) => writer.float(*float),
        Value::Complex(real, imaginary) => writer.call("__builtin__", "complex", 2, |writer| {
            writer.float(*real);
            writer.float(*imaginary);
        }),
        Value::Str(text) => writer.str(text),
        Value::Bytes(bytes) => writer.bytes(bytes),
        Value::ByteArray(bytes) => writer.byte_array(bytes),
        Value::Size(sizes) => writer.call("torch", "Size", 1, |writer| {
            writer.tuple(sizes.len(), |writer| sizes.iter().for_each(|&size| writer.int(size)));
        }),
        Value::Device(device) => write_device(writer, device),
        Value::DType(dtype) => match dtype.torch_name() {
            Some(name) => writer.global("torch", name),
            None => return Err(format!("PyTorch has no element type {dtype}")),
        },
        Value::NumpyScalar { dtype, bytes } => {
            if !numpy::write(writer, dtype, None, bytes) {
                return Err(format!("a numpy scalar of type {dtype}"));
            }
        }
        Value::NumpyArray { dtype, shape, bytes } => {
            if !numpy::write(writer, dtype, Some(shape), bytes) {
                return Err(format!("a numpy array of type {dtype}"));
            }
        }
        Value::Tensor(inline) => tensor(writer, inline)?,
        Value::Opaque { global } => return Err(format!("a value of {global}, which is carried unread")),
        Value::List(_) | Value::Tuple(_) | Value::Set(_) | Value::Dict(_) | Value::OrderedDict(_) => {
            return write_container(writer, value, tensor);
        }
    }
    Ok(())
}

fn write_container(
    writer: &mut PickleWriter,
    value: &Value,
    tensor: &mut WriteTensor<'_>,
) -> Result<(), String> {
    // The writer's containers take closures that return nothing; the first error is kept beside them.
    let mut outcome = Ok(());
    let mut items = |writer: &mut PickleWriter, items: &[Value]| {
        for item in items {
            if outcome.is_ok() {
                outcome = write_value(writer, item, tensor);
            }
        }
    };
    match value {
        Value::List(list) => writer.list(|writer| items(writer, list)),
        Value::Tuple(tuple) => writer.tuple(tuple.len(), |writer| items(writer, tuple)),
        Value::Set(set) => {
            writer.call("__builtin__", "set", 1, |writer| writer.list(|writer| items(writer, set)));
        }
        Value::Dict(pairs) | Value::OrderedDict(pairs) => {
            let fill = |writer: &mut PickleWriter| {
                for (key, value) in pairs {
                    match key {
                        Value::Str(key) => writer.key(key),
                        key => items(writer, std::slice::from_ref(key)),
                    }
                    items(writer, std::slice::from_ref(value));
                }
            };
            if let Value::OrderedDict(_) = value {
                writer.call("collections", "OrderedDict", 0, |_| {});
                writer.set_items(fill);
            } else {
                writer.dict(fill);
            }
        }
        _ => {}
    }
    outcome
}

/// `torch.device('cuda', 0)` for `cuda:0`, as PyTorch pickles it.
fn write_device(writer: &mut PickleWriter, device: &str) {
    match device.split_once(':').and_then(|(kind, index)| Some((kind, index.parse::<u16>().ok()?))) {
        Some((kind, index)) => writer.call("torch", "device", 2, |writer| {
            writer.str(kind);
            writer.int(index.into());
        }),
        None => writer.call("torch", "device", 1, |writer| writer.str(device)),
    }
}
