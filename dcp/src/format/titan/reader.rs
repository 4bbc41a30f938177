//! An open checkpoint.

use super::blocks::CheckedBox;
use super::frames::{FrameBox, FrameSource};
use super::index::{Index, TensorChunks};
use super::manifest::{self, MANIFEST_BYTES_MAX};
use super::part::{Expected, PART_BYTES_MAX, Part};
use super::recent::Recent;
use super::table::{Boxes, Row};
use super::{FORMAT_NAME, names, value, verify};
use crate::error::{Error, Result};
use crate::format::open_objects::OpenObjects;
use crate::format::{Candidate, Elements, Reader};
use crate::model::{
    Catalog, Chunk, ChunkTable, Finding, Fqn, ObjectInfo, Severity, Tensor, Value, ValueEntry,
};
use crate::storage::{Key, ObjectMeta, Place};
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

/// A checkpoint whose manifest has been read. Part records are read when first needed.
#[derive(Debug)]
pub(crate) struct TitanReader {
    place: Place,
    catalog: Catalog,
    index: Arc<Index>,
    /// By writer.
    parts: Box<[OnceLock<Arc<Part>>]>,
    recent: Arc<Recent>,
    open_objects: OpenObjects,
}

/// Reads the newest manifest of a folder.
///
/// Errors: [`Error::Malformed`] where it marks an abandoned slot; see [`manifest::decode`].
pub(crate) fn open(candidate: &Candidate) -> Result<TitanReader> {
    let place = &candidate.place;
    let newest = candidate.files().filter_map(|(name, _)| names::generation(name)).max();
    if let Some(generation) = newest {
        let key = place.key.join(&names::manifest(generation))?;
        let object = place.store.display(&key);
        let bytes = place.store.get(&key, MANIFEST_BYTES_MAX)?;
        let Some(parsed) = manifest::decode(&object, &bytes)? else {
            return Err(Error::Abandoned { root: place.display() });
        };
        if parsed.head.generation != generation {
            let why = format!("its name says generation {generation}, it says {}", parsed.head.generation);
            return Err(Error::malformed(object, "titan manifest", why));
        }
        let index = Arc::new(Index::new(object, parsed)?);
        let mut catalog = catalog(&index, &place.key)?;
        note_extras(candidate, &mut catalog);
        let parts = index.writers.iter().map(|_| OnceLock::new()).collect();
        let (recent, open_objects) = (Arc::default(), OpenObjects::default());
        return Ok(TitanReader { place: place.clone(), catalog, index, parts, recent, open_objects });
    }
    Err(Error::NothingThere { root: place.display() })
}

/// The catalog of a manifest. Data objects come first, in order of writer and sequence, then part records.
pub(crate) fn catalog(index: &Arc<Index>, root: &Key) -> Result<Catalog> {
    let head = &index.head;
    let mut catalog = Catalog::new(FORMAT_NAME);
    catalog.mesh = head.mesh.clone();
    catalog.step = head.step;
    let texts = [
        ("attempt", head.attempt.clone()),
        ("generation", head.generation.to_string()),
        ("producer", head.producer.clone()),
        ("compressed", head.compressed.to_string()),
    ];
    catalog.attributes = texts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    let rows = || (0u32..).zip(&index.writers).filter_map(|(writer, row)| Some((writer, row.as_ref()?)));
    for (writer, row) in rows() {
        for (sequence, &(byte_len, _)) in (0..).zip(&row.objects) {
            let key = names::object(&head.attempt, writer, sequence, head.compressed)?;
            catalog.objects.push(object_info(root, &key, byte_len, writer)?);
        }
    }
    for (writer, row) in rows() {
        let key = names::part(&head.attempt, writer)?;
        catalog.objects.push(object_info(root, &key, row.part_byte_len, writer)?);
    }
    catalog.tensors = (0..)
        .zip(index.table.rows())
        .map(|(tensor, row)| (row.fqn.clone(), tensor_of(index, tensor, row)))
        .collect();
    catalog.values = index
        .values
        .iter()
        .map(|row| (row.fqn.clone(), ValueEntry { path: row.path.clone(), stored: None }))
        .collect();
    Ok(catalog)
}

/// Notes objects that the manifest does not refer to: other attempts, leftovers.
fn note_extras(candidate: &Candidate, catalog: &mut Catalog) {
    let known: HashSet<&Key> = catalog.objects.iter().map(|object| &object.key).collect();
    let extras = candidate.objects.iter().filter(|object| {
        let name = object.key.below(&candidate.place.key).unwrap_or_default();
        names::generation(name).is_none() && !known.contains(&object.key)
    });
    let note = |object: &ObjectMeta| Finding {
        severity: Severity::Note,
        fqn: None,
        object: Some(object.key.clone()),
        message: "the manifest does not refer to this object".to_owned(),
    };
    catalog.findings = extras.map(note).collect();
}

fn object_info(root: &Key, key: &Key, byte_len: u64, writer: u32) -> Result<ObjectInfo> {
    Ok(ObjectInfo { key: root.join(key.as_str())?, byte_len, exact: true, writer: Some(writer) })
}

fn tensor_of(index: &Arc<Index>, tensor: u32, row: &Row) -> Tensor {
    let placements = match &row.boxes {
        Boxes::Placed { class, layout } if !index.table.classes()[*class as usize].inferred => {
            Some(layout.placements().to_vec())
        }
        _ => None,
    };
    // The stand-in grid of writers is no mesh, so placements on it mean nothing to others.
    let placements = placements
        .filter(|_| index.head.mesh.as_ref().is_some_and(|mesh| Arc::ptr_eq(mesh, index.table.grid())));
    let chunks = ChunkTable::Computed(Arc::new(TensorChunks { index: index.clone(), tensor }));
    Tensor { spec: row.spec.clone(), path: row.path.clone(), chunks, placements }
}

impl TitanReader {
    /// The manifest and the layouts computed so far.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// The part record of a writer, read and checked once.
    pub(crate) fn part(&self, writer: u32) -> Result<Arc<Part>> {
        let known = &self.parts[writer as usize];
        if let Some(part) = known.get() {
            return Ok(part.clone());
        }
        let key = self.place.key.join(names::part(&self.index.head.attempt, writer)?.as_str())?;
        let expected = Expected {
            object: &self.place.store.display(&key),
            attempt: &self.index.head.attempt,
            writer,
            row: self.index.row(writer)?,
            layout: self.index.layout(writer)?,
            box_bytes: match self.index.head.compressed {
                true => Some(self.index.box_bytes(writer)?),
                false => None,
            },
        };
        let part = expected.decode(&self.place.store.get(&key, PART_BYTES_MAX)?)?;
        Ok(known.get_or_init(|| Arc::new(part)).clone())
    }

    fn no_such_name(&self, fqn: &Fqn) -> Error {
        Error::NoSuchName { fqn: fqn.as_str().to_owned(), hint: String::new() }
    }
}

impl Reader for TitanReader {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let position = self.catalog.tensors.get_index_of(fqn).ok_or_else(|| self.no_such_name(fqn))? as u32;
        let Some((writer, _)) = self.index.writer_of(chunk.object) else {
            return Err(self.index.malformed(format!("object {} holds no tensor data", chunk.object)));
        };
        let slot = self.index.slot_of_region(writer, position, &chunk.region)?;
        let part = self.part(writer)?;
        let (object, name) =
            (chunk.object, self.place.store.display(&self.catalog.objects[chunk.object as usize].key));
        let source = self.open_objects.get(&self.place, &self.catalog, object)?;
        let (fqn, recent, dtype) = (fqn.clone(), self.recent.clone(), tensor.spec.dtype);
        if self.index.head.compressed {
            let from = FrameSource { fqn, dtype, name, object, source, recent };
            let source = Arc::new(FrameBox::new(from, &part, slot.sequence, slot.position));
            return Ok(Elements { source, byte_offset: 0, strides: None, crc32: None });
        }
        let source = CheckedBox {
            fqn,
            name,
            object,
            source,
            part,
            sequence: slot.sequence,
            first_block: slot.first_block,
            byte_offset: chunk.byte_offset,
            byte_len: chunk.byte_len,
            block_bytes: self.index.head.block_bytes,
            recent,
        };
        Ok(Elements { source: Arc::new(source), byte_offset: 0, strides: None, crc32: None })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        let position = self.catalog.values.get_index_of(fqn).ok_or_else(|| self.no_such_name(fqn))?;
        value::decode(&self.index.manifest, fqn, &self.index.values[position].json)
    }

    fn value_archive(&self, fqn: &Fqn) -> Result<Option<Vec<u8>>> {
        let position = self.catalog.values.get_index_of(fqn).ok_or_else(|| self.no_such_name(fqn))?;
        value::archive_of(&self.index.manifest, fqn, &self.index.values[position].json)
    }

    fn verify_framing(&self, report: &mut dyn FnMut(Finding)) -> Result<()> {
        verify::framing(self, report)
    }
}
