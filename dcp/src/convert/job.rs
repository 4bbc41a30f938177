//! The job folder of a destination: what is being made there, and checksums that no record holds yet.
//!
//! Two kinds of small JSON objects, each created once and never changed:
//!
//! ```text
//! {"format":"titan-job","version":1,"digest":"<64 hex digits>","source":"...","to":"titan","objects":8,"byte_len":123,
//!  "producer":"titan-ckpt 0.1.0"}
//! {"format":"titan-job-sums","version":1,"digest":"<the same>","object":3,"sums":{...}}
//! ```
//!
//! `digest` alone decides whether a destination is that of this command; the rest is for people.

use crate::commit::{READ_BYTES_MAX, put_same};
use crate::error::{Error, Result};
use crate::format::{Frame, ObjectSums, job_folder};
use crate::storage::{Key, Place};
use serde::{Deserialize, Serialize};

/// Largest marker that is read.
const MARKER_BYTES_MAX: u64 = 1 << 20;
const FORMAT: &str = "titan-job";
const SUMS_FORMAT: &str = "titan-job-sums";
const VERSION: u64 = 1;

/// The folder, seen by a task whose plan has this digest.
#[derive(Debug)]
pub(super) struct JobFolder {
    place: Place,
    marker: Marker,
}

/// What a marker says.
#[derive(Serialize, Deserialize, Debug)]
struct Marker {
    format: String,
    version: u64,
    digest: String,
    source: String,
    to: String,
    objects: usize,
    byte_len: u64,
    producer: String,
}

#[derive(Serialize, Deserialize)]
struct SumsDocument {
    format: String,
    version: u64,
    digest: String,
    object: usize,
    sums: SumsRecord,
}

#[derive(Serialize, Deserialize)]
struct SumsRecord {
    crc32: Vec<u32>,
    blocks: Vec<Vec<u64>>,
    frames: Vec<Vec<FrameRecord>>,
    byte_len: u64,
}

/// Byte offset, stored bytes, raw bytes, codec, CRC-64 of the stored bytes.
#[derive(Serialize, Deserialize)]
struct FrameRecord(u64, u64, u64, u8, u64);

impl JobFolder {
    /// The folder of a destination. `source`, `to`, `objects` and `byte_len` are for people.
    pub(super) fn new(
        place: &Place,
        digest: String,
        source: String,
        to: &str,
        (objects, byte_len): (usize, u64),
    ) -> Self {
        let marker = Marker {
            format: FORMAT.to_owned(),
            version: VERSION,
            digest,
            source,
            to: to.to_owned(),
            objects,
            byte_len,
            producer: concat!("titan-ckpt ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        JobFolder { place: place.clone(), marker }
    }

    /// Whether there is a marker; one with this digest.
    ///
    /// Errors: [`Error::OtherJob`] for one with another; [`Error::Malformed`], [`Error::TooNew`].
    pub(super) fn is_marked(&self) -> Result<bool> {
        let key = self.place.key.join(job_folder::MARKER)?;
        let bytes = match self.place.store.get(&key, MARKER_BYTES_MAX) {
            Err(Error::NotFound { .. }) => return Ok(false),
            bytes => bytes?,
        };
        let object = self.place.store.display(&key);
        let found: Marker = serde_json::from_slice(&bytes)
            .map_err(|error| Error::malformed(&object, "marker of a job", error.to_string()))?;
        if found.version > VERSION {
            let (found, known) = (found.version.to_string(), VERSION.to_string());
            return Err(Error::TooNew { object, found, known });
        }
        if found.digest == self.marker.digest {
            return Ok(true);
        }
        let Marker { source, to, objects, byte_len, producer, .. } = found;
        let found = format!("{to} in {objects} objects of {byte_len} bytes, from {source}, by {producer}");
        let same = source == self.marker.source && to == self.marker.to && producer == self.marker.producer;
        let found =
            if same { format!("{found}, with other options or another state of the source") } else { found };
        Err(Error::OtherJob { root: self.place.display(), found })
    }

    /// Creates the marker.
    ///
    /// Errors: [`Error::AlreadyExists`]; what writing gives.
    pub(super) fn mark(&self) -> Result<()> {
        let mut bytes = serde_json::to_vec(&self.marker).expect("strings and integers");
        bytes.push(b'\n');
        self.place.store.put(&self.place.key.join(job_folder::MARKER)?, &bytes)
    }

    /// Keeps the checksums of an object.
    ///
    /// Errors: [`Error::Differs`] where others are there; what writing gives.
    pub(super) fn put_sums(&self, object: usize, sums: &ObjectSums) -> Result<()> {
        let record = |frame: &Frame| {
            let Frame { byte_offset, stored_bytes, raw_bytes, codec, crc64 } = *frame;
            FrameRecord(byte_offset, stored_bytes, raw_bytes, codec, crc64)
        };
        let document = SumsDocument {
            format: SUMS_FORMAT.to_owned(),
            version: VERSION,
            digest: self.marker.digest.clone(),
            object,
            sums: SumsRecord {
                crc32: sums.crc32.clone(),
                blocks: sums.blocks.clone(),
                frames: sums.frames.iter().map(|frames| frames.iter().map(record).collect()).collect(),
                byte_len: sums.byte_len,
            },
        };
        let mut bytes = serde_json::to_vec(&document).expect("strings and integers");
        bytes.push(b'\n');
        put_same(&self.place, &Key::new(job_folder::sums(object))?, &bytes)
    }

    /// The checksums of an object.
    ///
    /// Errors: [`Error::NotFound`]; [`Error::Malformed`] for those of another object or job.
    pub(super) fn sums(&self, object: usize) -> Result<ObjectSums> {
        let key = self.place.key.join(&job_folder::sums(object))?;
        let bytes = self.place.store.get(&key, READ_BYTES_MAX)?;
        let malformed =
            |why: String| Error::malformed(self.place.store.display(&key), "checksums of a job", why);
        let found: SumsDocument =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if found.object != object || found.digest != self.marker.digest {
            return Err(malformed(format!("they are of object {} of job {}", found.object, found.digest)));
        }
        let SumsRecord { crc32, blocks, frames, byte_len } = found.sums;
        let frame = |FrameRecord(byte_offset, stored_bytes, raw_bytes, codec, crc64)| Frame {
            byte_offset,
            stored_bytes,
            raw_bytes,
            codec,
            crc64,
        };
        let frames = frames.into_iter().map(|frames| frames.into_iter().map(frame).collect()).collect();
        Ok(ObjectSums { crc32, blocks, frames, byte_len })
    }

    /// Removes the folder from a destination that is a checkpoint, the marker last.
    pub(super) fn clear(&self) -> Result<()> {
        let folder = self.place.key.join(job_folder::FOLDER)?;
        let marker = self.place.key.join(job_folder::MARKER)?;
        let listed = self.place.store.list(&folder)?;
        for object in listed.iter().filter(|object| object.key != marker) {
            self.place.store.remove(&object.key)?;
        }
        self.place.store.remove(&marker).map(drop)
    }
}
