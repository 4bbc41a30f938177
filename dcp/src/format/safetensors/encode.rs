//! Serialises the header of one safetensors file.

use super::header::{HEADER_BYTES_MAX, LENGTH_BYTES, METADATA_KEY};
use crate::error::{Error, Result};
use crate::model::{DType, TensorSpec};
use safetensors::Dtype;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserialize, IntoDeserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::ops::Range;

/// The alignment at which files of this format begin their data: that of the widest element.
pub(super) const DATA_ALIGNMENT_BYTES: u64 = 8;

/// One tensor of a header to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewTensor<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Element type; see [`stored_spec`] for the types that can be written.
    pub(crate) dtype: DType,
    /// Shape in elements.
    pub(crate) shape: &'a [u64],
}

/// A serialised header and where the data goes.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The first bytes of the file: length, JSON, padding.
    pub(crate) bytes: Vec<u8>,
    /// The bytes of each tensor in the file, in the order given.
    pub(crate) data: Vec<Range<u64>>,
    /// Length of the whole file.
    pub(crate) end: u64,
}

/// Serialises a header whose tensors' data follow each other in the order given. Spaces pad it, so that the data begins
/// at a multiple of `alignment_bytes` (at least 1); `object` names the file in errors. Names must be unique.
///
/// Errors: [`Error::Inexpressible`] for a type that safetensors lacks, [`Error::BadTensor`] for one whose bytes
/// overflow, [`Error::OverLimit`] for a header that no reader would accept.
pub(crate) fn encode(
    object: &str,
    metadata: &[(&str, &str)],
    tensors: &[NewTensor<'_>],
    alignment_bytes: u64,
) -> Result<Encoded> {
    let mut entries = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for tensor in tensors {
        let entry = Entry::after(end, tensor)?;
        end = entry.data_offsets.1;
        entries.push(entry);
    }
    let header = NewHeader { metadata, tensors, entries: &entries };
    let json = serde_json::to_vec(&header).map_err(|source| Error::Io {
        object: object.to_owned(),
        action: "serialising its header",
        source: source.into(),
    })?;
    let data_start = (LENGTH_BYTES + json.len() as u64).next_multiple_of(alignment_bytes);
    let header_bytes = data_start - LENGTH_BYTES;
    if header_bytes > HEADER_BYTES_MAX {
        let (object, what) = (object.to_owned(), "the length of its safetensors header in bytes");
        return Err(Error::OverLimit { object, what, found: header_bytes, limit: HEADER_BYTES_MAX });
    }
    let Some(file_end) = end.checked_add(data_start) else {
        return Err(Error::malformed(
            object,
            "safetensors file",
            format!("it would have {end} bytes of data"),
        ));
    };
    let mut bytes = header_bytes.to_le_bytes().to_vec();
    bytes.extend_from_slice(&json);
    bytes.resize(data_start as usize, b' ');
    let data = entries.iter().map(|Entry { data_offsets: (from, until), .. }| {
        // Both are at most `file_end`, which fits.
        data_start + from..data_start + until
    });
    Ok(Encoded { data: data.collect(), bytes, end: file_end })
}

/// The type and shape under which safetensors stores a tensor: `float4_e2m1fn_x2`, two numbers to an element, becomes
/// F4 with the last dim doubled, as the Python library writes it; everything else stays as it is. `None` for
/// complex32, complex128 and a 0-d `float4_e2m1fn_x2`, which it cannot hold.
pub(super) fn stored_spec(dtype: DType, shape: &[u64]) -> Option<TensorSpec> {
    let mut spec = TensorSpec::new(dtype, shape);
    if dtype == DType::F4x2 {
        spec.dtype = DType::F4;
        let last = spec.shape.last_mut()?;
        *last = last.checked_mul(2)?;
    }
    spec.dtype.safetensors_name().is_some().then_some(spec)
}

/// The library's element type, whose order is its order of alignment; `None` where it has none.
pub(super) fn library_dtype(dtype: DType) -> Option<Dtype> {
    let name = if dtype == DType::F4x2 { DType::F4 } else { dtype }.safetensors_name()?;
    let name: StrDeserializer<'_, ValueError> = name.into_deserializer();
    Dtype::deserialize(name).ok()
}

/// A tensor as it is written; the order of the fields is the library's.
#[derive(serde::Serialize)]
struct Entry {
    dtype: &'static str,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    /// The entry of a tensor whose data starts at `from`, counted from the start of all data.
    fn after(from: u64, tensor: &NewTensor<'_>) -> Result<Self> {
        let inexpressible = || Error::Inexpressible {
            format: super::NAME,
            what: "the element type of a tensor",
            names: format!("`{}` ({})", tensor.name, tensor.dtype),
            hint: "convert it with --dtype or leave it out with --exclude",
        };
        let spec = stored_spec(tensor.dtype, tensor.shape).ok_or_else(inexpressible)?;
        let until = spec.bytes().and_then(|byte_len| from.checked_add(byte_len));
        let until = until.ok_or_else(|| Error::BadTensor {
            fqn: tensor.name.to_owned(),
            message: format!(
                "{} elements of shape {:?}, stored from byte {from} on, are no whole number of bytes under 2^64",
                tensor.dtype, tensor.shape
            ),
        })?;
        let dtype = spec.dtype.safetensors_name().ok_or_else(inexpressible)?;
        Ok(Entry { dtype, shape: spec.shape, data_offsets: (from, until) })
    }
}

struct NewHeader<'a> {
    metadata: &'a [(&'a str, &'a str)],
    tensors: &'a [NewTensor<'a>],
    entries: &'a [Entry],
}

impl Serialize for NewHeader<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA_KEY, &Text(self.metadata))?;
        }
        for (tensor, entry) in self.tensors.iter().zip(self.entries) {
            map.serialize_entry(tensor.name, entry)?;
        }
        map.end()
    }
}

/// An object of strings, in the order given.
struct Text<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}
