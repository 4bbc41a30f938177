//! Runs a step's program on libtorch.

use crate::error::{Error, Result};
use crate::ffi::autograd::{backward, leaf, take_grad};
use crate::ffi::dispatch::{Arg, Value, call};
use crate::ffi::rng::{self, RngState};
use crate::groups::Groups;
use crate::model::{Model, Params};
use crate::optimizer::{Optimizer, Settings};
use crate::shard::Unit;
use job::program::{Instruction, Keep, Microbatch, Program, check};
use std::collections::BTreeMap;
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
    /// This rank's microbatches of the step.
    fn load_batch(&mut self) -> Result<Vec<Sequences>>;

    /// Returns when a save that was begun has its copy of everything that the step is about to change.
    fn wait_staged(&mut self) -> Result<()>;
}

/// What came of a step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepReport {
    /// This rank's sum of losses over its tokens, divided by the tokens of all ranks.
    pub loss: f64,
    /// Tokens with a label, this rank's.
    pub valid_tokens: u64,
    /// And of all ranks.
    pub global_valid_tokens: u64,
    /// The gradients' norm before they were clipped.
    pub grad_norm: f64,
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
    program: Program,
    max_norm: f64,
}

/// What is kept of a forward pass.
enum Kept {
    Graph { input: Tensor, output: Tensor },
    Input { input: Tensor, random: RngState },
}

/// A step under way.
struct Step {
    settings: Settings,
    batch: Vec<Sequences>,
    valid_tokens: u64,
    global_valid_tokens: u64,
    kept: BTreeMap<(u32, u32), Kept>,
    /// Per microbatch, what the last unit gave on the way forward.
    outputs: BTreeMap<u32, Tensor>,
    /// And the gradient of it on the way back.
    grads: BTreeMap<u32, Tensor>,
    loss: Option<Tensor>,
    grad_norm: f64,
}

impl<'a> Runner<'a> {
    /// A model's parameters on this rank, its optimizer, the program of its steps, and the most norm that its gradients may
    /// have.
    ///
    /// Errors: [`Error::Usage`] for a program that is wrong, or of another number of units.
    pub fn new(
        model: &'a dyn Model,
        groups: &'a Groups,
        units: Vec<Unit>,
        optimizer: Optimizer,
        program: Program,
        max_norm: f64,
    ) -> Result<Self> {
        if program.units as usize != units.len() {
            let (found, expected) = (program.units, units.len());
            return Err(Error::Usage(format!("a program of {found} units for a model of {expected}")));
        }
        let is_gathered = units.iter().any(Unit::is_gathered);
        check(&program, is_gathered).map_err(|fault| Error::Usage(format!("the step's program: {fault}")))?;
        Ok(Runner { model, groups, units, optimizer, program, max_norm })
    }

    /// Runs one step.
    ///
    /// Errors: what any part of it gives; parameters and optimizer are then as before, unless the optimizer failed.
    pub fn step(&mut self, settings: Settings, surroundings: &mut dyn Surroundings) -> Result<StepReport> {
        let mut step = Step {
            settings,
            batch: Vec::new(),
            valid_tokens: 0,
            global_valid_tokens: 0,
            kept: BTreeMap::new(),
            outputs: BTreeMap::new(),
            grads: BTreeMap::new(),
            loss: None,
            grad_norm: 0.0,
        };
        for at in 0..self.program.instructions.len() {
            self.carry_out(self.program.instructions[at], &mut step, surroundings)?;
        }
        let loss = step.loss.map_or(Ok(0.0), |loss| f64::try_from(&loss))?;
        Ok(StepReport {
            loss,
            valid_tokens: step.valid_tokens,
            global_valid_tokens: step.global_valid_tokens,
            grad_norm: step.grad_norm,
        })
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
            Instruction::Loss(microbatch) => loss(step, microbatch),
            Instruction::Backward(unit, microbatch) => self.backward(step, unit.0, microbatch),
            Instruction::Reduce(unit) => self.unit(unit.0).reduce(),
            Instruction::FinishReduce(unit) => self.unit(unit.0).finish_reduce(),
            Instruction::ClipGrad => {
                step.grad_norm = self.clip()?;
                Ok(())
            }
            Instruction::WaitStaged => surroundings.wait_staged(),
            Instruction::OptimizerStep => self.optimizer.step(&mut self.units, step.settings),
        }
    }

    fn unit(&mut self, unit: u32) -> &mut Unit {
        &mut self.units[unit as usize]
    }

    fn load(&mut self, step: &mut Step, surroundings: &mut dyn Surroundings) -> Result<()> {
        step.batch = surroundings.load_batch()?;
        let mut count = 0;
        for sequences in &step.batch {
            let valid = sequences.labels.f_ne(IGNORED)?.f_sum(Kind::Int64)?;
            count += i64::try_from(&valid)?;
        }
        let all = Tensor::f_scalar_tensor(count, (Kind::Int64, Device::Cpu))?;
        self.groups.sum_over_data(&all)?;
        (step.valid_tokens, step.global_valid_tokens) = (count as u64, i64::try_from(&all)? as u64);
        match step.global_valid_tokens {
            0 => Err(Error::Usage("no token of this step has a label: there is nothing to learn".to_owned())),
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
                let output = with_grad(|| self.compute(unit, &input))?;
                (output.detach(), Kept::Graph { input, output })
            }
            Keep::Input => {
                let random = rng::state(input.device())?;
                let output = no_grad(|| self.compute(unit, &input))?;
                (output, Kept::Input { input, random })
            }
        };
        step.kept.insert((unit, microbatch.0), kept);
        step.outputs.insert(microbatch.0, output);
        Ok(())
    }

    fn recompute(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        self.unit(unit).wait_gathered()?;
        let Some(Kept::Input { input, random }) = step.kept.remove(&(unit, microbatch.0)) else {
            return Err(missing("the input of a unit"));
        };
        let device = input.device();
        let now = rng::state(device)?;
        rng::set_state(device, &random)?;
        let output = with_grad(|| self.compute(unit, &input));
        rng::set_state(device, &now)?;
        step.kept.insert((unit, microbatch.0), Kept::Graph { input, output: output? });
        Ok(())
    }

    fn compute(&self, unit: u32, input: &Tensor) -> Result<Tensor> {
        let params = &self.units[unit as usize];
        self.model.forward(unit as usize, &Params::new(&params.names, params.whole()), input)
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
    fn clip(&mut self) -> Result<f64> {
        let grads: Vec<&Tensor> =
            self.units.iter().flat_map(|unit| &unit.params).filter_map(|param| param.grad.as_ref()).collect();
        no_grad(|| {
            let device = grads.first().map_or(Device::Cpu, |grad| grad.device());
            let mut squares = Tensor::f_zeros([0i64; 0], (Kind::Float, device))?;
            let norms = call("aten::_foreach_norm", "Scalar", &[Arg::Tensors(&grads), Arg::Int(2)])?;
            for value in norms {
                let Value::Tensors(norms) = value else { continue };
                let own = Tensor::f_stack(&norms, 0)?;
                squares = own.f_mul(&own)?.f_sum(Kind::Float)?;
            }
            if let Some(shard) = &self.groups.shard {
                shard.all_reduce(&squares, crate::ffi::process_group::ReduceOp::Sum)?.wait()?;
            }
            let norm = f64::try_from(&squares.f_sqrt()?)?;
            let scale = self.max_norm / (norm + 1e-6);
            if scale < 1.0 {
                call("aten::_foreach_mul_", "Scalar", &[Arg::Tensors(&grads), Arg::Double(scale)])?;
            }
            Ok(norm)
        })
    }
}

/// The loss of a microbatch, and the gradient of what the last unit gave.
fn loss(step: &mut Step, microbatch: Microbatch) -> Result<()> {
    let logits = leaf(&taken(&mut step.outputs, microbatch.0, "logits")?);
    let labels = &step.batch[microbatch.0 as usize].labels;
    let loss = with_grad(|| -> Result<Tensor> {
        let flat = logits.f_flatten(0, 1)?.f_to_kind(Kind::Float)?;
        let sum = flat.f_cross_entropy_loss(
            &labels.f_flatten(0, 1)?,
            None::<&Tensor>,
            Reduction::Sum,
            IGNORED,
            0.0,
        )?;
        Ok(sum.f_div_scalar(step.global_valid_tokens as f64)?)
    })?;
    backward(&[&loss], &[None], false)?;
    let grad = take_grad(&logits)?.ok_or_else(|| missing("the gradient of the logits"))?;
    step.grads.insert(microbatch.0, grad);
    let loss = loss.detach();
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
