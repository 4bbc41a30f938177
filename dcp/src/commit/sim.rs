//! The commit protocol against every order of events that a seed can think of. No I/O, no clock: one seed, one run.
//!
//! A store of keys with create-if-absent is linearizable, but an operation takes effect some time after it is sent, or
//! never; answers are lost; clients repeat what was not answered; a caller gives up on a request that takes effect long
//! after. Up to three jobs save one step, each with up to [`RANKS_MAX`] ranks that die and stall, as committers do
//! between any two of their operations. `prune` and the removal of the step run at any moment, as if every age limit had
//! passed, and are as slow as anything else. Readers look at any moment. The committer is the real one of
//! [`super::protocol`].
//!
//! What must hold is [`Invariant`]; it is compared with the store as it is, which no actor sees, after every event that
//! changes it. [`Variant`]s are protocols with one mistake each: the simulator must find every one.

mod cleaner;
mod events;
mod job;
mod random;
mod rank;
mod reader;
mod store;
#[cfg(test)]
mod tests;
mod world;

pub use events::{Event, Fault, Invariant, Outcome};

use world::World;

/// Most ranks of a job.
pub const RANKS_MAX: u32 = 64;

/// Most events of one run; one that has more does not end.
pub const EVENTS_MAX: u64 = 200_000;

/// A protocol to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Variant {
    /// The real one.
    #[default]
    Real,
    /// The slot is filled when all ranks have begun, not when all objects and records are there.
    ManifestFirst,
    /// "It exists already" is taken for another's checkpoint.
    ExistsIsLost,
    /// `prune` removes what no slot names without filling the slot first.
    PruneWithoutFence,
    /// `prune` removes every attempt but the one of the newest checkpoint, also those that are to replace it.
    PruneAnyGeneration,
    /// A creation that was answered well is not followed by a look at the other slots.
    Unconfirmed,
    /// A creation whose answer is open counts as refused.
    OpenIsRefused,
    /// All attempts write under the same names and take what exists for their own.
    SharedNames,
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most ranks of a job, 1 to [`RANKS_MAX`].
    pub ranks_max: u32,
    /// The protocol.
    pub variant: Variant,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { ranks_max: RANKS_MAX, variant: Variant::Real }
    }
}

/// What one seed, or many, led to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Seeds run.
    pub seeds: u64,
    /// Events.
    pub events: u64,
    /// Faults by kind, in the order of [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
    /// Ends of saves, cleanings and reads by kind, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Tally) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.faults.iter_mut().zip(other.faults).for_each(|(sum, count)| *sum += count);
        self.outcomes.iter_mut().zip(other.outcomes).for_each(|(sum, count)| *sum += count);
    }
}

/// An invariant that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// Which.
    pub invariant: Invariant,
    /// What was found.
    pub found: String,
    /// The number of the event after which it did not hold.
    pub event: u64,
}

/// Runs one seed, calling `observe` with every event and its number. Equal seeds and settings give equal runs.
///
/// Errors: the first violation.
pub fn run(
    seed: u64,
    settings: Settings,
    observe: &mut dyn FnMut(u64, &Event),
) -> Result<Tally, Box<Violation>> {
    World::new(seed, settings, observe).run()
}

/// Runs seeds `0..seeds`, up to the first violation.
pub fn run_all(seeds: u64, settings: Settings) -> (Tally, Option<Box<Violation>>) {
    let mut total = Tally::default();
    for seed in 0..seeds {
        match run(seed, settings, &mut |_, _| ()) {
            Ok(tally) => total.add(&tally),
            Err(violation) => return (total, Some(violation)),
        }
    }
    (total, None)
}
