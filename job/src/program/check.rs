//! A program run on paper.

use super::Program;
use super::ledger::{Gradients, Kept, Ledger, UnitState};

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
    /// Those that have gone backward but for the gradients of parameters.
    pub put_off: u32,
    /// Units with gradients of whole parameters, those being reduced included.
    pub whole_gradients: u32,
}

/// Runs a program on paper. `gathered` says whether units must be gathered at all.
///
/// Errors: the first instruction that cannot be carried out, or what the end lacks.
pub fn check(program: &Program, gathered: bool) -> Result<HighWater, Fault> {
    let mut ledger = Ledger::new(program, gathered);
    let mut most = HighWater::default();
    for (at, instruction) in program.instructions.iter().enumerate() {
        let fault = |why| Fault { at, instruction: instruction.to_string(), why };
        ledger.carry_out(*instruction).map_err(fault)?;
        most = most.max(HighWater::of(&ledger));
    }
    let at = program.instructions.len();
    ledger.end().map_err(|why| Fault { at, instruction: "the end".to_owned(), why })?;
    Ok(most)
}

impl HighWater {
    /// What is held now.
    fn of(ledger: &Ledger) -> Self {
        let count =
            |holds: fn(&UnitState) -> bool| ledger.units().filter(|(_, unit)| holds(unit)).count() as u32;
        let kept = |what| ledger.kept().values().filter(|kept| **kept == what).count() as u32;
        HighWater {
            whole_units: count(|unit| unit.is_whole),
            graphs: kept(Kept::Graph),
            operations: kept(Kept::Operations),
            inputs: kept(Kept::Input),
            put_off: kept(Kept::Weights),
            whole_gradients: count(|unit| unit.gradients != Gradients::None),
        }
    }

    /// The larger of each.
    fn max(self, other: HighWater) -> Self {
        HighWater {
            whole_units: self.whole_units.max(other.whole_units),
            graphs: self.graphs.max(other.graphs),
            operations: self.operations.max(other.operations),
            inputs: self.inputs.max(other.inputs),
            put_off: self.put_off.max(other.put_off),
            whole_gradients: self.whole_gradients.max(other.whole_gradients),
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
pub(super) mod tests;
