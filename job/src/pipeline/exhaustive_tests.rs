//! Every schedule of a domain is carried out to its end, and no rank holds more than theory says.

use super::*;
use crate::config::PipelineSchedule as Name;

const RANKS_MAX: u32 = 8;
const STAGES_PER_RANK_MAX: u32 = 4;
const MICROBATCHES_MAX: u32 = 32;

fn shapes() -> impl Iterator<Item = Shape> {
    (1..=RANKS_MAX).flat_map(|ranks| {
        (1..=STAGES_PER_RANK_MAX).flat_map(move |stages_per_rank| {
            (1..=MICROBATCHES_MAX).map(move |microbatches| Shape { ranks, stages_per_rank, microbatches })
        })
    })
}

/// Pairs of stage and microbatch of which a rank keeps what backward needs, at most, in stages: the papers count them in
/// parts of a model, of which a rank has `1 / ranks`.
fn activations_in_theory(name: Name, shape: Shape, rank: u32) -> u32 {
    let Shape { ranks, stages_per_rank, microbatches } = shape;
    let all = stages_per_rank * microbatches;
    let per_round = microbatches / (microbatches / ranks).max(1);
    match name {
        // Huang et al. 2019; Lamy-Poirier 2023: those of all microbatches.
        Name::GPipe | Name::LoopedBfs => all,
        // Narayanan et al. 2020 (PipeDream-Flush): one for every stage from this one on.
        Name::OneForwardOneBackward => all.min(ranks - rank),
        // Narayanan et al. 2021, section 2.2: what goes ahead, and one.
        Name::Interleaved1F1B => all.min((stages_per_rank - 1) * per_round + 2 * (ranks - 1 - rank) + 1),
        // Qi et al. 2023 (ZB-H1): on every rank what 1F1B keeps on the first.
        Name::InterleavedZeroBubble => all.min((stages_per_rank - 1) * per_round + ranks),
        // The same, section 6: 1F1B's on the first rank, which are twice as many stages half as large. With fewer microbatches
        // than fill it, those that have begun.
        Name::ZbvZeroBubble => microbatches.min(2 * ranks - 1 - rank) + microbatches.min(rank + 1),
        // The table of github.com/deepseek-ai/DualPipe: stages + 1.
        Name::DualPipeV => 2 * ranks + 1,
        Name::Single | Name::Multi => unreachable!("a file says"),
    }
}

#[test]
fn every_schedule_of_a_domain_is_carried_out() {
    let (mut counts, mut messages) = (Vec::new(), 0);
    for schedule in SCHEDULES.iter().filter(|schedule| !matches!(schedule.choice, Name::Single | Name::Multi))
    {
        let (mut sound, mut refused) = (0, 0);
        for shape in shapes() {
            let pipeline = match schedule.pipeline(shape) {
                Ok(pipeline) => pipeline,
                Err(PipelineError::StagesPerRank { .. } | PipelineError::Microbatches { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(other) => panic!("{} {shape:?}: {other}", schedule.name()),
            };
            let carried_out = communicate(&pipeline).and_then(|communicated| {
                check(&pipeline, &communicated.moves).map(|held| (communicated, held))
            });
            let (Communicated { moves, timed }, held) =
                carried_out.unwrap_or_else(|fault| panic!("{} {shape:?}: {fault}", schedule.name()));
            for (rank, held) in (0..).zip(held) {
                let theory = activations_in_theory(schedule.choice, shape, rank);
                assert_eq!(held.activations, theory, "{} {shape:?} rank {rank}", schedule.name());
            }
            let sent = moves.iter().flatten().filter(|step| matches!(step, Move::Send(_))).count() as u32;
            let between = (1..shape.stages())
                .filter(|stage| pipeline.rank_of(Stage(*stage)) != pipeline.rank_of(Stage(stage - 1)));
            assert_eq!(sent, 2 * shape.microbatches * between.count() as u32, "{shape:?}");
            assert!(timed.iter().flatten().count() >= 2 * (shape.stages() * shape.microbatches) as usize);
            messages += u64::from(sent);
            sound += 1;
        }
        counts.push(format!("{} {sound} of {}", schedule.name(), sound + refused));
    }
    insta::assert_snapshot!(format!("{}; {messages} messages", counts.join(", ")), @"1F1B 228 of 1024, GPipe 256 of 1024, Interleaved1F1B 489 of 1024, LoopedBFS 768 of 1024, InterleavedZeroBubble 489 of 1024, ZBVZeroBubble 256 of 1024, DualPipeV 192 of 1024; 776304 messages");
}

/// Evaluations go forward alone and keep nothing; turns follow each other.
#[test]
fn evaluations_and_turns_are_carried_out() {
    let mut count = 0;
    for schedule in SCHEDULES {
        for shape in shapes().filter(|shape| shape.ranks <= 4 && shape.microbatches <= 8) {
            let Ok(pipeline) = schedule.pipeline(shape) else { continue };
            let twice = pipeline.repeated(3).unwrap();
            assert_eq!(twice.microbatches(), 3 * shape.microbatches);
            check(&twice, &communicate(&twice).unwrap().moves).unwrap();
            let evaluation = twice.evaluation(twice.microbatches());
            let held = check(&evaluation, &communicate(&evaluation).unwrap().moves).unwrap();
            assert!(held.iter().all(|held| held.activations == 0), "{shape:?}");
            count += 1;
        }
    }
    assert_eq!(count, 376);
}

/// How long a step takes where a forward pass takes 1 and messages nothing: what the papers promise.
#[test]
fn steps_take_as_long_as_in_theory() {
    for (ranks, microbatches) in [(2, 4), (4, 8), (4, 16), (8, 16)] {
        let steps = |name: Name, stages_per_rank| {
            let shape = Shape { ranks, stages_per_rank, microbatches };
            let timed = communicate(&schedules::find(name).pipeline(shape).unwrap()).unwrap().timed;
            timed.iter().flatten().map(Timed::end).max().unwrap()
        };
        let work = 3 * microbatches;
        // Every rank waits for the others on the way there and on the way back.
        assert_eq!(steps(Name::GPipe, 1), work + 3 * (ranks - 1));
        assert_eq!(steps(Name::OneForwardOneBackward, 1), work + 3 * (ranks - 1));
        // Stages are a part of that, and so are the waits (Narayanan et al. 2021, section 2.2).
        assert_eq!(steps(Name::Interleaved1F1B, 2), 2 * work + 3 * (ranks - 1));
        assert_eq!(steps(Name::Interleaved1F1B, 4), 4 * work + 3 * (ranks - 1));
        // Qi et al. 2023, section 6: all but the first forward passes.
        assert_eq!(steps(Name::ZbvZeroBubble, 2), 2 * work + ranks - 1);
    }
}
