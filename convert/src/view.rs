//! A checkpoint under other names and in another arrangement: a [`Reader`] over a [`Reader`].
//!
//! No element is touched here. A chunk of a view is the part of a stored chunk that falls into one [`Piece`] of a link, and
//! its elements are the stored ones at other distances. So the engine reads a permuted, transposed or stacked tensor as it
//! reads any other, in the same bounded memory, and where the bytes are the same the kernel copies them.

use crate::error::{Error, Result};
use crate::link::{Piece, Pieces};
use dcp::convert::check_complete;
use dcp::format::{Elements, Reader};
use dcp::layout::{Region, row_major};
use dcp::model::{Catalog, Chunk, ChunkLookup, ChunkTable, Fqn, ObjectInfo, Tensor, TensorSpec, Value};
use dcp::storage::{Key, Place, ReadAt};
use indexmap::IndexMap;
use std::collections::HashMap;
use std::sync::Arc;

/// What a tensor of a view is made of.
#[derive(Clone, Debug)]
pub enum Part {
    /// Elements of a tensor of the source.
    Linked {
        /// Its name there.
        source: Fqn,
        /// Which are where.
        pieces: Pieces,
    },
    /// Zeros: the outside has no such tensor, and that is what it starts with.
    Zeros,
}

/// One tensor of a view.
#[derive(Clone, Debug)]
pub struct ViewTensor {
    /// Its name.
    pub fqn: Fqn,
    /// Its type and shape.
    pub spec: TensorSpec,
    /// Parts that together have each of its elements once.
    pub parts: Vec<Part>,
}

/// A view of a checkpoint.
#[derive(Debug)]
pub struct View {
    source: Arc<dyn Reader>,
    catalog: Catalog,
    lookups: HashMap<Fqn, Arc<Lookup>>,
}

impl View {
    /// A view with these tensors, and no values.
    ///
    /// Errors: what [`check_complete`] gives for a source tensor that is used; [`dcp::Error::NoSuchName`].
    pub fn new(source: Arc<dyn Reader>, tensors: Vec<ViewTensor>) -> Result<Self> {
        let from = source.catalog();
        let mut objects = from.objects.clone();
        // What is made up lies in no object, and yet in one that everybody can name.
        let zeros = objects.len() as u32;
        objects.push(ObjectInfo { key: Key::root(), byte_len: 0, exact: false, writer: None });
        let mut catalog = Catalog { objects, step: from.step, ..Catalog::new(from.format) };
        catalog.findings = from.findings.clone();
        let mut lookups = HashMap::new();
        for ViewTensor { fqn, spec, parts } in tensors {
            let mut ways = Vec::new();
            for part in parts {
                ways.push(match part {
                    Part::Zeros => Way { pieces: None, tensor: None, source: fqn.clone() },
                    Part::Linked { source: name, pieces } => {
                        let tensor = from.tensors.get(&name).ok_or_else(|| {
                            Error::from(dcp::Error::NoSuchName { fqn: name.to_string(), hint: String::new() })
                        })?;
                        check_complete(name.as_str(), tensor)?;
                        Way { pieces: Some(pieces), tensor: Some(tensor.clone()), source: name }
                    }
                });
            }
            let lookup = Arc::new(Lookup { shape: spec.shape.clone(), ways, zeros });
            let chunks = ChunkTable::Computed(lookup.clone());
            let tensor = Tensor { spec, path: Vec::new(), chunks, placements: None };
            lookups.insert(fqn.clone(), lookup);
            catalog.tensors.insert(fqn, tensor);
        }
        Ok(View { source, catalog, lookups })
    }
}

/// How to a tensor's chunks.
#[derive(Debug)]
struct Lookup {
    shape: Vec<u64>,
    ways: Vec<Way>,
    /// Index of the object that zeros are in.
    zeros: u32,
}

#[derive(Debug)]
struct Way {
    pieces: Option<Pieces>,
    tensor: Option<Tensor>,
    source: Fqn,
}

impl Lookup {
    /// The piece that holds an element, and its way.
    fn piece_at(&self, at: &[u64]) -> Option<(&Way, Piece)> {
        let here = Region::new(at, vec![1; at.len()]);
        self.ways.iter().find_map(|way| {
            let mut found = None;
            let _: Result<(), ()> = way.pieces.as_ref()?.visit(&here, &mut |piece| {
                found = Some(piece);
                Err(())
            });
            found.map(|piece| (way, piece))
        })
    }
}

impl ChunkLookup for Lookup {
    fn count(&self) -> u64 {
        let mut count = 0;
        let counted = self.visit(&Region::whole(&self.shape), &mut |_| {
            count += 1;
            Ok(())
        });
        counted.map_or(0, |()| count)
    }

    fn visit(&self, wanted: &Region, visit: &mut dyn FnMut(Chunk) -> dcp::Result<()>) -> dcp::Result<()> {
        for way in &self.ways {
            let (Some(pieces), Some(tensor)) = (&way.pieces, &way.tensor) else {
                let region = Region::whole(&self.shape);
                visit(Chunk { region, object: self.zeros, byte_offset: 0, byte_len: 0 })?;
                continue;
            };
            pieces.visit(wanted, &mut |piece| {
                let Some(common) = piece.region.intersect(wanted) else { return Ok(()) };
                tensor.chunks.visit(&piece.source_region(&common), &mut |chunk| match piece
                    .within(&chunk.region)
                {
                    Some(region) if region.overlaps(wanted) => visit(Chunk { region, ..chunk }),
                    _ => Ok(()),
                })
            })?;
        }
        Ok(())
    }
}

impl Piece {
    /// The least box of the source that holds the elements of a part of its box.
    fn source_region(&self, part: &Region) -> Region {
        let mut extent = vec![1; self.source_start.len()];
        for (dim, step) in self.steps.iter().enumerate() {
            if let Some((source_dim, step)) = step {
                extent[*source_dim] += part.extent[dim].saturating_sub(1) * step;
            }
        }
        Region { start: self.source_of(&part.start), extent }
    }

    /// The part of its box whose elements are in `chunk`, a box of the source.
    fn within(&self, chunk: &Region) -> Option<Region> {
        let mut region = self.region.clone();
        let mut is_bounded = vec![false; chunk.rank()];
        for (dim, step) in self.steps.iter().enumerate() {
            let Some((source_dim, step)) = *step else { continue };
            is_bounded[source_dim] = true;
            let (first, start, end) =
                (self.source_start[source_dim], chunk.start[source_dim], chunk.end(source_dim));
            let from = start.saturating_sub(first).div_ceil(step);
            let until = end.saturating_sub(first).div_ceil(step).min(self.region.extent[dim]);
            region.start[dim] += from;
            region.extent[dim] = until.checked_sub(from).filter(|&extent| extent > 0)?;
        }
        let is_inside = |dim: usize| {
            is_bounded[dim] || (chunk.start[dim]..chunk.end(dim)).contains(&self.source_start[dim])
        };
        (0..chunk.rank()).all(is_inside).then_some(region)
    }

    /// The source's element of an element of its box.
    fn source_of(&self, at: &[u64]) -> Vec<u64> {
        let mut source = self.source_start.clone();
        for (dim, step) in self.steps.iter().enumerate() {
            if let Some((source_dim, step)) = step {
                source[*source_dim] += (at[dim] - self.region.start[dim]) * step;
            }
        }
        source
    }
}

impl Reader for View {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        self.source.place()
    }

    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> dcp::Result<Elements> {
        let lookup = &self.lookups[fqn];
        if chunk.object == lookup.zeros {
            let byte_len = tensor.spec.bytes().unwrap_or(0);
            return Ok(Elements {
                source: Arc::new(Zeros(byte_len)),
                byte_offset: 0,
                strides: None,
                crc32: None,
            });
        }
        let unfound = || dcp::Error::BadTensor {
            fqn: fqn.to_string(),
            message: format!("no chunk of its source holds {:?}", chunk.region),
        };
        let (way, piece) = lookup.piece_at(&chunk.region.start).ok_or_else(unfound)?;
        let stored = way.tensor.as_ref().ok_or_else(unfound)?;
        let at = piece.source_of(&chunk.region.start);
        let mut holding = stored.chunks.overlapping(&Region::new(&at[..], vec![1; at.len()]))?.into_iter();
        let is_it = |it: &Chunk| it.object == chunk.object && it.byte_offset == chunk.byte_offset;
        let source_chunk = holding.find(is_it).ok_or_else(unfound)?;
        let elements = self.source.resolve(&way.source, stored, &source_chunk)?;
        Ok(rearranged(elements, &source_chunk.region, &at, &piece, &chunk.region, &stored.spec))
    }

    fn value(&self, fqn: &Fqn) -> dcp::Result<Value> {
        Err(dcp::Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() })
    }
}

/// Elements of a stored chunk as those of a part of a piece, whose first element is at `at` in the source.
fn rearranged(
    elements: Elements,
    stored: &Region,
    at: &[u64],
    piece: &Piece,
    region: &Region,
    spec: &TensorSpec,
) -> Elements {
    let dense = row_major(&stored.extent);
    let strides = elements.strides.as_deref().unwrap_or(&dense);
    let first: u64 =
        at.iter().zip(&stored.start).zip(strides).map(|((at, start), stride)| (at - start) * stride).sum();
    let wanted = row_major(&region.extent);
    let new: Vec<u64> = piece
        .steps
        .iter()
        .zip(&wanted)
        .map(|(step, &otherwise)| step.map_or(otherwise, |(dim, step)| strides[dim] * step))
        .collect();
    let is_dense = (0..new.len()).all(|dim| region.extent[dim] == 1 || new[dim] == wanted[dim]);
    let is_all = is_dense && elements.strides.is_none() && region.elements() == stored.elements();
    Elements {
        byte_offset: elements.byte_offset + first * spec.dtype.block_bytes(),
        strides: (!is_dense).then_some(new),
        crc32: elements.crc32.filter(|_| is_all),
        source: elements.source,
    }
}

/// So many zeros.
#[derive(Debug)]
struct Zeros(u64);

impl ReadAt for Zeros {
    fn byte_len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, target: &mut [u8]) -> dcp::Result<()> {
        target.fill(0);
        Ok(())
    }
}

/// The tensors of a view by name; `parts` of one that comes up again are added to it.
#[derive(Debug, Default)]
pub struct Tensors(IndexMap<Fqn, (TensorSpec, Vec<Part>)>);

impl Tensors {
    /// Adds a part.
    pub fn add(&mut self, fqn: Fqn, spec: TensorSpec, part: Part) {
        self.0.entry(fqn).or_insert_with(|| (spec, Vec::new())).1.push(part);
    }

    /// All of them, in the order in which they came up.
    pub fn finish(self) -> Vec<ViewTensor> {
        self.0.into_iter().map(|(fqn, (spec, parts))| ViewTensor { fqn, spec, parts }).collect()
    }
}
