//! Is a checkpoint complete and undamaged?

use crate::convert::check_complete;
use crate::copy::{Progress, TensorReader};
use crate::error::{Error, Result};
use crate::format::{Elements, Reader};
use crate::layout::Region;
use crate::model::{Chunk, ChunkTable, Finding, Fqn, FqnFilter, Severity, Tensor};
use crate::numbers::NonFinite;
use crate::storage::Key;
use crate::threads::{Queue, in_threads, lock};
use crc_fast::{CrcAlgorithm::Crc32IsoHdlc, Digest};
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

/// Bytes read at once.
const PIECE_BYTES: u64 = 8 << 20;

/// What to check.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Read every element: compare every checksum, count NaNs and infinities.
    pub deep: bool,
    /// Which tensors to check.
    pub filter: FqnFilter,
    /// Threads that read.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Everything odd or damaged, damage first.
    pub findings: Vec<Finding>,
    /// Tensors checked.
    pub tensors: usize,
    /// Objects checked.
    pub objects: usize,
    /// Bytes of elements read.
    pub read_bytes: u64,
    /// Of these, bytes that a recorded checksum vouches for.
    pub checked_bytes: u64,
    /// Tensors with NaNs or infinities.
    pub non_finite: BTreeMap<Fqn, NonFinite>,
}

impl VerifyReport {
    /// Whether no finding is damage.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Damage)
    }
}

/// Checks a checkpoint: every object is there with the right length, every tensor is tiled by its chunks; with `deep`,
/// every checksum the format has holds.
///
/// Errors: only for what prevents checking at all; damage is a finding.
pub fn verify(reader: &dyn Reader, options: &VerifyOptions, progress: &dyn Progress) -> Result<VerifyReport> {
    let catalog = reader.catalog();
    let mut report = VerifyReport { findings: catalog.findings.clone(), ..VerifyReport::default() };
    check_objects(reader, &mut report)?;
    let chosen: Vec<(&Fqn, &Tensor)> =
        catalog.tensors.iter().filter(|(fqn, _)| options.filter.matches(fqn.as_str())).collect();
    report.tensors = chosen.len();
    for (fqn, tensor) in &chosen {
        if let Err(error) = check_complete(fqn.as_str(), tensor) {
            report.findings.push(damage(Some(fqn), None, &error));
        }
    }
    if options.deep {
        let damaged = report.findings.iter().filter(|finding| finding.severity == Severity::Damage);
        let broken: Vec<Key> = damaged.filter_map(|finding| finding.object.clone()).collect();
        let report = Mutex::new(&mut report);
        reader.verify_framing(&mut |finding| lock(&report).findings.push(finding))?;
        let queue = Queue::new(chosen.iter().copied());
        in_threads(options.threads.max(1), &|| {
            while let Some((fqn, tensor)) = queue.next() {
                let found = deep_tensor(reader, fqn, tensor, progress)?;
                let mut report = lock(&report);
                // An object known to be missing or cut short is told once, not once per tensor.
                let new = found
                    .findings
                    .into_iter()
                    .filter(|f| !f.object.as_ref().is_some_and(|o| broken.contains(o)));
                report.findings.extend(new);
                report.read_bytes += found.read_bytes;
                report.checked_bytes += found.checked_bytes;
                report.non_finite.extend(found.non_finite);
            }
            Ok(())
        })?;
    }
    report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut seen = HashSet::new();
    report.findings.retain(|finding| seen.insert(finding.clone()));
    Ok(report)
}

/// Every object the catalog points into exists and is long enough; recorded lengths hold exactly.
fn check_objects(reader: &dyn Reader, report: &mut VerifyReport) -> Result<()> {
    let (catalog, store) = (reader.catalog(), &reader.place().store);
    report.objects = catalog.objects.len();
    for object in &catalog.objects {
        let expected = object.byte_len;
        let message = match store.head(&object.key)? {
            None => format!("the object is missing; {expected} bytes are expected"),
            Some(0) if expected > 0 => format!("the object is empty; {expected} bytes are expected"),
            Some(found) if found < expected => {
                format!("the object is cut short: {found} of {expected} bytes")
            }
            Some(found) if object.exact && found > expected => {
                format!("the object is too long: {found} bytes, {expected} were written")
            }
            Some(_) => continue,
        };
        let object = Some(object.key.clone());
        if !report
            .findings
            .iter()
            .any(|finding| finding.object == object && finding.severity == Severity::Damage)
        {
            report.findings.push(Finding { severity: Severity::Damage, fqn: None, object, message });
        }
    }
    Ok(())
}

fn deep_tensor(
    reader: &dyn Reader,
    fqn: &Fqn,
    tensor: &Tensor,
    progress: &dyn Progress,
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let source = TensorReader::new(reader, fqn.as_str());
    let chunks = match &tensor.chunks {
        ChunkTable::Listed(chunks) => chunks.clone(),
        ChunkTable::Computed(_) => tensor.chunks.all(&tensor.spec.shape)?,
    };
    let mut counts = NonFinite::default();
    for chunk in &chunks {
        let object = &reader.catalog().objects[chunk.object as usize].key;
        let mut found = |error: Error| report.findings.push(damage(Some(fqn), Some(object), &error));
        let elements = match reader.resolve(fqn, tensor, chunk) {
            Ok(elements) => elements,
            Err(error) => {
                found(error);
                continue;
            }
        };
        let check = match &source {
            Ok(source) if elements.strides.is_some() && elements.crc32.is_none() => {
                by_region(source, chunk, &mut counts, progress)
            }
            _ => by_bytes(tensor, chunk, &elements, &mut counts, progress, &mut found),
        };
        match check {
            Ok(read_bytes) => {
                report.read_bytes += read_bytes;
                if elements.crc32.is_some() || elements.source.granularity() > 1 {
                    report.checked_bytes += read_bytes;
                }
            }
            Err(error) => report.findings.push(damage(Some(fqn), Some(object), &error)),
        }
    }
    if counts != NonFinite::default() {
        report.non_finite.insert(fqn.clone(), counts);
    }
    Ok(report)
}

/// Reads a chunk's stored bytes in order. Damaged blocks are found one by one; the rest is still read.
fn by_bytes(
    tensor: &Tensor,
    chunk: &Chunk,
    elements: &Elements,
    counts: &mut NonFinite,
    progress: &dyn Progress,
    found: &mut dyn FnMut(Error),
) -> Result<u64> {
    let chunk_bytes = tensor.spec.dtype.bytes(chunk.region.elements()).unwrap_or(0);
    let mut crc = Digest::new(Crc32IsoHdlc);
    let mut buffer = vec![0; chunk_bytes.min(PIECE_BYTES) as usize];
    let mut damaged = false;
    let mut at = 0;
    while at < chunk_bytes {
        let piece = &mut buffer[..(chunk_bytes - at).min(PIECE_BYTES) as usize];
        match elements.source.read_at(elements.byte_offset + at, piece) {
            Ok(()) => {
                crc.update(piece);
                *counts = counts.plus(NonFinite::count(tensor.spec.dtype, piece));
            }
            Err(Error::Damaged { .. }) => {
                damaged = true;
                blocks_of(elements, at, piece, found);
            }
            Err(error) => return Err(error),
        }
        at += piece.len() as u64;
        progress.advance(piece.len() as u64);
    }
    let sum = crc.finalize() as u32;
    match elements.crc32 {
        Some(expected) if !damaged && sum != expected => found(Error::Damaged {
            object: "its elements".to_owned(),
            from: chunk.byte_offset,
            until: chunk.byte_offset + chunk.byte_len,
            found: format!("CRC-32 {sum:08x}"),
            expected: format!("{expected:08x}"),
            fqn_note: String::new(),
        }),
        _ => {}
    }
    Ok(chunk_bytes)
}

/// Reads a piece again block by block and reports each that is damaged.
fn blocks_of(elements: &Elements, at: u64, piece: &mut [u8], found: &mut dyn FnMut(Error)) {
    let block_bytes = elements.source.granularity().clamp(1, PIECE_BYTES) as usize;
    for (index, block) in piece.chunks_mut(block_bytes).enumerate() {
        let byte_offset = elements.byte_offset + at + (index * block_bytes) as u64;
        if let Err(error) = elements.source.read_at(byte_offset, block) {
            found(error);
        }
    }
}

/// Reads a chunk whose stored order has gaps, such as a view of a larger storage.
fn by_region(
    source: &TensorReader,
    chunk: &Chunk,
    counts: &mut NonFinite,
    progress: &dyn Progress,
) -> Result<u64> {
    let dtype = source.spec().dtype;
    let mut read_bytes = 0;
    let elements_max = PIECE_BYTES / dtype.block_bytes() * dtype.block_elements();
    for strip in chunk.region.strips(elements_max) {
        let strip: Region = strip;
        let mut piece = vec![0; dtype.bytes(strip.elements()).unwrap_or(0) as usize];
        source.read(&strip, &mut piece)?;
        *counts = counts.plus(NonFinite::count(dtype, &piece));
        read_bytes += piece.len() as u64;
        progress.advance(piece.len() as u64);
    }
    Ok(read_bytes)
}

fn damage(fqn: Option<&Fqn>, object: Option<&Key>, error: &Error) -> Finding {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        message.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    Finding { severity: Severity::Damage, fqn: fqn.cloned(), object: object.cloned(), message }
}
