//! What is planted in lists of moves is found.

use super::super::{SCHEDULES, Shape, communicate, schedules};
use super::*;
use crate::config::PipelineSchedule as Name;

fn of(name: Name, stages_per_rank: u32) -> (Pipeline, Vec<Vec<Move>>) {
    let shape = Shape { ranks: 2, stages_per_rank, microbatches: 4 };
    let pipeline = schedules::find(name).pipeline(shape).unwrap();
    let moves = communicate(&pipeline).unwrap().moves;
    check(&pipeline, &moves).unwrap();
    (pipeline, moves)
}

fn at(moves: &[Move], wanted: impl Fn(&Move) -> bool) -> usize {
    moves.iter().position(wanted).unwrap()
}

fn told(pipeline: &Pipeline, moves: &[Vec<Move>]) -> String {
    check(pipeline, moves).unwrap_err().to_string()
}

#[test]
fn a_deadlock_is_found() {
    let (pipeline, mut moves) = of(Name::OneForwardOneBackward, 1);
    // Rank 1 sends a gradient while rank 0 sends an activation.
    let (send, recv) = (at(&moves[0], |step| step.to_string() == "Send activation 1 from stage 0 to 1"), 0);
    assert!(matches!(moves[1][recv], Move::Recv(_)));
    let to = at(&moves[1], |step| step.to_string() == "Recv activation 1 from stage 0 to 1");
    let gradient = at(&moves[1], |step| step.to_string() == "Send gradient 0 from stage 1 to 0");
    assert!(to < gradient && send > 0);
    let late = moves[1].remove(to);
    moves[1].insert(gradient, late);
    insta::assert_snapshot!(told(&pipeline, &moves), @"rank 0, move 3 (Send activation 1 from stage 0 to 1): ranks wait for each other: rank 0 at Send activation 1 from stage 0 to 1, rank 1 at Send gradient 0 from stage 1 to 0");
}

#[test]
fn a_missing_send_or_receive_is_found() {
    let (pipeline, moves) = of(Name::OneForwardOneBackward, 1);
    let mut without = moves.clone();
    without[0].remove(at(&moves[0], |step| step.to_string() == "Send activation 2 from stage 0 to 1"));
    insta::assert_snapshot!(told(&pipeline, &without), @"rank 1, move 7 (Recv activation 2 from stage 0 to 1): rank 0 never sends it");
    let mut without = moves.clone();
    without[0].remove(at(&moves[0], |step| step.to_string() == "Recv gradient 3 from stage 1 to 0"));
    insta::assert_snapshot!(told(&pipeline, &without), @"rank 0, move 14 (0B3): the gradient of its output is not there");
}

#[test]
fn a_swapped_send_is_found() {
    let (pipeline, mut moves) = of(Name::GPipe, 1);
    let first = at(&moves[1], |step| step.to_string() == "Send gradient 0 from stage 1 to 0");
    let second = at(&moves[1], |step| step.to_string() == "Send gradient 1 from stage 1 to 0");
    let early = moves[1].remove(first);
    moves[1].insert(second, early);
    insta::assert_snapshot!(told(&pipeline, &moves), @"rank 1, move 10 (Send gradient 1 from stage 1 to 0): rank 0 waits for gradient 0 from stage 1 to 0");
}

#[test]
fn a_pass_too_early_is_found() {
    let (pipeline, moves) = of(Name::InterleavedZeroBubble, 2);
    let mut early = moves.clone();
    let backward = at(&early[0], |step| step.to_string() == "2I0");
    early[0].swap(backward - 1, backward);
    insta::assert_snapshot!(told(&pipeline, &early), @"rank 0, move 10 (2I0): the gradient of its output is not there");
    let mut early = moves.clone();
    let weight = at(&early[0], |step| step.to_string() == "2W0");
    let moved = early[0].remove(weight);
    early[0].insert(at(&moves[0], |step| step.to_string() == "2I0"), moved);
    insta::assert_snapshot!(told(&pipeline, &early), @"rank 0, move 11 (2W0): the gradient of its input is not computed");
    let mut early = moves.clone();
    early[1].swap(0, 1);
    insta::assert_snapshot!(told(&pipeline, &early), @"rank 1, move 0 (1F0): its input is not there");
}

/// Without any of its moves a list is refused, and with any of them twice, and with any on another rank.
#[test]
fn a_move_less_or_more_is_found() {
    let mut count = 0;
    for schedule in SCHEDULES {
        let shape = |stages_per_rank| Shape { ranks: 3, stages_per_rank, microbatches: 6 };
        let Some(pipeline) = (1..=2).find_map(|stages| schedule.pipeline(shape(stages)).ok()) else {
            continue;
        };
        let moves = communicate(&pipeline).unwrap().moves;
        check(&pipeline, &moves).unwrap();
        for rank in 0..moves.len() {
            for place in 0..moves[rank].len() {
                let mut less = moves.clone();
                let removed = less[rank].remove(place);
                assert!(
                    check(&pipeline, &less).is_err(),
                    "{}: rank {rank} without {removed}",
                    schedule.name()
                );
                let mut other = less.clone();
                other[(rank + 1) % 3].push(removed);
                assert!(check(&pipeline, &other).is_err(), "{}: {removed} on another rank", schedule.name());
                let mut more = moves.clone();
                more[rank].insert(place, removed);
                assert!(
                    check(&pipeline, &more).is_err(),
                    "{}: rank {rank} with {removed} twice",
                    schedule.name()
                );
                count += 3;
            }
        }
    }
    assert_eq!(count, 3492);
}

/// What another pipeline is told is refused by this one: its stages are elsewhere.
#[test]
fn moves_of_another_pipeline_are_found() {
    let (pipeline, _) = of(Name::LoopedBfs, 2);
    let (_, moves) = of(Name::ZbvZeroBubble, 2);
    insta::assert_snapshot!(told(&pipeline, &moves), @"rank 1, move 3 (2F0): stage 2 is on rank 0");
    let (pipeline, moves) = of(Name::GPipe, 1);
    insta::assert_snapshot!(told(&pipeline.evaluation(pipeline.microbatches()), &moves), @"rank 1, move 8 (1B0): an evaluation goes forward only");
}
