//! Reads one item of an object, in few and small requests.

use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// A part of an object that is complete in itself: an archive in a `.distcp` file, or a whole file.
///
/// Small reads fetch a window around what they want and keep it, so that looking at an ordinary archive's directory,
/// pickle and headers takes two requests, and one where the archive is small.
#[derive(Debug)]
pub struct Item<'a> {
    source: &'a dyn ReadAt,
    object: &'a str,
    byte_offset: u64,
    byte_len: u64,
    /// Bytes read before, with their positions in the item; the newest last.
    windows: Vec<(u64, Vec<u8>)>,
}

impl<'a> Item<'a> {
    /// The least that is fetched at once.
    pub const WINDOW_BYTES: u64 = 1024;
    /// Items up to this length are fetched whole at the first read.
    const WHOLE_BYTES: u64 = 4096;
    const WINDOWS_MAX: usize = 4;

    /// The item of `byte_len` bytes at `byte_offset` of an object, which errors call `object`.
    ///
    /// Errors: [`Error::Truncated`] where the object ends before the item does.
    pub fn new(source: &'a dyn ReadAt, object: &'a str, byte_offset: u64, byte_len: u64) -> Result<Self> {
        match byte_offset.checked_add(byte_len) {
            Some(end) if end <= source.byte_len() => {
                Ok(Item { source, object, byte_offset, byte_len, windows: Vec::new() })
            }
            end => Err(Error::Truncated {
                object: object.to_owned(),
                found: source.byte_len(),
                expected: end.unwrap_or(u64::MAX),
            }),
        }
    }

    /// The item that is a whole object.
    pub fn whole(source: &'a dyn ReadAt, object: &'a str) -> Self {
        Item { source, object, byte_offset: 0, byte_len: source.byte_len(), windows: Vec::new() }
    }

    /// Length of the item.
    pub fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// Position of the item in its object.
    pub fn byte_offset(&self) -> u64 {
        self.byte_offset
    }

    /// What errors call the object.
    pub fn object(&self) -> &'a str {
        self.object
    }

    /// Reads bytes at a position of the item.
    ///
    /// Errors: [`Error::Truncated`] past the item's end, before anything is allocated.
    pub fn read(&mut self, at: u64, byte_len: u64) -> Result<Vec<u8>> {
        let end = at.checked_add(byte_len).filter(|&end| end <= self.byte_len);
        let Some(end) = end else {
            return Err(Error::Truncated {
                object: self.object.to_owned(),
                found: self.byte_offset + self.byte_len,
                expected: self.byte_offset.saturating_add(at).saturating_add(byte_len),
            });
        };
        for (start, window) in &self.windows {
            if *start <= at && end <= *start + window.len() as u64 {
                let from = (at - start) as usize;
                return Ok(window[from..from + byte_len as usize].to_vec());
            }
        }
        if byte_len > Self::WINDOW_BYTES {
            return self.fetch(at, byte_len);
        }
        let (start, window_len) = if self.byte_len <= Self::WHOLE_BYTES {
            (0, self.byte_len)
        } else {
            // A window at the end holds what comes before it rather than less.
            let start = at.min(self.byte_len - Self::WINDOW_BYTES);
            (start, Self::WINDOW_BYTES)
        };
        let window = self.fetch(start, window_len)?;
        let from = (at - start) as usize;
        let bytes = window[from..from + byte_len as usize].to_vec();
        if self.windows.len() == Self::WINDOWS_MAX {
            self.windows.remove(0);
        }
        self.windows.push((start, window));
        Ok(bytes)
    }

    fn fetch(&self, at: u64, byte_len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; byte_len as usize];
        self.source.read_at(self.byte_offset + at, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;

    #[test]
    fn windows_serve_repeated_reads() {
        let memory = Memory::new((0..10_000u32).flat_map(u32::to_le_bytes).collect());
        let mut item = Item::new(&memory, "object", 400, 39_600).unwrap();
        let mut read = |at, byte_len| item.read(at, byte_len).unwrap();
        assert_eq!(read(0, 4), 100u32.to_le_bytes());
        assert_eq!(read(1020, 4), 355u32.to_le_bytes());
        assert_eq!(memory.reads(), 1);
        assert_eq!(read(39_596, 4), 9_999u32.to_le_bytes());
        assert_eq!(read(38_576, 1024).len(), 1024);
        assert_eq!(memory.reads(), 2);
        assert_eq!(read(0, 5000)[..4], 100u32.to_le_bytes());
        assert_eq!(memory.reads(), 3);
    }

    #[test]
    fn a_small_item_is_fetched_once() {
        let memory = Memory::new(vec![7; 5000]);
        let mut item = Item::new(&memory, "object", 1000, 4000).unwrap();
        for at in [3999, 0, 2000] {
            assert_eq!(item.read(at, 1).unwrap(), [7]);
        }
        assert_eq!(memory.reads(), 1);
    }

    #[test]
    fn nothing_outside_the_item_is_read() {
        let memory = Memory::new(vec![0; 100]);
        let mut item = Item::new(&memory, "object", 10, 50).unwrap();
        for (at, byte_len) in [(0, 51), (50, 1), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(matches!(item.read(at, byte_len), Err(Error::Truncated { .. })), "{at} {byte_len}");
        }
        assert_eq!(item.read(50, 0).unwrap(), Vec::<u8>::new());
        assert!(matches!(Item::new(&memory, "object", 60, 50), Err(Error::Truncated { .. })));
        assert!(matches!(Item::new(&memory, "object", u64::MAX, 2), Err(Error::Truncated { .. })));
    }
}
