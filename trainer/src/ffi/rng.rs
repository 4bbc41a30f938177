//! Random numbers, determinism, threads.

use super::outcome::{check, int, raw, take_tensor};
use super::sys;
use crate::error::{Error, Result};
use std::ptr::null_mut;
use tch::{Device, Kind, Tensor};

/// The state of a generator: bytes that a checkpoint can hold. The CPU's is 5,056 bytes long, CUDA's 16.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RngState(Vec<u8>);

impl RngState {
    /// A state from bytes; whether they are one shows when it is set.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        RngState(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Seeds the default generators of the CPU and of every CUDA device.
pub fn manual_seed(seed: u64) -> Result<()> {
    // SAFETY: locks each generator.
    unsafe { check("manual_seed", sys::titan_manual_seed(seed)) }
}

/// The state of a device's default generator.
pub fn state(device: Device) -> Result<RngState> {
    let mut state = null_mut();
    let index = generator(device)?;
    // SAFETY: the out pointer outlives the call; what is handed out is ours.
    let state = unsafe {
        check("rng::state", sys::titan_rng_state(index, &mut state))?;
        take_tensor(state)
    };
    let state = state.expect("the shim writes its out pointers when it succeeds");
    let mut bytes = vec![0; state.numel()];
    super::memory::read(&state, &mut bytes)?;
    Ok(RngState(bytes))
}

/// Sets the state of a device's default generator; fails where the bytes are no state of such a generator.
pub fn set_state(device: Device, state: &RngState) -> Result<()> {
    let index = generator(device)?;
    let bytes = Tensor::f_from_data_size(&state.0, &[state.0.len() as i64], Kind::Uint8)
        .map_err(|error| Error::Torch { call: "rng::set_state".into(), message: error.to_string() })?;
    // SAFETY: the tensor is alive.
    unsafe { check("rng::set_state", sys::titan_set_rng_state(index, raw(&bytes))) }
}

/// Has operators give the same bits every time, where they can; those that cannot fail, or with `warn_only` warn.
/// `CUBLAS_WORKSPACE_CONFIG=:4096:8` has to be set before the start for CUDA.
pub fn set_deterministic(on: bool, warn_only: bool) -> Result<()> {
    // SAFETY: sets flags.
    unsafe { check("set_deterministic", sys::titan_deterministic(on, warn_only)) }
}

/// Sets how many threads an operator uses on the CPU.
pub fn set_threads(count: u32) -> Result<()> {
    if count == 0 {
        return Err(Error::Usage("0 threads: at least 1 is needed".into()));
    }
    // SAFETY: sets a number.
    unsafe { check("set_threads", sys::titan_set_threads(int(count, "the number of threads")?)) }
}

/// How many threads an operator uses on the CPU.
pub fn threads() -> u32 {
    // SAFETY: reads a number.
    unsafe { sys::titan_threads() }.unsigned_abs()
}

/// A generator's index as the shim takes it.
fn generator(device: Device) -> Result<i32> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) => int(u32::try_from(index).unwrap_or(u32::MAX), "a device"),
        other => Err(Error::Usage(format!("{other:?}: only the CPU and CUDA have a generator here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_state_are_refused() {
        for bytes in [vec![], vec![0; 16], vec![7; 5056]] {
            set_state(Device::Cpu, &RngState::from_bytes(bytes)).unwrap_err();
        }
        assert!(state(Device::Mps).unwrap_err().to_string().contains("only the CPU and CUDA"));
    }
}
