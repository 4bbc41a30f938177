//! Operations per token, and what share of a device's peak they are.
//!
//! Source: torchtitan/models/utils.py, components/metrics.py and tools/utils.py, v0.2.2. Attention counts in full, though it
//! is causal, so that figures compare with those published.

use crate::error::{Error, Result};
use convert::spec::{Model, Param};

/// Parameters of a model, buffers left out, by what becomes of them per token.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Parameters {
    /// All; a head that is the embedding counts once.
    pub total: u64,
    /// Of the embedding, which is looked up and not multiplied with.
    pub embedding: u64,
    /// Of experts, of which each token uses a few.
    pub experts: u64,
    /// Used by a token, of those that are multiplied with.
    pub active: u64,
}

/// Counts the parameters of a model.
///
/// Errors: [`Error::NoFlops`] for a model with experts whose config does not say how many of them a token uses.
pub fn parameters(model: &Model) -> Result<Parameters> {
    let mut counted = Parameters::default();
    let mut experts_of_layer = None;
    for param in model.params.iter().filter(|param| !is_buffer(param) && !is_second(model, param)) {
        let elements: u64 = param.shape.iter().product();
        counted.total += elements;
        if param.fqn.starts_with("tok_embeddings") {
            counted.embedding += elements;
        } else if param.fqn.contains(".moe.experts.") {
            counted.experts += elements;
            experts_of_layer = param.shape.first().copied();
        }
    }
    counted.active = counted.total - counted.embedding - counted.experts;
    if let Some(experts) = experts_of_layer {
        let chosen = size(model, &["num_experts_per_tok", "experts_per_token"])?;
        // TorchTitan divides in this order, in integers.
        counted.active += (u128::from(counted.experts) * u128::from(chosen) / u128::from(experts)) as u64;
    }
    Ok(counted)
}

/// Floating-point operations of forward and backward, per token of sequences of `seq_len` tokens.
///
/// Errors: [`Error::NoFlops`] for models that are not of tokens, and for a config without the sizes of attention.
pub fn per_token(model: &Model, seq_len: u64) -> Result<u64> {
    if model.family == "flux" {
        return Err(no_flops(model, "operations are counted per token, which it does not have".to_owned()));
    }
    let layers = layers(model)?;
    let heads = size(model, &["num_attention_heads"])?;
    let head_dims = match size(model, &["kv_lora_rank"]) {
        Ok(_) => {
            let sizes = ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"];
            sizes.iter().map(|name| size(model, &[name])).sum::<Result<u64>>()?
        }
        Err(_) => {
            let head_dim = size(model, &["head_dim"]);
            2 * head_dim.or_else(|_| Ok::<_, Error>(size(model, &["hidden_size"])? / heads))?
        }
    };
    let attention = u128::from(layers) * u128::from(heads) * u128::from(head_dims) * u128::from(seq_len);
    let flops = 6 * (u128::from(parameters(model)?.active) + attention);
    u64::try_from(flops)
        .map_err(|_| no_flops(model, format!("sequences of {seq_len} tokens are too long to count")))
}

/// Blocks of a model.
///
/// Errors: [`Error::NoFlops`] for a config that does not say how many.
pub fn layers(model: &Model) -> Result<u32> {
    let layers = size(model, &["num_hidden_layers"])?;
    u32::try_from(layers).map_err(|_| no_flops(model, format!("{layers} layers are too many to count")))
}

/// Model FLOPS utilisation in percent: `tokens_per_second` of one device, as a share of its peak.
pub fn utilisation(flops_per_token: u64, tokens_per_second: f64, peak_flops: f64) -> f64 {
    100.0 * flops_per_token as f64 * tokens_per_second / peak_flops
}

/// Operations per second of one device, in 10^12.
pub fn tflops(flops_per_token: u64, tokens_per_second: f64) -> f64 {
    flops_per_token as f64 * tokens_per_second / 1e12
}

/// Tokens per second of one device: `tokens` are those of one data-parallel rank, which `non_data_parallel` devices share.
pub fn tokens_per_second(tokens: u64, seconds: f64, non_data_parallel: u32) -> f64 {
    tokens as f64 / (seconds * f64::from(non_data_parallel))
}

/// The peak of a device.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Peak {
    /// Dense bfloat16 operations per second.
    pub flops: f64,
    /// Whether the device is known; if not, these are an A100's, and figures that rest on them mean little.
    pub is_known: bool,
}

/// All of `words` in a device's name, and its peak. The first row that fits counts: `H200` before `H20`.
const PEAKS: &[(&[&str], f64)] = &[
    (&["A100"], 312e12),
    (&["H100", "NVL"], 835e12),
    (&["H100", "PCIe"], 756e12),
    (&["H100"], 989e12),
    (&["H200"], 989e12),
    (&["H20"], 148e12),
    (&["B200"], 2.25e15),
    (&["MI355X"], 2500e12),
    (&["MI300X"], 1300e12),
    (&["MI325X"], 1300e12),
    (&["MI250X"], 191.5e12),
    (&["l40s"], 362e12),
];

/// What devices of no row count as.
const PEAK_UNKNOWN: f64 = 312e12;

/// The peak of a device by its name; `compute_units` matters for Intel's alone.
pub fn peak(device: &str, compute_units: Option<u32>) -> Peak {
    let known = |flops| Peak { flops, is_known: true };
    if let (true, Some(units)) = (device.contains("Data Center GPU Max 1550"), compute_units) {
        return known(512.0 * f64::from(units) * 1.3e9);
    }
    let device = device.to_ascii_lowercase();
    let row =
        PEAKS.iter().find(|(words, _)| words.iter().all(|word| device.contains(&word.to_ascii_lowercase())));
    row.map_or(Peak { flops: PEAK_UNKNOWN, is_known: false }, |(_, flops)| known(*flops))
}

/// State that is saved with the parameters but not trained by gradients.
fn is_buffer(param: &Param) -> bool {
    param.fqn.ends_with(".expert_bias")
}

/// A head that is the embedding.
fn is_second(model: &Model, param: &Param) -> bool {
    model.tied.as_ref().is_some_and(|tied| tied.head == param.fqn)
}

/// A size in the model's config, in that of its text part where it has several.
fn size(model: &Model, names: &[&str]) -> Result<u64> {
    let text =
        model.config.get("text_config").and_then(serde_json::Value::as_object).unwrap_or(&model.config);
    let found = names.iter().find_map(|name| text.get(*name)?.as_u64());
    found.filter(|size| *size > 0).ok_or_else(|| no_flops(model, format!("its config has no `{}`", names[0])))
}

fn no_flops(model: &Model, why: String) -> Error {
    Error::NoFlops { model: model.name(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convert::families;

    fn model(name: &str) -> Model {
        families::by_name(name).unwrap()
    }

    #[test]
    fn published_figures() {
        assert_eq!(per_token(&model("llama3:debugmodel"), 2048).unwrap(), 71_585_280);
        assert_eq!(per_token(&model("llama3:8B"), 8192).unwrap(), 57_914_449_920);
    }

    #[test]
    fn parameters_are_counted_by_use() {
        let counted = parameters(&model("llama3:8B")).unwrap();
        assert_eq!((counted.total, counted.embedding, counted.experts), (8_030_261_248, 525_336_576, 0));
        assert_eq!(counted.active, counted.total - counted.embedding);
        // Layers 1 to 5 have 8 experts of 3 x 256 x 256, of which a token uses 3.
        let counted = parameters(&model("deepseek_v3:debugmodel")).unwrap();
        assert_eq!((counted.total, counted.experts), (33_014_016, 5 * 8 * 3 * 256 * 256));
        let others = counted.total - counted.embedding - counted.experts;
        assert_eq!(counted.active, others + 5 * 3 * 3 * 256 * 256);
        // 30 billion, of which 3 are active: its name.
        let counted = parameters(&model("qwen3:30B-A3B")).unwrap();
        assert_eq!((counted.total, counted.active / 100_000_000), (30_532_122_624, 30));
        // Tied: the head is the embedding.
        let counted = parameters(&model("qwen3:0.6B")).unwrap();
        assert_eq!((counted.total, counted.active), (596_049_920, 596_049_920 - 1024 * 151_936));
    }

    #[test]
    fn attention_counts_keys_and_values() {
        // Latent attention: 16 heads of 128 + 64 and 128, 6 layers.
        let model = model("deepseek_v3:debugmodel");
        let attention =
            |seq_len| per_token(&model, seq_len).unwrap() - 6 * parameters(&model).unwrap().active;
        assert_eq!(attention(2048), 6 * 6 * 16 * (128 + 64 + 128) * 2048);
    }

    #[test]
    fn every_model_of_tokens_has_a_figure() {
        for name in families::names() {
            let figure = per_token(&model(&name), 4096);
            match name.starts_with("flux:") {
                true => assert_eq!(
                    figure.unwrap_err().to_string(),
                    format!(
                        "{}: operations are counted per token, which it does not have",
                        name.replace(':', " ")
                    )
                ),
                false => assert!(figure.unwrap() > 6 * parameters(&model(&name)).unwrap().active, "{name}"),
            }
        }
    }

    #[test]
    fn peaks_by_name() {
        for (name, flops) in [
            ("NVIDIA A100-SXM4-80GB", 312e12),
            ("NVIDIA H100 NVL", 835e12),
            ("NVIDIA H100 PCIe", 756e12),
            ("NVIDIA H100 80GB HBM3", 989e12),
            ("NVIDIA H200", 989e12),
            ("NVIDIA H20", 148e12),
            ("NVIDIA GB200", 2.25e15),
            ("AMD Instinct MI300X", 1300e12),
            ("AMD Instinct MI325X", 1300e12),
            ("AMD Instinct MI355X", 2500e12),
            ("AMD Instinct MI250X", 191.5e12),
            ("NVIDIA L40S", 362e12),
        ] {
            assert_eq!(peak(name, None), Peak { flops, is_known: true }, "{name}");
        }
        let intel = "Intel(R) Data Center GPU Max 1550";
        assert_eq!(peak(intel, Some(512)), Peak { flops: 512.0 * 512.0 * 1.3e9, is_known: true });
        assert_eq!(peak(intel, None), Peak { flops: 312e12, is_known: false });
        assert_eq!(peak("cpu", None), Peak { flops: 312e12, is_known: false });
    }

    #[test]
    fn throughput_of_one_device() {
        // 8B at 8192 tokens: 7,000 tokens a second are 41 % of an H100.
        let flops = per_token(&model("llama3:8B"), 8192).unwrap();
        let rate = tokens_per_second(56_000, 4.0, 2);
        assert_eq!(rate, 7000.0);
        assert_eq!((tflops(flops, rate) * 100.0).round(), 40540.0);
        assert_eq!((utilisation(flops, rate, 989e12) * 100.0).round(), 4099.0);
    }
}
