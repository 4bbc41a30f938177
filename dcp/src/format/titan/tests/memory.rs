//! A source of tensors of any type, and checkpoints in memory.

use crate::copy::{CopyOptions, Job, run};
use crate::error::{Error, Result};
use crate::format::titan::Titan;
use crate::format::{Elements, Format, Reader, Target, WriteOptions};
use crate::layout::{Region, row_major};
use crate::model::{Catalog, Chunk, ChunkTable, DType, Fqn, ObjectInfo, Tensor, TensorSpec, Value};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place, Storage};
use std::sync::Arc;

/// The folder of every checkpoint of these tests.
pub(super) const FOLDER: &str = "step";

/// A place in a new store that holds these objects.
pub(super) fn place(objects: &[(String, Vec<u8>)]) -> Place {
    let store = MemoryStore::new();
    objects.iter().for_each(|(name, bytes)| store.put(&Key::new(name).unwrap(), bytes).unwrap());
    Place { store: Arc::new(store), key: Key::new(FOLDER).unwrap() }
}

/// Every object below a place.
pub(super) fn objects(place: &Place) -> Vec<(String, Vec<u8>)> {
    let listed = place.store.list(&place.key).unwrap().into_iter();
    listed
        .map(|object| (object.key.as_str().to_owned(), place.store.get(&object.key, 1 << 30).unwrap()))
        .collect()
}

/// Whole tensors, one after the other in one object.
#[derive(Debug)]
pub(super) struct Whole {
    catalog: Catalog,
    place: Place,
}

impl Whole {
    /// Tensors whose bytes tell their position, and compress somewhat.
    pub(super) fn new<'a>(tensors: impl Iterator<Item = (&'a Fqn, &'a TensorSpec)>) -> Self {
        let mut catalog = Catalog::new("test");
        let mut bytes = Vec::new();
        for (index, (fqn, spec)) in tensors.enumerate() {
            let byte_len = spec.bytes().unwrap();
            let (byte_offset, region) = (bytes.len() as u64, Region::whole(&spec.shape));
            bytes.extend((0..byte_len).map(|at| ((at * 31 + at / 251) as u8 & 0x3f) ^ (index as u8) << 3));
            let chunks = ChunkTable::Listed(vec![Chunk { region, object: 0, byte_offset, byte_len }]);
            let tensor = Tensor { spec: spec.clone(), path: Vec::new(), chunks, placements: None };
            catalog.tensors.insert(fqn.clone(), tensor);
        }
        let key = Key::new("source").unwrap();
        let byte_len = bytes.len() as u64;
        catalog.objects.push(ObjectInfo { key, byte_len, exact: true, writer: None });
        Whole { catalog, place: place(&[("source".to_owned(), bytes)]) }
    }

    /// The bytes of a tensor.
    pub(super) fn bytes(&self, fqn: &str) -> Vec<u8> {
        let ChunkTable::Listed(chunks) = &self.catalog.tensors[fqn].chunks else {
            unreachable!("all are listed")
        };
        let mut bytes = vec![0; chunks[0].byte_len as usize];
        let source = self.place.store.open(&self.catalog.objects[0].key).unwrap();
        source.read_at(chunks[0].byte_offset, &mut bytes).unwrap();
        bytes
    }
}

impl Reader for Whole {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, _: &Fqn, _: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let source = self.place.store.open(&self.catalog.objects[0].key)?;
        Ok(Elements { source, byte_offset: chunk.byte_offset, strides: None, crc32: None })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        Err(Error::NoSuchName { fqn: fqn.as_str().to_owned(), hint: String::new() })
    }
}

/// Writes a target with the engine, from tensors of its names and types.
pub(super) fn write(target: &Target, options: &WriteOptions) -> Result<(Whole, Place)> {
    let source = Whole::new(target.tensors.iter().map(|tensor| (&tensor.fqn, &tensor.spec)));
    let (draft, goal) = (Titan.draft(target, options)?, place(&[]));
    let names: Vec<Fqn> = target.tensors.iter().map(|tensor| tensor.fqn.clone()).collect();
    let (sums, _) = run(Job {
        reader: &source,
        sources: &names,
        target,
        objects: (0..draft.objects().len()).collect(),
        output: Default::default(),
        draft: &*draft,
        place: &goal,
        options: CopyOptions { memory_bytes_max: 64 << 20, threads: 2 },
        progress: &(),
    })?;
    crate::commit::complete(&goal, &Titan, &*draft, &sums)?;
    Ok((source, goal))
}

/// The bytes of a region of a row-major tensor.
pub(super) fn cut(dtype: DType, shape: &[u64], whole: &[u8], region: &Region) -> Vec<u8> {
    let strides = row_major(shape);
    let Some(&inner) = region.extent.last() else { return whole.to_vec() };
    let mut rows = region.clone();
    *rows.extent.last_mut().unwrap() = inner.min(1);
    rows.strips(1)
        .flat_map(|corner| {
            let at = corner.start.iter().zip(&strides).map(|(&at, &stride)| at * stride).sum();
            let from = dtype.bytes(at).unwrap() as usize;
            whole[from..from + dtype.bytes(inner).unwrap() as usize].to_vec()
        })
        .collect()
}
