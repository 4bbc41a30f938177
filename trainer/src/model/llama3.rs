//! Llama 3, as torchtitan 0.2's `models/llama3/model/model.py` computes it.

use super::rope::{Rope, Scaling, turn};
use super::{Model, Params, UnitSpec, units_of_stack};
use crate::error::{Error, Result};
use convert::spec;
use serde_json::Value;
use std::ops::Range;
use tch::{Device, Tensor};

/// A stack of blocks of attention and feed-forward, each after a norm and beside a residual.
#[derive(Debug)]
pub struct Llama3 {
    spec: spec::Model,
    units: Vec<UnitSpec>,
    layers: usize,
    dim: i64,
    head_dim: i64,
    norm_eps: f64,
    /// Complex `[sequence, head_dim / 2]`.
    rope: Tensor,
    /// The parameter that makes logits.
    head: String,
}

impl Llama3 {
    /// The model of a spec, for sequences of up to `positions` tokens.
    ///
    /// Errors: [`Error::Usage`] for a spec of another family.
    pub fn new(spec: spec::Model, positions: i64, device: Device) -> Result<Self> {
        let name = spec.name();
        let bad = |why: &str| Error::Usage(format!("{name}: {why}"));
        if spec.family != "llama3" {
            return Err(bad("not of the family llama3"));
        }
        let size = |key: &str| {
            spec.settings
                .get(key)
                .and_then(Value::as_i64)
                .ok_or_else(|| bad(&format!("no `{key}` in its config")))
        };
        let number = |value: Option<&Value>, key: &str| {
            value.and_then(Value::as_f64).ok_or_else(|| bad(&format!("no `{key}` in its config")))
        };
        let scaling = match spec.settings.get("rope_scaling").filter(|scaling| !scaling.is_null()) {
            None => None,
            Some(scaling) => {
                let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
                if kind != Some("llama3") {
                    return Err(bad(&format!(
                        "its rope_scaling is {scaling}; only that of Llama 3 is computed"
                    )));
                }
                let of = |key: &str| number(scaling.get(key), key);
                Some(Scaling {
                    factor: of("factor")?,
                    low_freq_factor: of("low_freq_factor")?,
                    high_freq_factor: of("high_freq_factor")?,
                    original_positions: of("original_max_position_embeddings")?,
                })
            }
        };
        let rope = Rope { theta: number(spec.settings.get("rope_theta"), "rope_theta")?, scaling };
        let (head_dim, layers) = (size("head_dim")?, size("num_hidden_layers")? as usize);
        let dim = size("hidden_size")?;
        let norm_eps = number(spec.settings.get("rms_norm_eps"), "rms_norm_eps")?;
        let rope = rope.table(head_dim, positions, device)?;
        let units = units_of_stack(&spec, layers)?;
        let head = spec.tied.as_ref().map_or("output.weight", |tied| &tied.embedding).to_owned();
        Ok(Llama3 { spec, units, layers, dim, head_dim, norm_eps, rope, head })
    }

    fn norm(&self, input: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Ok(input.f_rms_norm(weight.size(), Some(weight), self.norm_eps)?)
    }

    fn block(&self, params: &Params, input: &Tensor) -> Result<Tensor> {
        let normed = params.cheap(|| self.norm(input, params.get("attention_norm.weight")?))?;
        let mixed = self.attention(params, &params.whole_sequence(&normed)?)?;
        let attended = params.cheap(|| Ok(input.f_add(&mixed)?))?;
        let normed = params.cheap(|| self.norm(&attended, params.get("ffn_norm.weight")?))?;
        let forwarded = feed_forward(params, &params.whole_sequence(&normed)?)?;
        Ok(attended.f_add(&forwarded)?)
    }

    /// Causal, over `[batch, sequence, dim]`, with the heads that this rank has.
    fn attention(&self, params: &Params, input: &Tensor) -> Result<Tensor> {
        let (batch, sequence, _) = input.size3()?;
        let project = |name: &str| -> Result<Tensor> {
            Ok(params.product(name, input)?.f_view([batch, sequence, -1, self.head_dim])?)
        };
        let table = params.own_positions(&self.rope, sequence)?;
        let turned = |states: &Tensor| -> Result<Tensor> {
            Ok(params.cheap(|| turn(states, &table))?.f_transpose(1, 2)?)
        };
        let query = turned(&project("attention.wq.weight")?)?;
        let key = turned(&project("attention.wk.weight")?)?;
        let value = project("attention.wv.weight")?.f_transpose(1, 2)?;
        let mixed = params.attention(&query, &key, &value)?;
        params.product_over_parts("attention.wo.weight", &mixed)
    }
}

/// `w2(silu(w1 x) w3 x)`.
fn feed_forward(params: &Params, input: &Tensor) -> Result<Tensor> {
    let gate = params.product("feed_forward.w1.weight", input)?;
    let gate = params.cheap(|| Ok(gate.f_silu()?))?;
    let up = params.product("feed_forward.w3.weight", input)?;
    let gated = params.cheap(|| Ok(gate.f_mul(&up)?))?;
    params.product_over_parts("feed_forward.w2.weight", &gated)
}

impl Model for Llama3 {
    fn spec(&self) -> &spec::Model {
        &self.spec
    }

    fn units(&self) -> &[UnitSpec] {
        &self.units
    }

    fn blocks(&self) -> Range<usize> {
        1..self.layers + 1
    }

    fn between(&self, tokens: &[i64]) -> Vec<i64> {
        [tokens, &[self.dim]].concat()
    }

    fn forward(&self, unit: usize, params: &Params, input: &Tensor) -> Result<Tensor> {
        if unit == 0 {
            return params.embedding("tok_embeddings.weight", input);
        }
        if unit <= self.layers {
            return self.block(params, input);
        }
        let normed = self.norm(input, params.get("norm.weight")?)?;
        params.logits(&self.head, &normed)
    }
}
