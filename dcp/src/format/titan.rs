//! `titan`: the native format. A folder per step:
//!
//! | object | content |
//! |---|---|
//! | `titan-GGGG.json` | the manifest; created last, and its presence is the commit |
//! | `ATTEMPT/rRRRRR-SSSS.safetensors` | tensors of writer RRRRR, ordinary safetensors files |
//! | `ATTEMPT/rRRRRR.part.json` | checksums of that writer's files |
//!
//! The highest generation GGGG whose kind is `commit` counts. ATTEMPT is 32 hex digits.

mod blocks;
mod draft;
mod fit;
mod header;
mod index;
mod json;
mod manifest;
mod part;
mod placement;
mod reader;
mod recent;
mod shard;
mod table;
#[cfg(test)]
mod tests;
mod value;

use super::{Candidate, Draft, Format, Reader, Target, WriteOptions};
use crate::error::Result;
use std::sync::Arc;

/// The format's name.
const FORMAT_NAME: &str = "titan";
/// The major version that this program writes, and the last it reads.
const VERSION: u64 = 1;

/// CRC-64/NVME.
fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// Generation of a manifest, from its name.
fn generation(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("titan-")?.strip_suffix(".json")?;
    let plain = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// The format; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Titan;

impl Format for Titan {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn probe(&self, candidate: &Candidate) -> bool {
        candidate.file.is_none() && candidate.files().any(|(name, _)| generation(name).is_some())
    }

    fn open(&self, candidate: &Candidate) -> Result<Arc<dyn Reader>> {
        reader::open(candidate)
    }

    fn draft(&self, target: &Target, options: &WriteOptions) -> Result<Box<dyn Draft>> {
        Ok(Box::new(draft::draft(target, options)?))
    }
}
