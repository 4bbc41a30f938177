//! Does the store keep to `If-None-Match: *`? Some take the header and overwrite all the same.

use super::failure::failure;
use super::runtime::wait;
use super::store::{Shared, path};
use crate::error::{Error, Result};
use crate::storage::Key;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

/// Creates one small object twice, with different bytes, and removes it. `true` where the second was refused and the
/// first is still there.
pub(super) fn probe(shared: &Shared, home: &Key) -> Result<bool> {
    let key = home.join(&format!(".titan-probe-{}", Uuid::new_v4().simple()))?;
    let found = probe_at(shared, &key);
    let removed = match wait(shared.objects.delete(&path(&key)?))? {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(failure(&shared.display(&key), "removing", error)),
    };
    let exclusive = found?;
    removed.map(|()| exclusive)
}

fn probe_at(shared: &Shared, key: &Key) -> Result<bool> {
    let (path, object) = (path(key)?, shared.display(key));
    shared.put_if_absent(key, b"first".to_vec())?;
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let second = wait(shared.objects.put_opts(&path, PutPayload::from_static(b"second"), options))?;
    // Read back, since neither answer proves anything: a yes may be a lie, a no may be about a first try's own object.
    let found = wait(async { shared.objects.get(&path).await?.bytes().await })?;
    let found = found.map_err(|error| failure(&object, "reading", error))?;
    match (second, &found[..]) {
        (Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }), b"first") => Ok(true),
        (_, b"second") => Ok(false),
        (Err(error), b"first") => Err(failure(&object, "writing", error)),
        _ => Err(Error::malformed(object, "reply", "it is neither of the two objects just written")),
    }
}
