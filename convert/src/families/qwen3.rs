//! Qwen3, dense and with experts.
//!
//! Source: torchtitan/models/qwen3, v0.2.2; transformers/models/{qwen3,qwen3_moe}, 5.23. Both turn two halves of a head:
//! nothing is permuted. Heads have a size of their own.

use super::Family;
use super::config::{Reading, keep_tokens_below, object};
use super::decoder::{Attention, Builder, depth_std, normal};
use crate::error::Result;
use crate::spec::{Config, Model};
use serde_json::{Value, json};

/// The family.
#[derive(Debug)]
pub(super) struct Qwen3;

/// Sizes and settings.
#[derive(Clone, Debug)]
struct Sizes {
    dim: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    hidden: u64,
    vocabulary: u64,
    experts: Option<Experts>,
    is_tied: bool,
    norm_eps: f64,
    rope_theta: f64,
    rope_scaling: Value,
    position_max: u64,
}

#[derive(Clone, Copy, Debug)]
struct Experts {
    count: u64,
    chosen: u64,
    hidden: u64,
}

/// Name; dim, layers, heads, key and value heads, hidden, vocabulary; experts and their hidden; tied; rotary base.
type Flavor = (&'static str, [u64; 6], Option<(u64, u64)>, bool, f64);

const FLAVORS: &[Flavor] = &[
    ("debugmodel", [256, 8, 16, 8, 3072, 2048], None, true, 1e6),
    ("0.6B", [1024, 28, 16, 8, 3072, 151_936], None, true, 1e6),
    ("1.7B", [2048, 28, 16, 8, 6144, 151_936], None, true, 1e6),
    ("4B", [2560, 36, 32, 8, 9728, 151_936], None, true, 1e6),
    ("8B", [4096, 36, 32, 8, 12288, 151_936], None, false, 1e6),
    ("14B", [5120, 40, 40, 8, 17408, 151_936], None, false, 1e6),
    ("32B", [5120, 64, 64, 8, 25600, 151_936], None, false, 1e6),
    ("debugmodel_moe", [256, 8, 16, 8, 3072, 2048], Some((64, 768)), false, 1e6),
    ("30B-A3B", [2048, 48, 32, 4, 6144, 151_936], Some((128, 768)), false, 1e6),
    ("235B-A22B", [4096, 94, 64, 4, 12288, 151_936], Some((128, 1536)), false, 5e6),
];

impl Family for Qwen3 {
    fn name(&self) -> &'static str {
        "qwen3"
    }

    fn flavors(&self) -> Vec<&'static str> {
        FLAVORS.iter().map(|flavor| flavor.0).collect()
    }

    fn flavor(&self, name: &str) -> Option<Model> {
        let &(name, [dim, layers, heads, kv_heads, hidden, vocabulary], experts, is_tied, rope_theta) =
            FLAVORS.iter().find(|flavor| flavor.0 == name)?;
        let sizes = Sizes {
            dim,
            layers,
            heads,
            kv_heads,
            head_dim: 128,
            hidden,
            vocabulary,
            experts: experts.map(|(count, hidden)| Experts { count, chosen: 8, hidden }),
            is_tied,
            norm_eps: 1e-6,
            rope_theta,
            rope_scaling: Value::Null,
            position_max: 40_960,
        };
        Some(sizes.model(name.to_owned()))
    }

    fn reads(&self, model_type: &str) -> bool {
        matches!(model_type, "qwen3" | "qwen3_moe")
    }

    fn of_config(&self, object: &str, config: &Config) -> Result<Model> {
        let reading = Reading { object, config };
        reading.must_be_off("attention_bias")?;
        reading.must_be_off("use_sliding_window")?;
        let heads = reading.size(&["num_attention_heads"])?;
        let is_moe = config.get("model_type").and_then(Value::as_str) == Some("qwen3_moe");
        let experts = is_moe.then(|| -> Result<Experts> {
            if reading.size_or("decoder_sparse_step", 1)? != 1 || has_dense_layers(config) {
                return Err(
                    reading.bad("some layers are dense; the native module has experts in all or in none")
                );
            }
            Ok(Experts {
                count: reading.count(&["num_experts", "num_local_experts", "n_routed_experts"])?,
                chosen: reading.size(&["num_experts_per_tok"])?,
                hidden: reading.size(&["moe_intermediate_size"])?,
            })
        });
        let (rope_theta, rope_scaling) = reading.rope(10_000.0)?;
        let sizes = Sizes {
            dim: reading.size(&["hidden_size"])?,
            layers: reading.count(&["num_hidden_layers"])?,
            heads,
            kv_heads: reading.size_or("num_key_value_heads", heads)?,
            head_dim: reading.size_or("head_dim", 128)?,
            hidden: reading.size(&["intermediate_size"])?,
            vocabulary: reading.size(&["vocab_size"])?,
            experts: experts.transpose()?,
            is_tied: reading.flag("tie_word_embeddings")?,
            norm_eps: reading.number_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            position_max: reading.positions(32_768)?,
        };
        reading.check_experts(sizes.layers, sizes.experts.map_or(0, |experts| experts.count))?;
        let mut model = sizes.model(object.to_owned());
        model.config = config.clone();
        Ok(model)
    }
}

fn has_dense_layers(config: &Config) -> bool {
    config.get("mlp_only_layers").and_then(Value::as_array).is_some_and(|layers| !layers.is_empty())
}

impl Sizes {
    fn model(&self, flavor: String) -> Model {
        let Sizes { dim, layers, heads, kv_heads, head_dim, hidden, vocabulary, is_tied, .. } = *self;
        let attention = Attention { dim, heads, kv_heads, head_dim, is_permuted: false, has_norms: true };
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
            match self.experts {
                None => builder.feed_forward(
                    layer,
                    &format!("{native}.feed_forward"),
                    &format!("{outside}.mlp"),
                    dim,
                    hidden,
                ),
                Some(Experts { count, hidden, .. }) => {
                    let init = normal(depth_std(layer));
                    let (router, gate) =
                        (format!("{native}.moe.router.gate.weight"), format!("{outside}.mlp.gate.weight"));
                    builder.same(&router, &gate, &[count, dim], init, None);
                    let (ours, theirs) = (format!("{native}.moe.experts"), format!("{outside}.mlp.experts"));
                    builder.experts(layer, &ours, &theirs, [count, hidden, dim]);
                    builder.bias_of_experts(format!("{native}.moe.expert_bias"), count);
                }
            }
            builder.block_norms(&native, &outside, dim);
        }
        builder.norm("norm.weight", "model.norm.weight", dim);
        builder.head("model.embed_tokens.weight", vocabulary, dim, is_tied);
        builder.model("qwen3", flavor, self.config())
    }

    fn config(&self) -> Config {
        let (architecture, model_type) = match self.experts {
            None => ("Qwen3ForCausalLM", "qwen3"),
            Some(_) => ("Qwen3MoeForCausalLM", "qwen3_moe"),
        };
        let config = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "max_position_embeddings": self.position_max,
            "max_window_layers": self.layers,
            "use_sliding_window": false,
            "sliding_window": null,
            "tie_word_embeddings": self.is_tied,
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "bos_token_id": 151_643,
            "eos_token_id": 151_645,
        });
        let mut config = object(config);
        keep_tokens_below(self.vocabulary, &mut config);
        if let Some(Experts { count, chosen, hidden }) = self.experts {
            let experts = [
                ("num_experts", json!(count)),
                ("num_experts_per_tok", json!(chosen)),
                ("moe_intermediate_size", json!(hidden)),
                ("norm_topk_prob", json!(true)),
                ("decoder_sparse_step", json!(1)),
                ("mlp_only_layers", json!([])),
                ("router_aux_loss_coef", json!(0.001)),
            ];
            config.extend(experts.map(|(name, value)| (name.to_owned(), value)));
        }
        config
    }
}
