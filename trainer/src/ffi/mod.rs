//! libtorch beyond what the crate tch reaches: process groups, functions differentiated by closures, random state, any
//! operator by name, storage, streams, and CUDA loaded at run time. Safe Rust over the C++ in `csrc/`.
//!
//! Tensors are tch's. They are handles: a clone of one is the same memory, and nothing keeps one thread from writing what
//! another reads. As in PyTorch, that is left to the caller, and the functions here that read or write memory say so.

#![allow(unsafe_code)]

pub mod autograd;
pub mod device;
pub mod dispatch;
mod heap;
pub mod kind;
mod library;
pub mod memory;
mod outcome;
pub mod process_group;
pub mod rng;
pub mod store;
pub mod stream;
mod sys;
