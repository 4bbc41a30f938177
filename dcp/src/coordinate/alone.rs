//! A job of one process.

use super::{Coordinator, check_group};
use crate::error::Result;

/// The only rank there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Coordinator for Alone {
    fn rank(&self) -> u32 {
        0
    }

    fn ranks(&self) -> u32 {
        1
    }

    fn gather(&self, _tag: &str, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        Ok(Some(vec![bytes.to_vec()]))
    }

    fn broadcast(&self, _tag: &str, from: u32, group: &[u32], _bytes: &mut [u8]) -> Result<()> {
        check_group(0, 1, from, group)
    }

    fn share(&self, _tag: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Job, all};
    use super::*;
    use std::sync::Arc;

    #[test]
    fn conforms() {
        all(1, &|_, _| Job { ranks: vec![Arc::new(Alone)], held: Box::new(|| 0) });
    }
}
