//! What goes wrong, and when.

use crate::error::{Error, Result};
use crate::storage::Key;
use crate::threads::lock;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An operation on a store, its open objects or its writers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)] // named as the methods are
pub enum Operation {
    List,
    ListPrefixes,
    Head,
    Open,
    Read,
    Create,
    WriteAt,
    CopyFrom,
    Finish,
    Put,
    Remove,
    Unfinished,
    Discard,
}

impl Operation {
    /// Every operation there is.
    pub const ALL: [Operation; 13] = [
        Operation::List,
        Operation::ListPrefixes,
        Operation::Head,
        Operation::Open,
        Operation::Read,
        Operation::Create,
        Operation::WriteAt,
        Operation::CopyFrom,
        Operation::Finish,
        Operation::Put,
        Operation::Remove,
        Operation::Unfinished,
        Operation::Discard,
    ];

    /// Whether it changes what others see of the store: only these can be done and yet not known to be done.
    pub fn changes(self) -> bool {
        matches!(self, Operation::Finish | Operation::Put | Operation::Remove | Operation::Discard)
    }

    /// What an error says was being done.
    fn action(self) -> &'static str {
        match self {
            Operation::List | Operation::ListPrefixes => "listing",
            Operation::Head => "looking up",
            Operation::Open => "opening",
            Operation::Read => "reading",
            Operation::Create => "creating",
            Operation::WriteAt => "writing",
            Operation::CopyFrom => "copying",
            Operation::Finish => "publishing",
            Operation::Put => "putting",
            Operation::Remove => "removing",
            Operation::Unfinished => "listing what is unfinished",
            Operation::Discard => "discarding",
        }
    }
}

/// What goes wrong with an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// The process dies; the operation is not carried out.
    DieBefore,
    /// The process dies in the middle: of a write or copy the first half is there, of a put an unfinished object.
    /// Other operations have no middle and are carried out.
    DieTorn,
    /// The operation is carried out, then the process dies.
    DieAfter,
    /// An error, once; the operation is not carried out.
    Fail,
    /// An error of the operating system, by its number; the operation is not carried out.
    Errno(i32),
    /// The operation is carried out, and reported as failed.
    LoseReply,
    /// The operation is carried out twice, as when a request is sent again whose reply was lost, and the second answer
    /// is what the caller gets: a put or finish exists already, a remove finds nothing. Writes and copies, which the
    /// contract lets nobody repeat, are carried out once.
    Duplicate,
    /// The operation starts later.
    Delay(Duration),
    /// A read gives one wrong bit; other operations are carried out.
    Flip,
}

/// An operation about to be done.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// How many operations came before it.
    pub index: u64,
    /// How many of its kind came before it.
    pub index_of_kind: u64,
    /// What it is.
    pub operation: Operation,
    /// The key or prefix it is about.
    pub key: &'a Key,
}

/// A fault that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in `Call`
pub struct Hit {
    pub index: u64,
    pub operation: Operation,
    pub key: Key,
    pub fault: Fault,
}

type Plan = dyn Fn(&Call<'_>) -> Option<Fault> + Send + Sync;

/// The faults of one or more processes. Clones share their count.
#[derive(Clone)]
pub struct Faults {
    plan: Arc<Plan>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    of_kind: [u64; Operation::ALL.len()],
    hits: Vec<Hit>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Faults").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Faults {
    /// Any plan: asked about each operation, in the order they are counted.
    pub fn by(plan: impl Fn(&Call<'_>) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Faults { plan: Arc::new(plan), counts: Arc::default() }
    }

    /// Nothing goes wrong; operations are counted.
    pub fn none() -> Self {
        Faults::by(|_| None)
    }

    /// One fault, at operation number `index` from zero.
    pub fn at(index: u64, fault: Fault) -> Self {
        Faults::by(move |call| (call.index == index).then_some(fault))
    }

    /// One fault, at operation number `index` from zero of its kind.
    pub fn at_kind(operation: Operation, index: u64, fault: Fault) -> Self {
        Faults::by(move |call| (call.operation == operation && call.index_of_kind == index).then_some(fault))
    }

    /// Of a hundred operations, so many meet each fault. The same seed meets the same faults, as far as operations come
    /// in the same order.
    pub fn random(seed: u64, percents: Vec<(Fault, u64)>) -> Self {
        Faults::by(move |call| {
            let mut draw = scramble(seed ^ scramble(call.index)) % 100;
            percents.iter().find_map(|&(fault, percent)| {
                let is_hit = draw < percent;
                draw = draw.saturating_sub(percent);
                is_hit.then_some(fault)
            })
        })
    }

    /// How many operations there were. Those of the dead do not count.
    pub fn count(&self) -> u64 {
        lock(&self.counts).of_kind.iter().sum()
    }

    /// How many of a kind there were.
    pub fn count_of(&self, operation: Operation) -> u64 {
        lock(&self.counts).of_kind[operation as usize]
    }

    /// What has gone wrong so far.
    pub fn hits(&self) -> Vec<Hit> {
        lock(&self.counts).hits.clone()
    }

    /// Counts an operation and decides about it.
    fn next(&self, operation: Operation, key: &Key) -> Option<Fault> {
        let mut counts = lock(&self.counts);
        let index = counts.of_kind.iter().sum();
        let index_of_kind = counts.of_kind[operation as usize];
        counts.of_kind[operation as usize] += 1;
        let fault = (self.plan)(&Call { index, index_of_kind, operation, key })?;
        counts.hits.push(Hit { index, operation, key: key.clone(), fault });
        Some(fault)
    }
}

/// How an operation is to be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Course {
    Once,
    Torn,
    Twice,
    Flipped,
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    faults: Faults,
    is_dead: AtomicBool,
}

impl Process {
    pub(super) fn new(faults: Faults) -> Self {
        Process { faults, is_dead: AtomicBool::new(false) }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    pub(super) fn check_alive(&self, action: &'static str, object: impl FnOnce() -> String) -> Result<()> {
        match self.is_dead() {
            true => Err(Injected::Dead.error(action, object())),
            false => Ok(()),
        }
    }

    /// Does an operation, or what the faults make of it.
    pub(super) fn perform<T>(
        &self,
        operation: Operation,
        key: &Key,
        object: impl FnOnce() -> String,
        act: impl FnOnce(Course) -> Result<T>,
    ) -> Result<T> {
        let action = operation.action();
        if self.is_dead() {
            return Err(Injected::Dead.error(action, object()));
        }
        let (course, after) = match self.faults.next(operation, key) {
            Some(Fault::Errno(number)) => {
                let source = io::Error::from_raw_os_error(number);
                return Err(Error::Io { object: object(), action, source });
            }
            None => (Some(Course::Once), None),
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                (Some(Course::Once), None)
            }
            Some(Fault::Duplicate) => (Some(Course::Twice), None),
            Some(Fault::Flip) => (Some(Course::Flipped), None),
            Some(Fault::Fail) => (None, Some(Injected::Failed)),
            Some(Fault::LoseReply) => (Some(Course::Once), Some(Injected::ReplyLost)),
            Some(Fault::DieBefore) => (None, Some(Injected::Dead)),
            Some(Fault::DieTorn) => (Some(Course::Torn), Some(Injected::Dead)),
            Some(Fault::DieAfter) => (Some(Course::Once), Some(Injected::Dead)),
        };
        let result = course.map(act);
        if after == Some(Injected::Dead) {
            // Before the result is dropped: a writer among it is abandoned.
            self.is_dead.store(true, Ordering::SeqCst);
        }
        match (result, after) {
            // Another thread's fault may have ended the process meanwhile: it learns nothing more.
            (Some(result), None) if !self.is_dead() => result,
            // The store's own error is as good as the one injected, and more true.
            (Some(Err(error)), Some(Injected::ReplyLost)) => Err(error),
            (_, injected) => Err(injected.unwrap_or(Injected::Dead).error(action, object())),
        }
    }
}

/// The source of an injected error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Injected {
    /// The process has ended.
    #[error("injected: the process is dead")]
    Dead,
    /// The operation was not carried out.
    #[error("injected: the operation failed")]
    Failed,
    /// The operation was carried out.
    #[error("injected: the reply was lost")]
    ReplyLost,
}

impl Injected {
    fn error(self, action: &'static str, object: String) -> Error {
        Error::Io { object, action, source: io::Error::other(self) }
    }
}

/// What was injected, if the error is an injected one, or has one as its source.
pub fn injected(error: &Error) -> Option<Injected> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        // An I/O error hands out the source of what it wraps, not that itself.
        let wrapped = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| wrapped.downcast_ref()) {
            return Some(*found);
        }
        cause = current.source();
    }
    None
}

/// Spreads a number over all bits.
///
/// Source: SplitMix64, Steele, Lea and Flood 2014.
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
