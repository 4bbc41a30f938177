//! Which tensors the state has, and what they are called.

use crate::optimizer::Optimizer;
use crate::shard::Unit;
use dcp::layout::Placement;
use dcp::model::PathPart;
use dcp::plan::{Degrees, Revealed, place};
use tch::Tensor;

pub(super) const OPTIMIZER: &str = "optimizer";
pub(super) const LR_SCHEDULER: &str = "lr_scheduler";
pub(super) const DATALOADER: &str = "dataloader";
pub(super) const TRAIN_STATE: &str = "train_state";
pub(super) const DATA: &str = "data";
pub(super) const RNG: &str = "rng";

/// Whether a name is of a parameter: it begins with none of the names that other parts of the state have.
pub(super) fn is_of_model(fqn: &str) -> bool {
    let first = fqn.split_once('.').map(|(first, _)| first);
    first.is_none_or(|first| ![OPTIMIZER, LR_SCHEDULER, DATALOADER, TRAIN_STATE, DATA, RNG].contains(&first))
}

/// One tensor of the state on this rank.
pub(super) struct Entry<'a> {
    pub(super) fqn: String,
    pub(super) path: Vec<PathPart>,
    pub(super) shape: Vec<u64>,
    /// The dim that tensor parallelism cuts, where the shape has it.
    tp_dim: Option<usize>,
    pub(super) local: &'a Tensor,
    pub(super) is_param: bool,
}

/// Every tensor: of each parameter its moments, then itself.
pub(super) fn entries<'a>(
    units: &'a [Unit],
    optimizer: &'a Optimizer,
) -> impl Iterator<Item = Entry<'a>> + use<'a> {
    let params = units.iter().flat_map(|unit| &unit.params).zip(optimizer.state.iter().flatten());
    params.flat_map(|(param, moments)| {
        let shape: Vec<u64> = param.shape.iter().map(|&size| size as u64).collect();
        let of_optimizer = |name: &str, shape: &[u64], local: &'a Tensor| {
            let key = format!("state.{}.{name}", param.fqn);
            let fqn = format!("{OPTIMIZER}.{key}");
            let path = vec![PathPart::Key(OPTIMIZER.to_owned()), PathPart::Key(key)];
            Entry { fqn, path, shape: shape.to_vec(), tp_dim: param.tp_dim, local, is_param: false }
        };
        let moments = [
            of_optimizer("exp_avg", &shape, &moments.exp_avg),
            of_optimizer("exp_avg_sq", &shape, &moments.exp_avg_sq),
            of_optimizer("step", &[], &moments.step),
        ];
        let path = vec![PathPart::Key(param.fqn.clone())];
        let (fqn, tp_dim) = (param.fqn.clone(), param.tp_dim);
        let own = Entry { fqn, path, shape, tp_dim, local: &param.shard, is_param: true };
        moments.into_iter().chain([own])
    })
}

impl Entry<'_> {
    /// On a rank that has it.
    pub(super) fn placements(&self, degrees: Degrees, rank: u32) -> Vec<Placement> {
        let revealed = self.tp_dim.map_or(Revealed::NoTp, |dim| Revealed::TpDim(dim as u32));
        place(degrees, self.shape.len(), rank / stage_ranks(degrees), revealed).to_vec()
    }
}

/// Ranks that have the same stages of a pipeline.
pub(super) fn stage_ranks(degrees: Degrees) -> u32 {
    let Degrees { dp_replicate, dp_shard, cp, tp, .. } = degrees;
    dp_replicate * dp_shard * cp * tp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_told_by_their_names() {
        for fqn in
            ["tok_embeddings.weight", "layers.0.attention.wq.weight", "optimizer", "data", "dataset.weight"]
        {
            assert!(is_of_model(fqn), "{fqn}");
        }
        for fqn in
            ["optimizer.state.w.step", "lr_scheduler.last_epoch", "dataloader.dp_rank_0", "train_state.step"]
        {
            assert!(!is_of_model(fqn), "{fqn}");
        }
        assert!(!is_of_model("data.rank_0") && !is_of_model("rng.rank_1"));
    }
}
