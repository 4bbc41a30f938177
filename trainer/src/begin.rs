//! A model's parameters on one rank, as they begin.

use crate::error::Result;
use crate::groups::{Groups, rank, size};
use crate::model::Model;
use crate::shard::{Precision, Unit, rows_of};
use convert::init::Generator;
use tch::{Device, Tensor, no_grad};

/// These units of a model on this rank, begun as its spec says. Every element is a function of seed, name and position: on
/// any mesh they are the same, and those of `titan-ckpt seed`.
///
/// Errors: as [`Unit::new`]; what libtorch gives.
pub fn units(
    model: &dyn Model,
    groups: &Groups,
    precision: Precision,
    device: Device,
    seed: u64,
    numbers: impl IntoIterator<Item = u32>,
) -> Result<Vec<Unit>> {
    let spec = model.spec();
    let of_unit = |unit: &crate::model::UnitSpec| -> Result<Unit> {
        let params = unit.params.iter().map(|&index| {
            let param = &spec.params[index];
            let name = param.fqn.strip_prefix(&unit.prefix).unwrap_or(&param.fqn).to_owned();
            (param.fqn.clone(), name, param.shape.iter().map(|&size| size as i64).collect())
        });
        let mut made = Unit::new(params, groups, precision, device)?;
        for (param, &index) in made.params.iter_mut().zip(&unit.params) {
            let (first, rows) = rows_of(param.shape[0], size(&groups.shard), rank(&groups.shard));
            let row_len: i64 = param.shape[1..].iter().product();
            let mut elements = vec![0f32; (rows * row_len) as usize];
            Generator::new(spec.params[index].init, seed, &param.fqn)
                .fill((first * row_len) as u64, &mut elements);
            let begun = Tensor::from_slice(&elements).f_view(param.shard.size().as_slice())?;
            no_grad(|| param.shard.f_copy_(&begun))?;
        }
        Ok(made)
    };
    numbers.into_iter().map(|number| of_unit(&model.units()[number as usize])).collect()
}
