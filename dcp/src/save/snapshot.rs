//! This rank's share of the state in host memory, as a checkpoint that the engine can read.

use super::SaveOptions;
use super::pool::{Pool, Slab, SlabPlan, Staged, pack};
use super::state::Source;
use crate::error::{Error, Result};
use crate::format::{Elements, Reader};
use crate::layout::Region;
use crate::model::{Catalog, Chunk, ChunkTable, Fqn, ObjectInfo, Tensor, TensorSpec, Value};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place, ReadAt};
use crate::threads::{Queue, in_threads, lock};
use crc_fast::CrcAlgorithm::Crc32IsoHdlc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What a thread copies at a time: enough to run at the speed of memory, few enough to share a large tensor out.
const UNIT_BYTES: usize = 8 << 20;

/// One box that this rank writes.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) fqn: Fqn,
    pub(super) region: Region,
    pub(super) source: Arc<dyn Source>,
}

/// The shares, in memory as far as they have room, as a checkpoint of one chunk per share.
#[derive(Debug)]
pub(super) struct Snapshot {
    catalog: Catalog,
    place: Place,
    chunks: Vec<(Arc<dyn ReadAt>, Option<u32>)>,
    slabs: Vec<Arc<Slab>>,
    pub(super) staged_bytes: u64,
    pub(super) streamed_bytes: u64,
}

/// Called once nothing reads the live tensors any more.
pub(super) type Released = Arc<dyn Fn() + Send + Sync>;

impl Snapshot {
    /// Copies the shares, in memory of the pool. `specs` are all tensors of the job. `released` is called here, or when
    /// the last byte without room in memory has been read.
    ///
    /// Errors: [`Error::Torn`] where a proof is asked for and fails; [`Error::NoMemory`]; what reading gives.
    pub(super) fn take(
        specs: &[(Fqn, TensorSpec)],
        shares: &[Share],
        pool: &Mutex<Pool>,
        options: &SaveOptions,
        bytes_max: u64,
        released: Released,
    ) -> Result<Self> {
        let byte_lens: Vec<u64> = shares.iter().map(|share| share.source.byte_len()).collect();
        let (plans, streamed) = pack(&byte_lens, bytes_max);
        let (slabs, sums) = stage(&plans, shares, pool, options.stage_threads)?;
        if options.prove_untorn {
            prove(&plans, shares, &sums, options.stage_threads)?;
        }
        let slabs: Vec<Arc<Slab>> = slabs.into_iter().map(Arc::new).collect();
        let mut chunks: Vec<(Arc<dyn ReadAt>, Option<u32>)> = Vec::with_capacity(shares.len());
        let streamed_bytes = streamed.iter().map(|&index| byte_lens[index]).sum();
        let left = Arc::new(AtomicU64::new(streamed_bytes));
        for share in shares {
            let (source, left, released) = (share.source.clone(), left.clone(), released.clone());
            chunks.push((Arc::new(Live { source, left, released }), None));
        }
        for (plan, slab) in plans.iter().zip(&slabs) {
            for &(index, at, byte_len) in &plan.pieces {
                let range = at as usize..(at + byte_len) as usize;
                chunks[index] = (Arc::new(Staged { slab: slab.clone(), range }), Some(sums[index]));
            }
        }
        if streamed_bytes == 0 {
            released();
        }
        let staged_bytes = byte_lens.iter().sum::<u64>() - streamed_bytes;
        let place = Place { store: Arc::new(MemoryStore::new()), key: Key::root() };
        Ok(Snapshot { catalog: catalog(specs, shares)?, place, chunks, slabs, staged_bytes, streamed_bytes })
    }

    /// Gives the memory back to the pool.
    pub(super) fn release(self, pool: &Mutex<Pool>) {
        let Snapshot { chunks, slabs, .. } = self;
        drop(chunks);
        let mut pool = lock(pool);
        slabs.into_iter().filter_map(Arc::into_inner).for_each(|slab| pool.give(slab));
    }
}

/// Memory of every slab, filled, and the CRC-32 of every piece by its index.
fn stage(
    plans: &[SlabPlan],
    shares: &[Share],
    pool: &Mutex<Pool>,
    threads: usize,
) -> Result<(Vec<Slab>, Vec<u32>)> {
    let mut slabs = lock(pool).take_all(plans)?;
    let mut units = Vec::new();
    for (plan, slab) in plans.iter().zip(&mut slabs) {
        let (mut rest, mut end) = (slab.bytes_mut(), 0);
        for &(index, at, byte_len) in &plan.pieces {
            let (_, after) = std::mem::take(&mut rest).split_at_mut((at - end) as usize);
            let (piece, after) = after.split_at_mut(byte_len as usize);
            (rest, end) = (after, at + byte_len);
            for (number, target) in piece.chunks_mut(UNIT_BYTES).enumerate() {
                units.push((index, (number * UNIT_BYTES) as u64, target));
            }
        }
    }
    let parts = Mutex::new(Vec::with_capacity(units.len()));
    let queue = Queue::new(units);
    in_threads(threads.max(1), &|| {
        while let Some((index, byte_offset, target)) = queue.next() {
            shares[index].source.read(byte_offset, target)?;
            let crc = crc_fast::checksum(Crc32IsoHdlc, target);
            lock(&parts).push((index, byte_offset, target.len() as u64, crc));
        }
        Ok(())
    })?;
    Ok((slabs, join(shares.len(), parts)))
}

/// The CRC-32 of every piece, from those of its parts.
fn join(count: usize, parts: Mutex<Vec<(usize, u64, u64, u64)>>) -> Vec<u32> {
    let mut parts = parts.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    parts.sort_unstable();
    let mut sums = vec![0; count];
    for (index, _, byte_len, crc) in parts {
        sums[index] = crc_fast::checksum_combine(Crc32IsoHdlc, u64::from(sums[index]), crc, byte_len) as u32;
    }
    sums
}

/// Reads the live tensors again and compares.
fn prove(plans: &[SlabPlan], shares: &[Share], sums: &[u32], threads: usize) -> Result<()> {
    let units = plans.iter().flat_map(|plan| &plan.pieces).flat_map(|&(index, _, byte_len)| {
        (0..byte_len).step_by(UNIT_BYTES).map(move |at| (index, at, (byte_len - at).min(UNIT_BYTES as u64)))
    });
    let (parts, queue) = (Mutex::new(Vec::new()), Queue::new(units.collect::<Vec<_>>()));
    in_threads(threads.max(1), &|| {
        let mut again = vec![0; UNIT_BYTES];
        while let Some((index, byte_offset, byte_len)) = queue.next() {
            let again = &mut again[..byte_len as usize];
            shares[index].source.read(byte_offset, again)?;
            let crc = crc_fast::checksum(Crc32IsoHdlc, again);
            lock(&parts).push((index, byte_offset, byte_len, crc));
        }
        Ok(())
    })?;
    let found = join(shares.len(), parts);
    let staged = plans.iter().flat_map(|plan| &plan.pieces).map(|&(index, ..)| index);
    match staged.into_iter().find(|&index| found[index] != sums[index]) {
        None => Ok(()),
        Some(index) => {
            let (fqn, when) = (shares[index].fqn.to_string(), "the end of its snapshot");
            Err(Error::Torn { fqn, when })
        }
    }
}

fn catalog(specs: &[(Fqn, TensorSpec)], shares: &[Share]) -> Result<Catalog> {
    let mut catalog = Catalog::new("snapshot");
    for (fqn, spec) in specs {
        let (spec, chunks) = (spec.clone(), ChunkTable::Listed(Vec::new()));
        let tensor = Tensor { spec, path: Vec::new(), chunks, placements: None };
        catalog.tensors.insert(fqn.clone(), tensor);
    }
    for (object, share) in (0u32..).zip(shares) {
        let byte_len = share.source.byte_len();
        let key = Key::new(format!("snapshot-{object}"))?;
        catalog.objects.push(ObjectInfo { key, byte_len, exact: true, writer: None });
        let chunk = Chunk { region: share.region.clone(), object, byte_offset: 0, byte_len };
        if let Some(tensor) = catalog.tensors.get_mut(&share.fqn) {
            tensor.chunks = ChunkTable::Listed(vec![chunk]);
        }
    }
    Ok(catalog)
}

impl Reader for Snapshot {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, _: &Fqn, _: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let (source, crc32) = self.chunks[chunk.object as usize].clone();
        Ok(Elements { source, byte_offset: 0, strides: None, crc32 })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        Err(Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() })
    }
}

/// A live tensor without room in memory. Each of its bytes is read once.
struct Live {
    source: Arc<dyn Source>,
    left: Arc<AtomicU64>,
    released: Released,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("source", &self.source).finish_non_exhaustive()
    }
}

impl ReadAt for Live {
    fn byte_len(&self) -> u64 {
        self.source.byte_len()
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        self.source.read(byte_offset, target)?;
        let byte_len = target.len() as u64;
        if self.left.fetch_sub(byte_len, Ordering::AcqRel) == byte_len {
            (self.released)();
        }
        Ok(())
    }
}
