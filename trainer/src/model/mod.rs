//! Models as functions of one device: parameters by name and an input in, an output out. What a model is made of is in
//! [`convert::spec::Model`]; a model here may not name a parameter that the spec does not have.
//!
//! What ranks share reaches a model through [`Params`] alone: its parameters are this rank's parts, as many heads as there
//! are in them, and where a sequence or a sum must be whole, an operation of [`Params`] makes it so.

mod llama3;
mod rope;

pub use llama3::Llama3;

use crate::deferred::Products;
use crate::error::{Error, Result};
use crate::parallel::Parallel;
use crate::tape::Tape;
use convert::spec;
use tch::{Device, Tensor};

/// What is gathered, computed and differentiated as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitSpec {
    /// What the names of its parameters begin with; a model names them without.
    pub prefix: String,
    /// Its parameters, as positions in the model's list.
    pub params: Vec<usize>,
}

/// A model that can be trained.
pub trait Model {
    /// What it is made of.
    fn spec(&self) -> &spec::Model;

    /// Its units, in the order of the forward pass.
    fn units(&self) -> &[UnitSpec];

    /// The units whose activations may be computed again: the blocks.
    fn blocks(&self) -> std::ops::Range<usize>;

    /// The shape of what goes from unit to unit, for tokens of a shape.
    fn between(&self, tokens: &[i64]) -> Vec<i64>;

    /// The forward pass of a unit. The first takes tokens, int64 `[batch, sequence]`; the last gives logits
    /// `[batch, sequence, vocabulary]`, as [`Params::logits`] makes them. What of it may be computed again on its own goes
    /// through [`Params::product`], [`Params::dear`] and [`Params::cheap`]; the rest is kept. Where the spec says that the head
    /// is the embedding, the last unit finds the first one's parameters among its own.
    ///
    /// Errors: what libtorch gives.
    fn forward(&self, unit: usize, params: &Params, input: &Tensor) -> Result<Tensor>;
}

/// Makes a model of a spec, for sequences of up to so many tokens.
type Build = fn(spec::Model, i64, Device) -> Result<Box<dyn Model>>;

/// Families that can be trained. To add one: a line here.
static TRAINABLE: &[(&str, Build)] =
    &[("llama3", |spec, positions, device| Ok(Box::new(Llama3::new(spec, positions, device)?)))];

/// The model of a spec, for sequences of up to `positions` tokens.
///
/// Errors: [`Error::Usage`] for a family that cannot be trained; as of the model.
pub fn build(spec: spec::Model, positions: i64, device: Device) -> Result<Box<dyn Model>> {
    let Some((_, build)) = TRAINABLE.iter().find(|(family, _)| *family == spec.family) else {
        let known: Vec<_> = TRAINABLE.iter().map(|(family, _)| *family).collect();
        return Err(Error::Usage(format!(
            "model.name = \"{}\": this version does not train it; it trains {}. `titan-ckpt` converts, reshards and seeds \
             its checkpoints",
            spec.family,
            known.join(", ")
        )));
    };
    build(spec, positions, device)
}

/// How many tokens a model knows: rows of its embedding.
pub fn vocabulary(spec: &spec::Model) -> Option<u64> {
    let embedding = spec.params.iter().find(|param| param.fqn == "tok_embeddings.weight");
    embedding.and_then(|param| param.shape.first().copied())
}

/// The parameters of one unit that a rank computes with, the ranks that have the rest, and what becomes of outputs.
#[derive(Debug)]
pub struct Params<'a> {
    names: &'a [String],
    tensors: &'a [Tensor],
    /// Those of another unit that this one computes with as well.
    shared: Option<(&'a [String], &'a [Tensor])>,
    parallel: &'a Parallel,
    tape: Option<&'a Tape>,
    products: Option<&'a Products>,
}

impl<'a> Params<'a> {
    /// `names` without the unit's prefix, and a tensor for each.
    pub fn new(names: &'a [String], tensors: &'a [Tensor], parallel: &'a Parallel) -> Self {
        Params { names, tensors, shared: None, parallel, tape: None, products: None }
    }

    /// With those of another unit, likewise, that this one shares.
    pub fn sharing(self, names: &'a [String], tensors: &'a [Tensor]) -> Self {
        Params { shared: Some((names, tensors)), ..self }
    }

    /// With what the outputs of operations are kept in.
    pub fn on_tape(self, tape: Option<&'a Tape>) -> Self {
        Params { tape, ..self }
    }

    /// With where products of weights put off the weights' gradients to.
    pub fn put_off(self, products: Option<&'a Products>) -> Self {
        Params { products, ..self }
    }

    /// The matrix product of an input `[.., in]` and a weight `[out, in]`: this rank's part of the outputs, where the weight
    /// is cut.
    ///
    /// Errors: as of [`Params::get`]; what libtorch gives.
    pub fn product(&self, name: &str, input: &Tensor) -> Result<Tensor> {
        let weight = self.get(name)?;
        let compute = || self.linear(weight, input);
        match self.tape {
            Some(tape) => tape.product(weight, false, compute),
            None => compute(),
        }
    }

    fn linear(&self, weight: &Tensor, input: &Tensor) -> Result<Tensor> {
        match self.products {
            Some(products) => products.product(weight, input),
            None => Ok(input.f_linear(weight, None::<&Tensor>)?),
        }
    }

    /// The same with a weight whose inputs are cut, `[batch, sequence, in]`: of the sum over ranks this rank's part of the
    /// sequence. What other ranks have sent is kept.
    ///
    /// Errors: as of [`Params::get`]; what libtorch and the collective give.
    pub fn product_over_parts(&self, name: &str, input: &Tensor) -> Result<Tensor> {
        let weight = self.get(name)?;
        let compute = || self.parallel.part_of_sequence(&self.linear(weight, input)?);
        match self.tape {
            Some(tape) => tape.product(weight, self.parallel.has_parts(), compute),
            None => compute(),
        }
    }

    /// The whole sequence, `[batch, sequence, ..]`, of this rank's part.
    ///
    /// Errors: what the collective gives.
    pub fn whole_sequence(&self, part: &Tensor) -> Result<Tensor> {
        match self.parallel.has_parts() {
            true => self.cheap(|| self.parallel.whole_sequence(part)),
            false => Ok(part.shallow_clone()),
        }
    }

    /// Of a table with a row for every position, the rows of the positions that this rank has: `part` of each sequence.
    ///
    /// Errors: what libtorch gives.
    pub fn own_positions(&self, table: &Tensor, part: i64) -> Result<Tensor> {
        self.parallel.own_positions(table, part)
    }

    /// Causal attention, `[batch, heads, sequence, head_dim]` each, to the whole sequence, its heads side by side:
    /// `[batch, sequence, heads x head_dim]`. Keys and values may have fewer heads. It is kept.
    ///
    /// Errors: what libtorch and the collectives give.
    pub fn attention(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        self.dear(|| Ok(self.parallel.attention(query, key, value)?.f_transpose(1, 2)?.f_flatten(2, 3)?))
    }

    /// The rows of tokens in an embedding: this rank's part of the sequence.
    ///
    /// Errors: as of [`Params::get`]; what libtorch and the collective give.
    pub fn embedding(&self, name: &str, tokens: &Tensor) -> Result<Tensor> {
        self.parallel.embedding(self.get(name)?, tokens)
    }

    /// The product with a head of this rank's part of the sequence, as the loss wants it.
    ///
    /// Errors: as of [`Params::product`]; what the collective gives.
    pub fn logits(&self, name: &str, part: &Tensor) -> Result<Tensor> {
        self.parallel.logits(&self.product(name, &self.whole_sequence(part)?)?)
    }

    /// What is dear to compute: it is kept where not everything is.
    ///
    /// Errors: what `compute` gives.
    pub fn dear(&self, compute: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        match self.tape {
            Some(tape) => tape.output(true, compute),
            None => compute(),
        }
    }

    /// What is cheap to compute again. It has memory of its own: it is no view of anything else.
    ///
    /// Errors: what `compute` gives.
    pub fn cheap(&self, compute: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        match self.tape {
            Some(tape) => tape.output(false, compute),
            None => compute(),
        }
    }

    /// One of them, or of those that are shared.
    ///
    /// Errors: [`Error::Usage`] where there is no such parameter: the model and its spec do not fit.
    pub fn get(&self, name: &str) -> Result<&'a Tensor> {
        let mut all = [Some((self.names, self.tensors)), self.shared].into_iter().flatten();
        let found = all.find_map(|(names, tensors)| {
            names.iter().position(|candidate| candidate == name).map(|index| &tensors[index])
        });
        found.ok_or_else(|| {
            Error::Usage(format!("the unit has no parameter `{name}`; it has {}", self.names.join(", ")))
        })
    }
}

/// The units of a stack of blocks: the embedding; each block; norm and head together. A head that is the embedding is of the
/// first alone, which the last shares.
///
/// Errors: [`Error::Usage`] where the spec has a parameter that belongs to none.
fn units_of_stack(model: &spec::Model, layers: usize) -> Result<Vec<UnitSpec>> {
    let unit = |prefix: &str| UnitSpec { prefix: prefix.to_owned(), params: Vec::new() };
    let mut units = vec![unit("")];
    units.extend((0..layers).map(|layer| unit(&format!("layers.{layer}."))));
    units.push(unit(""));
    let is_second = |param: &spec::Param| model.tied.as_ref().is_some_and(|tied| tied.head == param.fqn);
    for (index, param) in model.params.iter().enumerate().filter(|(_, param)| !is_second(param)) {
        let of_layer = param.fqn.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let of_layer: Option<usize> = of_layer.and_then(|(layer, _)| layer.parse().ok());
        let unit = match (&*param.fqn, of_layer) {
            ("tok_embeddings.weight", _) => 0,
            ("norm.weight" | "output.weight", _) => layers + 1,
            (_, Some(layer)) if layer < layers => layer + 1,
            (fqn, _) => return Err(Error::Usage(format!("`{fqn}` belongs to no unit of {layers} layers"))),
        };
        units[unit].params.push(index);
    }
    Ok(units)
}
