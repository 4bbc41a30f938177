//! What a rank can be told to do.

use crate::pipeline::Message;
use std::fmt;

/// Which unit of the model, in the order of the forward pass, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Unit(pub u32);

/// Which microbatch of the step, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Microbatch(pub u32);

/// What a forward pass keeps for the backward pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Everything that autograd saves.
    Graph,
    /// Outputs of costly operations: what else autograd saves is computed again (selective activation checkpointing of
    /// torchtitan 0.2, `selective_ac_option = "op"`).
    Operations,
    /// The input alone, and the state of the random generator: the rest is computed again (Chen et al. 2016).
    Input,
    /// Nothing: there is no backward pass.
    Nothing,
}

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// Take the sequences of the step, and count the tokens that have a label, over all ranks that have others.
    LoadBatch,
    /// Begin to make a unit's parameters whole, in the type that is computed in.
    Gather(Unit),
    /// Give up the whole parameters of a unit.
    Free(Unit),
    /// The forward pass of a unit, with its whole parameters. Its input is the output of the unit before, which another rank
    /// may have sent.
    Forward {
        /// Of this unit.
        unit: Unit,
        /// On this.
        microbatch: Microbatch,
        /// For the backward pass.
        keep: Keep,
    },
    /// The forward pass again, from what was kept of it, with everything kept.
    Recompute(Unit, Microbatch),
    /// The loss of the last unit's output: the sum over its tokens, divided by the count of all tokens of the step.
    Loss(Microbatch),
    /// The backward pass of a unit: from the gradient of its output to that of its input, and to those of its whole
    /// parameters. Uses up what was kept.
    Backward(Unit, Microbatch),
    /// The first part of it: to the gradient of the unit's input. What was kept stays, with the gradient of the output. Of the
    /// first unit, whose input are tokens, there is nothing to compute.
    BackwardInput(Unit, Microbatch),
    /// The other part: to the gradients of the whole parameters. Uses up what was kept.
    BackwardWeight(Unit, Microbatch),
    /// Begin to send what a stage made to the rank of the stage that needs it.
    Send(Message),
    /// Begin to receive what a stage of this rank needs; what needs it waits for it. Two ranks begin the messages between them
    /// in the same order.
    Recv(Message),
    /// Begin to sum a unit's gradients over the ranks that had other data, each rank getting its shard.
    Reduce(Unit),
    /// Wait for that, and add to the gradient of the shard.
    FinishReduce(Unit),
    /// Scale all gradients so that their norm over the whole model is at most what is allowed.
    ClipGrad,
    /// Wait until a save that was begun has its copy of parameters and optimizer state.
    WaitStaged,
    /// Change the parameters.
    OptimizerStep,
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Instruction::LoadBatch => write!(f, "LoadBatch"),
            Instruction::Gather(unit) => write!(f, "Gather {}", unit.0),
            Instruction::Free(unit) => write!(f, "Free {}", unit.0),
            Instruction::Forward { unit, microbatch, keep: Keep::Graph } => {
                write!(f, "Forward {}.{}", unit.0, microbatch.0)
            }
            Instruction::Forward { unit, microbatch, keep: Keep::Operations } => {
                write!(f, "Forward {}.{} keeping some outputs", unit.0, microbatch.0)
            }
            Instruction::Forward { unit, microbatch, keep: Keep::Input } => {
                write!(f, "Forward {}.{} keeping its input", unit.0, microbatch.0)
            }
            Instruction::Forward { unit, microbatch, keep: Keep::Nothing } => {
                write!(f, "Forward {}.{} keeping nothing", unit.0, microbatch.0)
            }
            Instruction::Recompute(unit, microbatch) => write!(f, "Recompute {}.{}", unit.0, microbatch.0),
            Instruction::Loss(microbatch) => write!(f, "Loss {}", microbatch.0),
            Instruction::Backward(unit, microbatch) => write!(f, "Backward {}.{}", unit.0, microbatch.0),
            Instruction::BackwardInput(unit, microbatch) => {
                write!(f, "BackwardInput {}.{}", unit.0, microbatch.0)
            }
            Instruction::BackwardWeight(unit, microbatch) => {
                write!(f, "BackwardWeight {}.{}", unit.0, microbatch.0)
            }
            Instruction::Send(message) => write!(f, "Send {message}"),
            Instruction::Recv(message) => write!(f, "Recv {message}"),
            Instruction::Reduce(unit) => write!(f, "Reduce {}", unit.0),
            Instruction::FinishReduce(unit) => write!(f, "FinishReduce {}", unit.0),
            Instruction::ClipGrad => write!(f, "ClipGrad"),
            Instruction::WaitStaged => write!(f, "WaitStaged"),
            Instruction::OptimizerStep => write!(f, "OptimizerStep"),
        }
    }
}
