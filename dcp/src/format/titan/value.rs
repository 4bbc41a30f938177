//! Values as JSON.
//!
//! `null`, booleans, integers, strings and lists are themselves. Everything else is an object of one key:
//! `{"$float": "3ff0000000000000"}` (the bits), `{"$tuple": [...]}`, `{"$dict": [[KEY, VALUE], ...]}`,
//! `{"$ordered_dict": ...}`, and `{"$archive": BASE64}`, a `torch.save` archive byte for byte.

use super::json::Hex64;
use crate::model::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

/// Most levels of nesting.
const DEPTH_MAX: u32 = 48;

/// The JSON of a value: of its archive where there is one. `None` where it cannot be written.
pub(super) fn encode(value: &Value, archive: Option<&[u8]>) -> Option<Json> {
    match archive {
        Some(archive) => Some(json!({ "$archive": STANDARD.encode(archive) })),
        None => encode_at(value, 0),
    }
}

fn encode_at(value: &Value, depth: u32) -> Option<Json> {
    if depth > DEPTH_MAX {
        return None;
    }
    let list =
        |items: &[Value]| items.iter().map(|item| encode_at(item, depth + 1)).collect::<Option<Json>>();
    let pairs = |items: &[(Value, Value)]| {
        let pair = |(key, value)| Some(json!([encode_at(key, depth + 1)?, encode_at(value, depth + 1)?]));
        items.iter().map(|(key, value)| pair((key, value))).collect::<Option<Json>>()
    };
    Some(match value {
        Value::None => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!({ "$float": Hex64(value.to_bits()) }),
        Value::Str(value) => json!(value),
        Value::List(items) => list(items)?,
        Value::Tuple(items) => json!({ "$tuple": list(items)? }),
        Value::Dict(items) => json!({ "$dict": pairs(items)? }),
        Value::OrderedDict(items) => json!({ "$ordered_dict": pairs(items)? }),
        _ => return None,
    })
}

/// The archive that a value's JSON carries.
pub(super) fn archive(json: &Json) -> Result<Option<Vec<u8>>, String> {
    match json.get("$archive") {
        Some(Json::String(text)) => STANDARD.decode(text).map(Some).map_err(|error| error.to_string()),
        Some(_) => Err("`$archive` is not a string".to_owned()),
        None => Ok(None),
    }
}

/// Reads a value; the error says what is wrong. The depth is bounded by the JSON parser's.
pub(super) fn decode(json: &Json) -> Result<Value, String> {
    let list = |items: &[Json]| items.iter().map(decode).collect::<Result<Vec<_>, _>>();
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(value) => Value::Int(value.as_i64().ok_or_else(|| format!("{value} is no i64"))?),
        Json::String(value) => Value::Str(value.clone()),
        Json::Array(items) => Value::List(list(items)?),
        Json::Object(map) => match map.iter().next().filter(|_| map.len() == 1) {
            Some((key, Json::String(bits))) if key == "$float" => {
                let Hex64(bits) = Hex64::parse(bits).ok_or_else(|| format!("{bits:?} is no float"))?;
                Value::Float(f64::from_bits(bits))
            }
            Some((key, Json::Array(items))) if key == "$tuple" => Value::Tuple(list(items)?),
            Some((key, Json::Array(items))) if key == "$dict" => Value::Dict(pairs(items)?),
            Some((key, Json::Array(items))) if key == "$ordered_dict" => Value::OrderedDict(pairs(items)?),
            _ => return Err("an object that is no known kind of value".to_owned()),
        },
    })
}

fn pairs(items: &[Json]) -> Result<Vec<(Value, Value)>, String> {
    let pair = |item: &Json| match item.as_array().map(Vec::as_slice) {
        Some([key, value]) => Ok((decode(key)?, decode(value)?)),
        _ => Err("a dict's item is not a pair".to_owned()),
    };
    items.iter().map(pair).collect()
}
