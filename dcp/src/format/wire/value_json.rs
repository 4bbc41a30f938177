//! Values as JSON, without loss.
//!
//! `null`, booleans, integers of 64 bits, text and lists are themselves. Everything else is an object of one key that
//! tells the type: `{"$float": "0.001"}` (the shortest text that reads back as the same number), `{"$tuple": [...]}`,
//! `{"$dict": [[KEY, VALUE], ...]}` (in order; keys are values), `{"$bytes": BASE64}`, ... Plain objects do not occur,
//! so that no key can be mistaken for a type.

use crate::model::{DType, InlineTensor, TensorSpec, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

/// Most levels of nesting, of Python values. A dict takes three levels of JSON, and JSON parsers stop at 128.
const DEPTH_MAX: u32 = 36;

/// The JSON of a value. `None` for an opaque value, or one nested too deep.
pub fn to_json(value: &Value) -> Option<Json> {
    encode(value, 0)
}

fn encode(value: &Value, depth: u32) -> Option<Json> {
    if depth > DEPTH_MAX {
        return None;
    }
    let list = |items: &[Value]| items.iter().map(|item| encode(item, depth + 1)).collect::<Option<Json>>();
    let pairs = |items: &[(Value, Value)]| {
        let pair =
            |(key, value): &(Value, Value)| Some(json!([encode(key, depth + 1)?, encode(value, depth + 1)?]));
        items.iter().map(pair).collect::<Option<Json>>()
    };
    Some(match value {
        Value::None => Json::Null,
        Value::Bool(flag) => json!(flag),
        Value::Int(int) => json!(int),
        Value::Str(text) => json!(text),
        Value::List(items) => list(items)?,
        Value::BigInt(bytes) => json!({ "$int": STANDARD.encode(bytes) }),
        Value::Float(float) => json!({ "$float": float_text(*float) }),
        Value::Complex(re, im) => json!({ "$complex": [float_text(*re), float_text(*im)] }),
        Value::Bytes(bytes) => json!({ "$bytes": STANDARD.encode(bytes) }),
        Value::ByteArray(bytes) => json!({ "$bytearray": STANDARD.encode(bytes) }),
        Value::Tuple(items) => json!({ "$tuple": list(items)? }),
        Value::Set(items) => json!({ "$set": list(items)? }),
        Value::Dict(items) => json!({ "$dict": pairs(items)? }),
        Value::OrderedDict(items) => json!({ "$ordered_dict": pairs(items)? }),
        Value::Size(sizes) => json!({ "$size": sizes }),
        Value::DType(dtype) => json!({ "$dtype": dtype.name() }),
        Value::Device(device) => json!({ "$device": device }),
        Value::Tensor(InlineTensor { spec, bytes }) => {
            json!({ "$tensor": [spec.dtype.name(), spec.shape, STANDARD.encode(bytes)] })
        }
        Value::NumpyScalar { dtype, bytes } => json!({ "$numpy_scalar": [dtype, STANDARD.encode(bytes)] }),
        Value::NumpyArray { dtype, shape, bytes } => {
            json!({ "$numpy_array": [dtype, shape, STANDARD.encode(bytes)] })
        }
        Value::Opaque { .. } => return None,
    })
}

/// The shortest text that reads back as the same number.
fn float_text(float: f64) -> String {
    format!("{float:?}")
}

/// Reads a value that [`to_json`] wrote. The depth is bounded by the JSON parser's.
///
/// Errors: in words, what is wrong.
pub fn from_json(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => Value::Int(number.as_i64().ok_or_else(|| format!("{number} is no i64"))?),
        Json::String(text) => Value::Str(text.clone()),
        Json::Array(items) => Value::List(list(items)?),
        Json::Object(map) => match map.iter().next() {
            Some((tag, body)) if map.len() == 1 => tagged(tag, body)?,
            _ => return Err("an object of other than one key".to_owned()),
        },
    })
}

fn tagged(tag: &str, body: &Json) -> Result<Value, String> {
    let wrong = || format!("`{tag}` with {body}");
    Ok(match (tag, body) {
        ("$int", body) => Value::BigInt(bytes(body)?),
        ("$float", body) => Value::Float(float(body)?),
        ("$bytes", body) => Value::Bytes(bytes(body)?),
        ("$bytearray", body) => Value::ByteArray(bytes(body)?),
        ("$device", Json::String(device)) => Value::Device(device.clone()),
        ("$dtype", Json::String(name)) => Value::DType(DType::from_name(name).ok_or_else(wrong)?),
        ("$tuple", Json::Array(items)) => Value::Tuple(list(items)?),
        ("$set", Json::Array(items)) => Value::Set(list(items)?),
        ("$dict", Json::Array(items)) => Value::Dict(pairs(items)?),
        ("$ordered_dict", Json::Array(items)) => Value::OrderedDict(pairs(items)?),
        ("$size", Json::Array(items)) => {
            Value::Size(items.iter().map(Json::as_i64).collect::<Option<_>>().ok_or_else(wrong)?)
        }
        ("$complex", Json::Array(items)) => match items.as_slice() {
            [re, im] => Value::Complex(float(re)?, float(im)?),
            _ => return Err(wrong()),
        },
        ("$tensor", Json::Array(items)) => match items.as_slice() {
            [Json::String(dtype), dims, data] => {
                let dtype = DType::from_name(dtype).ok_or_else(wrong)?;
                let (spec, bytes) = (TensorSpec::new(dtype, shape(dims).ok_or_else(wrong)?), bytes(data)?);
                if spec.bytes() != Some(bytes.len() as u64) {
                    return Err(format!("a tensor {dtype} {:?} of {} bytes", spec.shape, bytes.len()));
                }
                Value::Tensor(InlineTensor { spec, bytes })
            }
            _ => return Err(wrong()),
        },
        ("$numpy_scalar", Json::Array(items)) => match items.as_slice() {
            [Json::String(dtype), data] => Value::NumpyScalar { dtype: dtype.clone(), bytes: bytes(data)? },
            _ => return Err(wrong()),
        },
        ("$numpy_array", Json::Array(items)) => match items.as_slice() {
            [Json::String(dtype), dims, data] => {
                let shape = shape(dims).ok_or_else(wrong)?;
                Value::NumpyArray { dtype: dtype.clone(), shape, bytes: bytes(data)? }
            }
            _ => return Err(wrong()),
        },
        _ => return Err(format!("`{tag}` is no known kind of value")),
    })
}

fn list(items: &[Json]) -> Result<Vec<Value>, String> {
    items.iter().map(from_json).collect()
}

fn pairs(items: &[Json]) -> Result<Vec<(Value, Value)>, String> {
    let pair = |item: &Json| match item.as_array().map(Vec::as_slice) {
        Some([key, value]) => Ok((from_json(key)?, from_json(value)?)),
        _ => Err("a dict's item is not a pair".to_owned()),
    };
    items.iter().map(pair).collect()
}

fn shape(json: &Json) -> Option<Vec<u64>> {
    json.as_array()?.iter().map(Json::as_u64).collect()
}

fn bytes(json: &Json) -> Result<Vec<u8>, String> {
    let text = json.as_str().ok_or_else(|| format!("{json} is not base64 text"))?;
    STANDARD.decode(text).map_err(|error| error.to_string())
}

fn float(json: &Json) -> Result<f64, String> {
    json.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("{json} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            prop::num::f64::NORMAL.prop_map(Value::Float),
            Just(Value::Float(-0.0)),
            Just(Value::Float(f64::INFINITY)),
            (prop::num::f64::NORMAL, prop::num::f64::NORMAL).prop_map(|(re, im)| Value::Complex(re, im)),
            ".*".prop_map(Value::Str),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
            prop::collection::vec(any::<u8>(), 9..12).prop_map(Value::BigInt),
            prop::collection::vec(0i64..9, 0..3).prop_map(Value::Size),
            Just(Value::DType(DType::BF16)),
            Just(Value::Device("cuda:0".to_owned())),
            Just(Value::Tensor(InlineTensor {
                spec: TensorSpec::new(DType::I16, [2]),
                bytes: vec![1, 2, 3, 4]
            })),
            Just(Value::NumpyScalar { dtype: "<f4".to_owned(), bytes: vec![0; 4] }),
            Just(Value::NumpyArray { dtype: "|b1".to_owned(), shape: vec![2], bytes: vec![0, 1] }),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            let pair = (inner.clone(), inner.clone());
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Tuple),
                prop::collection::vec(inner, 0..4).prop_map(Value::Set),
                prop::collection::vec(pair.clone(), 0..3).prop_map(Value::Dict),
                prop::collection::vec(pair, 0..3).prop_map(Value::OrderedDict),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(value in values()) {
            let text = to_json(&value).unwrap().to_string();
            prop_assert_eq!(from_json(&serde_json::from_str(&text).unwrap()).unwrap(), value);
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for json in [
            json!({}),
            json!({"a": 1}),
            json!({"$tuple": 1}),
            json!({"$float": "x"}),
            json!({"$tensor": ["float32", [u64::MAX, 2], ""]}),
            json!({"$dict": [[1]]}),
            json!(1.5),
        ] {
            assert!(from_json(&json).is_err(), "{json}");
        }
        assert_eq!(to_json(&Value::Opaque { global: "a.B".to_owned() }), None);
        let deep = (0..100).fold(Value::None, |inner, _| Value::List(vec![inner]));
        assert_eq!(to_json(&deep), None);
    }
}
