//! Finds the files of a checkpoint and reads their headers.

use super::boxes::Corners;
use super::catalog::{self, FileHeader};
use super::header::read_header;
use super::index::Index;
use super::names::{self, INDEX_NAME, INDEX_SUFFIX, SHARDED_FOLDER, SUFFIX};
use super::reader::SafetensorsReader;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Candidate, Reader};
use crate::model::{Finding, Severity};
use crate::storage::{Key, Storage};
use rayon::prelude::*;
use std::sync::Arc;

/// The files of a checkpoint, by the names at its place.
#[derive(Debug)]
struct Files {
    /// The folder that names are relative to.
    folder: Key,
    /// Names of the data files to read, sorted.
    names: Vec<Key>,
    index: Option<Index>,
    /// Whether these are the files that PyTorch consolidated from the shards in the sub-folder.
    consolidated: bool,
    findings: Vec<Finding>,
}

/// Whether a folder holds files of this format.
pub(super) fn is_checkpoint(candidate: &Candidate) -> bool {
    candidate.files().any(|(name, _)| name.ends_with(SUFFIX) || name.ends_with(INDEX_SUFFIX))
        || sharded_names(candidate).next().is_some()
}

/// Opens a file or a folder; see the format's documentation for the variants.
pub(super) fn open(candidate: &Candidate) -> Result<Arc<dyn Reader>> {
    let mut files = find(candidate)?;
    let headers = read_headers(&*candidate.place.store, &mut files)?;
    let Files { index, consolidated, findings, .. } = files;
    let mut catalog = catalog::build(&headers, index.as_ref(), consolidated)?;
    catalog.findings.splice(0..0, findings);
    Ok(Arc::new(SafetensorsReader::new(candidate.place.clone(), catalog)))
}

fn find(candidate: &Candidate) -> Result<Files> {
    let (store, key) = (&*candidate.place.store, &candidate.place.key);
    if candidate.file.is_none() {
        return find_in_folder(candidate);
    }
    let (folder, findings) = (key.parent(), Vec::new());
    if key.name().ends_with(INDEX_SUFFIX) {
        let index = Index::read(store, key)?;
        let names = index.files().into_keys().cloned().collect();
        return Ok(Files { folder, names, index: Some(index), consolidated: false, findings });
    }
    let names = vec![Key::new(key.name())?];
    Ok(Files { folder, names, index: None, consolidated: false, findings })
}

/// Decides which files of a folder belong to the checkpoint: those that the index names; without one, all of them;
/// where there are none, those in `sharded/`.
fn find_in_folder(candidate: &Candidate) -> Result<Files> {
    let folder = candidate.place.key.clone();
    let present = with_suffix(candidate, SUFFIX).map(Key::new).collect::<Result<Vec<_>>>()?;
    let consolidated = sharded_names(candidate).next().is_some();
    if let Some(name) = choose_index(candidate)? {
        let index = Index::read(&*candidate.place.store, &folder.join(name)?)?;
        let names: Vec<Key> = index.files().into_keys().cloned().collect();
        let mut findings = Vec::new();
        for extra in present.iter().filter(|name| names.binary_search(name).is_err()) {
            let message = format!("`{name}` names no tensor in this file, which is left out");
            findings.push(finding(Severity::Note, Some(folder.join(extra.as_str())?), message));
        }
        return Ok(Files { folder, names, index: Some(index), consolidated, findings });
    }
    if !present.is_empty() {
        let findings = number_findings(&present);
        return Ok(Files { folder, names: present, index: None, consolidated, findings });
    }
    let names = sharded_names(candidate).map(Key::new).collect::<Result<Vec<_>>>()?;
    let mut findings = number_findings(&names);
    let message = format!(
        "the save did not get as far as consolidating its files; the shards in `{SHARDED_FOLDER}` are read"
    );
    findings.push(finding(Severity::Note, None, message));
    Ok(Files { folder: folder.join(SHARDED_FOLDER)?, names, index: None, consolidated: false, findings })
}

/// The index of a folder: the one of the usual name, else the only one.
fn choose_index(candidate: &Candidate) -> Result<Option<&str>> {
    let indexes: Vec<&str> = with_suffix(candidate, INDEX_SUFFIX).collect();
    match indexes[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ if indexes.contains(&INDEX_NAME) => Ok(Some(INDEX_NAME)),
        _ => Err(Error::Usage(format!(
            "{}: {} checkpoints lie side by side; name the index of one of them: {}",
            candidate.place.display(),
            indexes.len(),
            indexes.join(", ")
        ))),
    }
}

fn with_suffix<'a>(candidate: &'a Candidate, suffix: &'a str) -> impl Iterator<Item = &'a str> {
    candidate.files().map(|(name, _)| name).filter(move |name| name.ends_with(suffix))
}

/// Names of the data files in the sub-folder `sharded`, relative to it.
fn sharded_names(candidate: &Candidate) -> impl Iterator<Item = &str> {
    let names = candidate.objects.iter().filter_map(|object| object.key.below(&candidate.place.key));
    names
        .filter_map(|name| name.strip_prefix(SHARDED_FOLDER)?.strip_prefix('/'))
        .filter(|name| !name.contains('/') && name.ends_with(SUFFIX))
}

fn finding(severity: Severity, object: Option<Key>, message: String) -> Finding {
    Finding { severity, fqn: None, object, message }
}

/// What the numbers in the names say about files that are not there.
fn number_findings(present: &[Key]) -> Vec<Finding> {
    let names = || present.iter().map(Key::as_str);
    let missing = names::missing_files(names()).into_iter();
    let mut findings: Vec<_> = missing.map(|message| finding(Severity::Damage, None, message)).collect();
    if let Some(writer) = names::absent_writer(names()) {
        let message = format!(
            "there is no file of writer {writer}, but one of a later writer; \
             that is right only if writer {writer} had nothing to write"
        );
        findings.push(finding(Severity::Note, None, message));
    }
    findings
}

/// Reads all headers in parallel. A file that is missing or malformed becomes a finding where another one can be read;
/// trouble that may pass, such as a network's, is an error.
fn read_headers(store: &dyn Storage, files: &mut Files) -> Result<Vec<FileHeader>> {
    let read: Vec<_> = files.names.par_iter().map(|name| read_file(store, &files.folder, name)).collect();
    let held = files.index.as_ref().map(Index::files).unwrap_or_default();
    let mut headers = Vec::with_capacity(read.len());
    let mut first_error = None;
    for (name, read) in files.names.iter().zip(read) {
        let error = match read {
            Ok(header) => {
                headers.push(header);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Data => error,
            Err(error) => return Err(error),
        };
        let message = match held.get(name) {
            Some((count, first)) => {
                format!("{error}; tensors lost with it: {count}, such as `{first}`")
            }
            None => error.to_string(),
        };
        let object = files.folder.join(name.as_str())?;
        files.findings.push(finding(Severity::Damage, Some(object), message));
        first_error.get_or_insert(error);
    }
    match first_error {
        Some(error) if headers.is_empty() => Err(error),
        _ => Ok(headers),
    }
}

fn read_file(store: &dyn Storage, folder: &Key, name: &Key) -> Result<FileHeader> {
    let key = folder.join(name.as_str())?;
    let source = store.open(&key)?;
    let object = store.display(&key);
    let header = read_header(&*source, 0, &object)?;
    let corners =
        Corners::read(&header).map_err(|why| Error::malformed(&object, "safetensors header", why))?;
    Ok(FileHeader { name: name.clone(), byte_len: source.byte_len(), key, header, corners })
}
