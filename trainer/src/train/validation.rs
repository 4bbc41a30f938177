//! `[validation]`: the loss on text that is not trained on, the same text every time.

use super::feed::sequences;
use super::setup::{Setup, corpus};
use crate::error::{Error, Result};
use crate::groups::{Groups, size};
use crate::run::{Runner, Sequences, Surroundings};
use data::{DataOptions, Loader};
use job::config::Config;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Kind};

/// The text of validations.
pub(super) struct Validation {
    options: DataOptions,
    freq: u64,
    /// Batches at most; `None` for all.
    batches: Option<u64>,
    /// Of a batch.
    microbatches: i64,
    seq_len: i64,
    device: Device,
}

/// What a validation found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validated {
    /// The mean over its batches.
    pub(super) loss: f64,
    /// Tokens of the sequences that this rank has a part of.
    pub(super) tokens: u64,
    pub(super) took: Duration,
}

impl Validation {
    /// What the configuration wants; `None` for no validation.
    ///
    /// Errors: a dataset that is not there.
    pub(super) fn open(config: &Config, setup: &Setup) -> Result<Option<Self>> {
        let validation = &config.validation;
        if !validation.enable {
            return Ok(None);
        }
        let keys = ("validation.dataset", "validation.dataset_path");
        let corpus = corpus(&validation.dataset, validation.dataset_path.as_deref(), keys)?;
        let ranks = u64::from(setup.dims.batch());
        let batches = u64::try_from(validation.steps).ok();
        let options = DataOptions::new(
            Arc::new(corpus),
            setup.tokenizer.clone(),
            validation.seq_len as usize,
            validation.local_batch_size * ranks,
        );
        let options = DataOptions {
            rank: setup.batch_rank(),
            ranks,
            infinite: batches.is_some(),
            workers: validation.dataloader.num_workers as usize,
            prefetch_steps: validation.dataloader.prefetch_factor.unwrap_or(2) as usize,
            ..options
        };
        let (freq, seq_len) = (validation.freq, validation.seq_len as i64);
        let microbatches = i64::from(setup.step.evaluate(0).microbatches);
        Ok(Some(Validation { options, freq, batches, microbatches, seq_len, device: setup.device }))
    }

    /// Whether a validation follows a step.
    pub(super) fn is_due(&self, step: u64) -> bool {
        step == 1 || step.is_multiple_of(self.freq)
    }

    /// The loss of the model as it is. Called by all ranks alike.
    ///
    /// Errors: what reading gives; what the collectives give.
    pub(super) fn run(&self, runner: &mut Runner, groups: &Groups) -> Result<Validated> {
        let begun = Instant::now();
        let loader = Loader::open(&self.options)?;
        let mut text =
            Text { loader, microbatches: self.microbatches, seq_len: self.seq_len, device: self.device };
        let (mut sum, mut batches, mut tokens) = (0.0, 0, 0);
        while self.batches.is_none_or(|most| batches < most) {
            let Some(report) = runner.evaluate(&mut text)? else { break };
            let loss = report.loss.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?;
            groups.sum_over_pipeline(&loss)?;
            groups.sum_over_data(&loss)?;
            sum += f64::try_from(&loss)?;
            batches += 1;
            tokens += report.valid_tokens * u64::from(size(&groups.cp));
        }
        if batches == 0 {
            let DataOptions { sequences_per_step, seq_len, .. } = self.options;
            return Err(Error::Usage(format!(
                "validation.dataset_path: fewer than the {sequences_per_step} sequences of {seq_len} tokens that a batch of all \
                 ranks has; set validation.local_batch_size or validation.seq_len lower, or validation.steps to a number, by \
                 which text is read again"
            )));
        }
        Ok(Validated { loss: sum / batches as f64, tokens, took: begun.elapsed() })
    }
}

/// One rank's part of it.
struct Text {
    loader: Loader,
    microbatches: i64,
    seq_len: i64,
    device: Device,
}

impl Surroundings for Text {
    fn load_batch(&mut self) -> Result<Option<Vec<Sequences>>> {
        let step = self.loader.next_step()?;
        step.map(|step| sequences(&step, self.microbatches, self.seq_len, self.device)).transpose()
    }
}
