//! Where the boxes in a file begin, as PyTorch's HuggingFaceStorageWriter records it in the header's text entries.
//!
//! `DCP_SHARDING_INFO` is JSON: `{NAME: {"saved_offsets": [INT, one per dim]}}`, with every tensor of the file.
//! Source: `_write_files_from_queue` in torch/distributed/checkpoint/filesystem.py and `read_metadata` in
//! hf_storage.py, PyTorch 2.11.

use super::header::Header;
use super::json::UniqueMap;
use crate::model::Fqn;
use indexmap::IndexMap;
use std::collections::BTreeMap;

/// The text entry that holds the corners.
pub(super) const SHARDING_KEY: &str = "DCP_SHARDING_INFO";

/// The first element of each of a file's boxes, by tensor name.
#[derive(Debug)]
pub(super) struct Corners(IndexMap<String, Corner>);

#[derive(serde::Deserialize, serde::Serialize, Debug)]
#[serde(expecting = "an object with `saved_offsets`")]
struct Corner {
    saved_offsets: Vec<u64>,
}

impl Corners {
    /// The corners in a header; `None` for a file of whole tensors. The error says why they cannot be read.
    pub(super) fn read(header: &Header) -> Result<Option<Self>, String> {
        let Some(text) = header.metadata.get(SHARDING_KEY) else { return Ok(None) };
        let corners: UniqueMap<Corner> =
            serde_json::from_str(text).map_err(|error| format!("{SHARDING_KEY}: {error}"))?;
        Ok(Some(Corners(corners.0)))
    }

    /// The corner of a tensor's box, of which `extent` is the size. The error says why there is none.
    pub(super) fn start(&self, fqn: &Fqn, extent: &[u64]) -> Result<Vec<u64>, String> {
        let Some(Corner { saved_offsets: start }) = self.0.get(fqn.as_str()) else {
            return Err(format!("{SHARDING_KEY} does not name it"));
        };
        let fits = start.len() == extent.len()
            && start.iter().zip(extent).all(|(start, extent)| start.checked_add(*extent).is_some());
        if !fits {
            return Err(format!("{SHARDING_KEY} puts its box of {extent:?} elements at {start:?}"));
        }
        Ok(start.clone())
    }

    /// The text entry for these boxes.
    pub(super) fn write<'a>(starts: impl Iterator<Item = (&'a str, &'a [u64])>) -> String {
        let corner = |start: &[u64]| Corner { saved_offsets: start.to_vec() };
        let corners: BTreeMap<&str, Corner> = starts.map(|(name, start)| (name, corner(start))).collect();
        serde_json::json!(corners).to_string()
    }
}
