//! Schedules that alternate: some forward passes, then one forward and one backward, then what is left of backward.
//!
//! Sources: 1F1B: Narayanan et al. 2020 (arXiv 2006.09503), PipeDream-Flush. Interleaved: Narayanan et al. 2021 (arXiv
//! 2104.04473). ZB1P: Qi et al. 2023 (arXiv 2401.10241). PyTorch 2.11 `Schedule1F1B`, `ScheduleInterleaved1F1B`,
//! `ScheduleInterleavedZeroBubble`.

use super::super::{Action, Pass, Shape, Stage};
use super::rounds;
use crate::program::Microbatch;

/// One stage per rank. A rank begins with one forward pass for every rank after it.
pub(super) fn one_forward_one_backward(shape: Shape, rank: u32) -> Vec<Action> {
    let pass = |pass: Pass| (0..shape.microbatches).map(move |index| pass.of(Stage(rank), Microbatch(index)));
    let ahead = (shape.ranks - 1 - rank) as usize;
    alternate(pass(Pass::Forward).collect(), pass(Pass::Backward).collect(), ahead, None)
}

/// Several stages per rank. Microbatches go through all stages of a rank in rounds, and a rank begins with a round through all
/// its stages but the last, and two forward passes for every rank after it.
pub(super) fn interleaved(shape: Shape, rank: u32) -> Vec<Action> {
    let ahead = ahead(shape, 2 * (shape.ranks - 1 - rank));
    alternate(in_rounds(shape, rank, Pass::Forward), in_rounds(shape, rank, Pass::Backward), ahead, None)
}

/// The same with one forward pass per rank after it, and gradients of parameters put off: on rank r by r backward passes, so
/// that every rank keeps as much as the first.
pub(super) fn interleaved_zero_bubble(shape: Shape, rank: u32) -> Vec<Action> {
    let ahead = ahead(shape, shape.ranks - 1 - rank);
    let backwards = in_rounds(shape, rank, Pass::BackwardInput);
    alternate(in_rounds(shape, rank, Pass::Forward), backwards, ahead, Some(rank as usize))
}

fn ahead(shape: Shape, for_ranks_after: u32) -> usize {
    let microbatches_per_round = shape.microbatches / rounds(shape);
    ((shape.stages_per_rank - 1) * microbatches_per_round + for_ranks_after) as usize
}

/// A pass of all microbatches through all stages of a rank: those of a round through one stage, then through the next, the
/// last stage first on the way back.
fn in_rounds(shape: Shape, rank: u32, pass: Pass) -> Vec<Action> {
    let rounds = rounds(shape);
    let microbatches_per_round = shape.microbatches / rounds;
    let stage = |step: u32| match pass {
        Pass::Forward => Stage(step * shape.ranks + rank),
        _ => Stage((shape.stages_per_rank - 1 - step) * shape.ranks + rank),
    };
    let round = |round: u32| {
        let first = round * microbatches_per_round;
        (0..shape.stages_per_rank).flat_map(move |step| {
            (first..first + microbatches_per_round)
                .map(move |microbatch| pass.of(stage(step), Microbatch(microbatch)))
        })
    };
    (0..rounds).flat_map(round).collect()
}

/// `ahead` forward passes, then a forward and a backward pass in turns, then the backward passes that are left. With
/// `weights_behind` the gradients of parameters follow that many backward passes later.
fn alternate(
    forwards: Vec<Action>,
    backwards: Vec<Action>,
    ahead: usize,
    weights_behind: Option<usize>,
) -> Vec<Action> {
    let mut weights = match weights_behind {
        Some(_) => backwards.as_slice(),
        None => &[],
    }
    .iter()
    .map(|action| Action { pass: Pass::BackwardWeight, ..*action });
    let behind = weights_behind.unwrap_or(0);
    let mut forwards = forwards.into_iter();
    let mut actions: Vec<_> = forwards.by_ref().take(ahead).collect();
    for (index, backward) in backwards.iter().enumerate() {
        actions.extend(forwards.next());
        actions.push(*backward);
        if index >= behind {
            actions.extend(weights.next());
        }
    }
    actions.extend(weights);
    actions
}
