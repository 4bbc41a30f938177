//! DeepSeek V2, V2 Lite and V3: latent attention, experts with shared ones beside them.
//!
//! Source: torchtitan/models/deepseek_v3, v0.2.2; transformers/models/{deepseek_v2,deepseek_v3}, 5.23. Both turn pairs of
//! neighbours: nothing is permuted.

use super::Family;
use super::config::{Reading, object};
use super::decoder::{Builder, depth_std, normal};
use crate::error::Result;
use crate::exchange::MORE_TOKENS;
use crate::init::Init;
use crate::spec::{Config, Model};
use dcp::model::DType;
use serde_json::{Value, json};

/// The family.
#[derive(Debug)]
pub(super) struct DeepSeekV3;

/// Sizes and settings.
#[derive(Clone, Debug)]
struct Sizes {
    dim: u64,
    layers: u64,
    dense_layers: u64,
    heads: u64,
    hidden: u64,
    vocabulary: u64,
    experts: u64,
    chosen: u64,
    shared: u64,
    expert_hidden: u64,
    /// 0 where queries have no latent.
    q_lora: u64,
    kv_lora: u64,
    nope: u64,
    rope: u64,
    value: u64,
    groups: u64,
    chosen_groups: u64,
    /// Sigmoid scores with a bias, normalised; else softmax.
    is_v3: bool,
    route_scale: f64,
    mscale: f64,
    next_token_layers: u64,
}

/// Name; vocabulary, dim, layers, dense, heads, hidden, expert hidden; experts, chosen, shared, groups, chosen groups; query
/// latent; of V3; route scale; mscale.
type Flavor = (&'static str, [u64; 7], [u64; 5], u64, bool, f64, f64);

const FLAVORS: &[Flavor] = &[
    ("debugmodel", [2048, 256, 6, 1, 16, 1024, 256], [8, 3, 2, 1, 1], 0, false, 1.0, 0.70),
    ("16B", [102_400, 2048, 27, 1, 16, 10_944, 1408], [64, 6, 2, 1, 1], 0, false, 1.0, 0.70),
    ("236B", [102_400, 5120, 60, 1, 128, 12_288, 1536], [160, 6, 2, 8, 3], 1536, false, 16.0, 1.0),
    ("671B", [129_280, 7168, 61, 3, 128, 18_432, 2048], [256, 8, 1, 8, 4], 1536, true, 2.5, 1.0),
];

impl Family for DeepSeekV3 {
    fn name(&self) -> &'static str {
        "deepseek_v3"
    }

    fn flavors(&self) -> Vec<&'static str> {
        FLAVORS.iter().map(|flavor| flavor.0).collect()
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[("debugmodel_flex_attn", "debugmodel")]
    }

    fn flavor(&self, name: &str) -> Option<Model> {
        let &(name, sizes, experts, q_lora, is_v3, route_scale, mscale) =
            FLAVORS.iter().find(|flavor| flavor.0 == name)?;
        let [vocabulary, dim, layers, dense_layers, heads, hidden, expert_hidden] = sizes;
        let [experts, chosen, shared, groups, chosen_groups] = experts;
        let (kv_lora, nope, rope, value) = (512, 128, 64, 128);
        let sizes = Sizes {
            dim,
            layers,
            dense_layers,
            heads,
            hidden,
            vocabulary,
            experts,
            chosen,
            shared,
            expert_hidden,
            q_lora,
            kv_lora,
            nope,
            rope,
            value,
            groups,
            chosen_groups,
            is_v3,
            route_scale,
            mscale,
            // The published V3 has one, which is left out.
            next_token_layers: u64::from(is_v3),
        };
        Some(sizes.model(name.to_owned()))
    }

    fn reads(&self, model_type: &str) -> bool {
        matches!(model_type, "deepseek_v2" | "deepseek_v3")
    }

    fn of_config(&self, object: &str, config: &Config) -> Result<Model> {
        let reading = Reading { object, config };
        reading.must_be_off("attention_bias")?;
        reading.must_be_off("tie_word_embeddings")?;
        if config.get("rope_interleave") == Some(&Value::Bool(false)) {
            return Err(
                reading.bad("`rope_interleave` is false: the rows of its rotary parts are in another order")
            );
        }
        if reading.size_or("moe_layer_freq", 1)? != 1 {
            return Err(reading.bad("`moe_layer_freq` is not 1, which the native module does not have"));
        }
        let is_v3 = config.get("model_type").and_then(Value::as_str) == Some("deepseek_v3");
        let optional = |name: &str| match config.get(name).and_then(Value::as_u64) {
            Some(0) | None => Ok(0),
            Some(_) => reading.size(&[name]),
        };
        let sizes = Sizes {
            dim: reading.size(&["hidden_size"])?,
            layers: reading.count(&["num_hidden_layers"])?,
            dense_layers: optional("first_k_dense_replace")?,
            heads: reading.size(&["num_attention_heads"])?,
            hidden: reading.size(&["intermediate_size"])?,
            vocabulary: reading.size(&["vocab_size"])?,
            experts: reading.count(&["n_routed_experts", "num_local_experts", "num_experts"])?,
            chosen: reading.size(&["num_experts_per_tok"])?,
            shared: optional("n_shared_experts")?,
            expert_hidden: reading.size(&["moe_intermediate_size"])?,
            q_lora: optional("q_lora_rank")?,
            kv_lora: reading.size(&["kv_lora_rank"])?,
            nope: reading.size(&["qk_nope_head_dim"])?,
            rope: reading.size(&["qk_rope_head_dim"])?,
            value: reading.size(&["v_head_dim"])?,
            groups: reading.size_or("n_group", 1)?,
            chosen_groups: reading.size_or("topk_group", 1)?,
            is_v3,
            route_scale: reading.number_or("routed_scaling_factor", 1.0)?,
            mscale: 1.0,
            next_token_layers: match config.get("num_nextn_predict_layers").and_then(Value::as_u64) {
                Some(0) | None => 0,
                Some(_) => reading.count(&["num_nextn_predict_layers"])?,
            },
        };
        reading.check_experts(sizes.layers, sizes.experts)?;
        let mut model = sizes.model(object.to_owned());
        model.config = config.clone();
        // What is not written is not promised.
        if let Some(layers) = model.config.get_mut("num_nextn_predict_layers") {
            *layers = json!(0);
        }
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
            if layer < self.dense_layers {
                let (ours, theirs) = (format!("{native}.feed_forward"), format!("{outside}.mlp"));
                builder.feed_forward(layer, &ours, &theirs, self.dim, self.hidden);
            } else {
                self.experts(&mut builder, layer, &format!("{native}.moe"), &format!("{outside}.mlp"));
            }
            builder.block_norms(&native, &outside, self.dim);
        }
        builder.norm("norm.weight", "model.norm.weight", self.dim);
        builder.head("model.embed_tokens.weight", self.vocabulary, self.dim, false);
        let mut model = builder.model("deepseek_v3", flavor, self.config());
        for extra in 0..self.next_token_layers {
            let pattern = format!("model.layers.{}.*", self.layers + extra);
            model.outside_only.push((pattern, MORE_TOKENS));
        }
        model
    }

    fn attention(&self, builder: &mut Builder, layer: u64, native: &str, outside: &str) {
        let Sizes { dim, heads, q_lora, kv_lora, nope, rope, value, .. } = *self;
        let mut linear = |ours: &str, theirs: &str, shape: [u64; 2], init: Init, tp_dim: Option<usize>| {
            let (ours, theirs) = (format!("{native}.{ours}.weight"), format!("{outside}.{theirs}.weight"));
            builder.same(&ours, &theirs, &shape, init, tp_dim);
        };
        let (plain, queries) = (normal(super::decoder::STD), heads * (nope + rope));
        if q_lora == 0 {
            linear("wq", "q_proj", [queries, dim], plain, Some(0));
        } else {
            linear("wq_a", "q_a_proj", [q_lora, dim], plain, None);
            linear("wq_b", "q_b_proj", [queries, q_lora], plain, Some(0));
        }
        linear("wkv_a", "kv_a_proj_with_mqa", [kv_lora + rope, dim], plain, None);
        linear("wkv_b", "kv_b_proj", [heads * (nope + value), kv_lora], plain, Some(0));
        linear("wo", "o_proj", [dim, heads * value], normal(depth_std(layer)), Some(1));
        if q_lora > 0 {
            builder.norm(
                &format!("{native}.q_norm.weight"),
                &format!("{outside}.q_a_layernorm.weight"),
                q_lora,
            );
        }
        builder.norm(
            &format!("{native}.kv_norm.weight"),
            &format!("{outside}.kv_a_layernorm.weight"),
            kv_lora,
        );
    }

    fn experts(&self, builder: &mut Builder, layer: u64, native: &str, outside: &str) {
        let (router, gate) = (format!("{native}.router.gate.weight"), format!("{outside}.gate.weight"));
        builder.same(&router, &gate, &[self.experts, self.dim], normal(depth_std(layer)), None);
        let (bias, theirs) =
            (format!("{native}.expert_bias"), format!("{outside}.gate.e_score_correction_bias"));
        if self.is_v3 {
            builder.same(&bias, &theirs, &[self.experts], Init::Zeros, None);
            builder.last_is_always(DType::F32);
        } else {
            builder.bias_of_experts(bias, self.experts);
        }
        let sizes = [self.experts, self.expert_hidden, self.dim];
        builder.experts(layer, &format!("{native}.experts"), &format!("{outside}.experts"), sizes);
        if self.shared > 0 {
            let (ours, theirs) = (format!("{native}.shared_experts"), format!("{outside}.shared_experts"));
            builder.feed_forward(layer, &ours, &theirs, self.dim, self.shared * self.expert_hidden);
        }
    }

    fn config(&self) -> Config {
        let (architecture, model_type, method) = match (self.is_v3, self.groups) {
            (true, _) => ("DeepseekV3ForCausalLM", "deepseek_v3", "noaux_tc"),
            (false, 1) => ("DeepseekV2ForCausalLM", "deepseek_v2", "greedy"),
            (false, _) => ("DeepseekV2ForCausalLM", "deepseek_v2", "group_limited_greedy"),
        };
        let config = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden,
            "moe_intermediate_size": self.expert_hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocabulary,
            "n_routed_experts": self.experts,
            "num_experts_per_tok": self.chosen,
            "n_shared_experts": self.shared,
            "n_group": self.groups,
            "topk_group": self.chosen_groups,
            "routed_scaling_factor": self.route_scale,
            "norm_topk_prob": self.is_v3,
            "scoring_func": if self.is_v3 { "sigmoid" } else { "softmax" },
            "topk_method": method,
            "first_k_dense_replace": self.dense_layers,
            "moe_layer_freq": 1,
            "q_lora_rank": if self.q_lora == 0 { Value::Null } else { json!(self.q_lora) },
            "kv_lora_rank": self.kv_lora,
            "qk_nope_head_dim": self.nope,
            "qk_rope_head_dim": self.rope,
            "v_head_dim": self.value,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "rope_scaling": {
                "type": "yarn", "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": self.mscale,
                "mscale_all_dim": self.mscale, "original_max_position_embeddings": 4096,
            },
            "max_position_embeddings": 163_840,
            "num_nextn_predict_layers": 0,
            "tie_word_embeddings": false,
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "ep_size": 1,
            "use_cache": true,
            "bos_token_id": 0,
            "eos_token_id": 1,
        });
        object(config)
    }
}
