//! The folder that a conversion keeps in its destination until that is a checkpoint.
//!
//! ```text
//! .titan-job/job.json          what is being made: created before anything else, removed last
//! .titan-job/sums-00012.json   checksums of data object 12, until the record that holds them is written
//! ```
//!
//! No reader takes it for part of a checkpoint. In a format of which nothing but the data files make a checkpoint exist, it
//! says that they are not all there yet.

/// Its name.
pub(crate) const FOLDER: &str = ".titan-job";
/// The marker, below the destination.
pub(crate) const MARKER: &str = ".titan-job/job.json";

/// The checksums of a data object, below the destination.
pub(crate) fn sums(object: usize) -> String {
    format!("{FOLDER}/sums-{object:05}.json")
}

/// Whether a name, relative to a destination, is in the folder.
pub(crate) fn owns(name: &str) -> bool {
    name.strip_prefix(FOLDER).is_some_and(|rest| rest.starts_with('/'))
}
