//! The manifest: reading and writing its JSON. `docs/format-titan.md` section 3 is the specification.
//!
//! The file ends in the 29 bytes `,"crc64":"0123456789abcdef"}` and a newline; the checksum is the CRC-64/NVME of
//! every byte before them.

use super::json::{Bounded, Hex64, path_parts};
use super::manifest_check::check;
use super::table::{Boxes, Class, Row, Table, WRITERS_MAX};
use super::{FORMAT_NAME, VERSION, crc64};
use crate::error::{Error, Result};
use crate::format::Slot;
use crate::layout::Mesh;
use crate::model::{Fqn, Path};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Largest manifest.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// Bytes from `,"crc64"` to the end.
const TAIL_BYTES: usize = 29;
/// What error messages call it.
const WHAT: &str = "titan manifest";

/// What a manifest says, apart from tensors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    /// 32 hex digits, unique to the save.
    pub(crate) attempt: String,
    /// Which try at this step it is.
    pub(crate) generation: u32,
    /// Who wrote it.
    pub(crate) producer: String,
    /// Training step.
    pub(crate) step: Option<u64>,
    /// The mesh it was saved on.
    pub(crate) mesh: Option<Arc<Mesh>>,
    /// Whether objects hold compressed frames.
    pub(crate) compressed: bool,
    /// Bytes of a checksummed block.
    pub(crate) block_bytes: u64,
}

/// A non-tensor value.
#[derive(Clone, Debug)]
pub(crate) struct ValueRow {
    pub(crate) fqn: Fqn,
    pub(crate) path: Path,
    /// JSON as [`super::value`] writes it.
    pub(crate) json: Box<RawValue>,
}

/// What the manifest records of one writer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WriterRow {
    /// Length of its part record.
    pub(crate) part_byte_len: u64,
    /// CRC-64/NVME of its part record.
    pub(crate) part_crc64: u64,
    /// Length of each of its objects, and position of the first byte of tensor data in it.
    pub(crate) objects: Vec<(u64, u64)>,
}

/// A parsed and checked manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) head: Head,
    pub(crate) table: Table,
    pub(crate) values: Vec<ValueRow>,
    /// One per writer; `None` for a writer that holds nothing.
    pub(crate) writers: Vec<Option<WriterRow>>,
}

/// The part of a manifest that every version keeps.
#[derive(Deserialize)]
struct Probe {
    format: String,
    version: u64,
    #[serde(default)]
    kind: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) format: String,
    pub(super) version: u64,
    pub(super) kind: String,
    pub(super) attempt: String,
    pub(super) generation: u32,
    #[serde(default)]
    pub(super) producer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mesh: Option<Bounded<(String, u32), 64>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) compressed: bool,
    pub(super) block_bytes: u64,
    pub(super) object_bytes_max: u64,
    pub(super) classes: Bounded<ClassRecord, { 1 << 20 }>,
    pub(super) tensors: Bounded<TensorRecord, { 1 << 22 }>,
    pub(super) values: Bounded<ValueRecord, { 1 << 22 }>,
    pub(super) writers: Bounded<Option<WriterRecord>, { WRITERS_MAX as usize }>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ClassRecord {
    pub(super) axes: Bounded<String, 64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) inferred: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TensorRecord {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<Vec<super::json::Part>>,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) class: Option<u32>,
    /// Per box: writer, start in every dim, extent in every dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boxes: Option<Vec<u64>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ValueRecord {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<Vec<super::json::Part>>,
    pub(super) value: Box<RawValue>,
}

/// Length and checksum of the part record; length and data start of every object.
#[derive(Serialize, Deserialize)]
pub(super) struct WriterRecord(pub(super) u64, pub(super) Hex64, pub(super) Vec<(u64, u64)>);

/// The bytes of a manifest. They depend on nothing but the arguments, so that any process that has the same makes the
/// same bytes.
pub(crate) fn encode(
    head: &Head,
    table: &Table,
    values: &[ValueRow],
    writers: &[Option<WriterRow>],
) -> Vec<u8> {
    let document = Document {
        format: FORMAT_NAME.to_owned(),
        version: VERSION,
        kind: "commit".to_owned(),
        attempt: head.attempt.clone(),
        generation: head.generation,
        producer: head.producer.clone(),
        step: head.step,
        mesh: head
            .mesh
            .as_ref()
            .map(|mesh| Bounded(mesh.axes().iter().map(|a| (a.name.clone(), a.size)).collect())),
        compressed: head.compressed,
        block_bytes: head.block_bytes,
        object_bytes_max: table.object_bytes_max(),
        classes: Bounded(table.classes().iter().map(class_record).collect()),
        tensors: Bounded(table.rows().iter().map(tensor_record).collect()),
        values: Bounded(values.iter().map(value_record).collect()),
        writers: Bounded(writers.iter().map(|row| row.as_ref().map(writer_record)).collect()),
    };
    seal(serde_json::to_vec(&document).expect("strings, numbers and JSON"))
}

/// Adds the checksum to a JSON object.
pub(super) fn seal(mut json: Vec<u8>) -> Vec<u8> {
    debug_assert_eq!(json.last(), Some(&b'}'));
    json.pop();
    let tail = format!(",\"crc64\":\"{:016x}\"}}\n", crc64(&json));
    debug_assert_eq!(tail.len(), TAIL_BYTES);
    json.extend_from_slice(tail.as_bytes());
    json
}

fn class_record(class: &Class) -> ClassRecord {
    let axes = class.rules.iter().map(|rule| rule.text()).collect();
    ClassRecord { axes: Bounded(axes), inferred: class.inferred }
}

fn tensor_record(row: &Row) -> TensorRecord {
    let (class, boxes) = match &row.boxes {
        Boxes::Placed { class, .. } => (Some(*class), None),
        Boxes::Listed(boxes) => {
            let numbers = boxes.iter().flat_map(|(writer, region)| {
                let corners = region.start.iter().chain(&region.extent).copied();
                std::iter::once(u64::from(*writer)).chain(corners)
            });
            (None, Some(numbers.collect()))
        }
    };
    TensorRecord {
        name: row.fqn.as_str().to_owned(),
        path: path_parts(&row.path),
        dtype: row.spec.dtype.name().to_owned(),
        shape: row.spec.shape.clone(),
        class,
        boxes,
    }
}

fn value_record(row: &ValueRow) -> ValueRecord {
    ValueRecord { name: row.fqn.as_str().to_owned(), path: path_parts(&row.path), value: row.json.clone() }
}

fn writer_record(row: &WriterRow) -> WriterRecord {
    WriterRecord(row.part_byte_len, Hex64(row.part_crc64), row.objects.clone())
}

/// The bytes of a manifest that marks a slot as abandoned.
pub(crate) fn abandoned(generation: u32) -> Vec<u8> {
    let attempt = uuid::Uuid::new_v4().simple();
    let json = format!(
        "{{\"format\":\"{FORMAT_NAME}\",\"version\":{VERSION},\"kind\":\"abandoned\",\"attempt\":\"{attempt}\",\"generation\":{generation}}}"
    );
    seal(json.into_bytes())
}

/// Whether a manifest is a checkpoint or an abandoned slot.
///
/// Errors: as [`decode`], as far as that needs no look at the contents.
pub(crate) fn kind(object: &str, bytes: &[u8]) -> Result<Slot> {
    let malformed = |why: String| Error::malformed(object, WHAT, why);
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        let (object, found) = (object.to_owned(), bytes.len() as u64);
        let what = "its length in bytes";
        return Err(Error::OverLimit { object, what, found, limit: MANIFEST_BYTES_MAX });
    }
    let probe: Probe = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if probe.format != FORMAT_NAME {
        return Err(malformed(format!("`format` is {:?}, expected {FORMAT_NAME:?}", probe.format)));
    }
    if probe.version > VERSION {
        let (object, found, known) = (object.to_owned(), probe.version.to_string(), VERSION.to_string());
        return Err(Error::TooNew { object, found, known });
    }
    if probe.version == 0 {
        return Err(malformed("version 0 was never in use".to_owned()));
    }
    check_seal(object, bytes)?;
    match probe.kind.as_str() {
        "commit" => Ok(Slot::Commit),
        "abandoned" => Ok(Slot::Abandoned),
        other => Err(malformed(format!("`kind` is {other:?}, expected `commit` or `abandoned`"))),
    }
}

/// Reads a manifest; `None` where it marks an abandoned attempt. `object` names it in errors.
///
/// Errors: [`Error::TooNew`] for a later major version; [`Error::Damaged`] where its checksum does not hold;
/// [`Error::OverLimit`], [`Error::Malformed`].
pub(crate) fn decode(object: &str, bytes: &[u8]) -> Result<Option<Manifest>> {
    if kind(object, bytes)? == Slot::Abandoned {
        return Ok(None);
    }
    let malformed = |why: String| Error::malformed(object, WHAT, why);
    let document: Document = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    check(document).map(Some).map_err(malformed)
}

fn check_seal(object: &str, bytes: &[u8]) -> Result<()> {
    let (body, tail) = bytes.split_at(bytes.len().saturating_sub(TAIL_BYTES));
    let digits = tail.strip_prefix(b",\"crc64\":\"").and_then(|tail| tail.strip_suffix(b"\"}\n"));
    let expected = digits.and_then(|digits| Hex64::parse(std::str::from_utf8(digits).ok()?));
    let Some(Hex64(expected)) = expected else {
        let why = "it does not end in its checksum; it is cut short or was edited";
        return Err(Error::malformed(object, WHAT, why));
    };
    match crc64(body) {
        found if found == expected => Ok(()),
        found => Err(Error::Damaged {
            object: object.to_owned(),
            from: 0,
            until: body.len() as u64,
            found: format!("CRC-64 {found:016x}"),
            expected: format!("{expected:016x}"),
            fqn_note: String::new(),
        }),
    }
}
