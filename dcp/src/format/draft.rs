//! A laid-out checkpoint: what to put where.

use crate::error::Result;
use crate::layout::Region;
use crate::model::DType;
use crate::storage::Key;
use std::fmt::Debug;
use std::ops::Range;

/// Bytes at a position of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Position in the object.
    pub byte_offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Where one region of a tensor goes in an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacedRegion {
    /// Index into [`Target::tensors`].
    pub tensor: u32,
    /// The box, in the tensor's coordinates.
    pub region: Region,
    /// First byte of its elements, row-major, in the object.
    pub byte_offset: u64,
}

/// Which checksums the engine takes of what it writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumKind {
    /// None.
    None,
    /// CRC-32 (ISO-HDLC) of every placed region.
    Crc32,
    /// CRC-64/NVME of every block of this many bytes of every placed region, counted from the region's first byte.
    Crc64Blocks {
        /// Bytes of a block.
        block_bytes: u64,
    },
}

/// One object to write.
#[derive(Clone, Debug)]
pub struct ObjectDraft {
    /// Its key below the destination.
    pub key: Key,
    /// Who writes it.
    pub writer: u32,
    /// Its exact length; for a compressed object, the length of the fixed part only.
    pub byte_len: u64,
    /// Bytes known before any tensor is read.
    pub fixed: Vec<Patch>,
    /// Where tensor data goes.
    pub placed: Vec<PlacedRegion>,
}

/// What the engine measured while writing one object. The vectors follow [`ObjectDraft::placed`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectSums {
    /// CRC-32 of each placed region, with [`ChecksumKind::Crc32`].
    pub crc32: Vec<u32>,
    /// CRC-64/NVME of each block of each placed region, with [`ChecksumKind::Crc64Blocks`].
    pub blocks: Vec<Vec<u64>>,
    /// For a compressed object, the frames of each placed region in order.
    pub frames: Vec<Vec<Frame>>,
    /// Final length of the object.
    pub byte_len: u64,
}

/// One compressed piece of a placed region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Position in the object.
    pub byte_offset: u64,
    /// Stored bytes.
    pub stored_bytes: u64,
    /// Bytes once decompressed.
    pub raw_bytes: u64,
    /// How it is stored: 0 raw, else a row of the native format's codec table.
    pub codec: u8,
    /// CRC-64/NVME of the stored bytes.
    pub crc64: u64,
}

/// A laid-out checkpoint: what to put where, and how to complete it once the data is written.
pub trait Draft: Send + Sync + Debug {
    /// The data objects, in writer order.
    fn objects(&self) -> &[ObjectDraft];

    /// Which checksums the engine must take.
    fn checksums(&self) -> ChecksumKind {
        ChecksumKind::None
    }

    /// Whether placed regions are appended as compressed frames instead of written at their offsets.
    fn compressed(&self) -> bool {
        false
    }

    /// Encodes one frame of a compressed object: appends the stored bytes to `stored` and returns the codec.
    fn encode(&self, dtype: DType, raw: &[u8], stored: &mut Vec<u8>) -> u8 {
        let _ = dtype;
        stored.extend_from_slice(raw);
        0
    }

    /// Bytes of object `index` that depend on one placed region and nothing else: its checksum in the framing around it.
    /// Asked for once per region, with [`ChecksumKind::Crc32`] only, as soon as all its bytes are written: an upload
    /// keeps what stands beside them in memory until then.
    fn late_of_region(&self, index: usize, placed: usize, crc32: u32) -> Vec<Patch> {
        let _ = (index, placed, crc32);
        Vec::new()
    }

    /// Bytes of object `index` that depend on all that was written, as a directory of checksums does, without those of
    /// [`Draft::late_of_region`].
    fn late(&self, index: usize, sums: &ObjectSums) -> Vec<Patch> {
        let _ = (index, sums);
        Vec::new()
    }

    /// What a writer leaves beside its objects once they are finished: a key below the destination, and bytes. `None`
    /// where the format keeps none, or the writer has no objects. `sums` follows that writer's objects.
    ///
    /// Errors: [`Error::Malformed`] where what was measured is not what was laid out.
    fn record(&self, writer: u32, sums: &[ObjectSums]) -> Result<Option<(Key, Vec<u8>)>> {
        let _ = (writer, sums);
        Ok(None)
    }

    /// The key of the record of a writer that leaves one.
    fn record_key(&self, writer: u32) -> Result<Option<Key>> {
        let _ = writer;
        Ok(None)
    }

    /// What makes the checkpoint exist, a key below the destination and bytes each: metadata, index, manifest. To be
    /// created in this order once all objects and records are finished; the presence of the last is the commit.
    /// `records` has what [`record`](Draft::record) gave each writer, in order of writers.
    fn seal(&self, records: &[Option<Vec<u8>>]) -> Result<Vec<(Key, Vec<u8>)>>;

    /// How many writers there are, those without objects included.
    fn writers(&self) -> u32 {
        self.objects().last().map_or(0, |object| object.writer + 1)
    }

    /// Which of [`Draft::objects`] a writer has.
    fn objects_of(&self, writer: u32) -> Range<usize> {
        let objects = self.objects();
        let first = |writer| objects.partition_point(|object| object.writer < writer);
        first(writer)..first(writer + 1)
    }
}
