//! Every mesh to every mesh and back is the identity, and every rank needs its own objects only.

use crate::{convert, fixture, in_memory};
use dcp::convert::{ConvertOptions, Sharding};
use dcp::copy::CopyOptions;
use dcp::diff::{DiffOptions, diff};
use dcp::format::Reader;
use dcp::layout::Layout;
use dcp::model::FqnFilter;
use dcp::plan::{Degrees, Revealed, Want, mesh_of, place, reads, reveal, stage_of};
use std::sync::Arc;

const LAYERS: u32 = 2;

fn meshes() -> Vec<Degrees> {
    let mut meshes = Vec::new();
    for dp_shard in 1..=4 {
        for tp in 1..=2 {
            for pp in 1..=2 {
                meshes.push(Degrees { pp, dp_replicate: 1, dp_shard, cp: 1, tp });
            }
        }
    }
    meshes
}

fn reshard(source: &dyn Reader, degrees: Degrees) -> Arc<dyn Reader> {
    let copy = CopyOptions { threads: 2, ..CopyOptions::default() };
    let options = ConvertOptions { sharding: Sharding::Degrees(degrees), copy, ..ConvertOptions::default() };
    convert(source, "dcp", &in_memory(), &options)
}

#[track_caller]
fn assert_equal(a: &dyn Reader, b: &dyn Reader, what: &str) {
    let options = DiffOptions { filter: FqnFilter::default(), rtol: 0.0, atol: 0.0, threads: 2 };
    let report = diff(a, b, &options, &()).unwrap();
    assert!(report.differences.is_empty(), "{what}: {:?}", report.differences);
    assert_eq!(report.tensors, a.catalog().tensors.len());
}

#[test]
fn every_mesh_to_every_mesh_and_back() {
    let original = fixture("torch-2.11/llama_ws4_2d/ckpt");
    let on_mesh: Vec<_> =
        meshes().into_iter().map(|degrees| (degrees, reshard(&*original, degrees))).collect();
    for (from, source) in &on_mesh {
        assert_equal(&*original, &**source, &format!("{from:?}"));
        for (to, _) in &on_mesh {
            let there = reshard(&**source, *to);
            assert_equal(&*original, &*there, &format!("{from:?} -> {to:?}"));
            let back = reshard(&*there, *from);
            assert_equal(&**source, &*back, &format!("{from:?} -> {to:?} and back"));
        }
    }
}

#[test]
fn every_rank_needs_its_own_objects_only() {
    let original = fixture("torch-2.11/llama_ws4_2d/ckpt");
    let boxes: Vec<_> = original
        .catalog()
        .tensors
        .values()
        .map(|tensor| {
            let chunks = tensor.chunks.all(&tensor.spec.shape).unwrap();
            (&tensor.spec.shape[..], chunks.into_iter().map(|chunk| chunk.region).collect())
        })
        .collect();
    let revealed = reveal(&boxes);
    assert!(revealed.contains(&Revealed::TpDim(1)));
    for degrees in meshes() {
        let (mesh, resharded) = (Arc::new(mesh_of(degrees).unwrap()), reshard(&*original, degrees));
        let catalog = resharded.catalog();
        for rank in 0..mesh.ranks() {
            let mut sharded = Vec::new();
            for (index, (fqn, tensor)) in catalog.tensors.iter().enumerate() {
                let source = original.catalog().tensors.get_index_of(fqn).unwrap();
                let stage = stage_of(fqn.as_str(), LAYERS, degrees.pp);
                let placements = place(degrees, tensor.spec.shape.len(), stage, revealed[source]).to_vec();
                let layout = Layout::new(mesh.clone(), placements, tensor.spec.shape.clone()).unwrap();
                // A replicated tensor is written by one of the ranks that hold it; the others read it from there.
                let replicated = layout.replica_axes().any(|axis| mesh.axes()[axis].size > 1);
                if let Some(region) = layout.region(rank).filter(|region| !replicated && !region.is_empty()) {
                    sharded.push(Want { tensor: index as u32, region });
                }
            }
            let reads = reads(catalog, &sharded).unwrap();
            assert_eq!(reads.len(), sharded.len(), "{degrees:?} rank {rank}: one chunk per shard");
            for read in reads {
                let object = &catalog.objects[read.chunk.object as usize];
                assert_eq!(object.writer, Some(rank), "{degrees:?}: rank {rank} needs {}", object.key);
                assert_eq!(read.common, read.chunk.region);
            }
        }
    }
}
