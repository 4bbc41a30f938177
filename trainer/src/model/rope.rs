//! Rotary position embeddings over pairs of neighbours, as torchtitan 0.2 computes them for llama3.

use crate::error::Result;
use tch::{Device, Kind, Tensor};

/// What the frequencies are made of.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Rope {
    pub(super) theta: f64,
    pub(super) scaling: Option<Scaling>,
}

/// Llama 3.1's stretching of low frequencies.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Scaling {
    pub(super) factor: f64,
    pub(super) low_freq_factor: f64,
    pub(super) high_freq_factor: f64,
    pub(super) original_positions: f64,
}

impl Rope {
    /// `cos + i sin` of every position and frequency: complex64 `[positions, head_dim / 2]`.
    pub(super) fn table(&self, head_dim: i64, positions: i64, device: Device) -> Result<Tensor> {
        let options = (Kind::Float, device);
        let exponents = Tensor::f_arange_start_step(0, head_dim, 2, options)?.f_div_scalar(head_dim)?;
        let mut frequencies =
            Tensor::f_scalar_tensor(self.theta, options)?.f_pow(&exponents)?.f_reciprocal()?;
        if let Some(scaling) = &self.scaling {
            frequencies = scaling.stretch(&frequencies)?;
        }
        let angles = Tensor::f_arange(positions, options)?.f_outer(&frequencies)?;
        Ok(Tensor::f_polar(&angles.f_ones_like()?, &angles)?)
    }
}

impl Scaling {
    fn stretch(&self, frequencies: &Tensor) -> Result<Tensor> {
        let wavelengths = frequencies.f_reciprocal()?.f_mul_scalar(2.0 * std::f64::consts::PI)?;
        let low = self.original_positions / self.low_freq_factor;
        let high = self.original_positions / self.high_freq_factor;
        let slow = frequencies.f_div_scalar(self.factor)?;
        let stretched = slow.f_where_self(&wavelengths.f_gt(low)?, frequencies)?;
        let smooth = wavelengths.f_reciprocal()?.f_mul_scalar(self.original_positions)?;
        let smooth = smooth.f_sub_scalar(self.low_freq_factor)?;
        let smooth = smooth.f_div_scalar(self.high_freq_factor - self.low_freq_factor)?;
        let blended = smooth.f_rsub_scalar(1.0)?.f_mul(&stretched)?.f_div_scalar(self.factor)?;
        let blended = blended.f_add(&smooth.f_mul(&stretched)?)?;
        let between = wavelengths.f_lt(high)?.f_logical_or(&wavelengths.f_gt(low)?)?.f_logical_not()?;
        Ok(blended.f_where_self(&between, &stretched)?)
    }
}

/// Turns `[batch, sequence, heads, head_dim]`; `table` has the sequence's positions. In float32, whatever the type.
pub(super) fn turn(states: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (batch, sequence, heads, head_dim) = states.size4()?;
    let pairs = states.f_to_kind(Kind::Float)?.f_reshape([batch, sequence, heads, head_dim / 2, 2])?;
    let table = table.f_view([1, sequence, 1, head_dim / 2])?;
    let turned = pairs.f_view_as_complex()?.f_mul(&table)?.f_view_as_real()?;
    Ok(turned.f_flatten(3, 4)?.f_to_kind(states.kind())?)
}
