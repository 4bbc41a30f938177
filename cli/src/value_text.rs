//! Values as people and programs read them.

use dcp::model::Value;
use serde_json::json;

/// A value the way Python prints it, cut to about `chars_max` characters.
pub(crate) fn short(value: &Value, chars_max: usize) -> String {
    let text = crate::ui::printable(&repr(value));
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A value the way Python prints it.
pub(crate) fn repr(value: &Value) -> String {
    let all = |items: &[Value]| items.iter().map(repr).collect::<Vec<_>>().join(", ");
    let pairs = |pairs: &[(Value, Value)]| {
        let pairs: Vec<_> =
            pairs.iter().map(|(key, value)| format!("{}: {}", repr(key), repr(value))).collect();
        format!("{{{}}}", pairs.join(", "))
    };
    match value {
        Value::None => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::BigInt(bytes) => format!("int of {} bytes", bytes.len()),
        Value::Float(number) => format!("{number:?}"),
        Value::Complex(re, im) => format!("({re:?}{im:+?}j)"),
        Value::Str(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        Value::Bytes(bytes) => format!("bytes of {} B", bytes.len()),
        Value::ByteArray(bytes) => format!("bytearray of {} B", bytes.len()),
        Value::List(items) => format!("[{}]", all(items)),
        Value::Tuple(items) if items.len() == 1 => format!("({},)", all(items)),
        Value::Tuple(items) => format!("({})", all(items)),
        Value::Set(items) if items.is_empty() => "set()".to_owned(),
        Value::Set(items) => format!("{{{}}}", all(items)),
        Value::Dict(items) => pairs(items),
        Value::OrderedDict(items) => format!("OrderedDict({})", pairs(items)),
        Value::Size(dims) => format!("torch.Size({dims:?})"),
        Value::DType(dtype) => format!("torch.{dtype}"),
        Value::Device(device) => format!("device('{device}')"),
        Value::Tensor(tensor) => format!("tensor({}, shape={:?})", tensor.spec.dtype, tensor.spec.shape),
        Value::NumpyScalar { dtype, .. } => format!("numpy scalar of dtype {dtype}"),
        Value::NumpyArray { dtype, shape, .. } => format!("numpy array of dtype {dtype}, shape {shape:?}"),
        Value::Opaque { global } => format!("<object of {global}, carried verbatim>"),
    }
}

/// A value as JSON: what JSON has is itself, anything else is the text that Python prints.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::None => json!(null),
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::Float(number) if number.is_finite() => json!(number),
        Value::Str(text) => json!(text),
        Value::List(items) | Value::Tuple(items) => items.iter().map(to_json).collect(),
        Value::Dict(pairs) | Value::OrderedDict(pairs) => {
            let key = |key: &Value| match key {
                Value::Str(text) => text.clone(),
                other => repr(other),
            };
            pairs
                .iter()
                .map(|(name, value)| (key(name), to_json(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        other => json!(repr(other)),
    }
}
