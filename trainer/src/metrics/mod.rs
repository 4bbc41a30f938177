//! What a training reports: lines, a progress bar, TensorBoard events, JSON. `docs/metrics.md` lists all of it.
//!
//! Numbers come in, files and lines go out; how they are computed is the training's affair.

mod console;
mod events;
mod jsonl;
mod log;
mod memory;
mod progress;
mod record;
mod screen;
mod tensorboard;

pub use console::wants_colour;
pub use log::{LogOptions, LogRanks, init as init_log};
pub use memory::Memory;
pub use record::{Costs, Rates, Record, Validation, Window};
pub use screen::Screen;

use crate::error::{Error, Result};
use events::EventFile;
use indicatif::ProgressDrawTarget;
use job::config;
use jsonl::{JsonLines, Object};
use progress::Progress;
use serde_json::Value;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use tracing::{info, warn};

/// What is reported, and where.
#[derive(Clone, Debug)]
pub struct MetricsOptions<'a> {
    /// Section `metrics` of the configuration.
    pub config: &'a config::Metrics,
    /// `job.dump_folder`, which all files are below.
    pub dump_folder: &'a Path,
    /// This rank.
    pub rank: u32,
    /// The rank with a bar and files.
    pub metrics_rank: u32,
    /// Whose lines the log prints.
    pub log_ranks: &'a LogRanks,
    /// Whether lines have colours, of [`wants_colour`].
    pub is_coloured: bool,
    /// Where lines go, of [`init_log`].
    pub screen: Screen,
    /// What a token costs.
    pub costs: Costs,
    /// Steps of earlier runs.
    pub steps_done: u64,
    /// `training.steps`.
    pub steps_total: u64,
    /// The start of this run, which the folder of its events is named after; the same on all ranks.
    pub started: SystemTime,
}

/// All that a rank reports. Threads may share it.
#[derive(Debug)]
pub struct Metrics {
    rank: u32,
    is_coloured: bool,
    costs: Costs,
    progress: Option<Progress>,
    events: Sink<EventFile>,
    lines: Sink<JsonLines>,
    memory_warned: Mutex<Memory>,
}

impl Metrics {
    /// Opens what the configuration asks for, and shows the bar.
    ///
    /// Errors: [`Error::Metrics`] for a file that cannot be made. Later failures end no training: they are warned of.
    pub fn new(options: &MetricsOptions) -> Result<Self> {
        Metrics::with_bar_on(ProgressDrawTarget::stderr(), options)
    }

    fn with_bar_on(target: ProgressDrawTarget, options: &MetricsOptions) -> Result<Self> {
        let MetricsOptions { config, dump_folder, rank, metrics_rank, .. } = *options;
        let has_loss = rank == metrics_rank;
        if !options.log_ranks.shows(metrics_rank) {
            warn!("the loss is not visible: it is on rank {metrics_rank}; add this rank to LOG_RANK");
        }
        if options.costs.flops_per_token.is_some() && !options.costs.peak.is_known {
            warn!("the peak of this device is not known; mfu is a share of an A100's, which means little");
        }
        let mut events = None;
        if config.enable_tensorboard && (has_loss || config.save_for_all_ranks) {
            let folder = tensorboard::folder(dump_folder, config, options.started, rank);
            events = Some(EventFile::create(&folder, unix_seconds())?);
            info!("TensorBoard logging enabled. Logs will be saved at {}", folder.display());
        }
        let lines = match config.enable_jsonl && has_loss {
            true => Some(JsonLines::open(&dump_folder.join(&config.save_jsonl_file))?),
            false => None,
        };
        // Last, so that nothing that fails leaves a bar.
        let progress = has_loss
            .then(|| Progress::new(options.screen.clone(), target, options.steps_done, options.steps_total));
        Ok(Metrics {
            rank,
            is_coloured: options.is_coloured,
            costs: options.costs,
            progress,
            events: Sink::new(events),
            lines: Sink::new(lines),
            memory_warned: Mutex::default(),
        })
    }

    /// Moves the bar. For every step, logged or not.
    pub fn step_done(&self, step: u64) {
        if let Some(progress) = &self.progress {
            progress.step(step);
        }
    }

    /// Reports a logged step.
    pub fn record(&self, record: &Record) {
        let rates = record.window.rates(&self.costs);
        if let Some(progress) = &self.progress {
            progress.figures(record.global_avg_loss, rates.tokens_per_second);
            progress.step(record.step);
        }
        self.warn_of_memory(&record.memory);
        info!("{}", console::step_line(record, &rates, self.is_coloured));
        self.write(
            record.step,
            || tensorboard::step_scalars(record, &rates),
            |unix_seconds| jsonl::step_object(record, &rates, unix_seconds, self.rank),
        );
    }

    /// Reports a validation.
    pub fn validation(&self, validation: &Validation) {
        self.warn_of_memory(&validation.memory);
        info!("{}", console::validation_line(validation, self.is_coloured));
        self.write(
            validation.step,
            || tensorboard::validation_scalars(validation),
            |unix_seconds| jsonl::validation_object(validation, unix_seconds, self.rank),
        );
    }

    /// Reports that something happened (`saved`, `loaded`, `exported`, `resumed`, `finished`), as JSON alone. Keys of fields
    /// end with their unit.
    pub fn event(&self, name: &str, fields: &[(&str, Value)]) {
        self.lines.run(|lines| lines.write(jsonl::event_object(name, fields, unix_seconds(), self.rank)));
    }

    /// Takes the bar away, and waits until the files are on the disk.
    pub fn finish(&self) {
        if let Some(progress) = &self.progress {
            progress.finish();
        }
        self.events.run(EventFile::sync);
        self.lines.run(JsonLines::sync);
    }

    fn write(
        &self,
        step: u64,
        scalars: impl FnOnce() -> Vec<(&'static str, f64)>,
        object: impl FnOnce(f64) -> Object,
    ) {
        let unix_seconds = unix_seconds();
        self.events.run(|events| events.scalars(unix_seconds, step, &scalars()));
        self.lines.run(|lines| lines.write(object(unix_seconds)));
    }

    /// Both counts only grow: each growth is said once.
    fn warn_of_memory(&self, memory: &Memory) {
        let mut warned = self.memory_warned.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.alloc_retries > warned.alloc_retries {
            warn!("{} CUDA memory allocation retries.", memory.alloc_retries);
        }
        if memory.ooms > warned.ooms {
            warn!("{} CUDA OOM errors thrown.", memory.ooms);
        }
        *warned = *memory;
    }
}

/// A file, until it fails.
#[derive(Debug)]
struct Sink<T>(Mutex<Option<T>>);

impl<T> Sink<T> {
    fn new(file: Option<T>) -> Self {
        Sink(Mutex::new(file))
    }

    fn run(&self, action: impl FnOnce(&mut T) -> Result<()>) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = file.as_mut() else { return };
        if let Err(error) = action(open) {
            *file = None;
            warn!("{}. The training goes on without this file", chain(&error));
        }
    }
}

/// An error with what caused it.
fn chain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;
