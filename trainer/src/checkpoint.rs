//! The training state as a checkpoint has it, in any format: parameters under their own names, everything else under those
//! that TorchTitan 0.2.2 gives it, so that either goes on from what the other saved; and values of our own beside them.
//!
//! ```text
//! FQN                                        the parameter, in the type that it is stored in; an embedding that is
//!                                            the head under both names, as other tools look for both
//! optimizer.state.FQN.exp_avg, .exp_avg_sq   of its type and shape
//! optimizer.state.FQN.step                   float32, no dims
//! optimizer.param_groups.FQN.lr, ...         what PyTorch's AdamW keeps of each parameter
//! lr_scheduler.last_epoch, ...               how far the learning rate's schedule is
//! train_state.step                           int, steps done
//! train_state.ntokens_seen                   int, tokens of one data-parallel rank
//! train_state.tokens_seen                    int, tokens of all ranks: ours
//! dataloader.world_size, .dp_rank_0          the place in the data as TorchTitan says it, where it can
//! data.rank_R                                str, the place in the data of the shards that rank R owns, JSON: ours
//! rng.rank_R                                 bytes, the state of rank R's generator: ours
//! ```
//!
//! TorchTitan passes over names that it does not know. Without `dataloader` it needs
//! `--checkpoint.exclude_from_loading dataloader`, and then begins its data anew.

mod content;
mod dataloader;
mod hyper;
mod load;
mod memory;
mod names;
mod values;

pub use content::{Content, Parts};
pub use dataloader::Dataloader;
pub use hyper::{Hyper, Stored};
pub use load::{DataPlace, Holds, Resumed, holds, load};

use crate::error::Result;
use crate::ffi::rng::RngState;
use crate::model::Model;
use crate::optimizer::Optimizer;
use crate::shard::Unit;
use dcp::model::{Fqn, TensorSpec};
use dcp::plan::{Degrees, mesh_of};
use dcp::save::{Source, State, StateTensor};
use memory::LiveTensor;
pub(crate) use memory::{dtype_of, fill};
use names::entries;
use std::sync::Arc;

/// What of a run's state is no tensor.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps of the learning rate's schedule that are done.
    pub schedule_step: u64,
    /// Tokens that all ranks together have trained on.
    pub tokens_seen: u64,
    /// The place in the data of the shards that this rank owns: a [`data::State`] as JSON.
    pub data: Vec<String>,
    /// The same as TorchTitan says it, where it can: what [`data::MapPlaces`] gives.
    pub dataloader: Option<Dataloader>,
    /// The state of this rank's generator.
    pub rng: RngState,
}

impl Progress {
    /// After so many steps and tokens, with data and random numbers unknown.
    pub fn of(step: u64, tokens_seen: u64) -> Self {
        let rng = RngState::from_bytes(Vec::new());
        Progress { step, schedule_step: step, tokens_seen, data: Vec::new(), dataloader: None, rng }
    }
}

/// What of a run's state is tensors, on one rank.
#[derive(Clone, Copy)]
pub struct Tensors<'a> {
    /// The whole model.
    pub model: &'a dyn Model,
    /// Of each of its units, the rank of a pipeline that has it.
    pub unit_ranks: &'a [u32],
    /// Those that this rank has.
    pub units: &'a [Unit],
    /// Of these units.
    pub optimizer: &'a Optimizer,
    /// The mesh, and the rank in it.
    pub degrees: Degrees,
    /// See there.
    pub rank: u32,
}

/// This rank's share of the state. Its memory is the live tensors': nothing may change them until the save has its copy.
///
/// Errors: [`dcp::Error::Usage`] for too many ranks; what making a pickle gives.
pub fn state(tensors: Tensors, progress: &Progress, content: Content, hyper: &Hyper) -> Result<State> {
    let Tensors { units, degrees, rank, .. } = tensors;
    let has_optimizer = content == Content::Full;
    let entries = entries(&tensors).into_iter().filter(|entry| has_optimizer || entry.is_param);
    let tensors = entries.map(|entry| {
        let dtype = content.dtype(entry.kind);
        let local = entry.local.filter(|local| local.numel() > 0);
        StateTensor {
            placements: entry.placements(degrees),
            fqn: Fqn::new(&*entry.fqn),
            local: local.map(|local| Arc::new(LiveTensor::new(local, dtype)) as Arc<dyn Source>),
            spec: TensorSpec::new(dtype, entry.shape),
            path: entry.path,
        }
    });
    let fqns = units.iter().flat_map(|unit| &unit.params).map(|param| param.fqn.as_str());
    let values = match content {
        Content::Full => values::full(fqns, degrees, rank, progress, hyper)?,
        Content::Model { .. } => values::of_model(progress),
    };
    Ok(State { mesh: Some(Arc::new(mesh_of(degrees)?)), tensors: tensors.collect(), values })
}
