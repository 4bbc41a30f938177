//! What a tensor is, apart from where it is stored.

use super::DType;

/// Element type and global shape of a tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorSpec {
    /// Element type.
    pub dtype: DType,
    /// Global shape in elements; empty for a 0-d tensor.
    pub shape: Vec<u64>,
}

impl TensorSpec {
    /// A spec; see [`TensorSpec::bytes`] for the sizes that are refused later.
    pub fn new(dtype: DType, shape: impl Into<Vec<u64>>) -> Self {
        TensorSpec { dtype, shape: shape.into() }
    }

    /// Number of elements; `None` on overflow.
    pub fn elements(&self) -> Option<u64> {
        // A zero anywhere makes the product zero even where the other dims overflow.
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
    }

    /// Packed size in bytes; `None` on overflow, or where a sub-byte type does not fill whole blocks.
    pub fn bytes(&self) -> Option<u64> {
        self.dtype.bytes(self.elements()?)
    }
}

/// One step of the way to a value in a nested state dict.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PathPart {
    /// A key of a dict.
    Key(String),
    /// An index of a list.
    Index(u64),
}

/// Where a tensor or value sits in the nested state dict it was saved from; empty when only the FQN is known, which
/// then stands for a single key.
pub type Path = Vec<PathPart>;
