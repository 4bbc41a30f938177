//! Distributed training checkpoints: open, check, compare, plan, copy, write.
//!
//! Five nouns carry the crate:
//!
//! * a [`Catalog`](model::Catalog) says what a checkpoint holds: names, types, shapes, stored chunks, values;
//! * a [`Format`](format::Format) turns bytes into a catalog and lays a target out in objects;
//! * a [`Region`](layout::Region) is a box of a tensor; meshes and placements say who holds which;
//! * a [`Storage`](storage::Storage) keeps immutable objects under keys;
//! * the engine in [`copy`] moves regions between any two of them, in bounded memory.

pub mod commit;
pub mod convert;
pub mod coordinate;
pub mod copy;
pub mod diff;
pub mod error;
pub mod format;
pub mod layout;
pub mod load;
pub mod model;
pub mod plan;
pub mod prune;
pub mod save;
pub mod storage;
mod threads;
pub mod transfer;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
pub use model::numbers;
