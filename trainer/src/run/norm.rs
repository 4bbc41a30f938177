//! Gradients after the last backward pass of a step: made whole, and clipped by the norm of all.

use super::Runner;
use crate::error::Result;
use crate::ffi::dispatch::{Arg, Value, call};
use crate::ffi::process_group::ReduceOp;
use crate::groups::rank;
use tch::{Device, Kind, Tensor, no_grad};

impl Runner<'_> {
    /// Of parameters that ranks of the same layers all have, the gradients are of each one's part of the sequence: makes them
    /// whole.
    pub(super) fn sum_over_parts(&mut self) -> Result<()> {
        let Some(group) = &self.groups.tp else { return Ok(()) };
        let params = self.units.iter_mut().flat_map(|unit| &mut unit.params);
        let grads = params.filter(|param| param.tp_dim.is_none()).filter_map(|param| param.grad.as_mut());
        let mut grads: Vec<&mut Tensor> = grads.collect();
        if grads.is_empty() {
            return Ok(()); // The same on all of these ranks.
        }
        no_grad(|| {
            let parts = grads.iter().map(|grad| Ok(grad.f_flatten(0, -1)?.f_to_kind(Kind::Float)?));
            let all = Tensor::f_cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
            group.all_reduce(&all, ReduceOp::Sum)?.wait()?;
            let mut first = 0;
            for grad in &mut grads {
                let len = grad.numel() as i64;
                let size = grad.size();
                grad.f_copy_(&all.f_narrow(0, first, len)?.f_view(size.as_slice())?)?;
                first += len;
            }
            Ok(())
        })
    }

    /// Scales the gradients so that their norm is at most what is allowed; gives what it was
    /// (`torch.nn.utils.clip_grad_norm_`).
    pub(super) fn clip(&mut self) -> Result<Tensor> {
        let params = || self.units.iter().flat_map(|unit| &unit.params);
        let grads: Vec<&Tensor> = params().filter_map(|param| param.grad.as_ref()).collect();
        // What ranks of the same layers all have counts once.
        let is_first = rank(&self.groups.tp) == 0;
        let counted = params().filter(|param| is_first || param.tp_dim.is_some());
        let counted: Vec<&Tensor> = counted.filter_map(|param| param.grad.as_ref()).collect();
        no_grad(|| {
            let device = grads.first().map_or(Device::Cpu, |grad| grad.device());
            let mut squares = Tensor::f_zeros([0i64; 0], (Kind::Float, device))?;
            // An operator over lists refuses empty ones.
            if !counted.is_empty() {
                // Of float32, whatever the gradients are: a norm in bfloat16 has three digits.
                let args = [Arg::Tensors(&counted), Arg::Int(2), Arg::Kind(Kind::Float)];
                let norms = call("aten::_foreach_norm", "Scalar", &args)?;
                let norms: Vec<&Tensor> = norms.iter().flat_map(Value::tensors).collect();
                let own = Tensor::f_stack(&norms, 0)?;
                squares = own.f_mul(&own)?.f_sum(Kind::Float)?;
            }
            for group in [&self.groups.shard, &self.groups.tp, &self.groups.pp].into_iter().flatten() {
                group.all_reduce(&squares, ReduceOp::Sum)?.wait()?;
            }
            let norm = squares.f_sqrt()?;
            let scale = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(self.max_norm)?;
            // On a CPU the norm is known now, and a pass over the gradients may be saved; a device would have to be waited
            // for.
            match device {
                Device::Cpu if f64::try_from(&scale)? >= 1.0 => {}
                _ => {
                    let scale = scale.f_clamp_max(1.0)?;
                    call("aten::_foreach_mul_", "Tensor", &[Arg::Tensors(&grads), Arg::Tensor(&scale)])?;
                }
            }
            Ok(norm)
        })
    }
}
