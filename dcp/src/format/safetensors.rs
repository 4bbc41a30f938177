//! `safetensors`: files of plain tensors, as Hugging Face and PyTorch's HuggingFaceStorageWriter keep them.
//!
//! One file:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | n, the length of the header, little-endian |
//! | n | the header: JSON, padded with spaces |
//! | rest | the tensors, row-major, little-endian, without holes |
//!
//! The header is one object: `{NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [FROM, UNTIL]}, ...}`, offsets
//! counted from the end of the header, and optionally `"__metadata__": {TEXT: TEXT}`.
//!
//! A checkpoint is one of
//!
//! * one file;
//! * a folder with an index, `*.safetensors.index.json`, that says which file holds which tensor;
//! * a folder of files that share no tensor;
//! * a folder of files of boxes, one or more per writer, named `shard-00001-model-00001-of-00001.safetensors`. The
//!   text entry `DCP_SHARDING_INFO` says where each box begins. Nothing records the shape of the whole tensor.
//!
//! PyTorch consolidates the last to the second; the shards stay in the sub-folder `sharded`.
//!
//! Source: README of the safetensors crate 0.8; torch/distributed/checkpoint/{hf_storage,_hf_utils}.py and
//! _consolidate_hf_safetensors.py, PyTorch 2.11 (fixtures `ws1_hf_two_files`, `ws2_hf_sharded`,
//! `ws2_hf_consolidated`).

mod boxes;
mod catalog;
mod draft;
pub(crate) mod encode;
pub(crate) mod header;
mod index;
mod json;
mod names;
mod open;
mod reader;
mod shards;
mod split;
#[cfg(test)]
mod tests;

use super::{Candidate, Draft, Format, Reader, Target, WriteOptions};
use crate::error::Result;
use std::sync::Arc;

/// The format's name.
const NAME: &str = "safetensors";

/// The format; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Safetensors;

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, candidate: &Candidate) -> bool {
        match &candidate.file {
            Some((_, head)) => {
                let name = candidate.place.key.name();
                name.ends_with(names::SUFFIX) || name.ends_with(names::INDEX_SUFFIX) || starts_a_header(head)
            }
            None => !belongs_to_another(candidate) && open::is_checkpoint(candidate),
        }
    }

    fn is_committed_by(&self, name: &str) -> bool {
        name.ends_with(names::INDEX_SUFFIX)
    }

    fn owns(&self, name: &str) -> bool {
        let file =
            name.strip_prefix(names::SHARDED_FOLDER).and_then(|name| name.strip_prefix('/')).unwrap_or(name);
        !file.contains('/') && (file.ends_with(names::SUFFIX) || file.ends_with(names::INDEX_SUFFIX))
    }

    fn open(&self, candidate: &Candidate) -> Result<Arc<dyn Reader>> {
        open::open(candidate)
    }

    fn draft(&self, target: &Target, options: &WriteOptions) -> Result<Box<dyn Draft>> {
        Ok(Box::new(draft::draft(target, options)?))
    }

    fn single_file(&self, extension: &str) -> bool {
        extension.trim_start_matches('.').eq_ignore_ascii_case("safetensors")
    }
}

/// Whether the first bytes of a file of any name are those of a header.
fn starts_a_header(head: &[u8]) -> bool {
    match head.split_first_chunk() {
        Some((length, json)) => {
            u64::from_le_bytes(*length) <= header::HEADER_BYTES_MAX && json.first() == Some(&b'{')
        }
        None => false,
    }
}

/// Whether a folder holds a checkpoint of a format whose data files may be safetensors files.
fn belongs_to_another(candidate: &Candidate) -> bool {
    let rank_metadata = |name: &str| {
        let rank = name.strip_prefix("__").and_then(|name| name.strip_suffix(".metadata"));
        rank.is_some_and(|rank| !rank.is_empty() && rank.bytes().all(|byte| byte.is_ascii_digit()))
    };
    candidate.files().any(|(name, _)| {
        name == ".metadata" || rank_metadata(name) || (name.starts_with("titan-") && name.ends_with(".json"))
    })
}
