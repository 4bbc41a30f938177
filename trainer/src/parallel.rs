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
//!
//! Context parallelism: each rank has part of the tokens of every sequence, from the embedding to the loss, as
//! [`job::sequence`] says. Only attention needs those of others ([`Parallel::attention`]). Tensor parallelism then cuts these
//! parts.
//!
//! A parameter that is not cut has a gradient of this rank's part of the sequence: the sum over ranks is made once a step.

mod attention;
mod collectives;
mod vocabulary;

use crate::error::{Error, Result};
use crate::ffi::process_group::ProcessGroup;
use crate::groups::{Groups, rank, size};
use crate::shard::rows_of;
use attention::Sharing;
use job::config::{LoadBalancer, RotateMethod};
use job::sequence::Split;
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

/// What of it a configuration chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParallelOptions {
    /// Whether each rank has the logits of its part of the vocabulary alone (`parallelism.disable_loss_parallel`).
    pub is_loss_parallel: bool,
    /// Which tokens of a sequence each rank has (`parallelism.context_parallel_load_balancer`).
    pub load_balancer: Option<LoadBalancer>,
    /// How their keys and values reach each other (`parallelism.context_parallel_rotate_method`).
    pub rotate_method: RotateMethod,
}

impl Default for ParallelOptions {
    /// As of the configuration.
    fn default() -> Self {
        ParallelOptions {
            is_loss_parallel: true,
            load_balancer: Some(LoadBalancer::HeadTail),
            rotate_method: RotateMethod::AllGather,
        }
    }
}

/// The ranks that a rank shares layers and sequences with.
#[derive(Clone, Debug, Default)]
pub struct Parallel {
    tp: Option<Arc<ProcessGroup>>,
    cp: Option<Sharing>,
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
        let sharing = |group: &Arc<ProcessGroup>| Sharing {
            split: Split::new(group.size(), options.load_balancer),
            method: options.rotate_method,
            group: group.clone(),
        };
        let cp = groups.cp.as_ref().map(sharing);
        Ok(Parallel { tp: groups.tp.clone(), cp, options, vocabulary })
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

    /// Of whole sequences, `[batch, sequence]`, the tokens that this rank has.
    ///
    /// Errors: what libtorch gives.
    pub fn own_part(&self, sequences: &Tensor) -> Result<Tensor> {
        self.at_positions(sequences, 1, sequences.size()[1])
    }

    /// Of a table of positions, the rows of those that this rank has, where it has `part` of each sequence.
    ///
    /// Errors: what libtorch gives.
    pub fn own_positions(&self, table: &Tensor, part: i64) -> Result<Tensor> {
        let ranks = self.cp.as_ref().map_or(1, |sharing| sharing.split.ranks());
        self.at_positions(table, 0, part * i64::from(ranks))
    }

    /// What a tensor has along a dim at the positions that this rank has of a sequence of `len`.
    fn at_positions(&self, tensor: &Tensor, dim: i64, len: i64) -> Result<Tensor> {
        let Some(Sharing { split, group, .. }) = &self.cp else { return Ok(tensor.f_narrow(dim, 0, len)?) };
        let ranges = split.positions(len as u64, group.rank());
        let of =
            |range: &Range<u64>| tensor.f_narrow(dim, range.start as i64, (range.end - range.start) as i64);
        Ok(Tensor::f_cat(&ranges.iter().map(of).collect::<Result<Vec<_>, _>>()?, dim)?)
    }

    /// Causal attention, `[batch, heads, sequence, head_dim]` each, of this rank's queries to the keys of the whole sequence.
    /// Keys and values may have fewer heads, a divisor.
    ///
    /// Errors: what libtorch and the collectives give.
    pub fn attention(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        if let Some(sharing) = &self.cp {
            return attention::attention(sharing, query, key, value);
        }
        let is_grouped = query.size()[1] != key.size()[1];
        let mask = None::<&Tensor>;
        Ok(Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, true, None, is_grouped)?)
    }

    /// This rank's tokens: the first, and how many.
    fn tokens(&self) -> (i64, i64) {
        rows_of(self.vocabulary, size(&self.tp), rank(&self.tp))
    }
}
