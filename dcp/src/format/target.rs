//! What to write, and with which choices.

use crate::error::Result;
use crate::layout::{Layout, Mesh, Placement, Region};
use crate::model::{Fqn, Path, TensorSpec, Value};
use std::sync::Arc;

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
        Self::of(generation, uuid::Uuid::new_v4().as_u128())
    }

    /// The one of this slot that writes this and nothing else: 112 bits of a digest of it.
    pub fn of(generation: u32, identity: u128) -> Self {
        let digits = format!("{identity:032x}");
        Attempt { id: format!("{generation:04}{}", &digits[4..]), generation }
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
    /// What the names of files begin with, in formats that split by size: `model` where it is not given.
    pub stem: Option<String>,
    /// The try at saving a step that it belongs to; `None` makes one of its own.
    pub attempt: Option<Attempt>,
    /// What the name of an attempt that is not given is made from, so that all who write the same choose the same; `None`
    /// draws it.
    pub identity: Option<u128>,
    /// The sharded safetensors layout of PyTorch's HuggingFaceStorageWriter: one file per writer, boxes in the header.
    pub sharded: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions {
            shard_bytes_max: Some(5_000_000_000),
            compress: false,
            file_name: None,
            stem: None,
            attempt: None,
            identity: None,
            sharded: false,
        }
    }
}
