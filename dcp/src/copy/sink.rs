//! One object being written: its bytes, its checksums, its frames.

use crate::error::{Error, Result};
use crate::format::{ChecksumKind, Draft, Frame, ObjectDraft, ObjectSums};
use crate::model::DType;
use crate::storage::{Key, ObjectWriter, Storage};
use crate::threads::lock;
use crc_fast::CrcAlgorithm::{self, Crc32IsoHdlc, Crc64Nvme};
use std::sync::{Mutex, OnceLock};

/// Checksum of part of a placed region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Part {
    placed: u32,
    /// Position in the region's bytes.
    byte_offset: u64,
    byte_len: u64,
    crc: u64,
}

/// An object of a draft on its way to a store. Shared by the engine's threads.
#[derive(Debug)]
pub(crate) struct ObjectSink<'a> {
    draft: &'a dyn Draft,
    index: usize,
    store: &'a dyn Storage,
    key: Key,
    writer: OnceLock<Box<dyn ObjectWriter>>,
    /// Held while the object is created, so that it is created once.
    creating: Mutex<()>,
    parts: Mutex<Vec<Part>>,
    frames: Mutex<Vec<(u32, u64, Frame)>>,
    /// Where the next frame goes.
    cursor: Mutex<u64>,
}

impl<'a> ObjectSink<'a> {
    pub(crate) fn new(
        draft: &'a dyn Draft,
        index: usize,
        store: &'a dyn Storage,
        root: &Key,
    ) -> Result<Self> {
        let object = &draft.objects()[index];
        Ok(ObjectSink {
            draft,
            index,
            store,
            key: root.join(object.key.as_str())?,
            writer: OnceLock::new(),
            creating: Mutex::default(),
            parts: Mutex::default(),
            frames: Mutex::default(),
            cursor: Mutex::new(object.byte_len),
        })
    }

    fn object(&self) -> &ObjectDraft {
        &self.draft.objects()[self.index]
    }

    /// The writer, created with the object's fixed bytes when first asked for.
    pub(crate) fn writer(&self) -> Result<&dyn ObjectWriter> {
        if let Some(writer) = self.writer.get() {
            return Ok(&**writer);
        }
        let _creating = lock(&self.creating);
        if self.writer.get().is_none() {
            let byte_len = (!self.draft.compressed()).then_some(self.object().byte_len);
            let writer = self.store.create(&self.key, byte_len)?;
            for patch in &self.object().fixed {
                writer.write_at(patch.byte_offset, &patch.bytes)?;
            }
            let _ = self.writer.set(writer);
        }
        self.writer.get().map(|writer| &**writer).ok_or(Error::Interrupted)
    }

    /// Writes part of placed region `placed`, `region_offset` bytes into it.
    pub(crate) fn write(&self, placed: u32, region_offset: u64, dtype: DType, bytes: &[u8]) -> Result<u64> {
        if self.draft.compressed() {
            return self.append(placed, region_offset, dtype, bytes);
        }
        match self.draft.checksums() {
            ChecksumKind::None => {}
            ChecksumKind::Crc32 => self.sum(placed, region_offset, Crc32IsoHdlc, bytes),
            ChecksumKind::Crc64Blocks { block_bytes } => {
                let (mut at, mut rest) = (region_offset, bytes);
                while !rest.is_empty() {
                    let (block, after) =
                        rest.split_at(rest.len().min((block_bytes - at % block_bytes) as usize));
                    self.sum(placed, at, Crc64Nvme, block);
                    at += block.len() as u64;
                    rest = after;
                }
            }
        }
        let byte_offset = self.object().placed[placed as usize].byte_offset + region_offset;
        self.writer()?.write_at(byte_offset, bytes)?;
        Ok(bytes.len() as u64)
    }

    fn sum(&self, placed: u32, byte_offset: u64, algorithm: CrcAlgorithm, bytes: &[u8]) {
        let crc = crc_fast::checksum(algorithm, bytes);
        lock(&self.parts).push(Part { placed, byte_offset, byte_len: bytes.len() as u64, crc });
    }

    fn append(&self, placed: u32, region_offset: u64, dtype: DType, bytes: &[u8]) -> Result<u64> {
        let mut stored = Vec::with_capacity(bytes.len());
        let codec = self.draft.encode(dtype, bytes, &mut stored);
        let byte_offset = {
            let mut cursor = lock(&self.cursor);
            let byte_offset = *cursor;
            *cursor += stored.len() as u64;
            byte_offset
        };
        self.writer()?.write_at(byte_offset, &stored)?;
        let crc64 = crc_fast::checksum(Crc64Nvme, &stored);
        let (stored_bytes, raw_bytes) = (stored.len() as u64, bytes.len() as u64);
        let frame = Frame { byte_offset, stored_bytes, raw_bytes, codec, crc64 };
        lock(&self.frames).push((placed, region_offset, frame));
        Ok(stored_bytes)
    }

    /// Writes what depends on the data, makes the object durable and visible, and returns what was measured.
    pub(crate) fn finish(self) -> Result<ObjectSums> {
        let sums = self.sums();
        let writer = self.writer()?;
        for patch in self.draft.late(self.index, &sums) {
            writer.write_at(patch.byte_offset, &patch.bytes)?;
        }
        self.writer.into_inner().ok_or(Error::Interrupted)?.finish()?;
        Ok(sums)
    }

    fn sums(&self) -> ObjectSums {
        let placed = &self.object().placed;
        let mut sums = ObjectSums { byte_len: *lock(&self.cursor), ..ObjectSums::default() };
        let mut parts = std::mem::take(&mut *lock(&self.parts));
        parts.sort_unstable();
        match self.draft.checksums() {
            ChecksumKind::None => {}
            ChecksumKind::Crc32 => {
                sums.crc32 = vec![0; placed.len()];
                for part in parts {
                    let crc = &mut sums.crc32[part.placed as usize];
                    let joined =
                        crc_fast::checksum_combine(Crc32IsoHdlc, u64::from(*crc), part.crc, part.byte_len);
                    *crc = joined as u32;
                }
            }
            ChecksumKind::Crc64Blocks { block_bytes } => {
                sums.blocks = vec![Vec::new(); placed.len()];
                for part in parts {
                    let blocks = &mut sums.blocks[part.placed as usize];
                    match blocks.last_mut() {
                        Some(last) if part.byte_offset % block_bytes != 0 => {
                            *last = crc_fast::checksum_combine(Crc64Nvme, *last, part.crc, part.byte_len);
                        }
                        _ => blocks.push(part.crc),
                    }
                }
            }
        }
        if self.draft.compressed() {
            let mut frames = std::mem::take(&mut *lock(&self.frames));
            frames.sort_unstable_by_key(|&(placed, region_offset, _)| (placed, region_offset));
            sums.frames = vec![Vec::new(); placed.len()];
            frames.into_iter().for_each(|(placed, _, frame)| sums.frames[placed as usize].push(frame));
        }
        sums
    }
}
