//! What a rank holds while its program runs, and what each instruction needs of it.

use super::passage::{Passages, Step, expect};
use super::{Instruction, Keep, Microbatch, Program, Purpose, Unit, used};
use crate::pipeline::{Message, Payload};
use std::collections::BTreeMap;

/// Where gradients of a unit are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Gradients {
    #[default]
    None,
    /// Of this many microbatches, in whole parameters.
    Whole(u32),
    /// On their way to the shards.
    Reducing(u32),
}

/// What is kept of a unit's forward pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// Everything for the backward pass.
    Graph,
    /// Outputs of costly operations.
    Operations,
    /// The input alone.
    Input,
    /// A graph of which the gradients of parameters are yet to be computed.
    Weights,
}

/// What is held of a unit.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct UnitState {
    /// Its parameters are whole, or about to be.
    pub(crate) is_whole: bool,
    /// Of its parameters.
    pub(crate) gradients: Gradients,
    /// Microbatches in the gradient of the shard.
    pub(crate) reduced: u32,
}

/// What a rank holds, one instruction after the other.
#[derive(Debug)]
pub(crate) struct Ledger {
    purpose: Purpose,
    gathered: bool,
    is_tied: bool,
    microbatches: u32,
    /// Of the model.
    units: Vec<UnitState>,
    kept: BTreeMap<(Unit, Microbatch), Kept>,
    passages: Passages,
    loaded: bool,
    clipped: bool,
    staged: bool,
    stepped: bool,
}

impl Ledger {
    /// Nothing is held yet. `gathered` says whether units must be gathered at all.
    pub(crate) fn new(program: &Program, gathered: bool) -> Self {
        Ledger {
            purpose: program.purpose,
            gathered,
            is_tied: program.is_tied,
            microbatches: program.microbatches,
            units: vec![UnitState::default(); program.units as usize],
            kept: BTreeMap::new(),
            passages: Passages::new(program),
            loaded: false,
            clipped: false,
            staged: false,
            stepped: false,
        }
    }

    /// Of every unit of the model.
    pub(crate) fn units(&self) -> impl Iterator<Item = (Unit, &UnitState)> {
        self.units.iter().enumerate().map(|(unit, state)| (Unit(unit as u32), state))
    }

    /// What is kept of forward passes.
    pub(crate) fn kept(&self) -> &BTreeMap<(Unit, Microbatch), Kept> {
        &self.kept
    }

    /// Carries out the next instruction.
    ///
    /// Errors: why it cannot be.
    pub(crate) fn carry_out(&mut self, instruction: Instruction) -> Step {
        expect(!self.stepped, || "the step is over".to_owned())?;
        let changes_nothing = matches!(
            instruction,
            Instruction::LoadBatch
                | Instruction::Gather(_)
                | Instruction::Free(_)
                | Instruction::Forward { .. }
                | Instruction::Loss(_)
                | Instruction::Send(Message { payload: Payload::Activation, .. })
                | Instruction::Recv(Message { payload: Payload::Activation, .. })
        );
        expect(changes_nothing || self.purpose == Purpose::Train, || {
            "an evaluation goes forward only".to_owned()
        })?;
        match instruction {
            Instruction::LoadBatch => {
                expect(!self.loaded, || "the batch was loaded before".to_owned())?;
                self.loaded = true;
            }
            Instruction::Gather(unit) => {
                let state = self.unit(unit)?;
                expect(!state.is_whole, || "it is whole already".to_owned())?;
                state.is_whole = true;
            }
            Instruction::Free(unit) => {
                let state = self.unit(unit)?;
                expect(state.is_whole, || "it is not whole".to_owned())?;
                state.is_whole = false;
            }
            Instruction::Forward { unit, microbatch, keep } => self.forward(unit, microbatch, keep)?,
            Instruction::Recompute(unit, microbatch) => {
                self.usable(unit)?;
                let kept = self.kept.get_mut(&(unit, microbatch));
                let is_partial = matches!(kept.as_deref(), Some(Kept::Operations | Kept::Input));
                expect(is_partial, || "no part of its forward pass is kept".to_owned())?;
                kept.into_iter().for_each(|kept| *kept = Kept::Graph);
            }
            Instruction::Loss(microbatch) => self.passages.loss(microbatch)?,
            Instruction::Backward(unit, microbatch) => {
                self.backward_input(unit, microbatch)?;
                self.backward_weight(unit, microbatch)?;
            }
            Instruction::BackwardInput(unit, microbatch) => self.backward_input(unit, microbatch)?,
            Instruction::BackwardWeight(unit, microbatch) => self.backward_weight(unit, microbatch)?,
            Instruction::Send(message) => self.passages.send(message)?,
            Instruction::Recv(message) => self.passages.recv(message)?,
            Instruction::Reduce(unit) => {
                let state = self.unit(unit)?;
                let Gradients::Whole(count) = state.gradients else {
                    return Err(format!("its gradients are {:?}", state.gradients));
                };
                state.gradients = Gradients::Reducing(count);
            }
            Instruction::FinishReduce(unit) => {
                let state = self.unit(unit)?;
                let Gradients::Reducing(count) = state.gradients else {
                    return Err(format!("its gradients are {:?}", state.gradients));
                };
                (state.gradients, state.reduced) = (Gradients::None, state.reduced + count);
            }
            Instruction::ClipGrad => {
                self.all_reduced()?;
                expect(!self.clipped, || "gradients were clipped before".to_owned())?;
                self.clipped = true;
            }
            Instruction::WaitStaged => self.staged = true,
            Instruction::OptimizerStep => {
                expect(self.clipped, || "gradients are not clipped".to_owned())?;
                expect(self.staged, || "a save may still copy the parameters".to_owned())?;
                self.stepped = true;
            }
        }
        Ok(())
    }

    fn unit(&mut self, unit: Unit) -> Result<&mut UnitState, String> {
        let state = self.units.get_mut(unit.0 as usize).filter(|_| self.passages.has(unit));
        state.ok_or_else(|| "there is no such unit".to_owned())
    }

    /// Sees that what a pass through a unit computes with is whole.
    fn usable(&mut self, unit: Unit) -> Step {
        let gathered = self.gathered;
        for used in self.used(unit) {
            let state = self.unit(used)?;
            expect(state.is_whole || !gathered, || match used == unit {
                true => "its parameters are not whole".to_owned(),
                false => format!("the parameters of unit {}, which it shares, are not whole", used.0),
            })?;
        }
        Ok(())
    }

    fn used(&self, unit: Unit) -> impl Iterator<Item = Unit> + use<> {
        used(unit, self.units.len() as u32, self.is_tied)
    }

    fn forward(&mut self, unit: Unit, microbatch: Microbatch, keep: Keep) -> Step {
        expect(self.loaded, || "no batch was loaded".to_owned())?;
        let keeps = keep != Keep::Nothing;
        expect(keeps == (self.purpose == Purpose::Train), || {
            "what backward needs is kept where there is one".to_owned()
        })?;
        self.usable(unit)?;
        self.passages.forward(unit, microbatch)?;
        let kept = match keep {
            Keep::Graph => Kept::Graph,
            Keep::Operations => Kept::Operations,
            Keep::Input => Kept::Input,
            Keep::Nothing => return Ok(()),
        };
        self.kept.insert((unit, microbatch), kept);
        Ok(())
    }

    fn backward_input(&mut self, unit: Unit, microbatch: Microbatch) -> Step {
        self.usable(unit)?;
        self.passages.backward(unit, microbatch)?;
        let kept = self.kept.insert((unit, microbatch), Kept::Weights);
        expect(kept == Some(Kept::Graph), || format!("of its forward pass is kept: {kept:?}"))
    }

    fn backward_weight(&mut self, unit: Unit, microbatch: Microbatch) -> Step {
        self.usable(unit)?;
        let kept = self.kept.remove(&(unit, microbatch));
        expect(kept == Some(Kept::Weights), || {
            format!("the gradient of its input comes first; of its forward pass is kept: {kept:?}")
        })?;
        for used in self.used(unit) {
            // A microbatch is through with a unit when it has passed the unit itself: what is shared comes before.
            let passed = u32::from(used == unit);
            let state = self.unit(used)?;
            state.gradients = match state.gradients {
                Gradients::None => Gradients::Whole(passed),
                Gradients::Whole(count) => Gradients::Whole(count + passed),
                Gradients::Reducing(_) => {
                    return Err(format!("the gradients of unit {} are being reduced", used.0));
                }
            };
        }
        Ok(())
    }

    fn all_reduced(&self) -> Step {
        let mut units = self.units.iter().enumerate();
        let missing = units.position(|(unit, state)| {
            self.passages.has(Unit(unit as u32))
                && (state.reduced != self.microbatches || state.gradients != Gradients::None)
        });
        expect(missing.is_none(), || {
            let unit = missing.unwrap_or_default();
            let UnitState { reduced, gradients, .. } = self.units[unit];
            format!(
                "of unit {unit} {reduced} of {} microbatches are reduced, {gradients:?}",
                self.microbatches
            )
        })
    }

    /// Nothing follows.
    ///
    /// Errors: what is not done, or still held.
    pub(crate) fn end(&self) -> Step {
        let is_over = self.stepped || self.purpose == Purpose::Evaluate;
        expect(is_over, || "no step was made".to_owned())?;
        self.passages.end(self.purpose)?;
        let whole = self.units.iter().position(|state| state.is_whole);
        expect(whole.is_none(), || format!("unit {whole:?} is still whole"))?;
        expect(self.kept.is_empty(), || format!("kept and not used: {:?}", self.kept))
    }
}
