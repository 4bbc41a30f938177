//! Collectives as functions with a derivative.
//!
//! The derivative of each is the collective with inputs and outputs exchanged, for a loss that is the sum of what the ranks
//! have of it, or that all ranks have alike.

use crate::error::Result;
use crate::ffi::autograd::{Closures, apply};
use crate::ffi::process_group::{ProcessGroup, ReduceOp};
use std::sync::Arc;
use tch::Tensor;

type Group = Arc<ProcessGroup>;

/// The parts of all ranks along a dim, one after the other. Each rank computes something else with the whole.
pub(super) fn gather(group: &Group, part: &Tensor, dim: i64) -> Result<Tensor> {
    let (forward, backward) = (group.clone(), group.clone());
    differentiable(
        part,
        move |part| gathered(&forward, part, dim),
        move |grad| scattered_sum(&backward, grad, dim),
    )
}

/// The sum over ranks; each gets its part along a dim.
pub(super) fn scatter_sum(group: &Group, addend: &Tensor, dim: i64) -> Result<Tensor> {
    let (forward, backward) = (group.clone(), group.clone());
    differentiable(
        addend,
        move |addend| scattered_sum(&forward, addend, dim),
        move |grad| gathered(&backward, grad, dim),
    )
}

/// As [`gather`] of parts of these lengths, where all ranks compute the same with the whole: each has the gradient of it.
pub(super) fn gather_alike(group: &Group, part: &Tensor, dim: i64, lens: Vec<i64>) -> Result<Tensor> {
    let first: i64 = lens[..group.rank() as usize].iter().sum();
    let (group, own) = (group.clone(), lens[group.rank() as usize]);
    let forward = move |part: &Tensor| {
        let longest = lens.iter().copied().max().unwrap_or(0);
        let mut padded_size = part.size();
        padded_size[dim as usize] = longest;
        let padded = part.f_new_zeros(&padded_size, (part.kind(), part.device()))?;
        padded.f_narrow(dim, 0, own)?.f_copy_(part)?;
        let all = gathered(&group, &padded, dim)?;
        let parts = lens.iter().zip(0..).map(|(&len, rank)| all.f_narrow(dim, rank * longest, len));
        Ok(Tensor::f_cat(&parts.collect::<Result<Vec<_>, _>>()?, dim)?)
    };
    differentiable(part, forward, move |grad| Ok(grad.f_narrow(dim, first, own)?))
}

/// A function of one input and one output, neither of which its derivative needs.
fn differentiable(
    input: &Tensor,
    forward: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static,
    backward: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static,
) -> Result<Tensor> {
    let function = Closures {
        forward: move |inputs: &[Tensor], _: &mut Vec<Tensor>| Ok(vec![forward(&inputs[0])?]),
        backward: move |grads: &[Option<Tensor>], _: &[Tensor]| {
            Ok(vec![grads[0].as_ref().map(&backward).transpose()?])
        },
    };
    Ok(apply(function, &[input])?.swap_remove(0))
}

/// The parts of all ranks along a dim, one after the other, in memory of their own.
pub(super) fn gathered(group: &Group, part: &Tensor, dim: i64) -> Result<Tensor> {
    let part = part.f_contiguous()?;
    let mut size = part.size();
    size.insert(0, group.size().into());
    let all = part.f_new_empty(&size, (part.kind(), part.device()))?;
    group.all_gather_into(&all.f_flatten(0, 1)?, &part)?.wait()?;
    Ok(all.f_movedim_int(0, dim)?.f_flatten(dim, dim + 1)?)
}

/// The sum over ranks of what each has, this rank's part of it along a dim.
pub(super) fn scattered_sum(group: &Group, addend: &Tensor, dim: i64) -> Result<Tensor> {
    let mut size = addend.size();
    size[dim as usize] /= i64::from(group.size());
    size.insert(dim as usize, group.size().into());
    let parts = addend.f_reshape(&size)?.f_movedim_int(dim, 0)?.f_contiguous()?;
    let sum = addend.f_new_empty(&parts.size()[1..], (addend.kind(), addend.device()))?;
    group.reduce_scatter(&sum, &parts.f_flatten(0, 1)?, ReduceOp::Sum)?.wait()?;
    Ok(sum)
}

/// What becomes of a tensor of the same shape on all ranks, in memory of its own.
pub(super) fn reduced(group: &Group, tensor: &Tensor, op: ReduceOp) -> Result<Tensor> {
    let mut reduced = tensor.f_new_empty(tensor.size(), (tensor.kind(), tensor.device()))?;
    reduced.f_copy_(tensor)?;
    group.all_reduce(&reduced, op)?.wait()?;
    Ok(reduced)
}
