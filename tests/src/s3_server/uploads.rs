//! A record of the multipart uploads that pass: s3s-fs 0.14 does not list uploads, and of parts neither tags nor
//! checksums nor in order. Both requests go through s3s first, which checks their signatures.

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Every upload that was begun and neither completed nor aborted, by key and id.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<BTreeMap<(String, String), Upload>>);

#[derive(Debug)]
struct Upload {
    begun: SystemTime,
    algorithm: Option<String>,
    parts: BTreeMap<u32, Part>,
}

#[derive(Debug)]
struct Part {
    byte_len: u64,
    e_tag: String,
    checksum: Option<String>,
    modified: SystemTime,
}

/// What matters of a request, kept while it is answered.
#[derive(Debug)]
pub(super) struct Seen {
    method: Method,
    /// Below the bucket; empty for the bucket itself.
    key: String,
    query: BTreeMap<String, String>,
    byte_len: u64,
    checksum: Option<String>,
    algorithm: Option<String>,
}

impl Seen {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let path = request.uri().path().trim_start_matches('/');
        let pairs = request.uri().query().unwrap_or("").split('&');
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let header = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
        Seen {
            method: request.method().clone(),
            key: decoded(path.split_once('/').map_or("", |(_, key)| key)),
            query: pairs.map(|(name, value)| (decoded(name), decoded(value))).collect(),
            byte_len: header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0),
            checksum: header("x-amz-checksum-crc64nvme"),
            algorithm: header("x-amz-checksum-algorithm"),
        }
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

impl Uploads {
    /// Whether a request is about no upload or about one there is; s3s-fs answers 403 where S3 has no such upload.
    pub(super) fn knows(&self, seen: &Seen) -> bool {
        let Some(upload) = seen.query("uploadId") else { return true };
        self.with(|uploads| uploads.contains_key(&(seen.key.clone(), upload.to_owned())))
    }

    /// Takes note of what was done, and answers what s3s cannot.
    pub(super) async fn note(
        &self,
        seen: Seen,
        response: Response<s3s::Body>,
        page_len: usize,
    ) -> io::Result<Response<s3s::Body>> {
        let (done, upload) = (response.status().is_success(), seen.query("uploadId"));
        match (&seen.method, upload) {
            (&Method::POST, None) if done && seen.query("uploads").is_some() => {
                return self.begun(seen, response).await;
            }
            (&Method::PUT, Some(upload)) if done => self.stored(upload, &seen, &response),
            // The reply to a completion says in its body how it went, after the status.
            (&Method::POST, Some(upload)) if done => {
                let (parts, body) = response.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                if !String::from_utf8_lossy(&body).contains("<Error>") {
                    self.forget(upload, &seen);
                }
                return Ok(Response::from_parts(parts, s3s::Body::from(body)));
            }
            (&Method::DELETE, Some(upload)) if done => self.forget(upload, &seen),
            (&Method::GET, Some(upload)) if done => return Ok(self.list_parts(upload, &seen, page_len)),
            (&Method::GET, None)
                if seen.query("uploads").is_some() && response.status() == StatusCode::NOT_IMPLEMENTED =>
            {
                return Ok(self.list(&seen, page_len));
            }
            _ => {}
        }
        Ok(response)
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<(String, String), Upload>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn begun(&self, seen: Seen, response: Response<s3s::Body>) -> io::Result<Response<s3s::Body>> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
        let (id, _) = id.ok_or_else(|| io::Error::other(format!("no upload id: {text}")))?;
        let (begun, algorithm) = (SystemTime::now(), seen.algorithm);
        let upload = Upload { begun, algorithm, parts: BTreeMap::new() };
        self.with(|uploads| uploads.insert((seen.key, id.to_owned()), upload));
        Ok(Response::from_parts(parts, s3s::Body::from(body)))
    }

    fn stored(&self, upload: &str, seen: &Seen, response: &Response<s3s::Body>) {
        let number = seen.query("partNumber").and_then(|number| number.parse().ok());
        let e_tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok());
        let (Some(number), Some(e_tag)) = (number, e_tag) else { return };
        let part = Part {
            byte_len: seen.byte_len,
            e_tag: e_tag.to_owned(),
            checksum: seen.checksum.clone(),
            modified: SystemTime::now(),
        };
        self.with(|uploads| {
            if let Some(upload) = uploads.get_mut(&(seen.key.clone(), upload.to_owned())) {
                upload.parts.insert(number, part);
            }
        });
    }

    fn forget(&self, upload: &str, seen: &Seen) {
        self.with(|uploads| uploads.remove(&(seen.key.clone(), upload.to_owned())));
    }

    fn list(&self, seen: &Seen, page_len: usize) -> Response<s3s::Body> {
        let marker = |name: &str| seen.query(name).unwrap_or("").to_owned();
        let after = (marker("key-marker"), marker("upload-id-marker"));
        let prefix = seen.query("prefix").unwrap_or("");
        self.with(|uploads| {
            let wanted = |(at, _): &(&(String, String), &Upload)| **at > after && at.0.starts_with(prefix);
            let mut left = uploads.iter().filter(wanted);
            let (mut xml, mut last) = (String::from("<ListMultipartUploadsResult>"), None);
            for (at, upload) in left.by_ref().take(page_len) {
                let (key, id, begun) = (escaped(&at.0), &at.1, time(upload.begun));
                let algorithm = upload.algorithm.as_ref().map_or(String::new(), |algorithm| {
                    format!("<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm>")
                });
                let _ = write!(
                    xml,
                    "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
                     <Initiated>{begun}</Initiated>{algorithm}</Upload>"
                );
                last = Some(at);
            }
            if let (Some((key, id)), true) = (last, left.next().is_some()) {
                let key = escaped(key);
                let _ = write!(
                    xml,
                    "<IsTruncated>true</IsTruncated><NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>"
                );
            }
            reply(xml + "</ListMultipartUploadsResult>")
        })
    }

    fn list_parts(&self, upload: &str, seen: &Seen, page_len: usize) -> Response<s3s::Body> {
        let after = seen.query("part-number-marker").and_then(|marker| marker.parse().ok()).unwrap_or(0u32);
        self.with(|uploads| {
            let Some(upload) = uploads.get(&(seen.key.clone(), upload.to_owned())) else {
                return super::failure(StatusCode::NOT_FOUND, "NoSuchUpload");
            };
            let mut left = upload.parts.range(after + 1..);
            let (mut xml, mut last) = (String::from("<ListPartsResult>"), None);
            for (number, part) in left.by_ref().take(page_len) {
                let checksum = part.checksum.as_ref().map_or(String::new(), |checksum| {
                    format!("<ChecksumCRC64NVME>{checksum}</ChecksumCRC64NVME>")
                });
                let (e_tag, modified) = (escaped(&part.e_tag), time(part.modified));
                let _ = write!(
                    xml,
                    "<Part><PartNumber>{number}</PartNumber><LastModified>{modified}</LastModified>\
                     <ETag>{e_tag}</ETag><Size>{}</Size>{checksum}</Part>",
                    part.byte_len
                );
                last = Some(number);
            }
            if let (Some(number), true) = (last, left.next().is_some()) {
                let _ = write!(
                    xml,
                    "<IsTruncated>true</IsTruncated><NextPartNumberMarker>{number}</NextPartNumberMarker>"
                );
            }
            reply(xml + "</ListPartsResult>")
        })
    }
}

fn reply(xml: String) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::from(xml));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/xml"));
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn time(at: SystemTime) -> String {
    chrono::DateTime::<chrono::Utc>::from(at).to_rfc3339()
}
