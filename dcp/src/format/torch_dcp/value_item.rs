//! The item of a value: its archive as it was stored, or a new one.

use crate::error::{Error, Result};
use crate::format::TargetValue;
use crate::format::wire::pickle_write::PickleWriter;
use crate::format::wire::zip_write::{ALIGN_BYTES, Contents, NewRecord, ZipLayout};
use crate::model::Value;

/// Whether a value can be written without an archive to carry.
pub(super) fn can_hold(value: &Value) -> bool {
    use Value::*;
    matches!(value, None | Bool(_) | Int(_) | BigInt(_) | Float(_) | Str(_) | Bytes(_) | ByteArray(_))
}

/// The archive to store.
///
/// Errors: [`Error::Inexpressible`] for a value without archive that [`can_hold`] refuses.
pub(super) fn archive(value: &TargetValue) -> Result<Vec<u8>> {
    if let Some(archive) = &value.archive {
        return Ok(archive.clone());
    }
    let mut writer = PickleWriter::new();
    match &value.value {
        Value::None => writer.none(),
        Value::Bool(flag) => writer.bool(*flag),
        Value::Int(int) => writer.int(*int),
        Value::BigInt(bytes) => writer.big_int(bytes),
        Value::Float(float) => writer.float(*float),
        Value::Str(text) => writer.str(text),
        Value::Bytes(bytes) => writer.bytes(bytes),
        Value::ByteArray(bytes) => writer.byte_array(bytes),
        _ => {
            return Err(Error::Inexpressible {
                format: super::NAME,
                what: "this value",
                names: format!("`{}`", value.fqn),
                hint: "leave it out with --exclude",
            });
        }
    }
    let record = |name: &str, bytes: Vec<u8>| NewRecord {
        name: name.to_owned(),
        contents: Contents::Known(bytes),
        align_bytes: ALIGN_BYTES,
    };
    let records = vec![
        record("data.pkl", writer.finish()),
        record("byteorder", b"little".to_vec()),
        record("version", b"3\n".to_vec()),
    ];
    Ok(ZipLayout::new("archive", records).to_bytes())
}
