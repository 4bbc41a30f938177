//! Layouts made from parallel degrees: which axes a mesh has and how each tensor is placed on them, without knowing
//! the model. What the stored boxes reveal about tensor parallelism is kept.

use crate::error::{Error, Result};
use crate::layout::{Mesh, Placement, Region};
use std::collections::BTreeSet;

/// Parallel degrees of a run, as TorchTitan's `parallelism` section names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Degrees {
    /// Pipeline stages.
    pub pp: u32,
    /// Copies of the sharded model (HSDP).
    pub dp_replicate: u32,
    /// FSDP shards.
    pub dp_shard: u32,
    /// Context parallelism; parameters are sharded over it as over `dp_shard`.
    pub cp: u32,
    /// Tensor parallelism.
    pub tp: u32,
}

/// Names of the mesh axes, outermost first: TorchTitan 0.2's order. FSDP shards over `dp_shard` and `cp` taken
/// together, as one flattened axis.
const AXES: [&str; 4] = ["pp", "dp_replicate", "dp_shard_cp", "tp"];

/// The mesh of these degrees: axes `pp`, `dp_replicate`, `dp_shard_cp`, `tp`.
///
/// Errors: [`Error::Layout`] for a degree of 0 or too many ranks.
pub fn mesh_of(degrees: Degrees) -> Result<Mesh> {
    let fsdp = degrees.dp_shard.checked_mul(degrees.cp);
    let fsdp = fsdp.ok_or_else(|| Error::Usage("dp_shard x cp is over 2^32 - 1".to_owned()))?;
    Ok(Mesh::new(AXES.into_iter().zip([degrees.pp, degrees.dp_replicate, fsdp, degrees.tp]))?)
}

/// What a tensor's stored boxes reveal about tensor parallelism.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revealed {
    /// Tensor parallelism cuts this dim.
    TpDim(u32),
    /// Nothing cuts it but FSDP, or nothing at all.
    NoTp,
}

/// Reads the tensor-parallel dims off the boxes of a whole checkpoint, one entry per tensor: `(shape, chunks)`.
///
/// A cut of any dim but 0 is tensor parallelism (FSDP cuts dim 0 only); the most such cuts of any tensor is its degree
/// `t`. Where a tensor that is cut both ways shows `f` FSDP pieces of dim 0, a tensor whose dim 0 is cut in more than
/// `f` pieces is cut by both. Without any cut of a later dim there is nothing to tell the two apart, and dim 0 is taken
/// for FSDP alone.
pub fn reveal(tensors: &[(&[u64], Vec<Region>)]) -> Vec<Revealed> {
    let cuts: Vec<Vec<u64>> = tensors.iter().map(|(shape, regions)| pieces_per_dim(shape, regions)).collect();
    let later = |cuts: &Vec<u64>| {
        cuts.iter().enumerate().skip(1).find(|(_, pieces)| **pieces > 1).map(|(dim, _)| dim)
    };
    let fsdp = cuts.iter().filter(|cuts| later(cuts).is_some()).map(|cuts| cuts[0]).max();
    cuts.iter()
        .map(|cuts| match (later(cuts), fsdp) {
            (Some(dim), _) => Revealed::TpDim(dim as u32),
            (None, Some(fsdp)) if cuts.first().is_some_and(|&pieces| pieces > fsdp) => Revealed::TpDim(0),
            _ => Revealed::NoTp,
        })
        .collect()
}

/// Number of distinct pieces along each dim.
fn pieces_per_dim(shape: &[u64], regions: &[Region]) -> Vec<u64> {
    (0..shape.len())
        .map(|dim| {
            let starts: BTreeSet<u64> =
                regions.iter().filter(|region| !region.is_empty()).map(|region| region.start[dim]).collect();
            starts.len() as u64
        })
        .collect()
}

/// Places a tensor of `dims` dims on the mesh of [`mesh_of`]: pipeline stage `stage`, FSDP on dim 0, tensor parallelism
/// where it was revealed. FSDP over tensor parallelism of the same dim is the strided shard that PyTorch uses.
pub fn place(degrees: Degrees, dims: usize, stage: u32, revealed: Revealed) -> [Placement; 4] {
    let tp = match revealed {
        // A scalar of the optimizer has the name of its parameter, and nothing to cut.
        Revealed::TpDim(dim) if degrees.tp > 1 && (dim as usize) < dims => Placement::Shard { dim },
        _ => Placement::Replicate,
    };
    let fsdp = match tp {
        _ if dims == 0 => Placement::Replicate,
        Placement::Shard { dim: 0 } => Placement::StridedShard { dim: 0, split_factor: degrees.tp },
        _ => Placement::Shard { dim: 0 },
    };
    [Placement::Only { coordinate: stage }, Placement::Replicate, fsdp, tp]
}

/// The pipeline stage of a tensor, from the layer number in its name.
///
/// `layers` is the number of layers of the model; stages take consecutive layers, as even as possible, earlier stages
/// one more. A name without a layer number goes to the first stage, or to the last when its last-but-one component
/// belongs after the layers (`norm`, `output`, `lm_head`). Optimizer state follows its parameter, since its name
/// contains the parameter's.
pub fn stage_of(fqn: &str, layers: u32, stages: u32) -> u32 {
    match layer_of(fqn) {
        Some(layer) => {
            let (each, extra) = (layers / stages, layers % stages);
            (0..stages)
                .find(|&stage| layer < (stage + 1) * each + (stage + 1).min(extra))
                .unwrap_or(stages - 1)
        }
        None if fqn.split('.').any(|part| matches!(part, "norm" | "output" | "lm_head")) => stages - 1,
        None => 0,
    }
}

/// The number after a component called `layers`: 3 in `optimizer.state.layers.3.attention.wq.weight.exp_avg`.
pub(crate) fn layer_of(fqn: &str) -> Option<u32> {
    let mut parts = fqn.split('.');
    parts.find(|part| matches!(*part, "layers" | "h" | "blocks"))?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(shape: [u64; 2], rows: u64, columns: u64) -> Vec<Region> {
        let (height, width) = (shape[0] / rows, shape[1] / columns);
        (0..rows)
            .flat_map(|r| (0..columns).map(move |c| Region::new([r * height, c * width], [height, width])))
            .collect()
    }

    #[test]
    fn reads_tensor_parallel_dims_off_the_boxes_of_a_2d_checkpoint() {
        let shape = [8, 8];
        let revealed = reveal(&[
            (&shape[..], grid(shape, 2, 2)), // row-parallel under FSDP
            (&shape[..], grid(shape, 4, 1)), // column-parallel under FSDP
            (&shape[..], grid(shape, 2, 1)), // FSDP only
            (&[], vec![Region::whole(&[])]),
        ]);
        assert_eq!(revealed, [Revealed::TpDim(1), Revealed::TpDim(0), Revealed::NoTp, Revealed::NoTp]);
        assert_eq!(reveal(&[(&shape[..], grid(shape, 4, 1))]), [Revealed::NoTp]);
    }

    #[test]
    fn a_scalar_is_cut_by_nothing() {
        let degrees = Degrees { pp: 1, dp_replicate: 1, dp_shard: 2, cp: 1, tp: 2 };
        let placements = place(degrees, 0, 0, Revealed::TpDim(0));
        assert_eq!(placements[1..], [Placement::Replicate; 3]);
    }

    #[test]
    fn stages_take_consecutive_layers() {
        let stages: Vec<u32> = (0..5).map(|layer| stage_of(&format!("layers.{layer}.w"), 5, 2)).collect();
        assert_eq!(stages, [0, 0, 0, 1, 1]);
        assert_eq!(stage_of("tok_embeddings.weight", 5, 2), 0);
        assert_eq!(stage_of("optimizer.state.output.weight.exp_avg", 5, 2), 1);
        assert_eq!(stage_of("optimizer.state.layers.4.w.exp_avg", 5, 2), 1);
        assert_eq!(stage_of("layers.7.w", 5, 2), 1);
    }
}
