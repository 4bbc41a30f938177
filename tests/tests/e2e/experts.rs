//! Expert parallelism: cut as PyTorch cuts, and loaded by it.

use crate::models::{folder, model, outside};
use crate::{convert as write, in_memory, place};
use convert::dialect::DIALECTS;
use convert::exchange::inward;
use dcp::convert::{ConvertOptions, ExpertCut, Sharding};
use dcp::diff::{DiffOptions, diff};
use dcp::format::Reader;
use dcp::model::FqnFilter;
use dcp::plan::{Degrees, ExpertDegrees, ExpertTensor, cut_experts};
use std::collections::{BTreeMap, BTreeSet};

type Box = (Vec<u64>, Vec<u64>);

fn degrees(dp_shard: u32, cp: u32, tp: u32) -> Degrees {
    Degrees { pp: 1, dp_replicate: 1, dp_shard, cp, tp }
}

/// `tests/peers/experts.py` asks FSDP2 and DTensor.
#[test]
fn experts_lie_where_torch_2_11_puts_them() {
    let Some(peer) = e2e::peer("2.11") else { return };
    let cases: &[([u32; 5], &[u64], Option<u32>)] = &[
        ([4, 1, 1, 2, 1], &[4, 6, 2], Some(1)),
        ([4, 1, 1, 2, 1], &[2, 6, 2], Some(1)),
        ([2, 2, 1, 4, 1], &[8, 4, 2], Some(2)),
        ([1, 1, 2, 2, 1], &[2, 6, 2], Some(1)),
        ([4, 1, 2, 4, 1], &[12, 2, 2], Some(1)),
        ([2, 1, 2, 2, 2], &[2, 6, 2], Some(1)),
        ([4, 1, 2, 2, 2], &[2, 4, 2], Some(1)),
        ([4, 1, 2, 2, 2], &[2, 4, 6], Some(2)),
        ([4, 1, 2, 2, 2], &[2, 4], None),
        ([3, 1, 2, 3, 2], &[6, 5], None),
        ([4, 1, 1, 2, 1], &[6, 3, 1], Some(1)),
    ];
    let words = |([dp_shard, cp, tp, ep, etp], shape, tp_dim): &([u32; 5], &[u64], Option<u32>)| {
        let shape: Vec<_> = shape.iter().map(u64::to_string).collect();
        let tp_dim = tp_dim.map_or("-".to_owned(), |dim| dim.to_string());
        format!("{dp_shard},{cp},{tp},{ep},{etp},{},{tp_dim}", shape.join("x"))
    };
    let said = peer.run_script("tests/peers/experts.py".as_ref(), cases.iter().map(words)).unwrap();
    let mut theirs: BTreeMap<(usize, u32), Box> = BTreeMap::new();
    for line in said.lines() {
        let [number, rank, start, extent] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let sizes = |text: &str| text.split(',').map(|size| size.parse().unwrap()).collect::<Vec<u64>>();
        theirs.insert((number.parse().unwrap(), rank.parse().unwrap()), (sizes(start), sizes(extent)));
    }
    for (number, &([dp_shard, cp, tp, ep, etp], shape, tp_dim)) in cases.iter().enumerate() {
        let tensor = ExpertTensor { shape, tp_dim, stage: 0, byte_len: 4 };
        let ours = cut_experts(degrees(dp_shard, cp, tp), ExpertDegrees { ep, etp }, &[tensor]).unwrap();
        let boxes =
            ours[0].iter().map(|(rank, region)| (*rank, (region.start.to_vec(), region.extent.to_vec())));
        let ours: BTreeMap<u32, Box> = boxes.collect();
        for (rank, found) in &ours {
            assert_eq!(found, &theirs[&(number, *rank)], "case {number}, rank {rank}");
        }
        // An empty part is no chunk.
        let of_case =
            theirs.iter().filter(|((case, _), (_, extent))| *case == number && !extent.contains(&0));
        let theirs: BTreeSet<&Box> = of_case.map(|(_, found)| found).collect();
        assert_eq!(ours.values().collect::<BTreeSet<_>>(), theirs, "case {number}");
    }
}

/// A model of eight experts, cut in each way.
fn cut(name: &str, degrees: Degrees, experts: ExpertDegrees, format: &str, to: &dcp::storage::Place) {
    let model = model(name);
    let (view, _) = inward(&model, outside(name), &DIALECTS[0]).unwrap();
    let names = || view.catalog().tensors.keys();
    let tensors = model.expert_names(names());
    assert!(!tensors.is_empty());
    let options = ConvertOptions {
        sharding: Sharding::Degrees(degrees),
        tp_dims: Some(model.tp_dims(names())),
        experts: Some(ExpertCut { degrees: experts, tensors: tensors.clone() }),
        ..ConvertOptions::default()
    };
    let written = write(&view, format, to, &options);
    let same = DiffOptions { filter: FqnFilter::default(), rtol: 0.0, atol: 0.0, threads: 2 };
    assert!(diff(&*written, &view, &same, &()).unwrap().differences.is_empty());
    for fqn in &tensors {
        let tensor = &written.catalog().tensors[fqn];
        let starts: BTreeSet<u64> = tensor
            .chunks
            .all(&tensor.spec.shape)
            .unwrap()
            .iter()
            .map(|chunk| chunk.region.start[0])
            .collect();
        assert!(starts.len() as u32 >= experts.ep, "{fqn}: {starts:?}");
    }
}

#[test]
fn experts_are_the_same_however_they_are_cut() {
    for name in ["deepseek_v3", "qwen3_moe"] {
        for (degrees, ep, etp) in [
            (degrees(2, 1, 1), 2, 1),
            (degrees(4, 1, 2), 8, 1),
            (degrees(2, 2, 2), 2, 2),
            (degrees(8, 1, 2), 2, 2),
            (Degrees { pp: 2, dp_replicate: 2, dp_shard: 4, cp: 1, tp: 1 }, 4, 1),
        ] {
            cut(name, degrees, ExpertDegrees { ep, etp }, "dcp", &in_memory());
            cut(name, degrees, ExpertDegrees { ep, etp }, "titan", &in_memory());
        }
    }
}

#[test]
fn torch_2_11_loads_experts_that_were_cut() {
    let Some(peer) = e2e::peer("2.11") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("ckpt");
    cut("deepseek_v3", degrees(8, 1, 2), ExpertDegrees { ep: 2, etp: 2 }, "dcp", &place(&path));
    let expected = folder("deepseek_v3").join("native.safetensors");
    for mode in ["dcp", "dcp-resharded"] {
        let args = [mode.as_ref(), path.as_os_str(), expected.as_os_str()];
        let said = peer.run_script("tests/peers/load.py".as_ref(), args).unwrap();
        assert_eq!(said.trim(), "equal 49", "{mode}");
    }
}
