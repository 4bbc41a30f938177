//! Small models of every family that transformers and diffusers wrote (`fixtures/models`): in, out and back, bit for bit.
//!
//! What a fixture's native.safetensors holds was loaded by TorchTitan's own modules when it was made, and its outputs
//! compared with those of the Hugging Face model; `expected.json` has the distance. So equal weights mean equal outputs.

use crate::{convert as write, in_memory, open_path};
use convert::Error;
use convert::dequantised::dequantised;
use convert::dialect::{DIALECTS, Dialect, by_name as dialect_named};
use convert::error::Problem;
use convert::exchange::{check_tied, inward, outward};
use convert::families::{by_name, of_config};
use convert::seed::Seed;
use convert::spec::Model;
use dcp::convert::{ConvertOptions, Sharding};
use dcp::copy::TensorReader;
use dcp::diff::{DiffOptions, diff};
use dcp::format::Reader;
use dcp::layout::Region;
use dcp::model::{DType, FqnFilter};
use dcp::plan::Degrees;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Fixtures that go out as they came in.
const AS_THEY_CAME: [&str; 9] = [
    "llama3",
    "llama3_tied",
    "llama4",
    "deepseek_v3",
    "deepseek_v2",
    "gpt_oss",
    "qwen3",
    "qwen3_moe",
    "flux",
];
/// Fixtures that go out in the one form that everybody reads.
const IN_OTHER_FORMS: [&str; 3] = ["deepseek_v3_fp8", "gpt_oss_mxfp4", "qwen3_moe_fused"];
/// Fixtures of which a part goes in and comes out.
const IN_PART: [&str; 1] = ["llama4_multimodal"];

/// Every fixture.
pub(crate) fn names() -> Vec<&'static str> {
    AS_THEY_CAME.iter().chain(&IN_OTHER_FORMS).chain(&IN_PART).copied().collect()
}

pub(crate) fn folder(name: &str) -> PathBuf {
    e2e::fixtures().join("models").join(name)
}

pub(crate) fn model(name: &str) -> Model {
    let path = folder(name).join("hf/config.json");
    of_config("config.json", &std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) fn outside(name: &str) -> Arc<dyn Reader> {
    dequantised(open_path(&folder(name).join("hf"))).unwrap().0
}

pub(crate) fn native(name: &str) -> Arc<dyn Reader> {
    open_path(&folder(name).join("native.safetensors"))
}

#[track_caller]
pub(crate) fn assert_equal(found: &dyn Reader, expected: &dyn Reader) {
    let options = DiffOptions { filter: FqnFilter::default(), rtol: 0.0, atol: 0.0, threads: 2 };
    let report = diff(found, expected, &options, &()).unwrap();
    assert!(report.differences.is_empty() && report.tensors > 0, "{:?}", report.differences);
}

pub(crate) fn degrees(pp: u32, dp_shard: u32, tp: u32) -> Sharding {
    Sharding::Degrees(Degrees { pp, dp_replicate: 1, dp_shard, cp: 1, tp })
}

/// Writes a view as a DCP checkpoint, cut as the model says.
pub(crate) fn train_on(
    view: &dyn Reader,
    model: &Model,
    sharding: Sharding,
    format: &str,
) -> Arc<dyn Reader> {
    let tp_dims = Some(model.tp_dims(view.catalog().tensors.keys()));
    let keep_dtype = model.keep_dtype(view.catalog().tensors.keys());
    let options = ConvertOptions { sharding, tp_dims, keep_dtype, ..ConvertOptions::default() };
    write(view, format, &in_memory(), &options)
}

#[test]
fn every_fixture_is_tried() {
    let found = std::fs::read_dir(e2e::fixtures().join("models")).unwrap();
    let mut found: Vec<_> = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut tried = names();
    found.sort();
    tried.sort_unstable();
    assert_eq!(found, tried);
}

#[test]
fn in_and_out_again_is_the_same_however_it_is_cut_between() {
    for name in AS_THEY_CAME {
        let (model, source) = (model(name), outside(name));
        for (dialect, sharding, format) in [
            (&DIALECTS[0], Sharding::Whole, "dcp"),
            (&DIALECTS[1], degrees(1, 3, 1), "dcp"),
            (&DIALECTS[0], degrees(2, 2, 2), "titan"),
            (&DIALECTS[0], degrees(1, 5, 3), "titan"),
        ] {
            let (view, _) = inward(&model, source.clone(), dialect).unwrap();
            let trained = train_on(&view, &model, sharding, format);
            let (back, report) = outward(&model, trained.clone()).unwrap();
            let is_told = model.params.iter().any(|param| dialect.name_of(&param.fqn) != param.fqn);
            assert_eq!(report.dialect, if is_told { dialect.name } else { DIALECTS[0].name }, "{name}");
            check_tied(&*trained, &model, &report).unwrap();
            let options = ConvertOptions { sharding: Sharding::Whole, ..ConvertOptions::default() };
            let out = write(&back, "safetensors", &in_memory(), &options);
            assert_equal(&*out, &*source);
        }
    }
}

#[test]
fn what_comes_in_is_what_torchtitan_computes_with() {
    for name in names() {
        let (view, _) = inward(&model(name), outside(name), &DIALECTS[0]).unwrap();
        assert_equal(&view, &*native(name));
    }
}

#[test]
fn experts_go_out_one_by_one_however_they_came_in() {
    let (back, _) = outward(&model("qwen3_moe_fused"), native("qwen3_moe_fused")).unwrap();
    assert_equal(&back, &*outside("qwen3_moe"));
}

/// gpt-oss: what MXFP4 stands for comes in as computed with, and goes out with rows and columns exchanged.
#[test]
fn mxfp4_is_unpacked_and_goes_out_as_bfloat16() {
    let native = native("gpt_oss_mxfp4");
    let (back, _) = outward(&model("gpt_oss_mxfp4"), native.clone()).unwrap();
    let read = |reader: &dyn Reader, fqn: &str, at: [u64; 3]| {
        let mut bytes = [0; 2];
        let tensor = TensorReader::new(reader, fqn).unwrap();
        assert_eq!(tensor.spec().dtype, DType::BF16);
        tensor.read(&Region::new(at, [1; 3]), &mut bytes).unwrap();
        bytes
    };
    // Square, so that no shape would tell.
    for (row, column) in [(0, 1), (7, 40), (63, 2)] {
        let ours = read(&*native, "layers.1.moe.experts.mlp2_weight", [2, row, column]);
        let theirs = read(&back, "model.layers.1.mlp.experts.down_proj", [2, column, row]);
        assert_eq!(ours, theirs);
    }
}

#[test]
fn biases_of_routers_stay_in_float32() {
    let (model, source) = (model("deepseek_v3"), outside("deepseek_v3"));
    let (view, _) = inward(&model, source, &DIALECTS[0]).unwrap();
    let keep_dtype = model.keep_dtype(view.catalog().tensors.keys());
    let options = ConvertOptions { dtype: Some(DType::BF16), keep_dtype, ..ConvertOptions::default() };
    let written = write(&view, "titan", &in_memory(), &options);
    let types: BTreeMap<&str, DType> =
        written.catalog().tensors.iter().map(|(fqn, tensor)| (fqn.as_str(), tensor.spec.dtype)).collect();
    assert_eq!(types["layers.1.moe.expert_bias"], DType::F32);
    assert_eq!(types["layers.1.moe.router.gate.weight"], DType::BF16);
    let (back, _) = outward(&model, written.clone()).unwrap();
    assert!(
        model
            .keep_dtype(back.catalog().tensors.keys())
            .iter()
            .any(|it| it.as_str().ends_with("e_score_correction_bias"))
    );
}

/// The bytes of a tensor, whole.
pub(crate) fn bytes_of(reader: &dyn Reader, fqn: &str) -> Vec<u8> {
    let tensor = TensorReader::new(reader, fqn).unwrap();
    let mut bytes = vec![0; tensor.spec().bytes().unwrap() as usize];
    tensor.read(&Region::whole(&tensor.spec().shape), &mut bytes).unwrap();
    bytes
}

/// A native tensor goes out under another name, as it is.
#[track_caller]
fn assert_goes_out(name: &str, pairs: &[(&str, &str)]) {
    let native = native(name);
    let (out, _) = outward(&model(name), native.clone()).unwrap();
    for (ours, theirs) in pairs {
        assert!(bytes_of(&*native, ours) == bytes_of(&out, theirs), "{ours} is not {theirs}");
    }
}

/// TorchTitan's own adapter drops them.
#[test]
fn dense_layers_of_llama4_go_out() {
    assert_goes_out(
        "llama4",
        &[
            ("layers.0.feed_forward.w1.weight", "model.layers.0.feed_forward.gate_proj.weight"),
            ("layers.2.feed_forward.w2.weight", "model.layers.2.feed_forward.down_proj.weight"),
            ("layers.2.feed_forward.w3.weight", "model.layers.2.feed_forward.up_proj.weight"),
        ],
    );
}

#[test]
fn biases_go_out() {
    assert_goes_out(
        "gpt_oss",
        &[
            ("layers.1.attention.wk.bias", "model.layers.1.self_attn.k_proj.bias"),
            ("layers.1.attention.wo.bias", "model.layers.1.self_attn.o_proj.bias"),
            ("layers.0.moe.router.gate.bias", "model.layers.0.mlp.router.bias"),
            ("layers.0.moe.experts.mlp1_bias", "model.layers.0.mlp.experts.gate_up_proj_bias"),
            ("layers.0.moe.experts.mlp2_bias", "model.layers.0.mlp.experts.down_proj_bias"),
        ],
    );
}

#[test]
fn sinks_go_out() {
    assert_goes_out("gpt_oss", &[("layers.1.attention.sinks", "model.layers.1.self_attn.sinks")]);
}

/// The keys have heads of their own number: 2 of 16 rows, where there are 4 of queries.
#[test]
fn rows_of_keys_move_within_the_heads_of_keys() {
    let native = native("llama3");
    let (out, _) = outward(&model("llama3"), native.clone()).unwrap();
    let (ours, theirs) = (
        bytes_of(&*native, "layers.1.attention.wk.weight"),
        bytes_of(&out, "model.layers.1.self_attn.k_proj.weight"),
    );
    const ROW_BYTES: usize = 64 * 4;
    for (head, half, pair) in (0..2).flat_map(|a| (0..2).flat_map(move |p| (0..8).map(move |i| (a, p, i)))) {
        let (from, to) = (head * 16 + 2 * pair + half, head * 16 + half * 8 + pair);
        let row = |bytes: &[u8], row: usize| bytes[row * ROW_BYTES..(row + 1) * ROW_BYTES].to_vec();
        assert!(row(&ours, from) == row(&theirs, to), "row {from} is not at {to}");
    }
}

/// All that does not fit, at once: missing, unknown, of another shape.
#[test]
fn names_that_do_not_fit_are_all_told() {
    let model = model("llama3");
    let filter =
        FqnFilter::new(&[], &["layers.1.attention.w[ko].weight".to_owned(), "norm.weight".to_owned()])
            .unwrap();
    let options = ConvertOptions { filter, ..ConvertOptions::default() };
    let lacking = write(&*native("llama3"), "titan", &in_memory(), &options);
    let missing: Vec<Problem> =
        ["layers.1.attention.wk.weight", "layers.1.attention.wo.weight", "norm.weight"]
            .map(|name| Problem::Missing(name.to_owned()))
            .to_vec();
    let Err(Error::WrongNames { problems, .. }) = outward(&model, lacking) else { panic!("it does not fit") };
    assert_eq!(problems, missing);
    let Err(error) = outward(&model, native("qwen3")) else { panic!("it is another model") };
    let Error::WrongNames { problems, .. } = &error else { panic!("{error}") };
    assert!(
        problems.iter().any(|it| matches!(it, Problem::Unmatched(name) if name.ends_with("q_norm.weight")))
    );
    assert!(problems.iter().any(|it| matches!(it, Problem::Shape { found, .. } if *found == [128, 64])));
    assert!(error.to_string().contains("layers.0.attention.q_norm.weight: not of this model"), "{error}");
    let Err(Error::WrongNames { problems, .. }) = inward(&model, outside("llama4"), &DIALECTS[0]) else {
        panic!("it is another model")
    };
    assert!(problems.len() > 10, "{problems:?}");
}

/// Heads that were trained apart from the embedding are no tied model.
#[test]
fn a_head_of_its_own_is_not_dropped() {
    let model = model("llama3_tied");
    let untied = native("llama3");
    let (_, report) = outward(&model, untied.clone()).unwrap();
    let error = check_tied(&*untied, &model, &report).unwrap_err();
    assert!(matches!(error, Error::NotTied { .. }), "{error}");
}

#[test]
fn a_seed_is_the_same_however_it_is_cut() {
    for (name, count) in [("llama3:debugmodel", 57), ("llama4:debugmodel", 72)] {
        let model = by_name(name).unwrap();
        let new: &Dialect = dialect_named("torchtitan-0.2").unwrap();
        let seed = Seed::new(&model, 7, |fqn| new.name_of(fqn));
        assert_eq!(seed.catalog().tensors.len(), count, "{name}");
        let whole = train_on(&seed, &model, Sharding::Whole, "titan");
        for sharding in [degrees(1, 4, 1), degrees(1, 1, 4), degrees(2, 2, 1)] {
            assert_equal(&*train_on(&seed, &model, sharding, "dcp"), &*whole);
        }
        let other = Seed::new(&model, 8, |fqn| new.name_of(fqn));
        let options = DiffOptions { filter: FqnFilter::default(), rtol: 0.0, atol: 0.0, threads: 2 };
        assert!(!diff(&other, &*whole, &options, &()).unwrap().differences.is_empty());
    }
}
