//! Agreement between the ranks of one job about a save or a load: messages over CPU, never over the accelerators' own
//! network, so that a collective of the training can neither block them nor be blocked.
//!
//! [`Coordinator`] is what saves and loads use. [`Alone`] is a job of one process. Everything else is [`Peers`], which
//! builds the collectives on three operations of a [`KeyValue`] store: [`Table`] for ranks in one process ([`threads`]),
//! [`TcpStore`] between processes, and whatever store the trainer has already.
//!
//! What every implementation keeps, and the conformance suite pins:
//!
//! 1. The ranks of a collective call it with the same tag, and a tag serves once. A second try has another tag, so that
//!    a rank that died and came back meets nothing of the first.
//! 2. Collectives with different tags may be under way at the same time, from any threads. Ranks that are in several
//!    collectives one after the other enter them in the same order.
//! 3. Nobody waits for ever: a rank that does not come is named by [`Error::RanksMissing`]
//!    at those who waited for it.
//! 4. A call that returns `Ok` has left nothing in the store. One that fails may leave receipts, a byte each.

mod alone;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod key_value;
mod message;
mod peers;
mod table;
mod tcp;

pub use alone::Alone;
pub use key_value::KeyValue;
pub use message::{GATHERED_BYTES_MAX, VALUE_BYTES_MAX};
pub use peers::{Peers, TAG_BYTES_MAX, threads};
pub use table::Table;
pub use tcp::{JOB_BYTES_MAX, TcpStore, over_tcp};

use crate::error::{Error, Result};
use std::fmt::Debug;

/// One rank's line to the others.
pub trait Coordinator: Send + Sync + Debug {
    /// This rank, from 0.
    fn rank(&self) -> u32;

    /// How many ranks the job has.
    fn ranks(&self) -> u32;

    /// Every rank's bytes at rank 0, in rank order; `None` elsewhere. Called by every rank. Returns when rank 0 has
    /// them.
    fn gather(&self, tag: &str, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>>;

    /// Rank `from`'s bytes at every rank of `group`, which is sorted and has this rank and `from` in it. All of the
    /// group, and nobody else, call it, each with as many bytes; they may be more than memory could hold twice. Returns
    /// at `from` when all have them.
    ///
    /// Errors: [`Error::RanksDisagree`] where the lengths differ.
    fn broadcast(&self, tag: &str, from: u32, group: &[u32], bytes: &mut [u8]) -> Result<()>;

    /// Rank 0's bytes, of any length, at every rank; what the others give is not looked at. Called by every rank.
    fn share(&self, tag: &str, bytes: &[u8]) -> Result<Vec<u8>>;

    /// Returns at every rank when all have called it.
    fn meet(&self, tag: &str) -> Result<()> {
        self.gather(tag, b"")?;
        self.share(&format!("{tag}/met"), b"").map(drop)
    }
}

/// Whether a rank may take part in a broadcast as asked.
fn check_group(rank: u32, ranks: u32, from: u32, group: &[u32]) -> Result<()> {
    let why = if !group.is_sorted_by(|left, right| left < right) {
        "is not sorted, or has a rank twice".to_owned()
    } else if let Some(last) = group.last().filter(|last| **last >= ranks) {
        format!("has rank {last} in a job of {ranks}")
    } else if let Some(absent) = [rank, from].iter().find(|rank| group.binary_search(rank).is_err()) {
        format!("lacks rank {absent}, which takes part")
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!("the group {group:?} of a broadcast {why}")))
}
