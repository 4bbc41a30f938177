//! Sub-byte element types, seen as arrays of whole bytes.
//!
//! An `F4` tensor packs 2 elements in a byte, an `F6` tensor 4 in 3 bytes. The engine moves *blocks*: it divides the
//! last dim by the block's elements and uses the block's bytes as element size. A tensor whose last dim does not
//! divide can only be moved whole, as one flat row of blocks.

use crate::error::{Error, Result};
use crate::layout::Region;
use crate::model::{DType, TensorSpec};

/// How one tensor's elements map to blocks.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    dtype: DType,
    /// Shape in blocks.
    shape: Vec<u64>,
    /// Whether the tensor had to be flattened, and can only be moved whole.
    flat: bool,
    whole: Region,
}

impl Blocks {
    /// Errors: [`Error::BadTensor`] where the elements do not fill whole blocks or their bytes overflow.
    pub(crate) fn new(fqn: &str, spec: &TensorSpec) -> Result<Self> {
        let bytes = spec.bytes().ok_or_else(|| Error::BadTensor {
            fqn: fqn.to_owned(),
            message: format!(
                "shape {:?} of {} has no size in whole bytes below 2^64",
                spec.shape, spec.dtype
            ),
        })?;
        let per_block = spec.dtype.block_elements();
        let mut shape = spec.shape.clone();
        let flat = match shape.last_mut() {
            _ if per_block == 1 => false,
            Some(last) if *last % per_block == 0 => {
                *last /= per_block;
                false
            }
            _ => true,
        };
        if flat {
            shape = vec![bytes / spec.dtype.block_bytes()];
        }
        Ok(Blocks { dtype: spec.dtype, shape, flat, whole: Region::whole(&spec.shape) })
    }

    /// The tensor's shape in blocks.
    pub(crate) fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The element type.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of one block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.dtype.block_bytes() as usize
    }

    /// A region in blocks.
    ///
    /// Errors: [`Error::BadTensor`] where the region cuts a block.
    pub(crate) fn region(&self, fqn: &str, region: &Region) -> Result<Region> {
        let per_block = self.dtype.block_elements();
        if per_block == 1 {
            return Ok(region.clone());
        }
        if self.flat && *region == self.whole {
            return Ok(Region::whole(&self.shape));
        }
        let mut blocks = region.clone();
        match (blocks.start.last_mut(), blocks.extent.last_mut()) {
            (Some(start), Some(extent))
                if !self.flat && *start % per_block == 0 && *extent % per_block == 0 =>
            {
                *start /= per_block;
                *extent /= per_block;
                Ok(blocks)
            }
            _ => Err(Error::BadTensor {
                fqn: fqn.to_owned(),
                message: format!(
                    "region {region:?} cuts a group of {per_block} packed {} elements; cut the last dim at multiples of {per_block}",
                    self.dtype
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_byte_tensors_are_cut_at_whole_blocks_only() {
        let blocks = Blocks::new("w", &TensorSpec::new(DType::F6E2M3, [2, 8])).unwrap();
        assert_eq!((blocks.shape(), blocks.block_bytes()), (&[2, 2][..], 3));
        assert_eq!(blocks.region("w", &Region::new([1, 4], [1, 4])).unwrap(), Region::new([1, 1], [1, 1]));
        assert!(blocks.region("w", &Region::new([0, 2], [1, 4])).is_err());
        let odd = Blocks::new("w", &TensorSpec::new(DType::F4, [2, 3])).unwrap();
        assert_eq!(odd.region("w", &Region::whole(&[2, 3])).unwrap(), Region::whole(&[3]));
        assert!(odd.region("w", &Region::new([0, 0], [1, 2])).is_err());
        assert!(Blocks::new("w", &TensorSpec::new(DType::F4, [3])).is_err());
    }
}
