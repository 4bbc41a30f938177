//! What saving takes.

use super::Question;
use crate::config::AsyncMode;
use crate::mesh::ParallelDims;
use crate::program::Program;
use crate::simulate::Costs;
use convert::spec::Model;

/// Bytes per second that a node writes where nothing says how many: a disk, or half of 40 Gb/s to a store.
pub const WRITE_BANDWIDTH: f64 = 2e9;

/// What saving everything takes: parameters and two moments, each once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Saves {
    /// Bytes of a checkpoint.
    pub total_bytes: u64,
    /// Bytes of the rank that saves most.
    pub rank_bytes: u64,
    /// Seconds in which they are copied to host memory.
    pub stage_seconds: f64,
    /// Bytes per second of a node.
    pub write_bandwidth: f64,
    /// Seconds in which a node writes what its ranks have.
    pub write_seconds: f64,
    /// Seconds that training stands still for a save, as `checkpoint.async_mode` says.
    pub stall_seconds: f64,
    /// Steps from one save to the next; none where nothing is saved.
    pub interval: Option<u64>,
    /// Seconds of those steps.
    pub interval_seconds: f64,
}

impl Saves {
    /// `trained` parameters have moments.
    pub(super) fn new(
        question: &Question,
        dims: &ParallelDims,
        model: &Model,
        trained: u64,
        programs: &[Program],
        costs: &Costs,
        step_seconds: f64,
    ) -> Self {
        let checkpoint = &question.config.checkpoint;
        let held = |program: &Program| -> u64 {
            let units = program.stages.iter().flat_map(|stage| stage.units.clone());
            let bytes = |unit: u32| &costs.units[unit as usize].bytes;
            // A head that is the embedding is stored under both names.
            let again = if program.is_tied { bytes(0).shard } else { 0 };
            again + units.map(bytes).map(|bytes| bytes.shard + bytes.moments).sum::<u64>()
        };
        let held: Vec<u64> = programs.iter().map(held).collect();
        // Copies are shared out among those that have them.
        let rank_bytes = held.iter().max().copied().unwrap_or(0).div_ceil(u64::from(dims.dp_replicate));
        let element =
            if question.config.training.dtype == crate::config::ParamDtype::Float32 { 4 } else { 2 };
        let on_node = u64::from(dims.world().min(question.device.per_node));
        let stage_seconds = rank_bytes as f64 / question.device.host_bandwidth;
        let write_seconds = (rank_bytes * on_node) as f64 / question.write_bandwidth;
        let stall_seconds = match checkpoint.async_mode {
            AsyncMode::Disabled => stage_seconds + write_seconds,
            AsyncMode::Async => stage_seconds,
            // The copy has until the next update of the parameters; one save waits for the one before.
            AsyncMode::AsyncWithPinnedMem => (stage_seconds - step_seconds).max(0.0),
        };
        let interval = (checkpoint.enable && !checkpoint.load_only).then_some(checkpoint.interval);
        let interval_seconds = interval.map_or(0.0, |steps| steps as f64 * step_seconds);
        let background = match checkpoint.async_mode {
            AsyncMode::Disabled => 0.0,
            _ if interval.is_some() => (stage_seconds + write_seconds - interval_seconds).max(0.0),
            _ => 0.0,
        };
        Saves {
            total_bytes: element * (model.elements() + 2 * trained),
            rank_bytes,
            stage_seconds,
            write_bandwidth: question.write_bandwidth,
            write_seconds,
            stall_seconds: stall_seconds + background,
            interval,
            interval_seconds,
        }
    }

    /// Share of the time that training stands still for saves.
    pub fn stall_share(&self) -> f64 {
        match self.interval {
            Some(_) => self.stall_seconds / (self.stall_seconds + self.interval_seconds),
            None => 0.0,
        }
    }
}
