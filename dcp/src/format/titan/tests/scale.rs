//! Llama 405B with AdamW state on 16,384 ranks, without data: the manifest stays small and lookups touch few writers.

use crate::format::titan::draft::table_of;
use crate::format::titan::index::Index;
use crate::format::titan::manifest::{Head, Manifest, WriterRow, decode, encode};
use crate::format::titan::reader::catalog;
use crate::format::titan::shard::WriterLayout;
use crate::format::titan::table::Table;
use crate::format::{Pieces, Target, TargetTensor};
use crate::layout::{Layout, Placement};
use crate::model::{DType, Fqn, PathPart, TensorSpec};
use crate::plan::{Degrees, Revealed, Want, choose_owners, mesh_of, place, reads, stage_of};
use crate::storage::Key;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::sync::Arc;

const LAYERS: u32 = 126;

/// Every parameter: name, shape, the dim that tensor parallelism cuts.
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

fn target(degrees: Degrees) -> Target {
    let mesh = Arc::new(mesh_of(degrees).unwrap());
    let (mut tensors, revealed): (Vec<_>, Vec<_>) = tensors().into_iter().unzip();
    let placements: Vec<(Vec<Placement>, u64)> = tensors
        .iter()
        .zip(revealed)
        .map(|(tensor, revealed)| {
            let stage = stage_of(tensor.fqn.as_str(), LAYERS, degrees.pp);
            let placements = place(degrees, tensor.spec.shape.len(), stage, revealed).to_vec();
            (placements, tensor.spec.bytes().unwrap())
        })
        .collect();
    let owners = choose_owners(&mesh, &placements);
    for ((tensor, (placements, _)), owner) in tensors.iter_mut().zip(placements).zip(owners) {
        tensor.pieces = Pieces::Placed { placements, owner };
    }
    let writers = mesh.ranks();
    Target { tensors, values: Vec::new(), mesh: Some(mesh), writers, step: Some(1000) }
}

const BLOCK_BYTES: u64 = 1 << 20;
const DATA_START: u64 = 131_072;

/// What the manifest would say of a writer.
fn row(table: &Table, writer: u32) -> Option<WriterRow> {
    let layout = WriterLayout::new(table, &table.pieces(writer).unwrap(), BLOCK_BYTES).unwrap().unwrap();
    let objects = layout.spans.iter().map(|span| (DATA_START + span.data_bytes, DATA_START)).collect();
    let part_crc64 = u64::from(writer).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some(WriterRow { part_byte_len: 5_000, part_crc64, objects }).filter(|_| !layout.spans.is_empty())
}

fn manifest(target: &Target) -> Vec<u8> {
    let table = table_of(target, 5_000_000_000).unwrap();
    let rows: Vec<_> = (0..target.writers).into_par_iter().map(|writer| row(&table, writer)).collect();
    let head = Head {
        attempt: "0123456789abcdef0123456789abcdef".to_owned(),
        generation: 0,
        producer: "test".to_owned(),
        step: target.step,
        mesh: target.mesh.clone(),
        compressed: false,
        block_bytes: BLOCK_BYTES,
    };
    encode(&head, &table, &[], &rows)
}

/// The boxes that a rank of another mesh wants.
fn wants(target: &Target, rank: u32) -> Vec<Want> {
    let wanted = |(index, tensor): (usize, &TargetTensor)| {
        let Pieces::Placed { placements, .. } = &tensor.pieces else { return None };
        let mesh = target.mesh.clone().unwrap();
        let layout = Layout::new(mesh, placements.clone(), tensor.spec.shape.clone()).unwrap();
        let region = layout.region(rank).filter(|region| !region.is_empty())?;
        Some(Want { tensor: index as u32, region })
    };
    target.tensors.iter().enumerate().filter_map(wanted).collect()
}

#[test]
fn llama_405b_on_16384_ranks() {
    let saved = target(Degrees { pp: 16, dp_replicate: 2, dp_shard: 64, cp: 1, tp: 8 });
    assert_eq!((saved.writers, saved.tensors.len()), (16_384, 4 * 1_137));
    let bytes = manifest(&saved);
    assert!(bytes.len() < 8_000_000, "{} bytes", bytes.len());
    let parsed: Manifest = decode("manifest", &bytes).unwrap().unwrap();
    let index = Arc::new(Index::new("manifest".to_owned(), parsed).unwrap());
    let catalog = catalog(&index, &Key::root()).unwrap();

    let resumed = target(Degrees { pp: 8, dp_replicate: 1, dp_shard: 128, cp: 1, tp: 8 });
    let wants = wants(&resumed, 4_321);
    let found = reads(&catalog, &wants).unwrap();
    let wanted: u64 = wants.iter().map(|want| want.region.elements()).sum();
    assert_eq!(found.iter().map(|read| read.common.elements()).sum::<u64>(), wanted);
    let mut writers: Vec<_> =
        found.iter().map(|read| catalog.objects[read.chunk.object as usize].writer).collect();
    writers.sort_unstable();
    writers.dedup();
    assert!(writers.len() < 200, "{} writers", writers.len());
}
