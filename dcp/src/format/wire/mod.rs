//! Encodings that several formats share: pickles, zip archives, and the `torch.save` archive made of the two.
//!
//! Everything here reads bytes of unknown origin. Nothing is executed; lengths are checked before they are used; every
//! limit is a named constant.

pub mod archive;
pub mod item;
#[cfg(test)]
mod memory;
mod numpy;
mod pickle_build;
mod pickle_cursor;
pub mod pickle_nodes;
mod pickle_opcode;
pub mod pickle_read;
mod pickle_text;
pub mod pickle_write;
pub mod tensor;
pub mod value_json;
pub mod value_read;
pub mod value_write;
pub mod zip_read;
pub mod zip_write;
