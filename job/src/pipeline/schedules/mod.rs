//! Schedules by name.

mod alternate;
mod breadth_first;
mod chunk;
mod dual_pipe_v;
mod zbv;

use super::{Action, Order, Pipeline, PipelineError, Shape, Stage};
use crate::config::PipelineSchedule;
use crate::program::Purpose;

/// How many stages a rank has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StagesRule {
    /// One.
    One,
    /// Two.
    Two,
    /// Two at least.
    TwoOrMore,
}

/// How many microbatches there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MicrobatchRule {
    /// Any number.
    Any,
    /// One per stage at least.
    OnePerStage,
    /// Rounds of the same size: of `ranks` microbatches where that divides, and of more or fewer where not. There are
    /// `microbatches / ranks` of them, 1 at least, and the number of microbatches is a multiple of that.
    Rounds,
}

/// A schedule.
#[derive(Debug)]
pub struct Schedule {
    /// Its name.
    pub choice: PipelineSchedule,
    /// How stages are dealt out.
    pub order: Order,
    /// How many stages a rank has.
    pub stages_per_rank: StagesRule,
    /// How many microbatches there are.
    pub microbatches: MicrobatchRule,
    /// What a rank computes; none where a file says it.
    actions: Option<fn(Shape, u32) -> Vec<Action>>,
}

/// Every schedule. To add one: a line here, and its name in `job/src/config/choice.rs`.
#[rustfmt::skip]
pub static SCHEDULES: &[Schedule] = {
    use MicrobatchRule::{Any, OnePerStage, Rounds};
    use PipelineSchedule as Name;
    use StagesRule::{One, Two, TwoOrMore};
    &[
        row(Name::OneForwardOneBackward, Order::Loop, One, OnePerStage, Some(alternate::one_forward_one_backward)),
        row(Name::GPipe, Order::Loop, One, Any, Some(breadth_first::gpipe)),
        row(Name::Interleaved1F1B, Order::Loop, TwoOrMore, Rounds, Some(alternate::interleaved)),
        row(Name::LoopedBfs, Order::Loop, TwoOrMore, Any, Some(breadth_first::looped)),
        row(Name::InterleavedZeroBubble, Order::Loop, TwoOrMore, Rounds, Some(alternate::interleaved_zero_bubble)),
        row(Name::ZbvZeroBubble, Order::V, Two, Any, Some(zbv::actions)),
        row(Name::DualPipeV, Order::V, Two, OnePerStage, Some(dual_pipe_v::actions)),
        row(Name::Single, Order::Loop, One, Any, None),
        row(Name::Multi, Order::Loop, TwoOrMore, Any, None),
    ]
};

const fn row(
    choice: PipelineSchedule,
    order: Order,
    stages_per_rank: StagesRule,
    microbatches: MicrobatchRule,
    actions: Option<fn(Shape, u32) -> Vec<Action>>,
) -> Schedule {
    Schedule { choice, order, stages_per_rank, microbatches, actions }
}

/// The schedule of this name.
pub fn find(choice: PipelineSchedule) -> &'static Schedule {
    SCHEDULES.iter().find(|schedule| schedule.choice == choice).expect("every choice has a row, by test")
}

impl StagesRule {
    /// How many stages a rank has where nothing says how many.
    pub fn default(self) -> u32 {
        if self == StagesRule::One { 1 } else { 2 }
    }

    fn holds(self, stages_per_rank: u32) -> bool {
        match self {
            StagesRule::One => stages_per_rank == 1,
            StagesRule::Two => stages_per_rank == 2,
            StagesRule::TwoOrMore => stages_per_rank >= 2,
        }
    }

    fn told(self) -> &'static str {
        match self {
            StagesRule::One => "exactly 1 stage",
            StagesRule::Two => "exactly 2 stages",
            StagesRule::TwoOrMore => "2 stages or more",
        }
    }
}

impl Schedule {
    /// Its name, as configurations write it.
    pub fn name(&self) -> &'static str {
        self.choice.as_str()
    }

    /// Errors: [`PipelineError::StagesPerRank`].
    pub fn check_stages_per_rank(&self, stages_per_rank: u32) -> Result<(), PipelineError> {
        if self.stages_per_rank.holds(stages_per_rank) {
            return Ok(());
        }
        let fitting = SCHEDULES.iter().filter(|other| other.stages_per_rank.holds(stages_per_rank));
        let fitting: Vec<_> = fitting.filter(|other| other.actions.is_some()).map(Schedule::name).collect();
        let change = match stages_per_rank > self.stages_per_rank.default() {
            true => "raise parallelism.pipeline_parallel_layers_per_stage",
            false => "lower parallelism.pipeline_parallel_layers_per_stage",
        };
        let remedy = format!(
            "{change}, give parallelism.module_fqns_per_model_part other parts, or take {}",
            fitting.join(", ")
        );
        let rule = self.stages_per_rank.told();
        Err(PipelineError::StagesPerRank { schedule: self.name(), stages_per_rank, rule, remedy })
    }

    /// Errors: [`PipelineError::Microbatches`].
    pub fn check_microbatches(&self, shape: Shape) -> Result<(), PipelineError> {
        let Shape { ranks, microbatches, .. } = shape;
        let stages = shape.stages();
        let (holds, rule, remedy) = match self.microbatches {
            MicrobatchRule::Any => return Ok(()),
            MicrobatchRule::OnePerStage => (
                microbatches >= stages,
                format!("a microbatch per stage, {stages} at least"),
                format!(
                    "make {stages} or more: raise training.local_batch_size or lower \
                     parallelism.pipeline_parallel_microbatch_size"
                ),
            ),
            MicrobatchRule::Rounds => {
                let rounds = rounds(shape);
                let lower = microbatches / ranks * ranks;
                (
                    microbatches.is_multiple_of(rounds),
                    format!(
                        "microbatches in rounds of the same size, a multiple of the {rounds} rounds that {ranks} ranks make \
                         of them"
                    ),
                    format!(
                        "make {lower} or {} by changing training.local_batch_size or \
                         parallelism.pipeline_parallel_microbatch_size",
                        lower.saturating_add(ranks)
                    ),
                )
            }
        };
        match holds {
            true => Ok(()),
            false => Err(PipelineError::Microbatches { schedule: self.name(), microbatches, rule, remedy }),
        }
    }

    /// What every rank computes.
    ///
    /// Errors: [`PipelineError`], what the schedule needs and the shape has not; [`PipelineError::NeedsFile`] for those that
    /// a file says.
    pub fn pipeline(&self, shape: Shape) -> Result<Pipeline, PipelineError> {
        let actions = self.actions.ok_or(PipelineError::NeedsFile { schedule: self.name() })?;
        shape.check()?;
        self.check_stages_per_rank(shape.stages_per_rank)?;
        self.check_microbatches(shape)?;
        Ok(Pipeline {
            purpose: Purpose::Train,
            rank_of: (0..shape.stages()).map(|stage| self.order.rank_of(Stage(stage), shape.ranks)).collect(),
            microbatches: shape.microbatches,
            actions: (0..shape.ranks).map(|rank| actions(shape, rank)).collect(),
        })
    }
}

/// Rounds that microbatches go in, see [`MicrobatchRule::Rounds`].
fn rounds(shape: Shape) -> u32 {
    (shape.microbatches / shape.ranks).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_has_a_row() {
        for choice in PipelineSchedule::ALL {
            assert_eq!(
                SCHEDULES.iter().filter(|schedule| schedule.choice == *choice).count(),
                1,
                "{choice:?}"
            );
        }
    }

    fn refused(choice: PipelineSchedule, ranks: u32, stages_per_rank: u32, microbatches: u32) -> String {
        find(choice).pipeline(Shape { ranks, stages_per_rank, microbatches }).unwrap_err().to_string()
    }

    #[test]
    fn a_rule_that_does_not_hold_is_told() {
        insta::assert_snapshot!(refused(PipelineSchedule::OneForwardOneBackward, 4, 1, 3), @r#"parallelism.pipeline_parallel_schedule = "1F1B" needs a microbatch per stage, 4 at least, but there are 3 (training.local_batch_size / parallelism.pipeline_parallel_microbatch_size); make 4 or more: raise training.local_batch_size or lower parallelism.pipeline_parallel_microbatch_size"#);
        insta::assert_snapshot!(refused(PipelineSchedule::OneForwardOneBackward, 4, 2, 8), @r#"parallelism.pipeline_parallel_schedule = "1F1B" needs exactly 1 stage per rank, but there are 2; raise parallelism.pipeline_parallel_layers_per_stage, give parallelism.module_fqns_per_model_part other parts, or take Interleaved1F1B, LoopedBFS, InterleavedZeroBubble, ZBVZeroBubble, DualPipeV"#);
        insta::assert_snapshot!(refused(PipelineSchedule::Interleaved1F1B, 4, 1, 8), @r#"parallelism.pipeline_parallel_schedule = "Interleaved1F1B" needs 2 stages or more per rank, but there are 1; lower parallelism.pipeline_parallel_layers_per_stage, give parallelism.module_fqns_per_model_part other parts, or take 1F1B, GPipe"#);
        insta::assert_snapshot!(refused(PipelineSchedule::InterleavedZeroBubble, 4, 2, 9), @r#"parallelism.pipeline_parallel_schedule = "InterleavedZeroBubble" needs microbatches in rounds of the same size, a multiple of the 2 rounds that 4 ranks make of them, but there are 9 (training.local_batch_size / parallelism.pipeline_parallel_microbatch_size); make 8 or 12 by changing training.local_batch_size or parallelism.pipeline_parallel_microbatch_size"#);
        insta::assert_snapshot!(refused(PipelineSchedule::DualPipeV, 2, 3, 9), @r#"parallelism.pipeline_parallel_schedule = "DualPipeV" needs exactly 2 stages per rank, but there are 3; raise parallelism.pipeline_parallel_layers_per_stage, give parallelism.module_fqns_per_model_part other parts, or take Interleaved1F1B, LoopedBFS, InterleavedZeroBubble"#);
        insta::assert_snapshot!(refused(PipelineSchedule::Multi, 2, 2, 9), @r#"parallelism.pipeline_parallel_schedule = "PipelineScheduleMulti": it is read from a file; set parallelism.pipeline_parallel_schedule_csv, or take a schedule by name"#);
        insta::assert_snapshot!(refused(PipelineSchedule::GPipe, 2, 1, 0), @"a pipeline of 2 ranks with 1 stages each and 0 microbatches: it needs one of each");
        insta::assert_snapshot!(refused(PipelineSchedule::GPipe, 2, 1, 4_000_000), @"a pipeline of 2 ranks with 1 stages each and 4000000 microbatches is 24000000 passes, 16777216 at most; raise parallelism.pipeline_parallel_microbatch_size");
    }
}
