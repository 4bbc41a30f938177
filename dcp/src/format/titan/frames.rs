//! One box of a compressed object, read as the bytes it holds.

use super::part::{Part, PartObject};
use super::recent::Recent;
use super::{codec, crc64};
use crate::error::{Error, Result};
use crate::format::Frame;
use crate::model::{DType, Fqn};
use crate::storage::ReadAt;
use std::sync::Arc;

/// The bytes of one box. A read decodes the frames it touches; the last few decoded are kept.
#[derive(Debug)]
pub(crate) struct FrameBox {
    fqn: Fqn,
    dtype: DType,
    /// Names the object in errors.
    name: String,
    /// Position of the object among all objects.
    object: u32,
    source: Arc<dyn ReadAt>,
    /// First raw byte of every frame, and the frame.
    frames: Vec<(u64, Frame)>,
    byte_len: u64,
    recent: Arc<Recent>,
}

/// What a [`FrameBox`] is made from.
#[derive(Debug)]
pub(crate) struct FrameSource {
    pub(crate) fqn: Fqn,
    pub(crate) dtype: DType,
    pub(crate) name: String,
    pub(crate) object: u32,
    pub(crate) source: Arc<dyn ReadAt>,
    pub(crate) recent: Arc<Recent>,
}

impl FrameBox {
    /// The box at `position` of the object at `sequence` of a part record; without frames where the part has none.
    pub(crate) fn new(from: FrameSource, part: &Part, sequence: u16, position: u32) -> Self {
        let FrameSource { fqn, dtype, name, object, source, recent } = from;
        let frames = match part.objects.get(sequence as usize) {
            Some(PartObject::Frames(boxes)) => boxes.get(position as usize).map_or(&[][..], |frames| frames),
            _ => &[],
        };
        let mut byte_len = 0;
        let frames = frames
            .iter()
            .map(|frame| {
                let first = byte_len;
                byte_len += frame.raw_bytes;
                (first, *frame)
            })
            .collect();
        FrameBox { fqn, dtype, name, object, source, frames, byte_len, recent }
    }

    /// One frame, read, checked and decoded.
    fn decode(&self, frame: &Frame) -> Result<Vec<u8>> {
        let mut stored = vec![0; frame.stored_bytes as usize];
        self.read_stored(frame, &mut stored)?;
        codec::decode(frame.codec, self.dtype, &stored, frame.raw_bytes as usize).map_err(|why| {
            let why = format!("frame at byte {} of {}: {why}", frame.byte_offset, self.fqn);
            Error::malformed(&self.name, "compressed object", why)
        })
    }

    fn read_stored(&self, frame: &Frame, stored: &mut [u8]) -> Result<()> {
        self.source.read_at(frame.byte_offset, stored)?;
        match crc64(stored) {
            found if found == frame.crc64 => Ok(()),
            found => Err(Error::Damaged {
                object: self.name.clone(),
                from: frame.byte_offset,
                until: frame.byte_offset + frame.stored_bytes,
                found: format!("CRC-64 {found:016x}"),
                expected: format!("{:016x}", frame.crc64),
                fqn_note: format!(", part of {}", self.fqn),
            }),
        }
    }
}

impl ReadAt for FrameBox {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let until = byte_offset.saturating_add(target.len() as u64);
        if until > self.byte_len {
            return Err(Error::Truncated {
                object: self.name.clone(),
                found: self.byte_len,
                expected: until,
            });
        }
        let (mut at, mut rest) = (byte_offset, target);
        let first = self.frames.partition_point(|(first, frame)| first + frame.raw_bytes <= at);
        for (first, frame) in &self.frames[first..] {
            if rest.is_empty() {
                break;
            }
            let skip = (at - first) as usize;
            let taken = rest.len().min(frame.raw_bytes as usize - skip);
            let (bytes, after) = rest.split_at_mut(taken);
            if taken as u64 == frame.raw_bytes
                && frame.codec == codec::RAW
                && frame.stored_bytes == frame.raw_bytes
            {
                self.read_stored(frame, bytes)?;
            } else {
                let decoded = self.recent.get((self.object, frame.byte_offset), || self.decode(frame))?;
                bytes.copy_from_slice(&decoded[skip..skip + taken]);
            }
            at += taken as u64;
            rest = after;
        }
        Ok(())
    }

    fn granularity(&self) -> u64 {
        // Never 1, which would say that nothing is checked.
        self.frames.iter().map(|(_, frame)| frame.raw_bytes).max().unwrap_or(0).max(2)
    }

    fn read_cost_bytes(&self) -> u64 {
        self.source.read_cost_bytes() + self.granularity()
    }
}
