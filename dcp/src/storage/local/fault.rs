//! Failing the n-th system call of a thread, and recording them, for tests.

use std::cell::{Cell, RefCell};
use std::io;

/// What happens at the chosen call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Fault {
    /// It fails with this error number; the next ones work.
    Error(i32),
    /// The process is gone: neither it nor any later one has an effect.
    Death,
}

struct Plan {
    fault_index: usize,
    fault: Fault,
    calls: Vec<&'static str>,
}

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    static DIRECT_BYTES_MAX: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Runs `body` with a fault at its call number `fault_index`, counted from zero; returns the name of the call hit, if
/// `body` made so many.
pub(super) fn during<T>(
    fault_index: usize,
    fault: Fault,
    body: impl FnOnce() -> T,
) -> (T, Option<&'static str>) {
    PLAN.set(Some(Plan { fault_index, fault, calls: Vec::new() }));
    let value = body();
    (value, PLAN.take().and_then(|plan| plan.calls.get(fault_index).copied()))
}

/// Runs `body`; returns the names of its calls.
pub(super) fn record<T>(body: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    PLAN.set(Some(Plan { fault_index: usize::MAX, fault: Fault::Death, calls: Vec::new() }));
    let value = body();
    (value, PLAN.take().map(|plan| plan.calls).unwrap_or_default())
}

/// Runs `body` with direct writes that take no more than so many bytes each.
pub(super) fn with_short_direct_writes<T>(byte_len_max: usize, body: impl FnOnce() -> T) -> T {
    DIRECT_BYTES_MAX.set(byte_len_max);
    let value = body();
    DIRECT_BYTES_MAX.set(usize::MAX);
    value
}

pub(super) fn before(call: &'static str) -> io::Result<()> {
    PLAN.with_borrow_mut(|plan| {
        let Some(plan) = plan else { return Ok(()) };
        let index = plan.calls.len();
        plan.calls.push(call);
        match plan.fault {
            Fault::Error(errno) if index == plan.fault_index => Err(io::Error::from_raw_os_error(errno)),
            Fault::Death if index >= plan.fault_index => Err(io::Error::other("the process is dead")),
            _ => Ok(()),
        }
    })
}

/// How many of the bytes offered a direct write takes.
pub(super) fn direct_bytes(offered: usize) -> usize {
    offered.min(DIRECT_BYTES_MAX.get())
}
