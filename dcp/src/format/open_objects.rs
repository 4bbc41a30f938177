//! Keeps the objects of an open checkpoint open, a bounded number of them.

use crate::error::{Error, Result};
use crate::model::Catalog;
use crate::storage::{Place, ReadAt};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The most objects kept open for the next call.
const OPEN_OBJECTS_MAX: usize = 64;

/// The objects opened last, by index into the catalog's objects, the oldest first.
#[derive(Debug, Default)]
pub(super) struct OpenObjects(Mutex<VecDeque<(u32, Arc<dyn ReadAt>)>>);

impl OpenObjects {
    /// The object of this index, opened unless it was among the last that were.
    pub(super) fn get(&self, place: &Place, catalog: &Catalog, object: u32) -> Result<Arc<dyn ReadAt>> {
        if let Some((_, source)) =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|(index, _)| *index == object)
        {
            return Ok(Arc::clone(source));
        }
        let info = catalog.objects.get(object as usize).ok_or_else(|| Error::NotFound {
            object: format!("{}: object {object} of its catalog", place.display()),
        })?;
        let source = place.store.open(&info.key)?;
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() == OPEN_OBJECTS_MAX {
            open.pop_front();
        }
        open.push_back((object, Arc::clone(&source)));
        Ok(source)
    }
}
