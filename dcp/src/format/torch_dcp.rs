//! `dcp`: PyTorch Distributed Checkpoint, as `torch.distributed.checkpoint.save` writes it.
//!
//! | file | content |
//! |---|---|
//! | `.metadata` | a pickle: every name, every chunk's box, and where its item is; written last |
//! | `__RANK_NUMBER.distcp` | items one after the other, without anything around them |
//! | `__RANK.metadata` | the same of one rank, in place of `.metadata`, for `save(use_collectives=False)` (2.9 on) |
//!
//! An item is a whole `torch.save` archive: of one chunk of a tensor, or of one value. Two variants: items that are a
//! zstd frame around that archive (`stream.zstd/1`, 2.7 on), and data files that are safetensors files (2.8 on), whose
//! recorded positions are wrong and found anew by name.
//!
//! Source: torch/distributed/checkpoint/{filesystem,metadata,planner_helpers,default_planner}.py, PyTorch 2.4 to 2.15
//! (fixtures of 2.4.1, 2.11.0 and 2.15.0).

mod catalog;
mod draft;
mod encode;
mod metadata;
mod names;
mod open;
mod reader;
mod tensor_item;
#[cfg(test)]
mod tests;
mod transforms;

use super::{Attempt, Candidate, Draft, Format, Reader, Target, WriteOptions};
use crate::error::Result;
use std::sync::Arc;

/// The format's name.
const NAME: &str = "dcp";

/// The format; see the module's documentation.
#[derive(Debug)]
pub(crate) struct TorchDcp;

impl Format for TorchDcp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, candidate: &Candidate) -> bool {
        candidate.files().any(|(name, _)| self.is_committed_by(name))
    }

    fn is_committed_by(&self, name: &str) -> bool {
        name == names::METADATA || names::metadata_rank(name).is_some()
    }

    fn owns(&self, name: &str) -> bool {
        let of_attempt =
            |(attempt, file)| Attempt::generation_of(attempt).is_some() && names::writer(file).is_some();
        self.is_committed_by(name)
            || name == names::METADATA_UNFINISHED
            || names::writer(name).is_some()
            || name.split_once('/').is_some_and(of_attempt)
    }

    fn slot_name(&self, generation: u32) -> Option<String> {
        (generation == 0).then(|| names::METADATA.to_owned())
    }

    fn slot_generation(&self, name: &str) -> Option<u32> {
        (name == names::METADATA).then_some(0)
    }

    fn open(&self, candidate: &Candidate) -> Result<Arc<dyn Reader>> {
        open::open(candidate)
    }

    fn draft(&self, target: &Target, options: &WriteOptions) -> Result<Box<dyn Draft>> {
        Ok(Box::new(draft::draft(target, options)?))
    }
}
