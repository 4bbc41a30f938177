//! What a rank of a pipeline does.

use crate::program::Microbatch;
use std::fmt;

/// Which stage of the model, in the order of the forward pass, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stage(pub u32);

/// A pass through a stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pass {
    /// Forward.
    Forward,
    /// Backward: to the gradient of the input and to those of the parameters.
    Backward,
    /// Its first part, which the stage before waits for: to the gradient of the input.
    BackwardInput,
    /// Its other part, which nobody waits for: to the gradients of the parameters.
    BackwardWeight,
}

impl Pass {
    /// This pass of a microbatch through a stage.
    pub fn of(self, stage: Stage, microbatch: Microbatch) -> Action {
        Action { pass: self, stage, microbatch }
    }

    /// How long it takes where a forward pass takes 1: as long for the gradient of the input, and for those of the
    /// parameters (Qi et al. 2023, arXiv 2401.10241).
    pub fn duration(self) -> u32 {
        if self == Pass::Backward { 2 } else { 1 }
    }

    /// Its letter in PyTorch's lists.
    fn letter(self) -> char {
        match self {
            Pass::Forward => 'F',
            Pass::Backward => 'B',
            Pass::BackwardInput => 'I',
            Pass::BackwardWeight => 'W',
        }
    }
}

/// A pass of a microbatch through a stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Action {
    /// Which.
    pub pass: Pass,
    /// Through this stage.
    pub stage: Stage,
    /// Of this microbatch.
    pub microbatch: Microbatch,
}

/// As PyTorch writes it: `2F0`.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.stage.0, self.pass.letter(), self.microbatch.0)
    }
}

/// What ranks send each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Payload {
    /// What a stage gives, to the stage after it.
    Activation,
    /// The gradient of what a stage took, to the stage before it.
    Gradient,
}

/// Something that one rank sends another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Message {
    /// What.
    pub payload: Payload,
    /// The stage that made it.
    pub from: Stage,
    /// The stage that needs it.
    pub to: Stage,
    /// Of this microbatch.
    pub microbatch: Microbatch,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.payload {
            Payload::Activation => "activation",
            Payload::Gradient => "gradient",
        };
        write!(f, "{what} {} from stage {} to {}", self.microbatch.0, self.from.0, self.to.0)
    }
}

/// One thing that a rank does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Move {
    /// Compute.
    Compute(Action),
    /// Send to the rank of the other stage.
    Send(Message),
    /// Receive from the rank of the other stage.
    Recv(Message),
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Move::Compute(action) => write!(f, "{action}"),
            Move::Send(message) => write!(f, "Send {message}"),
            Move::Recv(message) => write!(f, "Recv {message}"),
        }
    }
}
