//! Blocks read, checked and decoded a moment ago, shared by all chunks of an open checkpoint.
//!
//! Neighbouring small reads fall into one block; without this each would fetch and check it again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes kept.
const RECENT_BYTES_MAX: usize = 32 << 20;

/// Object and byte offset of a block.
type BlockId = (u32, u64);

/// The most recently used blocks, as many as fit in [`RECENT_BYTES_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Oldest first. A few dozen at most: blocks have a MiB, frames up to 4.
    blocks: Mutex<VecDeque<(BlockId, Arc<Vec<u8>>)>>,
}

impl Recent {
    /// The block, made with `make` where it is not kept. Two threads that miss the same block both make it.
    pub(crate) fn get<E>(
        &self,
        id: BlockId,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Arc<Vec<u8>>, E> {
        if let Some(found) = self.take(id) {
            self.keep(id, found.clone());
            return Ok(found);
        }
        let made = Arc::new(make()?);
        self.keep(id, made.clone());
        Ok(made)
    }

    fn take(&self, id: BlockId) -> Option<Arc<Vec<u8>>> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = blocks.iter().position(|(own, _)| *own == id)?;
        blocks.remove(at).map(|(_, block)| block)
    }

    fn keep(&self, id: BlockId, block: Arc<Vec<u8>>) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.retain(|(own, _)| *own != id);
        blocks.push_back((id, block));
        let mut bytes: usize = blocks.iter().map(|(_, block)| block.len()).sum();
        while bytes > RECENT_BYTES_MAX {
            let Some((_, oldest)) = blocks.pop_front() else { break };
            bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn keeps_the_most_recently_used_within_its_bytes() {
        let recent = Recent::default();
        let made = std::cell::Cell::new(0);
        let get = |id: u64| {
            let make = || {
                made.set(made.get() + 1);
                Ok::<_, Infallible>(vec![id as u8; RECENT_BYTES_MAX / 4])
            };
            let Ok(block) = recent.get((0, id), make);
            assert_eq!(block[0], id as u8);
        };
        (0..4).for_each(get);
        get(0);
        assert_eq!(made.get(), 4);
        get(4); // pushes out 1, the least recently used
        get(0);
        assert_eq!(made.get(), 5);
        get(1);
        assert_eq!(made.get(), 6);
    }
}
