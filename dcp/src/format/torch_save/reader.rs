//! An open `torch.save` file.

use super::flatten::{Leaf, flatten};
use super::{is_zip, legacy};
use crate::error::{Error, Result};
use crate::format::wire::archive::{gather, value_of};
use crate::format::wire::item::Item;
use crate::format::wire::pickle_read::parse;
use crate::format::wire::tensor::StoredTensor;
use crate::format::wire::zip_read::ZipIndex;
use crate::format::{Elements, Reader};
use crate::layout::Region;
use crate::model::{
    Catalog, Chunk, ChunkTable, Finding, Fqn, ObjectInfo, Severity, Tensor, Value, ValueEntry,
};
use crate::storage::{Place, ReadAt};
use indexmap::IndexMap;
use std::collections::HashMap;
use std::sync::Arc;

/// Largest `data.pkl` that is read.
const PICKLE_BYTES_MAX: u64 = 1 << 30;
/// Largest storage of a tensor that is part of a value.
const VALUE_BYTES_MAX: u64 = 1 << 30;

/// A `torch.save` file.
#[derive(Debug)]
pub(super) struct TorchSaveReader {
    place: Place,
    source: Arc<dyn ReadAt>,
    catalog: Catalog,
    tensors: HashMap<Fqn, StoredTensor>,
    values: IndexMap<Fqn, Value>,
    storages: Storages,
}

/// Where the storages' bytes are.
#[derive(Debug)]
enum Storages {
    Zip(ZipIndex),
    /// Byte offsets by key.
    Legacy(HashMap<String, u64>),
}

impl TorchSaveReader {
    pub(super) fn open(place: Place) -> Result<Self> {
        let object = place.display();
        let source = place.store.open(&place.key)?;
        let mut head = [0; 512];
        let head = &mut head[..source.byte_len().min(512) as usize];
        source.read_at(0, head)?;
        if legacy::is_tar(head) {
            let why =
                "a tar archive of PyTorch before 0.1.10 is not read; load and save it with PyTorch first";
            return Err(Error::malformed(object, "torch.save file", why));
        }
        let (data, index, stream) = if is_zip(head) {
            let mut item = Item::whole(&*source, &object);
            let index = ZipIndex::read(&mut item)?;
            if index.records.contains_key("constants.pkl") {
                let why = "it is a TorchScript archive, a program and not a checkpoint; save its state_dict() instead";
                return Err(Error::malformed(object, "torch.save file", why));
            }
            check_byte_order(&index, &mut item)?;
            (index.read_record(&mut item, "data.pkl", PICKLE_BYTES_MAX)?, Some(index), None)
        } else {
            let mut stream = legacy::read(&*source, &object)?;
            (std::mem::take(&mut stream.data), None, Some(stream))
        };
        let pickle = parse(&data).map_err(|error| error.of(&object))?;
        let leaves = flatten(&pickle, &object)?;
        let storages = match (index, stream) {
            (Some(index), _) => Storages::Zip(index),
            (None, Some(stream)) => {
                let tensors = leaves.values().filter_map(|(_, leaf)| match leaf {
                    Leaf::Tensor(tensor) => Some(tensor),
                    Leaf::Value(_) => None,
                });
                let lengths = tensors
                    .map(|t| (t.storage_key.clone(), (t.storage_bytes, t.spec.dtype.block_bytes())))
                    .collect();
                Storages::Legacy(legacy::storages(&*source, &object, &stream, &lengths)?)
            }
            (None, None) => {
                return Err(Error::malformed(object, "torch.save file", "it is neither zip nor legacy"));
            }
        };
        let catalog = Catalog::new(super::NAME);
        let mut reader = TorchSaveReader {
            place,
            source,
            catalog,
            tensors: HashMap::new(),
            values: IndexMap::new(),
            storages,
        };
        reader.catalog.objects.push(ObjectInfo {
            key: reader.place.key.clone(),
            byte_len: reader.source.byte_len(),
            exact: true,
            writer: Some(0),
        });
        for (name, (path, leaf)) in leaves {
            let fqn = Fqn::new(name);
            match leaf {
                Leaf::Tensor(tensor) => {
                    let (byte_offset, byte_len) = reader.stored(&tensor)?;
                    let region = Region::whole(&tensor.spec.shape);
                    let chunk = Chunk { region, object: 0, byte_offset, byte_len };
                    let chunks = ChunkTable::Listed(vec![chunk]);
                    let spec = tensor.spec.clone();
                    reader
                        .catalog
                        .tensors
                        .insert(fqn.clone(), Tensor { spec, path, chunks, placements: None });
                    reader.tensors.insert(fqn, tensor);
                }
                Leaf::Value(id) => {
                    let value = value_of(&pickle, id, &object, &mut |tensor| reader.inline(tensor))?;
                    reader.catalog.values.insert(fqn.clone(), ValueEntry { path, stored: None });
                    reader.values.insert(fqn, value);
                }
            }
        }
        Ok(reader)
    }

    /// Position and length of the record that holds a tensor's storage.
    fn stored(&self, tensor: &StoredTensor) -> Result<(u64, u64)> {
        match &self.storages {
            Storages::Legacy(offsets) => match offsets.get(&tensor.storage_key) {
                Some(&byte_offset) => Ok((byte_offset, tensor.storage_bytes)),
                None => Err(self.malformed(format!("storage `{}` is not in the file", tensor.storage_key))),
            },
            Storages::Zip(index) => {
                let object = self.place.display();
                let record = index.find(&Item::whole(&*self.source, &object), &record_name(tensor))?;
                if record.byte_len != tensor.storage_bytes || record.method != 0 {
                    let why = format!(
                        "record `{}` has {} bytes (method {}), {} stored bytes are expected",
                        record_name(tensor),
                        record.byte_len,
                        record.method,
                        tensor.storage_bytes
                    );
                    return Err(self.malformed(why));
                }
                Ok((record.header_offset, record.extent_len))
            }
        }
    }

    /// Position of the first byte of a tensor's storage, and its recorded checksum.
    fn storage(&self, tensor: &StoredTensor) -> Result<(u64, Option<u32>)> {
        match &self.storages {
            Storages::Legacy(_) => Ok((self.stored(tensor)?.0, None)),
            Storages::Zip(index) => {
                let object = self.place.display();
                let mut item = Item::whole(&*self.source, &object);
                let name = record_name(tensor);
                let crc32 = index.find(&item, &name)?.crc32;
                // PyTorch can leave checksums out (set_crc32_options), which reads as 0.
                Ok((index.data_offset(&mut item, &name)?, (crc32 != 0).then_some(crc32)))
            }
        }
    }

    fn inline(&self, tensor: &StoredTensor) -> Result<Vec<u8>> {
        self.stored(tensor)?;
        if tensor.storage_bytes > VALUE_BYTES_MAX {
            return Err(self.malformed(format!("a tensor of {} bytes inside a value", tensor.storage_bytes)));
        }
        let mut storage = vec![0; tensor.storage_bytes as usize];
        self.source.read_at(self.storage(tensor)?.0, &mut storage)?;
        gather(tensor, &storage).map_err(|why| self.malformed(why))
    }

    fn malformed(&self, why: String) -> Error {
        Error::malformed(self.place.display(), "torch.save file", why)
    }
}

impl Reader for TorchSaveReader {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, fqn: &Fqn, _tensor: &Tensor, _chunk: &Chunk) -> Result<Elements> {
        let no_such = || Error::NoSuchName { fqn: fqn.as_str().to_owned(), hint: String::new() };
        let tensor = self.tensors.get(fqn).ok_or_else(no_such)?;
        let (storage_offset, crc32) = self.storage(tensor)?;
        Ok(Elements {
            source: self.source.clone(),
            byte_offset: storage_offset + tensor.byte_offset(),
            strides: tensor.unusual_strides(),
            crc32: crc32.filter(|_| tensor.covers_storage()),
        })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        let no_such = || Error::NoSuchName { fqn: fqn.as_str().to_owned(), hint: String::new() };
        self.values.get(fqn).cloned().ok_or_else(no_such)
    }

    /// Checks the CRC-32 of every record, storages that several tensors share and the pickle included.
    fn verify_framing(&self, report: &mut dyn FnMut(Finding)) -> Result<()> {
        let Storages::Zip(index) = &self.storages else { return Ok(()) };
        let object = self.place.display();
        let mut item = Item::whole(&*self.source, &object);
        let whole: Vec<String> =
            self.tensors.values().filter(|tensor| tensor.covers_storage()).map(record_name).collect();
        for (name, record) in index.records.iter().filter(|(name, _)| !whole.contains(name)) {
            if record.crc32 == 0 || record.byte_len > PICKLE_BYTES_MAX {
                continue;
            }
            let bytes = index.read_record(&mut item, name, PICKLE_BYTES_MAX)?;
            let found = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &bytes) as u32;
            if found != record.crc32 {
                let users = self.tensors.iter().filter(|(_, tensor)| record_name(tensor) == *name);
                let users: Vec<_> = users.map(|(fqn, _)| fqn.as_str()).collect();
                report(Finding {
                    severity: Severity::Damage,
                    fqn: users.first().map(|fqn| Fqn::from(*fqn)),
                    object: Some(self.place.key.clone()),
                    message: format!(
                        "record `{name}` does not have its CRC-32 ({found:08x}, expected {:08x}); tensors in it: {}",
                        record.crc32,
                        if users.is_empty() { "none".to_owned() } else { users.join(", ") }
                    ),
                });
            }
        }
        Ok(())
    }
}

fn record_name(tensor: &StoredTensor) -> String {
    format!("data/{}", tensor.storage_key)
}

/// Big-endian files exist (s390x); their bytes would have to be swapped.
fn check_byte_order(index: &ZipIndex, item: &mut Item) -> Result<()> {
    if !index.records.contains_key("byteorder") {
        return Ok(());
    }
    let order = index.read_record(item, "byteorder", 64)?;
    match order.as_slice() {
        b"little" => Ok(()),
        other => {
            let why = format!(
                "its byte order is {:?}; only little-endian files are read",
                String::from_utf8_lossy(other)
            );
            Err(Error::malformed(item.object(), "torch.save file", why))
        }
    }
}
