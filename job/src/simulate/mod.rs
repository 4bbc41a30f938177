//! A step simulated: when every rank of a pipeline does what, and what it holds, by the programs that the trainer runs.
//!
//! **Streams.** A device computes one thing after the other, and communicates beside that in three streams: gathers,
//! reductions, and messages of the pipeline, one stream for each two ranks that send each other something. An instruction
//! that begins communication takes no time of its own. What it begins starts when all that its rank computes before it is done
//! (c10d's collectives wait for the stream that they are called from) and its stream is free; a message starts when both ends
//! are ready. What needs it waits for it. Collectives within a pass of a unit, of tensor and context parallelism, are part of
//! the pass. [`Instruction::ClipGrad`](crate::program::Instruction::ClipGrad) waits for all ranks of the pipeline.
//!
//! **Ranks.** Those of one pipeline are simulated, one for each place in it. Ranks that differ in other axes run the same
//! program at the same time.
//!
//! All numbers are given ([`Costs`]); [`estimate`](crate::estimate) has them of models and devices.

mod channel;
mod clock;
mod costs;
mod figures;
mod memory;
mod stuck;
mod trace;

pub use clock::{Run, Stream, Timed, Waited, simulate};
pub use costs::{Costs, Pass, UnitBytes, UnitCosts};
pub use figures::{Carried, Exposed, Figures, Kinds};
pub use memory::{Memory, Peak};
pub use stuck::{Stuck, Waiting};
pub use trace::events;
