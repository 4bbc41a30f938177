//! Embedding, logits and loss over a vocabulary of which each rank has a part.

use super::Parallel;
use super::collectives::{gather_alike, reduced};
use crate::error::Result;
use crate::ffi::autograd::{Function, apply};
use crate::ffi::process_group::{ProcessGroup, ReduceOp};
use crate::groups::size;
use crate::run::IGNORED;
use crate::shard::rows_of;
use std::sync::Arc;
use tch::{Kind, Reduction, Tensor};

impl Parallel {
    /// The rows of tokens `[batch, sequence]` in an embedding of which this rank has a part: this rank's part of the
    /// sequence, `[batch, sequence / tp, dim]`.
    ///
    /// Errors: what libtorch and the collective give.
    pub fn embedding(&self, weight: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let rows_of = |tokens: &Tensor| Tensor::f_embedding(weight, tokens, -1, false, false);
        if !self.has_parts() {
            return Ok(rows_of(tokens)?);
        }
        let (own, is_elsewhere) = self.own_tokens(tokens)?;
        let rows = rows_of(&own)?.f_masked_fill(&is_elsewhere.f_unsqueeze(-1)?, 0.0)?;
        self.part_of_sequence(&rows)
    }

    /// The logits that the loss is made of, from this rank's: the same, or those of all tokens.
    ///
    /// Errors: what the collective gives.
    pub fn logits(&self, own: &Tensor) -> Result<Tensor> {
        match &self.tp {
            Some(group) if !self.options.is_loss_parallel => {
                let ranks = size(&self.tp);
                let lens = (0..ranks).map(|rank| rows_of(self.vocabulary, ranks, rank).1).collect();
                gather_alike(group, own, own.dim() as i64 - 1, lens)
            }
            _ => Ok(own.shallow_clone()),
        }
    }

    /// The sum of cross entropies over the tokens that have a label: of [`Parallel::logits`], `[tokens, ..]` in float32, and
    /// labels `[tokens]`. All ranks have it.
    ///
    /// Errors: what libtorch and the collectives give.
    pub fn cross_entropy(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        match &self.tp {
            Some(group) if self.options.is_loss_parallel => {
                let (own, is_elsewhere) = self.own_tokens(labels)?;
                let function = CrossEntropy { group: group.clone() };
                let is_ignored = labels.f_eq(IGNORED)?;
                Ok(apply(function, &[logits, &own, &is_elsewhere, &is_ignored])?.swap_remove(0))
            }
            _ => Ok(logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Sum, IGNORED, 0.0)?),
        }
    }

    /// Tokens counted from this rank's first, 0 for those that are another's; and which are.
    fn own_tokens(&self, tokens: &Tensor) -> Result<(Tensor, Tensor)> {
        let (first, count) = self.tokens();
        let from_first = tokens.f_sub_scalar(first)?;
        let is_elsewhere = from_first.f_lt(0)?.f_logical_or(&from_first.f_ge(count)?)?;
        Ok((from_first.f_masked_fill(&is_elsewhere, 0)?, is_elsewhere))
    }
}

/// The sum of cross entropies of logits `[tokens, this rank's part]`, labels counted from its first, whether a label is
/// another rank's, and whether there is none.
///
/// With `m` the largest logit of a token and `s` the sum of `exp(logit - m)`, each over all ranks, a token's is
/// `m + log(s) - logit(label)`; its derivative `exp(logit - m - log(s))`, less 1 for the label.
struct CrossEntropy {
    group: Arc<ProcessGroup>,
}

impl Function for CrossEntropy {
    fn forward(&mut self, inputs: &[Tensor], save: &mut Vec<Tensor>) -> Result<Vec<Tensor>> {
        let [logits, label, is_elsewhere, is_ignored] = inputs else { unreachable!("four inputs") };
        let most = logits.f_amax([1].as_slice(), false)?;
        let most = reduced(&self.group, &most, ReduceOp::Max)?;
        let sum = logits.f_sub(&most.f_unsqueeze(1)?)?.f_exp()?.f_sum_dim_intlist(
            [1].as_slice(),
            false,
            Kind::Float,
        )?;
        let of_label = logits.f_gather(1, &label.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
        let of_label = of_label.f_masked_fill(is_elsewhere, 0.0)?;
        let sums = reduced(&self.group, &Tensor::f_stack(&[sum, of_label], 0)?, ReduceOp::Sum)?;
        let log_sum = sums.f_get(0)?.f_log()?.f_add(&most)?;
        let loss = log_sum.f_sub(&sums.f_get(1)?)?.f_masked_fill(is_ignored, 0.0)?.f_sum(Kind::Float)?;
        save.extend([logits, label, is_elsewhere, is_ignored].map(Tensor::shallow_clone));
        save.push(log_sum);
        Ok(vec![loss])
    }

    fn backward(&mut self, grads: &[Option<Tensor>], saved: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        let [logits, label, is_elsewhere, is_ignored, log_sum] = saved else {
            unreachable!("five are saved")
        };
        let Some(grad) = &grads[0] else { return Ok(vec![None, None, None, None]) };
        let mut slope = logits.f_sub(&log_sum.f_unsqueeze(1)?)?.f_exp_()?;
        let own_label = is_elsewhere.f_logical_not()?.f_to_kind(slope.kind())?.f_neg()?;
        let _ = slope.f_scatter_add_(1, &label.f_unsqueeze(1)?, &own_label.f_unsqueeze(1)?)?;
        let _ = slope.f_masked_fill_(&is_ignored.f_unsqueeze(1)?, 0.0)?.f_mul_(grad)?;
        Ok(vec![Some(slope), None, None, None])
    }
}
