//! Which stored bytes a rank needs.

use crate::error::Result;
use crate::layout::Region;
use crate::model::{Catalog, Chunk};

/// A box of a tensor that somebody wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// Index into [`Catalog::tensors`].
    pub tensor: u32,
    /// The box.
    pub region: Region,
}

/// One read: the part of a stored chunk that a want needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// Index into the wants.
    pub want: u32,
    /// The chunk.
    pub chunk: Chunk,
    /// The common box, in the tensor's coordinates.
    pub common: Region,
}

/// Finds every read that the wants need, in the order of the wants. Only chunks that overlap are looked at, so the cost
/// grows with the reads, not with the ranks that wrote the checkpoint.
///
/// Errors: what computing chunks gives. That the reads cover the wants is the caller's to check.
pub fn reads(catalog: &Catalog, wants: &[Want]) -> Result<Vec<Read>> {
    let mut found = Vec::with_capacity(wants.len());
    for (index, want) in wants.iter().enumerate() {
        let (_, tensor) =
            catalog.tensors.get_index(want.tensor as usize).expect("a want names a tensor of the catalog");
        tensor.chunks.visit(&want.region, &mut |chunk| {
            if let Some(common) = chunk.region.intersect(&want.region) {
                found.push(Read { want: index as u32, chunk, common });
            }
            Ok(())
        })?;
    }
    Ok(found)
}
