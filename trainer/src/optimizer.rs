//! Adam and AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) over shards, as PyTorch's `torch.optim` computes them.

mod update;

use crate::error::Result;
use crate::shard::{Param, Unit};
pub use job::config::Implementation;
use tch::{Device, Kind, Tensor, no_grad};
use update::Lists;

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

/// What is kept of one parameter between steps: of the type and shape of its shard.
#[derive(Debug)]
pub struct Moments {
    /// Steps so far: float32, no dims. On the shard's device where the update is fused, else on the CPU.
    pub step: Tensor,
    /// Running mean of the gradient.
    pub exp_avg: Tensor,
    /// Running mean of its square.
    pub exp_avg_sq: Tensor,
}

/// The optimizer of one rank.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    implementation: Implementation,
    /// Per unit, per parameter.
    pub state: Vec<Vec<Moments>>,
}

impl Optimizer {
    /// Nothing learned yet.
    ///
    /// Errors: what libtorch gives.
    pub fn new(rule: Rule, implementation: Implementation, units: &[Unit]) -> Result<Self> {
        let of = |param: &Param| -> Result<Moments> {
            let counted_on = match implementation {
                Implementation::Fused => param.shard.device(),
                Implementation::Foreach | Implementation::ForLoop => Device::Cpu,
            };
            let step = Tensor::f_zeros([0i64; 0], (Kind::Float, counted_on))?;
            let (exp_avg, exp_avg_sq) = (param.shard.f_zeros_like()?, param.shard.f_zeros_like()?);
            Ok(Moments { step, exp_avg, exp_avg_sq })
        };
        let of_unit = |unit: &Unit| unit.params.iter().map(of).collect::<Result<Vec<_>>>();
        Ok(Optimizer { rule, implementation, state: units.iter().map(of_unit).collect::<Result<_>>()? })
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
        if params.is_empty() {
            return Ok(()); // An operator over lists refuses empty ones.
        }
        let lists = Lists {
            params: params.iter().collect(),
            grads: grads.iter().collect(),
            exp_avgs: kept.iter().map(|moments| &moments.exp_avg).collect(),
            exp_avg_sqs: kept.iter().map(|moments| &moments.exp_avg_sq).collect(),
            steps: kept.iter().map(|moments| &moments.step).collect(),
        };
        no_grad(|| match self.implementation {
            Implementation::Fused => lists.fused(self.rule, settings),
            Implementation::Foreach => lists.foreach(self.rule, settings),
            Implementation::ForLoop => lists.for_loop(self.rule, settings),
        })
    }
}
