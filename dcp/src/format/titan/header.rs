//! The safetensors header of a shard.
//!
//! ```text
//! u64 LE N | N bytes of JSON, padded with spaces so that 8 + N is a multiple of 4096 | tensor data
//! ```
//!
//! The JSON maps entry names to `dtype`, `shape` (the box's extent) and `data_offsets`, in order of offset, with
//! `__metadata__` first:
//!
//! * An entry is named by its tensor's FQN, or by `FQN@K` for box K (from 0) of that tensor in this writer's objects.
//!   The suffix is left out for box 0, unless the FQN itself is `__metadata__`, starts with `__titan_pad.` or ends in
//!   `@` and digits. So a name that ends in `@` and digits always has a suffix to strip, and no other does.
//! * Padding is stored as entries `__titan_pad.N` of type U8, N from 0, since safetensors allows no holes.
//! * Types that safetensors lacks are stored as ones it has: complex32 as F16 and complex128 as F64 with one more dim
//!   of 2, float4_e2m1fn_x2 as U8.
//! * `__metadata__`: `format` is `pt`; `titan.version` and `titan.attempt` tie the shard to its manifest;
//!   `titan.boxes` is JSON that gives, for every entry that is not a whole tensor, its `start` in the tensor and the
//!   tensor's `shape`; and, for every entry stored as another type, the tensor's `dtype`.

use super::shard::{PAGE_BYTES, Shard};
use super::table::{Piece, Table};
use crate::error::Result;
use crate::format::safetensors::encode;
use crate::format::safetensors::encode::{Encoded, NewTensor};
use crate::format::safetensors::header::METADATA_KEY;
use crate::model::DType;
use std::collections::BTreeMap;

/// What every padding entry's name starts with.
pub(crate) const PAD_PREFIX: &str = "__titan_pad.";
/// Metadata key of the format version.
pub(crate) const VERSION_KEY: &str = "titan.version";
/// Metadata key of the attempt.
pub(crate) const ATTEMPT_KEY: &str = "titan.attempt";
/// Metadata key of the boxes.
pub(crate) const BOXES_KEY: &str = "titan.boxes";

/// What the metadata says of one entry beyond what safetensors does.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct BoxNote {
    /// First element of the box in each dim of the tensor; absent where it is the whole tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<Vec<u64>>,
    /// The tensor's global shape; absent where the box is the whole tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<Vec<u64>>,
    /// The tensor's type, where safetensors lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dtype: Option<String>,
}

/// The name of a box's entry.
pub(crate) fn entry_name(fqn: &str, ordinal: u32) -> String {
    let reserved = fqn == METADATA_KEY || fqn.starts_with(PAD_PREFIX) || has_suffix(fqn);
    if ordinal == 0 && !reserved { fqn.to_owned() } else { format!("{fqn}@{ordinal}") }
}

/// Whether a name ends in `@` and digits.
fn has_suffix(name: &str) -> bool {
    name.rsplit_once('@')
        .is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The type and extent under which a box is stored: its own, unless safetensors lacks the type.
pub(crate) fn stored_as(dtype: DType, extent: &[u64]) -> (DType, Vec<u64>) {
    match dtype {
        DType::C32 => (DType::F16, [extent, &[2]].concat()),
        DType::C128 => (DType::F64, [extent, &[2]].concat()),
        DType::F4x2 => (DType::U8, extent.to_vec()),
        other => (other, extent.to_vec()),
    }
}

/// The header of one shard, and where the data of its boxes starts. `object` names it in errors.
///
/// Errors: [`Error::OverLimit`](crate::Error::OverLimit) for a header that no reader would accept.
pub(crate) fn encode_header(
    object: &str,
    table: &Table,
    pieces: &[Piece],
    shard: &Shard,
    version: u64,
    attempt: &str,
) -> Result<Encoded> {
    let mut entries: Vec<(String, DType, Vec<u64>)> = Vec::with_capacity(shard.placed.len());
    let mut notes = BTreeMap::new();
    let (mut end, mut pads) = (0, 0);
    for &(index, byte_offset) in &shard.placed {
        if byte_offset > end {
            entries.push((format!("{PAD_PREFIX}{pads}"), DType::U8, vec![byte_offset - end]));
            pads += 1;
        }
        let piece = &pieces[index as usize];
        let row = &table.rows()[piece.tensor as usize];
        let name = entry_name(row.fqn.as_str(), piece.ordinal);
        let (dtype, shape) = stored_as(row.spec.dtype, &piece.region.extent);
        end = byte_offset + piece.byte_len;
        let part = piece.region.extent != row.spec.shape;
        let note = BoxNote {
            start: part.then(|| piece.region.start.clone()),
            shape: part.then(|| row.spec.shape.clone()),
            dtype: (dtype != row.spec.dtype).then(|| row.spec.dtype.name().to_owned()),
        };
        if note != BoxNote::default() {
            notes.insert(name.clone(), note);
        }
        entries.push((name, dtype, shape));
    }
    let boxes = serde_json::to_string(&notes).expect("strings and integers");
    let version = version.to_string();
    let metadata = [("format", "pt"), (VERSION_KEY, &version), (ATTEMPT_KEY, attempt), (BOXES_KEY, &boxes)];
    let tensors: Vec<_> =
        entries.iter().map(|(name, dtype, shape)| NewTensor { name, dtype: *dtype, shape }).collect();
    encode::encode(object, &metadata, &tensors, PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn entry_names_are_unambiguous() {
        let fqns =
            ["a", "a@1", "a@1@0", "a@", "@3", "__metadata__", "__metadata__@0", "__titan_pad.0", "", "a@x1"];
        let mut seen = HashSet::from(["__metadata__".to_owned(), "__titan_pad.0".to_owned()]);
        for fqn in fqns {
            for ordinal in 0..3 {
                let name = entry_name(fqn, ordinal);
                let (found, suffix) = match name.rsplit_once('@') {
                    Some((head, digits)) if has_suffix(&name) => (head, digits.parse().unwrap()),
                    _ => (&name[..], 0),
                };
                assert_eq!((found, suffix), (fqn, ordinal));
                assert!(seen.insert(name.clone()), "{name} twice");
            }
        }
    }

    #[test]
    fn types_without_a_safetensors_name_keep_their_byte_length() {
        for dtype in DType::all() {
            let (stored, shape) = stored_as(dtype, &[4, 8]);
            assert!(stored.safetensors_name().is_some());
            assert_eq!(stored.bytes(shape.iter().product()), dtype.bytes(32), "{dtype}");
        }
    }
}
