//! Runs a step's program on libtorch.

use crate::error::{Error, Result};
use crate::ffi::autograd::{backward, leaf, take_grad};
use crate::ffi::dispatch::{Arg, Value, call};
use crate::ffi::process_group::ReduceOp;
use crate::ffi::rng::{self, RngState};
use crate::groups::Groups;
use crate::model::{Model, Params};
use crate::optimizer::{Optimizer, Settings};
use crate::shard::Unit;
use crate::tape::Tape;
use job::program::{Instruction, Keep, Microbatch, Program, Purpose, check};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::{Device, Kind, Reduction, Tensor, no_grad, with_grad};

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
    /// This rank's microbatches of the step; `None` where its data has ended.
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
    /// Its parameters.
    pub units: Vec<Unit>,
    /// Its optimizer.
    pub optimizer: Optimizer,
    /// Checked: what is computed with memory that was given up cannot be caught later.
    programs: Programs,
    max_norm: f64,
    /// Names of modules whose matrix products are computed again wherever operations are.
    products_again: Vec<String>,
}

/// What a runner can do.
#[derive(Clone, Debug)]
pub struct Programs {
    /// A step.
    pub train: Program,
    /// The loss of other data; none where nobody wants it.
    pub evaluate: Option<Program>,
}

/// What is kept of a forward pass.
enum Kept {
    Graph { input: Tensor, output: Tensor },
    Operations { input: Tensor, output: Tensor, tape: Tape, random: RngState },
    Input { input: Tensor, random: RngState },
}

/// A step under way.
struct Step {
    /// Of the optimizer; none for an evaluation.
    settings: Option<Settings>,
    batch: Vec<Sequences>,
    valid_tokens: u64,
    global_valid_tokens: u64,
    kept: BTreeMap<(u32, u32), Kept>,
    /// Per microbatch, what the last unit gave on the way forward.
    outputs: BTreeMap<u32, Tensor>,
    /// And the gradient of it on the way back.
    grads: BTreeMap<u32, Tensor>,
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
        for program in [Some(&programs.train), programs.evaluate.as_ref()].into_iter().flatten() {
            if program.units as usize != units.len() {
                let (found, expected) = (program.units, units.len());
                return Err(Error::Usage(format!("a program of {found} units for a model of {expected}")));
            }
            check(program, is_gathered)
                .map_err(|fault| Error::Usage(format!("the step's program: {fault}")))?;
        }
        Ok(Runner { model, groups, units, optimizer, programs, max_norm, products_again: Vec::new() })
    }

    /// With names of modules whose matrix products, and others of their shapes in the same unit, are always computed again
    /// where operations are (`activation_checkpoint.per_op_sac_force_recompute_mm_shapes_by_fqns`).
    pub fn with_products_again(self, products_again: Vec<String>) -> Self {
        Runner { products_again, ..self }
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
            outputs: BTreeMap::new(),
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
                loss(step, microbatch, if is_training { Purpose::Train } else { Purpose::Evaluate })
            }
            Instruction::Backward(unit, microbatch) => self.backward(step, unit.0, microbatch),
            Instruction::BackwardInput(..)
            | Instruction::BackwardWeight(..)
            | Instruction::Send(_)
            | Instruction::Recv(_) => Err(Error::Usage(format!(
                "the step's program has `{instruction}`: pipelines are not built; set \
                 parallelism.pipeline_parallel_degree to 1"
            ))),
            Instruction::Reduce(unit) => self.unit(unit.0).reduce(),
            Instruction::FinishReduce(unit) => self.unit(unit.0).finish_reduce(),
            Instruction::ClipGrad => {
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

    fn unit(&mut self, unit: u32) -> &mut Unit {
        &mut self.units[unit as usize]
    }

    fn load(&mut self, step: &mut Step, surroundings: &mut dyn Surroundings) -> Result<()> {
        let batch = surroundings.load_batch()?;
        let mut count = 0;
        for sequences in batch.iter().flatten() {
            let valid = sequences.labels.f_ne(IGNORED)?.f_sum(Kind::Int64)?;
            count += i64::try_from(&valid)?;
        }
        // What all ranks must know of this step before it begins, in one message.
        let (is_out_of_data, is_stopping) =
            (i64::from(batch.is_none()), i64::from(surroundings.is_stopping()));
        let all = Tensor::f_from_slice(&[count, is_out_of_data, is_stopping])?;
        self.groups.sum_over_data(&all)?;
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
            _ => leaf(&taken(&mut step.outputs, microbatch.0, "an output")?),
        };
        let (output, kept) = match keep {
            Keep::Graph => {
                let output = with_grad(|| self.compute(unit, &input, None))?;
                (output.detach(), Some(Kept::Graph { input, output }))
            }
            Keep::Nothing => (no_grad(|| self.compute(unit, &input, None))?, None),
            Keep::Operations => {
                let (random, tape) = (rng::state(input.device())?, self.tape(unit));
                let output = with_grad(|| self.compute(unit, &input, Some(&tape)))?;
                let whole = self.units[unit as usize].whole().iter();
                tape.give_up(&whole.chain([&input, &output]).collect::<Vec<_>>())?;
                (output.detach(), Some(Kept::Operations { input, output, tape, random }))
            }
            Keep::Input => {
                let random = rng::state(input.device())?;
                let output = no_grad(|| self.compute(unit, &input, None))?;
                (output, Some(Kept::Input { input, random }))
            }
        };
        if let Some(kept) = kept {
            step.kept.insert((unit, microbatch.0), kept);
        }
        step.outputs.insert(microbatch.0, output);
        Ok(())
    }

    fn recompute(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        self.unit(unit).wait_gathered()?;
        let (input, random, recorded) = match step.kept.remove(&(unit, microbatch.0)) {
            Some(Kept::Input { input, random }) => (input, random, None),
            Some(Kept::Operations { input, output, tape, random }) => (input, random, Some((output, tape))),
            _ => return Err(missing("the input of a unit")),
        };
        let device = input.device();
        let now = rng::state(device)?;
        rng::set_state(device, &random)?;
        let output = match recorded {
            None => with_grad(|| self.compute(unit, &input, None)),
            Some((output, tape)) => no_grad(|| self.compute(unit, &input, Some(&tape))).map(|_| output),
        };
        rng::set_state(device, &now)?;
        step.kept.insert((unit, microbatch.0), Kept::Graph { input, output: output? });
        Ok(())
    }

    fn compute(&self, unit: u32, input: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let params = &self.units[unit as usize];
        let params = Params::new(&params.names, params.whole()).on_tape(tape);
        self.model.forward(unit as usize, &params, input)
    }

    fn tape(&self, unit: u32) -> Tape {
        let is_again = |fqn: &str| {
            let module = fqn.strip_suffix(".weight").unwrap_or(fqn);
            self.products_again.iter().any(|name| module.contains(name))
        };
        let params = self.units[unit as usize].params.iter();
        Tape::new(params.filter(|param| is_again(&param.fqn)).map(|param| param.shape.clone()).collect())
    }

    fn backward(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        self.unit(unit).wait_gathered()?;
        let Some(Kept::Graph { input, output }) = step.kept.remove(&(unit, microbatch.0)) else {
            return Err(missing("what a unit's forward pass saved"));
        };
        let grad = taken(&mut step.grads, microbatch.0, "the gradient of an output")?;
        backward(&[&output], &[Some(&grad)], false)?;
        if unit > 0 {
            let grad = take_grad(&input)?.ok_or_else(|| missing("the gradient of an input"))?;
            step.grads.insert(microbatch.0, grad);
        }
        Ok(())
    }

    /// Scales the gradients so that their norm is at most what is allowed; gives what it was
    /// (`torch.nn.utils.clip_grad_norm_`).
    fn clip(&mut self) -> Result<Tensor> {
        let grads: Vec<&Tensor> =
            self.units.iter().flat_map(|unit| &unit.params).filter_map(|param| param.grad.as_ref()).collect();
        no_grad(|| {
            let device = grads.first().map_or(Device::Cpu, |grad| grad.device());
            let mut squares = Tensor::f_zeros([0i64; 0], (Kind::Float, device))?;
            // Of float32, whatever the gradients are: a norm in bfloat16 has three digits.
            let args = [Arg::Tensors(&grads), Arg::Int(2), Arg::Kind(Kind::Float)];
            let norms = call("aten::_foreach_norm", "Scalar", &args)?;
            let norms: Vec<&Tensor> = norms.iter().flat_map(Value::tensors).collect();
            if !norms.is_empty() {
                let own = Tensor::f_stack(&norms, 0)?;
                squares = own.f_mul(&own)?.f_sum(Kind::Float)?;
            }
            if let Some(shard) = &self.groups.shard {
                shard.all_reduce(&squares, ReduceOp::Sum)?.wait()?;
            }
            let norm = squares.f_sqrt()?;
            let scale = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(self.max_norm)?;
            // On a CPU the norm is known now, and a pass over the gradients may be saved; a device would have to be waited
            // for.
            match device {
                Device::Cpu if f64::try_from(&scale)? >= 1.0 => {}
                _ => {
                    let scale = scale.f_clamp_max(1.0)?;
                    call("aten::_foreach_mul_", "Tensor", &[Arg::Tensors(&grads), Arg::Tensor(&scale)])?;
                }
            }
            Ok(norm)
        })
    }
}

/// The loss of a microbatch, and in training the gradient of what the last unit gave.
fn loss(step: &mut Step, microbatch: Microbatch, purpose: Purpose) -> Result<()> {
    let labels = &step.batch[microbatch.0 as usize].labels;
    let tokens = step.global_valid_tokens as f64;
    let of = |logits: &Tensor| -> Result<Tensor> {
        let flat = logits.f_flatten(0, 1)?.f_to_kind(Kind::Float)?;
        let labels = labels.f_flatten(0, 1)?;
        let sum = flat.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, IGNORED, 0.0)?;
        Ok(sum.f_div_scalar(tokens)?)
    };
    let logits = taken(&mut step.outputs, microbatch.0, "logits")?;
    let loss = match purpose {
        Purpose::Evaluate => no_grad(|| of(&logits))?,
        Purpose::Train => {
            let logits = leaf(&logits);
            let loss = with_grad(|| of(&logits))?;
            backward(&[&loss], &[None], false)?;
            let grad = take_grad(&logits)?.ok_or_else(|| missing("the gradient of the logits"))?;
            step.grads.insert(microbatch.0, grad);
            loss.detach()
        }
    };
    step.loss = Some(match step.loss.take() {
        Some(sum) => sum.f_add(&loss)?,
        None => loss,
    });
    Ok(())
}

fn taken(of: &mut BTreeMap<u32, Tensor>, microbatch: u32, what: &str) -> Result<Tensor> {
    of.remove(&microbatch).ok_or_else(|| missing(what))
}

/// A program that was checked does not come here.
fn missing(what: &str) -> Error {
    Error::Usage(format!("the step's program uses {what} that is not there"))
}
