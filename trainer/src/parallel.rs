//! How ranks share layers and sequences: what a model's forward pass and its loss have of other ranks. On one rank
//! everything here is the operation without it.
//!
//! Tensor parallelism (Shoeybi et al. 2019) with sequence parallelism (Korthikanti et al. 2022), as TorchTitan 0.2.2 has
//! it. Between blocks a rank has its part of the sequence, `[batch, sequence / tp, dim]`; inside them the whole sequence
//! and its part of heads, hidden dim and vocabulary:
//!
//! | operation | forward | backward |
//! |---|---|---|
//! | [`Parallel::whole_sequence`], before a product with a weight cut along its outputs | all-gather | reduce-scatter |
//! | [`Parallel::part_of_sequence`], after one with a weight cut along its inputs | reduce-scatter | all-gather |
//! | [`Parallel::replicated`], the first without sequence parallelism | identity | all-reduce |
//! | [`Parallel::sum`], the second without it | all-reduce | identity |
//!
//! A parameter that is not cut has a gradient of this rank's part of the sequence: the sum over ranks is made once a step.

mod collectives;
mod vocabulary;

use crate::error::{Error, Result};
use crate::ffi::process_group::ProcessGroup;
use crate::groups::{Groups, rank, size};
use crate::shard::rows_of;
use std::sync::Arc;
use tch::Tensor;

/// What of it a configuration chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParallelOptions {
    /// Whether each rank has the logits of its part of the vocabulary alone (`parallelism.disable_loss_parallel`).
    pub is_loss_parallel: bool,
}

impl Default for ParallelOptions {
    /// As of the configuration.
    fn default() -> Self {
        ParallelOptions { is_loss_parallel: true }
    }
}

/// The ranks that a rank shares layers and sequences with.
#[derive(Clone, Debug, Default)]
pub struct Parallel {
    tp: Option<Arc<ProcessGroup>>,
    options: ParallelOptions,
    /// Rows of embedding and head.
    vocabulary: i64,
}

impl Parallel {
    /// For a model of that many tokens.
    ///
    /// Errors: [`Error::Usage`] where a rank would have no part of the vocabulary.
    pub fn new(groups: &Groups, options: ParallelOptions, vocabulary: i64) -> Result<Self> {
        let ranks = size(&groups.tp);
        if rows_of(vocabulary, ranks, ranks - 1).1 == 0 && ranks > 1 {
            return Err(Error::Usage(format!(
                "parallelism.tensor_parallel_degree = {ranks}: of {vocabulary} tokens each rank takes {}, which leaves none \
                 for the last; lower it",
                rows_of(vocabulary, ranks, 0).1
            )));
        }
        Ok(Parallel { tp: groups.tp.clone(), options, vocabulary })
    }

    /// Whether layers are shared.
    pub fn has_parts(&self) -> bool {
        self.tp.is_some()
    }

    /// The size of what goes between blocks, for tokens `[batch, sequence]`.
    pub fn part_size(&self, tokens: &[i64]) -> Vec<i64> {
        let ranks = i64::from(size(&self.tp));
        tokens.iter().zip(0..).map(|(&len, dim)| if dim == 1 { len / ranks } else { len }).collect()
    }

    /// Of a part of the sequence, `[batch, sequence / tp, ..]`, the whole. Each rank's computation with it adds to the
    /// gradient.
    ///
    /// Errors: what the collective gives.
    pub fn whole_sequence(&self, part: &Tensor) -> Result<Tensor> {
        match &self.tp {
            None => Ok(part.shallow_clone()),
            Some(group) => collectives::gather(group, part, 1),
        }
    }

    /// The sum over ranks, `[batch, sequence, ..]` each, of which each rank gets its part of the sequence.
    ///
    /// Errors: what the collective gives.
    pub fn part_of_sequence(&self, addend: &Tensor) -> Result<Tensor> {
        match &self.tp {
            None => Ok(addend.shallow_clone()),
            Some(group) => collectives::scatter_sum(group, addend, 1),
        }
    }

    /// What is the same on all ranks, for each to compute something else with: the gradient is the sum of theirs.
    ///
    /// Errors: what libtorch gives.
    pub fn replicated(&self, input: &Tensor) -> Result<Tensor> {
        match &self.tp {
            None => Ok(input.shallow_clone()),
            Some(group) => collectives::replicated(group, input),
        }
    }

    /// The sum over ranks, the same on all of them. Its gradient is too.
    ///
    /// Errors: what the collective gives.
    pub fn sum(&self, addend: &Tensor) -> Result<Tensor> {
        match &self.tp {
            None => Ok(addend.shallow_clone()),
            Some(group) => collectives::sum(group, addend),
        }
    }

    /// This rank's tokens: the first, and how many.
    fn tokens(&self) -> (i64, i64) {
        rows_of(self.vocabulary, size(&self.tp), rank(&self.tp))
    }
}
