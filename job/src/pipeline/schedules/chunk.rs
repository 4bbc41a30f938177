//! One of the two stages of a rank in a V, with the microbatch that is next in each pass.

use super::super::{Action, Pass, Stage};
use crate::program::Microbatch;

#[derive(Debug)]
pub(super) struct Chunk {
    stage: Stage,
    forwards: u32,
    inputs: u32,
    weights: u32,
}

impl Chunk {
    /// The stage that a rank has on the way down the V, and that on the way up.
    pub(super) fn pair(ranks: u32, rank: u32) -> [Chunk; 2] {
        [rank, 2 * ranks - 1 - rank].map(|stage| Chunk {
            stage: Stage(stage),
            forwards: 0,
            inputs: 0,
            weights: 0,
        })
    }

    /// Microbatches that have gone forward.
    pub(super) fn forwards(&self) -> u32 {
        self.forwards
    }

    /// Whether gradients of parameters are put off.
    pub(super) fn is_behind(&self) -> bool {
        self.weights < self.inputs
    }

    pub(super) fn forward(&mut self) -> Action {
        Pass::Forward.of(self.stage, next(&mut self.forwards))
    }

    pub(super) fn backward_input(&mut self) -> Action {
        Pass::BackwardInput.of(self.stage, next(&mut self.inputs))
    }

    pub(super) fn backward_weight(&mut self) -> Action {
        Pass::BackwardWeight.of(self.stage, next(&mut self.weights))
    }

    pub(super) fn backward(&mut self) -> Action {
        self.weights += 1;
        Pass::Backward.of(self.stage, next(&mut self.inputs))
    }
}

fn next(count: &mut u32) -> Microbatch {
    *count += 1;
    Microbatch(*count - 1)
}
