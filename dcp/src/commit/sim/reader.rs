//! A reader: the newest slot, and then everything that its manifest names.

use super::events::{Invariant, Outcome, Who};
use super::store::{Content, Op, Reply};
use super::world::World;

/// Looks at the slots before a reader gives up.
const LOOKS_MAX: u32 = 4;

/// A reader.
#[derive(Debug, Default)]
pub(super) struct Reader {
    ticket: u32,
    looks: u32,
    /// The slot and the attempt that it reads, and the ranks that are still to be read.
    reads: Option<(u32, u16, u32)>,
}

impl World<'_> {
    pub(super) fn reader_wakes(&mut self, reader: u8) {
        let state = &mut self.readers[usize::from(reader)];
        state.looks += 1;
        state.reads = None;
        match state.looks > LOOKS_MAX {
            true => self.ended(Who::Reader(reader), Outcome::ReadFailed),
            false => self.reader_asks(reader, Op::ListSlots),
        }
    }

    fn reader_asks(&mut self, reader: u8, op: Op) {
        let state = &mut self.readers[usize::from(reader)];
        state.ticket += 1;
        let ticket = state.ticket;
        self.send(Who::Reader(reader), ticket, op);
    }

    pub(super) fn reader_hears(&mut self, reader: u8, ticket: u32, op: Op, reply: Reply) {
        let state = &mut self.readers[usize::from(reader)];
        if ticket != state.ticket {
            return;
        }
        match (op, reply) {
            (_, Reply::Slots(0) | Reply::Slot(Some(Content::Abandoned { .. }))) => {
                self.ended(Who::Reader(reader), Outcome::ReadNone);
            }
            (_, Reply::Slots(mask)) => {
                self.reader_asks(reader, Op::GetSlot { slot: 127 - mask.leading_zeros() })
            }
            (Op::GetSlot { slot }, Reply::Slot(Some(Content::Commit(attempt)))) => {
                state.reads = Some((slot, attempt, self.ranks));
                state.ticket += 1;
                let ticket = state.ticket;
                for rank in 0..self.ranks as u8 {
                    self.send(Who::Reader(reader), ticket, Op::LookRank { attempt, rank });
                }
            }
            (_, Reply::There(there)) => self.reader_reads(reader, there),
            _ => {
                state.ticket += 1;
                self.reader_wakes(reader);
            }
        }
    }

    fn reader_reads(&mut self, reader: u8, there: bool) {
        let state = &mut self.readers[usize::from(reader)];
        let Some((slot, attempt, left)) = state.reads.as_mut() else { return };
        if !there {
            let (slot, attempt) = (*slot, *attempt);
            state.ticket += 1;
            if self.store.newest() == Some((slot, Content::Commit(attempt))) {
                let found =
                    || format!("a reader misses objects of attempt {attempt}, which slot {slot} names");
                self.store.fail(Invariant::NewestIsWhole, found);
            }
            return self.reader_wakes(reader);
        }
        *left -= 1;
        if *left == 0 {
            self.ended(Who::Reader(reader), Outcome::Read);
        }
    }
}
