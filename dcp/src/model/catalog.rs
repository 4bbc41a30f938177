//! The catalog: every tensor's type, shape and stored chunks, and every value, of one checkpoint.

use super::{Fqn, Path, TensorSpec};
use crate::error::Result;
use crate::layout::{Mesh, Placement, Region};
use crate::storage::Key;
use indexmap::IndexMap;
use std::sync::Arc;

/// What one checkpoint holds. Made by a [`Format`](crate::format::Format), read by everything else.
#[derive(Debug)]
pub struct Catalog {
    /// Name of the format that made it: a row of [`FORMATS`](crate::format::FORMATS).
    pub format: &'static str,
    /// The objects that chunks and values point into, by index.
    pub objects: Vec<ObjectInfo>,
    /// Tensors in stored order.
    pub tensors: IndexMap<Fqn, Tensor>,
    /// Names of non-tensor values in stored order; the reader gives their contents.
    pub values: IndexMap<Fqn, ValueEntry>,
    /// The mesh the checkpoint was saved from, where the format records it.
    pub mesh: Option<Arc<Mesh>>,
    /// Training step, where the format records it.
    pub step: Option<u64>,
    /// What else the format records, for people: producer version, save id.
    pub attributes: IndexMap<String, String>,
    /// What opening it found to be odd or damaged.
    pub findings: Vec<Finding>,
}

/// One stored object (a file).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectInfo {
    /// Its key below the store's root.
    pub key: Key,
    /// The length the checkpoint records, where it does; else the least length its contents need.
    pub byte_len: u64,
    /// Whether `byte_len` is the recorded length, which the object must have exactly.
    pub exact: bool,
    /// The rank that wrote it, where the format or its name says.
    pub writer: Option<u32>,
}

/// One tensor of a catalog.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Element type and global shape.
    pub spec: TensorSpec,
    /// Where it sits in the nested state dict; empty when unknown.
    pub path: Path,
    /// Its stored pieces.
    pub chunks: ChunkTable,
    /// How the mesh's axes place it, one per axis, where the format records it.
    pub placements: Option<Vec<Placement>>,
}

/// One stored piece of a tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The box of the tensor it holds.
    pub region: Region,
    /// Index into [`Catalog::objects`].
    pub object: u32,
    /// First byte of the stored item in the object.
    pub byte_offset: u64,
    /// Bytes of the stored item, with whatever framing the format puts around the elements.
    pub byte_len: u64,
}

/// The chunks of one tensor: listed, or computed on demand from mesh and placements.
#[derive(Clone, Debug)]
pub enum ChunkTable {
    /// Every chunk, in stored order.
    Listed(Vec<Chunk>),
    /// Chunks made when asked for, so that a catalog need not grow with ranks x tensors.
    Computed(Arc<dyn ChunkLookup>),
}

/// A rule that computes a tensor's chunks.
pub trait ChunkLookup: Send + Sync + std::fmt::Debug {
    /// Number of chunks.
    fn count(&self) -> u64;
    /// Calls `visit` with each non-empty chunk that overlaps `wanted`, each once, in no particular order.
    fn visit(&self, wanted: &Region, visit: &mut dyn FnMut(Chunk) -> Result<()>) -> Result<()>;
    /// Every chunk of a tensor, `whole` being all of it; empty ones included where the checkpoint lists them.
    fn all(&self, whole: &Region) -> Result<Vec<Chunk>> {
        let mut found = Vec::new();
        self.visit(whole, &mut |chunk| {
            found.push(chunk);
            Ok(())
        })?;
        Ok(found)
    }
}

impl ChunkTable {
    /// Number of chunks, empty ones included where they are listed.
    pub fn count(&self) -> u64 {
        match self {
            ChunkTable::Listed(chunks) => chunks.len() as u64,
            ChunkTable::Computed(lookup) => lookup.count(),
        }
    }

    /// Calls `visit` with each chunk that shares at least one element with `wanted`.
    pub fn visit(&self, wanted: &Region, visit: &mut dyn FnMut(Chunk) -> Result<()>) -> Result<()> {
        match self {
            ChunkTable::Listed(chunks) => {
                for chunk in chunks.iter().filter(|chunk| chunk.region.overlaps(wanted)) {
                    visit(chunk.clone())?;
                }
                Ok(())
            }
            ChunkTable::Computed(lookup) => lookup.visit(wanted, visit),
        }
    }

    /// Every chunk that overlaps `wanted`; see [`ChunkTable::visit`].
    pub fn overlapping(&self, wanted: &Region) -> Result<Vec<Chunk>> {
        let mut found = Vec::new();
        self.visit(wanted, &mut |chunk| {
            found.push(chunk);
            Ok(())
        })?;
        Ok(found)
    }

    /// Every chunk; listed ones include empty chunks. `shape` is the tensor's global shape.
    pub fn all(&self, shape: &[u64]) -> Result<Vec<Chunk>> {
        match self {
            ChunkTable::Listed(chunks) => Ok(chunks.clone()),
            ChunkTable::Computed(lookup) => lookup.all(&Region::whole(shape)),
        }
    }
}

/// One non-tensor value of a catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValueEntry {
    /// Where it sits in the nested state dict; empty when unknown.
    pub path: Path,
    /// Object, byte offset and byte length of its stored form, where it has one of its own.
    pub stored: Option<(u32, u64, u64)>,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Severity {
    /// Worth knowing: an object nothing refers to.
    Note,
    /// Data is missing or wrong.
    Damage,
}

/// Something odd or damaged, told to people in one sentence.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The tensor or value concerned, where one is.
    pub fqn: Option<Fqn>,
    /// The object concerned, where one is.
    pub object: Option<Key>,
    /// What was found, and what was expected.
    pub message: String,
}

impl Catalog {
    /// An empty catalog of the named format.
    pub fn new(format: &'static str) -> Self {
        Catalog {
            format,
            objects: Vec::new(),
            tensors: IndexMap::new(),
            values: IndexMap::new(),
            mesh: None,
            step: None,
            attributes: IndexMap::new(),
            findings: Vec::new(),
        }
    }

    /// Bytes of all tensors' elements, each counted once.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().filter_map(|tensor| tensor.spec.bytes()).sum()
    }
}
