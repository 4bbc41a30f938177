//! What a step takes from its surroundings: text, the copy of a save, the wish to stop. And the time that it waits.

use super::setup::Setup;
use super::trace::Trace;
use crate::checkpoint::{Dataloader, Progress};
use crate::error::{Error, Result};
use crate::ffi::rng;
use crate::run::{Sequences, Surroundings};
use crate::stop::Stop;
use data::{Loader, MapPlaces, Step};
use dcp::save::Saving;
use job::program::Instruction;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};
use tracing::{debug, warn};

/// One rank's text and what else a step waits for.
pub(super) struct Feed {
    loader: Loader,
    stop: Stop,
    /// The save whose copy of the state is being made.
    pub(super) saving: Option<Saving>,
    /// What records steps, where something does.
    pub(super) trace: Option<Trace>,
    /// TorchTitan's way to say where the data stands, where it is wanted and can.
    places: Option<MapPlaces>,
    /// Whether no other rank with this text says where it stands.
    is_telling: bool,
    local_batch_size: u64,
    /// Of a step.
    microbatches: i64,
    seq_len: i64,
    device: Device,
    /// Waited for text, since somebody asked.
    data_loading: Duration,
    /// Waited for saves, since somebody asked.
    checkpoint_wait: Duration,
}

impl Feed {
    pub(super) fn new(
        loader: Loader,
        places: Option<MapPlaces>,
        setup: &Setup,
        stop: Stop,
        trace: Option<Trace>,
    ) -> Self {
        Feed {
            loader,
            stop,
            saving: None,
            trace,
            places,
            is_telling: setup.is_first_of_text(),
            local_batch_size: setup.step.batch.local,
            microbatches: (setup.step.batch.accumulation_steps * setup.step.batch.microbatches) as i64,
            seq_len: setup.seq_len,
            device: setup.device,
            data_loading: Duration::ZERO,
            checkpoint_wait: Duration::ZERO,
        }
    }

    /// Says where this rank's data and random numbers stand.
    ///
    /// Errors: what reading the documents of a step once more gives, which TorchTitan's way to say it needs.
    pub(super) fn tell_place(&mut self, progress: &mut Progress) -> Result<()> {
        let state = self.loader.state();
        progress.data = if self.is_telling { vec![state.to_json()?] } else { Vec::new() };
        progress.rng = rng::state(self.device)?;
        progress.dataloader = match &mut self.places {
            Some(places) => Some(Dataloader {
                place: places.place(&state)?,
                sequences: state.position(),
                local_batch_size: self.local_batch_size,
            }),
            None => None,
        };
        Ok(())
    }

    /// Notes a wait for a save.
    pub(super) fn waited(&mut self, wait: Duration) {
        self.checkpoint_wait += wait;
    }

    /// The time waited for text and for saves, since this was last asked.
    pub(super) fn take_waits(&mut self) -> (Duration, Duration) {
        (std::mem::take(&mut self.data_loading), std::mem::take(&mut self.checkpoint_wait))
    }
}

/// A rank's part of a step, cut into microbatches.
///
/// Errors: what libtorch gives.
pub(super) fn sequences(
    step: &Step,
    microbatches: i64,
    seq_len: i64,
    device: Device,
) -> Result<Vec<Sequences>> {
    let tensor = |tokens: &[i64]| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(tokens)?.f_view([microbatches, -1, seq_len])?.f_to_device(device)?)
    };
    let (inputs, labels) = (tensor(&step.inputs)?, tensor(&step.labels)?);
    (0..microbatches)
        .map(|place| Ok(Sequences { inputs: inputs.f_get(place)?, labels: labels.f_get(place)? }))
        .collect()
}

/// CRC-64/NVME of the tokens of every sequence, by which two runs can be seen to train on the same text.
fn checksums(step: &Step, seq_len: usize) -> Vec<String> {
    let of = |tokens: &[i64]| {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        tokens.iter().for_each(|token| digest.update(&token.to_le_bytes()));
        format!("{:016x}", digest.finalize())
    };
    step.inputs.chunks(seq_len).map(of).collect()
}

impl Surroundings for Feed {
    fn load_batch(&mut self) -> Result<Option<Vec<Sequences>>> {
        let begun = Instant::now();
        let step =
            self.loader.next_step().map_err(Error::from).map_err(Error::of_key("training.dataset_path"))?;
        self.data_loading += begun.elapsed();
        let Some(step) = step else {
            if let Some(why) = self.loader.out_of_data() {
                warn!("{why}");
            }
            return Ok(None);
        };
        step.notices.iter().for_each(|notice| warn!("{notice}"));
        if tracing::enabled!(tracing::Level::DEBUG) {
            debug!("sequences from {}: {}", step.position, checksums(&step, self.seq_len as usize).join(" "));
        }
        sequences(&step, self.microbatches, self.seq_len, self.device).map(Some)
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_asked()
    }

    fn wait_staged(&mut self) -> Result<()> {
        if let Some(saving) = self.saving.take() {
            let begun = Instant::now();
            saving.wait_staged();
            self.checkpoint_wait += begun.elapsed();
        }
        Ok(())
    }

    fn carried_out(&mut self, instruction: Instruction, begun: Instant) {
        if let Some(trace) = &mut self.trace {
            trace.instruction(instruction, begun);
        }
    }
}
