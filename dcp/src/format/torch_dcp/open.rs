//! Reads the metadata of a checkpoint.

use super::catalog::{self, RankMetadata};
use super::metadata;
use super::names::{self, METADATA};
use super::reader::DcpReader;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::header::{Header, read_header};
use crate::format::wire::pickle_read::PICKLE_BYTES_MAX;
use crate::format::{Candidate, Reader};
use crate::model::{Finding, Severity};
use std::collections::HashMap;
use std::sync::Arc;

/// How a zip archive starts, and with it a data file that is no safetensors file.
const ZIP_START: &[u8; 4] = b"PK\x03\x04";

/// Opens a folder; see the format's documentation for the variants.
pub(super) fn open(candidate: &Candidate) -> Result<Arc<dyn Reader>> {
    let mut ranks = read_metadata(candidate)?;
    let mut findings = Vec::new();
    for rank in &mut ranks {
        rank.headers = safetensors_headers(candidate, rank, &mut findings)?;
    }
    let (mut catalog, transforms, plain) = catalog::build(candidate, ranks)?;
    catalog.findings.extend(findings);
    Ok(Arc::new(DcpReader::new(candidate.place.clone(), catalog, transforms, plain)))
}

/// The metadata of the whole checkpoint or, where it was saved without collectives, that of every rank.
fn read_metadata(candidate: &Candidate) -> Result<Vec<RankMetadata>> {
    let place = &candidate.place;
    let read = |name: &str, rank: Option<u32>| {
        let key = place.key.join(name)?;
        let bytes = place.store.get(&key, PICKLE_BYTES_MAX as u64)?;
        let object = place.store.display(&key);
        if bytes.is_empty() {
            let why = "it is empty: the machine stopped before the file reached the disk";
            return Err(Error::malformed(object, "checkpoint metadata", why));
        }
        let metadata = metadata::read(&bytes, &object)?;
        Ok(RankMetadata { rank, metadata, headers: HashMap::new() })
    };
    if candidate.find(METADATA).is_some() {
        return Ok(vec![read(METADATA, None)?]);
    }
    let mut ranks: Vec<(u32, &str)> =
        candidate.files().filter_map(|(name, _)| Some((names::metadata_rank(name)?, name))).collect();
    ranks.sort_unstable();
    ranks.into_iter().map(|(rank, name)| read(name, Some(rank))).collect()
}

/// The headers of data files that are safetensors files. PyTorch's `SerializationFormat.SAFETENSORS` (2.8 on) records
/// wrong positions for their tensors: offset 0, and the length of the data without the header, so that the recorded
/// items end before the file does. Values, where there are any, come before the header.
fn safetensors_headers(
    candidate: &Candidate,
    rank: &RankMetadata,
    findings: &mut Vec<Finding>,
) -> Result<HashMap<u32, Header>> {
    let files = &rank.metadata.files;
    let (mut end, mut values_end) = (vec![0; files.len()], vec![0; files.len()]);
    for item in rank.metadata.items() {
        let end = &mut end[item.file as usize];
        *end = (*end).max(item.byte_offset + item.byte_len);
    }
    for item in rank.metadata.values.values().filter_map(|value| value.item.as_ref()) {
        let end = &mut values_end[item.file as usize];
        *end = (*end).max(item.byte_offset + item.byte_len);
    }
    let found: HashMap<&str, u64> = candidate
        .objects
        .iter()
        .filter_map(|object| Some((object.key.below(&candidate.place.key)?, object.byte_len)))
        .collect();
    let mut headers = HashMap::new();
    for (index, name) in files.iter().enumerate() {
        let (base, byte_len) = (values_end[index], found.get(name.as_str()).copied().unwrap_or(0));
        if byte_len <= end[index] || byte_len - base < 9 {
            continue;
        }
        let key = candidate.place.key.join(name.as_str())?;
        let source = candidate.place.store.open(&key)?;
        let mut head = [0; 9];
        source.read_at(base, &mut head)?;
        if head.starts_with(ZIP_START) || head[8] != b'{' {
            continue;
        }
        match read_header(&*source, base, &candidate.place.store.display(&key)) {
            Ok(header) => {
                headers.insert(index as u32, header);
            }
            Err(error) if error.kind() == ErrorKind::Data => findings.push(Finding {
                severity: Severity::Damage,
                fqn: None,
                object: Some(key),
                message: error.to_string(),
            }),
            Err(error) => return Err(error),
        }
    }
    Ok(headers)
}
