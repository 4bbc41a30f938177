//! Values in the manifest: as JSON where that loses nothing, else as the `torch.save` archive they came in,
//! `{"$archive": BASE64}`.

use crate::format::wire::{archive, value_json};
use crate::model::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

/// The JSON of a value. `None` where it cannot be written: an opaque value that came without an archive.
pub(super) fn encode(value: &Value, archive: Option<&[u8]>) -> Option<Json> {
    value_json::to_json(value).or_else(|| Some(json!({ "$archive": STANDARD.encode(archive?) })))
}

/// The archive that a value's JSON carries.
pub(super) fn archive(json: &Json) -> Result<Option<Vec<u8>>, String> {
    match json.get("$archive") {
        Some(Json::String(text)) => STANDARD.decode(text).map(Some).map_err(|error| error.to_string()),
        Some(_) => Err("`$archive` is not a string".to_owned()),
        None => Ok(None),
    }
}

/// Reads a value; the error says what is wrong.
pub(super) fn decode(json: &Json) -> Result<Value, String> {
    match archive(json)? {
        Some(bytes) => archive::decode(&bytes, "its archive").map_err(|error| error.to_string()),
        None => value_json::from_json(json),
    }
}
