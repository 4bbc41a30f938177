//! The loss of a microbatch, on the rank that has the last stage.

use super::exchange::Waiting;
use super::{Runner, Step, missing, taken};
use crate::error::Result;
use crate::ffi::autograd::{backward, leaf, take_grad};
use job::program::Microbatch;
use tch::{Kind, Tensor, no_grad, with_grad};

impl Runner<'_> {
    /// The loss of what the last unit gave, and in training its gradient.
    pub(super) fn loss(&self, step: &mut Step, microbatch: Microbatch) -> Result<()> {
        let units = self.places.len() as u32;
        let labels = &step.batch[microbatch.0 as usize].labels;
        let tokens = step.global_valid_tokens as f64;
        let of = |logits: &Tensor| -> Result<Tensor> {
            let flat = logits.f_flatten(0, 1)?.f_to_kind(Kind::Float)?;
            let sum = self.parallel.cross_entropy(&flat, &labels.f_flatten(0, 1)?)?;
            Ok(sum.f_div_scalar(tokens)?)
        };
        let logits = taken(&mut step.inputs, (units, microbatch.0), "logits")?;
        let loss = match step.settings {
            None => no_grad(|| of(&logits))?,
            Some(_) => {
                let logits = leaf(&logits);
                let loss = with_grad(|| of(&logits))?;
                backward(&[&loss], &[None], false)?;
                let grad = take_grad(&logits)?.ok_or_else(|| missing("the gradient of the logits"))?;
                step.grads.insert((units - 1, microbatch.0), Waiting::here(grad));
                loss.detach()
            }
        };
        step.loss = Some(match step.loss.take() {
            Some(sum) => sum.f_add(&loss)?,
            None => loss,
        });
        Ok(())
    }
}
