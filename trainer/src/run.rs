//! Runs a step's program on libtorch.

mod exchange;
mod norm;

use crate::deferred::Products;
use crate::error::{Error, Result};
use crate::ffi::autograd::{backward, leaf, take_grad};
use crate::ffi::process_group::ReduceOp;
use crate::ffi::rng::{self, RngState};
use crate::groups::{Groups, rank};
use crate::model::{Model, Params, vocabulary};
use crate::optimizer::{Optimizer, Settings};
use crate::parallel::{Parallel, ParallelOptions};
use crate::shard::Unit;
use crate::tape::Tape;
use exchange::{Exchange, Waiting};
use job::pipeline::{Message, Payload, Stage};
use job::program::{Instruction, Keep, Microbatch, Program, Purpose, check};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::{Device, Kind, Tensor, no_grad, with_grad};

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

/// How gradients of parameters come about in a program.
#[derive(Clone, Copy, Debug)]
struct Backward {
    /// Whether some are computed after the gradient of the input.
    is_in_parts: bool,
    /// Whether those of several microbatches are added up before ranks sum them.
    is_added_up: bool,
}

impl Backward {
    fn of(program: &Program) -> Self {
        let count =
            |is_it: fn(&Instruction) -> bool| program.instructions.iter().filter(|it| is_it(it)).count();
        let weights = count(|it| matches!(it, Instruction::Backward(..) | Instruction::BackwardWeight(..)));
        Backward {
            is_in_parts: count(|it| matches!(it, Instruction::BackwardWeight(..))) > 0,
            is_added_up: weights > count(|it| matches!(it, Instruction::Reduce(_))),
        }
    }
}

/// What is kept of a forward pass.
enum Kept {
    Graph {
        input: Tensor,
        output: Tensor,
        products: Option<Products>,
    },
    Operations {
        input: Tensor,
        output: Tensor,
        products: Option<Products>,
        tape: Tape,
        random: RngState,
    },
    Input {
        input: Tensor,
        random: RngState,
    },
    /// Of a backward pass, for the gradients of parameters.
    Products(Products),
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
            Instruction::Loss(microbatch) => {
                let is_training = step.settings.is_some();
                let purpose = if is_training { Purpose::Train } else { Purpose::Evaluate };
                loss(step, &self.parallel, self.places.len() as u32, microbatch, purpose)
            }
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

    fn forward(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch, keep: Keep) -> Result<()> {
        self.unit(unit).wait_gathered()?;
        let input = match unit {
            0 => step.batch[microbatch.0 as usize].inputs.shallow_clone(),
            _ => leaf(&taken(&mut step.inputs, (unit, microbatch.0), "what a unit takes")?),
        };
        let products = self.new_products();
        let products = products.as_ref();
        let (output, kept) = match keep {
            Keep::Graph => {
                let output = with_grad(|| self.compute(unit, &input, None, products))?;
                (output.detach(), Some(Kept::Graph { input, output, products: products.cloned() }))
            }
            Keep::Nothing => (no_grad(|| self.compute(unit, &input, None, None))?, None),
            Keep::Operations => {
                let (random, tape) = (rng::state(input.device())?, self.tape(unit));
                let output = with_grad(|| self.compute(unit, &input, Some(&tape), products))?;
                let whole = self.units[self.place(unit)].whole().iter();
                tape.give_up(&whole.chain([&input, &output]).collect::<Vec<_>>())?;
                let products = products.cloned();
                (output.detach(), Some(Kept::Operations { input, output, products, tape, random }))
            }
            Keep::Input => {
                let random = rng::state(input.device())?;
                let output = no_grad(|| self.compute(unit, &input, None, None))?;
                (output, Some(Kept::Input { input, random }))
            }
        };
        if let Some(kept) = kept {
            step.kept.insert((unit, microbatch.0), kept);
        }
        step.inputs.insert((unit + 1, microbatch.0), Waiting::here(output));
        Ok(())
    }

    fn recompute(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        self.unit(unit).wait_gathered()?;
        let (input, random, recorded) = match step.kept.remove(&(unit, microbatch.0)) {
            Some(Kept::Input { input, random }) => (input, random, None),
            Some(Kept::Operations { input, output, products, tape, random }) => {
                (input, random, Some((output, products, tape)))
            }
            _ => return Err(missing("the input of a unit")),
        };
        let device = input.device();
        let now = rng::state(device)?;
        rng::set_state(device, &random)?;
        let output = match recorded {
            None => {
                let products = self.new_products();
                with_grad(|| self.compute(unit, &input, None, products.as_ref()))
                    .map(|output| (output, products))
            }
            Some((output, products, tape)) => {
                no_grad(|| self.compute(unit, &input, Some(&tape), None)).map(|_| (output, products))
            }
        };
        rng::set_state(device, &now)?;
        let (output, products) = output?;
        step.kept.insert((unit, microbatch.0), Kept::Graph { input, output, products });
        Ok(())
    }

    fn send(&mut self, step: &mut Step, message: Message) -> Result<()> {
        let (of, unit) = self.end_of(step, message, message.from)?;
        let tensor = taken(of, (unit, message.microbatch.0), "what is to be sent")?;
        self.exchange.send(message, tensor)
    }

    fn recv(&mut self, step: &mut Step, message: Message) -> Result<()> {
        let tokens = step.batch[message.microbatch.0 as usize].inputs.size();
        let kind = self.units.first().ok_or_else(|| missing("a unit"))?.param_kind();
        let waiting =
            self.exchange.recv(message, &self.model.between(&self.parallel.part_size(&tokens)), kind)?;
        let (of, unit) = self.end_of(step, message, message.to)?;
        of.insert((unit, message.microbatch.0), waiting);
        Ok(())
    }

    /// Where what a message brings is kept at one of its ends, and under which unit.
    fn end_of<'s>(
        &self,
        step: &'s mut Step,
        message: Message,
        stage: Stage,
    ) -> Result<(&'s mut Values, u32)> {
        let found = self.programs.train.stages.iter().find(|of_rank| of_rank.stage == stage);
        let units = &found.ok_or_else(|| missing("a stage"))?.units;
        // Between two units, what the one after takes is what the one before gives.
        let after = if (stage == message.from) == (message.payload == Payload::Activation) {
            units.end
        } else {
            units.start
        };
        Ok(match message.payload {
            Payload::Activation => (&mut step.inputs, after),
            Payload::Gradient => (&mut step.grads, after - 1),
        })
    }

    /// Where products of weights are put off to, where they may have to be.
    fn new_products(&self) -> Option<Products> {
        self.backward.is_in_parts.then(Products::default)
    }

    fn compute(
        &self,
        unit: u32,
        input: &Tensor,
        tape: Option<&Tape>,
        products: Option<&Products>,
    ) -> Result<Tensor> {
        let params = &self.units[self.place(unit)];
        let params =
            Params::new(&params.names, params.whole(), &self.parallel).on_tape(tape).put_off(products);
        self.model.forward(unit as usize, &params, input)
    }

    fn tape(&self, unit: u32) -> Tape {
        let is_again = |fqn: &str| {
            let module = fqn.strip_suffix(".weight").unwrap_or(fqn);
            self.products_again.iter().any(|name| module.contains(name))
        };
        let params = self.units[self.place(unit)].params.iter();
        Tape::new(
            params.filter(|param| is_again(&param.fqn)).map(|param| param.local_shape.clone()).collect(),
        )
    }

    fn backward(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        if let Some(products) = self.backward_to_input(step, unit, microbatch)? {
            products.add_to_grads()?;
        }
        self.set_grads_aside(unit)
    }

    fn backward_input(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        // Tokens have no gradient. What there is to compute is computed with the parameters'.
        if unit > 0 {
            let products = self.backward_to_input(step, unit, microbatch)?;
            let products = products.ok_or_else(|| missing("what products of weights are put off to"))?;
            step.kept.insert((unit, microbatch.0), Kept::Products(products));
        }
        Ok(())
    }

    fn backward_weight(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        if unit == 0 {
            return self.backward(step, unit, microbatch);
        }
        let Some(Kept::Products(products)) = step.kept.remove(&(unit, microbatch.0)) else {
            return Err(missing("what a unit's backward pass put off"));
        };
        products.add_to_grads()?;
        self.set_grads_aside(unit)
    }

    /// Goes back through a unit, to the gradient of its input; gives what was put off on the way.
    fn backward_to_input(
        &mut self,
        step: &mut Step,
        unit: u32,
        microbatch: Microbatch,
    ) -> Result<Option<Products>> {
        self.unit(unit).wait_gathered()?;
        let Some(Kept::Graph { input, output, products }) = step.kept.remove(&(unit, microbatch.0)) else {
            return Err(missing("what a unit's forward pass saved"));
        };
        let grad = taken(&mut step.grads, (unit, microbatch.0), "the gradient of an output")?;
        backward(&[&output], &[Some(&grad)], false)?;
        if unit > 0 {
            let grad = take_grad(&input)?.ok_or_else(|| missing("the gradient of an input"))?;
            step.grads.insert((unit - 1, microbatch.0), Waiting::here(grad));
        }
        Ok(products)
    }

    /// Where gradients of several microbatches are added up before ranks sum them, they are in the type that ranks sum in.
    fn set_grads_aside(&mut self, unit: u32) -> Result<()> {
        if self.backward.is_added_up { self.unit(unit).set_grads_aside() } else { Ok(()) }
    }
}

/// The loss of a microbatch, and in training the gradient of what the last unit gave.
fn loss(
    step: &mut Step,
    parallel: &Parallel,
    units: u32,
    microbatch: Microbatch,
    purpose: Purpose,
) -> Result<()> {
    let labels = &step.batch[microbatch.0 as usize].labels;
    let tokens = step.global_valid_tokens as f64;
    let of = |logits: &Tensor| -> Result<Tensor> {
        let flat = logits.f_flatten(0, 1)?.f_to_kind(Kind::Float)?;
        let sum = parallel.cross_entropy(&flat, &labels.f_flatten(0, 1)?)?;
        Ok(sum.f_div_scalar(tokens)?)
    };
    let logits = taken(&mut step.inputs, (units, microbatch.0), "logits")?;
    let loss = match purpose {
        Purpose::Evaluate => no_grad(|| of(&logits))?,
        Purpose::Train => {
            let logits = leaf(&logits);
            let loss = with_grad(|| of(&logits))?;
            backward(&[&loss], &[None], false)?;
            let grad = take_grad(&logits)?.ok_or_else(|| missing("the gradient of the logits"))?;
            step.grads.insert((units - 1, microbatch.0), Waiting::here(grad));
            loss.detach()
        }
    };
    step.loss = Some(match step.loss.take() {
        Some(sum) => sum.f_add(&loss)?,
        None => loss,
    });
    Ok(())
}

fn taken(of: &mut Values, at: (u32, u32), what: &str) -> Result<Tensor> {
    of.remove(&at).ok_or_else(|| missing(what))?.wait()
}

/// A program that was checked does not come here.
fn missing(what: &str) -> Error {
    Error::Usage(format!("the step's program uses {what} that is not there"))
}
