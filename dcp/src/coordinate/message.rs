//! One message from a rank to others, through a key-value store, in bounded memory.
//!
//! | key | writer | value |
//! |---|---|---|
//! | `p/<from>/<piece>/<tag>` | the sender | piece 0: the message's length in bytes (u64, little-endian) and its first [`EAGER_BYTES`]; every other: the next [`PIECE_BYTES`], the last fewer |
//! | `r/<from>/<piece>/<reader>/<tag>` | a reader | a receipt: `+`, or `-` and why the reader takes no more |
//!
//! The sender puts piece 0 and waits for every receipt: from then on all readers are there. It then keeps up to
//! [`WINDOW`] pieces in the store, and removes each with its receipts when all have read it. A sender that gives up
//! removes what it put.

use super::KeyValue;
use crate::error::{Error, Result};
use std::ops::Range;
use std::time::{Duration, Instant};

/// The most bytes that a value in a [`KeyValue`] store has.
pub const VALUE_BYTES_MAX: usize = PIECE_BYTES;
/// The longest message whose length its reader does not know beforehand.
pub const GATHERED_BYTES_MAX: u64 = 4 << 30;
/// Bytes that are sent before the readers are known to be there. At rank 0, a job's gather has so many of each rank.
const EAGER_BYTES: usize = 16 << 10;
/// Large enough that the round trips for it do not count, small enough to be held many times.
const PIECE_BYTES: usize = 4 << 20;
/// Pieces under way: one is read while the next is sent.
const WINDOW: usize = 2;
/// Bytes of the length at the start of piece 0.
const LENGTH_BYTES: usize = 8;
/// How long a sender that gives up tries to remove what it put.
const WITHDRAWAL: Duration = Duration::from_secs(1);

const GOOD: &[u8] = b"+";
const REFUSAL: u8 = b'-';

/// What both ends know of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) store: &'a dyn KeyValue,
    pub(super) tag: &'a str,
    pub(super) from: u32,
    /// How many ranks the job has, for errors.
    pub(super) ranks: u32,
    /// How long one end waits for the other.
    pub(super) timeout: Duration,
}

impl Message<'_> {
    /// Sends; returns when every reader has read all.
    pub(super) fn send(&self, readers: &[u32], bytes: &[u8]) -> Result<()> {
        let mut in_store = 0..0;
        let sent = self.send_pieces(readers, bytes, &mut in_store);
        if sent.is_err() {
            self.withdraw(readers, in_store);
        }
        sent
    }

    fn send_pieces(&self, readers: &[u32], bytes: &[u8], in_store: &mut Range<usize>) -> Result<()> {
        let (eager, rest) = bytes.split_at(bytes.len().min(EAGER_BYTES));
        let head = [&(bytes.len() as u64).to_le_bytes(), eager].concat();
        let pieces = std::iter::once(head.as_slice()).chain(rest.chunks(PIECE_BYTES));
        for (index, piece) in pieces.enumerate() {
            // All receipts of the head come before what follows it, and then `WINDOW` pieces are under way.
            let under_way = if index == 1 { 0 } else { WINDOW - 1 };
            while in_store.len() > under_way {
                self.collect(readers, in_store)?;
            }
            in_store.end += 1;
            self.store.set(&self.piece_key(index), piece, self.deadline())?;
        }
        while in_store.start < in_store.end {
            self.collect(readers, in_store)?;
        }
        Ok(())
    }

    /// Waits for all receipts of the oldest piece in the store, and removes them and it.
    fn collect(&self, readers: &[u32], in_store: &mut Range<usize>) -> Result<()> {
        let index = in_store.start;
        let deadline = self.deadline();
        let mut missing = Vec::new();
        for &reader in readers {
            let key = self.receipt_key(index, reader);
            match self.store.wait(&key, deadline)? {
                None => missing.push(reader),
                Some(receipt) if receipt == GOOD => self.store.remove(&key, self.deadline())?,
                Some(refusal) => {
                    let why = String::from_utf8_lossy(refusal.get(1..).unwrap_or_default()).into_owned();
                    return Err(self.disagreement(format!("rank {reader} says: {why}")));
                }
            }
        }
        if !missing.is_empty() {
            return Err(self.missing(missing));
        }
        self.store.remove(&self.piece_key(index), self.deadline())?;
        in_store.start += 1;
        Ok(())
    }

    /// Removes what a failed message left. The error that made it fail is the one to report, so others end it quietly.
    fn withdraw(&self, readers: &[u32], in_store: Range<usize>) {
        let deadline = Instant::now() + WITHDRAWAL;
        for index in in_store {
            let receipts = readers.iter().map(|reader| self.receipt_key(index, *reader));
            for key in std::iter::once(self.piece_key(index)).chain(receipts) {
                if self.store.remove(&key, deadline).is_err() || Instant::now() > deadline {
                    return;
                }
            }
        }
    }

    /// The head of the message when it is there, `None` at the deadline. Nothing is acknowledged yet.
    pub(super) fn head(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        self.store.wait(&self.piece_key(0), deadline)
    }

    /// Reads a message of which the head has come: `admit` is asked whether its length is good, `take` gets the bytes in
    /// order.
    pub(super) fn receive(
        &self,
        reader: u32,
        head: &[u8],
        admit: impl FnOnce(u64) -> Result<()>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<()> {
        let (mut left, eager) = self
            .split_head(head)
            .and_then(|(byte_len, eager)| admit(byte_len).map(|()| (byte_len, eager)))
            .or_else(|error| self.refuse(0, reader, error))?;
        left -= eager.len() as u64;
        take(eager);
        self.acknowledge(0, reader)?;
        for index in 1.. {
            if left == 0 {
                break;
            }
            let Some(piece) = self.store.wait(&self.piece_key(index), self.deadline())? else {
                return Err(self.missing(vec![self.from]));
            };
            let expected = left.min(PIECE_BYTES as u64);
            if piece.len() as u64 != expected {
                let why = format!("piece {index} has {} bytes, expected {expected}", piece.len());
                return self.refuse(index, reader, self.malformed(why));
            }
            left -= expected;
            take(&piece);
            self.acknowledge(index, reader)?;
        }
        Ok(())
    }

    fn split_head<'h>(&self, head: &'h [u8]) -> Result<(u64, &'h [u8])> {
        let Some((byte_len, eager)) = head.split_first_chunk::<LENGTH_BYTES>() else {
            let why = format!("its head has {} bytes, fewer than {LENGTH_BYTES}", head.len());
            return Err(self.malformed(why));
        };
        let byte_len = u64::from_le_bytes(*byte_len);
        let expected = byte_len.min(EAGER_BYTES as u64);
        if eager.len() as u64 != expected {
            let why = format!("its head has {} of {byte_len} bytes, expected {expected}", eager.len());
            return Err(self.malformed(why));
        }
        Ok((byte_len, eager))
    }

    fn acknowledge(&self, index: usize, reader: u32) -> Result<()> {
        self.store.set(&self.receipt_key(index, reader), GOOD, self.deadline())
    }

    /// Tells the sender why no more is read; returns that error.
    fn refuse<T>(&self, index: usize, reader: u32, error: Error) -> Result<T> {
        let receipt = [&[REFUSAL], error.to_string().as_bytes()].concat();
        self.store.set(&self.receipt_key(index, reader), &receipt, self.deadline())?;
        Err(error)
    }

    fn piece_key(&self, index: usize) -> String {
        format!("p/{}/{index}/{}", self.from, self.tag)
    }

    fn receipt_key(&self, index: usize, reader: u32) -> String {
        format!("r/{}/{index}/{reader}/{}", self.from, self.tag)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The error about ranks that did not come.
    pub(super) fn missing(&self, missing: Vec<u32>) -> Error {
        Error::RanksMissing { tag: self.tag.to_owned(), missing, ranks: self.ranks, waited: self.timeout }
    }

    /// The error about ranks that want different things.
    pub(super) fn disagreement(&self, why: String) -> Error {
        Error::RanksDisagree { tag: self.tag.to_owned(), why }
    }

    fn malformed(&self, why: String) -> Error {
        Error::malformed(format!("`{}` from rank {}", self.tag, self.from), "message between ranks", why)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Table;
    use super::*;

    fn message<'a>(table: &'a Table, tag: &'a str, timeout_ms: u64) -> Message<'a> {
        Message { store: table, tag, from: 1, ranks: 3, timeout: Duration::from_millis(timeout_ms) }
    }

    /// Lengths around every border: of the head, of pieces, of the window.
    #[test]
    fn any_length_arrives_and_nothing_stays() {
        let borders = [0, EAGER_BYTES, EAGER_BYTES + PIECE_BYTES, EAGER_BYTES + 3 * PIECE_BYTES];
        let lengths = borders.into_iter().flat_map(|border| [border.saturating_sub(1), border, border + 1]);
        let table = Table::with_room(3 * PIECE_BYTES);
        for byte_len in lengths {
            let bytes: Vec<u8> = (0..byte_len).map(|index| (index % 251) as u8).collect();
            let message = message(&table, "t", 60_000);
            std::thread::scope(|scope| {
                for reader in [0, 2] {
                    let bytes = &bytes;
                    scope.spawn(move || {
                        let head = message.head(message.deadline()).unwrap().unwrap();
                        let mut read: Vec<u8> = Vec::new();
                        message.receive(reader, &head, |_| Ok(()), |piece| read.extend(piece)).unwrap();
                        assert!(read == *bytes, "{byte_len} bytes");
                    });
                }
                message.send(&[0, 2], &bytes).unwrap();
            });
            assert_eq!(table.key_count(), 0, "{byte_len} bytes");
        }
    }

    #[test]
    fn what_nobody_reads_is_withdrawn() {
        let table = Table::new();
        let refused = message(&table, "t", 20).send(&[0, 2], &[0; 100]);
        assert!(matches!(refused, Err(Error::RanksMissing { missing, .. }) if missing == [0, 2]));
        assert_eq!(table.key_count(), 0);
    }

    #[test]
    fn pieces_that_lie_are_refused() {
        let eager = |byte_len: u64, count: usize| [&byte_len.to_le_bytes()[..], &vec![0; count]].concat();
        for head in [
            vec![],
            vec![0; 7],
            eager(1, 0),
            eager(0, 1),
            eager(u64::MAX, 5),
            eager(u64::MAX, EAGER_BYTES + 1),
        ] {
            let table = Table::new();
            let message = message(&table, "t", 20);
            let refused = message.receive(0, &head, |_| Ok(()), |_| panic!("nothing to take"));
            assert!(matches!(refused, Err(Error::Malformed { .. })), "{refused:?}");
            assert_eq!(table.wait("r/1/0/0/t", Instant::now()).unwrap().unwrap()[0], REFUSAL);
        }
        let table = Table::new();
        let message = message(&table, "t", 20);
        table.set("p/1/1/t", &[0; 5], message.deadline()).unwrap();
        let refused = message.receive(0, &eager(EAGER_BYTES as u64 + 4, EAGER_BYTES), |_| Ok(()), |_| ());
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{refused:?}");
    }
}
