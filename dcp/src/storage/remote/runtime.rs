//! The threads that wait for replies: one small runtime for the whole process, started by the first remote store.

use crate::error::{Error, Result};
use std::future::Future;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};

/// Replies are awaited, not computed; two threads keep dozens of requests going, and decrypt what comes.
const THREADS: usize = 2;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime.
///
/// Errors: [`Error::Io`] where its threads cannot be started.
pub(super) fn runtime() -> Result<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let started =
        Builder::new_multi_thread().worker_threads(THREADS).thread_name("remote").enable_all().build();
    let started = started.map_err(|source| Error::Io {
        object: "the network".to_owned(),
        action: "starting threads",
        source,
    })?;
    // Of two that are started at once one is dropped unused.
    Ok(RUNTIME.get_or_init(|| started))
}

/// Waits for a future. The caller is an ordinary thread, not one of a runtime.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(runtime()?.block_on(future))
}
