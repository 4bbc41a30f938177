//! Values in a manifest: JSON, or the `torch.save` archive they came in where JSON cannot hold them.

use crate::error::{Error, Result};
use crate::format::TargetValue;
use crate::format::wire::{archive, value_json};
use crate::model::{Fqn, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A value that is carried as it came.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    /// The archive in base64.
    #[serde(rename = "$archive")]
    archive: String,
}

/// The JSON of a value: its own, unless it is opaque or nests too deep; then its archive.
///
/// Errors: [`Error::Inexpressible`] where there is no archive to carry.
pub(crate) fn encode(value: &TargetValue) -> Result<Box<RawValue>> {
    let json = match (value_json::encode(&value.value), &value.archive) {
        (Ok(json), _) => json,
        (Err(_), Some(archive)) => carried(archive),
        (Err(why), None) => match archive::encode(&value.value) {
            Ok(archive) => carried(&archive),
            Err(_) => {
                return Err(Error::Inexpressible {
                    format: super::FORMAT_NAME,
                    what: "a value",
                    names: format!("`{}` ({why})", value.fqn),
                    hint: "leave it out with --exclude",
                });
            }
        },
    };
    RawValue::from_string(json)
        .map_err(|error| Error::BadTensor { fqn: value.fqn.as_str().to_owned(), message: error.to_string() })
}

fn carried(archive: &[u8]) -> String {
    format!(r#"{{"$archive":"{}"}}"#, STANDARD.encode(archive))
}

/// The archive that a value is carried in; `None` for one that is JSON.
///
/// Errors: [`Error::Malformed`] of `object`, the manifest.
pub(crate) fn archive_of(object: &str, fqn: &Fqn, json: &RawValue) -> Result<Option<Vec<u8>>> {
    let Ok(Carried { archive }) = serde_json::from_str(json.get()) else { return Ok(None) };
    STANDARD.decode(archive).map(Some).map_err(|error| malformed(object, fqn, error))
}

/// Decodes a value.
///
/// Errors: [`Error::Malformed`] of `object`, the manifest.
pub(crate) fn decode(object: &str, fqn: &Fqn, json: &RawValue) -> Result<Value> {
    match archive_of(object, fqn, json)? {
        Some(archive) => archive::decode(&archive, &format!("{object}: value {fqn}")),
        None => value_json::decode(json.get()).map_err(|why| malformed(object, fqn, why)),
    }
}

fn malformed(object: &str, fqn: &Fqn, why: impl std::fmt::Display) -> Error {
    Error::malformed(object, "titan manifest", format!("value {:?}: {why}", fqn.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(value: Value, archive: Option<Vec<u8>>) -> TargetValue {
        TargetValue { fqn: "x".into(), path: vec![], value, archive, writer: 0 }
    }

    #[test]
    fn archives_are_carried_only_where_json_cannot_hold_the_value() {
        let json = |target: &TargetValue| encode(target).unwrap();
        let plain = json(&target(Value::Int(3), Some(vec![1, 2])));
        assert_eq!(plain.get(), "3");
        assert_eq!(archive_of("m", &"x".into(), &plain).unwrap(), None);

        let opaque = Value::Opaque { global: "my.Class".to_owned() };
        let carried = json(&target(opaque.clone(), Some(b"PK".to_vec())));
        assert_eq!(archive_of("m", &"x".into(), &carried).unwrap().unwrap(), b"PK");
        assert!(matches!(decode("m", &"x".into(), &carried), Err(Error::Malformed { .. })));
        assert!(matches!(encode(&target(opaque, None)), Err(Error::Inexpressible { .. })));

        let nested = |levels| (0..levels).fold(Value::None, |inner, _| Value::List(vec![inner]));
        let carried = json(&target(nested(200), None));
        assert_eq!(decode("m", &"x".into(), &carried).unwrap(), nested(200));
        // Deeper than an archive is decoded: refused when it is written, not when it is read.
        assert!(matches!(encode(&target(nested(300), None)), Err(Error::Inexpressible { .. })));
    }
}
