//! An object store as a [`Storage`].

use super::failure::{failure, is_uncertain};
use super::reader::RemoteObject;
use super::runtime::wait;
use super::writer::RemoteWriter;
use crate::error::{Error, Result};
use crate::storage::{Key, ObjectMeta, ObjectWriter, ReadAt, Storage};
use futures_util::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::fmt;
use std::sync::Arc;
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
    objects: Arc<dyn ObjectStore>,
    /// `None`: the store can only be read.
    parts: Option<Arc<dyn MultipartStore>>,
    pub(super) requests: Arc<Semaphore>,
    /// URL of the root, without a `/` at its end.
    url: String,
}

impl RemoteStore {
    /// A store whose root errors and listings call `url`.
    pub(super) fn new(
        url: String,
        objects: Arc<dyn ObjectStore>,
        parts: Option<Arc<dyn MultipartStore>>,
    ) -> Self {
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        RemoteStore { shared: Arc::new(Shared { objects, parts, requests, url }) }
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
        match wait(self.objects.head(&path(key)?))? {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure(&self.display(key), "looking up", error)),
        }
    }

    /// Puts an object unless its key is taken. The answer alone is not to be trusted: after any but a plain yes or a
    /// plain refusal the key is read back, and our own bytes mean that it was done.
    pub(super) fn put_if_absent(&self, key: &Key, bytes: Vec<u8>) -> Result<()> {
        self.parts()?;
        let (path, object) = (path(key)?, self.display(key));
        let payload = PutPayload::from(bytes);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let error = match wait(self.objects.put_opts(&path, payload.clone(), options))? {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let byte_len = payload.content_length() as u64;
        if !is_uncertain(&error) || byte_len > READ_BACK_BYTES_MAX {
            return Err(failure(&object, "writing", error));
        }
        match wait(async { self.objects.get(&path).await?.bytes().await })? {
            Ok(found) if payload.iter().flatten().eq(found.iter()) => Ok(()),
            Ok(_) => Err(Error::AlreadyExists { object }),
            // Also where the store said that it exists: some do when two requests cross, and nothing is there.
            Err(_) => Err(match error {
                object_store::Error::AlreadyExists { .. } => {
                    let source = std::io::Error::other(error);
                    Error::Io { object, action: "writing", source }
                }
                error => failure(&object, "writing", error),
            }),
        }
    }
}

/// The store's name of a key.
fn path(key: &Key) -> Result<Path> {
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
        let listed = wait(self.shared.objects.list(Some(&prefix_path)).try_collect::<Vec<_>>())?;
        let listed = listed.map_err(|error| failure(&self.display(prefix), "listing", error))?;
        let mut objects = Vec::with_capacity(listed.len());
        for meta in listed {
            // A folder that some tool made visible has the name of the prefix itself.
            let key = Key::new(meta.location.to_string())?;
            if key.below(prefix).is_some_and(|below| !below.is_empty()) {
                objects.push(ObjectMeta { key, byte_len: meta.size });
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        let listed = wait(self.shared.objects.list_with_delimiter(Some(&path(prefix)?)))?;
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
        Ok(Arc::new(RemoteObject::new(objects, requests, object, meta)))
    }

    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        self.shared.parts()?;
        if key.is_root() {
            return Err(Error::BadKey { key: key.to_string(), why: "it is the root and not an object" });
        }
        if self.shared.head(key)?.is_some() {
            return Err(Error::AlreadyExists { object: self.display(key) });
        }
        Ok(Box::new(RemoteWriter::new(self.shared.clone(), key.clone(), path(key)?, byte_len)))
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
