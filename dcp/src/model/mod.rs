//! What a checkpoint says, whoever wrote it: names, element types, shapes, stored chunks and values.

mod catalog;
mod dtype;
mod fqn;
mod spec;
mod value;

pub use catalog::{
    Catalog, Chunk, ChunkLookup, ChunkTable, Finding, ObjectInfo, Severity, Tensor, ValueEntry,
};
pub use dtype::DType;
pub use fqn::{Fqn, FqnFilter};
pub use spec::{Path, PathPart, TensorSpec};
pub use value::{InlineTensor, Value};
