//! Parallel degrees, and which ranks work together on what.
//!
//! Source: torchtitan/distributed/parallel_dims.py, v0.2.2. Ranks count with tensor parallelism fastest, pipeline stages
//! slowest. Three views of the same ranks, each row-major, name every group:
//!
//! * data loading: `pp, batch, cp, tp`, where `batch` = dp_replicate x dp_shard; `loss` is `batch` and `cp` taken together;
//! * dense parameters: `pp, dp_replicate, fsdp, tp`, where `fsdp` = dp_shard x cp;
//! * experts: `pp, dp_replicate, efsdp, ep, etp`, where `efsdp` = dp_shard x cp x tp / (ep x etp).

use crate::config::Parallelism;
use dcp::layout::Mesh;
use dcp::plan::Degrees;

/// Degrees that make up a world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ParallelDims {
    /// Ranks that stages are spread over.
    pub pp: u32,
    /// Copies of the model.
    pub dp_replicate: u32,
    /// Shards of the data and of the parameters.
    pub dp_shard: u32,
    /// Ranks that share each sequence; parameters are sharded over them too.
    pub cp: u32,
    /// Ranks that share each layer.
    pub tp: u32,
    /// Ranks that share the experts of a layer; made of dp_shard, cp and, with `etp` 1, tp.
    pub ep: u32,
    /// Ranks that share each expert.
    pub etp: u32,
}

/// A rule of degrees that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation
pub enum MeshError {
    #[error("{name} = {value}: degrees are at least 1")]
    Degree { name: &'static str, value: i64 },

    #[error(
        "data_parallel_shard_degree = -1 takes the ranks that the other degrees leave, but {world} ranks are not a multiple \
         of dp_replicate {dp_replicate} x cp {cp} x tp {tp} x pp {pp} = {product}; start another number of ranks or change a degree"
    )]
    Leftover { world: u32, dp_replicate: u64, cp: u64, tp: u64, pp: u64, product: u64 },

    #[error(
        "dp_replicate {dp_replicate} x dp_shard {dp_shard} x cp {cp} x tp {tp} x pp {pp} = {product}, but there are {world} ranks; \
         start {product} ranks, or set data_parallel_shard_degree to -1, which takes what is left"
    )]
    Product { world: u32, dp_replicate: u64, dp_shard: u64, cp: u64, tp: u64, pp: u64, product: u64 },

    #[error(
        "expert_tensor_parallel_degree = {etp}: it is 1 or tensor_parallel_degree, which is {tp}; set it to one of them"
    )]
    ExpertTensor { etp: u64, tp: u64 },

    #[error(
        "expert_parallel_degree {ep} x expert_tensor_parallel_degree {etp} does not divide dp_shard {dp_shard} x cp {cp} x tp {tp} \
         = {product}, of which experts are shared out; change expert_parallel_degree"
    )]
    Experts { ep: u64, etp: u64, dp_shard: u64, cp: u64, tp: u64, product: u64 },
}

/// A named group of ranks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Group {
    /// Stages of one pipeline.
    Pp,
    /// Ranks with different sequences.
    Batch,
    /// Ranks with different tokens: over them the loss is summed.
    Loss,
    /// Copies of the same shard.
    DpReplicate,
    /// Shards of one copy.
    Fsdp,
    /// Parts of the same sequences.
    Cp,
    /// Parts of the same layers.
    Tp,
    /// Different experts of the same layers.
    Ep,
    /// Shards of one copy of the same experts.
    Efsdp,
    /// Parts of the same experts.
    Etp,
}

/// A view of all ranks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum View {
    /// `pp, batch, cp, tp`.
    DataLoading,
    /// `pp, dp_replicate, fsdp, tp`.
    Dense,
    /// `pp, dp_replicate, efsdp, ep, etp`.
    Sparse,
}

impl Group {
    /// Every one.
    pub const ALL: [Group; 10] = [
        Group::Pp,
        Group::Batch,
        Group::Loss,
        Group::DpReplicate,
        Group::Fsdp,
        Group::Cp,
        Group::Tp,
        Group::Ep,
        Group::Efsdp,
        Group::Etp,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Group::Pp => "pp",
            Group::Batch => "batch",
            Group::Loss => "loss",
            Group::DpReplicate => "dp_replicate",
            Group::Fsdp => "fsdp",
            Group::Cp => "cp",
            Group::Tp => "tp",
            Group::Ep => "ep",
            Group::Efsdp => "efsdp",
            Group::Etp => "etp",
        }
    }

    /// The view that has it, and its axes there.
    fn axes(self) -> (View, &'static [&'static str]) {
        match self {
            Group::Pp => (View::Dense, &["pp"]),
            Group::Batch => (View::DataLoading, &["batch"]),
            Group::Loss => (View::DataLoading, &["batch", "cp"]),
            Group::DpReplicate => (View::Dense, &["dp_replicate"]),
            Group::Fsdp => (View::Dense, &["fsdp"]),
            Group::Cp => (View::DataLoading, &["cp"]),
            Group::Tp => (View::Dense, &["tp"]),
            Group::Ep => (View::Sparse, &["ep"]),
            Group::Efsdp => (View::Sparse, &["efsdp"]),
            Group::Etp => (View::Sparse, &["etp"]),
        }
    }
}

impl ParallelDims {
    /// The degrees of a configuration in a world of `world` ranks.
    ///
    /// Errors: every rule that does not hold. [`MeshError::Degree`] stands alone: other rules need degrees.
    pub fn new(asked: &Parallelism, world: u32) -> Result<Self, Vec<MeshError>> {
        let (dp_replicate, cp) = (asked.data_parallel_replicate_degree, asked.context_parallel_degree);
        let (tp, pp) = (asked.tensor_parallel_degree, asked.pipeline_parallel_degree);
        let (ep, etp) = (asked.expert_parallel_degree, asked.expert_tensor_parallel_degree);
        let shard = asked.data_parallel_shard_degree;
        let named = [
            ("data_parallel_replicate_degree", dp_replicate),
            ("context_parallel_degree", cp),
            ("tensor_parallel_degree", tp),
            ("pipeline_parallel_degree", pp),
            ("expert_parallel_degree", ep),
            ("expert_tensor_parallel_degree", etp),
            ("the number of ranks", u64::from(world)),
        ];
        let zero = named.iter().filter(|(_, degree)| *degree == 0);
        let mut errors: Vec<_> = zero.map(|&(name, _)| MeshError::Degree { name, value: 0 }).collect();
        if shard < -1 || shard == 0 {
            errors.push(MeshError::Degree { name: "data_parallel_shard_degree", value: shard });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let others = product(&[dp_replicate, cp, tp, pp]);
        let dp_shard = match u64::try_from(shard) {
            Ok(shard) => shard,
            Err(_) if u64::from(world).is_multiple_of(others) => u64::from(world) / others,
            Err(_) => {
                errors.push(MeshError::Leftover { world, dp_replicate, cp, tp, pp, product: others });
                1
            }
        };
        let all = product(&[others, dp_shard]);
        if shard != -1 && all != u64::from(world) {
            errors.push(MeshError::Product { world, dp_replicate, dp_shard, cp, tp, pp, product: all });
        }
        if etp != 1 && etp != tp {
            errors.push(MeshError::ExpertTensor { etp, tp });
        }
        let shared = product(&[dp_shard, cp, tp]);
        if errors.is_empty() && ep > 1 && !shared.is_multiple_of(product(&[ep, etp])) {
            errors.push(MeshError::Experts { ep, etp, dp_shard, cp, tp, product: shared });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // Each divides the number of ranks, which is a u32.
        let narrow = |degree: u64| u32::try_from(degree).unwrap_or(u32::MAX);
        Ok(ParallelDims {
            pp: narrow(pp),
            dp_replicate: narrow(dp_replicate),
            dp_shard: narrow(dp_shard),
            cp: narrow(cp),
            tp: narrow(tp),
            ep: narrow(ep),
            etp: narrow(etp),
        })
    }

    /// Number of ranks.
    pub fn world(&self) -> u32 {
        self.pp * self.dp_replicate * self.dp_shard * self.cp * self.tp
    }

    /// Number of ranks with different sequences.
    pub fn batch(&self) -> u32 {
        self.dp_replicate * self.dp_shard
    }

    /// Number of shards of a parameter that is not an expert's.
    pub fn fsdp(&self) -> u32 {
        self.dp_shard * self.cp
    }

    /// Number of shards of an expert's parameter. Without expert parallelism experts are sharded as all else.
    pub fn efsdp(&self) -> u32 {
        if self.ep > 1 { self.fsdp() * self.tp / (self.ep * self.etp) } else { self.fsdp() }
    }

    /// Whether parameters are sharded: context parallelism shards them too.
    pub fn is_sharded(&self) -> bool {
        self.fsdp() > 1
    }

    /// Ranks that work on the same sequences: tokens per second are counted per each of them.
    pub fn non_data_parallel(&self) -> u32 {
        self.cp * self.tp * self.pp
    }

    /// What `seq_len` must be a multiple of: sequence parallelism cuts it in `tp` parts, each of which context parallelism
    /// cuts in 2 per rank. TorchTitan wants the 2 without context parallelism too.
    pub fn seq_len_divisor(&self) -> u64 {
        u64::from(self.tp) * 2 * u64::from(self.cp)
    }

    /// The degrees as layouts of checkpoints take them.
    pub fn degrees(&self) -> Degrees {
        Degrees {
            pp: self.pp,
            dp_replicate: self.dp_replicate,
            dp_shard: self.dp_shard,
            cp: self.cp,
            tp: self.tp,
        }
    }

    /// All ranks in a view. Without expert parallelism `ep` and `etp` of [`View::Sparse`] are 1 and tensor parallelism is
    /// the innermost axis of the experts too, named `etp`.
    pub fn mesh(&self, view: View) -> Mesh {
        let (pp, dp_replicate) = (("pp", self.pp), ("dp_replicate", self.dp_replicate));
        let axes = match view {
            View::DataLoading => vec![pp, ("batch", self.batch()), ("cp", self.cp), ("tp", self.tp)],
            View::Dense => vec![pp, dp_replicate, ("fsdp", self.fsdp()), ("tp", self.tp)],
            View::Sparse => {
                let (ep, etp) = if self.ep > 1 { (self.ep, self.etp) } else { (1, self.tp) };
                vec![pp, dp_replicate, ("efsdp", self.efsdp()), ("ep", ep), ("etp", etp)]
            }
        };
        Mesh::new(axes).expect("degrees are at least 1 and their product is the number of ranks")
    }

    /// Number of ranks in each group of this name.
    pub fn size(&self, group: Group) -> u32 {
        let (view, axes) = group.axes();
        let mesh = self.mesh(view);
        mesh.axes().iter().filter(|axis| axes.contains(&axis.name.as_str())).map(|axis| axis.size).product()
    }

    /// The place of a rank in its group of this name.
    pub fn coordinate(&self, group: Group, rank: u32) -> u32 {
        let (view, axes) = group.axes();
        let mesh = self.mesh(view);
        let along = mesh.axes().iter().zip(mesh.coordinates(rank));
        let of_group = along.filter(|(axis, _)| axes.contains(&axis.name.as_str()));
        of_group.fold(0, |place, (axis, coordinate)| place * axis.size + coordinate)
    }

    /// The ranks in the group of this name that has `rank`, by their place in it.
    pub fn ranks(&self, group: Group, rank: u32) -> Vec<u32> {
        let (view, axes) = group.axes();
        let mesh = self.mesh(view);
        let is_of_group: Vec<_> = mesh.axes().iter().map(|axis| axes.contains(&axis.name.as_str())).collect();
        let mut coordinates = mesh.coordinates(rank);
        (0..self.size(group))
            .map(|place| {
                let mut rest = place;
                for (index, axis) in
                    mesh.axes().iter().enumerate().rev().filter(|(index, _)| is_of_group[*index])
                {
                    coordinates[index] = rest % axis.size;
                    rest /= axis.size;
                }
                mesh.rank_at(&coordinates)
            })
            .collect()
    }

    /// Every group of this name, by its first rank: all ranks, each once.
    pub fn groups(&self, group: Group) -> Vec<Vec<u32>> {
        let first = (0..self.world()).filter(|rank| self.coordinate(group, *rank) == 0);
        first.map(|rank| self.ranks(group, rank)).collect()
    }
}

/// A product that stays at the largest number instead of wrapping.
fn product(degrees: &[u64]) -> u64 {
    degrees.iter().fold(1, |product: u64, degree| product.saturating_mul(*degree))
}

#[cfg(test)]
mod tests;
