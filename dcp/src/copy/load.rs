//! Regions into memory: what a rank does when it resumes.

use super::job::{CopyOptions, CopyStats, Progress};
use super::tensor_reader::TensorReader;
use crate::error::{Error, Result};
use crate::format::Reader;
use crate::layout::{Region, Strips};
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
    /// Exactly the box's bytes; filled row-major, in the type that is stored.
    pub target: &'a mut [u8],
}

/// Fills the memory of every wanted box. Fetches the wanted bytes, and others only where runs are too short to be read
/// one by one; [`CopyStats::read_bytes`] counts both.
///
/// Errors: [`Error::BudgetTooSmall`]; [`Error::NoSuchName`]; [`Error::BadTensor`] for memory of another size than its
/// box, and for a box outside its tensor, one that cuts a packed group, or one that no chunk covers;
/// [`Error::Damaged`] where a checksum does not hold; what reading gives. After an error the memory holds anything.
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
        let mut scratch = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let Some(part) = lock(&queue).next()? else { return Ok(()) };
            let fetched =
                part.tensor.read_blocks(&part.strip, part.target, &mut scratch, SCRATCH_BYTES_MAX)?;
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
    target: &'a mut [u8],
}

/// The boxes still to be read, cut in strips one box at a time.
struct Pending<'a> {
    reader: &'a dyn Reader,
    wanted: std::vec::IntoIter<Wanted<'a>>,
    current: Option<(Arc<TensorReader<'a>>, Strips, &'a mut [u8])>,
    strip_bytes: u64,
}

impl<'a> Pending<'a> {
    fn next(&mut self) -> Result<Option<Part<'a>>> {
        loop {
            if let Some((tensor, strips, rest)) = &mut self.current
                && let Some(strip) = strips.next()
            {
                let part_bytes = strip.elements() as usize * tensor.blocks().block_bytes();
                let (target, after) = std::mem::take(rest).split_at_mut(part_bytes);
                *rest = after;
                return Ok(Some(Part { tensor: tensor.clone(), strip, target }));
            }
            if let Some((tensor, ..)) = self.current.take() {
                Arc::into_inner(tensor).map_or(Ok(()), |tensor| tensor.check_sums())?;
            }
            let Some(wanted) = self.wanted.next() else { return Ok(None) };
            self.current = Some(self.start(wanted)?);
        }
    }

    fn start(&self, wanted: Wanted<'a>) -> Result<(Arc<TensorReader<'a>>, Strips, &'a mut [u8])> {
        let tensor = TensorReader::new(self.reader, wanted.fqn)?;
        let region = tensor.wanted(&wanted.region, wanted.target.len())?;
        let strips = region.strips(self.strip_bytes / tensor.blocks().block_bytes() as u64);
        Ok((Arc::new(tensor), strips, wanted.target))
    }
}
