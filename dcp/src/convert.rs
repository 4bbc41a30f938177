//! Conversion and resharding: a source checkpoint, a choice of tensors, types and layout, a destination.

mod conversion;
mod digest;
mod job;
mod task;
#[cfg(test)]
mod tests;

pub use conversion::Conversion;
pub use task::Task;

use crate::copy::{CopyOptions, CopyStats};
use crate::error::{Error, Result};
use crate::format::{Format, Pieces, Reader, Target, TargetTensor, TargetValue, WriteOptions};
use crate::layout::{Gap, Mesh, Placement, Region, cover};
use crate::model::{Catalog, ChunkTable, DType, Fqn, FqnFilter, Severity, Tensor, TensorSpec, can_cast};
use crate::plan::{
    Boxes, Degrees, ExpertDegrees, ExpertTensor, Revealed, choose_owners, cut_experts, mesh_of, place,
    reveal, stage_of,
};
use crate::storage::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Objects become visible after at most so many bytes, or one by one where they are larger: what a death loses.
const PUBLISH_BYTES_MAX: u64 = 16 << 30;

/// How the tensors of the destination are cut and among whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharding {
    /// As the source: same boxes, same writers.
    Keep,
    /// Every tensor whole, one writer.
    Whole,
    /// For these parallel degrees.
    Degrees(Degrees),
}

/// Expert parallelism, of [`Sharding::Degrees`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpertCut {
    /// The degrees.
    pub degrees: ExpertDegrees,
    /// The tensors that have one part per expert along their first dim.
    pub tensors: BTreeSet<Fqn>,
}

/// What to make of a source.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Which tensors and values to take.
    pub filter: FqnFilter,
    /// Convert every floating-point tensor to this type.
    pub dtype: Option<DType>,
    /// Except these.
    pub keep_dtype: BTreeSet<Fqn>,
    /// The dim that tensor parallelism cuts, of each tensor that it cuts, where the model is known; `None` leaves it to
    /// what the source's boxes reveal.
    pub tp_dims: Option<BTreeMap<Fqn, u32>>,
    /// How to cut it.
    pub sharding: Sharding,
    /// How to cut experts; `None` cuts them as other tensors.
    pub experts: Option<ExpertCut>,
    /// Leave values out instead of refusing, in formats that hold tensors only; the report lists them.
    pub drop_values: bool,
    /// Choices of the destination's format.
    pub write: WriteOptions,
    /// Memory and threads.
    pub copy: CopyOptions,
    /// Which of several processes this is that do the same conversion together.
    pub task: Task,
    /// What else the bytes of the source depend on, apart from its objects: a model, a seed. Part of what tells this
    /// conversion from another.
    pub made_of: String,
    /// Small files, by name, that are put into the destination's folder before it is a checkpoint.
    pub beside: Vec<(String, Vec<u8>)>,
    /// Objects are made visible, where a later run finds them, after at most this many bytes, or one by one where they
    /// are larger. Sources are read once per such batch.
    pub publish_bytes_max: u64,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        ConvertOptions {
            filter: FqnFilter::default(),
            dtype: None,
            keep_dtype: BTreeSet::new(),
            tp_dims: None,
            sharding: Sharding::Keep,
            experts: None,
            drop_values: false,
            write: WriteOptions::default(),
            copy: CopyOptions::default(),
            task: Task::ALONE,
            made_of: String::new(),
            beside: Vec::new(),
            publish_bytes_max: PUBLISH_BYTES_MAX,
        }
    }
}

/// How a task's part of a conversion ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It has not begun.
    Planned,
    /// This task found everything there and made the checkpoint exist. Of two that finish at the same moment both may
    /// say so.
    Committed,
    /// The checkpoint exists; another task was first.
    Found,
    /// The task had nothing to do: there are fewer objects than tasks.
    Idle,
    /// The task's share is there; what others have to write is not.
    Incomplete {
        /// Objects that are not there, or whose checksums are not kept yet.
        missing: usize,
        /// The name of the first.
        first: String,
    },
}

/// What a conversion did, or one task of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConvertReport {
    /// Tensors written.
    pub tensors: usize,
    /// Values written.
    pub values: usize,
    /// Data objects written.
    pub objects: usize,
    /// Bytes of tensor elements, as written.
    pub tensor_bytes: u64,
    /// Which task this was.
    pub task: Task,
    /// Data objects that this task has to see to.
    pub share_objects: usize,
    /// Bytes of tensor elements in these.
    pub share_bytes: u64,
    /// Those of them that were there already, by an earlier run or another process.
    pub resumed_objects: usize,
    /// Bytes of tensor elements in these.
    pub resumed_bytes: u64,
    /// How it ended.
    pub ended: Ended,
    /// Bytes read, written, moved by the kernel.
    pub stats: CopyStats,
    /// Names that the filter, or `drop_values`, left out.
    pub left_out: Vec<String>,
    /// What was assumed where the source does not say.
    pub assumptions: Vec<String>,
}

/// Plans a conversion: reads values, lays the destination out, checks that the source is complete, that the
/// destination is free or what this conversion began to make, and that it fits. Writes nothing.
///
/// Errors: [`Error::AlreadyExists`] for a destination with other objects in it; [`Error::OtherJob`] for one that another
/// conversion has begun to make; [`Error::BadTensor`] for a tensor whose
/// chunks do not tile it; [`Error::Inexpressible`] for what the format cannot hold; [`Error::NoSpace`].
pub fn plan<'a>(
    reader: &'a dyn Reader,
    place: &Place,
    format: &'a dyn Format,
    options: &ConvertOptions,
) -> Result<Conversion<'a>> {
    let catalog = reader.catalog();
    check_sound(reader)?;
    let mut left_out = Vec::new();
    let mut chosen = Vec::new();
    for (fqn, tensor) in &catalog.tensors {
        match options.filter.matches(fqn.as_str()) {
            true => {
                check_complete(fqn.as_str(), tensor)?;
                chosen.push((fqn, tensor));
            }
            false => left_out.push(fqn.as_str().to_owned()),
        }
    }
    let mut sharder = Sharder::new(catalog, &chosen, options)?;
    let mut target = Target {
        mesh: sharder.mesh.clone(),
        writers: sharder.writers,
        step: catalog.step,
        tensors: Vec::with_capacity(chosen.len()),
        values: Vec::new(),
    };
    for (index, (fqn, tensor)) in chosen.iter().enumerate() {
        let is_cast = tensor.spec.dtype.is_float() && !options.keep_dtype.contains(*fqn);
        let dtype = options.dtype.filter(|_| is_cast).unwrap_or(tensor.spec.dtype);
        if !can_cast(tensor.spec.dtype, dtype) {
            let message = format!(
                "{} cannot be converted to {dtype}; use float64, float32, float16 or bfloat16",
                tensor.spec.dtype
            );
            return Err(Error::BadTensor { fqn: fqn.as_str().to_owned(), message });
        }
        let spec = TensorSpec::new(dtype, tensor.spec.shape.clone());
        let pieces = sharder.pieces(index, tensor)?;
        target.tensors.push(TargetTensor { fqn: (*fqn).clone(), spec, path: tensor.path.clone(), pieces });
    }
    for (fqn, entry) in &catalog.values {
        if !options.filter.matches(fqn.as_str()) || options.drop_values {
            left_out.push(fqn.as_str().to_owned());
            continue;
        }
        let writer =
            entry.stored.and_then(|(object, ..)| catalog.objects[object as usize].writer).unwrap_or(0);
        target.values.push(TargetValue {
            fqn: fqn.clone(),
            path: entry.path.clone(),
            value: reader.value(fqn)?,
            archive: reader.value_archive(fqn)?,
            writer: writer.min(target.writers.saturating_sub(1)),
        });
    }
    Conversion::new(reader, target, (place, format), options, (left_out, sharder.assumptions))
}

/// A source in which opening found damage is not converted: what is missing would silently be left out.
fn check_sound(reader: &dyn Reader) -> Result<()> {
    let damage: Vec<_> =
        reader.catalog().findings.iter().filter(|finding| finding.severity == Severity::Damage).collect();
    match damage.first() {
        None => Ok(()),
        Some(first) => Err(Error::Unsound {
            root: reader.place().display(),
            count: damage.len(),
            first: first.message.clone(),
        }),
    }
}

/// Checks that a tensor's chunks tile it.
///
/// Errors: [`Error::BadTensor`] that names the first gap or overlap.
pub fn check_complete(fqn: &str, tensor: &Tensor) -> Result<()> {
    let ChunkTable::Listed(chunks) = &tensor.chunks else { return Ok(()) };
    let regions: Vec<Region> = chunks.iter().map(|chunk| chunk.region.clone()).collect();
    let shape = &tensor.spec.shape;
    let message = match cover(shape, &regions) {
        Ok(()) => return Ok(()),
        Err(Gap::OutOfBounds { index }) => {
            format!("chunk {:?} reaches outside shape {shape:?}", regions[index])
        }
        Err(Gap::Overlap { first, second }) => {
            format!("chunks {:?} and {:?} overlap", regions[first], regions[second])
        }
        Err(Gap::Missing { covered, total, at }) => format!(
            "its chunks cover {covered} of {total} elements of shape {shape:?}; the first gap is at {at:?}. \
             A rank's file is missing or the save did not finish"
        ),
    };
    Err(Error::BadTensor { fqn: fqn.to_owned(), message })
}

/// Cuts tensors for the destination.
struct Sharder {
    mesh: Option<Arc<Mesh>>,
    writers: u32,
    assumptions: Vec<String>,
    how: How,
}

enum How {
    /// The source's chunks; `writers[object]` is the writer of a source object.
    Listed {
        writers: Vec<u32>,
    },
    Whole,
    /// One for each chosen tensor.
    Placed(Vec<Pieces>),
}

impl Sharder {
    fn new(catalog: &Catalog, chosen: &[(&Fqn, &Tensor)], options: &ConvertOptions) -> Result<Self> {
        match options.sharding {
            Sharding::Whole => {
                Ok(Sharder { mesh: None, writers: 1, assumptions: Vec::new(), how: How::Whole })
            }
            Sharding::Degrees(degrees) => Self::for_degrees(catalog, chosen, degrees, options),
            Sharding::Keep => match &catalog.mesh {
                Some(mesh) if chosen.iter().all(|(_, tensor)| tensor.placements.is_some()) => {
                    let placements =
                        chosen.iter().map(|(_, tensor)| tensor.placements.clone().unwrap_or_default());
                    Ok(Self::placed(mesh.clone(), chosen, placements, Vec::new()))
                }
                _ => Ok(Self::listed(catalog)),
            },
        }
    }

    fn listed(catalog: &Catalog) -> Self {
        // A format that names no writers gets one per object, so that objects stay apart.
        let mut known = BTreeMap::new();
        let writers: Vec<u32> = (0..)
            .zip(&catalog.objects)
            .map(|(index, object)| match object.writer {
                Some(writer) => writer,
                None => {
                    let next = known.len() as u32;
                    *known.entry(index).or_insert(next)
                }
            })
            .collect();
        let count = writers.iter().max().map_or(1, |last| last + 1);
        Sharder { mesh: None, writers: count, assumptions: Vec::new(), how: How::Listed { writers } }
    }

    fn for_degrees(
        catalog: &Catalog,
        chosen: &[(&Fqn, &Tensor)],
        degrees: Degrees,
        options: &ConvertOptions,
    ) -> Result<Self> {
        let tp_dims = options.tp_dims.as_ref();
        let mesh = Arc::new(mesh_of(degrees)?);
        let of_model = |dims: &BTreeMap<Fqn, u32>| -> Vec<Revealed> {
            let dim = |fqn: &Fqn| dims.get(fqn).map_or(Revealed::NoTp, |&dim| Revealed::TpDim(dim));
            chosen.iter().map(|(fqn, _)| dim(fqn)).collect()
        };
        let revealed = tp_dims.map(|dims| Ok(of_model(dims))).unwrap_or_else(|| revealed(catalog, chosen))?;
        let layers = chosen
            .iter()
            .filter_map(|(fqn, _)| crate::plan::layer_of(fqn.as_str()))
            .max()
            .map_or(0, |l| l + 1);
        let assumptions = assumptions(degrees, layers, &revealed, chosen, tp_dims.is_some());
        let placements = chosen.iter().zip(&revealed).map(|((fqn, tensor), &revealed)| {
            let stage = stage_of(fqn.as_str(), layers, degrees.pp);
            place(degrees, tensor.spec.shape.len(), stage, revealed).to_vec()
        });
        let mut sharder = Self::placed(mesh, chosen, placements, assumptions);
        if let (Some(experts), How::Placed(placed)) = (&options.experts, &mut sharder.how) {
            for (index, boxes) in boxes_of_experts(experts, degrees, layers, chosen, &revealed)? {
                placed[index] = Pieces::Listed(boxes);
            }
        }
        Ok(sharder)
    }

    fn placed(
        mesh: Arc<Mesh>,
        chosen: &[(&Fqn, &Tensor)],
        placements: impl Iterator<Item = Vec<Placement>>,
        assumptions: Vec<String>,
    ) -> Self {
        let bytes = chosen.iter().map(|(_, tensor)| tensor.spec.bytes().unwrap_or(0));
        let tensors: Vec<_> = placements.zip(bytes).collect();
        let owners = choose_owners(&mesh, &tensors);
        let pieces = |((placements, _), owner)| Pieces::Placed { placements, owner };
        let placed = tensors.into_iter().zip(owners).map(pieces).collect();
        Sharder { writers: mesh.ranks(), mesh: Some(mesh), assumptions, how: How::Placed(placed) }
    }

    fn pieces(&mut self, index: usize, tensor: &Tensor) -> Result<Pieces> {
        Ok(match &mut self.how {
            How::Whole => Pieces::Listed(vec![(0, Region::whole(&tensor.spec.shape))]),
            How::Placed(placed) => std::mem::replace(&mut placed[index], Pieces::Listed(Vec::new())),
            How::Listed { writers } => Pieces::Listed(
                tensor
                    .chunks
                    .all(&tensor.spec.shape)?
                    .into_iter()
                    .map(|chunk| (writers[chunk.object as usize], chunk.region))
                    .collect(),
            ),
        })
    }
}

/// Indices of the chosen tensors that have a part per expert, each with its boxes and the ranks that write them.
fn boxes_of_experts(
    experts: &ExpertCut,
    degrees: Degrees,
    layers: u32,
    chosen: &[(&Fqn, &Tensor)],
    revealed: &[Revealed],
) -> Result<Vec<(usize, Boxes)>> {
    let (mut indices, mut tensors) = (Vec::new(), Vec::new());
    for (index, (fqn, tensor)) in chosen.iter().enumerate() {
        // A scalar of the optimizer has no part per expert.
        if experts.tensors.contains(*fqn) && !tensor.spec.shape.is_empty() {
            let tp_dim = match revealed[index] {
                Revealed::TpDim(dim) => Some(dim),
                Revealed::NoTp => None,
            };
            let stage = stage_of(fqn.as_str(), layers, degrees.pp);
            let byte_len = tensor.spec.bytes().unwrap_or(0);
            indices.push(index);
            tensors.push(ExpertTensor { shape: &tensor.spec.shape, tp_dim, stage, byte_len });
        }
    }
    Ok(indices.into_iter().zip(cut_experts(degrees, experts.degrees, &tensors)?).collect())
}

/// Tensor-parallel dims: from the placements where the source records a `tp` axis, else from its boxes.
fn revealed(catalog: &Catalog, chosen: &[(&Fqn, &Tensor)]) -> Result<Vec<Revealed>> {
    if let Some(tp) = catalog.mesh.as_ref().and_then(|mesh| mesh.axis("tp"))
        && chosen.iter().all(|(_, tensor)| tensor.placements.is_some())
    {
        let dim_of = |tensor: &Tensor| match tensor.placements.as_ref().map(|placements| placements[tp]) {
            Some(Placement::Shard { dim } | Placement::StridedShard { dim, .. }) => Revealed::TpDim(dim),
            _ => Revealed::NoTp,
        };
        // With one rank along `tp` the axis says nothing; the boxes may.
        if catalog.mesh.as_ref().is_some_and(|mesh| mesh.axes()[tp].size > 1) {
            return Ok(chosen.iter().map(|(_, tensor)| dim_of(tensor)).collect());
        }
    }
    let boxes = chosen
        .iter()
        .map(|(_, tensor)| {
            let chunks = tensor.chunks.all(&tensor.spec.shape)?;
            Ok((&tensor.spec.shape[..], chunks.into_iter().map(|chunk| chunk.region).collect()))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(reveal(&boxes))
}

fn assumptions(
    degrees: Degrees,
    layers: u32,
    revealed: &[Revealed],
    chosen: &[(&Fqn, &Tensor)],
    is_known: bool,
) -> Vec<String> {
    let mut said = Vec::new();
    if !is_known {
        said.push("FSDP shards dim 0 of every tensor (no model table is used)".to_owned());
    }
    let with_tp = revealed.iter().filter(|revealed| matches!(revealed, Revealed::TpDim(_))).count();
    if degrees.tp > 1 && with_tp == 0 && !is_known {
        said.push(format!(
            "tensor parallelism: the source's boxes reveal no tensor-parallel dim, so all {} ranks along `tp` share whole tensors",
            degrees.tp
        ));
    } else if degrees.tp > 1 && !is_known {
        let rest = chosen.len() - with_tp;
        said.push(format!("tensor parallelism: {with_tp} tensors keep the dim that the source's boxes reveal, {rest} are replicated"));
    }
    if degrees.pp > 1 {
        said.push(format!(
            "pipeline stages: {layers} layers in {} runs of consecutive layers; names without a layer number go to the first stage, norm and output to the last",
            degrees.pp
        ));
    }
    said
}
