//! Regions into memory: what a rank does when it resumes.

use super::job::{CopyOptions, CopyStats, Progress};
use super::tensor_reader::TensorReader;
use crate::error::{Error, Result};
use crate::format::Reader;
use crate::layout::{Region, Strips};
use crate::model::{DType, can_cast, cast};
use crate::threads::{in_threads, lock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Rows that are fetched whole and picked from: few enough to be still in a core's own cache when they are.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

/// One box of a tensor, and the memory it goes to.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The tensor's name.
    pub fqn: &'a str,
    /// The box, in elements of the tensor.
    pub region: Region,
    /// The type to fill it in: another than what is stored is converted on the way. `None` for what is stored.
    pub dtype: Option<DType>,
    /// Exactly the box's bytes in that type; filled row-major.
    pub target: &'a mut [u8],
}

/// Fills the memory of every wanted box. Fetches the wanted bytes, and others only where runs are too short to be read
/// one by one; [`CopyStats::read_bytes`] counts both.
///
/// Errors: [`Error::BudgetTooSmall`]; [`Error::NoSuchName`]; [`Error::BadTensor`] for memory of another size than its
/// box, for a box outside its tensor, one that cuts a packed group, or one that no chunk covers, and for types without a
/// conversion; [`Error::Damaged`] where a checksum does not hold; what reading gives. After an error the memory holds anything.
pub fn load(
    reader: &dyn Reader,
    wanted: Vec<Wanted>,
    options: CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyStats> {
    let (strip_bytes, threads) = options.strips()?;
    let queue = Mutex::new(Pending {
        reader,
        wanted: wanted.into_iter(),
        current: None,
        strip_bytes: strip_bytes.plain,
    });
    let failed = AtomicBool::new(false);
    let read_bytes = AtomicU64::new(0);
    let written_bytes = AtomicU64::new(0);
    let work = || {
        let (mut scratch, mut stored) = (Vec::new(), Vec::new());
        while !failed.load(Ordering::Relaxed) {
            let Some(mut part) = lock(&queue).next()? else { return Ok(()) };
            let fetched = part.read(&mut scratch, &mut stored)?;
            let part_bytes = part.target.len() as u64;
            read_bytes.fetch_add(fetched, Ordering::Relaxed);
            written_bytes.fetch_add(part_bytes, Ordering::Relaxed);
            progress.advance(part_bytes);
            // The last holder has seen every strip of the box filled.
            Arc::into_inner(part.tensor).map_or(Ok(()), |tensor| tensor.check_sums())?;
        }
        Err(Error::Interrupted)
    };
    in_threads(threads, &|| work().inspect_err(|_| failed.store(true, Ordering::Relaxed)))?;
    let (read_bytes, written_bytes) = (read_bytes.into_inner(), written_bytes.into_inner());
    Ok(CopyStats { read_bytes, written_bytes, kernel_bytes: 0 })
}

/// A strip of a wanted box, in blocks, with its share of the memory.
struct Part<'a> {
    tensor: Arc<TensorReader<'a>>,
    strip: Region,
    dtype: DType,
    target: &'a mut [u8],
}

impl Part<'_> {
    /// Fills its memory; returns the bytes fetched. `stored` holds what has to be converted.
    fn read(&mut self, scratch: &mut Vec<u8>, stored: &mut Vec<u8>) -> Result<u64> {
        let from = self.tensor.spec().dtype;
        if from == self.dtype {
            return self.tensor.read_blocks(&self.strip, self.target, scratch, SCRATCH_BYTES_MAX);
        }
        let byte_len = self.strip.elements() as usize * from.block_bytes() as usize;
        stored.resize(byte_len, 0);
        let fetched = self.tensor.read_blocks(&self.strip, stored, scratch, SCRATCH_BYTES_MAX)?;
        cast(from, stored, self.dtype, self.target);
        Ok(fetched)
    }
}

/// A box that is being read: its tensor, its strips to come, the type it is wanted in, the memory of those strips.
type Current<'a> = (Arc<TensorReader<'a>>, Strips, DType, &'a mut [u8]);

/// The boxes still to be read, cut in strips one box at a time.
struct Pending<'a> {
    reader: &'a dyn Reader,
    wanted: std::vec::IntoIter<Wanted<'a>>,
    current: Option<Current<'a>>,
    strip_bytes: u64,
}

impl<'a> Pending<'a> {
    fn next(&mut self) -> Result<Option<Part<'a>>> {
        loop {
            if let Some((tensor, strips, dtype, rest)) = &mut self.current
                && let Some(strip) = strips.next()
            {
                let part_bytes = strip.elements() as usize * dtype.block_bytes() as usize;
                let (target, after) = std::mem::take(rest).split_at_mut(part_bytes);
                *rest = after;
                return Ok(Some(Part { tensor: tensor.clone(), strip, dtype: *dtype, target }));
            }
            if let Some((tensor, ..)) = self.current.take() {
                Arc::into_inner(tensor).map_or(Ok(()), |tensor| tensor.check_sums())?;
            }
            let Some(wanted) = self.wanted.next() else { return Ok(None) };
            self.current = Some(self.start(wanted)?);
        }
    }

    fn start(&self, wanted: Wanted<'a>) -> Result<Current<'a>> {
        let tensor = TensorReader::new(self.reader, wanted.fqn)?;
        let stored = tensor.spec().dtype;
        let dtype = wanted.dtype.unwrap_or(stored);
        if !can_cast(stored, dtype) {
            let message = format!("it is stored as {stored}, which does not convert to {dtype}");
            return Err(Error::BadTensor { fqn: wanted.fqn.to_owned(), message });
        }
        let region = tensor.wanted(&wanted.region, dtype, wanted.target.len())?;
        let block_bytes = stored.block_bytes().max(dtype.block_bytes());
        let strips = region.strips(self.strip_bytes / block_bytes);
        Ok((Arc::new(tensor), strips, dtype, wanted.target))
    }
}
