//! TorchTitan's own conversion of every model in `fixtures/models` against ours: the same tensors, bit for bit, but for what
//! the table in `docs/torchtitan-conversion.md` lists. Its hashes were taken when the fixtures were made.

use crate::models::{bytes_of, degrees, folder, model, names, native, outside, train_on};
use crate::{convert as write, in_memory};
use convert::dialect::DIALECTS;
use convert::exchange::{inward, outward};
use dcp::convert::ConvertOptions;
use dcp::format::Reader;
use dcp::model::{DType, FqnFilter};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How the two differ on one way of one model.
#[derive(Default, Debug)]
struct Known {
    only_ours: Vec<String>,
    only_theirs: Vec<String>,
    other_values: Vec<String>,
    error: Vec<String>,
}

/// The row of the table in the docs.
fn known(name: &str, way: &str) -> Known {
    let mut rows = rows().into_iter().filter(|(model, found, _)| model == name && found == way);
    let row = rows.next().map(|(_, _, known)| known).unwrap_or_default();
    assert!(rows.next().is_none(), "two rows for {name} {way}");
    row
}

fn rows() -> Vec<(String, String, Known)> {
    let text = std::fs::read_to_string(e2e::workspace().join("docs/torchtitan-conversion.md")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let [model, way @ ("in" | "out"), ours, theirs, values, error, ""] = cells[..] else { return None };
        let known = Known {
            only_ours: quoted(ours),
            only_theirs: quoted(theirs),
            other_values: quoted(values),
            error: quoted(error),
        };
        Some((model.to_owned(), way.to_owned(), known))
    };
    text.lines().filter_map(row).collect()
}

/// What TorchTitan made of it.
fn theirs(name: &str, way: &str) -> Value {
    let text = std::fs::read_to_string(folder(name).join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    expected["torchtitan"][way].clone()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tensors_of(value: &Value) -> BTreeSet<String> {
    value["tensors"].as_object().expect("tensors").keys().cloned().collect()
}

/// Names on one side alone are those that are listed, and nothing is listed for nothing.
#[track_caller]
fn assert_listed(name: &str, alone: &[&String], listed: &[String]) {
    let filters: Vec<_> =
        listed.iter().map(|glob| FqnFilter::new(std::slice::from_ref(glob), &[]).unwrap()).collect();
    for filter in &filters {
        assert!(alone.iter().any(|fqn| filter.matches(fqn)), "{name}: nothing matches {listed:?}: {alone:?}");
    }
    for fqn in alone {
        assert!(filters.iter().any(|filter| filter.matches(fqn)), "{name}: {fqn} is not listed");
    }
}

/// Compares every tensor; gives the number of those that both have.
fn compare(name: &str, ours: &Arc<dyn Reader>, theirs: &Value, known: &Known) -> usize {
    let said = theirs["error"].as_str().unwrap_or_default();
    assert_eq!(said.is_empty(), known.error.is_empty(), "{name}: {said}");
    assert!(known.error.iter().all(|error| said.contains(error)), "{name}: {said}");
    let found = tensors_of(theirs);
    if found.is_empty() {
        assert!(!said.is_empty(), "{name}: no tensors and no error");
        return 0;
    }
    let own: BTreeSet<String> = ours.catalog().tensors.keys().map(|fqn| fqn.as_str().to_owned()).collect();
    assert_listed(name, &own.difference(&found).collect::<Vec<_>>(), &known.only_ours);
    assert_listed(name, &found.difference(&own).collect::<Vec<_>>(), &known.only_theirs);
    // Where its module holds less than the source: rounded as it rounds.
    let options = ConvertOptions { dtype: Some(DType::BF16), ..ConvertOptions::default() };
    let rounded = write(&**ours, "titan", &in_memory(), &options);
    let common: Vec<_> = own.intersection(&found).collect();
    let mut others = Vec::new();
    for fqn in &common {
        let (expected, spec) = (&theirs["tensors"][fqn.as_str()], &ours.catalog().tensors[fqn.as_str()].spec);
        let shape: Vec<u64> =
            expected["shape"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        assert_eq!(shape, spec.shape, "{name}: {fqn}");
        let (reader, key) = match (spec.dtype, expected["dtype"].as_str().unwrap()) {
            (DType::F32, "bfloat16") => (&rounded, "sha256"),
            (DType::BF16, "float32") => (ours, "bfloat16_sha256"),
            (own, theirs) if own.name() == theirs => (ours, "sha256"),
            types => panic!("{name}: {fqn} has types {types:?}"),
        };
        if sha256(&bytes_of(&**reader, fqn)) != expected[key].as_str().unwrap() {
            others.push(*fqn);
        }
    }
    assert_listed(name, &others, &known.other_values);
    common.len() - others.len()
}

#[test]
fn from_hf_writes_what_torchtitan_writes() {
    for name in names() {
        let (model, known) = (model(name), known(name, "in"));
        let (view, _) = inward(&model, outside(name), &DIALECTS[0]).unwrap();
        let ours = train_on(&view, &model, degrees(1, 2, 2), "dcp");
        let common = compare(name, &ours, &theirs(name, "from_hf"), &known);
        assert_eq!(common > 0, known.error.is_empty(), "{name}: {common}");
    }
}

#[test]
fn to_hf_writes_what_torchtitan_writes() {
    for name in names() {
        let (view, _) = outward(&model(name), native(name)).unwrap();
        let ours = write(&view, "safetensors", &in_memory(), &ConvertOptions::default());
        let known = known(name, "out");
        let common = compare(name, &ours, &theirs(name, "to_hf"), &known);
        // Without a prefix none of Llama 4's names are the same; llama4_multimodal has them all.
        assert_eq!(common > 0, name != "llama4", "{name}: {common}");
    }
}

/// Its export of gpt-oss has native tensors under the names of packed ones.
#[test]
fn blocks_that_torchtitan_writes_are_native_experts() {
    for name in ["gpt_oss", "gpt_oss_mxfp4"] {
        let (native, theirs) = (native(name), theirs(name, "to_hf"));
        let options = ConvertOptions { dtype: Some(DType::BF16), ..ConvertOptions::default() };
        let rounded = write(&*native, "titan", &in_memory(), &options);
        for layer in 0..2 {
            for (own, blocks) in [("mlp1_weight", "gate_up_proj_blocks"), ("mlp2_weight", "down_proj_blocks")]
            {
                let expected = &theirs["tensors"][format!("model.layers.{layer}.mlp.experts.{blocks}")];
                let bytes = bytes_of(&*rounded, &format!("layers.{layer}.moe.experts.{own}"));
                assert_eq!(expected["dtype"], "bfloat16");
                assert_eq!(expected["sha256"], sha256(&bytes), "{name}: {blocks}");
            }
        }
    }
}

/// Of packed experts its reader takes as many columns of a row as the row has groups: two.
#[test]
fn torchtitan_reads_two_columns_of_packed_experts() {
    const COLUMNS: usize = 64;
    let (native, theirs) = (native("gpt_oss_mxfp4"), theirs("gpt_oss_mxfp4", "from_hf"));
    for fqn in ["layers.0.moe.experts.mlp1_weight", "layers.1.moe.experts.mlp2_weight"] {
        let mut bytes = bytes_of(&*native, fqn);
        for row in bytes.chunks_exact_mut(2 * COLUMNS) {
            row[2 * 2..].fill(0);
        }
        assert_eq!(theirs["tensors"][fqn]["dtype"], "bfloat16");
        assert_eq!(theirs["tensors"][fqn]["sha256"], sha256(&bytes), "{fqn}");
    }
}

#[test]
fn every_row_is_of_a_fixture() {
    let rows = rows();
    assert!(!rows.is_empty());
    for (model, way, known) in rows {
        assert!(names().contains(&&*model), "{model} {way}: {known:?}");
    }
}
