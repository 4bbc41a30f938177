//! Runs a step's program on libtorch.

mod exchange;
mod loss;
mod norm;
mod passes;

use crate::error::{Error, Result};
use crate::ffi::process_group::ReduceOp;
use crate::groups::{Groups, rank};
use crate::model::{Model, vocabulary};
use crate::optimizer::{Optimizer, Settings};
use crate::parallel::{Parallel, ParallelOptions};
use crate::shard::Unit;
use exchange::{Exchange, Waiting};
use job::program::{Instruction, Program, check};
use passes::{Backward, Kept};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// The label of a token that no loss is computed for.
pub const IGNORED: i64 = -100;

/// The sequences of one microbatch, int64 `[batch, sequence]` each.
#[derive(Debug)]
pub struct Sequences {
    /// What the model sees.
    pub inputs: Tensor,
    /// What follows each token, or [`IGNORED`].
    pub labels: Tensor,
}

/// What a step needs besides its program.
pub trait Surroundings {
    /// Microbatches of the step, whole sequences, the same at all ranks that share them; `None` where its data has ended.
    fn load_batch(&mut self) -> Result<Option<Vec<Sequences>>>;

    /// Whether this rank was asked to stop after this step.
    fn is_stopping(&self) -> bool {
        false
    }

    /// Returns when a save that was begun has its copy of everything that the step is about to change.
    fn wait_staged(&mut self) -> Result<()> {
        Ok(())
    }

    /// An instruction was carried out, which began then.
    fn carried_out(&mut self, _instruction: Instruction, _begun: Instant) {}
}

/// What came of a step.
#[derive(Debug)]
pub struct StepReport {
    /// This rank's sum of losses over its tokens, divided by the tokens of all ranks: float32, no dims, on the device, where
    /// it may still be computed.
    pub loss: Tensor,
    /// Tokens with a label, this rank's.
    pub valid_tokens: u64,
    /// And of all ranks.
    pub global_valid_tokens: u64,
    /// The gradients' norm before they were clipped, as the loss; zero for an evaluation.
    pub grad_norm: Tensor,
    /// Whether a rank was asked to stop after this step.
    pub is_stopping: bool,
}

/// One rank's model, ready to run steps.
pub struct Runner<'a> {
    model: &'a dyn Model,
    groups: &'a Groups,
    parallel: Parallel,
    /// Its parameters.
    pub units: Vec<Unit>,
    /// Its optimizer.
    pub optimizer: Optimizer,
    /// Checked: what is computed with memory that was given up cannot be caught later.
    programs: Programs,
    max_norm: f64,
    /// Names of modules whose matrix products are computed again wherever operations are.
    products_again: Vec<String>,
    /// Of every unit of the model, its place among those of this rank.
    places: Vec<Option<usize>>,
    exchange: Exchange,
    backward: Backward,
}

/// What a runner can do.
#[derive(Clone, Debug)]
pub struct Programs {
    /// A step.
    pub train: Program,
    /// The loss of other data; none where nobody wants it.
    pub evaluate: Option<Program>,
    /// Of every stage, the rank of a pipeline that has it: one of one, where there is no pipeline.
    pub stage_ranks: Vec<u32>,
}

/// Tensors by unit and microbatch.
type Values = BTreeMap<(u32, u32), Waiting>;

/// A step under way.
struct Step {
    /// Of the optimizer; none for an evaluation.
    settings: Option<Settings>,
    batch: Vec<Sequences>,
    valid_tokens: u64,
    global_valid_tokens: u64,
    kept: BTreeMap<(u32, u32), Kept>,
    /// By unit and microbatch, what the unit takes, where it is not computed yet; of the loss, by the number of units.
    inputs: Values,
    /// The same, the gradient of what the unit gave.
    grads: Values,
    loss: Option<Tensor>,
    grad_norm: Option<Tensor>,
    is_stopping: bool,
    /// Whether a rank has no data for it: then there is no step.
    is_out_of_data: bool,
}

impl<'a> Runner<'a> {
    /// A model's parameters on this rank, its optimizer, the programs of its steps, and the most norm that its gradients may
    /// have.
    ///
    /// Errors: [`Error::Usage`] for a program that is wrong, or of another number of units.
    pub fn new(
        model: &'a dyn Model,
        groups: &'a Groups,
        units: Vec<Unit>,
        optimizer: Optimizer,
        programs: Programs,
        max_norm: f64,
    ) -> Result<Self> {
        let is_gathered = units.iter().any(Unit::is_gathered);
        let (of_model, stages) = (model.units().len(), &programs.train.stages);
        for program in [Some(&programs.train), programs.evaluate.as_ref()].into_iter().flatten() {
            if program.units as usize != of_model {
                let found = program.units;
                return Err(Error::Usage(format!("a program of {found} units for a model of {of_model}")));
            }
            if program.stages != *stages {
                return Err(Error::Usage("steps and evaluations have other stages".to_owned()));
            }
            if program.is_tied != model.spec().tied.is_some() {
                let why = "the program and the model differ in whether the head is the embedding";
                return Err(Error::Usage(why.to_owned()));
            }
            check(program, is_gathered)
                .map_err(|fault| Error::Usage(format!("the step's program: {fault}")))?;
        }
        let mut places = vec![None; of_model];
        for (place, unit) in stages.iter().flat_map(|stage| stage.units.clone()).enumerate() {
            places[unit as usize] = Some(place);
        }
        let expected = places.iter().flatten().count();
        if expected != units.len() {
            let found = units.len();
            return Err(Error::Usage(format!("{found} units for stages that have {expected}")));
        }
        let device = units
            .iter()
            .flat_map(|unit| &unit.params)
            .next()
            .map_or(Device::Cpu, |param| param.shard.device());
        let exchange = Exchange::new(groups.pp.clone(), programs.stage_ranks.clone(), device)?;
        let (backward, products_again) = (Backward::of(&programs.train), Vec::new());
        let runner = Runner {
            model,
            groups,
            parallel: Parallel::default(),
            units,
            optimizer,
            programs,
            max_norm,
            products_again,
            places,
            exchange,
            backward,
        };
        runner.with_parallel(ParallelOptions::default())
    }

    /// With other choices of how layers and sequences are shared.
    ///
    /// Errors: as of [`Parallel::new`].
    pub fn with_parallel(self, options: ParallelOptions) -> Result<Self> {
        let tokens = vocabulary(self.model.spec()).unwrap_or(0) as i64;
        Ok(Runner { parallel: Parallel::new(self.groups, options, tokens)?, ..self })
    }

    /// With names of modules whose matrix products, and others of their shapes in the same unit, are always computed again
    /// where operations are (`activation_checkpoint.per_op_sac_force_recompute_mm_shapes_by_fqns`).
    pub fn with_products_again(self, products_again: Vec<String>) -> Self {
        Runner { products_again, ..self }
    }

    /// What it runs.
    pub fn model(&self) -> &'a dyn Model {
        self.model
    }

    /// Runs one step; `None` where a rank has no data for it: then nothing has changed.
    ///
    /// Errors: what any part of it gives; parameters and optimizer are then as before, unless the optimizer failed.
    pub fn step(
        &mut self,
        settings: Settings,
        surroundings: &mut dyn Surroundings,
    ) -> Result<Option<StepReport>> {
        let program = self.programs.train.instructions.clone();
        self.run(program, Some(settings), surroundings)
    }

    /// Computes the loss of a batch and changes nothing; `None` where a rank has no data for it.
    ///
    /// Errors: what any part of it gives; [`Error::Usage`] where the runner has no program for it.
    pub fn evaluate(&mut self, surroundings: &mut dyn Surroundings) -> Result<Option<StepReport>> {
        let program = self.programs.evaluate.as_ref();
        let program = program.ok_or_else(|| Error::Usage("the runner has no evaluation".to_owned()))?;
        self.run(program.instructions.clone(), None, surroundings)
    }

    fn run(
        &mut self,
        program: Vec<Instruction>,
        settings: Option<Settings>,
        surroundings: &mut dyn Surroundings,
    ) -> Result<Option<StepReport>> {
        let mut step = Step {
            settings,
            batch: Vec::new(),
            valid_tokens: 0,
            global_valid_tokens: 0,
            kept: BTreeMap::new(),
            inputs: BTreeMap::new(),
            grads: BTreeMap::new(),
            loss: None,
            grad_norm: None,
            is_stopping: false,
            is_out_of_data: false,
        };
        for instruction in program {
            let begun = Instant::now();
            self.carry_out(instruction, &mut step, surroundings)?;
            surroundings.carried_out(instruction, begun);
            if step.is_out_of_data {
                return Ok(None);
            }
        }
        self.exchange.finish()?;
        let figure = |figure: Option<Tensor>| {
            figure.map_or_else(|| Ok(Tensor::f_zeros([0i64; 0], (Kind::Float, Device::Cpu))?), Ok::<_, Error>)
        };
        Ok(Some(StepReport {
            loss: figure(step.loss)?,
            valid_tokens: step.valid_tokens,
            global_valid_tokens: step.global_valid_tokens,
            grad_norm: figure(step.grad_norm)?,
            is_stopping: step.is_stopping,
        }))
    }

    fn carry_out(
        &mut self,
        instruction: Instruction,
        step: &mut Step,
        surroundings: &mut dyn Surroundings,
    ) -> Result<()> {
        match instruction {
            Instruction::LoadBatch => self.load(step, surroundings),
            Instruction::Gather(unit) => self.unit(unit.0).gather(),
            Instruction::Free(unit) => self.unit(unit.0).free(),
            Instruction::Forward { unit, microbatch, keep } => self.forward(step, unit.0, microbatch, keep),
            Instruction::Recompute(unit, microbatch) => self.recompute(step, unit.0, microbatch),
            Instruction::Loss(microbatch) => self.loss(step, microbatch),
            Instruction::Backward(unit, microbatch) => self.backward(step, unit.0, microbatch),
            Instruction::BackwardInput(unit, microbatch) => self.backward_input(step, unit.0, microbatch),
            Instruction::BackwardWeight(unit, microbatch) => self.backward_weight(step, unit.0, microbatch),
            Instruction::Send(message) => self.send(step, message),
            Instruction::Recv(message) => self.recv(step, message),
            Instruction::Reduce(unit) => self.unit(unit.0).reduce(),
            Instruction::FinishReduce(unit) => self.unit(unit.0).finish_reduce(),
            Instruction::ClipGrad => {
                self.sum_over_parts()?;
                step.grad_norm = Some(self.clip()?);
                Ok(())
            }
            Instruction::WaitStaged => surroundings.wait_staged(),
            Instruction::OptimizerStep => {
                let settings = step.settings.ok_or_else(|| missing("settings of the optimizer"))?;
                self.optimizer.step(&mut self.units, settings)
            }
        }
    }

    /// Its place among those of this rank, which has it: the program was checked.
    fn place(&self, unit: u32) -> usize {
        self.places[unit as usize].expect("a checked program uses units of this rank alone")
    }

    fn unit(&mut self, unit: u32) -> &mut Unit {
        let place = self.place(unit);
        &mut self.units[place]
    }

    fn load(&mut self, step: &mut Step, surroundings: &mut dyn Surroundings) -> Result<()> {
        let own = |whole: Sequences| -> Result<Sequences> {
            let part = |tensor| self.parallel.own_part(tensor);
            Ok(Sequences { inputs: part(&whole.inputs)?, labels: part(&whole.labels)? })
        };
        let batch = surroundings.load_batch()?;
        let batch = batch.map(|batch| batch.into_iter().map(own).collect::<Result<Vec<_>>>()).transpose()?;
        let mut count = 0;
        for sequences in batch.iter().flatten() {
            let valid = sequences.labels.f_ne(IGNORED)?.f_sum(Kind::Int64)?;
            count += i64::try_from(&valid)?;
        }
        // What all ranks must know of this step before it begins, in one message. Ranks of a
        // pipeline, and those that share layers, have the same text.
        let (is_out_of_data, is_stopping) =
            (i64::from(batch.is_none()), i64::from(surroundings.is_stopping()));
        let counted = if rank(&self.groups.pp) == 0 && rank(&self.groups.tp) == 0 { count } else { 0 };
        let all = Tensor::f_from_slice(&[counted, is_out_of_data, is_stopping])?;
        if let Some(world) = &self.groups.world {
            world.all_reduce(&all, ReduceOp::Sum)?.wait()?;
        }
        let all = Vec::<i64>::try_from(&all)?;
        step.batch = batch.unwrap_or_default();
        (step.valid_tokens, step.global_valid_tokens) = (count as u64, all[0] as u64);
        (step.is_out_of_data, step.is_stopping) = (all[1] > 0, all[2] > 0);
        match (step.global_valid_tokens, step.is_out_of_data) {
            (0, false) => {
                Err(Error::Usage("no token of this step has a label: there is nothing to learn".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

fn taken(of: &mut Values, at: (u32, u32), what: &str) -> Result<Tensor> {
    of.remove(&at).ok_or_else(|| missing(what))?.wait()
}

/// A program that was checked does not come here.
fn missing(what: &str) -> Error {
    Error::Usage(format!("the step's program uses {what} that is not there"))
}
