//! An object store as a [`Storage`].

use super::exclusive;
use super::failure::{PAUSES, failure, io_failure, is_broken_off, is_uncertain, is_unexplained, tried};
use super::parts::HalfFilled;
use super::reader::RemoteObject;
use super::resume::resumable;
use super::runtime::wait;
use super::uploads::Uploads;
use super::windows::Windows;
use super::writer::RemoteWriter;
use crate::error::{Error, Result};
use crate::storage::{Key, ObjectMeta, ObjectWriter, ReadAt, Storage, Unfinished, WriterState};
use futures_util::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::fmt;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

/// Requests under way at once, of a whole store: with 16 MiB parts they take at most 256 MiB.
const REQUESTS_MAX: usize = 16;
/// What is created if absent is read back from at most this length to see whose it is.
const READ_BACK_BYTES_MAX: u64 = 64 << 20;

/// A bucket, container or web server, reached over a network.
#[derive(Debug)]
pub struct RemoteStore {
    shared: Arc<Shared>,
}

/// What writers share with their store.
pub(super) struct Shared {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// `None`: the store can only be read.
    parts: Option<Arc<dyn MultipartStore>>,
    /// Where they cannot be asked for, why.
    uploads: Result<Uploads, &'static str>,
    /// Whether conditions are kept, once that has been tried.
    exclusive: OnceLock<bool>,
    pub(super) requests: Arc<Semaphore>,
    /// Memory of parts that are not full, of all writers.
    pub(super) half_filled: HalfFilled,
    windows: Arc<Windows>,
    /// URL of the root, without a `/` at its end.
    url: String,
}

impl RemoteStore {
    /// A store whose root errors and listings call `url`.
    pub(super) fn new(
        url: String,
        objects: Arc<dyn ObjectStore>,
        parts: Option<Arc<dyn MultipartStore>>,
        uploads: Result<Uploads, &'static str>,
    ) -> Self {
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let (exclusive, half_filled, windows) = (OnceLock::new(), HalfFilled::default(), Arc::default());
        let shared = Shared { objects, parts, uploads, exclusive, requests, half_filled, windows, url };
        RemoteStore { shared: Arc::new(shared) }
    }

    /// What every new object must meet.
    fn check_new(&self, key: &Key) -> Result<()> {
        self.shared.parts()?;
        if key.is_root() {
            return Err(Error::BadKey { key: key.to_string(), why: "it is the root and not an object" });
        }
        match self.shared.head(key)? {
            Some(_) => Err(Error::AlreadyExists { object: self.display(key) }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl RemoteStore {
    /// This store with another limit for half-filled parts.
    pub(super) fn with_half_filled_max(mut self, bytes_max: u64) -> Self {
        Arc::get_mut(&mut self.shared).expect("nothing was opened yet").half_filled.bytes_max = bytes_max;
        self
    }

    /// What half-filled parts take now.
    pub(super) fn half_filled_bytes(&self) -> u64 {
        self.shared.half_filled.replace(0, 0)
    }
}

impl Shared {
    pub(super) fn display(&self, key: &Key) -> String {
        match key.is_root() {
            true => self.url.clone(),
            false => format!("{}/{key}", self.url),
        }
    }

    /// The multipart side of the store.
    pub(super) fn parts(&self) -> Result<&Arc<dyn MultipartStore>> {
        self.parts.as_ref().ok_or_else(|| Error::ReadOnly { store: self.url.clone() })
    }

    pub(super) fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.meta(key)?.map(|meta| meta.size))
    }

    fn meta(&self, key: &Key) -> Result<Option<object_store::ObjectMeta>> {
        if key.is_root() {
            return Ok(None);
        }
        let path = path(key)?;
        match wait(self.objects.head(&path))? {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure(&self.display(key), "looking up", self.explained(&path, error)?)),
        }
    }

    /// A reply to a HEAD has no room for a reason: a read is refused for the same one, and says it.
    fn explained(&self, path: &Path, error: object_store::Error) -> Result<object_store::Error> {
        if !is_unexplained(&error) {
            return Ok(error);
        }
        let read = wait(self.objects.get_range(path, 0..1))?;
        Ok(read.err().filter(|explained| !is_unexplained(explained)).unwrap_or(error))
    }

    /// Puts an object unless its key is taken. The answer alone is not to be trusted: after any but a plain yes or a
    /// plain refusal the key is read back, and our own bytes mean that it was done.
    pub(super) fn put_if_absent(&self, key: &Key, bytes: Vec<u8>) -> Result<()> {
        self.parts()?;
        let (path, object) = (path(key)?, self.display(key));
        let payload = PutPayload::from(bytes);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        if payload.content_length() as u64 > READ_BACK_BYTES_MAX {
            let put = wait(self.objects.put_opts(&path, payload, options))?;
            return put.map(drop).map_err(|error| failure(&object, "writing", error));
        }
        let mut pauses = PAUSES.into_iter();
        loop {
            let error = match wait(self.objects.put_opts(&path, payload.clone(), options.clone()))? {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if !is_uncertain(&error) {
                return Err(failure(&object, "writing", error));
            }
            // Tried again where it breaks off: even the answer that nothing is there may.
            let found = wait(tried(async || self.objects.get(&path).await?.bytes().await))?;
            let is_taken = matches!(error, object_store::Error::AlreadyExists { .. });
            match found {
                Ok(found) if payload.iter().flatten().eq(found.iter()) => return Ok(()),
                Ok(_) => return Err(Error::AlreadyExists { object }),
                // Also where the store said that it exists: some do when two requests cross, and nothing is there.
                Err(object_store::Error::NotFound { .. }) if is_taken || is_broken_off(&error) => {
                    match pauses.next() {
                        Some(pause) => wait(async move { tokio::time::sleep(pause).await })?,
                        None => return Err(io_failure(object, "writing", &error)),
                    }
                }
                Err(_) if is_taken => return Err(io_failure(object, "writing", &error)),
                Err(_) => return Err(failure(&object, "writing", error)),
            }
        }
    }
}

/// The store's name of a key.
pub(super) fn path(key: &Key) -> Result<Path> {
    Path::parse(key.as_str()).map_err(|_| Error::BadKey {
        key: key.to_string(),
        why: "object stores take no control characters in names",
    })
}

impl Storage for RemoteStore {
    fn display(&self, key: &Key) -> String {
        self.shared.display(key)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        let prefix_path = path(prefix)?;
        let listed =
            wait(tried(async || self.shared.objects.list(Some(&prefix_path)).try_collect::<Vec<_>>().await))?;
        let listed = listed.map_err(|error| failure(&self.display(prefix), "listing", error))?;
        let mut objects = Vec::with_capacity(listed.len());
        for meta in listed {
            // A folder that some tool made visible has the name of the prefix itself.
            let key = Key::new(meta.location.to_string())?;
            if key.below(prefix).is_some_and(|below| !below.is_empty()) {
                let modified = Some(meta.last_modified.into());
                objects.push(ObjectMeta { key, byte_len: meta.size, modified });
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        let prefix_path = path(prefix)?;
        let listed = wait(tried(async || self.shared.objects.list_with_delimiter(Some(&prefix_path)).await))?;
        let listed = listed.map_err(|error| failure(&self.display(prefix), "listing", error))?;
        let folders = listed.common_prefixes.into_iter();
        let mut folders = folders.map(|folder| Key::new(folder.to_string())).collect::<Result<Vec<_>>>()?;
        folders.sort_unstable();
        Ok(folders)
    }

    fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.shared.head(key)
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        let object = self.display(key);
        let Some(meta) = self.shared.meta(key)? else { return Err(Error::NotFound { object }) };
        let (objects, requests) = (self.shared.objects.clone(), self.shared.requests.clone());
        let windows = self.shared.windows.clone();
        Ok(Arc::new(RemoteObject::new(objects, requests, windows, object, meta)))
    }

    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        self.check_new(key)?;
        Ok(Box::new(RemoteWriter::new(self.shared.clone(), key.clone(), path(key)?, byte_len)))
    }

    /// Where uploads cannot be asked for, there is nothing to continue, and dropping the writer leaves nothing.
    fn resume(&self, key: &Key, byte_len: u64) -> Result<Box<dyn ObjectWriter>> {
        self.check_new(key)?;
        let path = path(key)?;
        let writer = RemoteWriter::new(self.shared.clone(), key.clone(), path.clone(), Some(byte_len));
        let Ok(uploads) = &self.shared.uploads else { return Ok(Box::new(writer)) };
        let found = resumable(uploads, &self.display(key), &path, byte_len)?;
        Ok(Box::new(writer.resuming(found)))
    }

    fn unfinished(&self, prefix: &Key) -> Result<Vec<Unfinished>> {
        let uploads = self.shared.uploads.as_ref();
        let uploads =
            uploads.map_err(|why| Error::UnfinishedUnlisted { store: self.shared.url.clone(), why })?;
        let object = self.display(prefix);
        let mut found = Vec::new();
        for upload in uploads.list(&object, path(prefix)?.as_ref())? {
            let key = Key::new(upload.key.as_str())?;
            if key.below(prefix).is_none_or(str::is_empty) {
                continue;
            }
            // One that was finished or discarded meanwhile has no parts to show.
            let Some(parts) = uploads.parts(&self.display(&key), &path(&key)?, &upload.id)? else { continue };
            let modified = parts.iter().filter_map(|part| part.modified).chain(upload.begun).max();
            let byte_len = Some(parts.iter().map(|part| part.byte_len).fold(0, u64::saturating_add));
            found.push(Unfinished { key, id: upload.id, byte_len, modified, writer: WriterState::Unknown });
        }
        found.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        Ok(found)
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        let path = path(&unfinished.key)?;
        match wait(self.shared.parts()?.abort_multipart(&path, &unfinished.id))? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure(&self.display(&unfinished.key), "aborting an upload", error)),
        }
    }

    fn creates_exclusively(&self, home: &Key) -> Result<bool> {
        if let Some(exclusive) = self.shared.exclusive.get() {
            return Ok(*exclusive);
        }
        self.shared.parts()?;
        let exclusive = exclusive::probe(&self.shared, home)?;
        Ok(*self.shared.exclusive.get_or_init(|| exclusive))
    }

    fn remove(&self, key: &Key) -> Result<bool> {
        self.shared.parts()?;
        // Removing what is not there is no error of most stores, so it is looked up first.
        if self.shared.head(key)?.is_none() {
            return Ok(false);
        }
        match wait(self.shared.objects.delete(&path(key)?))? {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failure(&self.display(key), "removing", error)),
        }
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        if key.is_root() {
            return Err(Error::BadKey { key: key.to_string(), why: "it is the root and not an object" });
        }
        self.shared.put_if_absent(key, bytes.to_vec())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("url", &self.url).finish_non_exhaustive()
    }
}
