//! An open checkpoint of this format.

use super::blocks::CheckedBox;
use super::draft::{object_name, part_name};
use super::index::{Index, TensorChunks};
use super::manifest::{self, MANIFEST_BYTES_MAX};
use super::part::{Expected, PART_BYTES_MAX, Part, PartObject};
use super::recent::Recent;
use super::table::Boxes;
use super::{FORMAT_NAME, crc64, generation, value};
use crate::error::{Error, Result};
use crate::format::{Candidate, Elements, Reader};
use crate::model::{
    Catalog, Chunk, ChunkTable, Finding, Fqn, ObjectInfo, Severity, Tensor, Value, ValueEntry,
};
use crate::storage::Place;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

/// Manifest and catalog, and the part records read so far.
#[derive(Debug)]
struct TitanReader {
    place: Place,
    catalog: Catalog,
    index: Arc<Index>,
    parts: Box<[OnceLock<Arc<Part>>]>,
    recent: Arc<Recent>,
}

/// Opens the newest generation that is a commit.
pub(super) fn open(candidate: &Candidate) -> Result<Arc<dyn Reader>> {
    let place = &candidate.place;
    let mut names: Vec<_> =
        candidate.files().filter_map(|(name, _)| Some((generation(name)?, name))).collect();
    names.sort_unstable();
    for (_, name) in names.iter().rev() {
        let key = place.key.join(name)?;
        let bytes = place.store.get(&key, MANIFEST_BYTES_MAX)?;
        let shown = place.store.display(&key);
        let Some(parsed) = manifest::decode(&shown, &bytes)? else { continue };
        if parsed.head.compressed {
            let why = "it is compressed, which this version does not read";
            return Err(Error::malformed(shown, "titan manifest", why));
        }
        let index = Arc::new(Index::new(shown, parsed)?);
        let mut catalog = catalog(place, &index)?;
        note_extras(candidate, &index, &mut catalog)?;
        let parts = index.writers.iter().map(|_| OnceLock::new()).collect();
        let recent = Arc::default();
        return Ok(Arc::new(TitanReader { place: place.clone(), catalog, index, parts, recent }));
    }
    let why = "every save in this folder was abandoned; choose another step";
    Err(Error::malformed(place.display(), "titan checkpoint", why))
}

fn catalog(place: &Place, index: &Arc<Index>) -> Result<Catalog> {
    let mut catalog = Catalog::new(FORMAT_NAME);
    for (writer, row) in (0..).zip(&index.writers) {
        for (sequence, &(byte_len, _)) in row.iter().flat_map(|row| row.objects.iter().enumerate()) {
            let key = place.key.join(&object_name(&index.head.attempt, writer, sequence))?;
            catalog.objects.push(ObjectInfo { key, byte_len, exact: true, writer: Some(writer) });
        }
    }
    for (tensor, row) in (0..).zip(index.table.rows()) {
        let placements = match &row.boxes {
            Boxes::Placed { class, .. } => {
                let class = &index.table.classes()[*class as usize];
                (!class.inferred && index.head.mesh.is_some()).then(|| class.placements())
            }
            Boxes::Listed(_) => None,
        };
        let chunks = ChunkTable::Computed(Arc::new(TensorChunks { index: index.clone(), tensor }));
        let (spec, path) = (row.spec.clone(), row.path.clone());
        catalog.tensors.insert(row.fqn.clone(), Tensor { spec, path, chunks, placements });
    }
    for row in &index.values {
        catalog.values.insert(row.fqn.clone(), ValueEntry { path: row.path.clone(), stored: None });
    }
    (catalog.mesh, catalog.step) = (index.head.mesh.clone(), index.head.step);
    catalog.attributes.insert("producer".to_owned(), index.head.producer.clone());
    catalog.attributes.insert("attempt".to_owned(), index.head.attempt.clone());
    Ok(catalog)
}

/// Notes objects that nothing refers to: other attempts, leftovers.
fn note_extras(candidate: &Candidate, index: &Index, catalog: &mut Catalog) -> Result<()> {
    let root = &candidate.place.key;
    let mut known: HashSet<_> = catalog.objects.iter().map(|object| object.key.clone()).collect();
    for (writer, _) in (0..).zip(&index.writers).filter(|(_, row)| row.is_some()) {
        known.insert(root.join(&part_name(&index.head.attempt, writer))?);
    }
    for object in &candidate.objects {
        let manifest = object.key.below(root).is_some_and(|name| generation(name).is_some());
        if !manifest && !known.contains(&object.key) {
            catalog.findings.push(Finding {
                severity: Severity::Note,
                fqn: None,
                object: Some(object.key.clone()),
                message: "the manifest does not refer to this object".to_owned(),
            });
        }
    }
    Ok(())
}

impl TitanReader {
    /// A writer's part record, read and checked once.
    fn part(&self, writer: u32) -> Result<Arc<Part>> {
        let known = &self.parts[writer as usize];
        if let Some(part) = known.get() {
            return Ok(part.clone());
        }
        let key = self.place.key.join(&part_name(&self.index.head.attempt, writer))?;
        let bytes = self.place.store.get(&key, PART_BYTES_MAX)?;
        let expected = Expected {
            object: &self.place.store.display(&key),
            attempt: &self.index.head.attempt,
            writer,
            row: self.index.row(writer)?,
            layout: self.index.layout(writer)?,
            box_bytes: &|_| Vec::new(),
        };
        let part = Arc::new(expected.decode(&bytes)?);
        Ok(known.get_or_init(|| part).clone())
    }

    fn row(&self, fqn: &Fqn) -> Result<&manifest::ValueRow> {
        let at = self.catalog.values.get_index_of(fqn);
        let row = at.and_then(|at| self.index.values.get(at));
        row.ok_or_else(|| Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() })
    }

    fn check_header(&self, object: u32, info: &ObjectInfo) -> Result<()> {
        let name = self.place.store.display(&info.key);
        let lost = || self.index.malformed(format!("{name} has no writer"));
        let (writer, sequence) = self.index.writer_of(object).ok_or_else(lost)?;
        let part = self.part(writer)?;
        let Some(&PartObject::Plain { header_crc64, .. }) = part.objects.get(sequence as usize) else {
            return Err(Error::malformed(name, "titan object", "its part record says it is compressed"));
        };
        let mut bytes = vec![0; self.index.extent(writer, sequence)?.1 as usize];
        self.place.store.open(&info.key)?.read_at(0, &mut bytes)?;
        match crc64(&bytes) {
            found if found == header_crc64 => Ok(()),
            found => Err(Error::Damaged {
                object: name,
                from: 0,
                until: bytes.len() as u64,
                found: format!("CRC-64 {found:016x}"),
                expected: format!("{header_crc64:016x}"),
                fqn_note: ", its header".to_owned(),
            }),
        }
    }
}

impl Reader for TitanReader {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, fqn: &Fqn, _tensor: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let lost = || Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() };
        let tensor = self.catalog.tensors.get_index_of(fqn).ok_or_else(lost)? as u32;
        let (writer, _) = self.index.writer_of(chunk.object).ok_or_else(lost)?;
        let slot = self.index.slot_of_region(writer, tensor, &chunk.region)?;
        let key = &self.catalog.objects[chunk.object as usize].key;
        let source = CheckedBox {
            fqn: fqn.clone(),
            name: self.place.store.display(key),
            object: chunk.object,
            source: self.place.store.open(key)?,
            part: self.part(writer)?,
            sequence: slot.sequence,
            first_block: slot.first_block,
            byte_offset: chunk.byte_offset,
            byte_len: chunk.byte_len,
            block_bytes: self.index.head.block_bytes,
            recent: self.recent.clone(),
        };
        Ok(Elements { source: Arc::new(source), byte_offset: 0, strides: None, crc32: None })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        manifest::decode_value(&self.index.manifest, self.row(fqn)?)
    }

    fn value_archive(&self, fqn: &Fqn) -> Result<Option<Vec<u8>>> {
        value::archive(&self.row(fqn)?.json).map_err(|why| self.index.malformed(why))
    }

    fn verify_framing(&self, report: &mut dyn FnMut(Finding)) -> Result<()> {
        for (object, info) in (0..).zip(&self.catalog.objects) {
            if let Err(error) = self.check_header(object, info) {
                let (object, message) = (Some(info.key.clone()), error.to_string());
                report(Finding { severity: Severity::Damage, fqn: None, object, message });
            }
        }
        Ok(())
    }
}
