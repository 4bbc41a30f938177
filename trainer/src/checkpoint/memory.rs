//! Live tensors as a save reads them and a load writes them.

use crate::error::{Error, Result};
use crate::ffi::memory;
use dcp::model::DType;
use dcp::save::Source;
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor, no_grad};

/// A contiguous tensor of this rank, read in the type that it is saved in.
#[derive(Debug)]
pub(super) struct LiveTensor {
    byte_len: u64,
    element_bytes: u64,
    kind: Kind,
    /// One thread at a time: handles of tensors may not be used by two.
    tensor: Mutex<Tensor>,
}

impl LiveTensor {
    pub(super) fn new(tensor: &Tensor, dtype: DType) -> Self {
        let (kind, element_bytes) = (kind_of(dtype), dtype.block_bytes());
        let byte_len = tensor.numel() as u64 * element_bytes;
        LiveTensor { byte_len, element_bytes, kind, tensor: Mutex::new(tensor.detach()) }
    }

    fn copy(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let byte_len = target.len() as u64;
        let first = byte_offset / self.element_bytes;
        let elements = (byte_offset + byte_len).div_ceil(self.element_bytes) - first;
        let tensor = self.tensor.lock().unwrap_or_else(PoisonError::into_inner);
        let part = tensor.f_view([-1])?.f_narrow(0, first as i64, elements as i64)?;
        let part = part.f_to_kind(self.kind)?.f_to_device(Device::Cpu)?.f_view_dtype(Kind::Uint8)?;
        let start = (byte_offset - first * self.element_bytes) as i64;
        memory::read(&part.f_narrow(0, start, byte_len as i64)?, target)
    }
}

impl Source for LiveTensor {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read(&self, byte_offset: u64, target: &mut [u8]) -> dcp::Result<()> {
        self.copy(byte_offset, target).map_err(failed)
    }
}

/// An error of libtorch, where the checkpoint's crate wants one of its own.
pub(super) fn failed(error: Error) -> dcp::Error {
    let source = std::io::Error::other(error);
    dcp::Error::Io { object: "a tensor".to_owned(), action: "copying it", source }
}

/// Fills a contiguous tensor with elements of its own type.
pub(crate) fn fill(tensor: &Tensor, bytes: &[u8]) -> Result<()> {
    if tensor.device() == Device::Cpu {
        return memory::write(tensor, bytes);
    }
    let host = Tensor::f_from_data_size(bytes, &tensor.size(), tensor.kind())?;
    no_grad(|| tensor.shallow_clone().f_copy_(&host).map(drop))?;
    Ok(())
}

/// Whether a contiguous tensor has these elements, of its own type, bit for bit.
pub(super) fn is_filled_with(tensor: &Tensor, bytes: &[u8]) -> Result<bool> {
    let mut found = vec![0; bytes.len()];
    LiveTensor::new(tensor, dtype_of(tensor.kind())).copy(0, &mut found)?;
    Ok(found == bytes)
}

/// The type of a tensor of the state.
pub(crate) fn dtype_of(kind: Kind) -> DType {
    match kind {
        Kind::BFloat16 => DType::BF16,
        _ => DType::F32,
    }
}

/// libtorch's name of a type that parameters are saved in.
fn kind_of(dtype: DType) -> Kind {
    match dtype {
        DType::BF16 => Kind::BFloat16,
        DType::F16 => Kind::Half,
        DType::F64 => Kind::Double,
        _ => Kind::Float,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcp::model::cast;

    #[test]
    fn any_part_is_read_in_the_type_that_is_saved() {
        let numbers = [1.0f32, -0.3, 65_504.0, 1e-8, -7.1234567];
        let tensor = Tensor::from_slice(&numbers);
        let stored: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let source = LiveTensor::new(&tensor, dtype);
            let mut expected = vec![0; 5 * dtype.block_bytes() as usize];
            cast(DType::F32, &stored, dtype, &mut expected);
            assert_eq!(source.byte_len(), expected.len() as u64);
            for (from, until) in [(0, expected.len()), (1, 6), (3, 4), (2, 2)] {
                let mut found = vec![0; until - from];
                source.read(from as u64, &mut found).unwrap();
                assert_eq!(found, expected[from..until], "{dtype} {from}..{until}");
            }
        }
    }
}
