//! Training the small Llama: figures of TorchTitan, saves and resumes, activations computed again.

mod llama;
mod parity;
mod parts;
mod recompute;
mod resume;
#[path = "../support/mod.rs"]
mod support;
