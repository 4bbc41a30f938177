//! Undoes the stream transforms of items.
//!
//! `stream.zstd/1` is one zstd frame around an item. Nothing inside can be found without decoding all before it, so an
//! item is decoded once to a temporary file without a name, and read from there.
//!
//! Source: torch/distributed/checkpoint/_extension.py, PyTorch 2.7 to 2.15.

use crate::error::{Error, Result};
use crate::storage::ReadAt;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// The only transform there is.
const ZSTD: &str = "stream.zstd/1";

/// The most decoded items kept for the next call.
const DECODED_MAX: usize = 32;

/// What one read fetches.
const READ_BYTES: u64 = 1 << 20;

/// Object and first byte of an item.
type ItemId = (u32, u64);

/// The items decoded last, the oldest first.
#[derive(Debug, Default)]
pub(super) struct DecodedItems(Mutex<VecDeque<(ItemId, Arc<dyn ReadAt>)>>);

impl DecodedItems {
    /// The item, decoded by `decode` unless it was among the last that were.
    pub(super) fn get(
        &self,
        id: ItemId,
        decode: impl FnOnce() -> Result<Arc<dyn ReadAt>>,
    ) -> Result<Arc<dyn ReadAt>> {
        if let Some((_, item)) =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|(known, _)| *known == id)
        {
            return Ok(Arc::clone(item));
        }
        let item = decode()?;
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if items.len() == DECODED_MAX {
            items.pop_front();
        }
        items.push_back((id, Arc::clone(&item)));
        Ok(item)
    }
}

/// A part of an object that is stored transformed.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransformedItem<'a> {
    pub(super) source: &'a dyn ReadAt,
    /// What errors call the object.
    pub(super) object: &'a str,
    pub(super) byte_offset: u64,
    pub(super) byte_len: u64,
}

/// Decodes an item whose transforms are undone in this order, to at most `byte_len_max` bytes.
///
/// Errors: [`Error::Malformed`] for another transform than zstd and for bytes that are no such frame;
/// [`Error::OverLimit`] for more bytes.
pub(super) fn decode(
    item: TransformedItem<'_>,
    transforms: &[String],
    byte_len_max: u64,
) -> Result<Arc<dyn ReadAt>> {
    let malformed = |why: String| Error::malformed(item.object, "transformed item", why);
    let mut stored: Box<dyn Read + '_> = Box::new(ItemStream { item, at: 0 });
    for transform in transforms {
        if transform != ZSTD {
            let why = format!(
                "it is stored with the transform `{transform}`; only `{ZSTD}` is known. \
                 Load it with the extension that wrote it and save it without"
            );
            return Err(malformed(why));
        }
        let decoder =
            zstd::stream::read::Decoder::new(stored).map_err(|error| malformed(error.to_string()))?;
        stored = Box::new(decoder);
    }
    let temporary = |source| Error::Io {
        object: "a temporary file".to_owned(),
        action: "writing a decoded item",
        source,
    };
    let mut file = tempfile::tempfile().map_err(temporary)?;
    let mut buffer = vec![0; READ_BYTES as usize];
    let mut byte_len = 0u64;
    loop {
        let read = match stored.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The store's own errors pass through the decoder.
            Err(error) => match error.downcast::<Error>() {
                Ok(error) => return Err(error),
                Err(error) => return Err(malformed(format!("it is not what `{ZSTD}` makes: {error}"))),
            },
        };
        byte_len += read as u64;
        if byte_len > byte_len_max {
            return Err(Error::OverLimit {
                object: item.object.to_owned(),
                what: "the decoded length of an item",
                found: byte_len,
                limit: byte_len_max,
            });
        }
        file.write_all(&buffer[..read]).map_err(temporary)?;
    }
    Ok(Arc::new(DecodedFile { object: format!("{}, decoded", item.object), file, byte_len }))
}

/// The bytes of an item in order.
struct ItemStream<'a> {
    item: TransformedItem<'a>,
    at: u64,
}

impl Read for ItemStream<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = (self.item.byte_len - self.at).min(target.len() as u64) as usize;
        self.item
            .source
            .read_at(self.item.byte_offset + self.at, &mut target[..read])
            .map_err(io::Error::other)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A file of our own, which nobody else can change.
#[derive(Debug)]
struct DecodedFile {
    object: String,
    file: File,
    byte_len: u64,
}

impl ReadAt for DecodedFile {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let end = byte_offset.saturating_add(target.len() as u64);
        if end > self.byte_len {
            return Err(Error::Truncated {
                object: self.object.clone(),
                found: self.byte_len,
                expected: end,
            });
        }
        let read = self.file.read_exact_at(target, byte_offset);
        read.map_err(|source| Error::Io { object: self.object.clone(), action: "reading", source })
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
