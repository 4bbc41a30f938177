//! Which tensors the state has, and what they are called.

use super::Tensors;
use dcp::layout::Placement;
use dcp::model::PathPart;
use dcp::plan::{Degrees, Revealed, place};
use tch::{Kind, Tensor};

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

/// One tensor of the state.
pub(super) struct Entry<'a> {
    pub(super) fqn: String,
    pub(super) path: Vec<PathPart>,
    pub(super) shape: Vec<u64>,
    pub(super) kind: Kind,
    /// The dim that tensor parallelism cuts, where the shape has it.
    tp_dim: Option<usize>,
    pub(super) is_param: bool,
    /// The first name of a parameter of which this is the second: the embedding's, as the head.
    pub(super) second_of: Option<&'a str>,
    /// The rank of a pipeline that has it.
    pp_rank: u32,
    /// What this rank has of it.
    pub(super) local: Option<&'a Tensor>,
}

/// Every tensor of all ranks: of each parameter its moments, then itself, then itself under its second name, if any.
pub(super) fn entries<'a>(state: &Tensors<'a>) -> Vec<Entry<'a>> {
    let Tensors { model, unit_ranks, units, optimizer, degrees, rank } = *state;
    let own_rank = rank / stage_ranks(degrees);
    let mut own = units.iter().flat_map(|unit| &unit.params).zip(optimizer.state.iter().flatten());
    // All ranks store parameters in one type.
    let kind =
        units.iter().flat_map(|unit| &unit.params).next().map_or(Kind::Float, |param| param.shard.kind());
    let params =
        model.units().iter().zip(unit_ranks).flat_map(|(unit, pp_rank)| {
            unit.params.iter().map(|index| (&model.spec().params[*index], *pp_rank))
        });
    let mut entries = Vec::new();
    for (param, pp_rank) in params {
        let local = if pp_rank == own_rank { own.next() } else { None };
        let entry = |path: Vec<String>, shape: &[u64], kind, is_param, local| Entry {
            fqn: path.join("."),
            path: path.into_iter().map(PathPart::Key).collect(),
            shape: shape.to_vec(),
            kind,
            tp_dim: param.tp_dim,
            is_param,
            second_of: None,
            pp_rank,
            local,
        };
        let fqn = &param.fqn;
        let of_optimizer = |name: &str| vec![OPTIMIZER.to_owned(), format!("state.{fqn}.{name}")];
        let moments = local.map(|(_, moments)| moments);
        let (exp_avg, exp_avg_sq) = (moments.map(|own| &own.exp_avg), moments.map(|own| &own.exp_avg_sq));
        let step = moments.map(|own| &own.step);
        entries.push(entry(of_optimizer("exp_avg"), &param.shape, kind, false, exp_avg));
        entries.push(entry(of_optimizer("exp_avg_sq"), &param.shape, kind, false, exp_avg_sq));
        entries.push(entry(of_optimizer("step"), &[], Kind::Float, false, step));
        let shard = local.map(|(own, _)| &own.shard);
        entries.push(entry(vec![fqn.clone()], &param.shape, kind, true, shard));
        if let Some(tied) = model.spec().tied.as_ref().filter(|tied| tied.embedding == *fqn) {
            let second = entry(vec![tied.head.clone()], &param.shape, kind, true, shard);
            entries.push(Entry { second_of: Some(fqn), ..second });
        }
    }
    entries
}

impl Entry<'_> {
    pub(super) fn placements(&self, degrees: Degrees) -> Vec<Placement> {
        let revealed = self.tp_dim.map_or(Revealed::NoTp, |dim| Revealed::TpDim(dim as u32));
        place(degrees, self.shape.len(), self.pp_rank, revealed).to_vec()
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
