//! A program run on paper.

use super::{Instruction, Keep, Microbatch, Program, Purpose, Unit};
use std::collections::BTreeMap;

/// Why a program is wrong: at which instruction, and what of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("instruction {at} ({instruction}): {why}")]
pub struct Fault {
    /// Its position; the length of the program for what is found at its end.
    pub at: usize,
    /// The instruction, as text.
    pub instruction: String,
    /// What was expected of it.
    pub why: String,
}

/// The most of everything that is held at a time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HighWater {
    /// Units whose parameters are whole, or about to be.
    pub whole_units: u32,
    /// Pairs of unit and microbatch of which everything for the backward pass is kept.
    pub graphs: u32,
    /// Those of which outputs of costly operations are kept.
    pub operations: u32,
    /// Those of which the input alone is kept.
    pub inputs: u32,
    /// Units with gradients of whole parameters, those being reduced included.
    pub whole_gradients: u32,
}

/// Runs a program on paper. `gathered` says whether units must be gathered at all.
///
/// Errors: the first instruction that cannot be carried out, or what the end lacks.
pub fn check(program: &Program, gathered: bool) -> Result<HighWater, Fault> {
    let mut paper = Paper::new(program, gathered);
    for (at, instruction) in program.instructions.iter().enumerate() {
        let fault = |why| Fault { at, instruction: instruction.to_string(), why };
        paper.carry_out(*instruction).map_err(fault)?;
        paper.note_high_water();
    }
    let at = program.instructions.len();
    paper.end().map_err(|why| Fault { at, instruction: "the end".to_owned(), why })?;
    Ok(paper.high_water)
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Gradients {
    #[default]
    None,
    /// Of this many microbatches, in whole parameters.
    Whole(u32),
    /// On their way to the shards.
    Reducing(u32),
}

#[derive(Clone, Copy, Default, Debug)]
struct UnitState {
    is_whole: bool,
    gradients: Gradients,
    /// Microbatches in the gradient of the shard.
    reduced: u32,
}

#[derive(Debug)]
struct Paper {
    purpose: Purpose,
    gathered: bool,
    microbatches: u32,
    units: Vec<UnitState>,
    kept: BTreeMap<(Unit, Microbatch), Keep>,
    /// Per microbatch, how many units it has passed through.
    forward: Vec<u32>,
    /// Per microbatch, how many units are yet to be passed on the way back; `None` before the loss.
    backward: Vec<Option<u32>>,
    loaded: bool,
    clipped: bool,
    staged: bool,
    stepped: bool,
    high_water: HighWater,
}

type Step = Result<(), String>;

fn expect(holds: bool, why: impl FnOnce() -> String) -> Step {
    if holds { Ok(()) } else { Err(why()) }
}

impl Paper {
    fn new(program: &Program, gathered: bool) -> Self {
        Paper {
            purpose: program.purpose,
            gathered,
            microbatches: program.microbatches,
            units: vec![UnitState::default(); program.units as usize],
            kept: BTreeMap::new(),
            forward: vec![0; program.microbatches as usize],
            backward: vec![None; program.microbatches as usize],
            loaded: false,
            clipped: false,
            staged: false,
            stepped: false,
            high_water: HighWater::default(),
        }
    }

    fn carry_out(&mut self, instruction: Instruction) -> Step {
        expect(!self.stepped, || "the step is over".to_owned())?;
        let changes_nothing = matches!(
            instruction,
            Instruction::LoadBatch
                | Instruction::Gather(_)
                | Instruction::Free(_)
                | Instruction::Forward { .. }
                | Instruction::Loss(_)
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
                let is_partial = matches!(kept.as_deref(), Some(Keep::Operations | Keep::Input));
                expect(is_partial, || "no part of its forward pass is kept".to_owned())?;
                kept.into_iter().for_each(|kept| *kept = Keep::Graph);
            }
            Instruction::Loss(microbatch) => self.loss(microbatch)?,
            Instruction::Backward(unit, microbatch) => self.backward(unit, microbatch)?,
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
        self.units.get_mut(unit.0 as usize).ok_or_else(|| "there is no such unit".to_owned())
    }

    fn usable(&mut self, unit: Unit) -> Step {
        let gathered = self.gathered;
        let state = self.unit(unit)?;
        expect(state.is_whole || !gathered, || "its parameters are not whole".to_owned())
    }

    fn forward(&mut self, unit: Unit, microbatch: Microbatch, keep: Keep) -> Step {
        expect(self.loaded, || "no batch was loaded".to_owned())?;
        let keeps = keep != Keep::Nothing;
        expect(keeps == (self.purpose == Purpose::Train), || {
            "what backward needs is kept where there is one".to_owned()
        })?;
        self.usable(unit)?;
        let passed = self.forward.get_mut(microbatch.0 as usize);
        let passed = passed.ok_or_else(|| "there is no such microbatch".to_owned())?;
        expect(*passed == unit.0, || format!("the microbatch has passed {passed} units"))?;
        *passed += 1;
        if keeps {
            self.kept.insert((unit, microbatch), keep);
        }
        Ok(())
    }

    fn loss(&mut self, microbatch: Microbatch) -> Step {
        let (index, units) = (microbatch.0 as usize, self.units.len() as u32);
        let passed = self.forward.get(index).copied();
        expect(passed == Some(units), || format!("the microbatch has passed {passed:?} of {units} units"))?;
        expect(self.backward[index].is_none(), || "its loss was computed before".to_owned())?;
        self.backward[index] = Some(units);
        Ok(())
    }

    fn backward(&mut self, unit: Unit, microbatch: Microbatch) -> Step {
        self.usable(unit)?;
        let left = self.backward.get(microbatch.0 as usize).copied().flatten();
        expect(left == Some(unit.0 + 1), || format!("on the way back {left:?} units are left"))?;
        let kept = self.kept.remove(&(unit, microbatch));
        expect(kept == Some(Keep::Graph), || format!("of its forward pass is kept: {kept:?}"))?;
        self.backward[microbatch.0 as usize] = Some(unit.0);
        let state = self.unit(unit)?;
        state.gradients = match state.gradients {
            Gradients::None => Gradients::Whole(1),
            Gradients::Whole(count) => Gradients::Whole(count + 1),
            Gradients::Reducing(_) => return Err("its gradients are being reduced".to_owned()),
        };
        Ok(())
    }

    fn all_reduced(&self) -> Step {
        let missing = self
            .units
            .iter()
            .position(|state| state.reduced != self.microbatches || state.gradients != Gradients::None);
        expect(missing.is_none(), || {
            let unit = missing.unwrap_or_default();
            let UnitState { reduced, gradients, .. } = self.units[unit];
            format!(
                "of unit {unit} {reduced} of {} microbatches are reduced, {gradients:?}",
                self.microbatches
            )
        })
    }

    fn end(&self) -> Step {
        match self.purpose {
            Purpose::Train => expect(self.stepped, || "no step was made".to_owned())?,
            Purpose::Evaluate => {
                let without = self.backward.iter().position(Option::is_none);
                expect(without.is_none(), || format!("microbatch {without:?} has no loss"))?;
            }
        }
        let whole = self.units.iter().position(|state| state.is_whole);
        expect(whole.is_none(), || format!("unit {whole:?} is still whole"))?;
        expect(self.kept.is_empty(), || format!("kept and not used: {:?}", self.kept))
    }

    fn note_high_water(&mut self) {
        let count =
            |holds: &dyn Fn(&UnitState) -> bool| self.units.iter().filter(|unit| holds(unit)).count() as u32;
        let kept = |what| self.kept.values().filter(|kept| **kept == what).count() as u32;
        let (now, most) = (
            HighWater {
                whole_units: count(&|unit| unit.is_whole),
                graphs: kept(Keep::Graph),
                operations: kept(Keep::Operations),
                inputs: kept(Keep::Input),
                whole_gradients: count(&|unit| unit.gradients != Gradients::None),
            },
            &mut self.high_water,
        );
        most.whole_units = most.whole_units.max(now.whole_units);
        most.graphs = most.graphs.max(now.graphs);
        most.operations = most.operations.max(now.operations);
        most.inputs = most.inputs.max(now.inputs);
        most.whole_gradients = most.whole_gradients.max(now.whole_gradients);
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
