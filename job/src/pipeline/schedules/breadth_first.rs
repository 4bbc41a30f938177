//! Schedules that go forward with all microbatches, and then back.
//!
//! Sources: GPipe: Huang et al. 2019 (arXiv 1811.06965). Looped BFS: Lamy-Poirier 2023 (arXiv 2211.05953). PyTorch 2.11
//! `ScheduleGPipe`, `ScheduleLoopedBFS`.

use super::super::{Action, Pass, Shape, Stage};
use crate::program::Microbatch;

/// One stage per rank; backward in the order of forward.
pub(super) fn gpipe(shape: Shape, rank: u32) -> Vec<Action> {
    let all = |pass: Pass| (0..shape.microbatches).map(move |index| pass.of(Stage(rank), Microbatch(index)));
    all(Pass::Forward).chain(all(Pass::Backward)).collect()
}

/// Several stages per rank, all microbatches through one before the next; backward in the opposite order.
pub(super) fn looped(shape: Shape, rank: u32) -> Vec<Action> {
    let stages = (0..shape.stages_per_rank).map(|lap| Stage(lap * shape.ranks + rank));
    let forwards = stages.flat_map(|stage| {
        (0..shape.microbatches).map(move |index| Pass::Forward.of(stage, Microbatch(index)))
    });
    let forwards: Vec<_> = forwards.collect();
    let backwards = forwards.iter().rev().map(|action| Action { pass: Pass::Backward, ..*action });
    forwards.iter().copied().chain(backwards).collect()
}
