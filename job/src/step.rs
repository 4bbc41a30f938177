//! A step of a configuration: how the model is cut, in which order a pipeline computes, and the program of every rank.
//!
//! The trainer runs these programs, the planner simulates them.

use crate::batch::{Batch, BatchError};
use crate::config::{AcMode, Config, ReshardPolicy, SelectiveOption};
use crate::error::{Error, Place, Problem, Result};
use crate::flops;
use crate::mesh::{MeshError, ParallelDims};
use crate::pipeline::{self, Communicated, Move, Pipeline, PipelineError, Stage, communicate};
use crate::program::{
    Plan, Program, Recompute, Reduction, Reshard, UnitPlan, build, build_evaluation, build_pipelined,
};
use convert::spec::Model;
use std::io;
use std::ops::Range;
use std::path::Path;

/// What all ranks do in a step.
#[derive(Clone, Debug)]
pub struct Step {
    /// The sequences of it.
    pub batch: Batch,
    /// What is decided about it.
    pub plan: Plan,
    /// The units of every stage: of one, where there is no pipeline.
    pub stages: Vec<Range<u32>>,
    pipeline: Option<Pipelined>,
}

/// The shape of a model: an embedding, the layers, norm and head together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack {
    /// How many layers.
    pub layers: u32,
    /// Whether the head is the embedding.
    pub is_tied: bool,
}

impl Stack {
    /// That of a model.
    ///
    /// Errors: as of [`flops::layers`].
    pub fn of(model: &Model) -> Result<Self> {
        Ok(Stack { layers: flops::layers(model)?, is_tied: model.tied.is_some() })
    }
}

#[derive(Clone, Debug)]
struct Pipelined {
    train: Pipeline,
    moves: Vec<Vec<Move>>,
    evaluate: Pipeline,
    evaluate_moves: Vec<Vec<Move>>,
}

/// A rule of steps that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation
pub enum StepError {
    #[error(transparent)]
    Batch(#[from] BatchError),

    #[error(transparent)]
    Pipeline(#[from] PipelineError),

    /// A schedule that a file says may wait for what nobody makes.
    #[error("parallelism.pipeline_parallel_schedule_csv: {0}; mend the file, or take a schedule by name")]
    Schedule(pipeline::Fault),
}

/// The text of the file that `parallelism.pipeline_parallel_schedule_csv` names, by `read_file`; none where it names none.
///
/// Errors: [`Error::UnreadableSchedule`].
pub fn schedule_text(
    config: &Config,
    read_file: impl Fn(&Path) -> io::Result<String>,
) -> Result<Option<String>> {
    let named = config.parallelism.pipeline_parallel_schedule_csv.as_ref().filter(|path| !path.is_empty());
    let read = |path: &String| {
        let path = Path::new(path);
        read_file(path).map_err(|source| Error::UnreadableSchedule { path: path.to_owned(), source })
    };
    named.map(read).transpose()
}

impl Step {
    /// The degrees of a job of `world` ranks, and its step.
    ///
    /// Errors: rules that do not hold.
    pub fn of(config: &Config, world: u32, model: &Model, csv: Option<&str>) -> Result<(ParallelDims, Self)> {
        let dims = ParallelDims::new(&config.parallelism, world).map_err(|errors| {
            let problem = |error: &MeshError| Problem { place: Place::Whole, message: error.to_string() };
            Error::BadConfig { problems: errors.iter().map(problem).collect() }
        })?;
        let step = Step::new(config, &dims, Stack::of(model)?, csv)?;
        Ok((dims, step))
    }

    /// The step of a model. `csv` is the text of the file that `parallelism.pipeline_parallel_schedule_csv` names.
    ///
    /// Errors: [`StepError`], the rule that does not hold.
    pub fn new(
        config: &Config,
        dims: &ParallelDims,
        stack: Stack,
        csv: Option<&str>,
    ) -> Result<Self, StepError> {
        let batch = Batch::new(config, dims)?;
        let plan = plan(config, dims, stack, &batch);
        if dims.pp == 1 {
            let units = 0..plan.units.len() as u32;
            return Ok(Step { batch, plan, stages: vec![units], pipeline: None });
        }
        if stack.is_tied {
            return Err(PipelineError::Tied { ranks: dims.pp }.into());
        }
        let stages = pipeline::stages(&config.parallelism, stack.layers)?;
        let of_turn = pipeline::pipeline(&config.parallelism, stages.len() as u32, batch.microbatches, csv)?;
        let train = of_turn.repeated(batch.accumulation_steps)?;
        let evaluate = of_turn.evaluation(evaluated(config, &batch));
        let moves = |pipeline: &Pipeline| -> Result<Vec<Vec<Move>>, StepError> {
            let Communicated { moves, .. } = communicate(pipeline).map_err(StepError::Schedule)?;
            pipeline::check(pipeline, &moves).map_err(StepError::Schedule)?;
            Ok(moves)
        };
        let pipeline =
            Pipelined { moves: moves(&train)?, evaluate_moves: moves(&evaluate)?, train, evaluate };
        Ok(Step { batch, plan, stages, pipeline: Some(pipeline) })
    }

    /// The program of a rank of a pipeline, by its place in it.
    ///
    /// Panics where there is no such place.
    pub fn train(&self, pp_rank: u32) -> Program {
        match &self.pipeline {
            None => build(&self.plan),
            Some(Pipelined { train, moves, .. }) => self.pipelined(train, moves, pp_rank),
        }
    }

    /// The same for the loss of other text.
    ///
    /// Panics where there is no such place.
    pub fn evaluate(&self, pp_rank: u32) -> Program {
        match &self.pipeline {
            None => build_evaluation(&Plan { microbatches: 1, ..self.plan.clone() }),
            Some(Pipelined { evaluate, evaluate_moves, .. }) => {
                self.pipelined(evaluate, evaluate_moves, pp_rank)
            }
        }
    }

    fn pipelined(&self, pipeline: &Pipeline, moves: &[Vec<Move>], pp_rank: u32) -> Program {
        build_pipelined(&self.plan, pipeline, &self.stages, pp_rank, &moves[pp_rank as usize])
            .expect("the stages are those of the plan and of the pipeline")
    }

    /// The pipeline, where there is one.
    pub fn pipeline(&self) -> Option<&Pipeline> {
        self.pipeline.as_ref().map(|pipeline| &pipeline.train)
    }

    /// The rank of a pipeline that has a stage.
    ///
    /// Panics where there is no such stage.
    pub fn rank_of(&self, stage: Stage) -> u32 {
        self.pipeline().map_or(0, |pipeline| pipeline.rank_of(stage))
    }

    /// Of every stage, the rank of a pipeline that has it.
    pub fn stage_ranks(&self) -> Vec<u32> {
        (0..self.stages.len() as u32).map(|stage| self.rank_of(Stage(stage))).collect()
    }

    /// The same of every unit.
    pub fn unit_ranks(&self) -> Vec<u32> {
        let of_stage = |(units, rank): (&Range<u32>, u32)| vec![rank; units.len()];
        self.stages.iter().zip(self.stage_ranks()).flat_map(of_stage).collect()
    }

    /// The rank of a pipeline that has the loss.
    pub fn loss_rank(&self) -> u32 {
        self.rank_of(Stage(self.stages.len() as u32 - 1))
    }
}

/// Microbatches that a batch of validation goes through a pipeline in.
fn evaluated(config: &Config, batch: &Batch) -> u32 {
    let sequences = config.validation.local_batch_size;
    let divides = sequences.is_multiple_of(batch.microbatch);
    if divides { u32::try_from(sequences / batch.microbatch).unwrap_or(u32::MAX).max(1) } else { 1 }
}

fn plan(config: &Config, dims: &ParallelDims, stack: Stack, batch: &Batch) -> Plan {
    let Stack { layers, is_tied } = stack;
    let (training, ac) = (&config.training, &config.activation_checkpoint);
    // What is computed again, of every so-many-th layer. A budget of memory is refused where the configuration is read.
    let (again, every) = match (ac.mode, ac.selective_ac_option) {
        (AcMode::None | AcMode::MemoryBudget, _) => (Recompute::Nothing, 1),
        (AcMode::Full, _) | (AcMode::Selective, SelectiveOption::Every(0)) => (Recompute::Everything, 1),
        (AcMode::Selective, SelectiveOption::Every(layers)) => (Recompute::Everything, layers),
        (AcMode::Selective, SelectiveOption::Operations) => (Recompute::Operations, 1),
    };
    // Unit 0 is the embedding, and the layers count from 1.
    let is_again = |unit: u32| (1..=layers).contains(&unit) && unit.is_multiple_of(every);
    let unit = |unit: u32| UnitPlan { recompute: if is_again(unit) { again } else { Recompute::Nothing } };
    Plan {
        units: (0..layers + 2).map(unit).collect(),
        is_tied,
        microbatches: u32::try_from(batch.accumulation_steps).unwrap_or(u32::MAX),
        gathered: dims.fsdp() > 1 || training.mixed_precision_param != training.dtype,
        reshard: match config.parallelism.fsdp_reshard_after_forward {
            ReshardPolicy::Default => Reshard::Default,
            ReshardPolicy::Always => Reshard::Always,
            ReshardPolicy::Never => Reshard::Never,
        },
        prefetch_units: 1,
        reduction: if dims.pp > 1 { Reduction::Last } else { Reduction::EveryMicrobatch },
        reductions_max: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PipelineSchedule;
    use crate::program::{Purpose, check};

    fn config(flags: &str) -> Config {
        let read = |_: &std::path::Path| -> std::io::Result<String> { panic!("there is no file") };
        Config::from_args(flags.split_whitespace(), read).unwrap().config
    }

    fn step(flags: &str, world: u32, layers: u32, csv: Option<&str>) -> Result<Step, StepError> {
        let config = config(flags);
        let dims = ParallelDims::new(&config.parallelism, world).unwrap();
        Step::new(&config, &dims, Stack { layers, is_tied: false }, csv)
    }

    #[test]
    fn without_a_pipeline_every_rank_has_all_units() {
        let flags = "--training.global_batch_size=64 --activation_checkpoint.mode=full";
        let step = step(flags, 2, 6, None).unwrap();
        assert_eq!((step.stages.len(), step.stages[0].clone(), step.loss_rank()), (1, 0..8, 0));
        let program = step.train(0);
        assert_eq!((program.microbatches, program.purpose), (4, Purpose::Train));
        check(&program, true).unwrap();
        assert_eq!(step.evaluate(0).microbatches, 1);
        assert_eq!(step.plan.units[0].recompute, Recompute::Nothing);
        assert_eq!(step.plan.units[6].recompute, Recompute::Everything);
        assert_eq!(step.plan.units[7].recompute, Recompute::Nothing);
    }

    #[test]
    fn a_head_that_is_the_embedding_needs_one_stage() {
        let stack = Stack { layers: 6, is_tied: true };
        let step = |flags: &str| {
            let config = config(flags);
            Step::new(&config, &ParallelDims::new(&config.parallelism, 2).unwrap(), stack, None)
        };
        for flags in ["", "--parallelism.tensor_parallel_degree=2", "--parallelism.context_parallel_degree=2"]
        {
            let step = step(flags).unwrap();
            assert!(step.train(0).is_tied, "{flags}");
            check(&step.train(0), step.plan.gathered).unwrap();
            check(&step.evaluate(0), step.plan.gathered).unwrap();
        }
        let error = step("--parallelism.pipeline_parallel_degree=2").unwrap_err().to_string();
        assert!(error.contains("pipeline_parallel_degree = 2: the model's head is its embedding"), "{error}");
    }

    #[test]
    fn every_schedule_gives_programs_that_hold() {
        for choice in PipelineSchedule::ALL {
            let file = matches!(choice, PipelineSchedule::Single | PipelineSchedule::Multi);
            let flags = format!(
                "--parallelism.pipeline_parallel_degree=2 --parallelism.pipeline_parallel_schedule={} \
                 --training.local_batch_size=8 --training.global_batch_size=32 --validation.enable \
                 --validation.local_batch_size=2",
                choice.as_str()
            );
            let csv = match choice {
                PipelineSchedule::Multi => "0F0,2F0,2B0,0B0\n1F0,3F0,3B0,1B0\n",
                _ => "0F0,0B0\n1F0,1B0\n",
            };
            let flags = if file { flags.replace("batch_size=8", "batch_size=1") } else { flags };
            let step =
                step(&flags, 4, 6, file.then_some(csv)).unwrap_or_else(|error| panic!("{flags}: {error}"));
            for rank in 0..2 {
                check(&step.train(rank), step.plan.gathered).unwrap();
                check(&step.evaluate(rank), step.plan.gathered).unwrap();
            }
            let units: u32 = step.stages.iter().map(|stage| stage.end - stage.start).sum();
            assert_eq!(units, 8, "{flags}");
            assert_eq!(step.train(0).microbatches, 16, "{flags}");
            assert_eq!(step.evaluate(0).microbatches, 2);
        }
    }

    #[test]
    fn the_loss_is_where_the_last_stage_is() {
        let step_of = |schedule: &str| {
            let flags = format!(
                "--parallelism.pipeline_parallel_degree=2 --parallelism.pipeline_parallel_schedule={schedule} \
                 --training.local_batch_size=8"
            );
            step(&flags, 2, 6, None).unwrap()
        };
        let of = |schedule: &str| step_of(schedule).loss_rank();
        let unit_ranks = |schedule: &str| step_of(schedule).unit_ranks();
        assert_eq!(unit_ranks("1F1B"), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(unit_ranks("Interleaved1F1B"), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(unit_ranks("DualPipeV"), [0, 0, 1, 1, 1, 1, 0, 0]);
        assert_eq!((of("1F1B"), of("Interleaved1F1B"), of("ZBVZeroBubble"), of("DualPipeV")), (1, 1, 0, 0));
    }

    #[test]
    fn rules_that_do_not_hold() {
        let told = |flags: &str, csv: Option<&str>| {
            let flags = format!("--parallelism.pipeline_parallel_degree=2 {flags}");
            step(&flags, 2, 6, csv).unwrap_err().to_string()
        };
        let single = "--parallelism.pipeline_parallel_schedule=PipelineScheduleSingle";
        insta::assert_snapshot!(
            [
                told("--training.local_batch_size=1", None),
                told("--training.local_batch_size=8 --training.global_batch_size=12", None),
                told("--training.local_batch_size=1", Some("0F0,0B0\n1B0,1F0\n")),
                told(&format!("{single} --training.local_batch_size=1"), Some("0B0,0F0\n1F0,1B0\n")),
                told("--training.local_batch_size=8 --training.global_batch_size=80000000", None),
            ]
            .join("\n")
        );
    }
}
