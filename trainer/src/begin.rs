//! A model's parameters on one rank, as they begin.

use crate::checkpoint::{dtype_of, fill};
use crate::error::Result;
use crate::groups::Groups;
use crate::model::Model;
use crate::shard::{Param, ParamSpec, Precision, Unit};
use convert::seed::Seed;
use dcp::copy::{self, CopyOptions, Wanted};
use tch::Device;

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
            ParamSpec {
                fqn: param.fqn.clone(),
                name: param.fqn.strip_prefix(&unit.prefix).unwrap_or(&param.fqn).to_owned(),
                shape: param.shape.iter().map(|&size| size as i64).collect(),
                tp_dim: param.tp_dim,
            }
        });
        Unit::new(params, groups, precision, device)
    };
    let numbers = numbers.into_iter().map(|number| of_unit(&model.units()[number as usize]));
    let units = numbers.collect::<Result<Vec<_>>>()?;
    let seed = Seed::new(spec, seed, str::to_owned);
    // A unit at a time: its shards are all that is held twice.
    units.iter().try_for_each(|unit| begin(&seed, unit))?;
    Ok(units)
}

/// Fills a unit's shards.
fn begin(seed: &Seed, unit: &Unit) -> Result<()> {
    let byte_len = |param: &Param| param.shard.numel() * param.shard.kind().elt_size_in_bytes();
    let mut shards: Vec<Vec<u8>> = unit.params.iter().map(|param| vec![0; byte_len(param)]).collect();
    let wanted = unit.params.iter().zip(&mut shards).map(|(param, target)| Wanted {
        fqn: &param.fqn,
        region: param.region.clone(),
        dtype: Some(dtype_of(param.shard.kind())),
        target,
    });
    copy::load(seed, wanted.collect(), CopyOptions::default(), &())?;
    unit.params.iter().zip(&shards).try_for_each(|(param, bytes)| fill(&param.shard, bytes))
}
