//! Puts the headers of a checkpoint's files together to its catalog. Pure.

use super::boxes::{Corners, SHARDING_KEY};
use super::header::{Header, HeaderTensor};
use super::index::Index;
use super::names;
use crate::error::{Error, Result};
use crate::layout::Region;
use crate::model::{
    Catalog, Chunk, ChunkTable, DType, Finding, Fqn, ObjectInfo, Path, Severity, Tensor, TensorSpec,
};
use crate::storage::Key;
use indexmap::IndexMap;

/// One file whose header could be read.
#[derive(Debug)]
pub(super) struct FileHeader {
    /// Its name below the checkpoint's folder.
    pub(super) name: Key,
    /// Its key below the store's root.
    pub(super) key: Key,
    /// Its length.
    pub(super) byte_len: u64,
    pub(super) header: Header,
    /// Where its boxes begin; `None` for a file of whole tensors.
    pub(super) corners: Option<Corners>,
}

/// The catalog of these files. `consolidated` says that PyTorch made them from shards that lie beside them.
///
/// Errors: [`Error::BadTensor`] for a tensor of which files contradict each other or themselves.
pub(super) fn build(files: &[FileHeader], index: Option<&Index>, consolidated: bool) -> Result<Catalog> {
    let mut catalog = Catalog::new(super::NAME);
    let mut growing = IndexMap::new();
    for file in files {
        catalog.findings.extend(length_finding(file));
        if consolidated && file.header.metadata.is_empty() {
            catalog.findings.extend(scalar_findings(file));
        }
        catalog.findings.extend(add_tensors(&mut growing, files, catalog.objects.len(), index)?);
        catalog.objects.push(ObjectInfo {
            key: file.key.clone(),
            byte_len: file.header.end,
            exact: true,
            writer: names::writer(file.key.name()),
        });
    }
    match index {
        Some(index) => catalog.findings.extend(absent_tensors(files, index)),
        None if files.iter().any(|file| file.corners.is_some()) => {
            catalog.findings.push(completeness_finding())
        }
        None => {}
    }
    catalog.attributes = attributes(files, index);
    for (fqn, growing) in growing {
        let tensor = growing.finish(&fqn)?;
        catalog.tensors.insert(fqn, tensor);
    }
    Ok(catalog)
}

/// Adds the tensors of file `object` that belong to the checkpoint, and reports those that the index does not expect.
fn add_tensors(
    growing: &mut IndexMap<Fqn, Growing>,
    files: &[FileHeader],
    object: usize,
    index: Option<&Index>,
) -> Result<Vec<Finding>> {
    let file = &files[object];
    let (mut unnamed, mut elsewhere) = (Vec::new(), Vec::new());
    for (fqn, tensor) in &file.header.tensors {
        match index.map(|index| index.weight_map.get(fqn.as_str())) {
            Some(Some(name)) if *name != file.name => {
                elsewhere.push(fqn);
                continue;
            }
            Some(None) if growing.contains_key(fqn) => {
                elsewhere.push(fqn);
                continue;
            }
            Some(None) => unnamed.push(fqn),
            Some(Some(_)) | None => {}
        }
        let start = match &file.corners {
            Some(corners) => corners.start(fqn, &tensor.spec.shape),
            None => Ok(vec![0; tensor.spec.shape.len()]),
        };
        let start = start.map_err(|why| bad(fqn, format!("in `{}`: {why}", file.name)))?;
        let region = Region::new(start, tensor.spec.shape.as_slice());
        let known = growing.entry(fqn.clone()).or_insert_with(|| Growing::new(&tensor.spec));
        let first = known.chunks.first().map_or(object, |first| first.object as usize);
        known.add(tensor, region, object as u32, file.corners.is_some()).map_err(|why| {
            bad(fqn, format!("`{}` and `{}` contradict each other: {why}", files[first].name, file.name))
        })?;
    }
    let told = |fqns: &[&Fqn], what: &str| {
        let first = fqns.first()?;
        let message = format!("{what}: {} of the tensors in this file, such as `{first}`", fqns.len());
        Some(finding(Severity::Note, None, file, message))
    };
    let unnamed = told(&unnamed, "the index does not name, but they are read");
    Ok(unnamed.into_iter().chain(told(&elsewhere, "left out, because another file has them")).collect())
}

/// A tensor as far as the files seen until now tell.
struct Growing {
    dtype: DType,
    /// The largest end of a box in each dim.
    shape: Vec<u64>,
    /// Whether every box comes from a file that records corners.
    boxes: bool,
    chunks: Vec<Chunk>,
}

impl Growing {
    fn new(spec: &TensorSpec) -> Self {
        Growing { dtype: spec.dtype, shape: vec![0; spec.shape.len()], boxes: true, chunks: Vec::new() }
    }

    /// Adds one file's part. The error says how it contradicts those before.
    fn add(&mut self, tensor: &HeaderTensor, region: Region, object: u32, boxes: bool) -> Result<(), String> {
        let found = &tensor.spec;
        if self.dtype != found.dtype {
            return Err(format!("its elements are {} in one and {} in the other", self.dtype, found.dtype));
        }
        if self.shape.len() != region.rank() {
            return Err(format!(
                "it has {} dims in one and {} in the other",
                self.shape.len(),
                region.rank()
            ));
        }
        self.boxes &= boxes;
        if !self.boxes && !self.chunks.is_empty() {
            return Err("each holds a tensor of this name; open one file instead of the folder".to_owned());
        }
        for (dim, end) in self.shape.iter_mut().enumerate() {
            *end = (*end).max(region.end(dim));
        }
        let (byte_offset, byte_len) = (tensor.bytes.start, tensor.bytes.end - tensor.bytes.start);
        self.chunks.push(Chunk { region, object, byte_offset, byte_len });
        Ok(())
    }

    fn finish(self, fqn: &Fqn) -> Result<Tensor> {
        let spec = TensorSpec::new(self.dtype, self.shape);
        if spec.bytes().is_none() {
            let message = format!(
                "its boxes span shape {:?}, whose {} elements are no whole number of bytes under 2^64",
                spec.shape, spec.dtype
            );
            return Err(bad(fqn, message));
        }
        Ok(Tensor { spec, path: Path::new(), chunks: ChunkTable::Listed(self.chunks), placements: None })
    }
}

fn bad(fqn: &Fqn, message: String) -> Error {
    Error::BadTensor { fqn: fqn.to_string(), message }
}

fn finding(severity: Severity, fqn: Option<&Fqn>, file: &FileHeader, message: String) -> Finding {
    Finding { severity, fqn: fqn.cloned(), object: Some(file.key.clone()), message }
}

/// A file whose length is not what its header says.
fn length_finding(file: &FileHeader) -> Option<Finding> {
    let (found, expected) = (file.byte_len, file.header.end);
    let message = if found < expected {
        let cut = file.header.tensors.values().filter(|tensor| tensor.bytes.end > found).count();
        format!("it has {found} bytes, but its header speaks of {expected}; tensors cut off: {cut}")
    } else if found > expected {
        format!("it has {found} bytes, but its header speaks of {expected}; other readers will refuse it")
    } else {
        return None;
    };
    Some(finding(Severity::Damage, None, file, message))
}

/// PyTorch's consolidation writes 0-d tensors as zeros (2.9 to 2.15), in files without text entries.
fn scalar_findings(file: &FileHeader) -> impl Iterator<Item = Finding> {
    let scalars = file.header.tensors.iter().filter(|(_, tensor)| tensor.spec.shape.is_empty());
    scalars.map(move |(fqn, _)| {
        let message = format!(
            "PyTorch writes a 0-d tensor as zero when it consolidates files; the shards in `{}` have its value",
            names::SHARDED_FOLDER
        );
        finding(Severity::Note, Some(fqn), file, message)
    })
}

/// Tensors that the index names in files that could be read, but that are not there.
fn absent_tensors(files: &[FileHeader], index: &Index) -> Vec<Finding> {
    let by_name: IndexMap<&Key, &FileHeader> = files.iter().map(|file| (&file.name, file)).collect();
    let named = index.weight_map.iter().filter_map(|(name, file)| Some((name, by_name.get(file)?)));
    let absent = named.filter(|(name, file)| !file.header.tensors.contains_key(name.as_str()));
    let told = absent.map(|(name, file)| {
        let message = "the index names this tensor in the file, but it is not there".to_owned();
        finding(Severity::Damage, Some(&Fqn::new(name.as_str())), file, message)
    });
    told.collect()
}

fn completeness_finding() -> Finding {
    let message = "files of boxes do not record the tensors' shapes: each is taken to end where its last box ends, \
        so a missing last file cannot be noticed";
    Finding { severity: Severity::Note, fqn: None, object: None, message: message.to_owned() }
}

/// What the index says of the whole, and the text entries that all files agree on.
fn attributes(files: &[FileHeader], index: Option<&Index>) -> IndexMap<String, String> {
    let mut attributes = index.map(|index| index.metadata.clone()).unwrap_or_default();
    let Some((first, others)) = files.split_first() else { return attributes };
    for (key, text) in first.header.metadata.iter().filter(|(key, _)| *key != SHARDING_KEY) {
        if others.iter().all(|other| other.header.metadata.get(key) == Some(text)) {
            attributes.insert(key.clone(), text.clone());
        }
    }
    attributes
}
