//! Reads any region of one stored tensor.

use super::blocks::Blocks;
use super::read_box::OpenChunk;
use crate::error::{Error, Result};
use crate::format::Reader;
use crate::layout::{Region, row_major};
use crate::model::{Chunk, DType, Fqn, Tensor, TensorSpec};
use crate::threads::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Memory a reader may use beside the caller's buffer, by default.
const SCRATCH_BYTES_MAX: usize = 16 << 20;

/// Object, byte offset and corner of a chunk: chunks of a view may share bytes.
type ChunkId = (u32, u64, Vec<u64>);

/// One tensor of an open checkpoint. Finds each chunk's elements once and remembers them; may be shared by threads.
#[derive(Debug)]
pub struct TensorReader<'a> {
    reader: &'a dyn Reader,
    fqn: Fqn,
    tensor: &'a Tensor,
    blocks: Blocks,
    opened: Mutex<HashMap<ChunkId, Arc<OpenChunk>>>,
}

impl<'a> TensorReader<'a> {
    /// A reader of the named tensor.
    ///
    /// Errors: [`Error::NoSuchName`]; [`Error::BadTensor`] where shape and type have no size in whole bytes.
    pub fn new(reader: &'a dyn Reader, fqn: &str) -> Result<Self> {
        let found = reader.catalog().tensors.get_key_value(fqn);
        let (fqn, tensor) =
            found.ok_or_else(|| Error::NoSuchName { fqn: fqn.to_owned(), hint: String::new() })?;
        let blocks = Blocks::new(fqn.as_str(), &tensor.spec)?;
        Ok(TensorReader { reader, fqn: fqn.clone(), tensor, blocks, opened: Mutex::default() })
    }

    /// Its type and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.tensor.spec
    }

    /// Its name.
    pub fn fqn(&self) -> &Fqn {
        &self.fqn
    }

    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Reads `region` into `target`, row-major, and returns the bytes fetched to do so.
    ///
    /// Errors: [`Error::BadTensor`] for a target of another size than the region, a region outside the tensor, one
    /// that cuts a packed group, or one that no chunk covers; what reading gives.
    pub fn read(&self, region: &Region, target: &mut [u8]) -> Result<u64> {
        let wanted = self.wanted(region, self.spec().dtype, target.len())?;
        self.read_blocks(&wanted, target, &mut Vec::new(), SCRATCH_BYTES_MAX)
    }

    /// The region in blocks, once it is found to be inside the tensor and, in this type, as large as the memory for it.
    pub(crate) fn wanted(&self, region: &Region, dtype: DType, target_bytes: usize) -> Result<Region> {
        if region.rank() != self.spec().shape.len() || !Region::whole(&self.spec().shape).contains(region) {
            return Err(self.bad(format!("region {region:?} is not inside shape {:?}", self.spec().shape)));
        }
        let wanted = self.blocks.region(self.fqn.as_str(), region)?;
        let byte_len = wanted.elements() * dtype.block_bytes();
        if target_bytes as u64 != byte_len {
            return Err(
                self.bad(format!("region {region:?} has {byte_len} bytes, the memory for it {target_bytes}"))
            );
        }
        Ok(wanted)
    }

    /// Reads `wanted` (in blocks) into `target`, row-major, and returns the bytes fetched to do so.
    pub(crate) fn read_blocks(
        &self,
        wanted: &Region,
        target: &mut [u8],
        scratch: &mut Vec<u8>,
        scratch_bytes_max: usize,
    ) -> Result<u64> {
        let strides = row_major(&wanted.extent);
        let block_bytes = self.blocks.block_bytes();
        let (mut fetched, mut covered) = (0, 0);
        for (chunk, common) in self.overlapping(wanted)? {
            let part = &mut target[common.position_in(wanted, &strides) as usize * block_bytes..];
            fetched += chunk.read(&common, part, &strides, scratch, scratch_bytes_max)?;
            covered += common.elements();
        }
        if covered != wanted.elements() {
            return Err(self.incomplete(wanted, covered, wanted.elements()));
        }
        Ok(fetched)
    }

    /// Every chunk that shares elements with `wanted` (in blocks), with the common box.
    pub(crate) fn overlapping(&self, wanted: &Region) -> Result<Vec<(Arc<OpenChunk>, Region)>> {
        let mut found = Vec::new();
        let per_block = self.spec().dtype.block_elements();
        if per_block == 1 {
            self.tensor.chunks.visit(wanted, &mut |chunk| self.add(chunk, wanted, &mut found))?;
        } else {
            // Chunks are recorded in elements; ask for all, since a flattened tensor has other dims than its chunks.
            for chunk in self.tensor.chunks.all(&self.spec().shape)? {
                self.add(chunk, wanted, &mut found)?;
            }
        }
        Ok(found)
    }

    fn add(&self, chunk: Chunk, wanted: &Region, found: &mut Vec<(Arc<OpenChunk>, Region)>) -> Result<()> {
        let region = self.blocks.region(self.fqn.as_str(), &chunk.region)?;
        if let Some(common) = region.intersect(wanted) {
            found.push((self.open(chunk, region)?, common));
        }
        Ok(())
    }

    fn open(&self, chunk: Chunk, region: Region) -> Result<Arc<OpenChunk>> {
        let id = (chunk.object, chunk.byte_offset, region.start.clone());
        if let Some(open) = lock(&self.opened).get(&id) {
            return Ok(open.clone());
        }
        let elements = self.reader.resolve(&self.fqn, self.tensor, &chunk)?;
        let object = &self.reader.catalog().objects[chunk.object as usize].key;
        let object = self.reader.place().store.display(object);
        let open = Arc::new(OpenChunk::new(self.fqn.as_str(), &object, region, elements, &self.blocks)?);
        // Two threads may have resolved it at once; keep the first, which may have begun to sum its bytes.
        Ok(lock(&self.opened).entry(id).or_insert(open).clone())
    }

    /// Compares the recorded checksum of every chunk that was read whole.
    ///
    /// Errors: [`Error::Damaged`] for the first that differs.
    pub(crate) fn check_sums(&self) -> Result<()> {
        for (&(object, byte_offset, _), open) in lock(&self.opened).iter() {
            if let Some((found, expected)) = open.mismatch() {
                let object = &self.reader.catalog().objects[object as usize].key;
                return Err(Error::Damaged {
                    object: self.reader.place().store.display(object),
                    from: byte_offset,
                    until: byte_offset + open.region.elements() * self.blocks.block_bytes() as u64,
                    found: format!("CRC-32 {found:08x}"),
                    expected: format!("{expected:08x}"),
                    fqn_note: format!(", part of {}", self.fqn),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn incomplete(&self, region: &Region, covered: u64, total: u64) -> Error {
        self.bad(format!(
            "its chunks cover {covered} of {total} elements of {region:?}; a rank's file is missing or the save did not finish"
        ))
    }

    fn bad(&self, message: String) -> Error {
        Error::BadTensor { fqn: self.fqn.as_str().to_owned(), message }
    }
}
