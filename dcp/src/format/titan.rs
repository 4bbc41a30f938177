//! `titan`: the native format. `docs/format-titan.md` is its specification.
//!
//! ```text
//! titan-0000.json                      manifest: created last, and only if absent; its presence is the commit
//! <attempt>/r00000-0000.safetensors    shard: boxes of tensors, one or more shards per writer
//! <attempt>/r00000-0000.frames         instead of a shard, where the checkpoint is compressed
//! <attempt>/r00000.part.json           part record: checksums of the writer's objects
//! ```
//!
//! The manifest says which mesh axis cuts which tensor how, not where every box is. From that one pure function
//! ([`shard::lay_out`]) computes what each writer holds and where, for writers and readers alike; so the manifest does
//! not grow with ranks x tensors.
//!
//! | module | concept |
//! |---|---|
//! | [`table`], [`placement`], [`fit`] | who writes which box |
//! | [`shard`], [`header`] | where in the writer's objects it goes |
//! | [`manifest`], [`manifest_check`], [`part`], [`value`], [`json`], [`names`] | the bytes around the data |
//! | [`draft`] | writing |
//! | [`reader`], [`index`], [`blocks`], [`recent`], [`verify`] | reading |
//! | [`codec`], [`frames`] | compression |

mod blocks;
mod codec;
mod draft;
mod fit;
mod frames;
mod header;
mod index;
mod json;
mod manifest;
mod manifest_check;
mod names;
mod part;
mod placement;
mod reader;
mod recent;
mod shard;
mod table;
#[cfg(test)]
mod tests;
mod value;
mod verify;

use super::{Candidate, Draft, Format, Reader, Slot, Target, WriteOptions};
use crate::error::Result;
use std::sync::Arc;

/// The format's name.
pub(crate) const FORMAT_NAME: &str = "titan";
/// The version written, and the last one read.
const VERSION: u64 = 1;
/// Bytes of a checksummed block, as written.
const BLOCK_BYTES: u64 = 1 << 20;

/// The format; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Titan;

impl Format for Titan {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn probe(&self, candidate: &Candidate) -> bool {
        candidate.files().any(|(name, _)| self.is_committed_by(name))
    }

    fn is_committed_by(&self, name: &str) -> bool {
        names::generation(name).is_some()
    }

    fn owns(&self, name: &str) -> bool {
        self.is_committed_by(name) || names::is_of_attempt(name)
    }

    fn slot_name(&self, generation: u32) -> Option<String> {
        (generation <= names::GENERATION_MAX).then(|| names::manifest(generation))
    }

    fn slot_generation(&self, name: &str) -> Option<u32> {
        names::generation(name)
    }

    fn read_slot(&self, object: &str, bytes: &[u8]) -> Result<Slot> {
        manifest::kind(object, bytes)
    }

    fn abandoned(&self, generation: u32) -> Option<Vec<u8>> {
        Some(manifest::abandoned(generation))
    }

    fn open(&self, candidate: &Candidate) -> Result<Arc<dyn Reader>> {
        Ok(Arc::new(reader::open(candidate)?))
    }

    fn draft(&self, target: &Target, options: &WriteOptions) -> Result<Box<dyn Draft>> {
        Ok(Box::new(draft::draft(target, options)?))
    }
}

/// CRC-64/NVME.
fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}
