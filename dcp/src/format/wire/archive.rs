//! Values as `torch.save` archives of their own, as `.distcp` files hold them.
//!
//! | record (below the archive's prefix) | content |
//! |---|---|
//! | `data.pkl` | the pickled object, protocol 2 |
//! | `byteorder` | `little`, or absent |
//! | `data/0`, `data/1`, ... | storages of tensors inside the object |
//! | `version` | `3` |
//!
//! Source: torch/serialization.py, PyTorch 2.4 to 2.15.

use super::item::Item;
use super::pickle_read::parse;
use super::pickle_write::PickleWriter;
use super::tensor::{StoredTensor, write_tensor};
use super::value_read::{Budget, in_row_major, value_of};
use super::value_write::write_value;
use super::zip_read::ZipIndex;
use super::zip_write::{ALIGN_BYTES, Contents, NewRecord, ZipLayout};
use crate::error::{Error, Result};
use crate::model::Value;
use crate::storage::memory::MemoryObject;

/// Decodes the archive of one value; `object` names it in errors.
///
/// Errors: [`Error::Malformed`] for what is no archive, nests too deep or has impossible tensors;
/// [`Error::OverLimit`] for what takes too much memory.
pub fn decode(bytes: &[u8], object: &str) -> Result<Value> {
    let memory = MemoryObject::new(object, bytes);
    let mut item = Item::whole(&memory, object);
    let index = ZipIndex::read(&mut item)?;
    check_kind(&index, &mut item)?;
    let data = index.read_record(&mut item, PICKLE_NAME, bytes.len() as u64)?;
    let pickle = parse(&data).map_err(|error| error.of(object))?;
    let mut read = |tensor: &StoredTensor| read_elements(&index, &mut item, tensor);
    let mut budget = Budget::of_file(bytes.len() as u64);
    value_of(&pickle, pickle.root(), object, &mut budget, &mut read)
}

/// The record of the pickle.
pub const PICKLE_NAME: &str = "data.pkl";

/// Refuses archives that are no data of a little-endian machine.
///
/// Errors: [`Error::Malformed`] for a TorchScript program, for data of a big-endian machine (s390x), and where there is
/// no pickle.
pub fn check_kind(index: &ZipIndex, item: &mut Item<'_>) -> Result<()> {
    let refuse = |item: &Item<'_>, why: &str| Err(Error::malformed(item.object(), "torch.save archive", why));
    if index.records.contains_key("constants.pkl") {
        let why =
            "it is a TorchScript archive, a program and not a checkpoint; save its state_dict() instead";
        return refuse(item, why);
    }
    if !index.records.contains_key(PICKLE_NAME) {
        return refuse(item, "it has no record data.pkl");
    }
    if index.records.contains_key("byteorder") && index.read_record(item, "byteorder", 64)? != b"little" {
        return refuse(item, "its byte order is not little; load it and save it on a little-endian machine");
    }
    Ok(())
}

/// Reads the elements of a tensor, row-major.
///
/// Errors: [`Error::Malformed`] where its storage is missing or has another length than the pickle says.
pub fn read_elements(index: &ZipIndex, item: &mut Item<'_>, tensor: &StoredTensor) -> Result<Vec<u8>> {
    let name = storage_name(tensor);
    let found = index.find(item, &name)?.byte_len;
    if found != tensor.storage_bytes {
        let why = format!("record `{name}` has {found} bytes, {} are expected", tensor.storage_bytes);
        return Err(Error::malformed(item.object(), "torch.save archive", why));
    }
    // The offset of a tensor without elements may lie anywhere.
    let span_bytes = tensor.span_bytes();
    if span_bytes == 0 {
        return Ok(Vec::new());
    }
    let offset = index.data_offset(item, &name)? + tensor.byte_offset();
    Ok(in_row_major(tensor, item.read(offset, span_bytes)?))
}

/// Name of the record of a tensor's storage.
pub fn storage_name(tensor: &StoredTensor) -> String {
    format!("data/{}", tensor.storage_key)
}

/// Encodes a value as an archive that `torch.load` reads, under `weights_only=True` for every type but numpy's.
///
/// Errors: in words, for opaque values, types that PyTorch does not have, and what [`decode`] would refuse.
pub fn encode(value: &Value) -> Result<Vec<u8>, String> {
    let mut writer = PickleWriter::new();
    let mut storages = Vec::new();
    write_value(&mut writer, value, &mut |writer, tensor| {
        write_tensor(writer, &tensor.spec, &storages.len().to_string())?;
        storages.push(tensor.bytes.clone());
        Ok(())
    })?;
    let mut records = vec![record("data.pkl", writer.finish()), record("byteorder", b"little".to_vec())];
    records
        .extend(storages.into_iter().enumerate().map(|(key, bytes)| record(&format!("data/{key}"), bytes)));
    records.push(record("version", b"3\n".to_vec()));
    let bytes = ZipLayout::new("archive", records).to_bytes();
    // What is written can be read again: limits of nesting and memory are the reader's.
    decode(&bytes, "the value").map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn record(name: &str, bytes: Vec<u8>) -> NewRecord {
    NewRecord { name: name.to_owned(), contents: Contents::Known(bytes), align_bytes: ALIGN_BYTES }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
