//! What a copy is asked to do, within which limits, and what it did.

use super::sink::FRAME_BYTES_MAX;
use crate::error::{Error, Result};
use crate::format::{Draft, Reader, Target};
use crate::model::Fqn;
use crate::storage::Place;

/// Largest strip: large enough for full disk speed, small enough for many in memory.
const STRIP_BYTES_MAX: u64 = 16 << 20;
/// Largest strip of a tensor whose elements change their order: both sides' runs grow with it.
const REORDERED_BYTES_MAX: u64 = 64 << 20;
/// Smallest strip worth a thread of its own.
const STRIP_BYTES_MIN: u64 = 256 << 10;
/// Strips a thread holds at once: as read, as laid out for writing, as converted.
const BUFFERS: u64 = 3;

/// How much memory and how many threads a copy may use.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// Bytes of all buffers together.
    pub memory_bytes_max: u64,
    /// Threads that read and write.
    pub threads: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        CopyOptions { memory_bytes_max: 256 << 20, threads: cores.clamp(2, 16) }
    }
}

impl CopyOptions {
    /// What decides how compressed objects are cut in frames: the most bytes of a strip, and of one whose elements change
    /// their order.
    ///
    /// Errors: [`Error::BudgetTooSmall`].
    pub(crate) fn compressed_strip_bytes(&self) -> Result<(u64, u64)> {
        let StripBytes { plain, reordered } = self.strips()?.0.compressed();
        Ok((plain, reordered))
    }

    /// Bytes of one strip and number of threads that fit the budget.
    pub(super) fn strips(&self) -> Result<(StripBytes, usize)> {
        let needed = BUFFERS * STRIP_BYTES_MIN;
        if self.memory_bytes_max < needed {
            return Err(Error::BudgetTooSmall { budget: self.memory_bytes_max, needed });
        }
        let threads = (self.threads.max(1) as u64).min(self.memory_bytes_max / needed);
        let share = self.memory_bytes_max / (BUFFERS * threads);
        let strip_bytes =
            StripBytes { plain: share.min(STRIP_BYTES_MAX), reordered: share.min(REORDERED_BYTES_MAX) };
        Ok((strip_bytes, threads as usize))
    }
}

/// The most bytes of a strip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StripBytes {
    /// As the elements come.
    pub(super) plain: u64,
    /// Where their order changes.
    pub(super) reordered: u64,
}

impl StripBytes {
    /// Those of compressed objects: a strip is a frame, or as many as wait together for their turn, in one buffer more.
    pub(super) fn compressed(self) -> Self {
        StripBytes {
            plain: self.plain.min(FRAME_BYTES_MAX),
            reordered: self.reordered / (BUFFERS + 1) * BUFFERS,
        }
    }
}

/// What becomes of the bytes of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// The object is written.
    #[default]
    Write,
    /// The object is there, and is compared: nothing is written, and a byte that is another is [`Error::Differs`].
    Compare,
}

/// Hears how far a copy is. Called from any thread.
pub trait Progress: Sync {
    /// `bytes` more bytes have been written.
    fn advance(&self, bytes: u64);
}

impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}

/// What a copy did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CopyStats {
    /// Bytes fetched from the source.
    pub read_bytes: u64,
    /// Bytes of tensor data written, as stored.
    pub written_bytes: u64,
    /// Bytes moved by the kernel without passing through this process; counted in both of the above.
    pub kernel_bytes: u64,
}

/// One copy: where from, what to, laid out how.
#[derive(Clone)]
pub struct Job<'a> {
    /// The source.
    pub reader: &'a dyn Reader,
    /// For each of the target's tensors, the source tensor it comes from.
    pub sources: &'a [Fqn],
    /// What to write.
    pub target: &'a Target,
    /// Where in which object it goes.
    pub draft: &'a dyn Draft,
    /// Which of the draft's objects to write, each once.
    pub objects: Vec<usize>,
    /// Whether they are written or compared.
    pub output: Output,
    /// The destination.
    pub place: &'a Place,
    /// Limits.
    pub options: CopyOptions,
    /// Listener.
    pub progress: &'a dyn Progress,
}
