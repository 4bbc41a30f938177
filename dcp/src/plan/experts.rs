//! Expert parallelism: the tensors that have one part per expert are cut on a mesh of their own over the same ranks.
//!
//! Of the ranks of a pipeline stage and copy, `dp_shard x cp x tp` many, the other tensors see the axes `dp_shard_cp` and
//! `tp`, and the experts see `efsdp`, `ep` and `etp`, of which the last is the fastest in both. With `etp` 1 the ranks
//! along `tp` hold different experts; with `etp` equal to `tp` they share each expert as they share any weight.
//!
//! Source: `ParallelDims.build_mesh` and `apply_fsdp` of torchtitan v0.2.2 (`distributed/parallel_dims.py`,
//! `models/llama4/infra/parallelize.py`), and `fully_shard` of PyTorch 2.11, which cuts no other dim than 0 unevenly.

use super::{Degrees, choose_owners};
use crate::error::{Error, Result};
use crate::layout::{Layout, Mesh, Placement, Region};
use std::sync::Arc;

/// Degrees of expert parallelism.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpertDegrees {
    /// Ranks that share the experts of a layer.
    pub ep: u32,
    /// Ranks that share one expert: 1, or as many as tensor parallelism has.
    pub etp: u32,
}

/// Boxes of one tensor, each with the rank that writes it.
pub type Boxes = Vec<(u32, Region)>;

/// A tensor that has one part per expert along its first dim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpertTensor<'a> {
    /// Its shape.
    pub shape: &'a [u64],
    /// The dim that tensor parallelism cuts.
    pub tp_dim: Option<u32>,
    /// Its pipeline stage.
    pub stage: u32,
    /// Its bytes.
    pub byte_len: u64,
}

/// The mesh that experts are cut on: axes `pp`, `dp_replicate`, `efsdp`, `ep`, `etp`.
///
/// Errors: [`Error::Usage`] that names the rule that is broken; [`Error::Layout`] as [`super::mesh_of`].
pub fn expert_mesh_of(degrees: Degrees, experts: ExpertDegrees) -> Result<Mesh> {
    let Degrees { pp, dp_replicate, dp_shard, cp, tp } = degrees;
    let ExpertDegrees { ep, etp } = experts;
    let broken = |rule: String| Err(Error::Usage(rule));
    if ep == 0 || etp == 0 {
        return broken("ep and etp are at least 1".to_owned());
    }
    if etp != 1 && etp != tp {
        return broken(format!("etp is 1 or equal to tp: etp is {etp}, tp is {tp}"));
    }
    if etp > 1 && ep == 1 {
        return broken(format!("etp without ep: experts are cut by tp alone where ep is 1; etp is {etp}"));
    }
    let ranks = u64::from(dp_shard).saturating_mul(cp.into()).saturating_mul(tp.into());
    let shared = u64::from(ep) * u64::from(etp);
    if !ranks.is_multiple_of(shared) {
        return broken(format!(
            "ep x etp divides dp_shard x cp x tp: {ep} x {etp} does not divide {dp_shard} x {cp} x {tp} = {ranks}; \
             lower ep, or raise dp_shard, cp or tp"
        ));
    }
    let efsdp = u32::try_from(ranks / shared);
    let efsdp = efsdp.map_err(|_| Error::Usage("dp_shard x cp x tp is over 2^32 - 1".to_owned()))?;
    let axes = [("pp", pp), ("dp_replicate", dp_replicate), ("efsdp", efsdp), ("ep", ep), ("etp", etp)];
    Ok(Mesh::new(axes)?)
}

/// Places a tensor on the mesh of [`expert_mesh_of`]: experts over `ep`, FSDP inside them, or on dim 1 where there are more
/// ranks than experts.
///
/// Errors: [`Error::Usage`] that names the rule that is broken.
pub fn place_experts(mesh: &Mesh, tensor: &ExpertTensor) -> Result<[Placement; 5]> {
    let size = |name: &str| mesh.axis(name).map_or(1, |axis| mesh.axes()[axis].size);
    let (efsdp, ep, etp) = (size("efsdp"), size("ep"), size("etp"));
    let broken = |rule: String| Err(Error::Usage(rule));
    let count = tensor.shape.first().copied().unwrap_or(0);
    if count == 0 || !count.is_multiple_of(ep.into()) {
        return broken(format!("ep divides the number of experts: {ep} does not divide {count}"));
    }
    let etp_dim = tensor.tp_dim.filter(|_| etp > 1);
    let expert_tp = etp_dim.map_or(Placement::Replicate, |dim| Placement::Shard { dim });
    let fsdp = if u64::from(efsdp) * u64::from(ep) <= count {
        Placement::StridedShard { dim: 0, split_factor: ep }
    } else {
        let split_factor = if etp_dim == Some(1) { etp } else { 1 };
        let rows = tensor.shape.get(1).copied().unwrap_or(0) / u64::from(split_factor);
        if !rows.is_multiple_of(efsdp.into()) {
            return broken(format!(
                "with more ranks than experts (efsdp x ep = {efsdp} x {ep} over {count}) FSDP cuts dim 1, in equal parts \
                 alone: {efsdp} does not divide {rows}"
            ));
        }
        match split_factor {
            1 => Placement::Shard { dim: 1 },
            split_factor => Placement::StridedShard { dim: 1, split_factor },
        }
    };
    let experts = Placement::Shard { dim: 0 };
    Ok([Placement::Only { coordinate: tensor.stage }, Placement::Replicate, fsdp, experts, expert_tp])
}

/// The boxes of each of these tensors.
///
/// Errors: as [`expert_mesh_of`] and [`place_experts`].
pub fn cut_experts(degrees: Degrees, experts: ExpertDegrees, tensors: &[ExpertTensor]) -> Result<Vec<Boxes>> {
    let mesh = Arc::new(expert_mesh_of(degrees, experts)?);
    let placed = tensors.iter().map(|tensor| Ok((place_experts(&mesh, tensor)?.to_vec(), tensor.byte_len)));
    let placed = placed.collect::<Result<Vec<_>>>()?;
    let owners = choose_owners(&mesh, &placed);
    let mut found = Vec::with_capacity(tensors.len());
    for ((tensor, (placements, _)), owner) in tensors.iter().zip(placed).zip(owners) {
        let layout = Layout::new(mesh.clone(), placements, tensor.shape.to_vec())?;
        let mut boxes = Boxes::new();
        layout.visit_overlapping(&Region::whole(tensor.shape), &owner, &mut |coordinates, region| {
            boxes.push((mesh.rank_at(coordinates), region.clone()));
        });
        found.push(boxes);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::cover;

    fn degrees(dp_shard: u32, cp: u32, tp: u32) -> Degrees {
        Degrees { pp: 1, dp_replicate: 1, dp_shard, cp, tp }
    }

    fn tensor(shape: &[u64], tp_dim: Option<u32>) -> ExpertTensor<'_> {
        ExpertTensor { shape, tp_dim, stage: 0, byte_len: shape.iter().product() }
    }

    fn rule_broken(degrees: Degrees, experts: ExpertDegrees, shape: &[u64]) -> String {
        let tensors = [tensor(shape, Some(1))];
        match cut_experts(degrees, experts, &tensors) {
            Err(Error::Usage(rule)) => rule,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn broken_rules_are_named() {
        let shape = [8, 6, 4];
        for (degrees, ep, etp, rule) in [
            (degrees(4, 1, 4), 2, 2, "etp is 1 or equal to tp: etp is 2, tp is 4"),
            (degrees(4, 1, 2), 1, 2, "etp without ep"),
            (degrees(2, 3, 1), 4, 1, "4 x 1 does not divide 2 x 3 x 1 = 6"),
            (degrees(2, 1, 2), 4, 2, "4 x 2 does not divide 2 x 1 x 2 = 4"),
            (degrees(1, 1, 1), 2, 1, "2 x 1 does not divide 1 x 1 x 1 = 1"),
            (degrees(3, 1, 1), 3, 1, "3 does not divide 8"),
            (degrees(16, 1, 1), 4, 1, "(efsdp x ep = 4 x 4 over 8)"),
            (degrees(1, 1, 1), 0, 1, "at least 1"),
        ] {
            let said = rule_broken(degrees, ExpertDegrees { ep, etp }, &shape);
            assert!(said.contains(rule), "{said}");
        }
    }

    /// Recorded from DTensor and FSDP2, PyTorch 2.11 (`tests/peers/experts.py` asks it again).
    #[test]
    fn experts_lie_where_fsdp_puts_them() {
        let starts = |degrees, ep, etp, shape: &[u64]| -> Vec<(u32, Vec<u64>)> {
            let cut = cut_experts(degrees, ExpertDegrees { ep, etp }, &[tensor(shape, Some(1))]).unwrap();
            let mut starts: Vec<_> =
                cut[0].iter().map(|(rank, region)| (*rank, region.start.to_vec())).collect();
            starts.sort();
            starts
        };
        // efsdp 2, ep 2: ranks 0 and 2 share the experts that ep's first has.
        let found = starts(degrees(4, 1, 1), 2, 1, &[4, 6, 2]);
        assert_eq!(found, [(0, vec![0, 0, 0]), (1, vec![2, 0, 0]), (2, vec![1, 0, 0]), (3, vec![3, 0, 0])]);
        // More ranks than experts: dim 1.
        let found = starts(degrees(4, 1, 1), 2, 1, &[2, 6, 2]);
        assert_eq!(found, [(0, vec![0, 0, 0]), (1, vec![1, 0, 0]), (2, vec![0, 3, 0]), (3, vec![1, 3, 0])]);
        // Tensor parallelism lends its ranks, or keeps them.
        let found = starts(degrees(1, 1, 2), 2, 1, &[2, 6, 2]);
        assert_eq!(found, [(0, vec![0, 0, 0]), (1, vec![1, 0, 0])]);
        let found = starts(degrees(2, 1, 2), 2, 2, &[2, 6, 2]);
        assert_eq!(found, [(0, vec![0, 0, 0]), (1, vec![0, 3, 0]), (2, vec![1, 0, 0]), (3, vec![1, 3, 0])]);
        // FSDP inside tensor parallelism, on one dim.
        let found = starts(degrees(4, 1, 2), 2, 2, &[2, 4, 2]);
        let rows: Vec<u64> = found.iter().map(|(_, start)| start[1]).collect();
        assert_eq!(rows, [0, 2, 0, 2, 1, 3, 1, 3]);
    }

    /// Every legal combination of small degrees: the mesh has the ranks of the other tensors' mesh, boxes tile the tensor,
    /// and every box lies on ranks of its stage, no two on one rank.
    #[test]
    fn every_small_cut_tiles_the_tensor() {
        let (mut cut, mut refused) = (0, 0);
        let mut check = |degrees: Degrees, experts: ExpertDegrees, shape: &[u64], tp_dim: Option<u32>| {
            let stage = degrees.pp - 1;
            let tensor = ExpertTensor { stage, ..tensor(shape, tp_dim) };
            let Ok(boxes) = cut_experts(degrees, experts, &[tensor]) else {
                refused += 1;
                return;
            };
            cut += 1;
            let mesh = expert_mesh_of(degrees, experts).unwrap();
            assert_eq!(mesh.ranks(), super::super::mesh_of(degrees).unwrap().ranks());
            let regions: Vec<Region> = boxes[0].iter().map(|(_, region)| region.clone()).collect();
            assert_eq!(cover(shape, &regions), Ok(()), "{degrees:?} {experts:?} {shape:?}");
            let mut ranks: Vec<u32> = boxes[0].iter().map(|(rank, _)| *rank).collect();
            let each = mesh.ranks() / degrees.pp;
            assert!(ranks.iter().all(|rank| rank / each == stage), "{degrees:?} {experts:?}");
            ranks.sort_unstable();
            ranks.dedup();
            assert_eq!(ranks.len(), regions.len(), "{degrees:?} {experts:?}");
        };
        for (pp, dp_replicate) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
            for (dp_shard, cp, tp) in
                (1..=4).flat_map(|a| (1..=2).flat_map(move |b| (1..=4).map(move |c| (a, b, c))))
            {
                let degrees = Degrees { pp, dp_replicate, dp_shard, cp, tp };
                for (ep, etp) in (1..=8).flat_map(|ep| [1, tp].map(|etp| (ep, etp))) {
                    for shape in [&[4, 8, 3][..], &[8, 4, 4], &[6, 12]] {
                        for tp_dim in [None, Some(1), Some(shape.len() as u32 - 1)] {
                            check(degrees, ExpertDegrees { ep, etp }, shape, tp_dim);
                        }
                    }
                }
            }
        }
        assert!(cut > 1000 && refused > 1000, "{cut} cut, {refused} refused");
    }
}
