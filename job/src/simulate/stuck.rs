//! A step that never ends.

use crate::pipeline::Message;
use std::fmt;

/// Ranks that wait for what never comes, and messages that are never taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// Ranks that do not come to the end of their programs.
    pub waiting: Vec<Waiting>,
    /// Per message of which one end alone is ready, the rank of that end.
    pub left: Vec<(u32, Message)>,
}

/// A rank that waits for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Which.
    pub rank: u32,
    /// Its instruction: position and text.
    pub at: usize,
    /// The same as text.
    pub instruction: String,
    /// What it waits for.
    pub why: String,
}

impl std::error::Error for Stuck {}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the step never ends")?;
        for (position, Waiting { rank, at, instruction, why }) in self.waiting.iter().enumerate() {
            let before = if position == 0 { ": " } else { "; " };
            write!(f, "{before}rank {rank} waits at instruction {at} ({instruction}) {why}")?;
        }
        // Where ranks wait it is theirs.
        let left = self.left.iter().filter(|_| self.waiting.is_empty());
        for (position, (rank, message)) in left.enumerate() {
            let before = if position == 0 { ": " } else { "; " };
            write!(
                f,
                "{before}rank {rank} is ready for `{message}`, and the rank at its other end never is"
            )?;
        }
        Ok(())
    }
}
