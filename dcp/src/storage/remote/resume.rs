//! Which upload of an earlier writer to go on with.

use super::parts::part_bytes;
use super::uploads::{UploadedPart, Uploads};
use crate::error::Result;
use crate::storage::StoredPart;
use object_store::MultipartId;
use object_store::multipart::PartId;
use object_store::path::Path;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// An upload to go on with: its parts by number, from 0.
#[derive(Debug)]
pub(super) struct Resumable {
    pub(super) upload: MultipartId,
    pub(super) parts: BTreeMap<u64, (StoredPart, PartId)>,
}

/// The checksums of the parts that are sent.
const ALGORITHM: &str = "CRC64NVME";

/// The newest upload of an object of `byte_len` bytes that has a part with a checksum, and every part of which is as
/// long as it must be; else the newest without parts that was begun for such; an object too small for parts has none.
pub(super) fn resumable(
    uploads: &Uploads,
    object: &str,
    path: &Path,
    byte_len: u64,
) -> Result<Option<Resumable>> {
    if byte_len <= part_bytes(Some(byte_len)) {
        return Ok(None);
    }
    let mut found = uploads.list(object, path.as_ref())?;
    found.retain(|upload| upload.key == path.as_ref());
    found.sort_by_key(|upload| Reverse(upload.begun));
    let mut empty = None;
    for upload in found {
        let Some(parts) = uploads.parts(object, path, &upload.id)? else { continue };
        if let Some(parts) = stored(&parts, byte_len) {
            return Ok(Some(Resumable { upload: upload.id, parts }));
        }
        if parts.is_empty() && upload.algorithm.as_deref() == Some(ALGORITHM) && empty.is_none() {
            empty = Some(Resumable { upload: upload.id, parts: BTreeMap::new() });
        }
    }
    Ok(empty)
}

fn stored(parts: &[UploadedPart], byte_len: u64) -> Option<BTreeMap<u64, (StoredPart, PartId)>> {
    let part_bytes = part_bytes(Some(byte_len));
    let stored = parts.iter().map(|part| {
        let start = part.index.checked_mul(part_bytes).filter(|start| *start < byte_len)?;
        let expected = part_bytes.min(byte_len - start);
        let stored = StoredPart { range: start..start + expected, crc64nvme: part.crc64nvme() };
        (part.byte_len == expected).then_some((part.index, (stored, part_id(part)?)))
    });
    let stored: BTreeMap<_, _> = stored.collect::<Option<_>>()?;
    stored.values().any(|(part, _)| part.crc64nvme.is_some()).then_some(stored)
}

/// What the `object_store` crate (0.14) itself makes of the answer to a part, which completing an upload takes apart
/// again: the tag alone, or this element where there is a checksum.
#[derive(Serialize)]
struct PartMetadata<'a> {
    e_tag: &'a str,
    checksum_crc64nvme: &'a str,
}

fn part_id(part: &UploadedPart) -> Option<PartId> {
    let e_tag = part.e_tag.as_deref()?;
    let content_id = match &part.checksum {
        Some(checksum) => {
            quick_xml::se::to_string(&PartMetadata { e_tag, checksum_crc64nvme: checksum }).ok()?
        }
        None => e_tag.to_owned(),
    };
    Some(PartId { content_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn part(index: u64, byte_len: u64, checksum: Option<&str>) -> UploadedPart {
        let (e_tag, checksum) = (Some("\"tag\"".to_owned()), checksum.map(str::to_owned));
        UploadedPart { index, byte_len, e_tag, checksum, modified: None }
    }

    #[test]
    fn parts_of_another_cut_are_not_gone_on_with() {
        let (crc, whole) = (Some("AAAAAAAAAAE="), 16 * MIB);
        let found = stored(&[part(0, whole, None), part(2, 8 * MIB, crc)], 40 * MIB).unwrap();
        assert_eq!(found[&0].0, StoredPart { range: 0..whole, crc64nvme: None });
        assert_eq!(found[&0].1.content_id, "\"tag\"");
        assert_eq!(found[&2].0, StoredPart { range: 32 * MIB..40 * MIB, crc64nvme: Some(1) });
        assert!(found[&2].1.content_id.contains("<checksum_crc64nvme>AAAAAAAAAAE=<"));
        for (parts, why) in [
            (vec![], "nothing is there"),
            (vec![part(0, whole, None)], "no checksum"),
            (vec![part(0, 8 * MIB, crc)], "too short"),
            (vec![part(2, whole, crc)], "too long for the last"),
            (vec![part(0, whole, crc), part(3, whole, crc)], "past the end"),
            (vec![part(u64::MAX, whole, crc)], "far past the end"),
        ] {
            assert!(stored(&parts, 40 * MIB).is_none(), "{why}");
        }
    }
}
