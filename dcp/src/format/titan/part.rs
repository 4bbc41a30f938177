//! The part record of one writer: the checksums of its objects. `docs/format-titan.md` section 5.

use super::json::{Bounded, Hex64};
use super::manifest::WriterRow;
use super::shard::{Span, WriterLayout};
use super::{VERSION, crc64};
use crate::error::{Error, Result};
use crate::format::Frame;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Largest part record.
pub(crate) const PART_BYTES_MAX: u64 = 256 << 20;
/// Largest frame once decoded.
pub(crate) const FRAME_BYTES_MAX: u64 = 16 << 20;
/// What `format` says.
const PART_FORMAT: &str = "titan-part";
/// What error messages call it.
const WHAT: &str = "titan part record";

/// Checksums of one writer's objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) objects: Vec<PartObject>,
}

/// Checksums of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PartObject {
    /// A safetensors file.
    Plain {
        /// CRC-64/NVME of all bytes before the first byte of tensor data.
        header_crc64: u64,
        /// CRC-64/NVME of every block of every box, boxes in stored order.
        blocks: Vec<u64>,
    },
    /// Compressed frames, one list per box, boxes in stored order.
    Frames(Vec<Vec<Frame>>),
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: String,
    version: u64,
    attempt: String,
    writer: u32,
    objects: Bounded<ObjectRecord, 65_536>,
}

#[derive(Serialize, Deserialize)]
struct ObjectRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header_crc64: Option<Hex64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocks: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<Vec<Vec<FrameRecord>>>,
}

/// Byte offset, stored bytes, raw bytes, codec, CRC-64 of the stored bytes.
#[derive(Serialize, Deserialize)]
struct FrameRecord(u64, u64, u64, u8, Hex64);

/// The bytes of a part record.
pub(crate) fn encode(attempt: &str, writer: u32, part: &Part) -> Vec<u8> {
    let objects = part.objects.iter().map(|object| match object {
        PartObject::Plain { header_crc64, blocks } => {
            let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.to_le_bytes()).collect();
            let blocks = Some(STANDARD.encode(bytes));
            ObjectRecord { header_crc64: Some(Hex64(*header_crc64)), blocks, frames: None }
        }
        PartObject::Frames(boxes) => {
            let record = |frame: &Frame| {
                let Frame { byte_offset, stored_bytes, raw_bytes, codec, crc64 } = *frame;
                FrameRecord(byte_offset, stored_bytes, raw_bytes, codec, Hex64(crc64))
            };
            let frames = boxes.iter().map(|frames| frames.iter().map(record).collect()).collect();
            ObjectRecord { header_crc64: None, blocks: None, frames: Some(frames) }
        }
    });
    let document = Document {
        format: PART_FORMAT.to_owned(),
        version: VERSION,
        attempt: attempt.to_owned(),
        writer,
        objects: Bounded(objects.collect()),
    };
    let mut bytes = serde_json::to_vec(&document).expect("strings and integers");
    bytes.push(b'\n');
    bytes
}

/// Stored bytes of each object of a compressed checkpoint, zero of others, from a part record that has just been written.
/// Its checksums are not looked at.
///
/// Errors: [`Error::Malformed`] for a record of another attempt, writer or number of objects.
pub(crate) fn stored_bytes(
    object: &str,
    bytes: &[u8],
    attempt: &str,
    writer: u32,
    objects: usize,
) -> Result<Vec<u64>> {
    let malformed = |why: String| Error::malformed(object, WHAT, why);
    let document: Document = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let Document { attempt: found, writer: of, objects: records, .. } = document;
    if found != attempt || of != writer || records.0.len() != objects {
        let found = format!("{} objects of writer {of} of attempt {found:?}", records.0.len());
        return Err(malformed(format!(
            "it is of {found}, expected {objects} of writer {writer} of {attempt:?}"
        )));
    }
    let stored = |record: ObjectRecord| {
        record.frames.iter().flatten().flatten().map(|FrameRecord(_, stored, ..)| stored).sum()
    };
    Ok(records.0.into_iter().map(stored).collect())
}

/// What a part record is checked against.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    /// Names the record in errors.
    pub(crate) object: &'a str,
    pub(crate) attempt: &'a str,
    pub(crate) writer: u32,
    pub(crate) row: &'a WriterRow,
    pub(crate) layout: &'a WriterLayout,
    /// For a compressed checkpoint, the raw length of every box of every object, in stored order.
    pub(crate) box_bytes: Option<Vec<Vec<u64>>>,
}

impl Expected<'_> {
    /// Reads and checks a part record.
    ///
    /// Errors: [`Error::Damaged`] where its checksum is not the manifest's; [`Error::Malformed`].
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Part> {
        let malformed = |why: String| Error::malformed(self.object, WHAT, why);
        self.check_bytes(bytes)?;
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if document.format != PART_FORMAT {
            return Err(malformed(format!("`format` is {:?}, expected {PART_FORMAT:?}", document.format)));
        }
        if document.version > VERSION {
            let (found, known) = (document.version.to_string(), VERSION.to_string());
            return Err(Error::TooNew { object: self.object.to_owned(), found, known });
        }
        if document.attempt != self.attempt || document.writer != self.writer {
            return Err(malformed(format!(
                "it is of writer {} of attempt {:?}, expected writer {} of {:?}",
                document.writer, document.attempt, self.writer, self.attempt
            )));
        }
        let records = document.objects.0;
        if records.len() != self.layout.spans.len() {
            return Err(malformed(format!(
                "{} objects, expected {}",
                records.len(),
                self.layout.spans.len()
            )));
        }
        let objects = records.into_iter().enumerate().map(|(sequence, record)| {
            self.check_object(sequence, record).map_err(|why| malformed(format!("object {sequence}: {why}")))
        });
        Ok(Part { objects: objects.collect::<Result<_>>()? })
    }

    fn check_bytes(&self, bytes: &[u8]) -> Result<()> {
        let expected = self.row.part_crc64;
        let found = crc64(bytes);
        if bytes.len() as u64 == self.row.part_byte_len && found == expected {
            return Ok(());
        }
        Err(Error::Damaged {
            object: self.object.to_owned(),
            from: 0,
            until: bytes.len() as u64,
            found: format!("{} bytes of CRC-64 {found:016x}", bytes.len()),
            expected: format!("{} bytes of {expected:016x}", self.row.part_byte_len),
            fqn_note: String::new(),
        })
    }

    fn check_object(&self, sequence: usize, record: ObjectRecord) -> Result<PartObject, String> {
        let span = self.layout.spans[sequence];
        let box_bytes = self.box_bytes.as_ref().map(|objects| &objects[sequence][..]);
        match (record.header_crc64, record.blocks, record.frames, box_bytes) {
            (Some(Hex64(header_crc64)), Some(blocks), None, None) => {
                let blocks = check_blocks(&blocks, span)?;
                Ok(PartObject::Plain { header_crc64, blocks })
            }
            (None, None, Some(frames), Some(box_bytes)) => {
                let object_bytes = self.row.objects.get(sequence).map_or(0, |&(byte_len, _)| byte_len);
                check_frames(frames, box_bytes, object_bytes).map(PartObject::Frames)
            }
            (.., None) => Err("expected `header_crc64` and `blocks`".to_owned()),
            (.., Some(_)) => Err("expected `frames`".to_owned()),
        }
    }
}

fn check_blocks(text: &str, span: Span) -> Result<Vec<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("blocks: {error}"))?;
    if bytes.len() as u64 != 8 * u64::from(span.blocks) {
        return Err(format!(
            "{} bytes of block checksums, expected {}",
            bytes.len(),
            8 * u64::from(span.blocks)
        ));
    }
    let (sums, _) = bytes.as_chunks::<8>();
    Ok(sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect())
}

fn check_frames(
    records: Vec<Vec<FrameRecord>>,
    box_bytes: &[u64],
    object_bytes: u64,
) -> Result<Vec<Vec<Frame>>, String> {
    if records.len() != box_bytes.len() {
        return Err(format!("frames of {} boxes, expected {}", records.len(), box_bytes.len()));
    }
    let mut boxes = Vec::with_capacity(records.len());
    for (records, &expected) in records.into_iter().zip(box_bytes) {
        let mut raw_sum = 0u64;
        let mut frames = Vec::with_capacity(records.len());
        for FrameRecord(byte_offset, stored_bytes, raw_bytes, codec, Hex64(crc64)) in records {
            let inside = byte_offset.checked_add(stored_bytes).is_some_and(|end| end <= object_bytes);
            if !inside || stored_bytes > raw_bytes || !(1..=FRAME_BYTES_MAX).contains(&raw_bytes) {
                return Err(format!(
                    "frame of {stored_bytes} bytes for {raw_bytes} at byte {byte_offset} of {object_bytes}"
                ));
            }
            raw_sum = raw_sum.saturating_add(raw_bytes);
            frames.push(Frame { byte_offset, stored_bytes, raw_bytes, codec, crc64 });
        }
        if raw_sum != expected {
            return Err(format!("frames hold {raw_sum} bytes of a box of {expected}"));
        }
        boxes.push(frames);
    }
    Ok(boxes)
}
