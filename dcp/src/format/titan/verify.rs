//! Checks everything but elements: part records, headers of shards, values.

use super::crc64;
use super::header::{ATTEMPT_KEY, PAD_PREFIX, entry_name, stored_as};
use super::part::PartObject;
use super::reader::TitanReader;
use super::shard::lay_out;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Reader;
use crate::format::safetensors::header::{Header, read_header};
use crate::model::{Finding, Fqn, Severity, TensorSpec};
use crate::storage::Key;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

/// Reports what is damaged.
///
/// Errors: only what prevents checking at all.
pub(crate) fn framing(reader: &TitanReader, report: &mut dyn FnMut(Finding)) -> Result<()> {
    for fqn in reader.catalog().values.keys() {
        if let Err(error) = reader.value(fqn) {
            report(damage(Some(fqn), None, error)?);
        }
    }
    let writers: Vec<u32> =
        (0u32..).zip(&reader.index().writers).filter(|(_, row)| row.is_some()).map(|(at, _)| at).collect();
    // Several at once: most of the time goes into waiting for the store.
    let found = writers.par_iter().map(|&writer| check_writer(reader, writer)).collect::<Result<Vec<_>>>()?;
    found.into_iter().flatten().for_each(report);
    Ok(())
}

fn check_writer(reader: &TitanReader, writer: u32) -> Result<Vec<Finding>> {
    let index = reader.index();
    let part_key = &reader.catalog().objects[index.part_object(writer) as usize].key;
    let part = match reader.part(writer) {
        Ok(part) => part,
        Err(error) => return Ok(vec![damage(None, Some(part_key), error)?]),
    };
    let mut findings = Vec::new();
    for (sequence, object) in (0u32..).zip(&part.objects) {
        if let PartObject::Plain { header_crc64, .. } = object {
            let key = &reader.catalog().objects[(index.first_object(writer) + sequence) as usize].key;
            if let Err(error) = check_header(reader, writer, sequence, key, *header_crc64) {
                findings.push(damage(None, Some(key), error)?);
            }
        }
    }
    Ok(findings)
}

/// Checks a shard's header: its checksum, and that it says of every box what the manifest does.
fn check_header(reader: &TitanReader, writer: u32, sequence: u32, key: &Key, expected: u64) -> Result<()> {
    let (_, data_start) = reader.index().extent(writer, sequence)?;
    let name = reader.place().store.display(key);
    let source = reader.place().store.open(key)?;
    let mut bytes = vec![0; data_start as usize];
    source.read_at(0, &mut bytes)?;
    let found = crc64(&bytes);
    if found != expected {
        return Err(Error::Damaged {
            object: name,
            from: 0,
            until: data_start,
            found: format!("CRC-64 {found:016x}"),
            expected: format!("{expected:016x}"),
            fqn_note: ", the header".to_owned(),
        });
    }
    let header = read_header(&*source, 0, &name)?;
    let wrong = |why: String| Error::malformed(&name, "shard of this checkpoint", why);
    let attempt = &reader.index().head.attempt;
    if header.metadata.get(ATTEMPT_KEY) != Some(attempt) {
        return Err(wrong(format!("it is not of attempt {attempt}")));
    }
    check_entries(reader, writer, sequence, data_start, &header).map_err(wrong)
}

fn check_entries(
    reader: &TitanReader,
    writer: u32,
    sequence: u32,
    data_start: u64,
    header: &Header,
) -> Result<(), String> {
    let table = &reader.index().table;
    let pieces = table.pieces(writer).map_err(|bad| bad.why)?;
    let shards = lay_out(table, &pieces).map_err(|bad| bad.why)?;
    let shard = shards.get(sequence as usize).ok_or("no such object")?;
    let entries = header
        .tensors
        .keys()
        .filter(|fqn| !fqn.as_str().starts_with(PAD_PREFIX) || fqn.as_str().contains('@'));
    if entries.count() != shard.placed.len() {
        return Err(format!("{} entries, expected {} boxes", header.tensors.len(), shard.placed.len()));
    }
    for &(position, data_offset) in &shard.placed {
        let piece = &pieces[position as usize];
        let row = &table.rows()[piece.tensor as usize];
        let (dtype, shape) = stored_as(row.spec.dtype, &piece.region.extent);
        let name = entry_name(row.fqn.as_str(), piece.ordinal);
        let from = data_start + data_offset;
        let found = header.tensors.get(name.as_str());
        let same = found.is_some_and(|found| {
            found.spec == TensorSpec::new(dtype, shape.clone())
                && found.bytes == (from..from + piece.byte_len)
        });
        if !same {
            return Err(format!(
                "entry {name:?} is {found:?}, expected {dtype} of shape {shape:?} at byte {from}"
            ));
        }
    }
    Ok(())
}

/// A finding of damaged data; any other error is passed on.
fn damage(fqn: Option<&Fqn>, object: Option<&Key>, error: Error) -> Result<Finding> {
    if error.kind() == ErrorKind::Io {
        return Err(error);
    }
    let message = error.to_string();
    Ok(Finding { severity: Severity::Damage, fqn: fqn.cloned(), object: object.cloned(), message })
}
