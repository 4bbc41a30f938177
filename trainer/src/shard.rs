//! A unit whose parameters are shared out (Rajbhandari et al. 2020, ZeRO stage 3; PyTorch FSDP2's layout: every
//! parameter on its own, cut along dim 0 in equal chunks, the last ones shorter or empty). Tensor parallelism cuts first, in
//! the same way along a dim of each parameter's own: what is gathered and computed with is this rank's part of that cut.
//!
//! What travels is one flat tensor per unit: of each parameter its chunk, filled up with zeros to the length of the
//! first rank's. The memory of a whole parameter is given up between its uses and comes back with the same content, in the
//! same tensor: what autograd saved of it stays valid.

use crate::error::{Error, Result};
use crate::ffi::autograd::{rewriting, take_grad};
use crate::ffi::memory::{allocate_storage, free_storage, storage_byte_len};
use crate::ffi::process_group::{ProcessGroup, ReduceOp, Work};
use crate::groups::{Groups, rank, size};
use dcp::layout::{Region, chunk};
use std::sync::Arc;
use tch::{Device, Kind, Tensor, no_grad};

/// Types of a unit's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Precision {
    /// Of shards, of their gradients, and of what an optimizer keeps of them (`training.dtype`).
    pub stored: Kind,
    /// Of whole parameters and activations (`training.mixed_precision_param`).
    pub param: Kind,
    /// In which gradients are summed (`training.mixed_precision_reduce`).
    pub reduce: Kind,
}

/// What a parameter is, on all ranks alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParamSpec {
    /// Its name in the whole model.
    pub fqn: String,
    /// Its name without the unit's prefix.
    pub name: String,
    /// Its whole shape.
    pub shape: Vec<i64>,
    /// The dim that tensor parallelism cuts. Without one, every rank computes with the whole, on its part of the sequence.
    pub tp_dim: Option<usize>,
}

/// One parameter.
#[derive(Debug)]
pub struct Param {
    /// Its name in the whole model.
    pub fqn: String,
    /// Its whole shape.
    pub shape: Vec<i64>,
    /// The dim that tensor parallelism cuts.
    pub tp_dim: Option<usize>,
    /// The shape of what this rank computes with.
    pub local_shape: Vec<i64>,
    /// The box of the whole that `shard` is.
    pub region: Region,
    /// This rank's rows of that, as they are stored.
    pub shard: Tensor,
    /// Their gradient of this step, of the same type.
    pub grad: Option<Tensor>,
    /// Where its chunk is in the flat tensor, and how many elements a chunk has.
    flat_start: i64,
    chunk_len: i64,
}

impl Param {
    /// Elements of one row.
    fn row_len(&self) -> i64 {
        self.local_shape[1..].iter().product()
    }
}

/// What is gathered, computed and differentiated as one.
#[derive(Debug)]
pub struct Unit {
    /// Names of its parameters, without its prefix.
    pub names: Vec<String>,
    /// Its parameters.
    pub params: Vec<Param>,
    whole: Vec<Tensor>,
    precision: Precision,
    shard_group: Option<Arc<ProcessGroup>>,
    replicate_group: Option<Arc<ProcessGroup>>,
    /// Elements of the flat tensor of one rank.
    flat_len: i64,
    gathering: Option<Gathering>,
    /// Gradients of whole parameters that were set aside, in the type that ranks sum in.
    aside: Vec<Option<Tensor>>,
    reducing: Option<Reducing>,
}

#[derive(Debug)]
struct Gathering {
    work: Option<Work>,
    flat: Tensor,
}

#[derive(Debug)]
struct Reducing {
    work: Option<Work>,
    /// What the sum goes into: of the shards, or of whole parameters where nothing is sharded.
    flat: Tensor,
}

/// The rows of dim 0 that a rank holds, first and count: those of the checkpoint's [`chunk`].
pub fn rows_of(rows: i64, ranks: u32, rank: u32) -> (i64, i64) {
    let (first, count) = chunk(rows as u64, ranks, rank);
    (first as i64, count as i64)
}

impl Unit {
    /// A unit of parameters, zeros so far.
    ///
    /// Errors: [`Error::Usage`] for a parameter without dims; what libtorch gives.
    pub fn new(
        params: impl IntoIterator<Item = ParamSpec>,
        groups: &Groups,
        precision: Precision,
        device: Device,
    ) -> Result<Self> {
        let ranks = size(&groups.shard);
        let mut unit = Unit {
            names: Vec::new(),
            params: Vec::new(),
            whole: Vec::new(),
            precision,
            shard_group: groups.shard.clone(),
            replicate_group: groups.replicate.clone(),
            flat_len: 0,
            gathering: None,
            aside: Vec::new(),
            reducing: None,
        };
        for ParamSpec { fqn, name, shape, tp_dim } in params {
            if shape.is_empty() {
                return Err(Error::Usage(format!("`{fqn}` has no dim to be sharded along")));
            }
            let mut region = Region::whole(&shape.iter().map(|&size| size as u64).collect::<Vec<_>>());
            if let Some(dim) = tp_dim {
                cut(&mut region, dim, &groups.tp);
            }
            let sizes = |region: &Region| region.extent.iter().map(|&size| size as i64).collect::<Vec<_>>();
            let local_shape = sizes(&region);
            cut(&mut region, 0, &groups.shard);
            let shard = Tensor::f_zeros(sizes(&region), (precision.stored, device))?;
            let chunk_len = rows_of(local_shape[0], ranks, 0).1 * local_shape[1..].iter().product::<i64>();
            let (grad, flat_start) = (None, unit.flat_len);
            let param = Param { fqn, shape, tp_dim, local_shape, region, shard, grad, flat_start, chunk_len };
            unit.flat_len += chunk_len;
            unit.names.push(name);
            unit.params.push(param);
        }
        unit.aside.resize_with(unit.params.len(), || None);
        unit.whole = unit.params.iter().map(|param| unit.new_whole(param)).collect::<Result<_>>()?;
        Ok(unit)
    }

    /// Whether what is computed with must be made of what is stored.
    pub fn is_gathered(&self) -> bool {
        self.shard_group.is_some() || self.precision.param != self.precision.stored
    }

    /// The parameters to compute with, in the order of [`Unit::names`].
    pub fn whole(&self) -> &[Tensor] {
        &self.whole
    }

    /// The type of what is computed with.
    pub fn param_kind(&self) -> Kind {
        self.precision.param
    }

    fn new_whole(&self, param: &Param) -> Result<Tensor> {
        if !self.is_gathered() {
            return Ok(param.shard.shallow_clone().set_requires_grad(true));
        }
        let whole = Tensor::f_empty(&param.local_shape, (self.precision.param, param.shard.device()))?;
        free_storage(&whole)?;
        Ok(whole.set_requires_grad(true))
    }

    /// Begins to make the parameters whole.
    ///
    /// Errors: what the collective gives.
    pub fn gather(&mut self) -> Result<()> {
        let Some(group) = self.shard_group.clone() else {
            self.gathering = Some(Gathering { work: None, flat: Tensor::new() });
            return Ok(());
        };
        no_grad(|| {
            let options = (self.precision.param, self.device());
            let own = Tensor::f_zeros([self.flat_len], options)?;
            for param in &self.params {
                let len = param.shard.numel() as i64;
                own.f_narrow(0, param.flat_start, len)?.f_copy_(&param.shard.f_flatten(0, -1)?)?;
            }
            let flat = Tensor::f_empty([i64::from(group.size()), self.flat_len], options)?;
            let work = Some(group.all_gather_into(&flat.f_flatten(0, 1)?, &own)?);
            self.gathering = Some(Gathering { work, flat });
            Ok(())
        })
    }

    /// Waits until they are.
    ///
    /// Errors: what the collective gives.
    pub fn wait_gathered(&mut self) -> Result<()> {
        let Some(Gathering { work, flat }) = self.gathering.take() else { return Ok(()) };
        work.map_or(Ok(()), Work::wait)?;
        let is_sharded = self.shard_group.is_some();
        for (param, whole) in self.params.iter().zip(&self.whole) {
            let byte_len = whole.numel() * whole.kind().elt_size_in_bytes();
            if storage_byte_len(whole)? != byte_len {
                allocate_storage(whole, byte_len)?;
            }
            // The same content as when autograd saved it.
            rewriting(&[whole], || -> Result<()> {
                no_grad(|| {
                    let source = match is_sharded {
                        false => param.shard.shallow_clone(),
                        true => {
                            let chunks = flat.f_narrow(1, param.flat_start, param.chunk_len)?;
                            let mut shape = param.local_shape.clone();
                            shape[0] = -1;
                            chunks.f_reshape(&shape)?.f_narrow(0, 0, param.local_shape[0])?
                        }
                    };
                    whole.detach().f_copy_(&source)?;
                    Ok(())
                })
            })??;
        }
        Ok(())
    }

    /// Gives up the memory of the whole parameters.
    ///
    /// Errors: what libtorch gives.
    pub fn free(&mut self) -> Result<()> {
        self.whole.iter().try_for_each(free_storage)
    }

    /// Keeps the gradients of the whole parameters for a later sum over ranks, in its type.
    ///
    /// Errors: what libtorch gives.
    pub fn set_grads_aside(&mut self) -> Result<()> {
        if self.precision.reduce == self.precision.param {
            return Ok(()); // They add up where they are.
        }
        no_grad(|| {
            for (whole, aside) in self.whole.iter().zip(&mut self.aside) {
                let Some(grad) = take_grad(whole)? else { continue };
                match aside {
                    Some(aside) => drop(aside.f_add_(&grad)?),
                    None => *aside = Some(grad.f_to_kind(self.precision.reduce)?),
                }
            }
            Ok(())
        })
    }

    /// Takes the gradients of the whole parameters.
    fn take_grads(&mut self) -> Result<Vec<Option<Tensor>>> {
        let of = |(aside, whole): (&mut Option<Tensor>, &Tensor)| match aside.take() {
            Some(grad) => Ok(Some(grad)),
            None => take_grad(whole),
        };
        self.aside.iter_mut().zip(&self.whole).map(of).collect()
    }

    /// Begins to sum the gradients of the whole parameters over all ranks with other data.
    ///
    /// Errors: what the collectives give.
    pub fn reduce(&mut self) -> Result<()> {
        let grads = self.take_grads()?;
        let reducing = no_grad(|| match (&self.shard_group, &self.replicate_group) {
            (None, None) => {
                for (param, grad) in self.params.iter_mut().zip(grads) {
                    add(&mut param.grad, grad, &param.shard)?;
                }
                Ok::<_, Error>(None)
            }
            (Some(shard), _) => {
                let whole = self.flat_grads(&grads, shard.size())?;
                let flat = Tensor::f_empty([self.flat_len], (self.precision.reduce, self.device()))?;
                let work = shard.reduce_scatter(&flat, &whole, ReduceOp::Sum)?;
                Ok(Some(Reducing { work: Some(work), flat }))
            }
            (None, Some(replicate)) => {
                let flat = self.flat_grads(&grads, 1)?;
                let work = replicate.all_reduce(&flat, ReduceOp::Sum)?;
                Ok(Some(Reducing { work: Some(work), flat }))
            }
        })?;
        self.reducing = reducing;
        Ok(())
    }

    /// Waits for the sum, and adds it to the gradients of the shards.
    ///
    /// Errors: what the collectives give.
    pub fn finish_reduce(&mut self) -> Result<()> {
        let Some(Reducing { work, flat }) = self.reducing.take() else { return Ok(()) };
        work.map_or(Ok(()), Work::wait)?;
        if let (Some(_), Some(replicate)) = (&self.shard_group, &self.replicate_group) {
            replicate.all_reduce(&flat, ReduceOp::Sum)?.wait()?;
        }
        no_grad(|| {
            for param in &mut self.params {
                let len = param.shard.numel() as i64;
                let sum = flat.f_narrow(0, param.flat_start, len)?.f_view(param.shard.size().as_slice())?;
                add(&mut param.grad, Some(sum), &param.shard)?;
            }
            Ok(())
        })
    }

    /// The gradients of whole parameters, `[ranks * flat_len]`: the flat tensors of the ranks, one after the other.
    fn flat_grads(&self, grads: &[Option<Tensor>], ranks: u32) -> Result<Tensor> {
        let flat =
            Tensor::f_zeros([i64::from(ranks), self.flat_len], (self.precision.reduce, self.device()))?;
        for (param, grad) in self.params.iter().zip(grads) {
            let Some(grad) = grad else { continue };
            let (rows, row_len) = (param.local_shape[0], param.row_len());
            for to in 0..ranks {
                let (first, count) = rows_of(rows, ranks, to);
                if count > 0 {
                    let target = flat.f_get(i64::from(to))?.f_narrow(0, param.flat_start, count * row_len)?;
                    target
                        .f_view([count, row_len])?
                        .f_copy_(&grad.f_view([rows, row_len])?.f_narrow(0, first, count)?)?;
                }
            }
        }
        Ok(flat.f_flatten(0, 1)?)
    }

    fn device(&self) -> Device {
        self.params.first().map_or(Device::Cpu, |param| param.shard.device())
    }
}

/// Leaves of a box what this rank of a group has of a dim.
fn cut(region: &mut Region, dim: usize, group: &Option<Arc<ProcessGroup>>) {
    let (first, count) = chunk(region.extent[dim], size(group), rank(group));
    region.start[dim] += first;
    region.extent[dim] = count;
}

/// Adds to a gradient of a shard, in the shard's type; none is zero.
fn add(grad: &mut Option<Tensor>, sum: Option<Tensor>, shard: &Tensor) -> Result<()> {
    let Some(sum) = sum else { return Ok(()) };
    let sum = sum.f_to_kind(shard.kind())?;
    match grad {
        Some(grad) => drop(grad.f_add_(&sum)?),
        None => *grad = Some(sum),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_as_torch_chunk_does() {
        let rows = |rows, ranks| (0..ranks).map(|rank| rows_of(rows, ranks, rank)).collect::<Vec<_>>();
        assert_eq!(rows(7, 3), [(0, 3), (3, 3), (6, 1)]);
        assert_eq!(rows(4, 3), [(0, 2), (2, 2), (4, 0)]);
        assert_eq!(rows(2, 4), [(0, 1), (1, 1), (2, 0), (2, 0)]);
        assert_eq!(rows(6, 2), [(0, 3), (3, 3)]);
    }
}
