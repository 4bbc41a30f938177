//! Lets strips pass a point in the order in which they were handed out, whichever thread is first with its work.
//!
//! Nothing waits in a circle: the strip handed out first of those that have not passed waits for nobody. A strip that is
//! let go of without having passed, as an error does, ends the waiting of all.

use crate::error::{Error, Result};
use crate::threads::lock;
use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    handed_out: u64,
    passed: u64,
    is_stopped: bool,
}

impl Turns {
    /// The next turn; to be asked for by one strip after the other.
    pub(super) fn hand_out(&self) -> Turn<'_> {
        let mut state = lock(&self.state);
        let number = state.handed_out;
        state.handed_out += 1;
        Turn { turns: self, number, has_passed: false }
    }
}

/// A strip's turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
    has_passed: bool,
}

impl Turn<'_> {
    /// Waits for all earlier turns to have passed, acts, and passes.
    ///
    /// Errors: [`Error::Interrupted`] where an earlier strip was given up.
    pub(super) fn pass(mut self, act: impl FnOnce()) -> Result<()> {
        let mut state = lock(&self.turns.state);
        while state.passed != self.number && !state.is_stopped {
            state = self.turns.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_stopped {
            return Err(Error::Interrupted);
        }
        act();
        state.passed += 1;
        self.has_passed = true;
        drop(state);
        self.turns.moved.notify_all();
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.has_passed {
            lock(&self.turns.state).is_stopped = true;
            self.turns.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::in_threads;

    #[test]
    fn turns_pass_in_the_order_in_which_they_were_handed_out() {
        let turns = Turns::default();
        let (source, order) = (Mutex::new(0u32..1000), Mutex::new(Vec::new()));
        let work = || loop {
            let (number, turn) = {
                let mut source = lock(&source);
                let Some(number) = source.next() else { return Ok(()) };
                (number, turns.hand_out())
            };
            if number % 3 == 0 {
                std::thread::yield_now();
            }
            turn.pass(|| lock(&order).push(number))?;
        };
        in_threads(4, &work).unwrap();
        assert_eq!(order.into_inner().unwrap(), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_turn_that_is_given_up_ends_the_waiting() {
        let turns = Turns::default();
        let first = turns.hand_out();
        let second = turns.hand_out();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || second.pass(|| panic!("not its turn")));
            drop(first);
            assert!(matches!(waiting.join().unwrap(), Err(Error::Interrupted)));
        });
    }
}
