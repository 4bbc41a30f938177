//! Who reads which box of a tensor, and who gets it from whom.

use super::{Request, RequestTensor};
use crate::coordinate::Coordinator;
use crate::error::{Error, Result};
use crate::format::Reader;
use crate::layout::{Layout, Region};
use crate::model::{TensorSpec, can_cast};
use crate::plan::choose_owners;
use std::ops::Range;

/// How one tensor reaches a rank.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) region: Region,
    /// Who reads it, of those that hold it.
    pub(super) from: u32,
    group: Vec<u32>,
}

/// For each tensor, its way to this rank, if the rank holds some of it. Which of several holders reads is chosen to
/// balance bytes, the same on every rank.
///
/// Errors: [`Error::NoSuchName`], [`Error::OtherTensor`].
pub(super) fn ways(reader: &dyn Reader, request: &Request, rank: u32) -> Result<Vec<Option<Way>>> {
    let mut sizes = Vec::with_capacity(request.tensors.len());
    for RequestTensor { fqn, spec, placements } in &request.tensors {
        let found = reader.catalog().tensors.get(fqn);
        let missing = || Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() };
        let stored = &found.ok_or_else(missing)?.spec;
        if stored.shape != spec.shape || !can_cast(stored.dtype, spec.dtype) {
            let fqn = fqn.to_string();
            return Err(Error::OtherTensor { fqn, found: in_words(stored), expected: in_words(spec) });
        }
        sizes.push((placements.clone(), stored.bytes().unwrap_or(0)));
    }
    let Some(mesh) = &request.mesh else {
        let whole = |tensor: &RequestTensor| {
            Some(Way { region: Region::whole(&tensor.spec.shape), from: 0, group: vec![0] })
        };
        return Ok(request.tensors.iter().map(whole).collect());
    };
    let owners = choose_owners(mesh, &sizes);
    let ways = request.tensors.iter().zip(owners).map(|(tensor, owner)| {
        let layout = Layout::new(mesh.clone(), tensor.placements.clone(), tensor.spec.shape.clone())?;
        Ok(layout.region(rank).map(|region| {
            let (group, from) = holders(&layout, rank, &owner);
            Way { region, from, group }
        }))
    });
    ways.collect()
}

fn in_words(spec: &TensorSpec) -> String {
    format!("{} {:?}", spec.dtype, spec.shape)
}

/// The ranks that hold the same box, and the one of them that is the owner's copy.
fn holders(layout: &Layout, rank: u32, owner: &[u32]) -> (Vec<u32>, u32) {
    let mesh = layout.mesh();
    let mut all = vec![mesh.coordinates(rank)];
    let mut from = mesh.coordinates(rank);
    for axis in layout.replica_axes() {
        from[axis] = owner[axis];
        let along = |coordinates: Vec<u32>| {
            (0..mesh.axes()[axis].size).map(move |own| {
                let mut coordinates = coordinates.clone();
                coordinates[axis] = own;
                coordinates
            })
        };
        all = all.into_iter().flat_map(along).collect();
    }
    let mut group: Vec<u32> = all.iter().map(|coordinates| mesh.rank_at(coordinates)).collect();
    group.sort_unstable();
    (group, mesh.rank_at(&from))
}

/// Cuts the tensors in groups whose boxes, taken as equal on all ranks, have at most so many bytes; a larger one is a group
/// of its own. The same on every rank.
pub(super) fn groups(request: &Request, bytes_max: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut group_bytes = 0u64;
    for (index, tensor) in request.tensors.iter().enumerate() {
        let box_bytes = tensor.spec.bytes().unwrap_or(u64::MAX).div_ceil(boxes(request, tensor));
        group_bytes = group_bytes.saturating_add(box_bytes);
        match groups.last_mut() {
            Some(group) if group_bytes <= bytes_max => group.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                group_bytes = box_bytes;
            }
        }
    }
    groups
}

/// In how many boxes a tensor is cut.
fn boxes(request: &Request, tensor: &RequestTensor) -> u64 {
    use crate::layout::Placement::{Only, Replicate};
    let axes = request.mesh.iter().flat_map(|mesh| mesh.axes());
    let cut =
        axes.zip(&tensor.placements).filter(|(_, placement)| !matches!(placement, Replicate | Only { .. }));
    cut.map(|(axis, _)| u64::from(axis.size)).product()
}

/// Sends what this rank has read to those that hold it too, or takes what another has: then it is `true`. All ranks go
/// through the tensors in one order.
pub(super) fn exchange(
    coordinator: &dyn Coordinator,
    tag: &str,
    way: &Way,
    target: &mut [u8],
) -> Result<bool> {
    let Way { from, group, region } = way;
    if group.len() < 2 || region.is_empty() {
        return Ok(false);
    }
    coordinator.broadcast(&format!("{tag}/{from}"), *from, group, target)?;
    Ok(*from != coordinator.rank())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Mesh, Placement};
    use crate::model::DType;
    use std::sync::Arc;

    #[test]
    fn groups_hold_what_fits_and_a_larger_tensor_alone() {
        let tensor = |rows: u64, placement| RequestTensor {
            fqn: "w".into(),
            spec: TensorSpec::new(DType::F32, [rows, 1]),
            placements: vec![placement],
        };
        let (cut, whole) = (Placement::Shard { dim: 0 }, Placement::Replicate);
        let sizes = [(4, cut), (4, whole), (2, cut), (100, cut), (0, whole), (8, whole), (1, cut)];
        let tensors = sizes.map(|(rows, placement)| tensor(rows, placement)).to_vec();
        let mesh = Some(Arc::new(Mesh::new([("dp", 2)]).unwrap()));
        let request = Request { mesh, tensors };
        assert_eq!(groups(&request, 28), [0..3, 3..4, 4..5, 5..6, 6..7].to_vec());
        assert_eq!(groups(&request, 1 << 20), Vec::from_iter([Range { start: 0, end: 7 }]));
        assert_eq!(groups(&request, 0).len(), 7);
        assert!(groups(&Request::default(), 28).is_empty());
    }
}
