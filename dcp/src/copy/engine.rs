//! Strips in, strips out: the one loop that moves tensor data.

use super::blocks::Blocks;
use super::read_box::OpenChunk;
use super::sink::ObjectSink;
use super::tensor_reader::TensorReader;
use crate::error::{Error, Result};
use crate::format::{Draft, ObjectSums, Reader, Target};
use crate::layout::{Region, Strips, copy_box, row_major};
use crate::model::{Fqn, can_cast, cast};
use crate::storage::{AlignedBuf, Place};
use crate::threads::{Queue, in_threads, lock};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Largest strip: large enough for full disk speed, small enough for many in memory.
const STRIP_BYTES_MAX: u64 = 16 << 20;
/// Smallest strip worth a thread of its own.
const STRIP_BYTES_MIN: u64 = 256 << 10;
/// Largest piece of a compressed object, so that a small read decodes little.
const FRAME_BYTES_MAX: u64 = 4 << 20;
/// Strips a thread holds at once: as read, as laid out for writing, as converted.
const BUFFERS: u64 = 3;
/// A kernel-side copy is worth its system call from here on.
const KERNEL_COPY_BYTES_MIN: u64 = 1 << 20;

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
    /// Bytes of one strip and number of threads that fit the budget.
    pub(super) fn strips(&self) -> Result<(u64, usize)> {
        let needed = BUFFERS * STRIP_BYTES_MIN;
        if self.memory_bytes_max < needed {
            return Err(Error::BudgetTooSmall { budget: self.memory_bytes_max, needed });
        }
        let threads = (self.threads.max(1) as u64).min(self.memory_bytes_max / needed);
        Ok(((self.memory_bytes_max / (BUFFERS * threads)).min(STRIP_BYTES_MAX), threads as usize))
    }
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
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The source.
    pub reader: &'a dyn Reader,
    /// For each of the target's tensors, the source tensor it comes from.
    pub sources: &'a [Fqn],
    /// What to write.
    pub target: &'a Target,
    /// Where in which object it goes.
    pub draft: &'a dyn Draft,
    /// The destination.
    pub place: &'a Place,
    /// Limits.
    pub options: CopyOptions,
    /// Listener.
    pub progress: &'a dyn Progress,
}

/// Writes every data object of the draft and returns what was measured, per object. Objects are made visible when all
/// data is written, so that an error before that leaves nothing behind. The caller commits.
///
/// Errors: [`Error::BudgetTooSmall`]; [`Error::BadTensor`] for shapes or types that do not match, or data that the
/// source lacks; [`Error::Damaged`] where a source checksum does not hold; what reading and writing give.
pub fn run(job: Job) -> Result<(Vec<ObjectSums>, CopyStats)> {
    let (strip_bytes, threads) = job.options.strips()?;
    run_in_strips(job, strip_bytes, threads)
}

/// [`run`] with the strips' size given, which tests make very small.
pub(super) fn run_in_strips(
    job: Job,
    strip_bytes: u64,
    threads: usize,
) -> Result<(Vec<ObjectSums>, CopyStats)> {
    let sinks = (0..job.draft.objects().len())
        .map(|index| ObjectSink::new(job.draft, index, &*job.place.store, &job.place.key))
        .collect::<Result<Vec<_>>>()?;
    let shared = Shared {
        job,
        strip_bytes: if job.draft.compressed() { strip_bytes.min(FRAME_BYTES_MAX) } else { strip_bytes },
        sinks: &sinks,
        queue: Mutex::new(Pending {
            next_tensor: 0,
            strips: None,
            pieces: pieces_by_tensor(job.draft, job.target),
        }),
        failed: AtomicBool::new(false),
        read_bytes: AtomicU64::new(0),
        written_bytes: AtomicU64::new(0),
        kernel_bytes: AtomicU64::new(0),
    };
    in_threads(threads, &|| shared.work())?;
    let stats = CopyStats {
        read_bytes: shared.read_bytes.into_inner(),
        written_bytes: shared.written_bytes.into_inner(),
        kernel_bytes: shared.kernel_bytes.into_inner(),
    };
    Ok((finish(sinks, threads)?, stats))
}

/// Makes all objects durable and visible, several at once: most of the time goes into waiting for the disk.
fn finish(sinks: Vec<ObjectSink>, threads: usize) -> Result<Vec<ObjectSums>> {
    let sums = Mutex::new(vec![ObjectSums::default(); sinks.len()]);
    let queue = Queue::new(sinks.into_iter().enumerate());
    in_threads(threads, &|| {
        while let Some((index, sink)) = queue.next() {
            let measured = sink.finish()?;
            lock(&sums)[index] = measured;
        }
        Ok(())
    })?;
    Ok(sums.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Where one region of a tensor goes.
#[derive(Debug)]
struct Piece {
    object: u32,
    placed: u32,
    byte_offset: u64,
}

fn pieces_by_tensor(draft: &dyn Draft, target: &Target) -> Vec<Vec<Piece>> {
    let mut pieces: Vec<Vec<Piece>> = target.tensors.iter().map(|_| Vec::new()).collect();
    for (object, plan) in draft.objects().iter().enumerate() {
        for (placed, region) in plan.placed.iter().enumerate() {
            let piece =
                Piece { object: object as u32, placed: placed as u32, byte_offset: region.byte_offset };
            pieces[region.tensor as usize].push(piece);
        }
    }
    pieces
}

/// One tensor on its way.
struct TensorJob<'a> {
    source: TensorReader<'a>,
    target_blocks: Blocks,
    /// The pieces with their boxes in blocks.
    pieces: Vec<(Piece, Region)>,
}

/// Lets go of a tensor. The last holder has seen all of its strips copied, and compares the source's checksums.
fn done(tensor: Arc<TensorJob>) -> Result<()> {
    Arc::into_inner(tensor).map_or(Ok(()), |tensor| tensor.source.check_sums())
}

/// The tensors still to be copied, cut in strips one tensor at a time.
struct Pending<'a> {
    next_tensor: usize,
    strips: Option<(Arc<TensorJob<'a>>, Strips)>,
    pieces: Vec<Vec<Piece>>,
}

struct Shared<'a> {
    job: Job<'a>,
    strip_bytes: u64,
    sinks: &'a [ObjectSink<'a>],
    queue: Mutex<Pending<'a>>,
    failed: AtomicBool,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    kernel_bytes: AtomicU64,
}

/// What one thread reuses from strip to strip.
#[derive(Default)]
struct Buffers {
    staging: AlignedBuf,
    converted: AlignedBuf,
    scratch: Vec<u8>,
    gathered: Vec<u8>,
}

impl<'a> Shared<'a> {
    fn work(&self) -> Result<()> {
        let mut buffers = Buffers::default();
        loop {
            if self.failed.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let result = match self.next() {
                Ok(Some((tensor, strip))) => self.copy_strip(tensor, &strip, &mut buffers),
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    }

    /// The next strip of the current tensor, or the first of the next.
    fn next(&self) -> Result<Option<(Arc<TensorJob<'a>>, Region)>> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some((tensor, strips)) = &mut queue.strips
                && let Some(strip) = strips.next()
            {
                return Ok(Some((tensor.clone(), strip)));
            }
            if let Some((tensor, _)) = queue.strips.take() {
                done(tensor)?;
            }
            let index = queue.next_tensor;
            if index == self.job.target.tensors.len() {
                return Ok(None);
            }
            queue.next_tensor += 1;
            let pieces = std::mem::take(&mut queue.pieces[index]);
            let tensor = self.start(index, pieces)?;
            let blocks = tensor.source.blocks();
            let strips = Region::whole(blocks.shape()).strips(self.strip_bytes / blocks.block_bytes() as u64);
            queue.strips = Some((Arc::new(tensor), strips));
        }
    }

    fn start(&self, index: usize, pieces: Vec<Piece>) -> Result<TensorJob<'a>> {
        let target = &self.job.target.tensors[index];
        let source = TensorReader::new(self.job.reader, self.job.sources[index].as_str())?;
        let (from, to) = (source.spec(), &target.spec);
        if from.shape != to.shape || !can_cast(from.dtype, to.dtype) {
            let message = format!(
                "the source has {} {:?}, the target {} {:?}; shapes must be equal and only floating-point types convert",
                from.dtype, from.shape, to.dtype, to.shape
            );
            return Err(Error::BadTensor { fqn: target.fqn.as_str().to_owned(), message });
        }
        let target_blocks = Blocks::new(target.fqn.as_str(), to)?;
        let pieces = pieces
            .into_iter()
            .map(|piece| {
                let object = &self.job.draft.objects()[piece.object as usize];
                let region = target_blocks
                    .region(target.fqn.as_str(), &object.placed[piece.placed as usize].region)?;
                Ok((piece, region))
            })
            .collect::<Result<_>>()?;
        Ok(TensorJob { source, target_blocks, pieces })
    }

    fn copy_strip(&self, tensor: Arc<TensorJob<'a>>, strip: &Region, buffers: &mut Buffers) -> Result<()> {
        let parts: Vec<Part> = tensor
            .pieces
            .iter()
            .filter_map(|(piece, region)| Some(Part::new(piece, region, region.intersect(strip)?)))
            .collect();
        let chunks = tensor.source.overlapping(strip)?;
        let covered: u64 = chunks.iter().map(|(_, common)| common.elements()).sum();
        if covered != strip.elements() {
            return Err(tensor.source.incomplete(strip, covered, strip.elements()));
        }
        if let ([part], [(chunk, common)]) = (&parts[..], &chunks[..])
            && part.common == *common
            && self.copy_in_kernel(&tensor, part, chunk)?
        {
            return Ok(());
        }
        let from_bytes = tensor.source.blocks().block_bytes();
        let ranges = buffers
            .staging
            .lay_out(parts.iter().map(|part| (part.target_offset(from_bytes), part.byte_len(from_bytes))))?;
        for (chunk, common) in &chunks {
            self.scatter(chunk, common, &parts, &ranges, from_bytes, buffers)?;
        }
        self.write_parts(&tensor, &parts, &ranges, buffers)?;
        done(tensor)
    }

    /// Copies a part without bringing it here, where nothing has to be computed from its bytes.
    fn copy_in_kernel(&self, tensor: &TensorJob, part: &Part, chunk: &OpenChunk) -> Result<bool> {
        let block_bytes = tensor.source.blocks().block_bytes();
        let byte_len = part.byte_len(block_bytes) as u64;
        let plain =
            self.job.draft.checksums() == crate::format::ChecksumKind::None && !self.job.draft.compressed();
        let same_type = tensor.source.spec().dtype == tensor.target_blocks.dtype();
        if !plain || !same_type || byte_len < KERNEL_COPY_BYTES_MIN || chunk.checked() {
            return Ok(false);
        }
        let Some((file, from)) = chunk.file_run(&part.common) else { return Ok(false) };
        let writer = self.sinks[part.object as usize].writer()?;
        let copied = writer.copy_from(file, from, part.target_offset(block_bytes), byte_len)?;
        if copied {
            self.read_bytes.fetch_add(byte_len, Ordering::Relaxed);
            self.written_bytes.fetch_add(byte_len, Ordering::Relaxed);
            self.kernel_bytes.fetch_add(byte_len, Ordering::Relaxed);
            self.job.progress.advance(byte_len);
        }
        Ok(copied)
    }

    /// Brings one source chunk's share of a strip into the memory of every part that wants some of it.
    fn scatter(
        &self,
        chunk: &OpenChunk,
        common: &Region,
        parts: &[Part],
        ranges: &[Range<usize>],
        block_bytes: usize,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let scratch_max = self.strip_bytes as usize;
        let wanted: Vec<(usize, Region)> = parts
            .iter()
            .enumerate()
            .filter_map(|(index, part)| Some((index, part.common.intersect(common)?)))
            .collect();
        let elements: u64 = wanted.iter().map(|(_, region)| region.elements()).sum();
        let mut read_bytes = 0;
        if wanted.len() <= 1 || elements * 2 < common.elements() {
            for (index, region) in &wanted {
                let (at, strides) = parts[*index].position(region);
                let target = &mut buffers.staging.bytes_mut(&ranges[*index])[at * block_bytes..];
                read_bytes += chunk.read(region, target, &strides, &mut buffers.scratch, scratch_max)?;
            }
        } else {
            let strides = row_major(&common.extent);
            let byte_len = common.elements() as usize * block_bytes;
            if buffers.gathered.len() < byte_len {
                buffers.gathered = vec![0; byte_len];
            }
            let gathered = &mut buffers.gathered[..byte_len];
            read_bytes += chunk.read(common, gathered, &strides, &mut buffers.scratch, scratch_max)?;
            for (index, region) in &wanted {
                let from = region.position_in(common, &strides);
                let (at, target_strides) = parts[*index].position(region);
                let target = &mut buffers.staging.bytes_mut(&ranges[*index])[at * block_bytes..];
                let source = &gathered[from as usize * block_bytes..];
                copy_box(source, &strides, target, &target_strides, &region.extent, block_bytes);
            }
        }
        self.read_bytes.fetch_add(read_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn write_parts(
        &self,
        tensor: &TensorJob,
        parts: &[Part],
        ranges: &[Range<usize>],
        buffers: &mut Buffers,
    ) -> Result<()> {
        let (from, to) = (tensor.source.spec().dtype, tensor.target_blocks.dtype());
        let to_bytes = tensor.target_blocks.block_bytes();
        let converted = if from == to {
            Vec::new()
        } else {
            buffers
                .converted
                .lay_out(parts.iter().map(|part| (part.target_offset(to_bytes), part.byte_len(to_bytes))))?
        };
        for (index, part) in parts.iter().enumerate() {
            let mut bytes = buffers.staging.bytes(&ranges[index]);
            if from != to {
                cast(from, bytes, to, buffers.converted.bytes_mut(&converted[index]));
                bytes = buffers.converted.bytes(&converted[index]);
            }
            let region_offset = part.first * to_bytes as u64;
            let written = self.sinks[part.object as usize].write(part.placed, region_offset, to, bytes)?;
            self.written_bytes.fetch_add(written, Ordering::Relaxed);
            self.job.progress.advance(bytes.len() as u64);
        }
        Ok(())
    }
}

/// The share of a strip that goes to one placed region; contiguous there.
struct Part {
    object: u32,
    placed: u32,
    /// First byte of the placed region in its object.
    byte_offset: u64,
    common: Region,
    /// Elements of the placed region before the part.
    first: u64,
}

impl Part {
    fn new(piece: &Piece, region: &Region, common: Region) -> Self {
        let strides = row_major(&region.extent);
        let first =
            common.relative_to(region).start.iter().zip(&strides).map(|(&at, &stride)| at * stride).sum();
        Part { object: piece.object, placed: piece.placed, byte_offset: piece.byte_offset, common, first }
    }

    fn byte_len(&self, block_bytes: usize) -> usize {
        self.common.elements() as usize * block_bytes
    }

    /// Where the part goes in its object.
    fn target_offset(&self, block_bytes: usize) -> u64 {
        self.byte_offset + self.first * block_bytes as u64
    }

    /// First element of `region` in the part's row-major order, and that order's strides.
    fn position(&self, region: &Region) -> (usize, Vec<u64>) {
        let strides = row_major(&self.common.extent);
        (region.position_in(&self.common, &strides) as usize, strides)
    }
}
