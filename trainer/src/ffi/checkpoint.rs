//! Activation checkpoints: what a forward computes in between is not kept but computed again in backward.

use super::autograd::{Function, apply, backward, grad_enabled, leaf, take_grad};
use super::rng::{self, RngState};
use crate::error::{Error, Result};
use tch::{Device, Tensor};

/// Runs `forward` on `inputs` without keeping what it computes in between. Its backward runs it again, with the random
/// numbers of the first time, and goes back through that.
///
/// Leaves that `forward` has by other ways than `inputs` (a model's parameters) get their gradients too, by accumulation:
/// so it is for [`backward`], not for [`super::autograd::grad`]. At least one input must require a gradient where
/// gradients are on, or the graph would end here: an error. Random numbers are replayed for the CPU and for the CUDA
/// devices of the inputs.
pub fn checkpoint<F>(forward: F, inputs: &[&Tensor]) -> Result<Vec<Tensor>>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + 'static,
{
    if grad_enabled() && !inputs.iter().any(|input| input.requires_grad()) {
        return Err(Error::Usage(
            "an activation checkpoint none of whose inputs requires a gradient would cut the graph; make one a leaf that \
             does"
                .into(),
        ));
    }
    apply(Checkpoint { forward, requires_grad: Vec::new(), random: Vec::new() }, inputs)
}

struct Checkpoint<F> {
    forward: F,
    /// Of each input.
    requires_grad: Vec<bool>,
    /// The state of each generator before the forward.
    random: Vec<(Device, RngState)>,
}

impl<F> Function for Checkpoint<F>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + 'static,
{
    fn forward(&mut self, inputs: &[Tensor], save: &mut Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.requires_grad = inputs.iter().map(Tensor::requires_grad).collect();
        save.extend(inputs.iter().map(Tensor::shallow_clone));
        let mut devices = vec![Device::Cpu];
        devices.extend(inputs.iter().map(Tensor::device).filter(|device| *device != Device::Cpu));
        devices.dedup();
        self.random = states(&devices)?;
        (self.forward)(inputs)
    }

    fn backward(&mut self, grads: &[Option<Tensor>], saved: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        let inputs: Vec<Tensor> = saved
            .iter()
            .zip(&self.requires_grad)
            .map(|(input, requires_grad)| if *requires_grad { leaf(input) } else { input.detach() })
            .collect();
        let outputs = {
            let devices: Vec<Device> = self.random.iter().map(|(device, _)| *device).collect();
            let _restored = Restored(states(&devices)?);
            for (device, state) in &self.random {
                rng::set_state(*device, state)?;
            }
            tch::with_grad(|| (self.forward)(&inputs))?
        };
        // An output without gradient, or that needs none, has nothing to go back through.
        let (outputs, grads): (Vec<&Tensor>, Vec<Option<&Tensor>>) = outputs
            .iter()
            .zip(grads)
            .filter(|(output, grad)| output.requires_grad() && grad.is_some())
            .map(|(output, grad)| (output, grad.as_ref()))
            .unzip();
        if !outputs.is_empty() {
            backward(&outputs, &grads, false)?;
        }
        inputs.iter().map(|input| if input.requires_grad() { take_grad(input) } else { Ok(None) }).collect()
    }
}

fn states(devices: &[Device]) -> Result<Vec<(Device, RngState)>> {
    devices.iter().map(|device| Ok((*device, rng::state(*device)?))).collect()
}

/// Puts generators back when dropped, however the recomputation ends.
struct Restored(Vec<(Device, RngState)>);

impl Drop for Restored {
    fn drop(&mut self) {
        for (device, state) in &self.0 {
            // It is a state that this generator gave, which it takes.
            rng::set_state(*device, state).expect("a generator takes its own state");
        }
    }
}
