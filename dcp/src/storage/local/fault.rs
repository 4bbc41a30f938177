//! Failing the n-th system call of a thread, for tests.

use std::cell::RefCell;
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
    calls_left: usize,
    fault: Fault,
    hit: Option<&'static str>,
}

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
}

/// Runs `body` with a fault at its call number `calls_before`, counted from zero; returns the name of the call hit, if
/// `body` made so many.
pub(super) fn during<T>(
    calls_before: usize,
    fault: Fault,
    body: impl FnOnce() -> T,
) -> (T, Option<&'static str>) {
    PLAN.set(Some(Plan { calls_left: calls_before, fault, hit: None }));
    let value = body();
    (value, PLAN.take().and_then(|plan| plan.hit))
}

pub(super) fn before(call: &'static str) -> io::Result<()> {
    PLAN.with_borrow_mut(|plan| {
        let Some(plan) = plan else { return Ok(()) };
        match (plan.hit, plan.calls_left, plan.fault) {
            (None, 0, _) => plan.hit = Some(call),
            (None, ..) => {
                plan.calls_left -= 1;
                return Ok(());
            }
            (Some(_), _, Fault::Error(_)) => return Ok(()),
            (Some(_), _, Fault::Death) => {}
        }
        Err(match plan.fault {
            Fault::Error(errno) => io::Error::from_raw_os_error(errno),
            Fault::Death => io::Error::other("the process is dead"),
        })
    })
}
