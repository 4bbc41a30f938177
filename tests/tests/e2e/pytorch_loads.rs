//! The real PyTorch loads what we write, bit for bit.

use crate::{convert, fixture, place};
use dcp::convert::{ConvertOptions, Sharding};
use dcp::coordinate::Alone;
use dcp::copy::TensorReader;
use dcp::format::WriteOptions;
use dcp::layout::Region;
use dcp::model::{Fqn, Tensor, Value};
use dcp::plan::Degrees;
use dcp::save::{HostMemory, SaveOptions, Saver, State, StateTensor, StateValue};
use std::path::Path;
use std::sync::Arc;

const LLAMA: &str = "torch-2.11/llama_ws4_2d";

/// `tests/peers/load.py MODE PATH EXPECTED` prints how many tensors are equal, or fails.
#[track_caller]
fn loads(version: &str, mode: &str, path: &Path, expected: &Path) {
    let Some(peer) = e2e::peer(version) else { return };
    let args = [mode.as_ref(), path.as_os_str(), expected.as_os_str()];
    let said = peer.run_script("tests/peers/load.py".as_ref(), args).unwrap();
    let count: usize = said.trim().strip_prefix("equal ").and_then(|count| count.parse().ok()).unwrap_or(0);
    assert!(count > 0, "{said}");
}

fn degrees(dp_shard: u32, tp: u32) -> Degrees {
    Degrees { pp: 1, dp_replicate: 1, dp_shard, cp: 1, tp }
}

#[track_caller]
fn resharded_dcp_loads(version: &str, mode: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt");
    let options = ConvertOptions { sharding: Sharding::Degrees(degrees(3, 2)), ..ConvertOptions::default() };
    convert(&*fixture(&format!("{LLAMA}/ckpt")), "dcp", &place(&path), &options);
    loads(version, mode, &path, &e2e::fixtures().join(LLAMA).join("expected.safetensors"));
}

#[test]
fn torch_2_4_loads_our_dcp() {
    resharded_dcp_loads("2.4", "dcp");
}

#[test]
fn torch_2_11_loads_our_dcp() {
    resharded_dcp_loads("2.11", "dcp");
}

#[test]
fn torch_2_15_loads_our_dcp() {
    resharded_dcp_loads("2.15", "dcp");
}

#[test]
fn torch_2_11_loads_our_dcp_into_another_sharding_on_two_ranks() {
    resharded_dcp_loads("2.11", "dcp-resharded");
}

/// A trainer's save in PyTorch's format, whose files are below a folder of the attempt.
fn saved_dcp_loads(version: &str) {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture(&format!("{LLAMA}/ckpt"));
    let tensor = |(fqn, tensor): (&Fqn, &Tensor)| {
        let mut bytes = vec![0; tensor.spec.bytes().unwrap() as usize];
        let reader = TensorReader::new(&*source, fqn.as_str()).unwrap();
        reader.read(&Region::whole(&tensor.spec.shape), &mut bytes).unwrap();
        let (fqn, spec, path) = (fqn.clone(), tensor.spec.clone(), tensor.path.clone());
        let local = Some(Arc::new(HostMemory::new(bytes)) as _);
        StateTensor { fqn, spec, path, placements: Vec::new(), local }
    };
    let tensors = source.catalog().tensors.iter().map(tensor).collect();
    let value = StateValue { fqn: "train_state".into(), path: Vec::new(), value: Value::Int(7) };
    let options = SaveOptions::new(dcp::format::by_name("dcp").unwrap());
    let mut saver = Saver::new(place(folder.path()), options, Arc::new(Alone)).unwrap();
    saver.save(7, State { mesh: None, tensors, values: vec![value] }).unwrap().wait_done().unwrap();
    let expected = e2e::fixtures().join(LLAMA).join("expected.safetensors");
    loads(version, "dcp", &folder.path().join("step-7"), &expected);
}

#[test]
fn torch_2_4_loads_what_a_trainer_saved() {
    saved_dcp_loads("2.4");
}

#[test]
fn torch_2_11_loads_what_a_trainer_saved() {
    saved_dcp_loads("2.11");
}

#[test]
fn torch_2_15_loads_what_a_trainer_saved() {
    saved_dcp_loads("2.15");
}

#[test]
fn torch_2_11_loads_every_dtype_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt");
    convert(&*fixture("torch-2.11/ws1_dtypes/ckpt"), "dcp", &place(&path), &ConvertOptions::default());
    loads("2.11", "dcp", &path, &e2e::fixtures().join("torch-2.11/ws1_dtypes/expected.safetensors"));
}

#[test]
fn torch_2_11_loads_our_pt_with_weights_only() {
    let folder = tempfile::tempdir().unwrap();
    let write = WriteOptions { file_name: Some("model.pt".to_owned()), ..WriteOptions::default() };
    let options = ConvertOptions { sharding: Sharding::Whole, write, ..ConvertOptions::default() };
    convert(&*fixture(&format!("{LLAMA}/ckpt")), "pt", &place(folder.path()), &options);
    let expected = e2e::fixtures().join(LLAMA).join("expected.safetensors");
    loads("2.11", "pt", &folder.path().join("model.pt"), &expected);
}

#[test]
fn safetensors_loads_our_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let options =
        ConvertOptions { sharding: Sharding::Whole, drop_values: true, ..ConvertOptions::default() };
    convert(&*fixture(&format!("{LLAMA}/ckpt")), "safetensors", &place(&path), &options);
    let expected = e2e::fixtures().join(LLAMA).join("expected.safetensors");
    loads("2.11", "safetensors", &path.join("model.safetensors"), &expected);
}
