//! An open checkpoint of this format.

use crate::error::{Error, Result};
use crate::format::open_objects::OpenObjects;
use crate::format::{Elements, Reader};
use crate::model::{Catalog, Chunk, Fqn, Tensor, Value};
use crate::storage::Place;

/// Catalog and open files.
#[derive(Debug)]
pub(super) struct SafetensorsReader {
    place: Place,
    catalog: Catalog,
    open: OpenObjects,
}

impl SafetensorsReader {
    pub(super) fn new(place: Place, catalog: Catalog) -> Self {
        SafetensorsReader { place, catalog, open: OpenObjects::default() }
    }
}

impl Reader for SafetensorsReader {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, _fqn: &Fqn, _tensor: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let source = self.open.get(&self.place, &self.catalog, chunk.object)?;
        Ok(Elements { source, byte_offset: chunk.byte_offset, strides: None, crc32: None })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        let hint = "; safetensors files hold tensors only".to_owned();
        Err(Error::NoSuchName { fqn: fqn.to_string(), hint })
    }
}
