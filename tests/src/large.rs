//! Checkpoints too large to be stored, which tests and benchmarks share.

use dcp::format::{ObjectSums, Pieces, Target, TargetTensor};
use dcp::layout::{Layout, Placement};
use dcp::model::{DType, Fqn, PathPart, TensorSpec};
use dcp::plan::{Degrees, Revealed, Want, choose_owners, mesh_of, place, stage_of};
use dcp::storage::Place;
use dcp::{Result, format};
use std::sync::Arc;

const LAYERS: u32 = 126;

/// Every parameter of Llama 3.1 405B: name, shape, the dim that tensor parallelism cuts.
fn parameters() -> Vec<(String, Vec<u64>, Option<u32>)> {
    let (dim, hidden, kv, vocab) = (16_384, 53_248, 1_024, 128_256);
    let mut all = vec![
        ("tok_embeddings.weight".to_owned(), vec![vocab, dim], Some(0)),
        ("norm.weight".to_owned(), vec![dim], None),
        ("output.weight".to_owned(), vec![vocab, dim], Some(0)),
    ];
    for layer in 0..LAYERS {
        for (name, shape, cut) in [
            ("attention.wq", vec![dim, dim], Some(0)),
            ("attention.wk", vec![kv, dim], Some(0)),
            ("attention.wv", vec![kv, dim], Some(0)),
            ("attention.wo", vec![dim, dim], Some(1)),
            ("feed_forward.w1", vec![hidden, dim], Some(0)),
            ("feed_forward.w2", vec![dim, hidden], Some(1)),
            ("feed_forward.w3", vec![hidden, dim], Some(0)),
            ("attention_norm", vec![dim], None),
            ("ffn_norm", vec![dim], None),
        ] {
            all.push((format!("layers.{layer}.{name}.weight"), shape, cut));
        }
    }
    all
}

/// Parameters, moments and step counts, with the tensor-parallel dim of each.
fn tensors() -> Vec<(TargetTensor, Revealed)> {
    let mut all = Vec::new();
    for (name, shape, cut) in parameters() {
        let revealed = cut.map_or(Revealed::NoTp, Revealed::TpDim);
        let tensor = |fqn: String, path: Vec<&str>, shape: &[u64]| TargetTensor {
            fqn: Fqn::new(fqn),
            spec: TensorSpec::new(DType::F32, shape),
            path: path.into_iter().map(|key| PathPart::Key(key.to_owned())).collect(),
            pieces: Pieces::Listed(Vec::new()),
        };
        all.push((tensor(name.clone(), vec![], &shape), revealed));
        for state in ["exp_avg", "exp_avg_sq", "step"] {
            let shape: &[u64] = if state == "step" { &[] } else { &shape };
            let revealed = if shape.is_empty() { Revealed::NoTp } else { revealed };
            let path = vec!["optimizer", "state", &name, state];
            all.push((tensor(format!("optimizer.state.{name}.{state}"), path, shape), revealed));
        }
    }
    all
}

/// Llama 3.1 405B in float32 with AdamW state, 4.86 TB, as these parallel degrees place it.
pub fn llama_405b(degrees: Degrees) -> Result<Target> {
    let mesh = Arc::new(mesh_of(degrees)?);
    let (mut tensors, revealed): (Vec<_>, Vec<_>) = tensors().into_iter().unzip();
    let placements: Vec<(Vec<Placement>, u64)> = tensors
        .iter()
        .zip(revealed)
        .map(|(tensor, revealed)| {
            let stage = stage_of(tensor.fqn.as_str(), LAYERS, degrees.pp);
            let placements = place(degrees, tensor.spec.shape.len(), stage, revealed).to_vec();
            (placements, tensor.spec.bytes().unwrap_or(0))
        })
        .collect();
    let owners = choose_owners(&mesh, &placements);
    for ((tensor, (placements, _)), owner) in tensors.iter_mut().zip(placements).zip(owners) {
        tensor.pieces = Pieces::Placed { placements, owner };
    }
    let writers = mesh.ranks();
    Ok(Target { tensors, values: Vec::new(), mesh: Some(mesh), writers, step: Some(1000) })
}

/// The boxes that a rank of the target's mesh holds, replicas included.
pub fn wants(target: &Target, rank: u32) -> Result<Vec<Want>> {
    let mut wants = Vec::new();
    for (index, tensor) in (0..).zip(&target.tensors) {
        let (Pieces::Placed { placements, .. }, Some(mesh)) = (&tensor.pieces, &target.mesh) else {
            continue;
        };
        let layout = Layout::new(mesh.clone(), placements.clone(), tensor.spec.shape.clone())?;
        if let Some(region) = layout.region(rank).filter(|region| !region.is_empty()) {
            wants.push(Want { tensor: index, region });
        }
    }
    Ok(wants)
}

/// Commits a titan checkpoint of the target whose data was never written: every record is there and as long as it
/// would be, with checksums that are all zero.
pub fn commit_without_data(target: &Target, place: &Place) -> Result<()> {
    let titan = format::by_name("titan")?;
    let draft = titan.draft(target, &format::WriteOptions::default())?;
    let format::ChecksumKind::Crc64Blocks { block_bytes } = draft.checksums() else {
        unreachable!("titan without compression has checksums of blocks");
    };
    let blocks = |placed: &format::PlacedRegion| {
        let dtype = target.tensors[placed.tensor as usize].spec.dtype;
        let byte_len = dtype.bytes(placed.region.elements()).unwrap_or(0);
        vec![0; byte_len.div_ceil(block_bytes) as usize]
    };
    let sums: Vec<ObjectSums> = draft
        .objects()
        .iter()
        .map(|object| ObjectSums {
            blocks: object.placed.iter().map(blocks).collect(),
            byte_len: object.byte_len,
            ..ObjectSums::default()
        })
        .collect();
    dcp::commit::complete(place, titan, &*draft, &sums)
}
