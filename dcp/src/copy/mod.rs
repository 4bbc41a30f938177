//! The engine: moves regions between any source and any target in bounded memory.
//!
//! A tensor is walked in *strips*: boxes that fix the leading dims, take a range of one dim and all of the dims after
//! it. A strip meets every source chunk and every target region in a box that is contiguous there, whatever the two
//! shardings are. So each strip is read once with large reads, scattered in memory to the regions that want it, and
//! written with large writes; strips are independent, may finish in any order, and bound the memory. Checksums are
//! CRCs, which combine in any order too.
//!
//! A source chunk that holds its elements in another order, as a transposed one, is met in short runs by such a strip. Its
//! tensors are cut in boxes that have long runs on both sides instead ([`crate::layout::Reorder`]), and a box is written run
//! by run.

mod blocks;
mod compared;
mod engine;
mod framing;
mod job;
mod load;
mod parts;
mod read_box;
mod region_sums;
mod sink;
mod tensor_reader;
#[cfg(test)]
mod tests;
mod turns;

pub use engine::run;
pub use job::{CopyOptions, CopyStats, Job, Output, Progress};
pub use load::{Wanted, load};
pub use tensor_reader::TensorReader;
