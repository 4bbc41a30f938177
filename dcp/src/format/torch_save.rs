//! `pt`: the single file that `torch.save` writes.
//!
//! ```text
//! zip (PyTorch >= 1.6)   PREFIX/data.pkl     protocol 2 pickle of the whole nested object
//!                        PREFIX/byteorder    `little`
//!                        PREFIX/data/KEY     bytes of storage KEY; views of one storage share it
//!                        PREFIX/version      `3\n`
//! legacy (before)        five pickles: magic, protocol 1001, system info, the object, the list of storage keys; then
//!                        per key an i64 count of elements and the storage's bytes
//! ```
//!
//! Dicts, and lists that hold a tensor or a dict anywhere, are flattened to FQNs as PyTorch's checkpoint planner does;
//! everything else is a value. Nothing in a pickle is executed.
//!
//! Source: torch/serialization.py and torch/distributed/checkpoint/_nested_dict.py, PyTorch 2.11.

mod draft;
mod flatten;
mod legacy;
mod reader;

use super::{Candidate, Draft, Format, Reader, Target, WriteOptions};
use crate::error::Result;
use crate::storage::Place;
use std::sync::Arc;

/// The format's name.
const NAME: &str = "pt";
/// File names that `torch.save` users give.
const EXTENSIONS: &[&str] = &["pt", "pth", "bin", "ckpt"];

/// The format of `torch.save`.
#[derive(Debug)]
pub struct TorchSave;

impl Format for TorchSave {
    fn name(&self) -> &'static str {
        NAME
    }

    /// A file by its first bytes; a folder when exactly one of its files has one of the usual extensions.
    fn probe(&self, candidate: &Candidate) -> bool {
        match &candidate.file {
            Some((_, head)) => is_zip(head) || legacy::is_legacy(head) || legacy::is_tar(head),
            None => only_file(candidate).is_some(),
        }
    }

    fn open(&self, candidate: &Candidate) -> Result<Arc<dyn Reader>> {
        let place = match only_file(candidate) {
            Some(name) => Place { key: candidate.place.key.join(name)?, ..candidate.place.clone() },
            None => candidate.place.clone(),
        };
        Ok(Arc::new(reader::TorchSaveReader::open(place)?))
    }

    fn draft(&self, target: &Target, options: &WriteOptions) -> Result<Box<dyn Draft>> {
        Ok(Box::new(draft::draft(target, options)?))
    }

    fn owns(&self, name: &str) -> bool {
        !name.contains('/') && has_extension(name)
    }

    fn single_file(&self, extension: &str) -> bool {
        EXTENSIONS.contains(&extension)
    }
}

fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04")
}

fn has_extension(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| EXTENSIONS.contains(&ending))
}

fn only_file(candidate: &Candidate) -> Option<&str> {
    let mut files = candidate.files().map(|(name, _)| name).filter(|name| has_extension(name));
    files.next().filter(|_| files.next().is_none())
}

#[cfg(test)]
mod tests;
