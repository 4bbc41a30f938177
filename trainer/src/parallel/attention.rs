//! Causal attention over sequences that ranks share: keys and values travel, queries stay.
//!
//! A rank computes its queries with the keys of one rank after the other, its own first. Of each it gets an output and the
//! logarithm of the sum of exponentials that it was divided by, with which outputs are merged (Liu, Zaharia, Abbeel 2023,
//! "Ring Attention"). The backward pass of each tile takes the merged output and the merged logarithm, so that its parts
//! add up.
//!
//! By all-gather, all keys and values are fetched at once, while the own are computed with; the gradients of theirs are
//! summed by reduce-scatter. By all-to-all, each rank passes on what it has to the next while it computes, and the gradients
//! go the same way one step later.

mod tile;
mod travelling;

use crate::error::{Error, Result};
use crate::ffi::autograd::{Function, apply};
use crate::ffi::process_group::ProcessGroup;
use job::config::RotateMethod;
use job::sequence::Split;
use std::ops::Range;
use std::sync::Arc;
use tch::{Kind, Tensor};
use travelling::{Sums, Travelling};

/// The dim of positions in `[batch, heads, sequence, head_dim]`.
const SEQUENCE: i64 = 2;

/// How ranks share sequences.
#[derive(Clone, Debug)]
pub(super) struct Sharing {
    pub(super) group: Arc<ProcessGroup>,
    pub(super) split: Split,
    pub(super) method: RotateMethod,
}

/// Attention of this rank's queries, `[batch, heads, sequence / cp, head_dim]`, over the keys of all ranks. Keys and values
/// may have fewer heads.
pub(super) fn attention(sharing: &Sharing, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    Ok(apply(SharedAttention(sharing.clone()), &[query, key, value])?.swap_remove(0))
}

struct SharedAttention(Sharing);

impl Function for SharedAttention {
    fn forward(&mut self, inputs: &[Tensor], save: &mut Vec<Tensor>) -> Result<Vec<Tensor>> {
        let [query, key, value] = inputs else { unreachable!("query, key and value") };
        let part = query.size()[SEQUENCE as usize] as u64;
        let mut travelling = Travelling::new(&self.0, Tensor::f_stack(&[key, value], 0)?);
        let mut merged: Option<Merged> = None;
        while let Some((rank, keys)) = travelling.next()? {
            let Some(tile) = self.0.split.tile(self.0.group.rank(), rank, part) else { continue };
            let (output, log_sum) = tile::forward(&tile, query, &keys)?;
            match &mut merged {
                None => merged = Some(Merged { output: output.f_to_kind(Kind::Float)?, log_sum }),
                Some(merged) => merged.add(&tile.queries, &output, &log_sum)?,
            }
        }
        let Some(Merged { output, log_sum }) = merged else { unreachable!("a rank has its own keys") };
        let output = output.f_to_kind(query.kind())?;
        save.extend([query, key, value, &output, &log_sum].map(Tensor::shallow_clone));
        Ok(vec![output])
    }

    fn backward(&mut self, grads: &[Option<Tensor>], saved: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        let [query, key, value, output, log_sum] = saved else { unreachable!("five are saved") };
        let Some(grad) = &grads[0] else { return Ok(vec![None, None, None]) };
        let part = query.size()[SEQUENCE as usize] as u64;
        let own = Tensor::f_stack(&[key, value], 0)?;
        let mut sums = Sums::new(&self.0, &own)?;
        let mut travelling = Travelling::new(&self.0, own);
        let grad_query = query.f_zeros_like()?.f_to_kind(Kind::Float)?;
        while let Some((rank, keys)) = travelling.next()? {
            let tile = self.0.split.tile(self.0.group.rank(), rank, part);
            let grads = tile
                .as_ref()
                .map(|tile| tile::backward(tile, grad, query, &keys, output, log_sum))
                .transpose()?;
            let into = sums.of(rank)?;
            if let (Some(tile), Some([of_query, of_key, of_value])) = (tile, grads) {
                let _ = cut(&grad_query, &tile.queries)?.f_add_(&of_query)?;
                let _ = cut(&into.f_get(0)?, &tile.keys)?.f_add_(&of_key)?;
                let _ = cut(&into.f_get(1)?, &tile.keys)?.f_add_(&of_value)?;
            }
            sums.pass_on()?;
        }
        let of_keys = sums.finish()?;
        let to_kind = |grad: Tensor| Ok::<_, Error>(Some(grad.f_to_kind(query.kind())?));
        Ok(vec![to_kind(grad_query)?, to_kind(of_keys.f_get(0)?)?, to_kind(of_keys.f_get(1)?)?])
    }
}

/// Of a range of positions.
fn cut(tensor: &Tensor, range: &Range<u64>) -> Result<Tensor> {
    Ok(tensor.f_narrow(SEQUENCE, range.start as i64, (range.end - range.start) as i64)?)
}

/// What is known of the queries so far.
struct Merged {
    /// Float32, as the queries.
    output: Tensor,
    /// Float32 `[batch, heads, sequence]`.
    log_sum: Tensor,
}

impl Merged {
    /// Adds a tile of some of the queries.
    fn add(&mut self, queries: &Range<u64>, output: &Tensor, log_sum: &Tensor) -> Result<()> {
        let (mut merged, mut merged_log_sum) = (cut(&self.output, queries)?, cut(&self.log_sum, queries)?);
        let share = log_sum.f_sub(&merged_log_sum)?.f_sigmoid()?.f_unsqueeze(-1)?;
        let _ = merged.f_lerp_tensor_(&output.f_to_kind(Kind::Float)?, &share)?;
        let sum = merged_log_sum.f_logaddexp(log_sum)?;
        merged_log_sum.f_copy_(&sum)?;
        Ok(())
    }
}
