//! On-disk formats: where the bytes of tensors and values are.
//!
//! Reading a format means producing a [`Catalog`]; writing one means laying regions out in objects. Neither moves a
//! tensor's bytes: the engine in [`crate::copy`] does, the same for every pair of formats.

mod open_objects;
mod safetensors;
mod titan;
mod torch_dcp;
mod torch_save;
#[doc(hidden)]
pub mod wire;

use crate::error::{Error, Result};
use crate::layout::{Layout, Mesh, Placement, Region};
use crate::model::{Catalog, Chunk, DType, Fqn, Path, Tensor, TensorSpec, Value};
use crate::storage::{Key, ObjectMeta, Place, ReadAt, Storage};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// Every format, most specific probe first. To add one: a file here, a line here.
pub static FORMATS: &[&dyn Format] =
    &[&titan::Titan, &torch_dcp::TorchDcp, &safetensors::Safetensors, &torch_save::TorchSave];

/// Finds a format by the name typed after `--to`.
pub fn by_name(name: &str) -> Result<&'static dyn Format> {
    FORMATS
        .iter()
        .copied()
        .find(|format| format.name() == name)
        .ok_or_else(|| Error::NoSuchFormat { name: name.to_owned(), known: names() })
}

/// The names of all formats, comma-separated.
pub fn names() -> String {
    FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

/// Whether an object of this name makes a checkpoint of some format exist: whoever copies objects writes it last.
pub fn is_committed_by(name: &str) -> bool {
    FORMATS.iter().any(|format| format.is_committed_by(name))
}

/// What a probe may look at: a folder's listing, or a file's first bytes.
#[derive(Debug)]
pub struct Candidate {
    /// The folder or file.
    pub place: Place,
    /// `Some` when the place is a single object: its length and its first bytes, at most 4096.
    pub file: Option<(u64, Vec<u8>)>,
    /// Every object below the place when it is a folder, at any depth, sorted by key.
    pub objects: Vec<ObjectMeta>,
}

impl Candidate {
    /// Lists a place.
    ///
    /// Errors: [`Error::NothingThere`] when it is neither an object nor a folder with objects.
    pub fn new(place: &Place) -> Result<Self> {
        const HEAD_BYTES: u64 = 4096;
        if let Some(byte_len) = place.store.head(&place.key)? {
            let mut head = vec![0; byte_len.min(HEAD_BYTES) as usize];
            place.store.open(&place.key)?.read_at(0, &mut head)?;
            return Ok(Candidate { place: place.clone(), file: Some((byte_len, head)), objects: Vec::new() });
        }
        let objects = place.store.list(&place.key)?;
        if objects.is_empty() {
            return Err(Error::NothingThere { root: place.display() });
        }
        Ok(Candidate { place: place.clone(), file: None, objects })
    }

    /// Names of the objects directly in the folder, with their lengths.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.objects
            .iter()
            .filter_map(|object| Some((object.key.below(&self.place.key)?, object.byte_len)))
            .filter(|(name, _)| !name.contains('/'))
    }

    /// Length of the object `name` (relative to the folder, `/`-separated), where it is listed.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.objects
            .iter()
            .find(|object| object.key.below(&self.place.key) == Some(name))
            .map(|object| object.byte_len)
    }
}

/// What a commit slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// A checkpoint.
    Commit,
    /// Nothing, for good: whoever wanted to commit here cannot any more.
    Abandoned,
}

/// One on-disk format.
pub trait Format: Send + Sync + Debug {
    /// The name typed after `--to` and shown by `inspect`. Never changes once released.
    fn name(&self) -> &'static str;

    /// Whether the candidate looks like this format: from its listing and head alone, with at most one small read.
    fn probe(&self, candidate: &Candidate) -> bool;

    /// The name, directly in the folder, whose creation commits that try at a checkpoint: the first is generation 0.
    /// `None` where the format has no place for it: a single file, or a second try.
    fn slot_name(&self, generation: u32) -> Option<String> {
        let _ = generation;
        None
    }

    /// The generation of a name that [`slot_name`](Format::slot_name) gives.
    fn slot_generation(&self, name: &str) -> Option<u32> {
        let _ = name;
        None
    }

    /// What the object in a slot says. `object` names it in errors.
    fn read_slot(&self, object: &str, bytes: &[u8]) -> Result<Slot> {
        let _ = (object, bytes);
        Ok(Slot::Commit)
    }

    /// What fills a slot so that no attempt can commit with it; `None` where the format's readers would take it for a
    /// checkpoint.
    fn abandoned(&self, generation: u32) -> Option<Vec<u8>> {
        let _ = generation;
        None
    }

    /// Reads everything but tensor data. Damage that leaves a catalog readable becomes a finding, not an error.
    fn open(&self, candidate: &Candidate) -> Result<Arc<dyn Reader>>;

    /// Lays a target out in objects; computes positions only and touches no store.
    ///
    /// Errors: [`Error::Inexpressible`] for what the format cannot hold, listing every name.
    fn draft(&self, target: &Target, options: &WriteOptions) -> Result<Box<dyn Draft>>;

    /// Whether an object of this name, without folders, is what makes a checkpoint of this format exist: a manifest,
    /// metadata, an index. Never for a format whose data files speak for themselves.
    fn is_committed_by(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Whether a checkpoint of this format is a single file where the destination's name ends in `extension`.
    fn single_file(&self, extension: &str) -> bool {
        let _ = extension;
        false
    }
}

/// An open checkpoint: its catalog, and how to get at the elements of its chunks.
pub trait Reader: Send + Sync + Debug {
    /// What the checkpoint holds.
    fn catalog(&self) -> &Catalog;

    /// The store it is in.
    fn place(&self) -> &Place;

    /// Finds where a chunk's elements are. May read the chunk's framing, never its elements (unless they can only be
    /// had by decoding all of it).
    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> Result<Elements>;

    /// Decodes a value.
    ///
    /// Errors: [`Error::NoSuchName`]; what the value's own encoding can give.
    fn value(&self, fqn: &Fqn) -> Result<Value>;

    /// The value as a `torch.save` archive, byte for byte as it is stored, where the format stores one.
    fn value_archive(&self, fqn: &Fqn) -> Result<Option<Vec<u8>>> {
        let _ = fqn;
        Ok(None)
    }

    /// Checks what the format records beyond tensors' elements: framing, values, objects' own checksums. Called by
    /// `verify --deep`; elements themselves are checked through [`Elements`].
    fn verify_framing(&self, report: &mut dyn FnMut(crate::model::Finding)) -> Result<()> {
        let _ = report;
        Ok(())
    }
}

/// Where the elements of one chunk are, framing removed.
#[derive(Clone, Debug)]
pub struct Elements {
    /// The bytes, checked as they are read where the format has checksums of blocks.
    pub source: Arc<dyn ReadAt>,
    /// First byte of the elements in `source`.
    pub byte_offset: u64,
    /// Strides in elements (blocks, for sub-byte types), where the elements are not row-major and dense: any strides
    /// of the chunk's extent that stay inside `source`, zero (an expanded dim) included.
    pub strides: Option<Vec<u64>>,
    /// CRC-32 (ISO-HDLC) of the elements' bytes in stored order, where the format records one for the whole chunk.
    pub crc32: Option<u32>,
}

/// What to write: every tensor with its spec and layout, every value.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Tensors, in the order to be stored.
    pub tensors: Vec<TargetTensor>,
    /// Values, in the order to be stored.
    pub values: Vec<TargetValue>,
    /// The mesh it is saved on, where one is known.
    pub mesh: Option<Arc<Mesh>>,
    /// Number of writers (ranks); every writer gets its own objects.
    pub writers: u32,
    /// Training step, where known.
    pub step: Option<u64>,
}

impl Target {
    /// Every box of a tensor with its writer. A tensor without elements has one box, so that it is not lost.
    ///
    /// Errors: [`Error::Layout`] for placements that do not fit mesh and shape.
    pub fn pieces(&self, tensor: &TargetTensor) -> Result<Vec<(u32, Region)>> {
        let (placements, owner) = match &tensor.pieces {
            Pieces::Listed(pieces) => return Ok(pieces.clone()),
            Pieces::Placed { placements, owner } => (placements, owner),
        };
        let mesh = match &self.mesh {
            Some(mesh) => mesh.clone(),
            None => Arc::new(Mesh::new::<String>([])?),
        };
        let layout = Layout::new(mesh.clone(), placements.clone(), tensor.spec.shape.clone())?;
        let mut pieces = Vec::new();
        let whole = Region::whole(&tensor.spec.shape);
        layout.visit_overlapping(&whole, owner, &mut |coordinates, region| {
            pieces.push((mesh.rank_at(coordinates), region.clone()));
        });
        if whole.is_empty() {
            pieces.push((layout.first_rank(owner), whole));
        }
        Ok(pieces)
    }
}

/// One tensor to write.
#[derive(Clone, Debug)]
pub struct TargetTensor {
    /// Its name.
    pub fqn: Fqn,
    /// Its type and shape as written.
    pub spec: TensorSpec,
    /// Where it sits in the nested state dict; empty when unknown.
    pub path: Path,
    /// Who writes which box: `(writer, region)`, tiling the tensor.
    pub pieces: Pieces,
}

/// Who writes which box of a tensor.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// Every box listed with its writer. Empty boxes are kept where the source lists them.
    Listed(Vec<(u32, Region)>),
    /// One placement per axis of [`Target::mesh`]; along the replica axes, the copy at these coordinates (one entry
    /// per axis, ignored on other axes) is the one that is written.
    Placed {
        /// One placement per mesh axis.
        placements: Vec<Placement>,
        /// Coordinates of the copy that is written.
        owner: Vec<u32>,
    },
}

/// One value to write.
#[derive(Clone, Debug)]
pub struct TargetValue {
    /// Its name.
    pub fqn: Fqn,
    /// Where it sits in the nested state dict; empty when unknown.
    pub path: Path,
    /// The decoded value; may be opaque when `archive` carries it.
    pub value: Value,
    /// A `torch.save` archive to carry verbatim, where the source has one.
    pub archive: Option<Vec<u8>>,
    /// The writer it goes to, in formats that spread values over writers.
    pub writer: u32,
}

/// One try at saving a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// 32 hex digits, unique to the try: its objects are below a folder of this name. The first four are the
    /// generation in decimal, by which `prune` knows, from the name alone, what can no longer be committed.
    pub id: String,
    /// The slot that it commits with.
    pub generation: u32,
}

impl Attempt {
    /// A new one for this slot.
    pub fn new(generation: u32) -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Attempt { id: format!("{generation:04}{}", &random[4..]), generation }
    }

    /// The generation in an attempt's name; `None` for a name that is none of ours.
    pub fn generation_of(id: &str) -> Option<u32> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if id.len() != 32 || !id.bytes().all(is_hex) {
            return None;
        }
        let digits = &id[..4];
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    }
}

/// Choices of a writer.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Largest file of a format that splits by size (safetensors with an index), in bytes; `None` for one file.
    pub shard_bytes_max: Option<u64>,
    /// Compress, in formats that can.
    pub compress: bool,
    /// Name of the single file, where the destination is one (its stem names the archive in `torch.save` files).
    pub file_name: Option<String>,
    /// The try at saving a step that it belongs to; `None` makes one of its own.
    pub attempt: Option<Attempt>,
    /// The sharded safetensors layout of PyTorch's HuggingFaceStorageWriter: one file per writer, boxes in the header.
    pub sharded: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions {
            shard_bytes_max: Some(5_000_000_000),
            compress: false,
            file_name: None,
            attempt: None,
            sharded: false,
        }
    }
}

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

    /// Completes a checkpoint whose data objects one process has all finished: puts every record, several at once since
    /// most of the time goes into waiting for the store, then what makes it exist. `sums` follows [`Draft::objects`].
    fn commit(&self, store: &dyn Storage, root: &Key, sums: &[ObjectSums]) -> Result<()> {
        let records = (0..self.writers()).into_par_iter().map(|writer| {
            let record = self.record(writer, sums.get(self.objects_of(writer)).unwrap_or_default())?;
            record
                .map(|(key, bytes)| store.put(&root.join(key.as_str())?, &bytes).map(|()| bytes))
                .transpose()
        });
        let records = records.collect::<Result<Vec<_>>>()?;
        for (key, bytes) in self.seal(&records)? {
            put_once(store, &root.join(key.as_str())?, &bytes)?;
        }
        Ok(())
    }
}

/// Puts an object that nobody else has a right to. The answer alone is not to be trusted: a reply that was lost, or a
/// second try within the store, can make an error of what was done. So after an error the key is read back, and our own
/// bytes mean success.
fn put_once(store: &dyn Storage, key: &Key, bytes: &[u8]) -> Result<()> {
    match store.put(key, bytes) {
        Ok(()) => Ok(()),
        Err(error) => match store.get(key, bytes.len() as u64) {
            Ok(found) if found == bytes => Ok(()),
            _ => Err(error),
        },
    }
}

/// Opens a checkpoint of any format.
///
/// Errors: [`Error::NothingThere`], [`Error::UnknownFormat`], and what the format's reader gives.
pub fn open(place: &Place) -> Result<Arc<dyn Reader>> {
    let candidate = Candidate::new(place)?;
    match FORMATS.iter().find(|format| format.probe(&candidate)) {
        Some(format) => format.open(&candidate),
        None => Err(unknown(&candidate)),
    }
}

fn unknown(candidate: &Candidate) -> Error {
    let why = match &candidate.file {
        Some((byte_len, head)) => {
            let head: String = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("a file of {byte_len} bytes that starts with {head}")
        }
        None => {
            let names: Vec<_> = candidate.files().map(|(name, _)| name).take(3).collect();
            format!("a folder of {} objects such as {}", candidate.objects.len(), names.join(", "))
        }
    };
    Error::UnknownFormat { root: candidate.place.display(), why, known: names() }
}
