//! The threads of a transfer.

use super::object::{Object, Opened, Way};
use super::order::order;
use super::queue::{Queue, Work};
use super::{Transfer, TransferReport};
use crate::copy::Progress;
use crate::error::{Error, Result};
use crate::storage::AlignedBuf;
use crate::threads::{in_threads, lock};
use std::sync::{Arc, Mutex};

pub(super) fn run(transfer: &Transfer, progress: &dyn Progress) -> Result<TransferReport> {
    let (piece_bytes, threads) = transfer.options.pieces()?;
    let queue = Queue::new(order(&transfer.items));
    let shared = Shared { transfer, piece_bytes, queue, progress, report: Mutex::default() };
    in_threads(threads, &|| shared.work())?;
    Ok(*lock(&shared.report))
}

struct Shared<'a> {
    transfer: &'a Transfer,
    piece_bytes: u64,
    queue: Queue,
    progress: &'a dyn Progress,
    report: Mutex<TransferReport>,
}

impl Shared<'_> {
    fn work(&self) -> Result<()> {
        let mut buffer = AlignedBuf::default();
        while let Some(work) = self.queue.next() {
            let done = match work {
                Work::Open(item, group) => self.open(item, group, &mut buffer),
                Work::Copy(object, unit) => {
                    let copied = object
                        .copy(&unit, self.piece_bytes, &mut buffer, &mut |way, bytes| self.tell(way, bytes));
                    copied.and_then(|()| self.finish(object, &mut buffer))
                }
            };
            if let Err(error) = done {
                self.queue.fail();
                return Err(error);
            }
        }
        match self.queue.failed() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    fn open(&self, item: super::Item, group: Option<usize>, buffer: &mut AlignedBuf) -> Result<()> {
        let byte_len = item.byte_len;
        match Object::open(self.transfer, item, group, self.piece_bytes, buffer)? {
            Opened::Copy(object, units) => self.queue.opened(object, units),
            Opened::Present => {
                let mut report = lock(&self.report);
                report.present_objects += 1;
                report.present_bytes += byte_len;
                drop(report);
                self.progress.advance(byte_len);
                self.queue.done(group);
            }
        }
        Ok(())
    }

    /// Lets go of an object; whoever holds it last has seen all of its pieces copied, and finishes it.
    fn finish(&self, object: Arc<Object>, buffer: &mut AlignedBuf) -> Result<()> {
        let Some(object) = Arc::into_inner(object) else { return Ok(()) };
        if self.queue.failed() {
            // Pieces of it may have been given up.
            return Err(Error::Interrupted);
        }
        let group = object.group;
        let verified_bytes = object.finish(self.transfer, self.piece_bytes, buffer)?;
        let mut report = lock(&self.report);
        report.copied_objects += 1;
        report.verified_bytes += verified_bytes;
        drop(report);
        self.queue.done(group);
        Ok(())
    }

    /// Counts bytes that are on the other side; ends a long piece where another thread has failed.
    fn tell(&self, way: Way, bytes: u64) -> Result<()> {
        let mut report = lock(&self.report);
        match way {
            Way::Copied => report.copied_bytes += bytes,
            Way::Kernel => {
                report.copied_bytes += bytes;
                report.kernel_bytes += bytes;
            }
            Way::Resumed => report.resumed_bytes += bytes,
        }
        drop(report);
        self.progress.advance(bytes);
        match self.queue.failed() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}
