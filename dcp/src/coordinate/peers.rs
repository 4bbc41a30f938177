//! Ranks that agree through a key-value store.

use super::message::{GATHERED_BYTES_MAX, Message};
use super::{Coordinator, KeyValue, Table, check_group};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 1024;
/// The longest that a rank may be told to wait: thirty days.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long rank 0 waits for one rank before it looks at all again, at first and at most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// One rank of a job.
#[derive(Clone, Debug)]
pub struct Peers {
    store: Arc<dyn KeyValue>,
    rank: u32,
    ranks: u32,
    timeout: Duration,
}

impl Peers {
    /// Rank `rank` of `ranks`, each with a handle on one and the same store. `timeout` is how long it waits for another
    /// rank to come, or to go on.
    pub fn new(store: Arc<dyn KeyValue>, rank: u32, ranks: u32, timeout: Duration) -> Result<Self> {
        if rank >= ranks {
            return Err(Error::Usage(format!("rank {rank} in a job of {ranks}: ranks count from 0")));
        }
        Ok(Peers { store, rank, ranks, timeout: timeout.min(TIMEOUT_MAX) })
    }

    fn message<'a>(&'a self, tag: &'a str, from: u32) -> Result<Message<'a>> {
        if tag.is_empty() || tag.len() > TAG_BYTES_MAX {
            let found = tag.len();
            return Err(Error::Usage(format!("a tag of {found} bytes; expected 1 to {TAG_BYTES_MAX}")));
        }
        Ok(Message { store: &*self.store, tag, from, ranks: self.ranks, timeout: self.timeout })
    }

    /// Reads a message of unknown length whose head has come.
    fn receive_any(&self, message: Message<'_>, head: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let admit = |byte_len| {
            if byte_len > GATHERED_BYTES_MAX {
                let (object, what) = (format!("`{}` from rank {}", message.tag, message.from), "its length");
                return Err(Error::OverLimit { object, what, found: byte_len, limit: GATHERED_BYTES_MAX });
            }
            Ok(())
        };
        message.receive(self.rank, head, admit, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// Takes from each rank what it sends, in the order they come: one that is late holds up none that is there.
    fn gather_here(&self, tag: &str, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + self.timeout;
        let mut gathered = vec![Vec::new(); self.ranks as usize];
        gathered[0] = own.to_vec();
        let mut pending: Vec<u32> = (1..self.ranks).collect();
        let mut pause = LOOK_AGAIN.0;
        loop {
            // Read before looking: who came by the deadline is seen.
            let now = Instant::now();
            let mut absent = Vec::new();
            for &rank in &pending {
                let message = self.message(tag, rank)?;
                match message.head(now)? {
                    Some(head) => gathered[rank as usize] = self.receive_any(message, &head)?,
                    None => absent.push(rank),
                }
            }
            let Some(&first) = absent.first() else { return Ok(gathered) };
            if now >= deadline {
                return Err(self.message(tag, 0)?.missing(absent));
            }
            pause = if absent.len() < pending.len() { LOOK_AGAIN.0 } else { LOOK_AGAIN.1.min(pause * 2) };
            self.message(tag, first)?.head(deadline.min(Instant::now() + pause))?;
            pending = absent;
        }
    }

    fn head_from(&self, message: Message<'_>) -> Result<Vec<u8>> {
        message.head(Instant::now() + self.timeout)?.ok_or_else(|| message.missing(vec![message.from]))
    }
}

impl Coordinator for Peers {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn ranks(&self) -> u32 {
        self.ranks
    }

    fn gather(&self, tag: &str, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        let message = self.message(tag, self.rank)?;
        if self.rank == 0 {
            return self.gather_here(tag, bytes).map(Some);
        }
        message.send(&[0], bytes).map(|()| None)
    }

    fn broadcast(&self, tag: &str, from: u32, group: &[u32], bytes: &mut [u8]) -> Result<()> {
        check_group(self.rank, self.ranks, from, group)?;
        let message = self.message(tag, from)?;
        if from == self.rank {
            let readers: Vec<u32> = group.iter().copied().filter(|rank| *rank != from).collect();
            return if readers.is_empty() { Ok(()) } else { message.send(&readers, bytes) };
        }
        let expected = bytes.len() as u64;
        let admit = |found| {
            if found != expected {
                let why = format!("rank {from} sends {found} bytes, rank {} expects {expected}", self.rank);
                return Err(message.disagreement(why));
            }
            Ok(())
        };
        let mut left = bytes;
        let take = |piece: &[u8]| {
            let (target, rest) = std::mem::take(&mut left).split_at_mut(piece.len());
            target.copy_from_slice(piece);
            left = rest;
        };
        message.receive(self.rank, &self.head_from(message)?, admit, take)
    }

    fn share(&self, tag: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        let message = self.message(tag, 0)?;
        if self.rank != 0 {
            return self.receive_any(message, &self.head_from(message)?);
        }
        let readers: Vec<u32> = (1..self.ranks).collect();
        if !readers.is_empty() {
            message.send(&readers, bytes)?;
        }
        Ok(bytes.to_vec())
    }
}

/// The ranks of a job in one process, in rank order: for tools that stand for several ranks, and for tests.
pub fn threads(ranks: u32, timeout: Duration) -> Vec<Peers> {
    let (store, timeout) = (Arc::new(Table::new()), timeout.min(TIMEOUT_MAX));
    (0..ranks).map(|rank| Peers { store: store.clone(), rank, ranks, timeout }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Job, all};
    use super::*;

    #[test]
    fn conforms() {
        all(16, &|ranks, timeout| {
            let table = Arc::new(Table::new());
            let rank = |rank| Arc::new(Peers::new(table.clone(), rank, ranks, timeout).unwrap()) as _;
            Job { ranks: (0..ranks).map(rank).collect(), held: Box::new(move || table.key_count()) }
        });
    }

    #[test]
    fn threads_are_ranks_of_one_job() {
        let job = threads(3, Duration::MAX);
        std::thread::scope(|scope| {
            for rank in &job {
                scope.spawn(|| assert_eq!(rank.share("hello", &[rank.rank() as u8]).unwrap(), [0]));
            }
        });
    }

    #[test]
    fn wrong_numbers_and_tags_are_refused() {
        let refused = Peers::new(Arc::new(Table::new()), 3, 3, Duration::ZERO);
        assert!(matches!(refused, Err(Error::Usage(_))));
        let job = threads(2, Duration::from_millis(10));
        for tag in ["", &"t".repeat(TAG_BYTES_MAX + 1)] {
            for rank in &job {
                assert!(matches!(rank.gather(tag, b""), Err(Error::Usage(_))));
                assert!(matches!(rank.share(tag, b""), Err(Error::Usage(_))));
            }
        }
        let longest = "t".repeat(TAG_BYTES_MAX);
        assert!(matches!(job[0].gather(&longest, b""), Err(Error::RanksMissing { .. })));
    }
}
