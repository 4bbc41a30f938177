//! The process groups of a rank: one for each name under which it has neighbours.

use crate::error::Result;
use crate::ffi::process_group::{ProcessGroup, ReduceOp};
use job::mesh::{Group, ParallelDims};
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;

/// Groups by name. Those of one rank are `None`: there is nobody to talk to.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// All ranks of the job.
    pub world: Option<Arc<ProcessGroup>>,
    /// Ranks that share out the parameters.
    pub shard: Option<Arc<ProcessGroup>>,
    /// Ranks that hold the same shard.
    pub replicate: Option<Arc<ProcessGroup>>,
    /// Ranks that have the other stages of a pipeline.
    pub pp: Option<Arc<ProcessGroup>>,
    /// Ranks that share each layer.
    pub tp: Option<Arc<ProcessGroup>>,
    /// Ranks that share each sequence.
    pub cp: Option<Arc<ProcessGroup>>,
}

impl Groups {
    /// The groups of one rank, over its world. Every rank must call it: a group is made by all at once. `made` is told of
    /// each that this rank is in.
    ///
    /// Errors: what making a group gives.
    pub fn of_mesh(
        world: ProcessGroup,
        dims: &ParallelDims,
        made: &dyn Fn(&ProcessGroup) -> Result<()>,
    ) -> Result<Self> {
        let group = |group: Group| -> Result<Option<Arc<ProcessGroup>>> {
            let mut own = None;
            for ranks in dims.groups(group).into_iter().filter(|ranks| ranks.len() > 1) {
                let name = format!("{}-{}", group.name(), ranks[0]);
                own = world.subgroup(&name, &ranks)?.or(own);
            }
            own.iter().try_for_each(made)?;
            Ok(own.map(Arc::new))
        };
        let (shard, replicate) = (group(Group::Fsdp)?, group(Group::DpReplicate)?);
        let (pp, tp, cp) = (group(Group::Pp)?, group(Group::Tp)?, group(Group::Cp)?);
        let world = (dims.world() > 1).then(|| Arc::new(world));
        Ok(Groups { world, shard, replicate, pp, tp, cp })
    }

    /// How long collectives from now on may take.
    ///
    /// Errors: what the groups give.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        [&self.world, &self.shard, &self.replicate, &self.pp, &self.tp, &self.cp]
            .into_iter()
            .flatten()
            .try_for_each(|group| group.set_timeout(timeout))
    }

    /// The sum over all ranks that have tokens of their own, in place: those of context parallelism too, those of tensor
    /// parallelism not.
    ///
    /// Errors: what the collectives give.
    pub fn sum_over_data(&self, tensor: &Tensor) -> Result<()> {
        self.reduce_over_data(tensor, ReduceOp::Sum)
    }

    /// The same with another operation.
    ///
    /// Errors: what the collectives give.
    pub fn reduce_over_data(&self, tensor: &Tensor, op: ReduceOp) -> Result<()> {
        for group in [&self.shard, &self.replicate].into_iter().flatten() {
            group.all_reduce(tensor, op)?.wait()?;
        }
        Ok(())
    }

    /// The sum over the ranks of a pipeline, in place: of a loss, which only one of them has.
    ///
    /// Errors: what the collective gives.
    pub fn sum_over_pipeline(&self, tensor: &Tensor) -> Result<()> {
        self.pp.as_ref().map_or(Ok(()), |group| group.all_reduce(tensor, ReduceOp::Sum)?.wait())
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
