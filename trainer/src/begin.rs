//! A model's parameters on one rank, as they begin.

use crate::error::Result;
use crate::groups::Groups;
use crate::model::Model;
use crate::shard::{ParamSpec, Precision, Unit};
use convert::init::Generator;
use dcp::layout::{Region, Strips, row_major};
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
            ParamSpec {
                fqn: param.fqn.clone(),
                name: param.fqn.strip_prefix(&unit.prefix).unwrap_or(&param.fqn).to_owned(),
                shape: param.shape.iter().map(|&size| size as i64).collect(),
                tp_dim: param.tp_dim,
            }
        });
        let mut made = Unit::new(params, groups, precision, device)?;
        for (param, &index) in made.params.iter_mut().zip(&unit.params) {
            let of_spec = &spec.params[index];
            let generator = Generator::new(of_spec.init, seed, &param.fqn);
            let begun = Tensor::from_slice(&elements(&generator, &of_spec.shape, &param.region));
            let begun = begun.f_view(param.shard.size().as_slice())?;
            no_grad(|| param.shard.f_copy_(&begun))?;
        }
        Ok(made)
    };
    numbers.into_iter().map(|number| of_unit(&model.units()[number as usize])).collect()
}

/// The elements of a box of a tensor of this shape, row-major.
fn elements(generator: &Generator, shape: &[u64], region: &Region) -> Vec<f32> {
    let mut elements = vec![0f32; region.elements() as usize];
    // As many of the inner dims at once as lie together.
    let mut run = vec![1; shape.len()];
    for dim in (0..shape.len()).rev() {
        run[dim] = region.extent[dim];
        if region.extent[dim] < shape[dim] {
            break;
        }
    }
    let (whole, strides) = (Region::whole(shape), row_major(shape));
    let mut rest = &mut elements[..];
    for part in Strips::new(region.clone(), run) {
        let (filled, after) = rest.split_at_mut(part.elements() as usize);
        generator.fill(part.position_in(&whole, &strides), filled);
        rest = after;
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;
    use convert::init::Init;

    #[test]
    fn a_box_has_the_elements_of_the_whole() {
        let generator = Generator::new(Init::Normal { std: 1.0 }, 7, "weight");
        let shape = [5, 3, 4];
        let mut whole = vec![0f32; 60];
        generator.fill(0, &mut whole);
        for region in [
            Region::new([1, 0, 0], [3, 3, 4]),
            Region::new([0, 1, 0], [5, 2, 4]),
            Region::new([2, 0, 1], [2, 3, 3]),
            Region::new([5, 0, 0], [0, 3, 4]),
        ] {
            let in_box = |index: &u64| {
                let place = [index / 12, index / 4 % 3, index % 4];
                (0..3).all(|dim| place[dim] >= region.start[dim] && place[dim] < region.end(dim))
            };
            let expected: Vec<f32> = (0..60).filter(in_box).map(|index| whole[index as usize]).collect();
            assert_eq!(elements(&generator, &shape, &region), expected, "{region:?}");
        }
    }
}
