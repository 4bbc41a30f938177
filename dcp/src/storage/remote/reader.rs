//! Reading an object by ranges.

use super::failure::failure;
use super::runtime::wait;
use super::windows::{WINDOW_BYTES, Windows, share, touched};
use crate::error::{Error, Result};
use crate::storage::ReadAt;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// A longer read is cut in ranges of this length, several of which are asked for at once: one connection rarely fills a
/// link.
const RANGE_BYTES: usize = 4 << 20;

/// A round trip of 20 ms at 50 MB/s, as one connection to a store far away has it.
const READ_COST_BYTES: u64 = 1 << 20;

/// Reads shorter than this are of framing: headers, directories, names. More of it follows nearby.
const FRAMING_BYTES_MAX: u64 = 4096;

/// An open object. All reads are of the version that was found when it was opened.
#[derive(Debug)]
pub(super) struct RemoteObject {
    store: Arc<dyn ObjectStore>,
    requests: Arc<Semaphore>,
    object: String,
    meta: Arc<ObjectMeta>,
    windows: Arc<Windows>,
    /// Where the last read ended.
    last_end: AtomicU64,
}

impl RemoteObject {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        requests: Arc<Semaphore>,
        windows: Arc<Windows>,
        object: String,
        meta: ObjectMeta,
    ) -> Self {
        let last_end = AtomicU64::new(u64::MAX);
        RemoteObject { store, requests, object, meta: Arc::new(meta), windows, last_end }
    }

    /// Whether more than what a read asks for is worth fetching: it is of framing, or near the read before it. Rows far
    /// from each other are fetched as they are, which costs the same requests and fewer bytes.
    fn is_small(&self, range: &Range<u64>) -> bool {
        let last_end = self.last_end.swap(range.end, Ordering::Relaxed);
        let byte_len = range.end - range.start;
        byte_len < FRAMING_BYTES_MAX
            || byte_len < WINDOW_BYTES && range.start.abs_diff(last_end) < WINDOW_BYTES
    }

    /// Fills `target` from stretches that are kept or fetched now.
    async fn read_windows(&self, range: &Range<u64>, target: &mut [u8]) -> Result<()> {
        for index in touched(range) {
            let (common, start) = share(range, index);
            let bytes = match self.windows.get(&self.meta, index) {
                Some(bytes) => bytes,
                None => {
                    let mut bytes = vec![0; WINDOW_BYTES.min(self.meta.size - start) as usize];
                    self.fetch(start, &mut bytes).await?;
                    let bytes: Arc<[u8]> = bytes.into();
                    self.windows.put(&self.meta, index, bytes.clone());
                    bytes
                }
            };
            let kept = &bytes[(common.start - start) as usize..(common.end - start) as usize];
            target[(common.start - range.start) as usize..][..kept.len()].copy_from_slice(kept);
        }
        Ok(())
    }

    /// Fills `target` with as many requests at once as it is long.
    async fn read_ranges(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let ranges = target.chunks_mut(RANGE_BYTES).enumerate();
        let mut fetches: FuturesUnordered<_> = ranges
            .map(|(index, range)| self.fetch(byte_offset + (index * RANGE_BYTES) as u64, range))
            .collect();
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        Ok(())
    }

    /// Fills `target` from one ranged request.
    async fn fetch(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let _request = self.requests.acquire().await.map_err(|_| Error::Interrupted)?;
        let end = byte_offset + target.len() as u64;
        let options = GetOptions {
            range: Some(GetRange::Bounded(byte_offset..end)),
            if_match: self.meta.e_tag.clone(),
            ..GetOptions::default()
        };
        let path: &Path = &self.meta.location;
        let reply = self.store.get_opts(path, options).await;
        let mut body = reply.map_err(|error| failure(&self.object, "reading", error))?.into_stream();
        let (mut filled, byte_len) = (0, target.len());
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| failure(&self.object, "reading", error))?;
            let room = target.get_mut(filled..filled + bytes.len());
            room.ok_or_else(|| self.other_length(byte_offset, filled + bytes.len(), byte_len))?
                .copy_from_slice(&bytes);
            filled += bytes.len();
        }
        match filled == byte_len {
            true => Ok(()),
            false => Err(self.other_length(byte_offset, filled, byte_len)),
        }
    }

    /// A reply that is not as long as what was asked for.
    fn other_length(&self, byte_offset: u64, found: usize, expected: usize) -> Error {
        Error::malformed(
            &self.object,
            "reply",
            format!("{expected} bytes at {byte_offset} were asked for, {found} came"),
        )
    }
}

impl ReadAt for RemoteObject {
    fn byte_len(&self) -> u64 {
        self.meta.size
    }

    fn read_cost_bytes(&self) -> u64 {
        READ_COST_BYTES
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let end = byte_offset.saturating_add(target.len() as u64);
        if end > self.meta.size {
            let (object, found) = (self.object.clone(), self.meta.size);
            return Err(Error::Truncated { object, found, expected: end });
        }
        if target.is_empty() {
            return Ok(());
        }
        let range = byte_offset..end;
        match self.is_small(&range) {
            true => wait(self.read_windows(&range, target))?,
            false => wait(self.read_ranges(byte_offset, target))?,
        }
    }
}
