//! What a step of a configuration costs on a device: the numbers that [`simulate`](crate::simulate) is given.
//!
//! Every matrix product, attention, operation element by element and collective of a unit takes the time that the device's
//! peaks give it, at the shares that its calibration says, and no less than its memory takes to read and write what it
//! touches. What a microbatch leaves for the backward pass is what libtorch saves of the trainer's models.

mod assumptions;
mod device;
mod layers;
mod links;
mod unit;

pub use assumptions::Assumptions;
pub use device::{Calibration, DEVICES, Device};
pub use links::{Links, Span};

use crate::config::{Config, LoadBalancer, ParamDtype, ReduceDtype, RotateMethod};
use crate::error::{Error, Result};
use crate::mesh::{Group, ParallelDims};
use crate::simulate::Costs;
use crate::step::Step;
use convert::spec::Model;
use layers::{Sizes, works};
use unit::Setting;

/// What a step costs.
///
/// Errors: [`Error::NoFlops`] for a model that is no stack of blocks over tokens; [`Error::NotModelled`] for what is not
/// counted here.
pub fn costs(
    config: &Config,
    model: &Model,
    dims: &ParallelDims,
    step: &Step,
    device: &Device,
    assumptions: Assumptions,
) -> Result<Costs> {
    refuse(dims, device, assumptions)?;
    let units = step.plan.units.len() as u32;
    let works = works(model, units.saturating_sub(2))?;
    let span = |group| Span::of(dims, group, device.per_node);
    let parallelism = &config.parallelism;
    let setting = Setting {
        device,
        sizes: Sizes::of(model)?,
        assumptions,
        sequences: step.batch.microbatch,
        seq_len: config.training.seq_len,
        tp: span(Group::Tp),
        cp: span(Group::Cp),
        fsdp: span(Group::Fsdp),
        dp_replicate: span(Group::DpReplicate),
        is_balanced: parallelism.context_parallel_load_balancer == Some(LoadBalancer::HeadTail),
        is_ring: parallelism.context_parallel_rotate_method == RotateMethod::AllToAll,
        is_loss_parallel: !parallelism.disable_loss_parallel,
        gathered: step.plan.gathered,
        element: bytes_of(config.training.mixed_precision_param),
        stored: bytes_of(config.training.dtype),
        reduced: match config.training.mixed_precision_reduce {
            ReduceDtype::Float32 => 4,
        },
    };
    let units = works.iter().zip(&step.plan.units).map(|(work, plan)| setting.unit(work, plan.recompute));
    let links = Links(device);
    // One number, over all ranks of a pipeline that have other parts of the gradient, then over the pipeline.
    let norm = links.all_reduce(setting.fsdp, 4.0)
        + links.all_reduce(setting.tp, 4.0)
        + links.all_reduce(span(Group::Pp), 4.0);
    let logits = setting.logits();
    Ok(Costs {
        units: units.collect(),
        load_batch: links.all_reduce(span(Group::Batch), 24.0),
        loss: setting.loss(),
        clip: norm,
        message: links.send(span(Group::Pp), setting.message_bytes() as f64),
        message_bytes: setting.message_bytes(),
        logits_bytes: (logits * setting.element as f64) as u64,
        // In float32: the logarithms of shares, their gradient, and that of the logits.
        loss_working_bytes: (logits * 12.0) as u64,
    })
}

fn refuse(dims: &ParallelDims, device: &Device, assumptions: Assumptions) -> Result<()> {
    let not_modelled = |why: String| Err(Error::NotModelled { why });
    if dims.ep > 1 {
        return not_modelled(format!(
            "parallelism.expert_parallel_degree = {}: what experts on other ranks cost is not modelled; set it to 1",
            dims.ep
        ));
    }
    if assumptions.float8 && device.float8_flops.is_none() {
        let able = DEVICES.iter().filter(|device| device.float8_flops.is_some()).map(|device| device.name);
        let able: Vec<_> = able.collect();
        return not_modelled(format!(
            "float8 is assumed, but {} does not compute in 8 bits; leave it out, or take {}",
            device.name,
            able.join(", ")
        ));
    }
    if assumptions.async_tp && dims.tp == 1 {
        return not_modelled(
            "async-tp is assumed, but parallelism.tensor_parallel_degree is 1; leave it out, or raise the degree"
                .to_owned(),
        );
    }
    Ok(())
}

fn bytes_of(dtype: ParamDtype) -> u64 {
    match dtype {
        ParamDtype::Bfloat16 => 2,
        ParamDtype::Float32 => 4,
    }
}

#[cfg(test)]
mod tests;
