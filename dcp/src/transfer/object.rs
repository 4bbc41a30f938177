//! One object on its way.

use super::content::{Crc, pieces, read, read_crc};
use super::{Item, Transfer};
use crate::error::{Error, Result};
use crate::storage::{AlignedBuf, ObjectWriter, ReadAt, StoredPart};
use crate::threads::lock;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Bytes that the kernel copies at once.
const KERNEL_PIECE_BYTES: u64 = 256 << 20;

/// An object that is being copied.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) item: Item,
    pub(super) group: Option<usize>,
    source: Arc<dyn ReadAt>,
    writer: Box<dyn ObjectWriter>,
    /// Checksums of what was read, by offset; without the pieces that the kernel copied.
    read: Mutex<BTreeMap<u64, Crc>>,
}

/// A piece of an object, for one thread.
#[derive(Debug)]
pub(super) enum Unit {
    /// Bytes to copy.
    Bytes(Range<u64>),
    /// Bytes of a part that may be there already.
    Part(StoredPart),
}

/// How the bytes of a piece got to the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Read and written.
    Copied,
    /// By the kernel.
    Kernel,
    /// They were there.
    Resumed,
}

/// What was found when an object was opened.
pub(super) enum Opened {
    /// It is at the destination, the same.
    Present,
    /// It must be copied, in these pieces.
    Copy(Object, Vec<Unit>),
}

impl Object {
    /// Looks at both ends of an object.
    ///
    /// Errors: [`Error::Differs`]; [`Error::Changed`].
    pub(super) fn open(
        transfer: &Transfer,
        item: Item,
        group: Option<usize>,
        piece_bytes: u64,
        buffer: &mut AlignedBuf,
    ) -> Result<Opened> {
        let (source, destination) = (&transfer.source, &transfer.destination);
        let from = source.store.open(&item.from)?;
        if from.byte_len() != item.byte_len {
            return Err(Error::Changed { object: source.store.display(&item.from) });
        }
        if item.present {
            let to = destination.store.open(&item.to)?;
            let whole = |object: &dyn ReadAt, buffer: &mut _| {
                read_crc(object, 0..object.byte_len(), piece_bytes, buffer)
            };
            let (there, here) = (whole(&*to, buffer)?, whole(&*from, buffer)?);
            if there != here {
                let why = format!(
                    "its CRC-64/NVME is {:016x}, that of the source {:016x}",
                    there.crc64, here.crc64
                );
                return Err(super::differs(source, &item.from, destination, &item.to, why));
            }
            return Ok(Opened::Present);
        }
        let writer = destination.store.resume(&item.to, item.byte_len)?;
        let by_kernel = from.file().is_some() && destination.store.free_bytes()?.is_some();
        let unit_bytes = if by_kernel { KERNEL_PIECE_BYTES } else { piece_bytes };
        let units = units(item.byte_len, writer.stored(), unit_bytes);
        let object = Object { item, group, source: from, writer, read: Mutex::default() };
        Ok(Opened::Copy(object, units))
    }

    /// Copies a piece; tells of every step how many bytes went which way.
    pub(super) fn copy(
        &self,
        unit: &Unit,
        piece_bytes: u64,
        buffer: &mut AlignedBuf,
        told: &mut dyn FnMut(Way, u64) -> Result<()>,
    ) -> Result<()> {
        let range = match unit {
            Unit::Bytes(range) => range,
            Unit::Part(StoredPart { range, crc64nvme }) => {
                let here = read_crc(&*self.source, range.clone(), piece_bytes, buffer)?;
                if *crc64nvme == Some(here.crc64) {
                    lock(&self.read).insert(range.start, here);
                    return told(Way::Resumed, range.end - range.start);
                }
                range
            }
        };
        if let Some(file) = self.source.file()
            && self.writer.copy_from(file, range.start, range.start, range.end - range.start)?
        {
            return told(Way::Kernel, range.end - range.start);
        }
        for piece in pieces(range.clone(), piece_bytes) {
            let bytes = read(&*self.source, &piece, buffer)?;
            self.writer.write_at(piece.start, bytes)?;
            lock(&self.read).insert(piece.start, Crc::of(bytes));
            told(Way::Copied, piece.end - piece.start)?;
        }
        Ok(())
    }

    /// Makes the object visible. With `verify` reads it back, and returns how many bytes that were.
    ///
    /// Errors: [`Error::Damaged`] where it is not what was read.
    pub(super) fn finish(
        self,
        transfer: &Transfer,
        piece_bytes: u64,
        buffer: &mut AlignedBuf,
    ) -> Result<u64> {
        let Object { item, source, writer, read, .. } = self;
        writer.finish()?;
        if !transfer.options.verify {
            return Ok(0);
        }
        let read = read.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut here = read.into_values().fold(Crc::default(), Crc::then);
        if here.byte_len != item.byte_len {
            // The kernel copied some of it.
            here = read_crc(&*source, 0..item.byte_len, piece_bytes, buffer)?;
        }
        let copy = transfer.destination.store.open(&item.to)?;
        let there = read_crc(&*copy, 0..copy.byte_len(), piece_bytes, buffer)?;
        match there == here {
            true => Ok(there.byte_len),
            false => Err(Error::Damaged {
                object: transfer.destination.store.display(&item.to),
                from: 0,
                until: item.byte_len,
                found: format!("{:016x}", there.crc64),
                expected: format!("{:016x}", here.crc64),
                fqn_note: String::new(),
            }),
        }
    }
}

/// Cuts an object around the parts that are there. An object without bytes has one piece without any.
fn units(byte_len: u64, stored: Vec<StoredPart>, unit_bytes: u64) -> Vec<Unit> {
    if byte_len == 0 {
        return vec![Unit::Bytes(0..0)];
    }
    let (mut units, mut at) = (Vec::new(), 0);
    for part in stored {
        units.extend(pieces(at..part.range.start, unit_bytes).map(Unit::Bytes));
        at = part.range.end;
        units.push(Unit::Part(part));
    }
    units.extend(pieces(at..byte_len, unit_bytes).map(Unit::Bytes));
    units
}
