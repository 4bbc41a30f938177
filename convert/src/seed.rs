//! A checkpoint that nobody wrote: every element is computed when it is read.

use crate::init::Generator;
use crate::spec::Model;
use dcp::format::{Elements, Reader};
use dcp::layout::Region;
use dcp::model::{Catalog, Chunk, ChunkTable, DType, Fqn, ObjectInfo, Tensor, TensorSpec, Value};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place, ReadAt};
use std::collections::HashMap;
use std::sync::Arc;

/// Elements computed at a time.
const ELEMENTS: usize = 4096;

/// The initial state of a model.
#[derive(Debug)]
pub struct Seed {
    catalog: Catalog,
    place: Place,
    generators: HashMap<Fqn, Generator>,
}

impl Seed {
    /// The parameters of a model, in float32, as step 0. `rename` gives the name of each in the dialect that is wanted;
    /// the values do not depend on it.
    pub fn new(model: &Model, seed: u64, rename: impl Fn(&str) -> String) -> Self {
        let mut catalog = Catalog { step: Some(0), ..Catalog::new("seed") };
        catalog.objects.push(ObjectInfo { key: Key::root(), byte_len: 0, exact: false, writer: None });
        let mut generators = HashMap::new();
        for param in &model.params {
            let fqn = Fqn::from(rename(&param.fqn).as_str());
            // One tensor under two names begins as one.
            let tied = model.tied.as_ref().filter(|tied| tied.embedding == param.fqn);
            let named = tied.map_or(&param.fqn, |tied| &tied.head);
            generators.insert(fqn.clone(), Generator::new(param.init, seed, named));
            let spec = TensorSpec::new(DType::F32, param.shape.clone());
            let byte_len = spec.bytes().unwrap_or(u64::MAX);
            let chunk = Chunk { region: Region::whole(&param.shape), object: 0, byte_offset: 0, byte_len };
            let chunks = ChunkTable::Listed(vec![chunk]);
            catalog.tensors.insert(fqn, Tensor { spec, path: Vec::new(), chunks, placements: None });
        }
        let place = Place { store: Arc::new(MemoryStore::new()), key: Key::root() };
        Seed { catalog, place, generators }
    }
}

impl Reader for Seed {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, _: &Chunk) -> dcp::Result<Elements> {
        let byte_len = tensor.spec.bytes().unwrap_or(0);
        let source = Arc::new(Generated { generator: self.generators[fqn], byte_len });
        Ok(Elements { source, byte_offset: 0, strides: None, crc32: None })
    }

    fn value(&self, fqn: &Fqn) -> dcp::Result<Value> {
        Err(dcp::Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() })
    }
}

/// The bytes of one parameter, little-endian float32.
#[derive(Debug)]
struct Generated {
    generator: Generator,
    byte_len: u64,
}

impl ReadAt for Generated {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_at(&self, byte_offset: u64, mut target: &mut [u8]) -> dcp::Result<()> {
        let mut values = [0f32; ELEMENTS];
        let (mut first, mut skipped) = (byte_offset / 4, (byte_offset % 4) as usize);
        while !target.is_empty() {
            let count = (skipped + target.len()).div_ceil(4).min(ELEMENTS);
            self.generator.fill(first, &mut values[..count]);
            let byte_len = (4 * count - skipped).min(target.len());
            let (now, later) = target.split_at_mut(byte_len);
            if skipped == 0 && byte_len == 4 * count {
                now.chunks_exact_mut(4)
                    .zip(&values)
                    .for_each(|(target, value)| target.copy_from_slice(&value.to_le_bytes()));
            } else {
                let bytes = values[..count].iter().flat_map(|value| value.to_le_bytes());
                now.iter_mut().zip(bytes.skip(skipped)).for_each(|(target, byte)| *target = byte);
            }
            (target, first, skipped) = (later, first + count as u64, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Init;

    #[test]
    fn bytes_are_those_of_the_elements_wherever_a_read_begins() {
        let generator = Generator::new(Init::Normal { std: 1.0 }, 3, "w");
        let mut values = vec![0f32; 10_000];
        generator.fill(0, &mut values);
        let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let source = Generated { generator, byte_len: expected.len() as u64 };
        for (from, until) in
            [(0, 40_000), (4, 8), (1, 3), (3, 17_000), (16_380, 16_390), (39_999, 40_000), (7, 7)]
        {
            let mut found = vec![0; until - from];
            source.read_at(from as u64, &mut found).unwrap();
            assert!(found == expected[from..until], "{from}..{until}");
        }
    }
}
