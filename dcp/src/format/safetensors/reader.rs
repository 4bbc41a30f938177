//! An open checkpoint of this format.

use crate::error::{Error, Result};
use crate::format::{Elements, Reader};
use crate::model::{Catalog, Chunk, Fqn, Tensor, Value};
use crate::storage::{Place, ReadAt};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The most files kept open for the next call.
const OPEN_FILES_MAX: usize = 64;

/// Catalog and open files.
#[derive(Debug)]
pub(super) struct SafetensorsReader {
    place: Place,
    catalog: Catalog,
    /// The files opened last, by index into the catalog's objects, the oldest first.
    open: Mutex<VecDeque<(u32, Arc<dyn ReadAt>)>>,
}

impl SafetensorsReader {
    pub(super) fn new(place: Place, catalog: Catalog) -> Self {
        SafetensorsReader { place, catalog, open: Mutex::default() }
    }

    /// The file `object`, opened unless it was among the last that were.
    fn source(&self, object: u32) -> Result<Arc<dyn ReadAt>> {
        // What the lock guards is whole between any two calls on it, so a panic elsewhere does no harm.
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, source)) = open().iter().find(|(index, _)| *index == object) {
            return Ok(Arc::clone(source));
        }
        let info = self.catalog.objects.get(object as usize).ok_or_else(|| Error::NotFound {
            object: format!("{}: object {object} of its catalog", self.place.display()),
        })?;
        let source = self.place.store.open(&info.key)?;
        let mut open = open();
        if open.len() == OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back((object, Arc::clone(&source)));
        Ok(source)
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
        let source = self.source(chunk.object)?;
        Ok(Elements { source, byte_offset: chunk.byte_offset, strides: None, crc32: None })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        let hint = "; safetensors files hold tensors only".to_owned();
        Err(Error::NoSuchName { fqn: fqn.to_string(), hint })
    }
}
