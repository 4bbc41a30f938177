//! Training the small Llama: figures of TorchTitan and PyTorch, saves and resumes, activations computed again.

mod context;
mod llama;
mod operations;
mod optimizer;
mod parity;
mod parts;
mod recompute;
mod resume;
mod stored;
#[path = "../support/mod.rs"]
mod support;
mod tensor;
mod tied;
