//! The step as a program: what a rank does in one training step, in order, as data.
//!
//! Sharding policy, prefetch, activation checkpointing and accumulation are choices of [`build`](build::build); a model
//! knows none of them. [`check`](check::check) runs a program on paper: every unit is there when it is used and gone when
//! it is not, every activation is made once and used up, and the most of each that is held at a time is counted. What
//! runs it for real and what simulates it read the same list.
//!
//! A *unit* is what fully sharded data parallelism gathers as one: the embedding, a block, the norm and output together
//! (PyTorch FSDP2, torchtitan 0.2 `apply_fsdp`). Where the output is the embedding, the last unit computes with the first
//! one's parameters as well. A *microbatch* is what passes through the model at a time.
//!
//! With [`pipeline`](crate::pipeline) parallelism a rank has some of the units, in one *stage* or several, and ranks send each
//! other what stages make: [`build_pipelined`].

mod build;
mod check;
mod instruction;
mod ledger;
mod passage;
mod pipelined;

pub use build::{Plan, Recompute, Reduction, Reshard, UnitPlan, build, build_evaluation};
pub use check::{Fault, HighWater, check};
pub use instruction::{Instruction, Keep, Microbatch, Unit};
pub(crate) use ledger::{Gradients, Kept, Ledger};
pub use pipelined::build_pipelined;

use crate::pipeline::Stage;
use std::ops::Range;

/// What a program is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To change the parameters.
    Train,
    /// To know the loss.
    Evaluate,
}

/// A stage of a rank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StageUnits {
    /// Which.
    pub stage: Stage,
    /// Units of the model that it has.
    pub units: Range<u32>,
}

/// One rank's step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// What it is for.
    pub purpose: Purpose,
    /// Units of the model, in the order of the forward pass, on all ranks of a pipeline.
    pub units: u32,
    /// Those that this rank has: all, in one stage, without a pipeline.
    pub stages: Vec<StageUnits>,
    /// Whether the last unit computes with the parameters of the first as well: the head is the embedding.
    pub is_tied: bool,
    /// Microbatches of the step.
    pub microbatches: u32,
    /// What to do, in this order. An instruction that begins communication does not wait for it.
    pub instructions: Vec<Instruction>,
}

impl Program {
    /// The units whose parameters a pass through a unit computes with: itself first.
    pub fn used(&self, unit: Unit) -> impl Iterator<Item = Unit> + use<> {
        used(unit, self.units, self.is_tied)
    }
}

/// As [`Program::used`].
fn used(unit: Unit, units: u32, is_tied: bool) -> impl Iterator<Item = Unit> {
    let shares_first = is_tied && unit.0 > 0 && unit.0 + 1 == units;
    [Some(unit), shares_first.then_some(Unit(0))].into_iter().flatten()
}
