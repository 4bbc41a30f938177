//! Model families as data, and what follows from them.
//!
//! * a [`Model`](spec::Model) says of a family and flavor which parameters there are, with shape, type, initialiser and
//!   sharding, and which elements of Hugging Face's tensors they are;
//! * a [`Link`](link::Link) is a one-to-one map between elements of two tensors; every rearrangement is made of links;
//! * a [`View`](view::View) is a checkpoint seen through links: the engine of `dcp` reads it as any other;
//! * a [`Seed`](seed::Seed) is a checkpoint that nobody wrote: every element is computed when it is read.
//!
//! `families` has one file for each family; nothing else knows any.

pub mod dequantised;
pub mod dialect;
pub mod error;
pub mod exchange;
pub mod export;
pub mod families;
pub mod init;
pub mod joined;
pub mod link;
mod native;
pub mod seed;
pub mod spec;
pub mod spelling;
pub mod view;

pub use error::{Error, Result};
