//! Which bytes of a multipart upload are there: writes in any order in, whole parts out. No I/O.
//!
//! An object is cut in parts of equal length, the last one shorter. A write that fills a whole part passes through; any
//! other is kept until its part is full: the engine fills an object from front to back, so that few parts are open.
//! The only part of an object that has no more is kept to the end, since such an object is no multipart upload.
//!
//! A part that is not touched for long can be spilled: from then on its bytes, those that are there and those that
//! come, are kept in a *slot* of a temporary file, a stretch as long as a part that is used again once the part is sent.
//! Every byte is so written there at most once, however long the parts wait.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// S3 takes at most this many parts of an object.
const PARTS_MAX: u64 = 10_000;
/// The least length of a part: few requests, yet many in flight at once.
const PART_BYTES_MIN: u64 = 16 << 20;
/// Parts are multiples of this.
const PART_BYTES_STEP: u64 = 1 << 20;

/// The length of parts for an object of `byte_len` bytes, or of unknown length.
pub(super) fn part_bytes(byte_len: Option<u64>) -> u64 {
    // Nine tenths of what is allowed, as a margin for stores that count differently.
    let least = byte_len.unwrap_or(0).div_ceil(PARTS_MAX * 9 / 10);
    least.max(PART_BYTES_MIN).next_multiple_of(PART_BYTES_STEP)
}

/// The most bytes that parts of this length can hold.
pub(super) fn object_bytes_max(part_bytes: u64) -> u64 {
    part_bytes.saturating_mul(PARTS_MAX)
}

/// Half-filled parts of a store's writers take at most this much memory, about as much again as the requests under way
/// and a copy's own buffers. Written front to back, an object needs one part or two, 16 MiB each: this is room for
/// twenty or more objects at once. What needs more is either very many objects or written in a strange order.
const HALF_FILLED_BYTES_MAX: u64 = 512 << 20;

/// What all writers of a store have of the memory that half-filled parts may take.
#[derive(Debug)]
pub(super) struct HalfFilled {
    bytes: AtomicU64,
    pub(super) bytes_max: u64,
}

impl Default for HalfFilled {
    fn default() -> Self {
        HalfFilled { bytes: AtomicU64::new(0), bytes_max: HALF_FILLED_BYTES_MAX }
    }
}

impl HalfFilled {
    /// Notes that one writer's share is another now; gives the sum of all.
    pub(super) fn replace(&self, was: u64, now: u64) -> u64 {
        let change = now.wrapping_sub(was);
        self.bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change)
    }
}

/// A part whose bytes are all there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its number, from 0.
    pub(super) index: u64,
    /// Its bytes.
    pub(super) contents: Contents,
}

/// Where the bytes of a part are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// Here.
    Memory(Vec<u8>),
    /// In the temporary file, until the next step.
    File {
        /// The first of them.
        file_offset: u64,
        /// How many.
        byte_len: u64,
    },
}

/// What a write asks for. Steps are taken one by one in their order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send a part.
    Send(Part),
    /// Put part of the write into the temporary file.
    Store {
        /// Where.
        file_offset: u64,
        /// Which of the write's bytes.
        bytes: Range<usize>,
    },
}

/// The memory of a part that goes to the temporary file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spill {
    /// Where.
    pub(super) file_offset: u64,
    /// All bytes of the part, zeros where nothing was written yet.
    pub(super) bytes: Vec<u8>,
}

/// The parts that are being filled.
#[derive(Debug)]
pub(super) struct Parts {
    part_bytes: u64,
    /// Length of the object; the parts of an object of unknown length are as long as any.
    byte_len: Option<u64>,
    open: BTreeMap<u64, Open>,
    /// The open parts in memory, by when they were touched last.
    by_age: BTreeMap<u64, u64>,
    /// Counts touches.
    clock: u64,
    /// Bytes of the open parts in memory, whether filled or not.
    held_bytes: u64,
    /// Slots of the temporary file that can be used again, and how many there are in all.
    free_slots: Vec<u64>,
    slots: u64,
    /// End of the last write.
    end: u64,
}

#[derive(Debug)]
struct Open {
    kept: Kept,
    filled_bytes: u64,
}

#[derive(Debug)]
enum Kept {
    Memory { bytes: Vec<u8>, touched: u64 },
    Slot(u64),
}

impl Parts {
    pub(super) fn new(part_bytes: u64, byte_len: Option<u64>) -> Self {
        Parts {
            part_bytes,
            byte_len,
            open: BTreeMap::new(),
            by_age: BTreeMap::new(),
            clock: 0,
            held_bytes: 0,
            free_slots: Vec::new(),
            slots: 0,
            end: 0,
        }
    }

    /// Whether some but not all bytes of a part have been written.
    pub(super) fn is_open(&self, index: u64) -> bool {
        self.open.contains_key(&index)
    }

    /// End of the bytes written so far.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Memory of the parts that are not full.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Takes a write, which overlaps no other; gives what to do with it.
    pub(super) fn write(&mut self, byte_offset: u64, bytes: &[u8]) -> Vec<Step> {
        if !bytes.is_empty() {
            self.end = self.end.max(byte_offset + bytes.len() as u64);
        }
        let (mut steps, mut done) = (Vec::new(), 0);
        while done < bytes.len() {
            let at = byte_offset + done as u64;
            let (index, within) = (at / self.part_bytes, at % self.part_bytes);
            let part_len = self.part_len(index);
            let piece = done..bytes.len().min(done + (part_len - within) as usize);
            done = piece.end;
            self.fill(index, within, bytes, piece, &mut steps);
        }
        steps
    }

    /// Gives up the memory of the part that was touched longest ago; `None` where no part is in memory.
    pub(super) fn spill(&mut self) -> Option<Spill> {
        let (_, index) = self.by_age.pop_first()?;
        let open = self.open.get_mut(&index)?;
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        match std::mem::replace(&mut open.kept, Kept::Slot(slot)) {
            Kept::Memory { bytes, .. } => {
                self.held_bytes -= bytes.len() as u64;
                Some(Spill { file_offset: slot * self.part_bytes, bytes })
            }
            Kept::Slot(_) => None,
        }
    }

    /// The parts that are not full, holes as zeros, for an object that ends at `end`. Nothing is written after.
    pub(super) fn rest(mut self, end: u64, uploaded: impl Fn(u64) -> bool) -> impl Iterator<Item = Part> {
        let count = end.div_ceil(self.part_bytes);
        (0..count).filter(move |&index| !uploaded(index)).map(move |index| {
            let byte_len = self.part_bytes.min(end - index * self.part_bytes);
            let contents = match self.open.remove(&index).map(|open| open.kept) {
                Some(Kept::Slot(slot)) => Contents::File { file_offset: slot * self.part_bytes, byte_len },
                Some(Kept::Memory { mut bytes, .. }) => {
                    bytes.resize(byte_len as usize, 0);
                    Contents::Memory(bytes)
                }
                None => Contents::Memory(vec![0; byte_len as usize]),
            };
            Part { index, contents }
        })
    }

    fn part_len(&self, index: u64) -> u64 {
        let start = index * self.part_bytes;
        self.byte_len.map_or(self.part_bytes, |byte_len| self.part_bytes.min(byte_len.saturating_sub(start)))
    }

    /// Takes `bytes[piece]`, which go `within` bytes into part `index`.
    fn fill(&mut self, index: u64, within: u64, bytes: &[u8], piece: Range<usize>, steps: &mut Vec<Step>) {
        let part_len = self.part_len(index);
        let source = &bytes[piece.clone()];
        let is_only = self.byte_len.is_some_and(|byte_len| byte_len <= self.part_bytes);
        if source.len() as u64 == part_len && !is_only {
            steps.push(Step::Send(Part { index, contents: Contents::Memory(source.to_vec()) }));
            return;
        }
        self.clock += 1;
        let now = self.clock;
        let open = self.open.entry(index).or_insert_with(|| {
            self.held_bytes += part_len;
            let kept = Kept::Memory { bytes: vec![0; part_len as usize], touched: now };
            Open { kept, filled_bytes: 0 }
        });
        open.filled_bytes += source.len() as u64;
        match &mut open.kept {
            Kept::Memory { bytes, touched } => {
                bytes[within as usize..][..source.len()].copy_from_slice(source);
                self.by_age.remove(touched);
                *touched = now;
                self.by_age.insert(now, index);
            }
            Kept::Slot(slot) => {
                steps.push(Step::Store { file_offset: *slot * self.part_bytes + within, bytes: piece });
            }
        }
        if open.filled_bytes == part_len
            && !is_only
            && let Some(open) = self.open.remove(&index)
        {
            let contents = self.take(open.kept, part_len);
            steps.push(Step::Send(Part { index, contents }));
        }
    }

    /// Gives up what a part that is full takes.
    fn take(&mut self, kept: Kept, part_len: u64) -> Contents {
        match kept {
            Kept::Memory { bytes, touched } => {
                self.by_age.remove(&touched);
                self.held_bytes -= part_len;
                Contents::Memory(bytes)
            }
            Kept::Slot(slot) => {
                self.free_slots.push(slot);
                Contents::File { file_offset: slot * self.part_bytes, byte_len: part_len }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_as_short_as_their_number_allows() {
        assert_eq!(part_bytes(None), 16 << 20);
        assert_eq!(part_bytes(Some(100 << 30)), 16 << 20);
        let tera = part_bytes(Some(2 << 40));
        assert!(tera > 200 << 20 && (2u64 << 40).div_ceil(tera) <= PARTS_MAX, "{tera}");
        assert_eq!(part_bytes(Some(u64::MAX)) % PART_BYTES_STEP, 0);
    }

    fn bytes_of(file: &[u8], contents: Contents) -> Vec<u8> {
        match contents {
            Contents::Memory(bytes) => bytes,
            Contents::File { file_offset, byte_len } => {
                file[file_offset as usize..][..byte_len as usize].to_vec()
            }
        }
    }

    fn put(file: &mut [u8], file_offset: u64, bytes: &[u8]) {
        file[file_offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn the_part_touched_longest_ago_is_spilled_and_its_slot_used_again() {
        let mut parts = Parts::new(10, Some(40));
        for at in [0, 10, 20, 1] {
            assert_eq!(parts.write(at, &[7]), []);
        }
        assert_eq!(parts.held_bytes(), 30);
        let spill = parts.spill().unwrap();
        assert_eq!((spill.file_offset, spill.bytes[0], parts.held_bytes()), (0, 7, 20), "part 1");
        let steps = parts.write(11, &[8; 9]);
        let sent = Part { index: 1, contents: Contents::File { file_offset: 0, byte_len: 10 } };
        assert_eq!(steps, [Step::Store { file_offset: 1, bytes: 0..9 }, Step::Send(sent)]);
        assert_eq!(parts.spill().unwrap().file_offset, 0, "part 2, in the slot of part 1");
        assert_eq!(parts.spill().unwrap().file_offset, 10, "part 0");
        assert_eq!((parts.spill(), parts.held_bytes()), (None, 0));
    }

    proptest! {
        #[test]
        fn every_order_of_writes_gives_the_object(
            byte_len in 0usize..200,
            part_bytes in 1u64..50,
            cuts in prop::collection::vec(0usize..200, 0..12),
            order in any::<u64>(),
            known in any::<bool>(),
            hole in 0usize..4,
            held_bytes_max in 0u64..120,
        ) {
            let whole: Vec<u8> = (0..byte_len).map(|at| at as u8 + 1).collect();
            let mut edges: Vec<usize> = cuts.into_iter().map(|cut| cut % (byte_len + 1)).chain([0, byte_len]).collect();
            edges.sort_unstable();
            let mut writes: Vec<(usize, usize)> = edges.windows(2).map(|edge| (edge[0], edge[1])).collect();
            writes.sort_by_key(|(start, end)| (*start as u64 + 1).wrapping_mul(order | 1).rotate_left(*end as u32));
            let mut expected = whole.clone();
            // One of the writes may never come: its bytes are zeros, unless the object then ends before it.
            if hole == 0 && !writes.is_empty() {
                let (start, end) = writes.pop().unwrap();
                expected[start..end].fill(0);
            }
            let mut parts = Parts::new(part_bytes, known.then_some(byte_len as u64));
            let mut got: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            // The temporary file starts with other bytes, which must not shine through.
            let mut file = vec![0xff; 400];
            for (start, end) in writes {
                let bytes = &whole[start..end];
                for step in parts.write(start as u64, bytes) {
                    match step {
                        Step::Send(part) => {
                            let was = got.insert(part.index, bytes_of(&file, part.contents));
                            prop_assert!(was.is_none(), "a part twice");
                        }
                        Step::Store { file_offset, bytes: range } => put(&mut file, file_offset, &bytes[range]),
                    }
                }
                while parts.held_bytes() > held_bytes_max {
                    let spill = parts.spill().expect("something is held");
                    put(&mut file, spill.file_offset, &spill.bytes);
                }
                let held: u64 = parts.open.values().map(|open| match &open.kept {
                    Kept::Memory { bytes, .. } => bytes.len() as u64,
                    Kept::Slot(_) => 0,
                }).sum();
                prop_assert_eq!(held, parts.held_bytes());
            }
            prop_assert!(held_bytes_max > 0 || parts.spill().is_none());
            prop_assert!(!known || byte_len as u64 > part_bytes || got.is_empty(), "one request is enough");
            let end = if known { byte_len as u64 } else { parts.end() };
            expected.truncate(end as usize);
            let sent: Vec<u64> = got.keys().copied().collect();
            for part in parts.rest(end, |index| sent.contains(&index)) {
                got.insert(part.index, bytes_of(&file, part.contents));
            }
            let object: Vec<u8> = got.values().flatten().copied().collect();
            prop_assert_eq!(object, expected);
            let short = got.values().rev().skip(1).find(|bytes| bytes.len() as u64 != part_bytes);
            prop_assert!(short.is_none(), "only the last part may be short");
        }
    }
}
