//! Multipart uploads that were begun and not completed, and their parts: S3's `ListMultipartUploads` and `ListParts`.
//!
//! Source: Amazon S3 API reference, version 2006-03-01.

use super::requests::Requests;
use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use object_store::ClientOptions;
use object_store::path::Path;
use object_store::signer::Signer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::SystemTime;

/// S3 numbers parts from 1 to this.
const PART_NUMBER_MAX: u32 = 10_000;
/// More uploads than anybody has left; a store that gives more is telling the same ones again.
const UPLOADS_MAX: usize = 1_000_000;

/// The uploads of a bucket.
#[derive(Debug)]
pub(super) struct Uploads {
    requests: Requests,
}

/// An upload that was begun and not completed.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) begun: Option<SystemTime>,
    /// The checksums that its parts must have, where the store says so.
    pub(super) algorithm: Option<String>,
}

/// A part that is there.
#[derive(Debug)]
pub(super) struct UploadedPart {
    /// Its number, from 0.
    pub(super) index: u64,
    pub(super) byte_len: u64,
    pub(super) e_tag: Option<String>,
    /// As the store gives it: base64 of 8 bytes, the highest first.
    pub(super) checksum: Option<String>,
    pub(super) modified: Option<SystemTime>,
}

impl UploadedPart {
    /// Its CRC-64/NVME.
    pub(super) fn crc64nvme(&self) -> Option<u64> {
        let bytes = STANDARD.decode(self.checksum.as_ref()?).ok()?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadsPage {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
    #[serde(default)]
    upload: Vec<UploadEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadEntry {
    key: String,
    upload_id: String,
    initiated: Option<String>,
    checksum_algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PartsPage {
    #[serde(default)]
    is_truncated: bool,
    next_part_number_marker: Option<u32>,
    #[serde(default)]
    part: Vec<PartEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PartEntry {
    part_number: u32,
    size: u64,
    last_modified: Option<String>,
    #[serde(rename = "ETag")]
    e_tag: Option<String>,
    #[serde(rename = "ChecksumCRC64NVME")]
    checksum: Option<String>,
}

impl Uploads {
    pub(super) fn new(signer: Arc<dyn Signer>, options: &ClientOptions) -> object_store::Result<Self> {
        Ok(Uploads { requests: Requests::new(signer, options)? })
    }

    /// Every upload of a key that begins with `prefix`; `object` is what errors call that.
    pub(super) fn list(&self, object: &str, prefix: &str) -> Result<Vec<Upload>> {
        let action = "listing unfinished uploads";
        let mut uploads: Vec<Upload> = Vec::new();
        let (mut key_marker, mut id_marker) = (String::new(), String::new());
        loop {
            let mut query = vec![("uploads", ""), ("prefix", prefix)];
            if !key_marker.is_empty() {
                query.extend([("key-marker", &*key_marker), ("upload-id-marker", &*id_marker)]);
            }
            let reply = self.requests.get(object, action, &Path::default(), &query)?;
            let reply = reply.ok_or_else(|| Error::NotFound { object: object.to_owned() })?;
            let page: UploadsPage = parse(object, &reply)?;
            uploads.extend(page.upload.into_iter().map(|entry| Upload {
                key: entry.key,
                id: entry.upload_id,
                begun: time(entry.initiated),
                algorithm: entry.checksum_algorithm,
            }));
            if !page.is_truncated {
                return Ok(uploads);
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if next.0.is_empty() || next == (key_marker, id_marker) || uploads.len() > UPLOADS_MAX {
                return Err(Error::malformed(object, "listing", "it does not say where it goes on"));
            }
            (key_marker, id_marker) = next;
        }
    }

    /// The parts of an upload, by number; `None` where there is no such upload (any more).
    pub(super) fn parts(&self, object: &str, path: &Path, upload: &str) -> Result<Option<Vec<UploadedPart>>> {
        let action = "listing the parts of an upload";
        let mut parts = Vec::new();
        let mut marker = 0;
        loop {
            let marker_text = marker.to_string();
            let mut query = vec![("uploadId", upload)];
            if marker > 0 {
                query.push(("part-number-marker", &*marker_text));
            }
            let Some(reply) = self.requests.get(object, action, path, &query)? else { return Ok(None) };
            let page: PartsPage = parse(object, &reply)?;
            for entry in page.part {
                if entry.part_number <= marker || entry.part_number > PART_NUMBER_MAX {
                    let why = format!("part number {} after {marker}", entry.part_number);
                    return Err(Error::malformed(object, "listing", why));
                }
                marker = entry.part_number;
                parts.push(UploadedPart {
                    index: u64::from(entry.part_number) - 1,
                    byte_len: entry.size,
                    e_tag: entry.e_tag,
                    checksum: entry.checksum,
                    modified: time(entry.last_modified),
                });
            }
            match (page.is_truncated, page.next_part_number_marker) {
                (false, _) => return Ok(Some(parts)),
                (true, Some(next)) if next == marker && next > 0 && marker_text != next.to_string() => {}
                (true, _) => {
                    return Err(Error::malformed(object, "listing", "it does not say where it goes on"));
                }
            }
        }
    }
}

fn parse<T: DeserializeOwned>(object: &str, reply: &[u8]) -> Result<T> {
    quick_xml::de::from_reader(reply).map_err(|error| Error::malformed(object, "listing", error.to_string()))
}

/// A time that a store gives; one that is none says nothing.
fn time(text: Option<String>) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(&text?).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// As the API reference shows them.
    #[test]
    fn replies_are_read() {
        let page: UploadsPage = parse(
            "s3://b",
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>b</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>
              <NextKeyMarker>my-movie.m2ts</NextKeyMarker><NextUploadIdMarker>YW55</NextUploadIdMarker>
              <MaxUploads>3</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload><Key>a &amp; b</Key><UploadId>XMgb</UploadId>
                <Initiator><ID>arn</ID><DisplayName>user1</DisplayName></Initiator>
                <StorageClass>STANDARD</StorageClass><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
              <Upload><Key>c</Key><UploadId>VXBs</UploadId></Upload>
            </ListMultipartUploadsResult>"#,
        )
        .unwrap();
        assert!(page.is_truncated);
        assert_eq!((&*page.next_key_marker, &*page.next_upload_id_marker), ("my-movie.m2ts", "YW55"));
        assert_eq!((&*page.upload[0].key, &*page.upload[1].upload_id), ("a & b", "VXBs"));
        let begun = time(page.upload[0].initiated.clone());
        assert_eq!(begun, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_289_422_113)));

        let page: PartsPage = parse(
            "s3://b",
            br#"<ListPartsResult><Bucket>b</Bucket><PartNumberMarker>1</PartNumberMarker>
              <NextPartNumberMarker>3</NextPartNumberMarker><IsTruncated>false</IsTruncated>
              <Part><PartNumber>2</PartNumber><LastModified>2010-11-10T20:48:34.000Z</LastModified>
                <ETag>"7778"</ETag><Size>10485760</Size><ChecksumCRC64NVME>AAAAAAAAAAE=</ChecksumCRC64NVME></Part>
            </ListPartsResult>"#,
        )
        .unwrap();
        assert_eq!((page.part[0].part_number, page.part[0].size), (2, 10_485_760));
        assert_eq!(page.part[0].e_tag.as_deref(), Some("\"7778\""));
        let checksum = |text: &str| UploadedPart {
            index: 0,
            byte_len: 1,
            e_tag: None,
            checksum: Some(text.to_owned()),
            modified: None,
        };
        assert_eq!(checksum("AAAAAAAAAAE=").crc64nvme(), Some(1));
        assert_eq!(checksum("AAE=").crc64nvme(), None);
        let empty: UploadsPage = parse("s3://b", b"<ListMultipartUploadsResult/>").unwrap();
        assert!(empty.upload.is_empty() && !empty.is_truncated);
        assert!(matches!(parse::<PartsPage>("s3://b", b"<html>busy"), Err(Error::Malformed { .. })));
    }
}
