//! The configuration of a job, in TorchTitan 0.2's TOML and flags.
//!
//! `table` lists every section and key; `file` and `flags` make assignments of what the user wrote, `load` puts them in
//! order of precedence, `validate` says whether the values fit together and the number of ranks, `help` prints the table.

mod choice;
mod file;
mod flags;
mod flavor;
mod help;
mod key;
mod load;
pub(crate) mod names;
mod setting;
mod table;
mod validate;

pub use choice::*;
pub use flavor::Flavor;
pub use help::{help, reference};
pub use key::{Key, RefusedValue, Rule, Status};
pub use load::{Origin, Parsed};
pub use setting::{Setting, Value};
pub use table::*;

#[cfg(test)]
mod tests;
