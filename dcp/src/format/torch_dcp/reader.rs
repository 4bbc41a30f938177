//! An open checkpoint of this format.

use super::catalog::{PlainObjects, Transforms};
use super::transforms::{self, DecodedItems, TransformedItem};
use crate::error::{Error, Result};
use crate::format::open_objects::OpenObjects;
use crate::format::wire::archive;
use crate::format::wire::item::Item;
use crate::format::wire::pickle_read;
use crate::format::wire::tensor::{StoredTensor, tensor_of};
use crate::format::wire::zip_read::ZipIndex;
use crate::format::{Elements, Reader};
use crate::model::{Catalog, Chunk, Finding, Fqn, Severity, Tensor, Value};
use crate::storage::memory::MemoryObject;
use crate::storage::{Place, ReadAt};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::sync::Arc;

/// The largest item of a value. Larger data belongs in tensors.
const VALUE_BYTES_MAX: u64 = 64 << 20;
/// The longest pickle of one tensor; torch writes some 250 bytes.
const TENSOR_PICKLE_BYTES_MAX: u64 = 1 << 20;
/// What an item may take beside the elements of its tensor.
const FRAMING_BYTES_MAX: u64 = 1 << 20;
/// The record that holds the pickle.
const PICKLE_RECORD: &str = "data.pkl";

/// Catalog and open files.
#[derive(Debug)]
pub(super) struct DcpReader {
    place: Place,
    catalog: Catalog,
    transforms: Transforms,
    plain: PlainObjects,
    open: OpenObjects,
    decoded: DecodedItems,
}

impl DcpReader {
    pub(super) fn new(place: Place, catalog: Catalog, transforms: Transforms, plain: PlainObjects) -> Self {
        let (open, decoded) = (OpenObjects::default(), DecodedItems::default());
        DcpReader { place, catalog, transforms, plain, open, decoded }
    }

    /// What errors call an object.
    fn display(&self, object: u32) -> String {
        match self.catalog.objects.get(object as usize) {
            Some(info) => self.place.store.display(&info.key),
            None => self.place.display(),
        }
    }

    /// Where an item is once its transforms are undone: source, first byte and length.
    fn item(
        &self,
        object: u32,
        byte_offset: u64,
        byte_len: u64,
        byte_len_max: u64,
    ) -> Result<(Arc<dyn ReadAt>, u64, u64)> {
        let source = self.open.get(&self.place, &self.catalog, object)?;
        let id = (object, byte_offset);
        let Some(transforms) = self.transforms.get(&id) else { return Ok((source, byte_offset, byte_len)) };
        let item = self.decoded.get(id, || {
            let object = &self.display(object);
            let stored = TransformedItem { source: &*source, object, byte_offset, byte_len };
            transforms::decode(stored, transforms, byte_len_max)
        })?;
        let byte_len = item.byte_len();
        Ok((item, 0, byte_len))
    }

    /// The archive of a value.
    fn archive(&self, fqn: &Fqn) -> Result<(Vec<u8>, String)> {
        let (object, byte_offset, byte_len) = self.stored(fqn)?;
        let (source, byte_offset, byte_len) = self.item(object, byte_offset, byte_len, VALUE_BYTES_MAX)?;
        let object = self.display(object);
        if byte_len > VALUE_BYTES_MAX {
            let what = "the length of the item of a value";
            return Err(Error::OverLimit { object, what, found: byte_len, limit: VALUE_BYTES_MAX });
        }
        let bytes = Item::new(&*source, &object, byte_offset, byte_len)?.read(0, byte_len)?;
        Ok((bytes, object))
    }

    /// Checks every record of a value's archive against its checksum.
    fn check_value(&self, fqn: &Fqn) -> Result<()> {
        let (bytes, object) = self.archive(fqn)?;
        let source = MemoryObject::new(object.as_str(), bytes);
        let mut item = Item::whole(&source, &object);
        let zip = ZipIndex::read(&mut item)?;
        zip.records.keys().try_for_each(|name| zip.read_record(&mut item, name, VALUE_BYTES_MAX).map(drop))
    }

    /// Checks the records around a chunk's elements against their checksums.
    fn check_framing(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> Result<()> {
        let (source, base, byte_len, _) = self.chunk_item(fqn, tensor, chunk)?;
        let object = self.display(chunk.object);
        let mut item = Item::new(&*source, &object, base, byte_len)?;
        let zip = ZipIndex::read(&mut item)?;
        let around = zip.records.keys().filter(|name| !name.starts_with("data/"));
        around
            .map(|name| zip.read_record(&mut item, name, FRAMING_BYTES_MAX))
            .try_for_each(|data| data.map(drop))
    }

    /// Every chunk in an archive, with what is wrong around its elements.
    fn damaged_framing(&self, fqn: &Fqn, tensor: &Tensor) -> Vec<Finding> {
        // A tensor whose chunks cannot be listed is told of where its elements are checked.
        let chunks = tensor.chunks.all(&tensor.spec.shape).unwrap_or_default();
        let archives = chunks.iter().filter(|chunk| !self.plain.contains(&chunk.object));
        let found = archives.filter_map(|chunk| {
            let error = self.check_framing(fqn, tensor, chunk).err()?;
            Some(self.damage(fqn, chunk.object, &error))
        });
        found.collect()
    }

    fn damage(&self, fqn: &Fqn, object: u32, error: &Error) -> Finding {
        Finding {
            severity: Severity::Damage,
            fqn: Some(fqn.clone()),
            object: self.catalog.objects.get(object as usize).map(|info| info.key.clone()),
            message: error.to_string(),
        }
    }

    fn stored(&self, fqn: &Fqn) -> Result<(u32, u64, u64)> {
        let entry = self.catalog.values.get(fqn);
        let entry = entry.ok_or_else(|| Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() })?;
        entry.stored.ok_or_else(|| bad(fqn, "the metadata does not say where this value is".to_owned()))
    }

    /// Where a chunk's archive is, transforms undone (source, first byte, length), and the bytes of its elements.
    fn chunk_item(
        &self,
        fqn: &Fqn,
        tensor: &Tensor,
        chunk: &Chunk,
    ) -> Result<(Arc<dyn ReadAt>, u64, u64, u64)> {
        let chunk_bytes = tensor.spec.dtype.bytes(chunk.region.elements());
        let chunk_bytes = chunk_bytes.ok_or_else(|| bad(fqn, "a chunk is over 2^64 bytes".to_owned()))?;
        let byte_len_max = chunk_bytes.saturating_add(FRAMING_BYTES_MAX);
        let (source, base, byte_len) =
            self.item(chunk.object, chunk.byte_offset, chunk.byte_len, byte_len_max)?;
        Ok((source, base, byte_len, chunk_bytes))
    }

    /// Finds a chunk's elements in its archive.
    fn resolve_archive(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let (source, base, byte_len, chunk_bytes) = self.chunk_item(fqn, tensor, chunk)?;
        let object = self.display(chunk.object);
        let mut item = Item::new(&*source, &object, base, byte_len)?;
        let zip = ZipIndex::read(&mut item)?;
        let pickle = zip.read_record(&mut item, PICKLE_RECORD, TENSOR_PICKLE_BYTES_MAX)?;
        let pickle = pickle_read::parse(&pickle).map_err(|error| error.of(&object))?;
        let stored = tensor_of(&pickle, pickle.root()).unwrap_or_else(|| Err("it is no tensor".into()));
        let stored = stored.map_err(|why| in_item(fqn, chunk, &object, why.to_string()))?;
        check_spec(fqn, tensor, chunk, &stored, &object)?;
        let record_name = format!("data/{}", stored.storage_key);
        let record = zip.find(&item, &record_name)?;
        let (record_bytes, crc32) = (record.byte_len, record.crc32);
        if record_bytes != stored.storage_bytes {
            let why = format!("its storage has {record_bytes} bytes; {} are expected", stored.storage_bytes);
            return Err(in_item(fqn, chunk, &object, why));
        }
        let data_offset = zip.data_offset(&mut item, &record_name)?;
        // The checksum is of the whole storage. Torch can be told to leave it out (`set_crc32_options`), and then
        // writes 0; 0 is also the right one of some data, which then goes unchecked.
        let whole = record_bytes == chunk_bytes && (chunk_bytes == 0 || stored.covers_storage());
        let crc32 = (whole && (crc32 != 0 || record_bytes == 0)).then_some(crc32);
        Ok(Elements {
            source,
            // An offset may be anything where there is no element to be found at it.
            byte_offset: base + data_offset + if chunk_bytes == 0 { 0 } else { stored.byte_offset() },
            strides: stored.unusual_strides(),
            crc32,
        })
    }
}

fn bad(fqn: &Fqn, message: String) -> Error {
    Error::BadTensor { fqn: fqn.to_string(), message }
}

/// Trouble inside the item of a chunk.
fn in_item(fqn: &Fqn, chunk: &Chunk, object: &str, why: String) -> Error {
    bad(fqn, format!("its item at byte {} of {object}: {why}", chunk.byte_offset))
}

/// Compares what an item holds with what the metadata says of it.
fn check_spec(fqn: &Fqn, tensor: &Tensor, chunk: &Chunk, stored: &StoredTensor, object: &str) -> Result<()> {
    let (found, region) = (&stored.spec, &chunk.region);
    if found.dtype != tensor.spec.dtype {
        let why = format!("it holds {}, but the metadata says {}", found.dtype, tensor.spec.dtype);
        return Err(in_item(fqn, chunk, object, why));
    }
    if found.shape != region.extent {
        let why = format!(
            "it holds a tensor of size {:?}, but the metadata says that the chunk at {:?} has size {:?}. PyTorch \
             writes such metadata when FSDP and tensor parallelism split one dim unevenly (_StridedShard); the \
             elements are there, but not where the metadata says",
            found.shape, region.start, region.extent
        );
        return Err(in_item(fqn, chunk, object, why));
    }
    Ok(())
}

impl Reader for DcpReader {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> Result<Elements> {
        if self.plain.contains(&chunk.object) {
            let source = self.open.get(&self.place, &self.catalog, chunk.object)?;
            return Ok(Elements { source, byte_offset: chunk.byte_offset, strides: None, crc32: None });
        }
        self.resolve_archive(fqn, tensor, chunk)
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        let (bytes, object) = self.archive(fqn)?;
        archive::decode(&bytes, &object)
    }

    fn value_archive(&self, fqn: &Fqn) -> Result<Option<Vec<u8>>> {
        Ok(Some(self.archive(fqn)?.0))
    }

    fn verify_framing(&self, report: &mut dyn FnMut(Finding)) -> Result<()> {
        for (fqn, entry) in &self.catalog.values {
            // A value without a place is among the findings of the catalog already.
            let Some((object, _, _)) = entry.stored else { continue };
            if let Err(error) = self.check_value(fqn) {
                report(self.damage(fqn, object, &error));
            }
        }
        let tensors: Vec<_> = self.catalog.tensors.iter().collect();
        let found: Vec<_> =
            tensors.par_iter().map(|(fqn, tensor)| self.damaged_framing(fqn, tensor)).collect();
        found.into_iter().flatten().for_each(report);
        Ok(())
    }
}
