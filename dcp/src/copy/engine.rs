//! Strips in, strips out: the one loop that moves tensor data.

use super::blocks::Blocks;
use super::job::{CopyStats, Job, StripBytes};
use super::parts::{Part, Piece, pieces_by_tensor};
use super::read_box::OpenChunk;
use super::sink::ObjectSink;
use super::tensor_reader::TensorReader;
use super::turns::{Turn, Turns};
use crate::error::{Error, Result};
use crate::format::{ChecksumKind, ObjectDraft, ObjectSums};
use crate::layout::{Region, Strips, copy_box, row_major};
use crate::model::{can_cast, cast};
use crate::storage::AlignedBuf;
use crate::threads::{Queue, in_threads, lock};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A kernel-side copy is worth its system call from here on.
const KERNEL_COPY_BYTES_MIN: u64 = 1 << 20;

/// Writes the data objects that the job names and returns what was measured, per object. Objects are made visible when all
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
    mut strip_bytes: StripBytes,
    threads: usize,
) -> Result<(Vec<ObjectSums>, CopyStats)> {
    if job.draft.compressed() {
        strip_bytes = strip_bytes.compressed();
    }
    let sinks = job
        .objects
        .iter()
        .map(|&index| ObjectSink::new((job.draft, index), (&*job.place.store, &job.place.key), job.output))
        .collect::<Result<Vec<_>>>()?;
    let pieces = pieces_by_tensor(job.objects.iter().map(|&index| &job.draft.objects()[index]), job.target);
    let shared = Shared {
        // Frames must not depend on what else is written.
        all: job.objects.len() == job.draft.objects().len() && !job.draft.compressed(),
        strip_bytes,
        sinks: &sinks,
        queue: Mutex::new(Pending { next_tensor: 0, strips: None, pieces }),
        job,
        turns: Turns::default(),
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

/// One tensor on its way.
struct TensorJob<'a> {
    source: TensorReader<'a>,
    target_blocks: Blocks,
    /// The pieces with their boxes in blocks.
    pieces: Vec<(Piece, Region)>,
}

/// A strip that is handed out, with its turn in compressed objects.
type Strip<'a, 't> = (Arc<TensorJob<'a>>, Region, Option<Turn<'t>>);

/// Lets go of a tensor. The last holder has seen all of its strips copied, and compares the source's checksums.
fn done(tensor: Arc<TensorJob>) -> Result<()> {
    Arc::into_inner(tensor).map_or(Ok(()), |tensor| tensor.source.check_sums())
}

/// The tensors still to be copied, cut in strips one tensor at a time.
struct Pending<'a> {
    next_tensor: usize,
    strips: Option<(Arc<TensorJob<'a>>, Vec<Strips>)>,
    pieces: Vec<Vec<Piece>>,
}

struct Shared<'a> {
    job: Job<'a>,
    /// Whether all of the draft's objects are written, and tensors are walked as wholes.
    all: bool,
    strip_bytes: StripBytes,
    sinks: &'a [ObjectSink<'a>],
    queue: Mutex<Pending<'a>>,
    /// In compressed objects frames follow each other as their strips do, so that the same copy gives the same bytes.
    turns: Turns,
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
                Ok(Some((tensor, strip, turn))) => self.copy_strip(tensor, &strip, turn, &mut buffers),
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
    fn next(&self) -> Result<Option<Strip<'a, '_>>> {
        let mut queue = lock(&self.queue);
        loop {
            while let Some((tensor, boxes)) = &mut queue.strips
                && let Some(strips) = boxes.last_mut()
            {
                match strips.next() {
                    Some(strip) => {
                        let turn = self.job.draft.compressed().then(|| self.turns.hand_out());
                        return Ok(Some((tensor.clone(), strip, turn)));
                    }
                    None => boxes.pop(),
                };
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
            if !self.all && pieces.is_empty() {
                continue;
            }
            let tensor = self.start(index, pieces)?;
            let boxes = self.boxes(&tensor)?;
            queue.strips = Some((tensor, boxes));
        }
    }

    /// What of a tensor is copied: all of it, box after box where only some are written.
    fn boxes(&self, tensor: &TensorJob) -> Result<Vec<Strips>> {
        match self.all {
            true => Ok(vec![self.strips(tensor, Region::whole(tensor.source.blocks().shape()))?]),
            false => {
                let regions = tensor.pieces.iter().rev().map(|(_, region)| region.clone());
                regions.map(|region| self.strips(tensor, region)).collect()
            }
        }
    }

    /// Cuts a box in strips: as it is written, or, where the source holds its elements in another order, so that both
    /// sides have long runs. Source chunks are taken to be alike.
    fn strips(&self, tensor: &TensorJob, region: Region) -> Result<Strips> {
        let blocks = |bytes: u64| bytes / tensor.source.blocks().block_bytes() as u64;
        let first = Region { start: region.start.clone(), extent: vec![1; region.rank()] };
        let chunks = if region.is_empty() { Vec::new() } else { tensor.source.overlapping(&first)? };
        let reordered = chunks.first().and_then(|(chunk, _)| {
            chunk.reordered(&region.extent, blocks(self.strip_bytes.reordered), self.write_cost_bytes())
        });
        Ok(match reordered {
            // A frame is short enough in any case: what is compressed is written in runs that are as long as can be.
            Some(_) if self.job.draft.compressed() => region.strips(blocks(self.strip_bytes.reordered)),
            Some(extent) => Strips::new(region, extent),
            None => region.strips(blocks(self.strip_bytes.plain)),
        })
    }

    /// Bytes that could be written in the time that one more write takes: a system call and the page that two writes
    /// share, or the combining of checksums.
    fn write_cost_bytes(&self) -> u64 {
        match self.job.draft.checksums() {
            ChecksumKind::None => 8 << 10,
            ChecksumKind::Crc32 | ChecksumKind::Crc64Blocks { .. } => 32 << 10,
        }
    }

    /// An object by its number among those that are written.
    fn object(&self, number: u32) -> &ObjectDraft {
        &self.job.draft.objects()[self.job.objects[number as usize]]
    }

    fn start(&self, index: usize, pieces: Vec<Piece>) -> Result<Arc<TensorJob<'a>>> {
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
                let object = self.object(piece.object);
                let region = target_blocks
                    .region(target.fqn.as_str(), &object.placed[piece.placed as usize].region)?;
                Ok((piece, region))
            })
            .collect::<Result<_>>()?;
        Ok(Arc::new(TensorJob { source, target_blocks, pieces }))
    }

    fn copy_strip(
        &self,
        tensor: Arc<TensorJob<'a>>,
        strip: &Region,
        turn: Option<Turn>,
        buffers: &mut Buffers,
    ) -> Result<()> {
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
            && part.is_run()
            && self.copy_in_kernel(&tensor, part, chunk)?
        {
            return Ok(());
        }
        if let ([part], [(chunk, common)]) = (&parts[..], &chunks[..])
            && part.common == *common
            && let Some(bytes) = chunk.in_memory(common)
        {
            self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.write_parts(&tensor, &parts, &[bytes], turn, &mut buffers.converted)?;
            return done(tensor);
        }
        let from_bytes = tensor.source.blocks().block_bytes();
        let ranges = buffers
            .staging
            .lay_out(parts.iter().map(|part| (part.target_offset(from_bytes), part.byte_len(from_bytes))))?;
        for (chunk, common) in &chunks {
            self.scatter(chunk, common, &parts, &ranges, from_bytes, buffers)?;
        }
        let bytes: Vec<&[u8]> = ranges.iter().map(|range| buffers.staging.bytes(range)).collect();
        self.write_parts(&tensor, &parts, &bytes, turn, &mut buffers.converted)?;
        done(tensor)
    }

    /// Copies a part without bringing it here, where nothing has to be computed from its bytes.
    fn copy_in_kernel(&self, tensor: &TensorJob, part: &Part, chunk: &OpenChunk) -> Result<bool> {
        let block_bytes = tensor.source.blocks().block_bytes();
        let byte_len = part.byte_len(block_bytes) as u64;
        let plain = self.job.draft.checksums() == ChecksumKind::None && !self.job.draft.compressed();
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
        let scratch_max = self.strip_bytes.plain.max(common.elements() * block_bytes as u64) as usize;
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
        staged: &[&[u8]],
        turn: Option<Turn>,
        buffer: &mut AlignedBuf,
    ) -> Result<()> {
        let (from, to) = (tensor.source.spec().dtype, tensor.target_blocks.dtype());
        let to_bytes = tensor.target_blocks.block_bytes();
        let converted = if from == to {
            Vec::new()
        } else {
            buffer
                .lay_out(parts.iter().map(|part| (part.target_offset(to_bytes), part.byte_len(to_bytes))))?
        };
        let mut frames = Vec::new();
        for (index, (part, &staged)) in parts.iter().zip(staged).enumerate() {
            let mut bytes = staged;
            if from != to {
                cast(from, bytes, to, buffer.bytes_mut(&converted[index]));
                bytes = buffer.bytes(&converted[index]);
            }
            let sink = &self.sinks[part.object as usize];
            for (first, run) in part.run_starts().zip(bytes.chunks((part.run() as usize * to_bytes).max(1))) {
                let region_offset = first * to_bytes as u64;
                if turn.is_some() {
                    let encoded = sink.encode(part.placed, region_offset, to, run);
                    frames.extend(encoded.into_iter().map(|frame| (sink, frame)));
                    continue;
                }
                sink.write(part.placed, region_offset, to, run)?;
                self.written_bytes.fetch_add(run.len() as u64, Ordering::Relaxed);
            }
            if turn.is_some() {
                continue;
            }
            self.job.progress.advance(bytes.len() as u64);
        }
        let Some(turn) = turn else { return Ok(()) };
        turn.pass(|| frames.iter_mut().for_each(|(sink, frame)| sink.place(frame)))?;
        for (sink, frame) in frames {
            let raw_bytes = frame.raw_bytes;
            self.written_bytes.fetch_add(sink.append(frame)?, Ordering::Relaxed);
            self.job.progress.advance(raw_bytes);
        }
        Ok(())
    }
}
