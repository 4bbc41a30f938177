//! Reads and checks the header of one safetensors file.

use super::json::{UniqueMap, insert_unique, next_value};
use crate::error::{Error, Result};
use crate::model::{DType, Fqn, TensorSpec};
use crate::storage::ReadAt;
use indexmap::IndexMap;
use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::ops::Range;

/// The key of a header's text entries; no tensor can have this name.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// Bytes of the length in front of the header.
pub(super) const LENGTH_BYTES: u64 = 8;

/// The longest header that the safetensors library reads.
pub(crate) const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The most dims a tensor may have; as in PyTorch and numpy. It bounds the recursion of everything that walks dims.
const DIMS_MAX: u64 = 64;

/// What the first read fetches, so that a small header costs one read.
const FIRST_READ_BYTES: u64 = 64 * 1024;

/// How a file starts that holds only a pointer to the data, as Git leaves it where Git LFS is not installed.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// The header of one file, checked: the tensors' bytes follow each other without holes or overlaps from the end of the
/// header to [`Header::end`], and each has the length its type and shape need.
#[derive(Debug)]
pub(crate) struct Header {
    /// Tensors in the header's order.
    pub(crate) tensors: IndexMap<Fqn, HeaderTensor>,
    /// The text entries under `__metadata__`, in the header's order.
    pub(crate) metadata: IndexMap<String, String>,
    /// One past the last byte of data, which must be the file's length. Not checked here, so that a truncated file can
    /// still be looked at.
    pub(crate) end: u64,
}

/// One tensor of a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HeaderTensor {
    /// Element type and shape.
    pub(crate) spec: TensorSpec,
    /// Its bytes in the file, row-major.
    pub(crate) bytes: Range<u64>,
}

/// Reads the header that starts at byte `base` of `source`; `object` names it in errors. Byte ranges in the result
/// count from the start of `source`.
///
/// Errors: [`Error::Truncated`] where the file ends inside the header, [`Error::OverLimit`] for a header over
/// 100 MB, [`Error::Malformed`] for what does not follow the format's rules.
pub(crate) fn read_header(source: &dyn ReadAt, base: u64, object: &str) -> Result<Header> {
    let malformed = |why: String| Error::malformed(object, "safetensors header", why);
    let available = source.byte_len().saturating_sub(base);
    let truncated = |expected: u64| Error::Truncated {
        object: object.to_owned(),
        found: source.byte_len(),
        expected: base.saturating_add(expected),
    };
    let mut bytes = vec![0; available.min(FIRST_READ_BYTES) as usize];
    source.read_at(base, &mut bytes)?;
    if bytes.starts_with(LFS_POINTER) {
        let why = "it is a Git LFS pointer, not the data; fetch the data with `git lfs pull`";
        return Err(malformed(why.to_owned()));
    }
    let Some((length, _)) = bytes.split_first_chunk::<{ LENGTH_BYTES as usize }>() else {
        return Err(truncated(LENGTH_BYTES));
    };
    let header_bytes = u64::from_le_bytes(*length);
    if header_bytes > HEADER_BYTES_MAX {
        let (object, what) = (object.to_owned(), "the length of its safetensors header in bytes");
        return Err(Error::OverLimit { object, what, found: header_bytes, limit: HEADER_BYTES_MAX });
    }
    let data_start = LENGTH_BYTES + header_bytes;
    if data_start > available {
        return Err(truncated(data_start));
    }
    let read = bytes.len();
    bytes.resize(data_start as usize, 0);
    if read < bytes.len() {
        source.read_at(base + read as u64, &mut bytes[read..])?;
    }
    let raw: RawHeader = serde_json::from_slice(&bytes[LENGTH_BYTES as usize..])
        .map_err(|error| malformed(format!("it is not the JSON expected: {error}")))?;
    check(raw, base + data_start).map_err(malformed)
}

/// A header as it is written.
#[derive(Default)]
struct RawHeader {
    metadata: IndexMap<String, String>,
    tensors: IndexMap<String, RawTensor>,
}

/// A tensor as it is written. Other fields are ignored, as the safetensors library does.
#[derive(serde::Deserialize)]
#[serde(expecting = "an object with `dtype`, `shape` and `data_offsets`")]
struct RawTensor {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                let mut metadata = IndexMap::new();
                while let Some(key) = access.next_key::<String>()? {
                    if key == METADATA_KEY {
                        // The library writes and reads `null` for no entries.
                        let text: Option<UniqueMap<String>> = next_value(&mut access, &key)?;
                        insert_unique(&mut metadata, key, text)?;
                    } else {
                        let tensor = next_value(&mut access, &key)?;
                        insert_unique(&mut header.tensors, key, tensor)?;
                    }
                }
                header.metadata = metadata.pop().and_then(|(_, text)| text).unwrap_or_default().0;
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Checks what the JSON says; `data_start` is the first byte of data in the file. The error says what is wrong.
fn check(raw: RawHeader, data_start: u64) -> Result<Header, String> {
    let end = check_ranges(&raw.tensors)?;
    let end = data_start.checked_add(end).ok_or_else(|| format!("its data ends at byte {end}"))?;
    let mut tensors = IndexMap::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        let spec = check_tensor(&raw).map_err(|why| format!("`{name}`: {why}"))?;
        // Both are at most `end`, which fits.
        let bytes = data_start + raw.data_offsets.0..data_start + raw.data_offsets.1;
        tensors.insert(Fqn::new(name), HeaderTensor { spec, bytes });
    }
    Ok(Header { tensors, metadata: raw.metadata, end })
}

/// Checks that the data ranges follow each other from 0 on; returns where the last one ends.
fn check_ranges(tensors: &IndexMap<String, RawTensor>) -> Result<u64, String> {
    let mut order: Vec<_> = tensors.iter().map(|(name, tensor)| (tensor.data_offsets, name)).collect();
    order.sort_unstable();
    let mut end = 0;
    for ((from, until), name) in order {
        if until < from {
            return Err(format!("the data of `{name}` ends at {until}, before it starts at {from}"));
        }
        if from != end {
            let what = if from < end { "overlaps other data" } else { "leaves a hole before it" };
            return Err(format!(
                "the data of `{name}` {what}: it starts at {from}, the data before it ends at {end}"
            ));
        }
        end = until;
    }
    Ok(end)
}

fn check_tensor(raw: &RawTensor) -> Result<TensorSpec, String> {
    let dims = raw.shape.len() as u64;
    if dims > DIMS_MAX {
        return Err(format!("it has {dims} dims, over the limit of {DIMS_MAX}"));
    }
    let dtype = DType::from_safetensors_name(&raw.dtype.to_string())
        .ok_or_else(|| format!("element type {} is not known", raw.dtype))?;
    let spec = TensorSpec::new(dtype, raw.shape.as_slice());
    let Some(byte_len) = spec.bytes() else {
        return Err(format!(
            "{} elements of shape {:?} are no whole number of bytes under 2^64",
            raw.dtype, raw.shape
        ));
    };
    match raw.data_offsets.1 - raw.data_offsets.0 {
        found if found == byte_len => Ok(spec),
        found => Err(format!(
            "it has {found} bytes, but {} elements of shape {:?} are {byte_len} bytes",
            raw.dtype, raw.shape
        )),
    }
}
