//! Reads a box of a stored chunk into memory, with as few and as large reads as its layout allows.

use super::blocks::Blocks;
use crate::error::{Error, Result};
use crate::format::Elements;
use crate::layout::{Region, Reorder, Runs, copy_box, in_order, row_major};
use crc_fast::CrcAlgorithm::Crc32IsoHdlc;
use std::sync::Mutex;

/// Runs shorter than this are not read one by one: a disk fetches whole pages of 4 KiB whatever is asked, so the span
/// that holds the runs is read at once and the box is picked out of it.
const RUN_BYTES_MIN: u64 = 4096;

/// A chunk whose elements have been found.
#[derive(Debug)]
pub(crate) struct OpenChunk {
    /// The chunk's box, in blocks.
    pub(crate) region: Region,
    elements: Elements,
    strides: Vec<u64>,
    block_bytes: usize,
    /// Checksums of the contiguous parts read so far: `(byte_offset, byte_len, crc32)`. `None`: nothing to check.
    seen: Option<Mutex<Vec<(u64, u64, u32)>>>,
}

impl OpenChunk {
    /// Checks that the elements lie inside their source.
    ///
    /// Errors: [`Error::BadTensor`] where strides do not fit; [`Error::Truncated`] where the source is too short.
    pub(crate) fn new(
        fqn: &str,
        object: &str,
        region: Region,
        elements: Elements,
        blocks: &Blocks,
    ) -> Result<Self> {
        let strides = elements.strides.clone().unwrap_or_else(|| row_major(&region.extent));
        let block_bytes = blocks.block_bytes();
        let bad = |message: String| Error::BadTensor { fqn: fqn.to_owned(), message };
        if strides.len() != region.rank() {
            return Err(bad(format!("{} strides for {} dims", strides.len(), region.rank())));
        }
        let last = region.extent.iter().zip(&strides).try_fold(0u64, |last, (&extent, &stride)| {
            last.checked_add(extent.saturating_sub(1).checked_mul(stride)?)
        });
        let needed = match last {
            _ if region.is_empty() => Some(elements.byte_offset),
            Some(last) => (last + 1)
                .checked_mul(block_bytes as u64)
                .and_then(|byte_len| byte_len.checked_add(elements.byte_offset)),
            None => None,
        };
        let needed = needed.ok_or_else(|| bad(format!("strides {strides:?} reach past 2^64 bytes")))?;
        if needed > elements.source.byte_len() {
            let (object, found) = (object.to_owned(), elements.source.byte_len());
            return Err(Error::Truncated { object, found, expected: needed });
        }
        let seen = elements.crc32.is_some().then(Mutex::default);
        Ok(OpenChunk { region, elements, strides, block_bytes, seen })
    }

    /// How boxes of a tensor, or part of one, of this extent are best cut that are copied from here to a row-major array;
    /// `None` where the chunk is walked forwards anyway. A box has at most `elements_max` blocks, and `write_cost_bytes`
    /// could be written in the time that one more write takes.
    pub(crate) fn reordered(
        &self,
        whole: &[u64],
        elements_max: u64,
        write_cost_bytes: u64,
    ) -> Option<Vec<u64>> {
        let blocks = |bytes: u64| bytes.div_ceil(self.block_bytes as u64);
        let reorder = Reorder {
            source_strides: &self.strides,
            source_extent: &self.region.extent,
            source_run_min: self.run_min(),
            source_run_cost: blocks(self.elements.source.read_cost_bytes()),
            target_run_cost: blocks(write_cost_bytes),
            elements_max: elements_max.max(1),
        };
        (!in_order(&self.region.extent, &self.strides)).then(|| reorder.extent(whole))
    }

    /// Blocks of the shortest run that is read on its own.
    fn run_min(&self) -> u64 {
        RUN_BYTES_MIN.max(self.elements.source.granularity()).div_ceil(self.block_bytes as u64)
    }

    /// First byte of a box.
    fn byte_offset(&self, wanted: &Region) -> u64 {
        self.elements.byte_offset + wanted.position_in(&self.region, &self.strides) * self.block_bytes as u64
    }

    /// Whether its bytes must be summed as they are read.
    pub(crate) fn checked(&self) -> bool {
        self.seen.is_some()
    }

    /// The file and first byte of `wanted` when it is one contiguous run that needs no checking in this process.
    pub(crate) fn file_run(&self, wanted: &Region) -> Option<(&std::fs::File, u64)> {
        let file = self.elements.source.file()?;
        let is_run = Runs::new(&wanted.extent, &self.strides).outer.is_empty();
        (is_run && self.elements.strides.is_none()).then(|| (file, self.byte_offset(wanted)))
    }

    /// The bytes of `wanted`, where they are in this process's memory as one contiguous run.
    pub(crate) fn in_memory(&self, wanted: &Region) -> Option<&[u8]> {
        let memory = self.elements.source.memory()?;
        if wanted.is_empty() || self.elements.strides.is_some() {
            return None;
        }
        let runs = Runs::new(&wanted.extent, &self.strides);
        if !runs.outer.is_empty() {
            return None;
        }
        let from = self.byte_offset(wanted);
        let bytes = memory.get(from as usize..from as usize + runs.run as usize * self.block_bytes)?;
        self.sum(from, bytes);
        Some(bytes)
    }

    /// Reads `wanted` (in the tensor's coordinates, in blocks) into `target`, whose first byte is the box's first
    /// element; `target_strides` are in blocks. `scratch` is used as far as `scratch_bytes_max`. Returns the bytes
    /// fetched.
    pub(crate) fn read(
        &self,
        wanted: &Region,
        target: &mut [u8],
        target_strides: &[u64],
        scratch: &mut Vec<u8>,
        scratch_bytes_max: usize,
    ) -> Result<u64> {
        if wanted.is_empty() {
            return Ok(0);
        }
        let runs = Runs::new(&wanted.extent, &self.strides);
        let from = self.byte_offset(wanted);
        if runs.outer.is_empty() && same_order(&self.strides, target_strides, &wanted.extent) {
            let byte_len = runs.run as usize * self.block_bytes;
            self.fetch(from, &mut target[..byte_len])?;
            return Ok(byte_len as u64);
        }
        let apart = runs.are_apart(self.run_min());
        let mut run_extent = wanted.extent.clone();
        runs.outer.iter().for_each(|&dim| run_extent[dim] = 1);
        if apart && same_order(&self.strides, target_strides, &run_extent) {
            return self.read_runs(from, &runs, &wanted.extent, target, target_strides);
        }
        // What has to be picked apart comes here first: the runs one behind the other, or all from the first to the last.
        let mut strides = self.strides.clone();
        let mut byte_len = runs.span as usize * self.block_bytes;
        if apart {
            let mut elements = runs.run;
            for &dim in runs.outer.iter().rev() {
                strides[dim] = elements;
                elements *= wanted.extent[dim];
            }
            byte_len = elements as usize * self.block_bytes;
        }
        if byte_len > scratch_bytes_max {
            return self.read_halves(wanted, target, target_strides, scratch, scratch_bytes_max);
        }
        grow(scratch, byte_len);
        let here = &mut scratch[..byte_len];
        match apart {
            true => self.read_runs(from, &runs, &wanted.extent, here, &strides)?,
            false => self.fetch(from, here).map(|()| byte_len as u64)?,
        };
        copy_box(here, &strides, target, target_strides, &wanted.extent, self.block_bytes);
        Ok(byte_len as u64)
    }

    /// Reads every run on its own to where the strides say; within a run, elements lie as they do in the chunk.
    fn read_runs(
        &self,
        byte_offset: u64,
        runs: &Runs,
        extent: &[u64],
        target: &mut [u8],
        target_strides: &[u64],
    ) -> Result<u64> {
        let run_bytes = runs.run as usize * self.block_bytes;
        let mut at = vec![0u64; runs.outer.len()];
        let mut fetched = 0;
        loop {
            let (mut from, mut to) = (0, 0);
            for (&index, &dim) in at.iter().zip(&runs.outer) {
                from += index * self.strides[dim];
                to += index * target_strides[dim];
            }
            let to = to as usize * self.block_bytes;
            self.fetch(byte_offset + from * self.block_bytes as u64, &mut target[to..to + run_bytes])?;
            fetched += run_bytes as u64;
            let Some(position) =
                (0..at.len()).rev().find(|&position| at[position] + 1 < extent[runs.outer[position]])
            else {
                return Ok(fetched);
            };
            at[position] += 1;
            at[position + 1..].fill(0);
        }
    }

    /// Cuts the box in two along the dim that spans most bytes and reads the halves.
    fn read_halves(
        &self,
        wanted: &Region,
        target: &mut [u8],
        target_strides: &[u64],
        scratch: &mut Vec<u8>,
        scratch_bytes_max: usize,
    ) -> Result<u64> {
        let span = |dim: usize| (wanted.extent[dim] - 1) * self.strides[dim];
        let dim = (0..wanted.rank()).max_by_key(|&dim| span(dim)).unwrap_or(0);
        let mut halves = [wanted.clone(), wanted.clone()];
        halves[0].extent[dim] /= 2;
        halves[1].start[dim] += halves[0].extent[dim];
        halves[1].extent[dim] -= halves[0].extent[dim];
        let second = (halves[0].extent[dim] * target_strides[dim]) as usize * self.block_bytes;
        let first = self.read(&halves[0], target, target_strides, scratch, scratch_bytes_max)?;
        let rest = &mut target[second..];
        Ok(first + self.read(&halves[1], rest, target_strides, scratch, scratch_bytes_max)?)
    }

    fn fetch(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        self.elements.source.read_at(byte_offset, target)?;
        self.sum(byte_offset, target);
        Ok(())
    }

    /// Takes the checksum of bytes that were read, where there is one to compare with.
    fn sum(&self, byte_offset: u64, bytes: &[u8]) {
        if let Some(seen) = &self.seen {
            let crc = crc_fast::checksum(Crc32IsoHdlc, bytes) as u32;
            let part = (byte_offset - self.elements.byte_offset, bytes.len() as u64, crc);
            seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(part);
        }
    }

    /// Once every byte of the chunk has been read exactly once, compares their CRC-32 with the recorded one. Returns
    /// `(found, expected)` where they differ; `None` where they agree or nothing can be said.
    pub(crate) fn mismatch(&self) -> Option<(u32, u32)> {
        let expected = self.elements.crc32?;
        let mut seen = self.seen.as_ref()?.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let chunk_bytes = self.region.elements() * self.block_bytes as u64;
        seen.sort_unstable();
        let (mut end, mut crc) = (0, 0);
        for &(byte_offset, byte_len, part) in seen.iter() {
            if byte_offset != end {
                return None;
            }
            crc = crc_fast::checksum_combine(Crc32IsoHdlc, crc, part as u64, byte_len);
            end += byte_len;
        }
        (end == chunk_bytes && chunk_bytes > 0 && crc as u32 != expected).then_some((crc as u32, expected))
    }
}

/// Whether two arrays of this extent hold their elements at the same distances.
fn same_order(strides: &[u64], others: &[u64], extent: &[u64]) -> bool {
    (0..extent.len()).all(|dim| extent[dim] == 1 || strides[dim] == others[dim])
}

fn grow(scratch: &mut Vec<u8>, byte_len: usize) {
    if scratch.len() < byte_len {
        *scratch = vec![0; byte_len];
    }
}
