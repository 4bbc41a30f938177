//! A checkpoint without files: every byte is a function of its position. It can be written in any size without being
//! held in memory.

use dcp::format::{Elements, Reader};
use dcp::layout::Region;
use dcp::model::{Catalog, Chunk, ChunkTable, DType, Fqn, ObjectInfo, Tensor, TensorSpec, Value};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place, ReadAt};
use dcp::{Error, Result};
use std::sync::Arc;

/// `layers.N.weight`, float32, all of one shape.
#[derive(Debug)]
pub struct Synthetic {
    catalog: Catalog,
    place: Place,
}

impl Synthetic {
    /// So many tensors of this shape.
    ///
    /// Errors: [`Error::BadTensor`] for a shape whose bytes overflow.
    pub fn new(tensors: u32, shape: [u64; 2]) -> Result<Self> {
        let place = Place { store: Arc::new(MemoryStore::new()), key: Key::root() };
        let mut catalog = Catalog::new("synthetic");
        let spec = TensorSpec::new(DType::F32, shape);
        let byte_len = spec.bytes().ok_or_else(|| Error::BadTensor {
            fqn: "layers.0.weight".to_owned(),
            message: format!("shape {shape:?} has over 2^64 bytes"),
        })?;
        for number in 0..tensors {
            let key = Key::new(format!("tensor-{number}"))?;
            catalog.objects.push(ObjectInfo { key, byte_len, exact: true, writer: Some(0) });
            let chunk = Chunk { region: Region::whole(&shape), object: number, byte_offset: 0, byte_len };
            let chunks = ChunkTable::Listed(vec![chunk]);
            let tensor = Tensor { spec: spec.clone(), path: Vec::new(), chunks, placements: None };
            catalog.tensors.insert(Fqn::new(format!("layers.{number}.weight")), tensor);
        }
        Ok(Synthetic { catalog, place })
    }
}

impl Reader for Synthetic {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, _: &Fqn, _: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let source = Arc::new(Numbers { seed: u64::from(chunk.object), byte_len: chunk.byte_len });
        Ok(Elements { source, byte_offset: 0, strides: None, crc32: None })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        Err(Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() })
    }
}

/// float32 numbers in [-1, 1), equally spread, from their index.
#[derive(Debug)]
struct Numbers {
    seed: u64,
    byte_len: u64,
}

impl Numbers {
    /// The generator SplitMix64 at position `index` (Steele, Lea and Flood 2014), of which 24 bits are used.
    fn number(&self, index: u64) -> f32 {
        let mut bits = (self.seed << 40 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits >> 40) as f32).mul_add(2.0 / 16_777_216.0, -1.0)
    }
}

impl ReadAt for Numbers {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let mut index = byte_offset / 4;
        let mut skip = (byte_offset % 4) as usize;
        let mut rest = target;
        while !rest.is_empty() {
            let bytes = self.number(index).to_le_bytes();
            let taken = rest.len().min(4 - skip);
            rest[..taken].copy_from_slice(&bytes[skip..skip + taken]);
            rest = &mut std::mem::take(&mut rest)[taken..];
            (index, skip) = (index + 1, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_part_of_the_whole() {
        let numbers = Numbers { seed: 7, byte_len: 64 };
        let mut whole = [0; 64];
        numbers.read_at(0, &mut whole).unwrap();
        for from in 0..64 {
            for until in from..64 {
                let mut part = vec![0; until - from];
                numbers.read_at(from as u64, &mut part).unwrap();
                assert_eq!(part, whole[from..until]);
            }
        }
    }
}
