//! Values in memory: the store of ranks in one process, and what the TCP server serves.

use super::KeyValue;
use crate::error::{Error, Result};
use crate::threads::lock;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes of values above which larger ones wait for room: what all broadcasts of a job may have under way.
pub(super) const HELD_BYTES_MAX: usize = 1 << 30;
/// Values that never wait for room. A message opens with a small one, and sends larger ones to readers that are there
/// and taking: so what fills the room is always about to leave it.
const SMALL_BYTES_MAX: usize = 32 << 10;
/// Bytes of values, small ones too, above which nothing more is taken: something else than a checkpoint's ranks is
/// writing, or writes what nobody reads.
const REFUSED_ABOVE_BYTES: usize = 2 * HELD_BYTES_MAX;
/// What a key takes besides its name and value, roughly.
const SLOT_BYTES: usize = 128;

/// A store in this process.
#[derive(Debug)]
pub struct Table {
    state: Mutex<State>,
    room: Condvar,
    room_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<String, Slot>,
    held_bytes: usize,
    closed: bool,
}

/// A key that has a value or is waited for.
#[derive(Debug, Default)]
struct Slot {
    value: Option<Arc<[u8]>>,
    waiting: usize,
    /// One for each key: a value wakes those who want it and nobody else.
    came: Arc<Condvar>,
}

/// Whether a value was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Yes,
    /// No room came by the deadline.
    Full,
}

impl Default for Table {
    fn default() -> Self {
        Table::with_room(HELD_BYTES_MAX)
    }
}

impl Table {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store in which large values wait for room when it holds so many bytes.
    pub(super) fn with_room(room_bytes: usize) -> Self {
        Table { state: Mutex::default(), room: Condvar::new(), room_bytes }
    }

    /// How many keys have a value.
    pub fn key_count(&self) -> usize {
        lock(&self.state).slots.values().filter(|slot| slot.value.is_some()).count()
    }

    /// Ends all waiting, now and later.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.slots.values().for_each(|slot| slot.came.notify_all());
        self.room.notify_all();
    }

    /// Stores a value once there is room for it.
    pub(super) fn offer(&self, key: &str, value: &[u8], deadline: Instant) -> Result<Taken> {
        let byte_len = weight(key, value);
        let mut state = lock(&self.state);
        while value.len() > SMALL_BYTES_MAX && state.held_bytes + byte_len > self.room_bytes {
            // A value larger than all the room is taken when it is alone.
            if state.held_bytes == 0 {
                break;
            }
            if state.closed || Instant::now() >= deadline {
                return Ok(Taken::Full);
            }
            state = wait_until(&self.room, state, deadline);
        }
        let held = (state.held_bytes + byte_len) as u64;
        if held > REFUSED_ABOVE_BYTES as u64 {
            let (object, what) = ("the store of the ranks".to_owned(), "the bytes it would hold");
            return Err(Error::OverLimit { object, what, found: held, limit: REFUSED_ABOVE_BYTES as u64 });
        }
        let slot = state.slots.entry(key.to_owned()).or_default();
        let before = slot.value.replace(value.into()).map_or(0, |before| weight(key, &before));
        slot.came.notify_all();
        state.held_bytes = state.held_bytes + byte_len - before;
        Ok(Taken::Yes)
    }

    /// The value of a key when there is one.
    pub(super) fn await_value(&self, key: &str, deadline: Instant) -> Option<Arc<[u8]>> {
        let mut state = lock(&self.state);
        if let Some(value) = state.slots.get(key).and_then(|slot| slot.value.clone()) {
            return Some(value);
        }
        if state.closed || Instant::now() >= deadline {
            return None;
        }
        let slot = state.slots.entry(key.to_owned()).or_default();
        slot.waiting += 1;
        let came = slot.came.clone();
        let value = loop {
            state = wait_until(&came, state, deadline);
            let value = state.slots.get(key).and_then(|slot| slot.value.clone());
            if value.is_some() || state.closed || Instant::now() >= deadline {
                break value;
            }
        };
        if let Some(slot) = state.slots.get_mut(key) {
            slot.waiting -= 1;
        }
        state.drop_if_unused(key);
        value
    }

    /// Removes a key, if it is there.
    pub(super) fn take_out(&self, key: &str) {
        let mut state = lock(&self.state);
        let Some(value) = state.slots.get_mut(key).and_then(|slot| slot.value.take()) else { return };
        state.held_bytes -= weight(key, &value);
        state.drop_if_unused(key);
        self.room.notify_all();
    }
}

impl State {
    fn drop_if_unused(&mut self, key: &str) {
        if self.slots.get(key).is_some_and(|slot| slot.value.is_none() && slot.waiting == 0) {
            self.slots.remove(key);
        }
    }
}

impl KeyValue for Table {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result<()> {
        match self.offer(key, value, deadline)? {
            Taken::Yes => Ok(()),
            Taken::Full => Err(full(self.room_bytes)),
        }
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Option<Vec<u8>>> {
        Ok(self.await_value(key, deadline).map(|value| value.to_vec()))
    }

    fn remove(&self, key: &str, _deadline: Instant) -> Result<()> {
        self.take_out(key);
        Ok(())
    }
}

/// The error of a store that had no room until a deadline.
fn full(room_bytes: usize) -> Error {
    Error::StoreFull { room_bytes: room_bytes as u64 }
}

fn weight(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + SLOT_BYTES
}

fn wait_until<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, State>,
    deadline: Instant,
) -> MutexGuard<'a, State> {
    let timeout = deadline.saturating_duration_since(Instant::now());
    condition.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn values_come_and_go() {
        let table = Table::new();
        assert_eq!(table.wait("a", Instant::now()).unwrap(), None);
        assert_eq!(table.wait("a", soon()).unwrap(), None);
        table.set("a", b"1", later()).unwrap();
        table.set("a", b"22", later()).unwrap();
        assert_eq!(table.wait("a", Instant::now()).unwrap().unwrap(), b"22");
        table.remove("a", later()).unwrap();
        table.remove("a", later()).unwrap();
        assert_eq!(table.wait("a", Instant::now()).unwrap(), None);
        assert!(lock(&table.state).slots.is_empty());
        assert_eq!(lock(&table.state).held_bytes, 0);
    }

    #[test]
    fn large_values_wait_for_room_and_small_ones_do_not() {
        let table = Table::with_room(100_000);
        table.set("first", &[1; 60_000], later()).unwrap();
        assert!(matches!(table.set("second", &[2; 60_000], soon()), Err(Error::StoreFull { .. })));
        table.set("small", &[3; SMALL_BYTES_MAX], soon()).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| table.set("second", &[2; 60_000], later()));
            assert_eq!(table.wait("second", soon()).unwrap(), None);
            table.remove("first", later()).unwrap();
            second.join().unwrap().unwrap();
        });
        table.remove("second", later()).unwrap();
        table.remove("small", later()).unwrap();
        table.set("larger than the room", &[4; 200_000], soon()).unwrap();
    }

    #[test]
    fn a_closed_one_waits_for_nothing() {
        let table = Table::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| table.wait("never", later()));
            table.close();
            assert_eq!(waiting.join().unwrap().unwrap(), None);
        });
        assert_eq!(table.wait("never", later()).unwrap(), None);
    }
}
