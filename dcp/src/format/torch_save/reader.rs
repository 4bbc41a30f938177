//! An open `torch.save` file.

use super::flatten::{Leaf, flatten};
use super::{is_zip, legacy};
use crate::error::{Error, ErrorKind, Result};
use crate::format::wire::archive::{PICKLE_NAME, check_kind, storage_name};
use crate::format::wire::item::Item;
use crate::format::wire::pickle_nodes::Pickle;
use crate::format::wire::pickle_read::parse;
use crate::format::wire::tensor::StoredTensor;
use crate::format::wire::value_read::{Budget, in_row_major, value_of};
use crate::format::wire::zip_read::{Record, ZipIndex};
use crate::format::{Elements, Reader};
use crate::layout::Region;
use crate::model::{
    Catalog, Chunk, ChunkTable, Finding, Fqn, ObjectInfo, Severity, Tensor, Value, ValueEntry,
};
use crate::storage::{Place, ReadAt};
use crc_fast::CrcAlgorithm::Crc32IsoHdlc;
use indexmap::IndexMap;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Largest `data.pkl` that is read.
const PICKLE_BYTES_MAX: u64 = 1 << 30;
/// What is read at once to check a record.
const CHECK_BYTES: u64 = 8 << 20;

/// A `torch.save` file.
#[derive(Debug)]
pub(super) struct TorchSaveReader {
    place: Place,
    /// The file's name in errors.
    object: String,
    source: Arc<dyn ReadAt>,
    catalog: Catalog,
    tensors: HashMap<Fqn, StoredTensor>,
    values: IndexMap<Fqn, Held>,
    storages: Storages,
}

/// A value, or why it could not be read.
#[derive(Debug)]
enum Held {
    Value(Value),
    Unreadable(String),
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
        if is_zip(head) {
            let mut item = Item::whole(&*source, &object);
            let index = ZipIndex::read(&mut item)?;
            check_kind(&index, &mut item)?;
            let data = index.read_record(&mut item, PICKLE_NAME, PICKLE_BYTES_MAX)?;
            let pickle = parse(&data).map_err(|error| error.of(&object))?;
            return Self::read(place, object.clone(), source.clone(), Storages::Zip(index), &pickle);
        }
        let stream = legacy::read(&*source, &object)?;
        let pickle = parse(&stream.data).map_err(|error| error.of(&object))?;
        let storages = Storages::Legacy(legacy::storages(&*source, &object, &stream, &pickle)?);
        Self::read(place, object, source, storages, &pickle)
    }

    /// Takes tensors and values out of the pickle.
    fn read(
        place: Place,
        object: String,
        source: Arc<dyn ReadAt>,
        storages: Storages,
        pickle: &Pickle,
    ) -> Result<Self> {
        let mut budget = Budget::of_file(source.byte_len());
        let leaves = flatten(pickle, &object, &mut budget)?;
        let (tensors, values, catalog) = (HashMap::new(), IndexMap::new(), Catalog::new(super::NAME));
        let mut reader = TorchSaveReader { place, object, source, catalog, tensors, values, storages };
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
                    let chunks = ChunkTable::Listed(vec![Chunk { region, object: 0, byte_offset, byte_len }]);
                    let entry = Tensor { spec: tensor.spec.clone(), path, chunks, placements: None };
                    reader.catalog.tensors.insert(fqn.clone(), entry);
                    reader.tensors.insert(fqn, tensor);
                }
                Leaf::Value(id) => {
                    let mut inline = |tensor: &StoredTensor| reader.inline(tensor);
                    let value = value_of(pickle, id, &reader.object, &mut budget, &mut inline);
                    reader.catalog.values.insert(fqn.clone(), ValueEntry { path, stored: None });
                    reader.hold(fqn, value)?;
                }
            }
        }
        Ok(reader)
    }

    /// Keeps a value, and tells of what is odd about it. Only trouble with the store is an error.
    fn hold(&mut self, fqn: Fqn, value: Result<Value>) -> Result<()> {
        let held = match value {
            Ok(value) => Held::Value(value),
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => Held::Unreadable(error.to_string()),
        };
        let odd = match &held {
            Held::Value(value) if value.is_opaque() => Some((
                Severity::Note,
                format!("its type is not known here, so it cannot be carried over: {}", value.py_repr()),
            )),
            Held::Value(_) => None,
            Held::Unreadable(why) => Some((Severity::Damage, why.clone())),
        };
        if let Some((severity, message)) = odd {
            let object = Some(self.place.key.clone());
            self.catalog.findings.push(Finding { severity, fqn: Some(fqn.clone()), object, message });
        }
        self.values.insert(fqn, held);
        Ok(())
    }

    fn item(&self) -> Item<'_> {
        Item::whole(&*self.source, &self.object)
    }

    /// Position and length of what holds a tensor's storage, framing included.
    fn stored(&self, tensor: &StoredTensor) -> Result<(u64, u64)> {
        let name = storage_name(tensor);
        match &self.storages {
            Storages::Legacy(offsets) => match offsets.get(&tensor.storage_key) {
                Some(&byte_offset) => Ok((byte_offset, tensor.storage_bytes)),
                None => Err(self.malformed(format!("storage `{}` is not in the file", tensor.storage_key))),
            },
            Storages::Zip(index) => match index.find(&self.item(), &name)? {
                record if record.byte_len == tensor.storage_bytes && record.method == 0 => {
                    Ok((record.header_offset, record.extent_len))
                }
                record => Err(self.malformed(format!(
                    "record `{name}` has {} bytes (method {}), {} stored bytes are expected",
                    record.byte_len, record.method, tensor.storage_bytes
                ))),
            },
        }
    }

    /// Position of the first byte of a tensor's storage, and its recorded checksum.
    fn storage(&self, tensor: &StoredTensor) -> Result<(u64, Option<u32>)> {
        match &self.storages {
            Storages::Legacy(_) => Ok((self.stored(tensor)?.0, None)),
            Storages::Zip(index) => {
                let (mut item, name) = (self.item(), storage_name(tensor));
                let crc32 = index.find(&item, &name)?.crc32;
                // PyTorch can leave checksums out (set_crc32_options), which reads as 0.
                Ok((index.data_offset(&mut item, &name)?, (crc32 != 0).then_some(crc32)))
            }
        }
    }

    /// The elements, row-major, of a tensor that is part of a value.
    fn inline(&self, tensor: &StoredTensor) -> Result<Vec<u8>> {
        self.stored(tensor)?;
        // The offset of a tensor without elements may lie anywhere.
        let span_bytes = tensor.span_bytes();
        if span_bytes == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; span_bytes as usize];
        self.source.read_at(self.storage(tensor)?.0 + tensor.byte_offset(), &mut bytes)?;
        Ok(in_row_major(tensor, bytes))
    }

    fn malformed(&self, why: String) -> Error {
        Error::malformed(&self.object, "torch.save file", why)
    }

    /// Compares a record with its CRC-32; the one found where they differ.
    fn check_record(&self, index: &ZipIndex, name: &str, record: &Record) -> Result<Option<u32>> {
        let mut item = self.item();
        let start = index.data_offset(&mut item, name)?;
        let mut digest = crc_fast::Digest::new(Crc32IsoHdlc);
        let mut buffer = vec![0; record.byte_len.min(CHECK_BYTES) as usize];
        for at in (0..record.byte_len).step_by(CHECK_BYTES as usize) {
            let part = &mut buffer[..CHECK_BYTES.min(record.byte_len - at) as usize];
            self.source.read_at(start + at, part)?;
            digest.update(part);
        }
        let found = digest.finalize() as u32;
        Ok((found != record.crc32).then_some(found))
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
        let start = if tensor.span_bytes() == 0 { 0 } else { tensor.byte_offset() };
        Ok(Elements {
            source: self.source.clone(),
            byte_offset: storage_offset + start,
            strides: tensor.unusual_strides(),
            crc32: crc32.filter(|_| tensor.covers_storage()),
        })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        match self.values.get(fqn) {
            Some(Held::Value(value)) => Ok(value.clone()),
            Some(Held::Unreadable(why)) => {
                Err(Error::BadTensor { fqn: fqn.to_string(), message: why.clone() })
            }
            None => Err(Error::NoSuchName { fqn: fqn.to_string(), hint: String::new() }),
        }
    }

    /// Checks the CRC-32 of every record that is not checked as a tensor's elements: storages that tensors share or do
    /// not fill, and the pickle.
    fn verify_framing(&self, report: &mut dyn FnMut(Finding)) -> Result<()> {
        let Storages::Zip(index) = &self.storages else { return Ok(()) };
        let whole: HashSet<String> =
            self.tensors.values().filter(|tensor| tensor.covers_storage()).map(storage_name).collect();
        for (name, record) in &index.records {
            if record.crc32 == 0 || whole.contains(name) {
                continue;
            }
            let why = match self.check_record(index, name, record) {
                Ok(None) => continue,
                Ok(Some(found)) => {
                    format!("does not have its CRC-32 ({found:08x}, expected {:08x})", record.crc32)
                }
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => format!("cannot be read ({error})"),
            };
            let users = self.tensors.iter().filter(|(_, tensor)| storage_name(tensor) == *name);
            let mut users: Vec<_> = users.map(|(fqn, _)| fqn.clone()).collect();
            users.sort();
            let names = match users.is_empty() {
                true => "none".to_owned(),
                false => users.iter().map(Fqn::as_str).collect::<Vec<_>>().join(", "),
            };
            report(Finding {
                severity: Severity::Damage,
                fqn: users.into_iter().next(),
                object: Some(self.place.key.clone()),
                message: format!("record `{name}` {why}; tensors in it: {names}"),
            });
        }
        Ok(())
    }
}
