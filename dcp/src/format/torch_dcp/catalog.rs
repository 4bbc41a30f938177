//! Puts the metadata of a checkpoint together to its catalog.

use super::metadata::{Metadata, StoredItem, TensorEntry};
use super::names;
use crate::error::Result;
use crate::format::Candidate;
use crate::format::safetensors::header::Header;
use crate::layout::Region;
use crate::model::{Catalog, Chunk, ChunkTable, Finding, Fqn, ObjectInfo, Severity, Tensor, ValueEntry};
use crate::storage::Key;
use indexmap::map::Entry;
use indexmap::{IndexMap, IndexSet};
use std::collections::{HashMap, HashSet};

/// The metadata of a checkpoint, or of one rank.
#[derive(Debug)]
pub(super) struct RankMetadata {
    /// The rank; `None` where it is the whole checkpoint's.
    pub(super) rank: Option<u32>,
    pub(super) metadata: Metadata,
    /// Headers of the data files that are safetensors files, by index of the file.
    pub(super) headers: HashMap<u32, Header>,
}

/// What to undo before an item is an archive, by object and first byte.
pub(super) type Transforms = HashMap<(u32, u64), Box<[String]>>;

/// Objects that are safetensors files, whose chunks point at the elements themselves.
pub(super) type PlainObjects = HashSet<u32>;

/// The catalog, and what a reader needs beside it.
pub(super) fn build(
    candidate: &Candidate,
    ranks: Vec<RankMetadata>,
) -> Result<(Catalog, Transforms, PlainObjects)> {
    let mut building = Building {
        folder: candidate.place.key.clone(),
        catalog: Catalog::new(super::NAME),
        names: IndexMap::new(),
        transforms: HashMap::new(),
        plain: HashSet::new(),
        regions: HashMap::new(),
        copies: IndexSet::new(),
        misfits: Vec::new(),
    };
    building.catalog.step = step(candidate);
    building.rank_findings(&ranks);
    let several = ranks.len() > 1;
    for rank in ranks {
        building.add(rank, several)?;
    }
    building.told_copies();
    building.listing(candidate)?;
    Ok((building.catalog, building.transforms, building.plain))
}

/// The step in the name of the checkpoint's folder.
fn step(candidate: &Candidate) -> Option<u64> {
    let shown = candidate.place.display();
    crate::format::step_of(shown.trim_end_matches('/').rsplit('/').next()?)
}

struct Building {
    folder: Key,
    catalog: Catalog,
    /// Indices of the catalog's objects by their names in the folder.
    names: IndexMap<Key, u32>,
    transforms: Transforms,
    plain: PlainObjects,
    /// The boxes of each tensor seen until now, where there are several ranks to compare.
    regions: HashMap<Fqn, HashSet<Region>>,
    /// Names that several ranks stored.
    copies: IndexSet<Fqn>,
    /// Names that two ranks stored with different types or shapes.
    misfits: Vec<Fqn>,
}

impl Building {
    fn add(&mut self, rank: RankMetadata, several: bool) -> Result<()> {
        let RankMetadata { metadata, headers, .. } = rank;
        let objects = self.add_objects(&metadata, &headers)?;
        for (fqn, entry) in metadata.tensors {
            self.add_tensor(fqn, entry, &objects, &headers, several);
        }
        for (fqn, value) in metadata.values {
            if self.catalog.values.contains_key(&fqn) {
                self.copies.insert(fqn);
                continue;
            }
            let stored = match value.item {
                Some(item) => Some(self.place(item, &objects)),
                None => {
                    let message = "the metadata names this value, but does not say where it is".to_owned();
                    self.found(Severity::Damage, Some(&fqn), None, message);
                    None
                }
            };
            let stored = stored.map(|(object, item)| (object, item.byte_offset, item.byte_len));
            self.catalog.values.insert(fqn, ValueEntry { path: value.path, stored });
        }
        for (name, text) in metadata.attributes {
            self.catalog.attributes.entry(name).or_insert(text);
        }
        Ok(())
    }

    /// Adds the files of one metadata; returns their indices in the catalog.
    fn add_objects(&mut self, metadata: &Metadata, headers: &HashMap<u32, Header>) -> Result<Vec<u32>> {
        let mut ends = vec![0; metadata.files.len()];
        for item in metadata.items() {
            let end = &mut ends[item.file as usize];
            *end = (*end).max(item.byte_offset + item.byte_len);
        }
        let mut objects = Vec::with_capacity(ends.len());
        for ((file, name), end) in (0u32..).zip(&metadata.files).zip(ends) {
            let end = headers.get(&file).map_or(end, |header| header.end);
            let object = self.object(name, end)?;
            if headers.contains_key(&file) {
                self.plain.insert(object);
            }
            objects.push(object);
        }
        Ok(objects)
    }

    /// The object of this name, added where it is new.
    fn object(&mut self, name: &Key, end: u64) -> Result<u32> {
        let objects = &mut self.catalog.objects;
        if let Some(&known) = self.names.get(name) {
            let info = &mut objects[known as usize];
            info.byte_len = info.byte_len.max(end);
            return Ok(known);
        }
        let object = objects.len() as u32;
        // Torch writes items one after the other and nothing behind them, so a file of another length is not the file
        // that the metadata speaks of: it was truncated, or a later save that did not finish has begun to replace it.
        objects.push(ObjectInfo {
            key: self.folder.join(name.as_str())?,
            byte_len: end,
            exact: true,
            writer: names::writer(name.name()),
        });
        self.names.insert(name.clone(), object);
        Ok(object)
    }

    fn place(&mut self, item: StoredItem, objects: &[u32]) -> (u32, StoredItem) {
        let object = objects[item.file as usize];
        if !item.transforms.is_empty() {
            self.transforms.insert((object, item.byte_offset), item.transforms.clone());
        }
        (object, item)
    }

    fn add_tensor(
        &mut self,
        fqn: Fqn,
        entry: TensorEntry,
        objects: &[u32],
        headers: &HashMap<u32, Header>,
        several: bool,
    ) {
        let mut chunks = Vec::with_capacity(entry.chunks.len());
        if self.catalog.tensors.get(&fqn).is_some_and(|known| known.spec != entry.spec) {
            self.misfits.push(fqn);
            return;
        }
        for (region, item) in entry.chunks {
            if several && !self.regions.entry(fqn.clone()).or_default().insert(region.clone()) {
                self.copies.insert(fqn.clone());
                continue;
            }
            let Some(item) = item else {
                let message = format!(
                    "the metadata names the chunk at {:?} of size {:?}, but does not say where it is",
                    region.start, region.extent
                );
                self.found(Severity::Damage, Some(&fqn), None, message);
                continue;
            };
            let (file, (object, item)) = (item.file, self.place(item, objects));
            let chunk = match headers.get(&file) {
                Some(header) => chunk_in_safetensors(&fqn, &entry.spec.dtype, region, object, header),
                None => Ok(Chunk { region, object, byte_offset: item.byte_offset, byte_len: item.byte_len }),
            };
            match chunk {
                Ok(chunk) => chunks.push(chunk),
                Err(message) => {
                    let key = self.catalog.objects[object as usize].key.clone();
                    self.found(Severity::Damage, Some(&fqn), Some(key), message);
                }
            }
        }
        match self.catalog.tensors.entry(fqn) {
            Entry::Occupied(mut known) => {
                if let ChunkTable::Listed(known) = &mut known.get_mut().chunks {
                    known.extend(chunks);
                }
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Tensor {
                    spec: entry.spec,
                    path: entry.path,
                    chunks: ChunkTable::Listed(chunks),
                    placements: None,
                });
            }
        }
    }

    fn found(&mut self, severity: Severity, fqn: Option<&Fqn>, object: Option<Key>, message: String) {
        self.catalog.findings.push(Finding { severity, fqn: fqn.cloned(), object, message });
    }

    /// Ranks whose metadata is not there, where every rank has its own.
    fn rank_findings(&mut self, ranks: &[RankMetadata]) {
        let present: Vec<u32> = ranks.iter().filter_map(|rank| rank.rank).collect();
        let Some(&last) = present.last() else { return };
        let message = format!(
            "each rank saved on its own (use_collectives=False); the metadata of {} ranks is put together",
            present.len()
        );
        self.found(Severity::Note, None, None, message);
        let missing = u64::from(last) + 1 - present.len() as u64;
        if let Some(first) = (0..last).zip(&present).find(|(index, rank)| index != *rank).map(|(at, _)| at) {
            let message = format!(
                "the metadata of {missing} ranks is missing, of rank {first} first; the save did not finish"
            );
            self.found(Severity::Damage, None, None, message);
        }
    }

    fn told_copies(&mut self) {
        if let Some(first) = self.copies.first().cloned() {
            let message = format!(
                "several ranks stored {} names, such as `{first}`, and may have stored different contents; \
                 those of the lowest rank are read",
                self.copies.len()
            );
            self.found(Severity::Note, None, None, message);
        }
        for fqn in std::mem::take(&mut self.misfits) {
            let message = "ranks stored tensors of different types or shapes under this name; \
                           that of the lowest rank is read"
                .to_owned();
            self.found(Severity::Note, Some(&fqn), None, message);
        }
    }

    /// What is in the folder that the metadata does not speak of.
    fn listing(&mut self, candidate: &Candidate) -> Result<()> {
        let whole = candidate.find(names::METADATA).is_some();
        for (name, byte_len) in candidate.files() {
            let message = if name == names::METADATA_UNFINISHED {
                "what is left of a save that did not finish"
            } else if whole && names::metadata_rank(name).is_some() {
                "the metadata of one rank, which is not read where there is a `.metadata` of all"
            } else if name.ends_with(names::SUFFIX) && !self.names.contains_key(&Key::new(name)?) {
                if byte_len == 0 && names::writer(name).is_some() {
                    // A rank without anything to write leaves an empty file.
                    self.object(&Key::new(name)?, 0)?;
                    continue;
                }
                "no tensor or value is in this file: it is left from another save into the same folder"
            } else {
                continue;
            };
            let key = self.folder.join(name)?;
            self.found(Severity::Note, None, Some(key), message.to_owned());
        }
        Ok(())
    }
}

/// The chunk of a tensor in a safetensors file. The error says how the file contradicts the metadata.
fn chunk_in_safetensors(
    fqn: &Fqn,
    dtype: &crate::model::DType,
    region: Region,
    object: u32,
    header: &Header,
) -> Result<Chunk, String> {
    let stored = header.tensors.get(fqn).ok_or("the metadata says that it is in this file, but it is not")?;
    if stored.spec.dtype != *dtype || stored.spec.shape != region.extent {
        return Err(format!(
            "the file has {} elements of shape {:?}, but the metadata says {dtype} of shape {:?}",
            stored.spec.dtype, stored.spec.shape, region.extent
        ));
    }
    let (byte_offset, byte_len) = (stored.bytes.start, stored.bytes.end - stored.bytes.start);
    Ok(Chunk { region, object, byte_offset, byte_len })
}
