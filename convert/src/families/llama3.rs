//! Llama 3, 3.1 and 3.2.
//!
//! Source: torchtitan/models/llama3, v0.2.2; transformers/models/llama, 5.23. The native module turns pairs of neighbours,
//! transformers two halves of a head: the rows of wq and wk are permuted.

use super::Family;
use super::config::{Reading, object as object_of};
use super::decoder::{Attention, Builder};
use crate::error::Result;
use crate::spec::{Config, Model};
use serde_json::{Value, json};

/// The family.
#[derive(Debug)]
pub(super) struct Llama3;

/// Sizes and settings.
#[derive(Clone, Debug)]
struct Sizes {
    dim: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    hidden: u64,
    vocabulary: u64,
    is_tied: bool,
    norm_eps: f64,
    rope_theta: f64,
    rope_scaling: Value,
    position_max: u64,
}

/// Name; dim, layers, heads, key and value heads, hidden, vocabulary; tied.
type Flavor = (&'static str, [u64; 6], bool);

const FLAVORS: &[Flavor] = &[
    ("debugmodel", [256, 6, 16, 16, 768, 2048], false),
    ("1B", [2048, 16, 32, 8, 8192, 128_256], true),
    ("3B", [3072, 28, 24, 8, 8192, 128_256], true),
    ("8B", [4096, 32, 32, 8, 14336, 128_256], false),
    ("70B", [8192, 80, 64, 8, 28672, 128_256], false),
    ("405B", [16384, 126, 128, 8, 53248, 128_256], false),
];

impl Family for Llama3 {
    fn name(&self) -> &'static str {
        "llama3"
    }

    fn flavors(&self) -> Vec<&'static str> {
        FLAVORS.iter().map(|flavor| flavor.0).collect()
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("debugmodel_flex_attn", "debugmodel"),
            ("debugmodel_varlen_attn", "debugmodel"),
            ("8B_flex", "8B"),
            ("8B_varlen", "8B"),
        ]
    }

    fn flavor(&self, name: &str) -> Option<Model> {
        let &(name, [dim, layers, heads, kv_heads, hidden, vocabulary], is_tied) =
            FLAVORS.iter().find(|flavor| flavor.0 == name)?;
        // What the native module computes with, whatever the model was made for: it always scales by 8.
        let rope_scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        let (norm_eps, rope_theta, position_max) = (1e-5, 500_000.0, 131_072);
        let sizes = Sizes {
            dim,
            layers,
            heads,
            kv_heads,
            hidden,
            vocabulary,
            is_tied,
            norm_eps,
            rope_theta,
            rope_scaling,
            position_max,
        };
        Some(sizes.model(name.to_owned()))
    }

    fn reads(&self, model_type: &str) -> bool {
        model_type == "llama"
    }

    fn of_config(&self, object: &str, config: &Config) -> Result<Model> {
        let reading = Reading { object, config };
        reading.must_be_off("attention_bias")?;
        reading.must_be_off("mlp_bias")?;
        reading.must_be_text("hidden_act", "silu")?;
        let (dim, heads) = (reading.size(&["hidden_size"])?, reading.size(&["num_attention_heads"])?);
        let (rope_theta, rope_scaling) = reading.rope(10_000.0)?;
        let sizes = Sizes {
            dim,
            layers: reading.count(&["num_hidden_layers"])?,
            heads,
            kv_heads: reading.size_or("num_key_value_heads", heads)?,
            hidden: reading.size(&["intermediate_size"])?,
            vocabulary: reading.size(&["vocab_size"])?,
            is_tied: reading.flag("tie_word_embeddings")?,
            norm_eps: reading.number_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            position_max: reading.positions(2048)?,
        };
        let head_dim = reading.size_or("head_dim", dim / heads)?;
        if dim % heads != 0 || head_dim != dim / heads || head_dim % 2 != 0 || heads % sizes.kv_heads != 0 {
            return Err(reading.bad(format!(
                "{heads} heads of {head_dim} with {} for keys do not make up {dim}; the native module has equal heads of an even size",
                sizes.kv_heads
            )));
        }
        let mut model = sizes.model(object.to_owned());
        model.config = config.clone();
        Ok(model)
    }
}

/// The `config.json` of Meta's `params.json`; `None` for what is none.
///
/// Errors: [`crate::Error::BadConfig`] for a size that is missing or impossible.
pub(super) fn config_of_params(object: &str, params: &Config) -> Result<Option<Config>> {
    if params.contains_key("model_type") || !params.contains_key("n_layers") {
        return Ok(None);
    }
    let reading = Reading { object, config: params };
    let (dim, heads) = (reading.size(&["dim"])?, reading.size(&["n_heads"])?);
    let layers = reading.count(&["n_layers"])?;
    // Two thirds of four times the dim, in whole numbers at every step, as the module computes it.
    let scale = reading.number_or("ffn_dim_multiplier", 1.0)?;
    let multiple = reading.size_or("multiple_of", 256)?;
    let hidden = (scale * (8 * dim / 3) as f64) as u64;
    let scaling = json!({
        "rope_type": "llama3", "factor": reading.number_or("rope_scaling_factor", 8.0)?, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": hidden.div_ceil(multiple) * multiple,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": reading.size_or("n_kv_heads", heads)?,
        "vocab_size": reading.size(&["vocab_size"])?,
        "rms_norm_eps": reading.number_or("norm_eps", 1e-5)?,
        "rope_theta": reading.number_or("rope_theta", 10_000.0)?,
        "rope_scaling": if reading.flag("use_scaled_rope")? { scaling } else { Value::Null },
        "tie_word_embeddings": false,
    });
    Ok(Some(object_of(config)))
}

impl Sizes {
    fn model(&self, flavor: String) -> Model {
        let Sizes { dim, layers, heads, kv_heads, hidden, vocabulary, is_tied, .. } = *self;
        let attention =
            Attention { dim, heads, kv_heads, head_dim: dim / heads, is_permuted: true, has_norms: false };
        let mut builder = Builder::default();
        builder.embedding("model.embed_tokens.weight", vocabulary, dim);
        for layer in 0..layers {
            let (native, outside) = (format!("layers.{layer}"), format!("model.layers.{layer}"));
            builder.attention(
                layer,
                &format!("{native}.attention"),
                &format!("{outside}.self_attn"),
                &attention,
            );
            builder.feed_forward(
                layer,
                &format!("{native}.feed_forward"),
                &format!("{outside}.mlp"),
                dim,
                hidden,
            );
            builder.block_norms(&native, &outside, dim);
        }
        builder.norm("norm.weight", "model.norm.weight", dim);
        builder.head("model.embed_tokens.weight", vocabulary, dim, is_tied);
        let mut model = builder.model("llama3", flavor, self.config());
        model.outside_only.push(("rope.freqs".to_owned(), "computed from the config"));
        model
    }

    fn config(&self) -> Config {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.dim,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.dim / self.heads,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "max_position_embeddings": self.position_max,
            "tie_word_embeddings": self.is_tied,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "use_cache": true,
        });
        object_of(config)
    }
}
