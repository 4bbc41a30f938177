//! Tests of the format as a whole, and what they share.

mod attacks;
mod folders;
mod goldens;
mod round_trip;

use super::Safetensors;
use crate::error::Result;
use crate::format::{Candidate, Format, Reader};
use crate::layout::{Region, copy_box, row_major};
use crate::model::{DType, Finding, Severity};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place, Storage};
use std::sync::Arc;

/// A folder in memory that holds these files.
fn folder(files: &[(&str, &[u8])]) -> Place {
    let key = Key::new("run/step-1").unwrap();
    let store = MemoryStore::new();
    for (name, bytes) in files {
        store.put(&key.join(name).unwrap(), bytes).unwrap();
    }
    Place { store: Arc::new(store), key }
}

/// The file or folder `name` in a folder.
fn inside(place: &Place, name: &str) -> Place {
    Place { store: Arc::clone(&place.store), key: place.key.join(name).unwrap() }
}

/// Opens a place that the format must recognise.
fn open(place: &Place) -> Result<Arc<dyn Reader>> {
    let candidate = Candidate::new(place)?;
    assert!(Safetensors.probe(&candidate), "{}", place.display());
    Safetensors.open(&candidate)
}

/// A file with this header and as many bytes of data, counted up from 0.
fn file(json: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend((0..data_bytes).map(|at| at as u8));
    bytes
}

/// A file of one tensor of bytes.
fn file_of(name: &str, byte_len: usize) -> Vec<u8> {
    let json = format!(r#"{{"{name}":{{"dtype":"U8","shape":[{byte_len}],"data_offsets":[0,{byte_len}]}}}}"#);
    file(&json, byte_len)
}

/// The box in whole blocks of the type: bytes are then `block_bytes` for each.
fn in_blocks(region: &Region, dtype: DType) -> Region {
    let mut blocks = region.clone();
    if let (Some(start), Some(extent)) = (blocks.start.last_mut(), blocks.extent.last_mut()) {
        assert!(
            start.is_multiple_of(dtype.block_elements()) && extent.is_multiple_of(dtype.block_elements())
        );
        (*start, *extent) = (*start / dtype.block_elements(), *extent / dtype.block_elements());
    }
    blocks
}

/// First byte of a box in the row-major bytes of the box around it.
fn first_byte(inner: &Region, outer: &Region, block_bytes: usize) -> usize {
    let relative = inner.relative_to(outer);
    let strides = row_major(&outer.extent);
    relative.start.iter().zip(strides).map(|(&start, stride)| (start * stride) as usize).sum::<usize>()
        * block_bytes
}

/// A tensor's bytes, put together from its chunks; every chunk must lie in its file.
fn contents(reader: &dyn Reader, name: &str) -> Vec<u8> {
    let (_, fqn, tensor) = reader.catalog().tensors.get_full(name).unwrap();
    let (dtype, block_bytes) = (tensor.spec.dtype, tensor.spec.dtype.block_bytes() as usize);
    let whole = in_blocks(&Region::whole(&tensor.spec.shape), dtype);
    let mut bytes = vec![0xEE; tensor.spec.bytes().unwrap() as usize];
    for chunk in tensor.chunks.all(&tensor.spec.shape).unwrap() {
        let elements = reader.resolve(fqn, tensor, &chunk).unwrap();
        assert_eq!((elements.strides, elements.crc32), (None, None));
        let mut stored = vec![0; chunk.byte_len as usize];
        elements.source.read_at(elements.byte_offset, &mut stored).unwrap();
        let region = in_blocks(&chunk.region, dtype);
        assert_eq!(region.elements() * block_bytes as u64, chunk.byte_len);
        if region.is_empty() {
            continue;
        }
        let at = first_byte(&region, &whole, block_bytes);
        let (from, to) = (row_major(&region.extent), row_major(&whole.extent));
        copy_box(&stored, &from, &mut bytes[at..], &to, &region.extent, block_bytes);
    }
    bytes
}

/// The findings of one severity, as text.
fn told(findings: &[Finding], severity: Severity) -> Vec<&str> {
    let told = findings.iter().filter(|finding| finding.severity == severity);
    told.map(|finding| finding.message.as_str()).collect()
}

/// Asserts that a text contains each of these.
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
