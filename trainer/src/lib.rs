//! The trainer. So far its ground: libtorch, safely, in [`ffi`].

pub mod error;
pub mod ffi;

pub use error::{Error, Result};
