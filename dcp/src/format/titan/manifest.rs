//! The manifest: reading and writing its JSON. `docs/format-titan.md` section 3 is the specification.
//!
//! The file ends in the 29 bytes `,"crc64":"0123456789abcdef"}` and a newline; the checksum is the CRC-64/NVME of
//! every byte before them.

use super::json::{Bounded, Hex64, path_of, path_parts};
use super::placement::AxisRule;
use super::table::{BadRow, Boxes, Class, Row, Table, WRITERS_MAX, grid};
use super::value;
use super::{FORMAT_NAME, VERSION, crc64};
use crate::error::{Error, Result};
use crate::layout::{Gap, Layout, Mesh, Region, cover};
use crate::model::{DType, Fqn, Path, TensorSpec};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// Largest manifest.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// Most boxes that one manifest lists.
const BOXES_MAX: usize = 1 << 23;
/// Smallest and largest block of a checksum. A reader holds a block in memory.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 4096..=(64 << 20);
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
    /// JSON as [`value`] writes it.
    pub(crate) json: serde_json::Value,
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
struct Document {
    format: String,
    version: u64,
    kind: String,
    attempt: String,
    generation: u32,
    #[serde(default)]
    producer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mesh: Option<Bounded<(String, u32), 64>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    compressed: bool,
    block_bytes: u64,
    object_bytes_max: u64,
    classes: Bounded<ClassRecord, { 1 << 20 }>,
    tensors: Bounded<TensorRecord, { 1 << 22 }>,
    values: Bounded<ValueRecord, { 1 << 22 }>,
    writers: Bounded<Option<WriterRecord>, { WRITERS_MAX as usize }>,
}

#[derive(Serialize, Deserialize)]
struct ClassRecord {
    axes: Bounded<String, 64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inferred: bool,
}

#[derive(Serialize, Deserialize)]
struct TensorRecord {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Vec<super::json::Part>>,
    dtype: String,
    shape: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<u32>,
    /// Per box: writer, start in every dim, extent in every dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boxes: Option<Vec<u64>>,
}

#[derive(Serialize, Deserialize)]
struct ValueRecord {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Vec<super::json::Part>>,
    value: serde_json::Value,
}

/// Length and checksum of the part record; length and data start of every object.
#[derive(Serialize, Deserialize)]
struct WriterRecord(u64, Hex64, Vec<(u64, u64)>);

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
fn seal(mut json: Vec<u8>) -> Vec<u8> {
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

/// Reads a manifest; `None` where it marks an abandoned attempt. `object` names it in errors.
///
/// Errors: [`Error::TooNew`] for a later major version; [`Error::Damaged`] where its checksum does not hold;
/// [`Error::OverLimit`], [`Error::Malformed`].
pub(crate) fn decode(object: &str, bytes: &[u8]) -> Result<Option<Manifest>> {
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
        "commit" => {}
        "abandoned" => return Ok(None),
        other => return Err(malformed(format!("`kind` is {other:?}, expected `commit` or `abandoned`"))),
    }
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

/// Whether a text is an attempt's name. It becomes part of keys, so nothing else is let through.
fn is_attempt(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check(document: Document) -> Result<Manifest, String> {
    if !is_attempt(&document.attempt) {
        return Err(format!("attempt {:?} is not 32 hex digits", document.attempt));
    }
    if !BLOCK_BYTES.contains(&document.block_bytes) {
        let (from, to) = (BLOCK_BYTES.start(), BLOCK_BYTES.end());
        return Err(format!("blocks of {} bytes; expected {from} to {to}", document.block_bytes));
    }
    let mesh = document.mesh.map(|axes| Mesh::new(axes.0)).transpose().map_err(|error| error.to_string())?;
    if let Some(mesh) = mesh.as_ref().filter(|mesh| mesh.ranks() > WRITERS_MAX) {
        return Err(format!("a mesh of {} ranks, over the limit of {WRITERS_MAX}", mesh.ranks()));
    }
    let mesh = mesh.map(Arc::new);
    let writers = document.writers.0.len() as u32;
    let grid = grid(mesh.as_ref(), writers);
    let classes = document
        .classes
        .0
        .into_iter()
        .enumerate()
        .map(|(index, class)| {
            check_class(class, &grid).map_err(|why| format!("placement class {index}: {why}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let rows = check_tensors(document.tensors.0, &grid, &classes)?;
    let values = check_values(document.values.0, &rows)?;
    let table = Table::new(grid, writers, document.object_bytes_max, classes, rows)
        .map_err(|BadRow { fqn, why }| format!("tensor {fqn}: {why}"))?;
    check_tiling(&table)?;
    let head = Head {
        attempt: document.attempt,
        generation: document.generation,
        producer: document.producer,
        step: document.step,
        mesh,
        compressed: document.compressed,
        block_bytes: document.block_bytes,
    };
    let row = |WriterRecord(part_byte_len, Hex64(part_crc64), objects)| WriterRow {
        part_byte_len,
        part_crc64,
        objects,
    };
    let writers = document.writers.0.into_iter().map(|record| record.map(row)).collect();
    Ok(Manifest { head, table, values, writers })
}

fn check_class(class: ClassRecord, grid: &Mesh) -> Result<Class, String> {
    let axes = class.axes.0;
    if axes.len() != grid.axes().len() {
        return Err(format!("{} placements for a grid of {} axes", axes.len(), grid.axes().len()));
    }
    let rules = axes
        .iter()
        .zip(grid.axes())
        .map(|(text, axis)| {
            let rule = AxisRule::from_text(text)
                .ok_or_else(|| format!("{text:?} is not a placement; expected R, R3, S0, SS0/4 or @2"))?;
            match rule.fixed() {
                Some(coordinate) if coordinate >= axis.size => {
                    Err(format!("{text:?} on axis {:?} of {} ranks", axis.name, axis.size))
                }
                _ => Ok(rule),
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(Class { rules, inferred: class.inferred })
}

fn check_tensors(
    records: Vec<TensorRecord>,
    grid: &Arc<Mesh>,
    classes: &[Class],
) -> Result<Vec<Row>, String> {
    let mut boxes_left = BOXES_MAX;
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let name = record.name.clone();
        let row = check_tensor(record, grid, classes, &mut boxes_left);
        rows.push(row.map_err(|why| format!("tensor {name:?}: {why}"))?);
    }
    Ok(rows)
}

fn check_tensor(
    record: TensorRecord,
    grid: &Arc<Mesh>,
    classes: &[Class],
    boxes_left: &mut usize,
) -> Result<Row, String> {
    let dtype = DType::from_name(&record.dtype).ok_or_else(|| format!("unknown dtype {:?}", record.dtype))?;
    let boxes = match (record.class, record.boxes) {
        (Some(index), None) => {
            let class = classes.get(index as usize);
            let class = class.ok_or_else(|| format!("class {index}, but there are {}", classes.len()))?;
            let layout = Layout::new(grid.clone(), class.placements(), record.shape.clone());
            Boxes::Placed { class: index, layout: layout.map_err(|error| error.to_string())? }
        }
        (None, Some(numbers)) => {
            let dims = record.shape.len();
            let stride = 1 + 2 * dims;
            if !numbers.len().is_multiple_of(stride) {
                return Err(format!("{} numbers of boxes, not a multiple of {stride}", numbers.len()));
            }
            let left = boxes_left.checked_sub(numbers.len() / stride);
            *boxes_left = left.ok_or_else(|| format!("more than {BOXES_MAX} boxes are listed"))?;
            let boxes = numbers.chunks_exact(stride).map(|numbers| {
                let writer = u32::try_from(numbers[0]);
                let writer = writer.map_err(|_| format!("no writer {}", numbers[0]))?;
                Ok((writer, Region::new(&numbers[1..1 + dims], &numbers[1 + dims..])))
            });
            Boxes::Listed(boxes.collect::<Result<_, String>>()?)
        }
        _ => return Err("expected either `class` or `boxes`".to_owned()),
    };
    Ok(Row {
        fqn: Fqn::new(record.name),
        spec: TensorSpec::new(dtype, record.shape),
        path: path_of(record.path),
        boxes,
    })
}

fn check_values(records: Vec<ValueRecord>, tensors: &[Row]) -> Result<Vec<ValueRow>, String> {
    let mut names: HashSet<Fqn> = HashSet::with_capacity(tensors.len() + records.len());
    let rows: Vec<ValueRow> = records
        .into_iter()
        .map(|record| ValueRow { fqn: Fqn::new(record.name), path: path_of(record.path), json: record.value })
        .collect();
    for fqn in tensors.iter().map(|row| &row.fqn).chain(rows.iter().map(|row| &row.fqn)) {
        if !names.insert(fqn.clone()) {
            return Err(format!("{:?} is named twice", fqn.as_str()));
        }
    }
    Ok(rows)
}

/// Placements tile by construction; lists must be checked.
fn check_tiling(table: &Table) -> Result<(), String> {
    for row in table.rows() {
        if let Boxes::Listed(boxes) = &row.boxes {
            tiling(&row.spec.shape, boxes).map_err(|why| format!("tensor {:?}: {why}", row.fqn.as_str()))?;
        }
    }
    Ok(())
}

/// Checks that listed boxes tile a tensor.
pub(crate) fn tiling(shape: &[u64], boxes: &[(u32, Region)]) -> Result<(), String> {
    let regions: Vec<Region> = boxes.iter().map(|(_, region)| region.clone()).collect();
    cover(shape, &regions).map_err(|gap| match gap {
        Gap::OutOfBounds { index } => format!("box {:?} reaches outside shape {shape:?}", regions[index]),
        Gap::Overlap { first, second } => {
            format!("boxes {:?} and {:?} overlap", regions[first], regions[second])
        }
        Gap::Missing { covered, total, at } => {
            format!("its boxes cover {covered} of {total} elements; the first gap is at {at:?}")
        }
    })
}

/// Decodes a value of a manifest.
pub(crate) fn decode_value(object: &str, row: &ValueRow) -> Result<crate::model::Value> {
    value::decode(&row.json)
        .map_err(|why| Error::malformed(object, WHAT, format!("value {:?}: {why}", row.fqn.as_str())))
}
