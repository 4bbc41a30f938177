//! What the units of a model compute: their matrix products, attention, and what goes element by element, by the model's
//! parameters and config.

use crate::error::{Error, Result};
use convert::spec::{Model, Param};
use serde_json::Value;

/// What a unit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layer {
    /// Tokens in.
    Embedding,
    /// Attention and feed-forward.
    Block,
    /// Logits out.
    Head,
}

/// A matrix product with a weight, per token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Product {
    /// Columns of the weight.
    pub(super) inputs: u64,
    /// Its rows.
    pub(super) outputs: u64,
    /// Weights that a token is multiplied with; of experts several.
    pub(super) times: u64,
    /// Weights that there are.
    pub(super) weights: u64,
    /// The dim that tensor parallelism shards.
    pub(super) tp_dim: Option<usize>,
    /// Whether the product before has the same input.
    pub(super) shares_input: bool,
}

/// A unit, without regard to ranks.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Work {
    pub(super) layer: Layer,
    pub(super) products: Vec<Product>,
    /// Elements of parameters that tensor parallelism shards, and of others.
    pub(super) sharded: u64,
    pub(super) replicated: u64,
    /// Norms over the whole width.
    pub(super) norms: u64,
}

/// Sizes of a model that its units share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    /// Width of the residual stream.
    pub(super) dim: u64,
    /// Width of all queries, of all keys, and of all values.
    pub(super) queries: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    /// Width of what attention gives.
    pub(super) attended: u64,
    pub(super) vocabulary: u64,
}

impl Sizes {
    /// Those of a model.
    ///
    /// Errors: [`Error::NoFlops`] for a model without them, which is no stack of blocks over tokens.
    pub(super) fn of(model: &Model) -> Result<Self> {
        let text = model.config.get("text_config").and_then(Value::as_object).unwrap_or(&model.config);
        let bad = |why: String| Error::NoFlops { model: model.name(), why };
        let size = |name: &str| text.get(name).and_then(Value::as_u64).filter(|size| *size > 0);
        let must = |name: &str| size(name).ok_or_else(|| bad(format!("its config has no `{name}`")));
        let (dim, heads) = (must("hidden_size")?, must("num_attention_heads")?);
        let kv_heads = size("num_key_value_heads").unwrap_or(heads);
        let latent = size("kv_lora_rank").map(|_| -> Result<_> {
            Ok((must("qk_nope_head_dim")? + must("qk_rope_head_dim")?, must("v_head_dim")?))
        });
        let (head, value_head, kv_heads) = match latent.transpose()? {
            // Keys and values are made whole for every head.
            Some((head, value_head)) => (head, value_head, heads),
            None => {
                let head = size("head_dim").unwrap_or(dim / heads);
                (head, head, kv_heads)
            }
        };
        Ok(Sizes {
            dim,
            queries: heads * head,
            keys: kv_heads * head,
            values: kv_heads * value_head,
            attended: heads * value_head,
            vocabulary: must("vocab_size")?,
        })
    }
}

/// The work of every unit, in the order of the forward pass.
///
/// Errors: [`Error::NoFlops`] for a parameter that is of no unit, and for experts of which nothing says how many a token
/// uses.
pub(super) fn works(model: &Model, layers: u32) -> Result<Vec<Work>> {
    let last = layers as usize + 1;
    let mut units: Vec<Vec<&Param>> = vec![Vec::new(); last + 1];
    for param in &model.params {
        let block = param.fqn.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let block: Option<usize> = block.and_then(|(layer, _)| layer.parse().ok());
        let unit = match (&*param.fqn, block) {
            ("tok_embeddings.weight", _) => 0,
            ("norm.weight" | "output.weight", _) => last,
            (_, Some(block)) if block + 1 < last => block + 1,
            (fqn, _) => {
                let why = format!("`{fqn}` is of no unit of {layers} blocks: it is no stack that is cut so");
                return Err(Error::NoFlops { model: model.name(), why });
            }
        };
        units[unit].push(param);
    }
    let work = |(unit, mut params): (usize, Vec<&Param>)| {
        // A block's gate and up projections come before what takes their product.
        params
            .sort_by_key(|param| param.fqn.contains(".feed_forward.w2") || param.fqn.contains(".experts.w2"));
        let layer = match unit {
            0 => Layer::Embedding,
            unit if unit == last => Layer::Head,
            _ => Layer::Block,
        };
        of_unit(model, layer, &params)
    };
    units.into_iter().enumerate().map(work).collect()
}

fn of_unit(model: &Model, layer: Layer, params: &[&Param]) -> Result<Work> {
    let mut work = Work { layer, products: Vec::new(), sharded: 0, replicated: 0, norms: 0 };
    for param in params {
        let elements: u64 = param.shape.iter().product();
        match param.tp_dim {
            // It is multiplied with here, and is the embedding's.
            _ if model.tied.as_ref().is_some_and(|tied| tied.head == param.fqn) => {}
            Some(_) => work.sharded += elements,
            None => work.replicated += elements,
        }
        let (times, weights, shape) = match param.shape[..] {
            [_] if param.fqn.ends_with("norm.weight") => {
                work.norms += 1;
                continue;
            }
            // One number of each expert and output, added and not multiplied with.
            _ if param.fqn.ends_with("bias") => continue,
            [outputs, inputs] if layer != Layer::Embedding => (1, 1, [outputs, inputs]),
            [experts, outputs, inputs] => (experts_per_token(model)?, experts, [outputs, inputs]),
            _ => continue,
        };
        let [outputs, inputs] = shape;
        // Of an expert's weight the dims before are the experts.
        let tp_dim = param.tp_dim.map(|dim| dim + 2 - param.shape.len());
        let before = work.products.last();
        let shares_input = before.is_some_and(|before| {
            before.inputs == inputs
                && before.tp_dim == Some(0)
                && tp_dim == Some(0)
                && before.weights == weights
        });
        // Queries, keys and values of one input; then gate and up.
        let shares_input =
            shares_input && !param.fqn.ends_with("w1.weight") && !param.fqn.ends_with("experts.w1");
        work.products.push(Product { inputs, outputs, times, weights, tp_dim, shares_input });
    }
    Ok(work)
}

fn experts_per_token(model: &Model) -> Result<u64> {
    let text = model.config.get("text_config").and_then(Value::as_object).unwrap_or(&model.config);
    let names = ["num_experts_per_tok", "experts_per_token"];
    let found = names.iter().find_map(|name| text.get(*name)?.as_u64());
    let why = || "its config does not say how many experts a token uses".to_owned();
    found.ok_or_else(|| Error::NoFlops { model: model.name(), why: why() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use convert::families;

    #[test]
    fn a_block_has_the_products_of_its_parameters_in_their_order() {
        let model = families::by_name("llama3:8B").unwrap();
        let works = works(&model, 32).unwrap();
        assert_eq!(works.len(), 34);
        let products = |work: &Work| -> Vec<_> {
            let of = |product: &Product| (product.outputs, product.inputs, product.shares_input);
            work.products.iter().map(of).collect()
        };
        assert_eq!(
            products(&works[1]),
            [
                (4096, 4096, false),
                (1024, 4096, true),
                (1024, 4096, true),
                (4096, 4096, false),
                (14336, 4096, false),
                (14336, 4096, true),
                (4096, 14336, false)
            ]
        );
        assert_eq!((products(&works[0]), products(&works[33])), (vec![], vec![(128_256, 4096, false)]));
        assert_eq!((works[1].norms, works[33].norms, works[1].replicated), (2, 1, 2 * 4096));
        let all: u64 = works.iter().map(|work| work.sharded + work.replicated).sum();
        assert_eq!(all, 8_030_261_248);
    }

    /// Their operations are those that utilisation is counted by, attention and the embedding left out.
    #[test]
    fn products_are_the_active_parameters() {
        for name in families::names().into_iter().filter(|name| !name.starts_with("flux:")) {
            let model = families::by_name(&name).unwrap();
            let layers = model.config.get("text_config").unwrap_or(&Value::Null).get("num_hidden_layers");
            let layers = layers.or(model.config.get("num_hidden_layers")).and_then(Value::as_u64).unwrap();
            let works = works(&model, layers as u32).unwrap();
            let products = works.iter().flat_map(|work| &work.products);
            let multiplied: u64 =
                products.map(|product| product.inputs * product.outputs * product.times).sum();
            let active = crate::flops::parameters(&model).unwrap().active;
            let share = multiplied as f64 / active as f64;
            // Norms and biases are the rest. A head that is the embedding is multiplied with and not counted there.
            assert!(model.tied.is_some() || (0.995..=1.0).contains(&share), "{name}: {share}");
            Sizes::of(&model).unwrap();
        }
    }

    #[test]
    fn what_is_no_stack_is_told() {
        let flux = families::by_name("flux:flux-debug").unwrap();
        assert!(works(&flux, 2).unwrap_err().to_string().contains("is of no unit of 2 blocks"));
    }
}
