//! The process groups of a rank: one for each axis of the mesh along which it has neighbours.

use crate::error::Result;
use crate::ffi::process_group::{ProcessGroup, ReduceOp};
use dcp::layout::Mesh;
use std::sync::Arc;
use tch::Tensor;

/// Groups by axis. Those of one rank are `None`: there is nobody to talk to.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// All ranks of the job.
    pub world: Option<Arc<ProcessGroup>>,
    /// Ranks that share out the parameters: the axis `dp_shard_cp`.
    pub shard: Option<Arc<ProcessGroup>>,
    /// Ranks that hold the same shard: the axis `dp_replicate`.
    pub replicate: Option<Arc<ProcessGroup>>,
}

impl Groups {
    /// The groups of one rank of a mesh, over its world. Every rank must call it: a group is made by all at once.
    ///
    /// Errors: what making a group gives.
    pub fn of_mesh(world: ProcessGroup, mesh: &Mesh) -> Result<Self> {
        let axis = |name: &str| -> Result<Option<Arc<ProcessGroup>>> {
            let Some(axis) = mesh.axis(name).filter(|&axis| mesh.axes()[axis].size > 1) else {
                return Ok(None);
            };
            let mut own = None;
            for ranks in lines(mesh, axis) {
                let name = format!("{name}-{}", ranks[0]);
                own = world.subgroup(&name, &ranks)?.or(own);
            }
            Ok(own.map(Arc::new))
        };
        let (shard, replicate) = (axis("dp_shard_cp")?, axis("dp_replicate")?);
        let world = (mesh.ranks() > 1).then(|| Arc::new(world));
        Ok(Groups { world, shard, replicate })
    }

    /// How many ranks have data of their own.
    pub fn data_ranks(&self) -> u32 {
        size(&self.shard) * size(&self.replicate)
    }

    /// The sum over all ranks that have data of their own, in place.
    ///
    /// Errors: what the collectives give.
    pub fn sum_over_data(&self, tensor: &Tensor) -> Result<()> {
        for group in [&self.shard, &self.replicate].into_iter().flatten() {
            group.all_reduce(tensor, ReduceOp::Sum)?.wait()?;
        }
        Ok(())
    }
}

/// Number of ranks of a group.
pub fn size(group: &Option<Arc<ProcessGroup>>) -> u32 {
    group.as_ref().map_or(1, |group| group.size())
}

/// This rank's place in a group.
pub fn rank(group: &Option<Arc<ProcessGroup>>) -> u32 {
    group.as_ref().map_or(0, |group| group.rank())
}

/// The ranks of every line along an axis, in the order of their first.
fn lines(mesh: &Mesh, axis: usize) -> Vec<Vec<u32>> {
    let firsts = (0..mesh.ranks()).filter(|&rank| mesh.coordinates(rank)[axis] == 0);
    let line = |first: u32| {
        let mut coordinates = mesh.coordinates(first);
        let along = (0..mesh.axes()[axis].size).map(move |place| {
            coordinates[axis] = place;
            mesh.rank_at(&coordinates)
        });
        along.collect()
    };
    firsts.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_along_an_axis() {
        let mesh = Mesh::new([("a", 2), ("b", 3)]).unwrap();
        assert_eq!(lines(&mesh, 0), [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(lines(&mesh, 1), [[0, 1, 2], [3, 4, 5]]);
    }
}
