//! What a rank holds while it runs its program.
//!
//! Memory is taken and given up in the order of the program, as a caching allocator does it whose users are streams. Only what
//! is sent stays as long as it is under way, by the times of a [`Run`](super::Run).

use super::clock::{Stream, Timed};
use super::costs::{Costs, UnitBytes};
use crate::pipeline::{Payload, Stage};
use crate::program::{Gradients, Instruction, Kept, Ledger, Microbatch, Program, Unit};
use std::collections::BTreeSet;

/// Bytes by what they are for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Memory {
    /// Shards of parameters.
    pub parameters: u64,
    /// What the optimizer keeps.
    pub moments: u64,
    /// Gradients of shards.
    pub gradients: u64,
    /// Whole parameters.
    pub whole_parameters: u64,
    /// Gradients of whole parameters, those being reduced included.
    pub whole_gradients: u64,
    /// Activations of forward passes that are kept with everything.
    pub graphs: u64,
    /// Those kept with outputs of costly operations.
    pub operations: u64,
    /// Those kept with their input alone.
    pub inputs: u64,
    /// What backward passes leave that have not come to the parameters.
    pub put_off: u64,
    /// Logits and what the loss needs of them.
    pub loss: u64,
    /// What is being sent and received.
    pub messages: u64,
    /// What a pass needs while it is under way.
    pub working: u64,
}

impl Memory {
    /// Every kind by name.
    pub fn kinds(&self) -> [(&'static str, u64); 12] {
        [
            ("parameter shards", self.parameters),
            ("optimizer moments", self.moments),
            ("gradient shards", self.gradients),
            ("whole parameters", self.whole_parameters),
            ("whole gradients", self.whole_gradients),
            ("activations, everything", self.graphs),
            ("activations, some operations", self.operations),
            ("activations, inputs alone", self.inputs),
            ("activations, backward put off", self.put_off),
            ("logits and loss", self.loss),
            ("pipeline messages", self.messages),
            ("passes under way", self.working),
        ]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|(_, bytes)| bytes).sum()
    }

    /// The larger of each kind.
    fn max(&self, other: &Memory) -> Memory {
        Memory {
            parameters: self.parameters.max(other.parameters),
            moments: self.moments.max(other.moments),
            gradients: self.gradients.max(other.gradients),
            whole_parameters: self.whole_parameters.max(other.whole_parameters),
            whole_gradients: self.whole_gradients.max(other.whole_gradients),
            graphs: self.graphs.max(other.graphs),
            operations: self.operations.max(other.operations),
            inputs: self.inputs.max(other.inputs),
            put_off: self.put_off.max(other.put_off),
            loss: self.loss.max(other.loss),
            messages: self.messages.max(other.messages),
            working: self.working.max(other.working),
        }
    }
}

/// The most that a rank holds at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peak {
    /// What it then holds.
    pub memory: Memory,
    /// Position of the instruction during which that is.
    pub at: usize,
    /// The instruction.
    pub instruction: Instruction,
    /// The most of each kind, whenever that is.
    pub of_each: Memory,
}

impl Peak {
    /// That of a rank, of which a simulation gave `timed`; none for a program without instructions.
    ///
    /// Panics for a program that [`check`](crate::program::check()) refuses.
    pub fn of(program: &Program, timed: &[Timed], costs: &Costs) -> Option<Peak> {
        let mut held = Held::new(program, costs);
        let mut of_each = Memory::default();
        let mut peak: Option<Peak> = None;
        for (at, timed) in timed.iter().enumerate() {
            let before = held.memory();
            held.carry_out(timed);
            let after = held.memory();
            // A pass takes up what it makes before it gives up what it needs no more.
            let working = held.working(timed.instruction);
            let during = Memory { working, ..before.max(&after) };
            of_each = of_each.max(&Memory { working, ..after });
            if peak.as_ref().is_none_or(|peak| during.total() > peak.memory.total()) {
                peak = Some(Peak { memory: during, at, instruction: timed.instruction, of_each });
            }
        }
        peak.map(|peak| Peak { of_each, ..peak })
    }
}

/// What a rank holds now.
struct Held<'a> {
    program: &'a Program,
    costs: &'a Costs,
    fixed: Memory,
    ledger: Ledger,
    logits: BTreeSet<Microbatch>,
    received: BTreeSet<(Payload, Stage, Microbatch)>,
    /// When what is being sent has left.
    sending: Vec<f64>,
}

impl<'a> Held<'a> {
    fn new(program: &'a Program, costs: &'a Costs) -> Self {
        let units = program.stages.iter().flat_map(|stage| stage.units.clone().map(Unit));
        let bytes = units.map(|unit| costs.of(unit).bytes);
        let fixed = bytes.fold(Memory::default(), |fixed, bytes| Memory {
            parameters: fixed.parameters + bytes.shard,
            moments: fixed.moments + bytes.moments,
            ..fixed
        });
        Held {
            program,
            costs,
            fixed,
            // Whether it gathers is its own affair: it was checked.
            ledger: Ledger::new(program, false),
            logits: BTreeSet::new(),
            received: BTreeSet::new(),
            sending: Vec::new(),
        }
    }

    fn memory(&self) -> Memory {
        let bytes = |unit: Unit| &self.costs.of(unit).bytes;
        let mut memory = Memory {
            loss: self.logits.len() as u64 * self.costs.logits_bytes,
            messages: (self.received.len() + self.sending.len()) as u64 * self.costs.message_bytes,
            ..self.fixed
        };
        for (unit, state) in self.ledger.units() {
            if state.is_whole {
                memory.whole_parameters += bytes(unit).whole;
            }
            if state.reduced > 0 {
                memory.gradients += bytes(unit).shard_gradient;
            }
            memory.whole_gradients += match state.gradients {
                Gradients::None => 0,
                Gradients::Whole(_) => bytes(unit).whole_gradient,
                Gradients::Reducing(_) => bytes(unit).reducing,
            };
        }
        for ((unit, _), kept) in self.ledger.kept() {
            let UnitBytes { graph, operations, input, put_off, .. } = *bytes(*unit);
            match kept {
                Kept::Graph => memory.graphs += graph,
                Kept::Operations => memory.operations += operations,
                Kept::Input => memory.inputs += input,
                Kept::Weights => memory.put_off += put_off,
            }
        }
        memory
    }

    fn working(&self, instruction: Instruction) -> u64 {
        match instruction {
            Instruction::Loss(_) => self.costs.loss_working_bytes,
            Instruction::Forward { unit, .. }
            | Instruction::Recompute(unit, _)
            | Instruction::Backward(unit, _)
            | Instruction::BackwardInput(unit, _)
            | Instruction::BackwardWeight(unit, _) => self.costs.of(unit).bytes.working,
            _ => 0,
        }
    }

    fn carry_out(&mut self, timed: &Timed) {
        if timed.stream == Stream::Compute {
            self.sending.retain(|left| *left > timed.begin);
        }
        let sound = self.ledger.carry_out(timed.instruction);
        sound.expect("a program is checked before it is simulated");
        let last = Unit(self.program.units.wrapping_sub(1));
        match timed.instruction {
            Instruction::Forward { unit, microbatch, .. } => {
                self.consume(Payload::Activation, unit, microbatch);
                if unit == last {
                    self.logits.insert(microbatch);
                }
            }
            // Without a backward pass nothing needs them any more.
            Instruction::Loss(microbatch) if !self.ledger.kept().contains_key(&(last, microbatch)) => {
                self.logits.remove(&microbatch);
            }
            Instruction::BackwardInput(unit, microbatch) => {
                self.consume(Payload::Gradient, unit, microbatch);
            }
            Instruction::Backward(unit, microbatch) | Instruction::BackwardWeight(unit, microbatch) => {
                self.consume(Payload::Gradient, unit, microbatch);
                if unit == last {
                    self.logits.remove(&microbatch);
                }
            }
            Instruction::Send(_) => self.sending.push(timed.end),
            Instruction::Recv(message) => {
                self.received.insert((message.payload, message.to, message.microbatch));
            }
            _ => {}
        }
    }

    /// What was received becomes the input of a stage, or the gradient of its output.
    fn consume(&mut self, payload: Payload, unit: Unit, microbatch: Microbatch) {
        let stage = self.program.stages.iter().find(|stage| stage.units.contains(&unit.0));
        if let Some(stage) = stage {
            self.received.remove(&(payload, stage.stage, microbatch));
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
