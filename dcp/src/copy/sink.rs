//! One object being written: its bytes, its checksums, its frames.

use super::compared::Compared;
use super::framing::Framing;
use super::job::Output;
use super::region_sums::{RegionSums, Strip, Sums};
use crate::error::{Error, Result};
use crate::format::{ChecksumKind, Draft, Frame, ObjectDraft, ObjectSums, Patch};
use crate::model::DType;
use crate::storage::{Key, ObjectWriter, Storage};
use crate::threads::lock;
use crc_fast::CrcAlgorithm::{Crc32IsoHdlc, Crc64Nvme};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

/// Largest piece of a compressed object, so that a small read decodes little.
pub(super) const FRAME_BYTES_MAX: u64 = 4 << 20;

/// A compressed piece of a placed region that is not written yet.
#[derive(Debug)]
pub(crate) struct NewFrame {
    placed: u32,
    region_offset: u64,
    byte_offset: u64,
    pub(crate) raw_bytes: u64,
    codec: u8,
    stored: Vec<u8>,
}

/// An object of a draft on its way to a store. Shared by the engine's threads.
#[derive(Debug)]
pub(crate) struct ObjectSink<'a> {
    draft: &'a dyn Draft,
    index: usize,
    store: &'a dyn Storage,
    key: Key,
    output: Output,
    writer: OnceLock<Box<dyn ObjectWriter>>,
    /// Held while the object is created, so that it is created once.
    creating: Mutex<()>,
    framing: Framing<'a>,
    regions: RegionSums,
    /// Checksums of blocks, by placed region.
    blocks: Mutex<HashMap<u32, Sums>>,
    frames: Mutex<Vec<(u32, u64, Frame)>>,
    /// Where the next frame goes.
    cursor: Mutex<u64>,
}

impl<'a> ObjectSink<'a> {
    pub(crate) fn new(
        (draft, index): (&'a dyn Draft, usize),
        (store, root): (&'a dyn Storage, &Key),
        output: Output,
    ) -> Result<Self> {
        let object = &draft.objects()[index];
        Ok(ObjectSink {
            draft,
            index,
            store,
            key: root.join(object.key.as_str())?,
            output,
            writer: OnceLock::new(),
            creating: Mutex::default(),
            framing: Framing::new(object),
            regions: RegionSums::default(),
            blocks: Mutex::default(),
            frames: Mutex::default(),
            cursor: Mutex::new(object.byte_len),
        })
    }

    fn object(&self) -> &'a ObjectDraft {
        &self.draft.objects()[self.index]
    }

    /// The writer, created with the object's first fixed bytes when first asked for.
    pub(crate) fn writer(&self) -> Result<&dyn ObjectWriter> {
        if let Some(writer) = self.writer.get() {
            return Ok(&**writer);
        }
        let _creating = lock(&self.creating);
        if self.writer.get().is_none() {
            let byte_len = (!self.draft.compressed()).then_some(self.object().byte_len);
            let writer = match self.output {
                Output::Write => self.store.create(&self.key, byte_len)?,
                Output::Compare => Box::new(Compared::open(self.store, &self.key, byte_len)?),
            };
            put(&*writer, self.framing.first())?;
            let _ = self.writer.set(writer);
        }
        self.writer.get().map(|writer| &**writer).ok_or(Error::Interrupted)
    }

    /// Writes part of placed region `placed`, `region_offset` bytes into it.
    pub(crate) fn write(&self, placed: u32, region_offset: u64, dtype: DType, bytes: &[u8]) -> Result<()> {
        let region = &self.object().placed[placed as usize];
        self.writer()?.write_at(region.byte_offset + region_offset, bytes)?;
        let mut strip = Strip { byte_offset: region_offset, byte_len: bytes.len() as u64, crc32: None };
        match self.draft.checksums() {
            ChecksumKind::None => {}
            ChecksumKind::Crc32 => strip.crc32 = Some(crc_fast::checksum(Crc32IsoHdlc, bytes) as u32),
            ChecksumKind::Crc64Blocks { block_bytes } => {
                let (mut at, mut rest) = (region_offset, bytes);
                while !rest.is_empty() {
                    let (block, after) =
                        rest.split_at(rest.len().min((block_bytes - at % block_bytes) as usize));
                    self.sum_block(placed, block_bytes, at, block);
                    at += block.len() as u64;
                    rest = after;
                }
            }
        }
        let region_bytes = dtype.bytes(region.region.elements()).unwrap_or(u64::MAX);
        if let Some(crc32) = self.regions.note(placed, strip, region_bytes) {
            self.complete(placed, crc32)?;
        }
        Ok(())
    }

    /// Writes what stands around a region whose bytes are all there, so that nothing waits for it until the end.
    fn complete(&self, placed: u32, crc32: u32) -> Result<()> {
        let writer = self.writer()?;
        put(writer, self.framing.around(placed))?;
        match self.draft.checksums() {
            ChecksumKind::Crc32 => {
                put(writer, &self.draft.late_of_region(self.index, placed as usize, crc32))
            }
            ChecksumKind::None | ChecksumKind::Crc64Blocks { .. } => Ok(()),
        }
    }

    fn sum_block(&self, placed: u32, block_bytes: u64, byte_offset: u64, bytes: &[u8]) {
        let crc = crc_fast::checksum(Crc64Nvme, bytes);
        let mut blocks = lock(&self.blocks);
        let sums = blocks.entry(placed).or_insert_with(|| Sums::new(Crc64Nvme, block_bytes));
        sums.add(byte_offset, bytes.len() as u64, crc);
    }

    /// Compresses part of placed region `placed`, `region_offset` bytes into it, in one frame or several.
    pub(crate) fn encode(
        &self,
        placed: u32,
        region_offset: u64,
        dtype: DType,
        bytes: &[u8],
    ) -> Vec<NewFrame> {
        // Frames hold whole elements: their bytes are sorted by significance first.
        let frame_bytes = FRAME_BYTES_MAX - FRAME_BYTES_MAX % dtype.block_bytes();
        let offsets = (region_offset..).step_by(frame_bytes as usize);
        let frame = |(region_offset, raw): (u64, &[u8])| {
            let mut stored = Vec::with_capacity(raw.len());
            let codec = self.draft.encode(dtype, raw, &mut stored);
            stored.shrink_to_fit();
            NewFrame { placed, region_offset, byte_offset: 0, raw_bytes: raw.len() as u64, codec, stored }
        };
        offsets.zip(bytes.chunks(frame_bytes as usize)).map(frame).collect()
    }

    /// Gives a frame the next place in the object.
    pub(crate) fn place(&self, frame: &mut NewFrame) {
        let mut cursor = lock(&self.cursor);
        frame.byte_offset = *cursor;
        *cursor += frame.stored.len() as u64;
    }

    /// Writes a frame to its place.
    pub(crate) fn append(&self, frame: NewFrame) -> Result<u64> {
        let NewFrame { placed, region_offset, byte_offset, raw_bytes, codec, stored } = frame;
        self.writer()?.write_at(byte_offset, &stored)?;
        let crc64 = crc_fast::checksum(Crc64Nvme, &stored);
        let stored_bytes = stored.len() as u64;
        let frame = Frame { byte_offset, stored_bytes, raw_bytes, codec, crc64 };
        lock(&self.frames).push((placed, region_offset, frame));
        Ok(stored_bytes)
    }

    /// Writes what depends on the data, makes the object durable and visible, and returns what was measured.
    pub(crate) fn finish(self) -> Result<ObjectSums> {
        let sums = self.sums()?;
        let writer = self.writer()?;
        put(writer, self.framing.rest())?;
        put(writer, &self.draft.late(self.index, &sums))?;
        self.writer.into_inner().ok_or(Error::Interrupted)?.finish()?;
        Ok(sums)
    }

    fn sums(&self) -> Result<ObjectSums> {
        let placed = &self.object().placed;
        let mut sums = ObjectSums { byte_len: *lock(&self.cursor), ..ObjectSums::default() };
        match self.draft.checksums() {
            ChecksumKind::None => {}
            ChecksumKind::Crc32 => {
                for (index, (crc32, complete)) in (0..).zip(self.regions.finish(placed.len())) {
                    // A region without bytes is never written to, but may have framing that waits for it.
                    if !complete {
                        self.complete(index, crc32)?;
                    }
                    sums.crc32.push(crc32);
                }
            }
            ChecksumKind::Crc64Blocks { .. } => {
                let blocks = lock(&self.blocks);
                let of =
                    |placed| blocks.get(&placed).map(|sums| sums.iter().map(|(_, _, crc)| crc).collect());
                sums.blocks = (0..placed.len() as u32).map(|placed| of(placed).unwrap_or_default()).collect();
            }
        }
        if self.draft.compressed() {
            let mut frames = std::mem::take(&mut *lock(&self.frames));
            frames.sort_unstable_by_key(|&(placed, region_offset, _)| (placed, region_offset));
            sums.frames = vec![Vec::new(); placed.len()];
            frames.into_iter().for_each(|(placed, _, frame)| sums.frames[placed as usize].push(frame));
        }
        Ok(sums)
    }
}

fn put<'p>(writer: &dyn ObjectWriter, patches: impl IntoIterator<Item = &'p Patch>) -> Result<()> {
    patches.into_iter().try_for_each(|patch| writer.write_at(patch.byte_offset, &patch.bytes))
}
