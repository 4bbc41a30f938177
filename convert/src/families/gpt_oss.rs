//! gpt-oss: attention with biases and sinks, experts whose gate and up are interleaved.
//!
//! Source: torchtitan/models/gpt_oss, v0.2.2; transformers/models/gpt_oss, 5.23. Both turn two halves of a head, and both
//! interleave: nothing is permuted. In bfloat16 the outside's experts have the last two dims the other way round; in MXFP4
//! they have not, so that the name decides, never the shape, which is square.

use super::Family;
use super::config::{Reading, object};
use super::decoder::{Builder, depth_std, normal};
use crate::error::Result;
use crate::init::Init;
use crate::link::Link;
use crate::spec::{Config, Model};
use serde_json::json;

/// The family.
#[derive(Debug)]
pub(super) struct GptOss;

/// Sizes and settings.
#[derive(Clone, Debug)]
struct Sizes {
    dim: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    expert_hidden: u64,
    vocabulary: u64,
    experts: u64,
    chosen: u64,
}

/// Name; dim, layers, experts.
const FLAVORS: &[(&str, [u64; 3])] =
    &[("debugmodel", [256, 4, 8]), ("20b", [2880, 24, 32]), ("120b", [2880, 36, 128])];

impl Family for GptOss {
    fn name(&self) -> &'static str {
        "gpt_oss"
    }

    fn flavors(&self) -> Vec<&'static str> {
        FLAVORS.iter().map(|flavor| flavor.0).collect()
    }

    fn flavor(&self, name: &str) -> Option<Model> {
        let &(name, [dim, layers, experts]) = FLAVORS.iter().find(|flavor| flavor.0 == name)?;
        let (heads, kv_heads, head_dim, expert_hidden, vocabulary) = (64, 8, 64, 2880, 201_088);
        let chosen = 4;
        let sizes =
            Sizes { dim, layers, heads, kv_heads, head_dim, expert_hidden, vocabulary, experts, chosen };
        Some(sizes.model(name.to_owned()))
    }

    fn reads(&self, model_type: &str) -> bool {
        model_type == "gpt_oss"
    }

    fn of_config(&self, object: &str, config: &Config) -> Result<Model> {
        let reading = Reading { object, config };
        reading.must_be_off("tie_word_embeddings")?;
        let heads = reading.size(&["num_attention_heads"])?;
        let dim = reading.size(&["hidden_size"])?;
        let sizes = Sizes {
            dim,
            layers: reading.count(&["num_hidden_layers"])?,
            heads,
            kv_heads: reading.size_or("num_key_value_heads", heads)?,
            head_dim: reading.size_or("head_dim", dim / heads)?,
            expert_hidden: reading.size(&["intermediate_size"])?,
            vocabulary: reading.size(&["vocab_size"])?,
            experts: reading.count(&["num_local_experts", "num_experts"])?,
            chosen: reading.size(&["num_experts_per_tok", "experts_per_token"])?,
        };
        let mut model = sizes.model(object.to_owned());
        model.config = config.clone();
        Ok(model)
    }
}

impl Sizes {
    fn model(&self, flavor: String) -> Model {
        let mut builder = Builder::default();
        builder.embedding("model.embed_tokens.weight", self.vocabulary, self.dim);
        for layer in 0..self.layers {
            let (native, outside) = (format!("layers.{layer}"), format!("model.layers.{layer}"));
            self.attention(
                &mut builder,
                layer,
                &format!("{native}.attention"),
                &format!("{outside}.self_attn"),
            );
            self.experts(&mut builder, layer, &format!("{native}.moe"), &format!("{outside}.mlp"));
            builder.block_norms(&native, &outside, self.dim);
        }
        builder.norm("norm.weight", "model.norm.weight", self.dim);
        builder.head("model.embed_tokens.weight", self.vocabulary, self.dim, false);
        builder.model("gpt_oss", flavor, self.config())
    }

    fn attention(&self, builder: &mut Builder, layer: u64, native: &str, outside: &str) {
        let Sizes { dim, heads, kv_heads, head_dim, .. } = *self;
        let init = normal(depth_std(layer));
        builder.fused(native, "weight", [heads, kv_heads, head_dim], &[dim]);
        builder.fused(native, "bias", [heads, kv_heads, head_dim], &[]);
        for (ours, theirs, rows) in [
            ("wq", "q_proj", heads * head_dim),
            ("wk", "k_proj", kv_heads * head_dim),
            ("wv", "v_proj", kv_heads * head_dim),
        ] {
            let (ours, theirs) = (format!("{native}.{ours}"), format!("{outside}.{theirs}"));
            builder.same(&format!("{ours}.weight"), &format!("{theirs}.weight"), &[rows, dim], init, Some(0));
            builder.same(&format!("{ours}.bias"), &format!("{theirs}.bias"), &[rows], init, Some(0));
        }
        let (ours, theirs) = (format!("{native}.wo"), format!("{outside}.o_proj"));
        let shape = [dim, heads * head_dim];
        builder.same(&format!("{ours}.weight"), &format!("{theirs}.weight"), &shape, init, Some(1));
        builder.same(&format!("{ours}.bias"), &format!("{theirs}.bias"), &[dim], init, None);
        builder.same(&format!("{native}.sinks"), &format!("{outside}.sinks"), &[heads], init, Some(0));
    }

    fn experts(&self, builder: &mut Builder, layer: u64, native: &str, outside: &str) {
        let Sizes { dim, expert_hidden: hidden, experts, .. } = *self;
        let init = normal(depth_std(layer));
        let (ours, theirs) = (format!("{native}.router.gate"), format!("{outside}.router"));
        builder.same(&format!("{ours}.weight"), &format!("{theirs}.weight"), &[experts, dim], init, None);
        builder.same(&format!("{ours}.bias"), &format!("{theirs}.bias"), &[experts], init, None);
        for (ours, theirs, shape, tp_dim) in [
            ("mlp1", "gate_up_proj", [experts, 2 * hidden, dim], 1),
            ("mlp2", "down_proj", [experts, dim, hidden], 2),
        ] {
            let weight = format!("{native}.experts.{ours}_weight");
            let theirs = format!("{outside}.experts.{theirs}");
            builder.param(&weight, &shape, init, Some(tp_dim)).ep_dim = Some(0);
            builder.link(Link::same(weight.clone(), theirs.clone(), &shape).transposed());
            // Unpacked from MXFP4, in the order in which they are computed with.
            builder.instead(Link::same(weight, format!("{theirs}_blocks"), &shape));
            let bias = format!("{native}.experts.{ours}_bias");
            let tp_dim = (ours == "mlp1").then_some(1);
            builder.same(&bias, &format!("{theirs}_bias"), &shape[..2], init, tp_dim);
            builder.last_is_of_experts();
        }
        let bias = format!("{native}.expert_bias");
        builder.param(&bias, &[experts], Init::Zeros, None);
        builder.native_only.push((bias, "transformers routes without it"));
    }

    fn config(&self) -> Config {
        let window =
            |layer: u64| if layer.is_multiple_of(2) { "sliding_attention" } else { "full_attention" };
        let kinds: Vec<&str> = (0..self.layers).map(window).collect();
        let config = json!({
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "hidden_size": self.dim,
            "intermediate_size": self.expert_hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.chosen,
            "experts_per_token": self.chosen,
            "layer_types": kinds,
            "sliding_window": 128,
            "swiglu_limit": 7.0,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "rope_scaling": {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "original_max_position_embeddings": 4096, "truncate": false,
            },
            "max_position_embeddings": 131_072,
            "initial_context_length": 4096,
            "router_aux_loss_coef": 0.9,
            "output_router_logits": false,
            "tie_word_embeddings": false,
            "hidden_act": "silu",
            "attention_bias": true,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "eos_token_id": 200_002,
            "pad_token_id": 199_999,
        });
        object(config)
    }
}
