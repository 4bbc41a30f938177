//! What is saved: every tensor of the job by name and placement, this rank's share of the bytes, its values.

use crate::error::Result;
use crate::layout::{Mesh, Placement};
use crate::model::{Fqn, Path, TensorSpec, Value};
use std::fmt::Debug;
use std::sync::Arc;

/// A job's state as one rank sees it. Mesh and tensors are the same list on every rank; `local` and values are its own.
#[derive(Debug, Default)]
pub struct State {
    /// The mesh; without one, the job has one rank and every tensor is whole.
    pub mesh: Option<Arc<Mesh>>,
    /// Every tensor of the job.
    pub tensors: Vec<StateTensor>,
    /// This rank's values. A name that several ranks give must have the same value on all.
    pub values: Vec<StateValue>,
}

/// One tensor.
#[derive(Debug)]
pub struct StateTensor {
    /// Its name.
    pub fqn: Fqn,
    /// Element type and global shape.
    pub spec: TensorSpec,
    /// Where it sits in the nested state dict; empty when unknown.
    pub path: Path,
    /// One placement per mesh axis.
    pub placements: Vec<Placement>,
    /// This rank's box, row-major; `None` where it holds none.
    pub local: Option<Arc<dyn Source>>,
}

/// One value that is no tensor.
#[derive(Clone, Debug)]
pub struct StateValue {
    /// Its name.
    pub fqn: Fqn,
    /// Where it sits in the nested state dict; empty when unknown.
    pub path: Path,
    /// The value.
    pub value: Value,
}

/// Bytes that a snapshot is taken of: host memory, or a device's. Nothing may change them before
/// [`wait_staged`](super::Saving::wait_staged) returns.
pub trait Source: Send + Sync + Debug {
    /// How many there are.
    fn byte_len(&self) -> u64;

    /// Copies some to host memory. Called from several threads, each byte once per save.
    ///
    /// Errors: what the device gives.
    fn read(&self, byte_offset: u64, target: &mut [u8]) -> Result<()>;
}

/// Bytes in this process's memory.
#[derive(Clone)]
pub struct HostMemory(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl HostMemory {
    /// Shares anything that holds bytes.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        HostMemory(Arc::new(bytes))
    }
}

impl Debug for HostMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostMemory({} bytes)", self.byte_len())
    }
}

impl Source for HostMemory {
    fn byte_len(&self) -> u64 {
        (*self.0).as_ref().len() as u64
    }

    fn read(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let from = byte_offset as usize;
        target.copy_from_slice(&(*self.0).as_ref()[from..from + target.len()]);
        Ok(())
    }
}
