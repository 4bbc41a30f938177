//! What a checkpoint says, whoever wrote it: names, element types, shapes, stored chunks and values.

mod cast;
mod catalog;
mod dtype;
mod fqn;
pub mod numbers;
mod numpy_type;
mod spec;
mod value;
mod value_repr;

pub use cast::{can_cast, cast};
pub use catalog::{
    Catalog, Chunk, ChunkLookup, ChunkTable, Finding, ObjectInfo, Severity, Tensor, ValueEntry,
};
pub use dtype::DType;
pub use fqn::{Fqn, FqnFilter};
pub(crate) use numpy_type::NumpyType;
pub use spec::{Path, PathPart, TensorSpec};
pub use value::{InlineTensor, Value};
