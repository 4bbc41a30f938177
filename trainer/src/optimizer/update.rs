//! One update of Adam or AdamW, as `torch/optim/adam.py` of PyTorch 2.11 computes it in each of its implementations.
//!
//! They are the same function in exact arithmetic. In bfloat16 they are not: the fused one computes in float32 and rounds at
//! the end, the others round after every operation, and the one over lists rounds the factors too. So the operators
//! here, their overloads and their order are PyTorch's.

use super::{Rule, Settings};
use crate::error::Result;
use crate::ffi::dispatch::{Arg, Value, call};
use tch::Tensor;

/// What a step changes; the same entry of each list belongs to one parameter. No list is empty.
pub(super) struct Lists<'a> {
    pub(super) params: Vec<&'a Tensor>,
    /// Used up: what they hold afterwards is not said.
    pub(super) grads: Vec<&'a Tensor>,
    pub(super) exp_avgs: Vec<&'a Tensor>,
    pub(super) exp_avg_sqs: Vec<&'a Tensor>,
    /// Steps before this one.
    pub(super) steps: Vec<&'a Tensor>,
}

impl Lists<'_> {
    /// All parameters and operations at once (`_fused_adam`).
    pub(super) fn fused(&self, rule: Rule, settings: Settings) -> Result<()> {
        let name = match rule {
            Rule::Adam => "aten::_fused_adam_",
            Rule::AdamW => "aten::_fused_adamw_",
        };
        self.count()?;
        call(
            name,
            "",
            &[
                Arg::Tensors(&self.params),
                Arg::Tensors(&self.grads),
                Arg::Tensors(&self.exp_avgs),
                Arg::Tensors(&self.exp_avg_sqs),
                Arg::Tensors(&[]),
                Arg::Tensors(&self.steps),
                Arg::Double(settings.lr),
                Arg::Double(settings.betas.0),
                Arg::Double(settings.betas.1),
                Arg::Double(settings.weight_decay),
                Arg::Double(settings.eps),
                Arg::Bool(false),
                Arg::Bool(false),
            ],
        )?;
        Ok(())
    }

    /// All parameters, one operation at a time (`_multi_tensor_adam`).
    pub(super) fn foreach(&self, rule: Rule, settings: Settings) -> Result<()> {
        let Settings { lr, betas, eps, weight_decay } = settings;
        let (params, grads) = (Arg::Tensors(&self.params), Arg::Tensors(&self.grads));
        let (exp_avgs, exp_avg_sqs) = (Arg::Tensors(&self.exp_avgs), Arg::Tensors(&self.exp_avg_sqs));
        self.count()?;
        match rule {
            _ if weight_decay == 0.0 => {}
            Rule::Adam => run("aten::_foreach_add_", "List", &[grads, params, Arg::Double(weight_decay)])?,
            Rule::AdamW => {
                run("aten::_foreach_mul_", "Scalar", &[params, Arg::Double(1.0 - lr * weight_decay)])?;
            }
        }
        run("aten::_foreach_lerp_", "Scalar", &[exp_avgs, grads, Arg::Double(1.0 - betas.0)])?;
        run("aten::_foreach_mul_", "Scalar", &[exp_avg_sqs, Arg::Double(betas.1)])?;
        run("aten::_foreach_addcmul_", "Scalar", &[exp_avg_sqs, grads, grads, Arg::Double(1.0 - betas.1)])?;
        let corrections = self.steps.iter().map(|step| Correction::new(step, settings));
        let (step_sizes, roots): (Vec<f64>, Vec<f64>) =
            corrections.collect::<Result<Vec<_>>>()?.iter().map(|of| (of.step_size, of.root)).unzip();
        let roots_of_squares = call("aten::_foreach_sqrt", "", &[exp_avg_sqs])?;
        let denominators: Vec<&Tensor> = roots_of_squares.iter().flat_map(Value::tensors).collect();
        let denominators = Arg::Tensors(&denominators);
        run("aten::_foreach_div_", "ScalarList", &[denominators, Arg::Doubles(&roots)])?;
        run("aten::_foreach_add_", "Scalar", &[denominators, Arg::Double(eps)])?;
        let step_sizes = Arg::Doubles(&step_sizes);
        run("aten::_foreach_addcdiv_", "ScalarList", &[params, exp_avgs, denominators, step_sizes])
    }

    /// One parameter at a time (`_single_tensor_adam`).
    pub(super) fn for_loop(&self, rule: Rule, settings: Settings) -> Result<()> {
        let Settings { lr, betas, eps, weight_decay } = settings;
        self.count()?;
        for index in 0..self.params.len() {
            let (param, grad) = (Arg::Tensor(self.params[index]), Arg::Tensor(self.grads[index]));
            let (exp_avg, exp_avg_sq) =
                (Arg::Tensor(self.exp_avgs[index]), Arg::Tensor(self.exp_avg_sqs[index]));
            // Python makes a number a tensor without dims. The overload for numbers rounds a factor to bfloat16 first.
            let number = |number: f64| Tensor::from(number);
            match rule {
                _ if weight_decay == 0.0 => {}
                Rule::Adam => run("aten::add_", "Tensor", &[grad, param, Arg::Double(weight_decay)])?,
                Rule::AdamW => {
                    run("aten::mul_", "Tensor", &[param, Arg::Tensor(&number(1.0 - lr * weight_decay))])?;
                }
            }
            run("aten::lerp_", "Scalar", &[exp_avg, grad, Arg::Double(1.0 - betas.0)])?;
            run("aten::mul_", "Tensor", &[exp_avg_sq, Arg::Tensor(&number(betas.1))])?;
            run("aten::addcmul_", "", &[exp_avg_sq, grad, grad, Arg::Double(1.0 - betas.1)])?;
            let of = Correction::new(self.steps[index], settings)?;
            let denominator = self.exp_avg_sqs[index].f_sqrt()?;
            let denominator = Arg::Tensor(&denominator);
            run("aten::div_", "Tensor", &[denominator, Arg::Tensor(&number(of.root))])?;
            run("aten::add_", "Tensor", &[denominator, Arg::Tensor(&number(eps))])?;
            run("aten::addcdiv_", "", &[param, exp_avg, denominator, Arg::Double(of.step_size)])?;
        }
        Ok(())
    }

    /// Counts this step.
    fn count(&self) -> Result<()> {
        run("aten::_foreach_add_", "Scalar", &[Arg::Tensors(&self.steps), Arg::Double(1.0)])
    }
}

/// What makes up for moments that began as zeros.
struct Correction {
    /// By which the first moment over the root of the second is added; negative.
    step_size: f64,
    /// By which that root is divided.
    root: f64,
}

impl Correction {
    /// Of a parameter whose steps are counted on the CPU.
    fn new(step: &Tensor, settings: Settings) -> Result<Self> {
        let step = f64::try_from(step)?;
        let (first, second) = (1.0 - settings.betas.0.powf(step), 1.0 - settings.betas.1.powf(step));
        Ok(Correction { step_size: -(settings.lr / first), root: second.powf(0.5) })
    }
}

fn run(name: &str, overload: &str, args: &[Arg]) -> Result<()> {
    call(name, overload, args).map(drop)
}
