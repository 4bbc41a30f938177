//! Checks a parsed manifest: nothing it says is used before it is known to be possible.

use super::json::{Hex64, path_of};
use super::manifest::{
    ClassRecord, Document, Head, Manifest, TensorRecord, ValueRecord, ValueRow, WriterRecord, WriterRow,
};
use super::placement::AxisRule;
use super::table::{BadRow, Boxes, Class, Row, Table, WRITERS_MAX, grid};
use crate::layout::{Gap, Layout, Mesh, Region, cover};
use crate::model::{DType, Fqn, TensorSpec};
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Most boxes that one manifest lists.
const BOXES_MAX: usize = 1 << 23;
/// Smallest and largest block of a checksum. A reader holds a block in memory.
const BLOCK_BYTES: RangeInclusive<u64> = 4096..=(64 << 20);

/// Whether a text is an attempt's name. It becomes part of keys, so nothing else is let through.
fn is_attempt(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A manifest from its JSON; in words, what is impossible about it.
pub(super) fn check(document: Document) -> Result<Manifest, String> {
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
