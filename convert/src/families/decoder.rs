//! What most families share: a stack of pre-norm blocks between an embedding and a head.

use crate::init::Init;
use crate::link::{End, Link};
use crate::spec::{Config, Direction, Model, Param, Tied};
use dcp::model::DType;

/// The usual spread of a weight.
pub(super) const STD: f64 = 0.02;

const EMBEDDING: &str = "tok_embeddings.weight";

/// Collects parameters and links, in the order of the outside's files.
#[derive(Debug)]
pub(super) struct Builder {
    /// The outside's name of the head.
    pub(super) outside_head: String,
    pub(super) params: Vec<Param>,
    pub(super) links: Vec<(Link, Direction)>,
    pub(super) fused: Vec<Link>,
    pub(super) native_only: Vec<(String, &'static str)>,
    pub(super) tied: Option<Tied>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            outside_head: "lm_head.weight".to_owned(),
            params: Vec::new(),
            links: Vec::new(),
            fused: Vec::new(),
            native_only: Vec::new(),
            tied: None,
        }
    }
}

/// Dims of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) dim: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    /// Natively pairs of neighbours, outside two halves.
    pub(super) is_permuted: bool,
    /// Of the embeddings of each head, before they are turned.
    pub(super) has_norms: bool,
}

/// The usual start of a weight: TorchTitan's bounds are absolute.
pub(super) fn normal(std: f64) -> Init {
    Init::TruncatedNormal { std, bound: 2.0 }
}

/// The spread of a layer's outputs into the residual stream, counted from 0.
pub(super) fn depth_std(layer: u64) -> f64 {
    STD / (2.0 * (layer + 1) as f64).sqrt()
}

impl Builder {
    /// A parameter, without a place outside.
    pub(super) fn param(
        &mut self,
        fqn: &str,
        shape: &[u64],
        init: Init,
        tp_dim: Option<usize>,
    ) -> &mut Param {
        let (fqn, shape) = (fqn.to_owned(), shape.to_vec());
        self.params.push(Param { fqn, shape, dtype: None, init, tp_dim, ep_dim: None });
        let last = self.params.len() - 1;
        &mut self.params[last]
    }

    pub(super) fn link(&mut self, link: Link) {
        self.links.push((link, Direction::Both));
    }

    /// A parameter that is the same outside, under another name.
    pub(super) fn same(
        &mut self,
        native: &str,
        outside: &str,
        shape: &[u64],
        init: Init,
        tp_dim: Option<usize>,
    ) {
        self.param(native, shape, init, tp_dim);
        self.link(Link::same(native, outside, shape));
    }

    /// From outside to native in place of the links in both directions, where there is such a tensor.
    pub(super) fn instead(&mut self, link: Link) {
        self.links.push((link, Direction::Instead));
    }

    /// The last parameter has this type whatever the others have.
    pub(super) fn last_is_always(&mut self, dtype: DType) {
        self.params.iter_mut().last().into_iter().for_each(|param| param.dtype = Some(dtype));
    }

    /// The last parameter has one part for each expert.
    pub(super) fn last_is_of_experts(&mut self) {
        self.params.iter_mut().last().into_iter().for_each(|param| param.ep_dim = Some(0));
    }

    /// What balances experts without a loss, where the outside has no such thing.
    pub(super) fn bias_of_experts(&mut self, native: String, experts: u64) {
        self.param(&native, &[experts], Init::Zeros, None);
        self.last_is_always(DType::F32);
        self.native_only.push((native, "transformers routes without it"));
    }

    /// The two norms of a block.
    pub(super) fn block_norms(&mut self, native: &str, outside: &str, dim: u64) {
        for (ours, theirs) in
            [("attention_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")]
        {
            self.norm(&format!("{native}.{ours}.weight"), &format!("{outside}.{theirs}.weight"), dim);
        }
    }

    /// The model of what was collected.
    pub(super) fn model(self, family: &'static str, flavor: String, config: Config) -> Model {
        Model {
            family,
            flavor,
            params: self.params,
            links: self.links,
            fused: self.fused,
            alone: None,
            native_only: self.native_only,
            outside_only: vec![("*.rotary_emb.inv_freq".to_owned(), "computed from the config")],
            tied: self.tied,
            settings: config.clone(),
            config,
            stem: "model",
        }
    }

    pub(super) fn norm(&mut self, native: &str, outside: &str, dim: u64) {
        self.same(native, outside, &[dim], Init::Ones, None);
    }

    pub(super) fn embedding(&mut self, outside: &str, vocabulary: u64, dim: u64) {
        let init = Init::Normal { std: 1.0 };
        self.same(EMBEDDING, outside, &[vocabulary, dim], init, Some(0));
    }

    /// The head; where it is tied, the embedding is its source on the way in.
    pub(super) fn head(&mut self, outside_embedding: &str, vocabulary: u64, dim: u64, is_tied: bool) {
        let (native, outside) = ("output.weight", self.outside_head.clone());
        let std = (dim as f64).powf(-0.5);
        let init = Init::TruncatedNormal { std, bound: 3.0 * std };
        self.param(native, &[vocabulary, dim], init, Some(0));
        // One tensor under two names: the head's values.
        let embedding = self.params.iter_mut().find(|param| is_tied && param.fqn == EMBEDDING);
        embedding.into_iter().for_each(|embedding| embedding.init = init);
        let link =
            Link::same(native, if is_tied { outside_embedding } else { &*outside }, &[vocabulary, dim]);
        self.links.push((link, if is_tied { Direction::InwardOnly } else { Direction::Both }));
        self.tied = is_tied.then(|| Tied {
            head: native.to_owned(),
            embedding: EMBEDDING.to_owned(),
            outside_head: outside,
        });
    }

    /// Queries, keys and values of a group together, as the main branch of 2026 had them for a time: for every head of keys
    /// the heads of queries that share it, its keys and its values. `columns` are the dims of a row.
    pub(super) fn fused(&mut self, native: &str, kind: &str, sizes: [u64; 3], columns: &[u64]) {
        let [heads, kv_heads, head_dim] = sizes;
        if !heads.is_multiple_of(kv_heads) {
            return;
        }
        let (each, fused) = (heads / kv_heads, format!("{native}.qkv_linear.wqkv.{kind}"));
        for (name, first, count) in [("wq", 0, each), ("wk", each, 1), ("wv", each + 1, 1)] {
            let end = |name: String, first: u64, heads: u64| End {
                name,
                start: std::iter::once(first * head_dim).chain(columns.iter().map(|_| 0)).collect(),
                steps: [(0, heads * head_dim), (0, 1)]
                    .into_iter()
                    .chain((1..=columns.len()).map(|dim| (dim, 1)))
                    .collect(),
            };
            self.fused.push(Link {
                extent: [kv_heads, count * head_dim].into_iter().chain(columns.iter().copied()).collect(),
                native: end(format!("{native}.{name}.{kind}"), 0, count),
                outside: end(fused.clone(), first, each + 2),
            });
        }
    }

    /// Queries, keys, values and output of `layers.N`.
    pub(super) fn attention(&mut self, layer: u64, native: &str, outside: &str, sizes: &Attention) {
        let Attention { dim, heads, kv_heads, head_dim, .. } = *sizes;
        self.fused(native, "weight", [heads, kv_heads, head_dim], &[dim]);
        let init = normal(STD);
        for (name, theirs, heads) in [("wq", "q_proj", heads), ("wk", "k_proj", kv_heads)] {
            let (native, outside) = (format!("{native}.{name}.weight"), format!("{outside}.{theirs}.weight"));
            let shape = [heads * head_dim, dim];
            self.param(&native, &shape, init, Some(0));
            self.link(match sizes.is_permuted {
                true => Link::rotary(native, outside, &shape, heads),
                false => Link::same(native, outside, &shape),
            });
        }
        let (ours, theirs) = (format!("{native}.wv.weight"), format!("{outside}.v_proj.weight"));
        self.same(&ours, &theirs, &[kv_heads * head_dim, dim], init, Some(0));
        let (ours, theirs) = (format!("{native}.wo.weight"), format!("{outside}.o_proj.weight"));
        let init = normal(depth_std(layer));
        self.same(&ours, &theirs, &[dim, heads * head_dim], init, Some(1));
        if sizes.has_norms {
            for name in ["q_norm", "k_norm"] {
                self.norm(&format!("{native}.{name}.weight"), &format!("{outside}.{name}.weight"), head_dim);
            }
        }
    }

    /// Gate, up and down of a feed-forward network.
    pub(super) fn feed_forward(&mut self, layer: u64, native: &str, outside: &str, dim: u64, hidden: u64) {
        for (ours, theirs) in [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")] {
            let std = if ours == "w1" { STD } else { depth_std(layer) };
            let (shape, tp_dim) = if ours == "w2" { ([dim, hidden], 1) } else { ([hidden, dim], 0) };
            let (ours, theirs) = (format!("{native}.{ours}.weight"), format!("{outside}.{theirs}.weight"));
            let init = normal(std);
            self.same(&ours, &theirs, &shape, init, Some(tp_dim));
        }
    }

    /// Experts that are one stack natively, and tensors of their own outside.
    pub(super) fn experts(&mut self, layer: u64, native: &str, outside: &str, sizes: [u64; 3]) {
        let [experts, hidden, dim] = sizes;
        let mut stack = Vec::new();
        for (ours, theirs) in [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")] {
            let std = if ours == "w1" { STD } else { depth_std(layer) };
            let (shape, tp_dim) = if ours == "w2" { ([dim, hidden], 2) } else { ([hidden, dim], 1) };
            let native = format!("{native}.{ours}");
            let init = normal(std);
            let param = self.param(&native, &[experts, shape[0], shape[1]], init, Some(tp_dim));
            param.ep_dim = Some(0);
            stack.push((native, theirs, shape));
        }
        for expert in 0..experts {
            for (native, theirs, shape) in &stack {
                let outside = format!("{outside}.{expert}.{theirs}.weight");
                self.link(Link::same(native.clone(), outside, shape).in_native_stack(expert));
            }
        }
        // As transformers 5 holds them in memory, and some repositories on disk: gate above up, one stack.
        let (gate_up, down) = (format!("{outside}.gate_up_proj"), format!("{outside}.down_proj"));
        for (native, theirs, shape) in stack {
            let shape = [experts, shape[0], shape[1]];
            let start = if theirs == "up_proj" { hidden } else { 0 };
            let theirs = if theirs == "down_proj" { &down } else { &gate_up };
            self.instead(Link::same(native, theirs.clone(), &shape).outside_from(&[0, start, 0]));
        }
    }
}
