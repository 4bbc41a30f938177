//! Reads the pickle in a `.metadata` file.
//!
//! The objects, with the fields that matter here:
//!
//! ```text
//! Metadata               state_dict_metadata: {fqn: TensorStorageMetadata | BytesStorageMetadata}
//!                        planner_data:        {fqn: (part, ...)} or None
//!                        storage_data:        {MetadataIndex: _StorageInfo}
//!                        storage_meta:        StorageMeta(save_id) or None
//!                        version:             str, from PyTorch 2.9 on
//! TensorStorageMetadata  properties: TensorProperties, size: Size, chunks: [ChunkStorageMetadata]
//! TensorProperties       (dtype, layout, requires_grad, memory_format, pin_memory[, strides from 2.15 on])
//! ChunkStorageMetadata   offsets: Size, sizes: Size
//! MetadataIndex          fqn, index (a hint), offset: Size; without offset for what is no tensor
//! _StorageInfo           relative_path, offset, length[, transform_descriptors from 2.7 on]
//! ```
//!
//! Source: torch/distributed/checkpoint/{metadata,filesystem}.py, PyTorch 2.4 to 2.15.

use crate::error::{Error, Result};
use crate::format::wire::pickle_nodes::{NodeId, Pickle, View};
use crate::format::wire::pickle_read;
use crate::layout::Region;
use crate::model::{DType, Fqn, Path, PathPart, TensorSpec};
use crate::storage::Key;
use indexmap::{IndexMap, IndexSet};
use std::collections::HashMap;

/// The most dims a tensor may have, as in PyTorch and numpy. It bounds everything that walks dims.
const DIMS_MAX: usize = 64;

/// What a `.metadata` file says, entries put together.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) tensors: IndexMap<Fqn, TensorEntry>,
    pub(super) values: IndexMap<Fqn, ValueEntry>,
    /// Names of the files that items are in, relative to the checkpoint; items refer to them by index.
    pub(super) files: IndexSet<Key>,
    /// `save_id` and `version`, where recorded.
    pub(super) attributes: IndexMap<String, String>,
}

impl Metadata {
    /// Every item, of tensors and of values.
    pub(super) fn items(&self) -> impl Iterator<Item = &StoredItem> {
        let chunks = self.tensors.values().flat_map(|tensor| &tensor.chunks);
        chunks
            .filter_map(|(_, item)| item.as_ref())
            .chain(self.values.values().filter_map(|value| value.item.as_ref()))
    }
}

#[derive(Debug)]
pub(super) struct TensorEntry {
    pub(super) spec: TensorSpec,
    pub(super) path: Path,
    /// Boxes, each with its item; `None` where the metadata forgot to say where it is.
    pub(super) chunks: Vec<(Region, Option<StoredItem>)>,
}

#[derive(Debug)]
pub(super) struct ValueEntry {
    pub(super) path: Path,
    pub(super) item: Option<StoredItem>,
}

/// Where one item is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoredItem {
    /// Index into [`Metadata::files`].
    pub(super) file: u32,
    pub(super) byte_offset: u64,
    pub(super) byte_len: u64,
    /// What to undo before the item is an archive, in this order.
    pub(super) transforms: Box<[String]>,
}

/// Reads a metadata file's bytes; `object` names it in errors.
///
/// Errors: [`Error::Malformed`] for anything but such a pickle, for files outside the checkpoint's folder, and for
/// boxes and tensors whose sizes overflow.
pub(super) fn read(bytes: &[u8], object: &str) -> Result<Metadata> {
    let pickle = pickle_read::parse(bytes).map_err(|error| error.of(object))?;
    Source { pickle: &pickle }.metadata().map_err(|why| Error::malformed(object, "checkpoint metadata", why))
}

/// The error says what is wrong.
type Found<T> = Result<T, String>;

/// Where each item is, by name and corner.
type Places<'p> = HashMap<(&'p str, Option<Vec<u64>>), StoredItem>;

struct Source<'p> {
    pickle: &'p Pickle<'p>,
}

impl<'p> Source<'p> {
    fn metadata(&self) -> Found<Metadata> {
        let fields = self.fields(self.pickle.root(), "Metadata")?;
        let mut metadata = Metadata { attributes: self.attributes(fields), ..Metadata::default() };
        let mut places = self.places(self.required(fields, "storage_data")?, &mut metadata.files)?;
        let mut paths = self.paths(self.entry(fields, "planner_data"));
        let entries = self.required(fields, "state_dict_metadata")?;
        let entries = self.dict(entries, "state_dict_metadata")?;
        for &[name, entry] in entries {
            let name = self.pickle.str(name).ok_or("a name in state_dict_metadata is no string")?;
            let (fqn, path) = (Fqn::new(name), paths.remove(name).unwrap_or_default());
            if self.class(entry) == Some("BytesStorageMetadata") {
                let item = places.remove(&(name, None));
                metadata.tensors.shift_remove(&fqn);
                metadata.values.insert(fqn, ValueEntry { path, item });
            } else {
                let (spec, regions) = self.tensor(entry).map_err(|why| format!("`{name}`: {why}"))?;
                let chunks = regions.into_iter().map(|region| {
                    let item = places.get(&(name, Some(region.start.clone()))).cloned();
                    (region, item)
                });
                let chunks = chunks.collect();
                metadata.values.shift_remove(&fqn);
                metadata.tensors.insert(fqn, TensorEntry { spec, path, chunks });
            }
        }
        Ok(metadata)
    }

    fn attributes(&self, fields: &[[NodeId; 2]]) -> IndexMap<String, String> {
        let mut attributes = IndexMap::new();
        let mut add = |name: &str, id: Option<NodeId>| {
            if let Some(text) = id.and_then(|id| self.pickle.str(id)) {
                attributes.insert(name.to_owned(), text.to_owned());
            }
        };
        // Checkpoints without `storage_meta` are legal, and nothing depends on what is in it.
        let storage_meta = self.entry(fields, "storage_meta").and_then(|id| self.pickle.object(id)?.state);
        if let Some(state) = storage_meta.and_then(|id| self.pickle.dict(id)) {
            add("save_id", self.entry(state, "save_id"));
        }
        add("version", self.entry(fields, "version"));
        attributes
    }

    fn places(&self, storage_data: NodeId, files: &mut IndexSet<Key>) -> Found<Places<'p>> {
        let entries = self.dict(storage_data, "storage_data")?;
        let mut places = HashMap::with_capacity(entries.len());
        // The same text is in the pickle many times.
        let mut known: HashMap<&str, u32> = HashMap::new();
        for &[index, info] in entries {
            let fields = self.fields(index, "MetadataIndex")?;
            let fqn = self.required(fields, "fqn")?;
            let fqn = self.pickle.str(fqn).ok_or("the `fqn` of a MetadataIndex is no string")?;
            let item = self.place(fields, info, files, &mut known);
            let (corner, item) = item.map_err(|why| format!("where `{fqn}` is stored: {why}"))?;
            places.insert((fqn, corner), item);
        }
        Ok(places)
    }

    fn place(
        &self,
        index: &[[NodeId; 2]],
        info: NodeId,
        files: &mut IndexSet<Key>,
        known: &mut HashMap<&'p str, u32>,
    ) -> Found<(Option<Vec<u64>>, StoredItem)> {
        let corner = match self.entry(index, "offset") {
            Some(id) if self.pickle.view(id) != View::None => Some(self.shape(id, "its `offset`")?),
            _ => None,
        };
        let fields = self.fields(info, "_StorageInfo")?;
        let name = self.required(fields, "relative_path")?;
        let name = self.pickle.str(name).ok_or("its `relative_path` is no string")?;
        let file = match known.get(name) {
            Some(&file) => file,
            None => {
                let key = Key::new(name).map_err(|error| error.to_string())?;
                let file = files.insert_full(key).0 as u32;
                known.insert(name, file);
                file
            }
        };
        let int = |name: &str| {
            let id = self.required(fields, name)?;
            self.pickle.u64(id).ok_or_else(|| format!("its `{name}` is no integer from 0 on"))
        };
        let (byte_offset, byte_len) = (int("offset")?, int("length")?);
        // Both are under 2^63, so their sum fits.
        let transforms = match self.entry(fields, "transform_descriptors") {
            Some(id) if self.pickle.view(id) != View::None => {
                let texts = self.pickle.sequence(id).into_iter().flatten();
                let texts: Option<Box<[String]>> =
                    texts.map(|&id| self.pickle.str(id).map(str::to_owned)).collect();
                texts
                    .filter(|_| self.pickle.sequence(id).is_some())
                    .ok_or("its `transform_descriptors` is no list of strings")?
            }
            _ => Box::default(),
        };
        Ok((corner, StoredItem { file, byte_offset, byte_len, transforms }))
    }

    /// How to nest the names. What is no path of keys and indices is left out: the name then stands for itself.
    fn paths(&self, planner_data: Option<NodeId>) -> HashMap<&'p str, Path> {
        let entries = planner_data.and_then(|id| self.pickle.dict(id)).unwrap_or_default();
        let path = |id: NodeId| -> Option<Path> {
            let parts = self.pickle.sequence(id)?.iter().map(|&part| match self.pickle.view(part) {
                View::Str(key) => Some(PathPart::Key(key.to_owned())),
                View::Int(index) => Some(PathPart::Index(u64::try_from(index).ok()?)),
                _ => None,
            });
            parts.collect()
        };
        entries.iter().filter_map(|&[name, parts]| Some((self.pickle.str(name)?, path(parts)?))).collect()
    }

    fn tensor(&self, entry: NodeId) -> Found<(TensorSpec, Vec<Region>)> {
        let fields = self.fields(entry, "TensorStorageMetadata")?;
        let dtype = self.dtype(self.required(fields, "properties")?)?;
        let spec = TensorSpec::new(dtype, self.shape(self.required(fields, "size")?, "its `size`")?);
        if spec.bytes().is_none() {
            return Err(format!("its shape {:?} is over 2^64 bytes of {dtype}", spec.shape));
        }
        let chunks = self.required(fields, "chunks")?;
        let chunks = self.pickle.sequence(chunks).ok_or("its `chunks` is no list")?;
        let mut regions = Vec::with_capacity(chunks.len());
        for &chunk in chunks {
            let fields = self.fields(chunk, "ChunkStorageMetadata")?;
            let start = self.shape(self.required(fields, "offsets")?, "the `offsets` of a chunk")?;
            let extent = self.shape(self.required(fields, "sizes")?, "the `sizes` of a chunk")?;
            if start.len() != spec.shape.len() || extent.len() != spec.shape.len() {
                return Err(format!(
                    "a chunk has offsets {start:?} and sizes {extent:?} in a tensor of shape {:?}",
                    spec.shape
                ));
            }
            // Each is under 2^63, so ends fit.
            regions.push(Region::new(start, extent));
        }
        Ok((spec, regions))
    }

    fn dtype(&self, properties: NodeId) -> Found<DType> {
        let object = self.object(properties, "TensorProperties")?;
        let state = object.state.ok_or("its TensorProperties has no state")?;
        let dtype = match self.pickle.view(state) {
            View::Tuple(items) => items.first().copied(),
            View::Dict(pairs) => self.entry(pairs, "dtype"),
            _ => None,
        };
        match dtype.and_then(|id| self.pickle.global(id)) {
            Some(("torch", name)) => {
                DType::from_torch_name(name).ok_or_else(|| format!("element type torch.{name} is not known"))
            }
            _ => Err("its TensorProperties does not start with a torch.dtype".to_owned()),
        }
    }

    fn shape(&self, id: NodeId, what: &str) -> Found<Vec<u64>> {
        let shape = self.pickle.shape(id).ok_or_else(|| format!("{what} is no torch.Size"))?;
        match shape.len() {
            0..=DIMS_MAX => Ok(shape),
            dims => Err(format!("{what} has {dims} dims, over the limit of {DIMS_MAX}")),
        }
    }

    /// Name of an object's class, where it is one of this format's.
    fn class(&self, id: NodeId) -> Option<&'p str> {
        match self.pickle.global(self.pickle.object(id)?.callee)? {
            (module, name) if module.starts_with("torch.distributed.checkpoint.") => Some(name),
            _ => None,
        }
    }

    fn object(&self, id: NodeId, class: &str) -> Found<crate::format::wire::pickle_nodes::Object<'p>> {
        match self.pickle.object(id) {
            Some(object) if self.class(id) == Some(class) => Ok(object),
            _ => Err(format!("{} is found where a {class} is expected", self.kind(id))),
        }
    }

    /// The fields of an object of this class.
    fn fields(&self, id: NodeId, class: &str) -> Found<&'p [[NodeId; 2]]> {
        match self.object(id, class)?.state {
            Some(state) => self.dict(state, "an object's state"),
            None => Ok(&[]),
        }
    }

    fn dict(&self, id: NodeId, what: &str) -> Found<&'p [[NodeId; 2]]> {
        self.pickle.dict(id).ok_or_else(|| format!("{what} is {}, not a dict", self.kind(id)))
    }

    fn entry(&self, pairs: &[[NodeId; 2]], name: &str) -> Option<NodeId> {
        self.pickle.entry(pairs, name)
    }

    fn required(&self, pairs: &[[NodeId; 2]], name: &str) -> Found<NodeId> {
        self.entry(pairs, name).ok_or_else(|| format!("there is no `{name}`"))
    }

    /// What a node is, for an error.
    fn kind(&self, id: NodeId) -> String {
        match self.pickle.view(id) {
            View::Object(object) => match self.pickle.global(object.callee) {
                Some((module, name)) => format!("an object of {module}.{name}"),
                None => "an object of unknown class".to_owned(),
            },
            View::Global { module, name } => format!("{module}.{name}"),
            View::Dict(_) => "a dict".to_owned(),
            View::List(_) | View::Tuple(_) => "a sequence".to_owned(),
            View::Str(text) => format!("the string `{}`", text.chars().take(40).collect::<String>()),
            View::None => "None".to_owned(),
            _ => "a value".to_owned(),
        }
    }
}
