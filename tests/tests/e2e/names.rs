//! Checkpoints under names that others gave them, made up from fixtures by plain formulas on whole tensors.

use crate::models::{assert_equal, bytes_of, folder, model, native, outside};
use crate::{convert as write, in_memory, open_path};
use convert::dialect::{DIALECTS, by_name as dialect_named};
use convert::error::{Error, Problem};
use convert::exchange::{inward, others_of, outward};
use convert::families::of_config;
use convert::joined::Joined;
use dcp::convert::{ConvertOptions, Sharding};
use dcp::format::Reader;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// Name, shape, and elements in float32.
type Whole = (String, Vec<u64>, Vec<u8>);

fn whole(reader: &dyn Reader) -> Vec<Whole> {
    let tensors = reader.catalog().tensors.iter();
    tensors
        .map(|(fqn, it)| (fqn.to_string(), it.spec.shape.clone(), bytes_of(reader, fqn.as_str())))
        .collect()
}

/// A checkpoint of these tensors: a safetensors file, written out here.
fn file_of(folder: &Path, tensors: &[Whole]) -> Arc<dyn Reader> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets }));
    }
    let mut header = serde_json::to_vec(&Value::Object(header)).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let path = folder.join("model.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
    open_path(&path)
}

/// What `from-hf` makes of tensors that others named is what it makes of the original, and what has no home is told.
#[track_caller]
fn assert_comes_in(name: &str, tensors: &[Whole], spelling: &str, left_out: &[&str]) {
    let temporary = tempfile::tempdir().unwrap();
    let (view, report) = inward(
        &model(name),
        file_of(temporary.path(), tensors),
        dialect_named("torchtitan-2026.08").unwrap(),
    )
    .unwrap();
    let (expected, _) =
        inward(&model(name), outside(name), dialect_named("torchtitan-2026.08").unwrap()).unwrap();
    assert_equal(&view, &expected);
    assert_eq!(report.spelling, Some(spelling));
    let found: Vec<&str> = report.left_out.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(found, left_out);
}

#[test]
fn llamas_of_meta_come_in() {
    for name in ["llama3", "llama3_tied"] {
        let mut tensors = whole(&*native(name));
        tensors.push(("rope.freqs".to_owned(), vec![8], vec![0; 32]));
        assert_comes_in(name, &tensors, "Meta (consolidated.00.pth)", &["rope.freqs"]);
        // A head that is one with the embedding may be there once.
        if name == "llama3_tied" {
            tensors.retain(|(name, ..)| name != "output.weight");
            assert_comes_in(name, &tensors, "Meta (consolidated.00.pth)", &["rope.freqs"]);
        }
    }
}

#[test]
fn llamas_of_torchtune_come_in() {
    let renames = [
        (".attention.wq.", ".attn.q_proj."),
        (".attention.wk.", ".attn.k_proj."),
        (".attention.wv.", ".attn.v_proj."),
        (".attention.wo.", ".attn.output_proj."),
        (".feed_forward.", ".mlp."),
        (".attention_norm.weight", ".sa_norm.scale"),
        (".ffn_norm.weight", ".mlp_norm.scale"),
    ];
    let mut tensors = whole(&*native("llama3"));
    for (name, ..) in &mut tensors {
        *name = renames.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
        if name == "norm.weight" {
            *name = "norm.scale".to_owned();
        }
    }
    assert_comes_in("llama3", &tensors, "torchtune", &[]);
}

#[test]
fn flux_of_its_makers_comes_in() {
    let mut tensors = whole(&*native("flux"));
    for (name, ..) in &mut tensors {
        if name.contains("query_norm.") || name.contains("key_norm.") {
            *name = name.replace(".weight", ".scale");
        }
    }
    tensors.push(("guidance_in.in_layer.bias".to_owned(), vec![32], vec![0; 128]));
    assert_comes_in("flux", &tensors, "Black Forest Labs", &["guidance_in.in_layer.bias"]);
}

#[test]
fn what_others_lack_is_told() {
    let temporary = tempfile::tempdir().unwrap();
    let mut tensors = whole(&*native("llama3"));
    tensors.retain(|(name, ..)| name != "layers.1.attention.wk.weight");
    // One of two ranks' halves.
    let (_, shape, bytes) = tensors.iter_mut().find(|(name, ..)| name == "norm.weight").unwrap();
    (*shape, *bytes) = (vec![32], vec![0; 128]);
    let found = inward(&model("llama3"), file_of(temporary.path(), &tensors), &DIALECTS[0]);
    let Err(Error::WrongNames { problems, .. }) = found else { panic!("it does not fit") };
    let shape = Problem::Shape { name: "norm.weight".to_owned(), found: vec![32], expected: vec![64] };
    assert_eq!(problems, [Problem::Missing("layers.1.attention.wk.weight".to_owned()), shape]);
}

/// Names of the summer of 2026, and some of others between them.
#[test]
fn names_of_versions_between_go_out() {
    let mut tensors = whole(&*native("qwen3_moe"));
    for (name, ..) in &mut tensors {
        *name = name.replace(".attention.wq.", ".attention.qkv_linear.wq.");
        *name = name.replace(".attention.wk.", ".attention.qkv_linear.wk.");
        *name = name.replace(".attention.wv.", ".attention.qkv_linear.wv.");
        *name =
            name.replace(".moe.experts.w2", ".moe.experts.w2_EDF").replace("expert_bias", "expert_bias_E");
        for matrix in ["w1", "w3"] {
            *name = name.replace(&format!(".moe.experts.{matrix}"), &format!(".moe.experts.{matrix}_EFD"));
        }
        *name = name.replace("output.weight", "lm_head.weight");
    }
    let temporary = tempfile::tempdir().unwrap();
    let (view, report) = outward(&model("qwen3_moe"), file_of(temporary.path(), &tensors)).unwrap();
    assert_equal(&view, &*outside("qwen3_moe"));
    assert_eq!((report.dialect, report.respelled.len()), ("torchtitan-2026.06", 0));
    // One of an older version among them is found, and told.
    for (name, ..) in &mut tensors {
        *name = name.replace("lm_head.weight", "output.weight");
    }
    let (view, report) = outward(&model("qwen3_moe"), file_of(temporary.path(), &tensors)).unwrap();
    assert_equal(&view, &*outside("qwen3_moe"));
    assert_eq!(report.respelled, ["output.weight"]);
    assert!(dialect_named("torchtitan-2026.06").is_none(), "it is read alone");
}

/// For every head of keys: the heads of queries that share it, its keys, its values; a row at a time.
fn fuse(tensors: &mut Vec<Whole>, attention: &str, kind: &str, kv_heads: usize, head_dim: usize) {
    let mut take = |name: &str| {
        let at = tensors.iter().position(|(own, ..)| *own == format!("{attention}.{name}.{kind}")).unwrap();
        tensors.remove(at)
    };
    let (queries, keys, values) = (take("wq"), take("wk"), take("wv"));
    let row_bytes = queries.2.len() / queries.1[0] as usize;
    let shared = queries.1[0] as usize / (kv_heads * head_dim);
    let mut fused = Vec::new();
    for group in 0..kv_heads {
        for (part, heads) in [(&queries, shared), (&keys, 1), (&values, 1)] {
            for row in 0..heads * head_dim {
                let row = group * heads * head_dim + row;
                fused.extend_from_slice(&part.2[row * row_bytes..(row + 1) * row_bytes]);
            }
        }
    }
    let mut shape = queries.1.clone();
    shape[0] = ((shared + 2) * kv_heads * head_dim) as u64;
    tensors.push((format!("{attention}.qkv_linear.wqkv.{kind}"), shape, fused));
}

#[test]
fn queries_keys_and_values_together_go_out_apart() {
    for (name, kinds, layers, head_dim) in [
        ("llama3", &["weight"][..], 2, 16),
        ("gpt_oss", &["weight", "bias"], 2, 16),
        ("qwen3", &["weight"], 2, 32),
        ("llama4", &["weight"], 4, 16),
    ] {
        let mut tensors = whole(&*native(name));
        for layer in 0..layers {
            for kind in kinds {
                fuse(&mut tensors, &format!("layers.{layer}.attention"), kind, 2, head_dim);
            }
        }
        let temporary = tempfile::tempdir().unwrap();
        let (view, report) = outward(&model(name), file_of(temporary.path(), &tensors)).unwrap();
        assert_equal(&view, &*outside(name));
        assert_eq!(report.fused, layers * kinds.len(), "{name}");
        let last = tensors.len() - 1;
        tensors[last].1.push(1);
        let found = outward(&model(name), file_of(temporary.path(), &tensors));
        let Err(Error::WrongNames { problems, .. }) = found else { panic!("it is no such tensor") };
        assert!(matches!(&problems[..], [Problem::Shape { .. }]), "{problems:?}");
    }
}

/// A layer that predicts one token more, of a config that says so.
#[test]
fn layers_for_more_tokens_are_left_out_and_told() {
    let json = std::fs::read_to_string(folder("deepseek_v3").join("hf/config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&json).unwrap();
    config.insert("num_nextn_predict_layers".to_owned(), json!(1));
    let with_one = of_config("config.json", &Value::Object(config).to_string()).unwrap();
    let mut tensors = whole(&*outside("deepseek_v3"));
    let extra = [
        "enorm.weight",
        "hnorm.weight",
        "shared_head.norm.weight",
        "eh_proj.weight",
        "self_attn.o_proj.weight",
    ];
    let names: Vec<String> = extra.iter().map(|name| format!("model.layers.3.{name}")).collect();
    tensors.extend(names.iter().map(|name| (name.clone(), vec![2], vec![0; 8])));
    let temporary = tempfile::tempdir().unwrap();
    let source = file_of(temporary.path(), &tensors);
    let (view, report) = inward(&with_one, source.clone(), &DIALECTS[0]).unwrap();
    let mut left_out: Vec<&str> = report.left_out.iter().map(|(name, _)| name.as_str()).collect();
    left_out.sort_unstable();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(left_out, names);
    assert_equal(&view, &*native("deepseek_v3"));
    assert_eq!(with_one.config["num_nextn_predict_layers"], 0);
    // One that says nothing of them has names that are not its own.
    let Err(Error::WrongNames { problems, .. }) = inward(&model("deepseek_v3"), source, &DIALECTS[0]) else {
        panic!("they are not of this model")
    };
    assert_eq!(problems.len(), extra.len());

    let mut tensors = whole(&*native("deepseek_v3"));
    tensors.push(("mtp_layers.0.eh_proj.weight".to_owned(), vec![2], vec![0; 8]));
    let (_, report) = outward(&model("deepseek_v3"), file_of(temporary.path(), &tensors)).unwrap();
    assert!(report.left_out.iter().any(|(name, _)| name == "mtp_layers.0.eh_proj.weight"));
}

/// A model that sees: the text comes in, and goes out beside the rest or alone.
#[test]
fn a_text_goes_out_beside_the_rest_of_its_model() {
    const NAME: &str = "llama4_multimodal";
    let (model, base) = (model(NAME), outside(NAME));
    let (view, report) = inward(&model, base.clone(), &DIALECTS[0]).unwrap();
    let others = others_of(&model, base.catalog()).unwrap();
    assert!(others.iter().any(|fqn| fqn.as_str().starts_with("vision_model.")));
    assert!(others.iter().any(|fqn| fqn.as_str().starts_with("multi_modal_projector.")));
    assert_eq!(report.left_out.len(), others.len());
    let trained = write(&view, "dcp", &in_memory(), &ConvertOptions::default());
    let (back, _) = outward(&model, trained.clone()).unwrap();
    let joined = Joined::new(back, base.clone(), others.into_iter()).unwrap();
    let options = ConvertOptions { sharding: Sharding::Whole, ..ConvertOptions::default() };
    assert_equal(&*write(&joined, "safetensors", &in_memory(), &options), &*base);

    let alone = model.alone.as_deref().expect("a part of a larger one");
    let (text, _) = outward(alone, trained).unwrap();
    for (name, shape, bytes) in whole(&text) {
        let with_prefix = format!("language_model.{name}");
        assert_eq!(shape, base.catalog().tensors[with_prefix.as_str()].spec.shape, "{name}");
        assert!(bytes == bytes_of(&*base, &with_prefix), "{name}");
    }
    assert_eq!(alone.config["model_type"], "llama4_text");
    assert_eq!(alone.config["architectures"][0], "Llama4ForCausalLM");
    assert!(!alone.config.contains_key("vision_config"));
}
