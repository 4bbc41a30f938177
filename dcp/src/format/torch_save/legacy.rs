//! The stream that `torch.save` wrote before version 1.6.

use crate::error::{Error, Result};
use crate::format::wire::pickle_nodes::Pickle;
use crate::format::wire::pickle_read::parse_prefix;
use crate::format::wire::tensor::storage_of;
use crate::storage::ReadAt;
use std::collections::HashMap;

/// The pickle of the magic number 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// The protocol that follows it.
const PROTOCOL: i64 = 1001;
/// Bytes read at first for the pickles; more where they do not suffice.
const HEAD_BYTES: u64 = 1 << 20;
/// The most that the pickles may take.
const HEAD_BYTES_MAX: u64 = 1 << 30;

pub(super) fn is_legacy(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// The archive format before that, which `torch.load` itself reads no more with `weights_only`.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// The parts of a stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// The pickle of the object.
    pub(super) data: Vec<u8>,
    /// Names of the storages, in stored order.
    pub(super) keys: Vec<String>,
    /// Where the first storage's count is.
    pub(super) storages_offset: u64,
}

/// Reads the five pickles.
pub(super) fn read(source: &dyn ReadAt, object: &str) -> Result<Stream> {
    let mut head_bytes = HEAD_BYTES;
    loop {
        let mut head = vec![0; head_bytes.min(source.byte_len()) as usize];
        source.read_at(0, &mut head)?;
        match parse(&head, object) {
            Ok(stream) => return Ok(stream),
            Err(Failure::Truncated) if head_bytes < source.byte_len().min(HEAD_BYTES_MAX) => head_bytes *= 8,
            Err(Failure::Truncated) => {
                return Err(Error::malformed(object, "torch.save file", "its pickles do not end inside it"));
            }
            Err(Failure::Other(error)) => return Err(error),
        }
    }
}

enum Failure {
    Truncated,
    Other(Error),
}

fn parse(head: &[u8], object: &str) -> Result<Stream, Failure> {
    let mut at = 0;
    let mut next = || {
        let start = at;
        let (pickle, used) = parse_prefix(&head[at..]).map_err(|error| match error.truncated {
            true => Failure::Truncated,
            false => Failure::Other(error.of(object)),
        })?;
        at += used;
        Ok::<_, Failure>((pickle, start..start + used))
    };
    let bad = |why: &str| Failure::Other(Error::malformed(object, "torch.save file", why));
    next()?;
    let (protocol, _) = next()?;
    if protocol.int(protocol.root()) != Some(PROTOCOL) {
        return Err(bad("the legacy protocol is not 1001"));
    }
    next()?;
    let (_, data) = next()?;
    let (keys, end) = next()?;
    let keys = keys
        .sequence(keys.root())
        .and_then(|ids| ids.iter().map(|&id| keys.str(id).map(str::to_owned)).collect::<Option<Vec<_>>>())
        .ok_or_else(|| bad("its list of storages is not a list of texts"))?;
    Ok(Stream { data: head[data].to_vec(), keys, storages_offset: end.end as u64 })
}

/// Finds the data of every storage: its first byte by its key. `pickle` is that of the object.
pub(super) fn storages(
    source: &dyn ReadAt,
    object: &str,
    stream: &Stream,
    pickle: &Pickle,
) -> Result<HashMap<String, u64>> {
    let bad = |why: String| Error::malformed(object, "torch.save file", why);
    let mut lengths = HashMap::new();
    for id in pickle.persistent_ids() {
        let storage = storage_of(pickle, id).map_err(|why| bad(why.to_string()))?;
        lengths.insert(storage.key, (storage.byte_len, storage.dtype.block_bytes()));
    }
    let mut at = stream.storages_offset;
    let mut offsets = HashMap::new();
    for key in &stream.keys {
        let mut count = [0; 8];
        source.read_at(at, &mut count)?;
        let count = u64::from_le_bytes(count);
        let (byte_len, element_bytes) = *lengths
            .get(key)
            .ok_or_else(|| bad(format!("nothing uses storage `{key}`, so its length is unknown")))?;
        if count.checked_mul(element_bytes) != Some(byte_len) {
            return Err(bad(format!(
                "storage `{key}` has {count} elements of {element_bytes} bytes, {byte_len} bytes are expected"
            )));
        }
        offsets.insert(key.clone(), at + 8);
        at = at
            .checked_add(8 + byte_len)
            .ok_or_else(|| bad("its storages reach past 2^64 bytes".to_owned()))?;
    }
    if at > source.byte_len() {
        return Err(Error::Truncated { object: object.to_owned(), found: source.byte_len(), expected: at });
    }
    Ok(offsets)
}
