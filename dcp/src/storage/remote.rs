//! Object stores over a network: S3, Google Cloud Storage, Azure Blob Storage, and web servers to read from.
//!
//! Requests go through the `object_store` crate, which signs, retries and times out. Here is what a checkpoint needs of
//! them: ranged reads several at a time, objects written in parts in any order in bounded memory, and a create that
//! knows whether it happened.

mod exclusive;
mod failure;
mod open;
mod parts;
mod reader;
mod requests;
mod resume;
mod runtime;
mod spill;
#[cfg(test)]
mod spill_tests;
mod store;
mod uploads;
mod windows;
#[cfg(test)]
mod windows_tests;
mod writer;

pub use open::{open_azure, open_google, open_http, open_https, open_s3};
pub use store::RemoteStore;
