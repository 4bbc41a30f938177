//! What was read last of a store's objects, so that small reads beside each other cost one request.

use crate::threads::lock;
use object_store::ObjectMeta;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Stretches are fetched at multiples of this length: what a request costs, a round trip, is then still most of it.
pub(super) const WINDOW_BYTES: u64 = 64 << 10;
/// Kept for all objects of a store together, 16 MiB: a reader looks at a few hundred of them in turn.
const WINDOWS_MAX: usize = 256;

/// The stretches, the one used longest ago first.
#[derive(Debug, Default)]
pub(super) struct Windows(Mutex<VecDeque<Window>>);

#[derive(Debug)]
struct Window {
    object: Arc<ObjectMeta>,
    index: u64,
    bytes: Arc<[u8]>,
}

impl Windows {
    /// A stretch of this version of an object, where it is kept.
    pub(super) fn get(&self, object: &Arc<ObjectMeta>, index: u64) -> Option<Arc<[u8]>> {
        let mut recent = lock(&self.0);
        let at =
            recent.iter().rposition(|window| window.index == index && is_same(&window.object, object))?;
        let window = recent.remove(at)?;
        let bytes = window.bytes.clone();
        recent.push_back(window);
        Some(bytes)
    }

    /// Keeps a stretch.
    pub(super) fn put(&self, object: &Arc<ObjectMeta>, index: u64, bytes: Arc<[u8]>) {
        let mut recent = lock(&self.0);
        if recent.len() == WINDOWS_MAX {
            recent.pop_front();
        }
        recent.push_back(Window { object: object.clone(), index, bytes });
    }
}

/// Whether it is the same version of the same object, opened once or more often.
fn is_same(one: &Arc<ObjectMeta>, other: &Arc<ObjectMeta>) -> bool {
    let tagged = || one.e_tag.is_some() && one.e_tag == other.e_tag && one.size == other.size;
    Arc::ptr_eq(one, other) || (tagged() && one.location == other.location)
}

/// The stretches that a range touches.
pub(super) fn touched(range: &Range<u64>) -> Range<u64> {
    range.start / WINDOW_BYTES..range.end.div_ceil(WINDOW_BYTES)
}

/// The part of `range` in stretch `index`, and where the stretch starts.
pub(super) fn share(range: &Range<u64>, index: u64) -> (Range<u64>, u64) {
    let start = index * WINDOW_BYTES;
    (range.start.max(start)..range.end.min(start + WINDOW_BYTES), start)
}
