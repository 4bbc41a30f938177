//! What is to be done next, and by when a checkpoint may exist.

use super::Item;
use super::object::{Object, Unit};
use super::order::Order;
use crate::threads::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A piece of work.
#[derive(Debug)]
pub(super) enum Work {
    /// Look at an object, and open it where it must be copied.
    Open(Item, Option<usize>),
    /// Copy a piece of an open object.
    Copy(Arc<Object>, Unit),
}

/// The work of all threads.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Pieces of open objects, which come first, so that few are open.
    units: VecDeque<(Arc<Object>, Unit)>,
    ready: VecDeque<(Item, Option<usize>)>,
    commits: Vec<Vec<Item>>,
    waits_for: Vec<usize>,
    /// Objects that were taken and are neither done nor given up.
    under_way: usize,
    failed: bool,
}

impl Queue {
    pub(super) fn new(order: Order) -> Self {
        let mut state = State {
            units: VecDeque::new(),
            ready: order.data.into(),
            commits: order.commits,
            waits_for: order.waits_for,
            under_way: 0,
            failed: false,
        };
        let without_data: Vec<usize> =
            (0..state.waits_for.len()).filter(|&group| state.waits_for[group] == 0).collect();
        without_data.into_iter().for_each(|group| state.release(group));
        Queue { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The next piece of work; waits while another thread may make some. `None` when all is done or something failed.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = lock(&self.state);
        loop {
            if state.failed {
                return None;
            }
            if let Some((object, unit)) = state.units.pop_front() {
                return Some(Work::Copy(object, unit));
            }
            if let Some((item, group)) = state.ready.pop_front() {
                state.under_way += 1;
                return Some(Work::Open(item, group));
            }
            if state.under_way == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds the pieces of an object that was opened.
    pub(super) fn opened(&self, object: Object, units: Vec<Unit>) {
        let object = Arc::new(object);
        let mut state = lock(&self.state);
        state.units.extend(units.into_iter().map(|unit| (object.clone(), unit)));
        // Before any piece can be taken: whoever lets go last finishes the object.
        drop(object);
        drop(state);
        self.changed.notify_all();
    }

    /// An object is whole at the destination.
    pub(super) fn done(&self, group: Option<usize>) {
        let mut state = lock(&self.state);
        state.under_way -= 1;
        if let Some(group) = group {
            state.waits_for[group] -= 1;
            if state.waits_for[group] == 0 {
                state.release(group);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the work of all threads.
    pub(super) fn fail(&self) {
        let mut state = lock(&self.state);
        state.failed = true;
        let given_up = std::mem::take(&mut state.units);
        drop(state);
        self.changed.notify_all();
        // Objects close with their last piece, which may take a while.
        drop(given_up);
    }

    pub(super) fn failed(&self) -> bool {
        lock(&self.state).failed
    }
}

impl State {
    /// Everything else of a group is there: what commits it comes next, the innermost first.
    fn release(&mut self, group: usize) {
        let mut commits = std::mem::take(&mut self.commits[group]);
        commits.sort_by_key(|item| item.from.as_str().matches('/').count());
        commits.into_iter().for_each(|item| self.ready.push_front((item, None)));
    }
}
