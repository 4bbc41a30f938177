//! A view with tensors of another checkpoint beside its own: what an export takes as it is from the repository that the model
//! came from.

use dcp::convert::check_complete;
use dcp::format::{Elements, Reader};
use dcp::model::{Catalog, Chunk, ChunkTable, Fqn, Tensor, Value};
use dcp::storage::Place;
use std::collections::HashSet;
use std::sync::Arc;

/// All tensors of one reader, and some of another.
#[derive(Debug)]
pub struct Joined<R> {
    first: R,
    second: Arc<dyn Reader>,
    catalog: Catalog,
    of_second: HashSet<Fqn>,
    /// Index in the catalog of the second's first object.
    shift: u32,
}

impl<R: Reader> Joined<R> {
    /// The tensors of `first`, and `names` of `second` after them; a name of both is that of `first`.
    ///
    /// Errors: [`dcp::Error::NoSuchName`]; what listing a tensor's chunks gives.
    pub fn new(first: R, second: Arc<dyn Reader>, names: impl Iterator<Item = Fqn>) -> dcp::Result<Self> {
        let (own, other) = (first.catalog(), second.catalog());
        let shift = own.objects.len() as u32;
        let mut catalog = Catalog { step: own.step, ..Catalog::new(own.format) };
        catalog.objects = own.objects.iter().chain(&other.objects).cloned().collect();
        catalog.findings = own.findings.iter().chain(&other.findings).cloned().collect();
        catalog.tensors = own.tensors.clone();
        let mut of_second = HashSet::new();
        for fqn in names {
            let tensor = other
                .tensors
                .get(&fqn)
                .ok_or_else(|| dcp::Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() })?;
            if catalog.tensors.contains_key(&fqn) {
                continue;
            }
            check_complete(fqn.as_str(), tensor)?;
            let chunks = tensor.chunks.all(&tensor.spec.shape)?.into_iter();
            let shifted = chunks.map(|chunk| Chunk { object: chunk.object + shift, ..chunk }).collect();
            let tensor = Tensor {
                chunks: ChunkTable::Listed(shifted),
                path: Vec::new(),
                placements: None,
                ..tensor.clone()
            };
            catalog.tensors.insert(fqn.clone(), tensor);
            of_second.insert(fqn);
        }
        Ok(Joined { first, second, catalog, of_second, shift })
    }
}

impl<R: Reader> Reader for Joined<R> {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        self.first.place()
    }

    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> dcp::Result<Elements> {
        if !self.of_second.contains(fqn) {
            return self.first.resolve(fqn, tensor, chunk);
        }
        let chunk = Chunk { object: chunk.object - self.shift, ..chunk.clone() };
        self.second.resolve(fqn, &self.second.catalog().tensors[fqn], &chunk)
    }

    fn value(&self, fqn: &Fqn) -> dcp::Result<Value> {
        self.first.value(fqn)
    }
}
