//! What a simulated step says: where its time goes.

use super::clock::{Run, Stream, Timed};
use super::costs::Costs;
use crate::program::Instruction;
use crate::timeline::kind;
use std::collections::BTreeMap;

/// Seconds of communication during which a rank did nothing else.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Exposed {
    /// Parameters being gathered.
    pub gather: f64,
    /// Gradients being summed.
    pub reduce: f64,
    /// Messages of the pipeline on their way.
    pub messages: f64,
    /// Collectives of tensor parallelism.
    pub tensor_parallel: f64,
    /// Those of context parallelism.
    pub context_parallel: f64,
}

impl Exposed {
    /// Every kind by name.
    pub fn kinds(&self) -> [(&'static str, f64); 5] {
        [
            ("gather", self.gather),
            ("reduce", self.reduce),
            ("pipeline", self.messages),
            ("tensor parallel", self.tensor_parallel),
            ("context parallel", self.context_parallel),
        ]
    }

    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.kinds().iter().map(|(_, seconds)| seconds).sum()
    }
}

/// Bytes that come to a rank in a step.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Carried {
    /// Of parameters that are gathered.
    pub gather: f64,
    /// Of gradients that are summed.
    pub reduce: f64,
    /// Of messages of the pipeline.
    pub messages: f64,
    /// Of tensor and context parallelism.
    pub passes: f64,
}

impl Carried {
    /// Every kind by name.
    pub fn kinds(&self) -> [(&'static str, f64); 4] {
        [
            ("gather", self.gather),
            ("reduce", self.reduce),
            ("pipeline", self.messages),
            ("tensor and context parallel", self.passes),
        ]
    }
}

/// Seconds by kind of instruction, those of [`kind`]; collectives within a pass are part of it.
pub type Kinds = BTreeMap<&'static str, f64>;

/// Where the time of a step goes, mean over the ranks of a pipeline. [`Figures::computing`], what is exposed and
/// [`Figures::bubble`] together are the whole step.
#[derive(Clone, PartialEq, Debug)]
pub struct Figures {
    /// From the beginning of the step to its end on the last rank.
    pub seconds: f64,
    /// In which a rank computes, by kind of instruction. Without the collectives within passes.
    pub computing: Kinds,
    /// In which it communicates and does nothing else.
    pub exposed: Exposed,
    /// In which it waits for another rank of the pipeline, or for the end of the step.
    pub bubble: f64,
    /// Of each stream that communicates, in which it does.
    pub busy: BTreeMap<Stream, f64>,
    /// Bytes that come to a rank.
    pub carried: Carried,
}

impl Figures {
    /// Those of a step that was simulated with these costs.
    pub fn of(run: &Run, costs: &Costs) -> Self {
        let mut figures = Figures {
            seconds: run.seconds,
            computing: Kinds::new(),
            exposed: Exposed::default(),
            bubble: 0.0,
            busy: BTreeMap::new(),
            carried: Carried::default(),
        };
        let share = 1.0 / run.ranks.len().max(1) as f64;
        for timed in &run.ranks {
            timed.iter().for_each(|timed| figures.add(timed, costs, share));
            let done = timed.iter().filter(|timed| timed.stream == Stream::Compute);
            let done = done.fold(0.0, |done: f64, timed| done.max(timed.end));
            figures.bubble += share * (run.seconds - done);
        }
        figures
    }

    fn add(&mut self, timed: &Timed, costs: &Costs, share: f64) {
        let Timed { pass, waited, .. } = timed;
        let carried = &mut self.carried;
        match timed.instruction {
            Instruction::Gather(unit) => carried.gather += share * costs.of(unit).bytes.gather_carried as f64,
            Instruction::Reduce(unit) => carried.reduce += share * costs.of(unit).bytes.reduce_carried as f64,
            Instruction::Recv(_) => carried.messages += share * costs.message_bytes as f64,
            _ => carried.passes += share * pass.carried,
        }
        if timed.stream != Stream::Compute {
            *self.busy.entry(timed.stream).or_default() += share * (timed.end - timed.begin);
            return;
        }
        if pass.compute > 0.0 {
            *self.computing.entry(kind(timed.instruction)).or_default() += share * pass.compute;
        }
        self.exposed.tensor_parallel += share * pass.tensor_parallel;
        self.exposed.context_parallel += share * pass.context_parallel;
        self.exposed.gather += share * waited.gather;
        self.exposed.reduce += share * waited.reduce;
        self.exposed.messages += share * waited.message;
        self.bubble += share * waited.bubble;
    }

    /// The share of the step in which a rank waits for others.
    pub fn bubble_share(&self) -> f64 {
        if self.seconds > 0.0 { self.bubble / self.seconds } else { 0.0 }
    }
}
