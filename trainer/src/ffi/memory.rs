//! Memory behind tensors: given up and taken back, read, written, pinned.

use super::kind;
use super::outcome::{check, raw, take_tensor};
use super::sys;
use crate::error::{Error, Result};
use std::ptr::null_mut;
use tch::{Device, Kind, Tensor};

/// Length of a tensor's storage in bytes, which tensors that are views of one another share.
pub fn storage_byte_len(tensor: &Tensor) -> Result<usize> {
    let mut byte_len = 0;
    // SAFETY: tensor and out pointer are alive.
    unsafe { check("storage_byte_len", sys::titan_storage_byte_len(raw(tensor), &mut byte_len)) }?;
    Ok(byte_len)
}

/// Gives up a storage's memory. The tensors that share it keep their shapes; until [`allocate_storage`] gives memory back,
/// no operator may read or write them: as in PyTorch, one on the CPU would end the process.
pub fn free_storage(tensor: &Tensor) -> Result<()> {
    // SAFETY: the tensor is alive. No reference of Rust's points into a tensor's memory: see `read` and `write`.
    unsafe { check("free_storage", sys::titan_storage_resize(raw(tensor), 0)) }
}

/// Gives a storage new memory of this length, whose content is not set.
pub fn allocate_storage(tensor: &Tensor, byte_len: usize) -> Result<()> {
    // SAFETY: as in `free_storage`.
    unsafe { check("allocate_storage", sys::titan_storage_resize(raw(tensor), byte_len)) }
}

/// Copies the elements of a contiguous tensor on the CPU into bytes of their length.
pub fn read(tensor: &Tensor, bytes: &mut [u8]) -> Result<()> {
    let data = data(tensor, bytes.len())?;
    if !bytes.is_empty() {
        // SAFETY: `data` says that the tensor's elements are this many bytes there; the slice is ours alone, so that they
        // cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(data, bytes.as_mut_ptr(), bytes.len()) }
    }
    Ok(())
}

/// Copies bytes into a contiguous tensor on the CPU of their length. Does not count as a write in place.
pub fn write(tensor: &Tensor, bytes: &[u8]) -> Result<()> {
    let data = data(tensor, bytes.len())?;
    if !bytes.is_empty() {
        // SAFETY: as in `read`; nothing in Rust borrows a tensor's memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len()) }
    }
    Ok(())
}

/// A tensor in pinned host memory, which CUDA copies from and to without waiting. Fails where there is no CUDA device.
pub fn pinned(shape: &[i64], kind: Kind) -> Result<Tensor> {
    let mut tensor = null_mut();
    // SAFETY: shape and out pointer outlive the call; what is handed out is ours.
    unsafe {
        check("pinned", sys::titan_pinned(shape.as_ptr(), shape.len(), kind::code(kind), &mut tensor))?;
        Ok(take_tensor(tensor).expect("the shim writes its out pointers when it succeeds"))
    }
}

/// Where the elements of a contiguous tensor on the CPU are, all `byte_len` bytes of them.
fn data(tensor: &Tensor, byte_len: usize) -> Result<*mut u8> {
    let wrong =
        |why: String| Error::Usage(format!("a tensor of {:?} {:?}: {why}", tensor.kind(), tensor.size()));
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(wrong(format!(
            "only contiguous ones on the CPU can be copied, not on {:?}",
            tensor.device()
        )));
    }
    let expected = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if expected != byte_len {
        return Err(wrong(format!("has {expected} bytes, not {byte_len}")));
    }
    let mut data = null_mut();
    // SAFETY: tensor and out pointer are alive.
    unsafe { check("data", sys::titan_data(raw(tensor), byte_len, &mut data)) }?;
    Ok(data.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_and_out() {
        let tensor = Tensor::from_slice(&[1i32, -2, 3]);
        let mut bytes = [0; 12];
        read(&tensor, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 0, 0, 0, 254, 255, 255, 255, 3, 0, 0, 0]);
        write(&tensor.narrow(0, 1, 2), &[5, 0, 0, 0, 6, 0, 0, 0]).unwrap();
        assert_eq!(Vec::<i32>::try_from(&tensor).unwrap(), [1, 5, 6]);
        read(&tensor.narrow(0, 0, 0), &mut []).unwrap();
    }

    #[test]
    fn what_cannot_be_copied_is_an_error() {
        let tensor = Tensor::from_slice2(&[[1f32, 2.0], [3.0, 4.0]]);
        let message = |result: Result<()>| result.unwrap_err().to_string();
        assert!(message(read(&tensor, &mut [0; 15])).contains("has 16 bytes, not 15"));
        assert!(message(read(&tensor.tr(), &mut [0; 16])).contains("only contiguous"));
        free_storage(&tensor).unwrap();
        assert!(message(write(&tensor, &[0; 16])).contains("given up"));
    }

    #[test]
    fn a_storage_is_given_up_and_taken_back_under_its_views() {
        let whole = Tensor::arange(8, (Kind::Float, Device::Cpu));
        let part = whole.narrow(0, 4, 2);
        free_storage(&part).unwrap();
        assert_eq!((storage_byte_len(&whole).unwrap(), part.size()), (0, vec![2]));
        allocate_storage(&whole, 32).unwrap();
        whole.shallow_clone().copy_(&Tensor::arange(8, (Kind::Float, Device::Cpu)));
        assert_eq!(Vec::<f32>::try_from(&part).unwrap(), [4.0, 5.0]);
    }

    #[test]
    fn memory_of_another_owner_is_not_resized() {
        let mut owned = [1f32; 4];
        // SAFETY: the memory outlives the tensor, and nothing else uses it.
        let tensor =
            unsafe { Tensor::from_blob(owned.as_mut_ptr().cast(), &[4], &[1], Kind::Float, Device::Cpu) };
        let error = free_storage(&tensor).unwrap_err();
        assert!(error.to_string().contains("another owner"), "{error}");
    }

    #[test]
    fn pinned_memory_without_a_device_is_an_error() {
        if !tch::Cuda::is_available() {
            let error = pinned(&[4], Kind::Float).unwrap_err();
            assert!(error.to_string().contains("needs a CUDA device"), "{error}");
        }
    }
}
