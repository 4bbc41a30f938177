//! Passes of a microbatch through a unit: forward, once more, and back.

use super::exchange::Waiting;
use super::{Runner, Step, missing, taken};
use crate::deferred::Products;
use crate::error::Result;
use crate::ffi::autograd::{backward, leaf, take_grad};
use crate::ffi::rng::{self, RngState};
use crate::model::Params;
use crate::tape::Tape;
use job::program::{Instruction, Keep, Microbatch, Program, Unit};
use tch::{Tensor, no_grad, with_grad};

/// How gradients of parameters come about in a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backward {
    /// Whether some are computed after the gradient of the input.
    pub(super) is_in_parts: bool,
    /// Whether those of several microbatches are added up before ranks sum them.
    pub(super) is_added_up: bool,
}

impl Backward {
    pub(super) fn of(program: &Program) -> Self {
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
pub(super) enum Kept {
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

impl Runner<'_> {
    pub(super) fn forward(
        &mut self,
        step: &mut Step,
        unit: u32,
        microbatch: Microbatch,
        keep: Keep,
    ) -> Result<()> {
        self.wait_whole(unit)?;
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

    pub(super) fn recompute(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        self.wait_whole(unit)?;
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

    /// Waits for what a pass through a unit computes with.
    fn wait_whole(&mut self, unit: u32) -> Result<()> {
        let mut used = self.programs.train.used(Unit(unit));
        used.try_for_each(|used| self.unit(used.0).wait_gathered())
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
        let shared = self.programs.train.used(Unit(unit)).find(|used| used.0 != unit);
        let params = match shared.map(|shared| &self.units[self.place(shared.0)]) {
            Some(shared) => params.sharing(&shared.names, shared.whole()),
            None => params,
        };
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

    pub(super) fn backward(&mut self, step: &mut Step, unit: u32, microbatch: Microbatch) -> Result<()> {
        if let Some(products) = self.backward_to_input(step, unit, microbatch)? {
            products.add_to_grads()?;
        }
        self.set_grads_aside(unit)
    }

    pub(super) fn backward_input(
        &mut self,
        step: &mut Step,
        unit: u32,
        microbatch: Microbatch,
    ) -> Result<()> {
        // Tokens have no gradient. What there is to compute is computed with the parameters'.
        if unit > 0 {
            let products = self.backward_to_input(step, unit, microbatch)?;
            let products = products.ok_or_else(|| missing("what products of weights are put off to"))?;
            step.kept.insert((unit, microbatch.0), Kept::Products(products));
        }
        Ok(())
    }

    pub(super) fn backward_weight(
        &mut self,
        step: &mut Step,
        unit: u32,
        microbatch: Microbatch,
    ) -> Result<()> {
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
        self.wait_whole(unit)?;
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
