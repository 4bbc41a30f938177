//! Llama 4, the text model.
//!
//! Source: torchtitan/models/llama4, v0.2.2; transformers/models/llama4, 5.23. Both turn pairs of neighbours: nothing is
//! permuted. Experts are stacks on both sides, outside with the last two dims the other way round, and gate and up in one.

use super::Family;
use super::config::{Reading, keep_tokens_below, object};
use super::decoder::{Attention, Builder, STD, depth_std, normal};
use crate::error::Result;
use crate::link::Link;
use crate::spec::{Config, Model};
use serde_json::{Value, json};

/// The family.
#[derive(Debug)]
pub(super) struct Llama4;

/// Sizes and settings.
#[derive(Clone, Debug)]
struct Sizes {
    dim: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    hidden: u64,
    expert_hidden: u64,
    vocabulary: u64,
    experts: u64,
    chosen: u64,
    /// Every so many layers has experts, the last of them.
    step: u64,
    rope_theta: f64,
    rope_scaling: Value,
    position_max: u64,
    /// What outside names begin with, where the model is part of one that sees.
    prefix: &'static str,
    /// Every fourth layer without positions, the others in chunks of so many tokens.
    chunk: Option<u64>,
}

/// Name; dim, layers, heads, key and value heads, vocabulary; hidden, expert hidden, experts, step; rotary scaling; longest
/// sequence; chunk.
type Flavor = (&'static str, [u64; 5], [u64; 4], bool, u64, Option<u64>);

const FLAVORS: &[Flavor] = &[
    ("debugmodel", [256, 6, 16, 16, 2048], [768, 512, 8, 2], true, 1_048_576, None),
    ("debugmodel_irope", [256, 6, 16, 16, 2048], [768, 512, 8, 2], true, 1_048_576, Some(256)),
    ("17bx16e", [5120, 48, 40, 8, 202_048], [16_384, 8192, 16, 1], true, 10_485_760, None),
    ("17bx16e_irope", [5120, 48, 40, 8, 202_048], [16_384, 8192, 16, 1], true, 10_485_760, Some(8192)),
    ("17bx128e", [5120, 48, 40, 8, 202_048], [16_384, 8192, 128, 2], false, 1_048_576, None),
    ("17bx128e_irope", [5120, 48, 40, 8, 202_048], [16_384, 8192, 128, 2], false, 1_048_576, Some(8192)),
];

impl Family for Llama4 {
    fn name(&self) -> &'static str {
        "llama4"
    }

    fn flavors(&self) -> Vec<&'static str> {
        FLAVORS.iter().map(|flavor| flavor.0).collect()
    }

    fn flavor(&self, name: &str) -> Option<Model> {
        let &(name, sizes, [hidden, expert_hidden, experts, step], is_scaled, position_max, chunk) =
            FLAVORS.iter().find(|flavor| flavor.0 == name)?;
        let [dim, layers, heads, kv_heads, vocabulary] = sizes;
        let scaling = json!({
            "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        });
        let sizes = Sizes {
            dim,
            layers,
            heads,
            kv_heads,
            head_dim: dim / heads,
            hidden,
            expert_hidden,
            vocabulary,
            experts,
            chosen: 1,
            step,
            rope_theta: 500_000.0,
            rope_scaling: if is_scaled { scaling } else { Value::Null },
            position_max,
            prefix: "",
            chunk,
        };
        Some(sizes.model(name.to_owned()))
    }

    fn reads(&self, model_type: &str) -> bool {
        matches!(model_type, "llama4" | "llama4_text")
    }

    fn of_config(&self, object: &str, config: &Config) -> Result<Model> {
        let (text, prefix) = match config.get("text_config") {
            Some(Value::Object(text)) => (text, "language_model."),
            _ => (config, ""),
        };
        let reading = Reading { object, config: text };
        reading.must_be_off("attention_bias")?;
        reading.must_be_off("tie_word_embeddings")?;
        let heads = reading.size(&["num_attention_heads"])?;
        let dim = reading.size(&["hidden_size"])?;
        let (rope_theta, rope_scaling) = reading.rope(500_000.0)?;
        let sizes = Sizes {
            dim,
            layers: reading.count(&["num_hidden_layers"])?,
            heads,
            kv_heads: reading.size_or("num_key_value_heads", heads)?,
            head_dim: reading.size_or("head_dim", dim / heads)?,
            hidden: reading.size(&["intermediate_size_mlp"])?,
            expert_hidden: reading.size(&["intermediate_size"])?,
            vocabulary: reading.size(&["vocab_size"])?,
            experts: reading.count(&["num_local_experts"])?,
            chosen: reading.size_or("num_experts_per_tok", 1)?,
            step: reading.size_or("interleave_moe_layer_step", 1)?,
            rope_theta,
            rope_scaling,
            position_max: reading.positions(131_072)?,
            prefix,
            chunk: None,
        };
        let mut model = sizes.model(object.to_owned());
        model.config = config.clone();
        if !prefix.is_empty() {
            let mut alone = Sizes { prefix: "", ..sizes }.model(object.to_owned());
            alone.config = text.clone();
            alone.config.insert("architectures".to_owned(), json!(["Llama4ForCausalLM"]));
            alone.config.insert("model_type".to_owned(), json!("llama4_text"));
            model.alone = Some(Box::new(alone));
        }
        Ok(model)
    }
}

impl Sizes {
    fn model(&self, flavor: String) -> Model {
        let Sizes { dim, heads, kv_heads, head_dim, prefix, .. } = *self;
        let attention = Attention { dim, heads, kv_heads, head_dim, is_permuted: false, has_norms: false };
        let mut builder = Builder { outside_head: format!("{prefix}lm_head.weight"), ..Builder::default() };
        let embedding = format!("{prefix}model.embed_tokens.weight");
        builder.embedding(&embedding, self.vocabulary, dim);
        for layer in 0..self.layers {
            let (native, outside) = (format!("layers.{layer}"), format!("{prefix}model.layers.{layer}"));
            builder.attention(
                layer,
                &format!("{native}.attention"),
                &format!("{outside}.self_attn"),
                &attention,
            );
            let theirs = format!("{outside}.feed_forward");
            match (layer + 1) % self.step {
                0 => self.experts(&mut builder, layer, &format!("{native}.moe"), &theirs),
                _ => {
                    builder.feed_forward(layer, &format!("{native}.feed_forward"), &theirs, dim, self.hidden)
                }
            }
            builder.block_norms(&native, &outside, dim);
        }
        builder.norm("norm.weight", &format!("{prefix}model.norm.weight"), dim);
        builder.head(&embedding, self.vocabulary, dim, false);
        let mut model = builder.model("llama4", flavor, self.config());
        for pattern in ["vision_model.*", "multi_modal_projector.*"] {
            model.outside_only.push((pattern.to_owned(), "of the part that sees, which has no home"));
        }
        model
    }

    fn experts(&self, builder: &mut Builder, layer: u64, native: &str, outside: &str) {
        let Sizes { dim, experts, expert_hidden: hidden, .. } = *self;
        let (router, theirs) = (format!("{native}.router.gate.weight"), format!("{outside}.router.weight"));
        builder.same(&router, &theirs, &[experts, dim], normal(depth_std(layer)), None);
        let gate_up = format!("{outside}.experts.gate_up_proj");
        for (name, start, std) in [("w1", 0, STD), ("w3", hidden, depth_std(layer))] {
            let (native, shape) = (format!("{native}.experts.{name}"), [experts, hidden, dim]);
            builder.param(&native, &shape, normal(std), Some(1)).ep_dim = Some(0);
            let link = Link::same(native, gate_up.clone(), &shape).transposed();
            builder.link(link.outside_from(&[0, 0, start]));
        }
        let (native_down, shape) = (format!("{native}.experts.w2"), [experts, dim, hidden]);
        builder.param(&native_down, &shape, normal(depth_std(layer)), Some(2)).ep_dim = Some(0);
        builder.link(Link::same(native_down, format!("{outside}.experts.down_proj"), &shape).transposed());
        builder.bias_of_experts(format!("{native}.expert_bias"), experts);
        let (ours, theirs) = (format!("{native}.shared_experts"), format!("{outside}.shared_expert"));
        builder.feed_forward(layer, &ours, &theirs, dim, hidden);
    }

    fn config(&self) -> Config {
        // Natively layers 0, 4, 8 have no positions; outside a list says which have.
        let has_positions = |layer: u64| u64::from(self.chunk.is_none() || !layer.is_multiple_of(4));
        let with_positions: Vec<u64> = (0..self.layers).map(has_positions).collect();
        let config = json!({
            "architectures": ["Llama4ForCausalLM"],
            "model_type": "llama4_text",
            "hidden_size": self.dim,
            "intermediate_size": self.expert_hidden,
            "intermediate_size_mlp": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.chosen,
            "interleave_moe_layer_step": self.step,
            "no_rope_layers": with_positions,
            "attention_chunk_size": self.chunk,
            "use_qk_norm": false,
            "attn_temperature_tuning": false,
            "floor_scale": 8192,
            "attn_scale": 0.1,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "max_position_embeddings": self.position_max,
            "tie_word_embeddings": false,
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "output_router_logits": false,
            "router_aux_loss_coef": 0.001,
            "router_jitter_noise": 0.0,
            "use_cache": true,
            "bos_token_id": 200_000,
            "eos_token_id": 200_001,
            "pad_token_id": 200_018,
        });
        let mut config = object(config);
        keep_tokens_below(self.vocabulary, &mut config);
        config
    }
}
