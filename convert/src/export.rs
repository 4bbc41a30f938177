//! A Hugging Face folder made of a native checkpoint: weights, config.json, tokenizer.

use crate::error::Result;
use crate::exchange::Report;
use crate::spec::{Config, Model};
use dcp::convert::{ConvertOptions, Sharding};
use dcp::format::Reader;
use dcp::model::DType;
use dcp::storage::Place;
use serde_json::json;

/// Largest file that is copied beside the weights.
const ASSET_BYTES_MAX: u64 = 256 << 20;
/// Files beside the weights that are copied as they are, by name and by how the name begins.
const ASSETS: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "vocab.json",
];
const ASSET_PREFIX: &str = "tokenizer";

/// Has a conversion of `view`, of [`outward`](crate::exchange::outward), write what transformers reads: whole tensors in
/// files named as theirs, config.json, and the tokenizer of `assets` where there is one.
///
/// Errors: what reading the tokenizer's files gives.
pub fn for_hugging_face(
    options: &mut ConvertOptions,
    model: &Model,
    view: &dyn Reader,
    report: &Report,
    assets: Option<&Place>,
) -> Result<()> {
    let tensors = &view.catalog().tensors;
    options.sharding = Sharding::Whole;
    options.write.stem = Some(model.stem.to_owned());
    options.keep_dtype = model.keep_dtype(tensors.keys());
    let dtype = options.dtype.or_else(|| tensors.values().next().map(|tensor| tensor.spec.dtype));
    options.beside = vec![("config.json".to_owned(), config(&model.config, dtype))];
    if let Some(assets) = assets {
        options.beside.extend(tokenizer_files(assets)?);
    }
    options.made_of = made_of(model, report.dialect);
    Ok(())
}

/// What tells a conversion between the names and arrangements of a model from one of another model.
pub fn made_of(model: &Model, names: &str) -> String {
    format!("{} {}, names of {names}", model.name(), serde_json::Value::Object(model.config.clone()))
}

/// The config with the type of what is written; what it said of quantisation is no longer so.
fn config(config: &Config, dtype: Option<DType>) -> Vec<u8> {
    let mut config = config.clone();
    config.remove("quantization_config");
    if let Some(dtype) = dtype {
        let name = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(name.to_owned(), json!(dtype.name()));
    }
    format!("{:#}\n", serde_json::Value::Object(config)).into_bytes()
}

fn tokenizer_files(assets: &Place) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for object in assets.store.list(&assets.key)? {
        let Some(name) = object.key.below(&assets.key) else { continue };
        if ASSETS.contains(&name) || (name.starts_with(ASSET_PREFIX) && !name.contains('/')) {
            found.push((name.to_owned(), assets.store.get(&object.key, ASSET_BYTES_MAX)?));
        }
    }
    Ok(found)
}
