//! Adam and AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) over shards, as PyTorch's `torch.optim` computes them.

use crate::error::Result;
use crate::ffi::dispatch::{Arg, call};
use crate::shard::{Param, Unit};
use tch::{Kind, Tensor, no_grad};

/// Settings that one step may differ in.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// The learning rate of this step.
    pub lr: f64,
    /// Of the first moment, and of the second.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Per step and learning rate, of every parameter.
    pub weight_decay: f64,
}

/// Whether weight decay is apart from the gradient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// It is part of the gradient.
    Adam,
    /// It is apart.
    AdamW,
}

/// What is kept of one parameter between steps, float32, shaped as its shard.
#[derive(Debug)]
pub struct Moments {
    /// Steps so far, one element.
    pub step: Tensor,
    /// Running mean of the gradient.
    pub exp_avg: Tensor,
    /// Running mean of its square.
    pub exp_avg_sq: Tensor,
}

/// The optimizer of one rank.
#[derive(Debug)]
pub struct Optimizer {
    kind: Rule,
    /// Per unit, per parameter.
    pub state: Vec<Vec<Moments>>,
}

impl Optimizer {
    /// Nothing learned yet.
    ///
    /// Errors: what libtorch gives.
    pub fn new(kind: Rule, units: &[Unit]) -> Result<Self> {
        let of = |param: &Param| -> Result<Moments> {
            let step = Tensor::f_zeros([0i64; 0], (Kind::Float, param.shard.device()))?;
            let (exp_avg, exp_avg_sq) = (param.shard.f_zeros_like()?, param.shard.f_zeros_like()?);
            Ok(Moments { step, exp_avg, exp_avg_sq })
        };
        let of_unit = |unit: &Unit| unit.params.iter().map(of).collect::<Result<Vec<_>>>();
        Ok(Optimizer { kind, state: units.iter().map(of_unit).collect::<Result<_>>()? })
    }

    /// Changes every parameter that has a gradient, and takes the gradients away.
    ///
    /// Errors: what libtorch gives.
    pub fn step(&mut self, units: &mut [Unit], settings: Settings) -> Result<()> {
        let (mut params, mut grads, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (unit, state) in units.iter_mut().zip(&self.state) {
            for (param, moments) in unit.params.iter_mut().zip(state) {
                if let Some(grad) = param.grad.take() {
                    params.push(param.shard.detach());
                    grads.push(grad);
                    kept.push(moments);
                }
            }
        }
        let steps: Vec<&Tensor> = kept.iter().map(|moments| &moments.step).collect();
        let firsts: Vec<&Tensor> = kept.iter().map(|moments| &moments.exp_avg).collect();
        let seconds: Vec<&Tensor> = kept.iter().map(|moments| &moments.exp_avg_sq).collect();
        let (params, grads): (Vec<&Tensor>, Vec<&Tensor>) = (params.iter().collect(), grads.iter().collect());
        let name = match self.kind {
            Rule::Adam => "aten::_fused_adam_",
            Rule::AdamW => "aten::_fused_adamw_",
        };
        no_grad(|| {
            call("aten::_foreach_add_", "Scalar", &[Arg::Tensors(&steps), Arg::Double(1.0)])?;
            call(
                name,
                "",
                &[
                    Arg::Tensors(&params),
                    Arg::Tensors(&grads),
                    Arg::Tensors(&firsts),
                    Arg::Tensors(&seconds),
                    Arg::Tensors(&[]),
                    Arg::Tensors(&steps),
                    Arg::Double(settings.lr),
                    Arg::Double(settings.betas.0),
                    Arg::Double(settings.betas.1),
                    Arg::Double(settings.weight_decay),
                    Arg::Double(settings.eps),
                    Arg::Bool(false),
                    Arg::Bool(false),
                ],
            )
        })?;
        Ok(())
    }
}
