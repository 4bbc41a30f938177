//! Saves and loads agree through the store that the ranks have found each other by.

use crate::error::Error;
use crate::ffi::store::Store;
use dcp::coordinate::KeyValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks for a key: at first, and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// To read a key that was seen.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A c10d store as [`dcp`] asks for one. One connection serves one call at a time: who waits looks again and again.
#[derive(Clone, Debug)]
pub struct StoreKeys(Arc<Store>);

impl StoreKeys {
    /// Keys of their own: give it a store with a prefix that nothing else uses.
    pub fn new(store: Arc<Store>) -> Self {
        StoreKeys(store)
    }
}

fn failed(action: &'static str) -> impl Fn(Error) -> dcp::Error {
    move |error| dcp::Error::Io {
        object: "the ranks' store".to_owned(),
        action,
        source: std::io::Error::other(error),
    }
}

impl KeyValue for StoreKeys {
    fn set(&self, key: &str, value: &[u8], _deadline: Instant) -> dcp::Result<()> {
        self.0.set(key, value).map_err(failed("storing a value"))
    }

    fn wait(&self, key: &str, deadline: Instant) -> dcp::Result<Option<Vec<u8>>> {
        let mut pause = LOOKS.0;
        while !self.0.has(&[key]).map_err(failed("looking for a value"))? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOKS.1);
        }
        self.0.get(key, READ_TIMEOUT).map(Some).map_err(failed("reading a value"))
    }

    fn remove(&self, key: &str, _deadline: Instant) -> dcp::Result<()> {
        self.0.delete(key).map(drop).map_err(failed("removing a value"))
    }
}
