//! What a store must do for ranks to agree through it.

use crate::error::Result;
use std::fmt::Debug;
use std::time::Instant;

/// Small values under keys that all ranks see. Calls come from any thread, and one that waits must not hold up the
/// others: over a connection that serves one call at a time, look again and again instead of waiting in the store.
///
/// Keys are ASCII apart from what a caller's tag has, values at most
/// [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX) bytes and never empty. Each key has one writer, and is written once.
pub trait KeyValue: Send + Sync + Debug {
    /// Stores a value; every rank sees it from now on. May wait until the deadline for others to remove values, where
    /// the store has limited room.
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result<()>;

    /// The value of a key as soon as there is one, `None` when the deadline passes first. With a deadline already past,
    /// looks once.
    fn wait(&self, key: &str, deadline: Instant) -> Result<Option<Vec<u8>>>;

    /// Removes a key, if it is there.
    fn remove(&self, key: &str, deadline: Instant) -> Result<()>;
}
