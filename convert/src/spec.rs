//! What a model is made of.

use crate::dialect::DIALECTS;
use crate::init::Init;
use crate::link::Link;
use dcp::model::{DType, Fqn};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A Hugging Face `config.json`.
pub type Config = Map<String, Value>;

/// One parameter, or buffer that is saved with them.
#[derive(Clone, PartialEq, Debug)]
pub struct Param {
    /// Its name in the dialect `torchtitan-0.2`.
    pub fqn: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The type that it always has; `None` where the run chooses.
    pub dtype: Option<DType>,
    /// How it begins.
    pub init: Init,
    /// The dim that tensor parallelism shards.
    pub tp_dim: Option<usize>,
    /// The dim that expert parallelism shards.
    pub ep_dim: Option<usize>,
}

/// Which directions a link is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Both.
    Both,
    /// From outside to native only: the outside tensor is the source of more than one native tensor.
    InwardOnly,
    /// From outside to native, in place of those in both directions, where the outside has a tensor of this name.
    Instead,
}

/// A model of a family, sized.
#[derive(Clone, Debug)]
pub struct Model {
    /// The family.
    pub family: &'static str,
    /// The flavor, where it is one; else what it was made of.
    pub flavor: String,
    /// Every parameter, in the order in which the module registers them.
    pub params: Vec<Param>,
    /// Every element of both sides once in each direction, in the outside's order.
    pub links: Vec<(Link, Direction)>,
    /// The same in tensors that hold several native ones together, each native element once: the outside end is such a
    /// tensor of a native checkpoint.
    pub fused: Vec<Link>,
    /// The model as one by itself, where the outside has it as part of a larger one.
    pub alone: Option<Box<Model>>,
    /// Parameters that the outside does not have, and why: dropped on the way out, zeros on the way in.
    pub native_only: Vec<(String, &'static str)>,
    /// Patterns of the outside's names that have no home here, and why; `*` is any run of characters.
    pub outside_only: Vec<(String, &'static str)>,
    /// Names of head and embedding, native and outside, where one tensor serves as both outside.
    pub tied: Option<Tied>,
    /// What Hugging Face is told of it.
    pub config: Config,
    /// The same with all that its module computes with, where a config leaves some of it to defaults or has other names.
    pub settings: Config,
    /// What the names of the outside's files begin with.
    pub stem: &'static str,
}

/// One tensor that serves as head and embedding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tied {
    /// The native head.
    pub head: String,
    /// The native embedding.
    pub embedding: String,
    /// The outside's name of a head, which is then not written.
    pub outside_head: String,
}

impl Model {
    /// `family` and flavor, for people.
    pub fn name(&self) -> String {
        format!("{} {}", self.family, self.flavor)
    }

    /// Number of parameters, buffers included.
    pub fn elements(&self) -> u64 {
        self.params.iter().map(|param| param.shape.iter().product::<u64>()).sum()
    }

    /// The dim that tensor parallelism cuts, of each of these native names, in any dialect; optimizer state follows its
    /// parameter.
    pub fn tp_dims<'a>(&self, names: impl Iterator<Item = &'a Fqn>) -> BTreeMap<Fqn, u32> {
        let dims = self.by_name(|param| param.tp_dim.map(|dim| dim as u32));
        names.filter_map(|name| Some((name.clone(), *dims.get(parameter_of(name.as_str()))?))).collect()
    }

    /// Those of these native names, in any dialect, that have one part per expert along their first dim; optimizer state
    /// follows its parameter.
    pub fn expert_names<'a>(&self, names: impl Iterator<Item = &'a Fqn>) -> BTreeSet<Fqn> {
        let of_experts = self.by_name(|param| param.ep_dim);
        names.filter(|name| of_experts.contains_key(parameter_of(name.as_str()))).cloned().collect()
    }

    /// Those of these names, of either side, whose type is the model's and not the run's.
    pub fn keep_dtype<'a>(&self, names: impl Iterator<Item = &'a Fqn>) -> BTreeSet<Fqn> {
        let kept = self.by_name(|param| param.dtype);
        let outside = self.links.iter().filter(|(link, _)| kept.contains_key(&link.native.name));
        let outside: HashSet<&str> = outside.map(|(link, _)| link.outside.name.as_str()).collect();
        names
            .filter(|name| kept.contains_key(name.as_str()) || outside.contains(name.as_str()))
            .cloned()
            .collect()
    }

    /// Something of the parameters that have it, under their names in every dialect.
    fn by_name<T: Clone>(&self, of: impl Fn(&Param) -> Option<T>) -> HashMap<String, T> {
        let found = self.params.iter().filter_map(|param| Some((param, of(param)?)));
        found
            .flat_map(|(param, value)| {
                DIALECTS.iter().map(move |dialect| (dialect.name_of(&param.fqn), value.clone()))
            })
            .collect()
    }
}

/// The parameter that a name of the optimizer's state is about: `optimizer.state.NAME.exp_avg`.
fn parameter_of(name: &str) -> &str {
    let state = name.strip_prefix("optimizer.state.").and_then(|name| name.rsplit_once('.'));
    state.map_or(name, |(parameter, _)| parameter)
}
