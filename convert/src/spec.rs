//! What a model is made of.

use crate::init::Init;
use crate::link::Link;
use dcp::model::DType;
use serde_json::{Map, Value};

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
    /// Parameters that the outside does not have, and why: dropped on the way out, zeros on the way in.
    pub native_only: Vec<(String, &'static str)>,
    /// Patterns of the outside's names that have no home here, and why; `*` is any run of characters.
    pub outside_only: Vec<(String, &'static str)>,
    /// Names of head and embedding, native and outside, where one tensor serves as both outside.
    pub tied: Option<Tied>,
    /// What Hugging Face is told of it.
    pub config: Config,
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
}
