//! Pipeline parallelism as data: which rank has which part of a model, and in which order it computes.
//!
//! A *stage* is a run of units of the model, in the order of the forward pass. A rank has one stage or several. What goes
//! through a stage at a time is a *microbatch*. A schedule says what every rank computes, in order ([`Action`]);
//! [`communicate`] puts what ranks send each other between ([`Move`]), and [`check`] runs all ranks together on paper.
//!
//! Sources: torch/distributed/pipelining/schedules.py of PyTorch 2.11, whose lists are the same, action by action; and
//! torchtitan/distributed/pipeline_parallel.py of TorchTitan 0.2.2, which cuts models into the same stages.

mod action;
mod check;
mod communicate;
pub mod csv;
mod error;
mod order;
mod picture;
pub mod schedules;
mod split;

pub use action::{Action, Message, Move, Pass, Payload, Stage};
pub use check::{Fault, Held, check};
pub use communicate::{Communicated, Timed, communicate};
pub use error::PipelineError;
pub use order::Order;
pub use picture::pictures;
pub use schedules::{MicrobatchRule, SCHEDULES, Schedule, StagesRule};
pub use split::{split, split_by_names, stages};

use crate::config::Parallelism;
use crate::program::{Microbatch, Purpose};

/// The size of a pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Ranks of one pipeline.
    pub ranks: u32,
    /// Stages that each of them has.
    pub stages_per_rank: u32,
    /// Microbatches that go through it.
    pub microbatches: u32,
}

impl Shape {
    /// Actions of all ranks at most: what a configuration asks for by mistake should not take all memory.
    pub const ACTIONS_MAX: u64 = 1 << 24;

    /// Stages of all ranks.
    pub fn stages(&self) -> u32 {
        self.ranks.saturating_mul(self.stages_per_rank)
    }

    /// Errors: [`PipelineError::Empty`] and [`PipelineError::TooLarge`].
    fn check(&self) -> Result<(), PipelineError> {
        let Shape { ranks, stages_per_rank, microbatches } = *self;
        if ranks == 0 || stages_per_rank == 0 || microbatches == 0 {
            return Err(PipelineError::Empty { ranks, stages_per_rank, microbatches });
        }
        let actions = [ranks, stages_per_rank, microbatches].map(u64::from);
        // A forward pass, and a backward pass in two parts.
        let actions = actions.iter().fold(3, |product: u64, factor| product.saturating_mul(*factor));
        if actions > Shape::ACTIONS_MAX {
            return Err(PipelineError::TooLarge { ranks, stages_per_rank, microbatches, actions });
        }
        Ok(())
    }
}

/// What all ranks of a pipeline compute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pipeline {
    purpose: Purpose,
    /// Of every stage, the rank that has it.
    rank_of: Vec<u32>,
    microbatches: u32,
    /// Per rank, in order.
    actions: Vec<Vec<Action>>,
}

impl Pipeline {
    /// What it is for: an evaluation goes forward only.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Number of ranks.
    pub fn ranks(&self) -> u32 {
        self.actions.len() as u32
    }

    /// Number of stages.
    pub fn stages(&self) -> u32 {
        self.rank_of.len() as u32
    }

    /// Microbatches that go through it.
    pub fn microbatches(&self) -> u32 {
        self.microbatches
    }

    /// The rank that has a stage.
    ///
    /// Panics where there is no such stage.
    pub fn rank_of(&self, stage: Stage) -> u32 {
        self.rank_of[stage.0 as usize]
    }

    /// The stages of a rank, in the order of the forward pass.
    pub fn stages_of(&self, rank: u32) -> Vec<Stage> {
        let stages = (0..self.stages()).map(Stage);
        stages.filter(|stage| self.rank_of(*stage) == rank).collect()
    }

    /// What a rank computes, in order.
    ///
    /// Panics where there is no such rank.
    pub fn actions(&self, rank: u32) -> &[Action] {
        &self.actions[rank as usize]
    }

    /// Of the same stages on the same ranks, that so many microbatches go forward through, one after the other.
    pub fn evaluation(&self, microbatches: u32) -> Self {
        let of_rank = |rank: u32| {
            let stages = self.stages_of(rank);
            let passes = (0..microbatches).map(Microbatch).flat_map(|microbatch| {
                stages.iter().map(move |&stage| Pass::Forward.of(stage, microbatch)).collect::<Vec<_>>()
            });
            passes.collect()
        };
        let actions = (0..self.ranks()).map(of_rank).collect();
        Pipeline { purpose: Purpose::Evaluate, rank_of: self.rank_of.clone(), microbatches, actions }
    }

    /// The same for each of several turns of a step, one after the other, with microbatches counted on.
    ///
    /// Errors: [`PipelineError::TooLarge`].
    pub fn repeated(&self, turns: u64) -> Result<Self, PipelineError> {
        let microbatches = u64::from(self.microbatches).saturating_mul(turns);
        let microbatches = u32::try_from(microbatches).unwrap_or(u32::MAX);
        Shape { ranks: self.ranks(), stages_per_rank: self.stages() / self.ranks(), microbatches }.check()?;
        let again = |actions: &Vec<Action>| {
            let turn = |turn: u64| {
                let first = turn as u32 * self.microbatches;
                actions.iter().map(move |action| Action {
                    microbatch: Microbatch(first + action.microbatch.0),
                    ..*action
                })
            };
            (0..turns).flat_map(turn).collect()
        };
        Ok(Pipeline { microbatches, actions: self.actions.iter().map(again).collect(), ..self.clone() })
    }
}

/// The pipeline of a configuration, of a model that is cut into `stages` stages. `csv` is the text of the file that
/// `parallelism.pipeline_parallel_schedule_csv` names, which the caller has read; it stands in for the schedule by name.
///
/// Errors: [`PipelineError`], what the schedule needs and this pipeline has not, or what is wrong with the file.
pub fn pipeline(
    parallelism: &Parallelism,
    stages: u32,
    microbatches: u64,
    csv: Option<&str>,
) -> Result<Pipeline, PipelineError> {
    let schedule = schedules::find(parallelism.pipeline_parallel_schedule);
    let degree = parallelism.pipeline_parallel_degree;
    let ranks = u32::try_from(degree).unwrap_or(u32::MAX);
    if ranks == 0 || !stages.is_multiple_of(ranks) {
        return Err(PipelineError::StagesOverRanks { stages: u64::from(stages), ranks: degree });
    }
    let microbatches = u32::try_from(microbatches).unwrap_or(u32::MAX);
    let shape = Shape { ranks, stages_per_rank: stages / ranks, microbatches };
    match csv {
        Some(text) => csv::parse(text, shape),
        None => schedule.pipeline(shape),
    }
}

#[cfg(test)]
mod exhaustive_tests;
#[cfg(test)]
mod torch_tests;
