//! The trainer: the program of a step, run on libtorch.

pub mod arguments;
pub mod begin;
pub mod checkpoint;
pub mod coordinate;
pub mod deferred;
pub mod error;
pub mod ffi;
pub mod groups;
pub mod launch;
pub mod metrics;
pub mod model;
pub mod optimizer;
pub mod parallel;
pub mod run;
pub mod session;
pub mod shard;
pub mod stop;
pub mod tape;
pub mod train;

pub use error::{Error, Result};
