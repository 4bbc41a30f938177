//! Attention of some queries to some keys.

use super::cut;
use crate::error::{Error, Result};
use crate::ffi::dispatch::{Arg, Value, call};
use job::sequence::Tile;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// What libtorch computes one tile with. The logarithm of the sum is the second result of both.
mod operator {
    pub(super) const CPU: &str = "aten::_scaled_dot_product_flash_attention_for_cpu";
    pub(super) const CUDA: &str = "aten::_scaled_dot_product_flash_attention";
    pub(super) const CPU_BACKWARD: &str = "aten::_scaled_dot_product_flash_attention_for_cpu_backward";
    pub(super) const CUDA_BACKWARD: &str = "aten::_scaled_dot_product_flash_attention_backward";
}

/// Output and logarithm of the sum.
pub(super) fn forward(tile: &Tile, query: &Tensor, keys: &Tensor) -> Result<(Tensor, Tensor)> {
    let query = cut(query, &tile.queries)?;
    let [key, value] = widened(keys, &tile.keys, &query)?;
    let name = if query.device() == Device::Cpu { operator::CPU } else { operator::CUDA };
    let args = [&query, &key, &value].map(Arg::Tensor);
    let args = [&args[..], &[Arg::Double(0.0), Arg::Bool(tile.is_causal)]].concat();
    let mut results = call(name, "", &args)?.into_iter();
    match (results.next(), results.next()) {
        (Some(Value::Tensor(output)), Some(Value::Tensor(log_sum))) => Ok((output, log_sum)),
        other => Err(Error::Usage(format!("{name} gives {other:?}"))),
    }
}

/// Gradients of these queries, keys and values.
pub(super) fn backward(
    tile: &Tile,
    grad: &Tensor,
    query: &Tensor,
    keys: &Tensor,
    output: &Tensor,
    log_sum: &Tensor,
) -> Result<[Tensor; 3]> {
    let query = cut(query, &tile.queries)?;
    let [key, value] = widened(keys, &tile.keys, &query)?;
    let of_queries = |tensor: &Tensor| cut(tensor, &tile.queries);
    let (grad, output) = (of_queries(grad)?, of_queries(output)?);
    // As the operator on CUDA wants it.
    let log_sum = of_queries(log_sum)?.f_contiguous()?;
    let tensors = [&grad, &query, &key, &value, &output, &log_sum].map(Arg::Tensor);
    let dropout = [Arg::Double(0.0), Arg::Bool(tile.is_causal)];
    // What CUDA's wants besides is of sequences of several lengths, and of dropout: neither is here.
    let (none, random) = (Tensor::new(), Tensor::f_zeros([2], (Kind::Int64, query.device()))?);
    let lens = [&tile.queries, &tile.keys].map(|range| Arg::Int((range.end - range.start) as i64));
    let (lens, random) =
        ([Arg::Tensor(&none), Arg::Tensor(&none), lens[0], lens[1]], [Arg::Tensor(&random); 2]);
    let (name, args) = match query.device() {
        Device::Cpu => (operator::CPU_BACKWARD, [&tensors[..], &dropout].concat()),
        _ => (operator::CUDA_BACKWARD, [&tensors[..], &lens, &dropout, &random].concat()),
    };
    narrowed(&call(name, "", &args)?, name, keys)
}

/// Keys and values of these positions, with as many heads as the queries.
fn widened(keys: &Tensor, positions: &Range<u64>, query: &Tensor) -> Result<[Tensor; 2]> {
    let of = |index: i64| -> Result<Tensor> {
        let one = cut(&keys.f_get(index)?, positions)?;
        match query.size()[1] / one.size()[1] {
            1 => Ok(one),
            times => Ok(one.f_repeat_interleave_self_int(times, 1, None)?),
        }
    };
    Ok([of(0)?, of(1)?])
}

/// The gradients of queries, and of keys and values with as many heads as those have.
fn narrowed(results: &[Value], name: &str, keys: &Tensor) -> Result<[Tensor; 3]> {
    let [Value::Tensor(query), Value::Tensor(key), Value::Tensor(value)] = results else {
        return Err(Error::Usage(format!("{name} gives {results:?}")));
    };
    let heads = keys.size()[2];
    let of_heads = |grad: &Tensor| -> Result<Tensor> {
        let (batch, all, len, head_dim) = grad.size4()?;
        match all == heads {
            true => Ok(grad.shallow_clone()),
            false => Ok(grad.f_reshape([batch, heads, all / heads, len, head_dim])?.f_sum_dim_intlist(
                [2].as_slice(),
                false,
                Kind::Float,
            )?),
        }
    };
    Ok([query.shallow_clone(), of_heads(key)?, of_heads(value)?])
}
