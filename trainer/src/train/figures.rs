//! What a run reports of its steps: figures of all ranks, gathered where it is time to log.

use super::feed::Feed;
use super::saves::Happening;
use super::setup::Setup;
use super::validation::Validated;
use crate::error::Result;
use crate::ffi::device;
use crate::ffi::process_group::ReduceOp;
use crate::groups::Groups;
use crate::metrics::{Costs, LogRanks, Memory, Metrics, MetricsOptions, Record, Screen, Validation, Window};
use crate::run::StepReport;
use crate::session::Session;
use job::config::Config;
use job::flops;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tch::{Device, Kind, Tensor};
use tracing::{info, warn};

/// Where the log goes, as `main` has set it up.
#[derive(Clone, Debug)]
pub struct Log {
    /// The ranks that it shows.
    pub ranks: LogRanks,
    /// Whether lines have colours.
    pub is_coloured: bool,
    /// Where they go.
    pub screen: Screen,
}

/// Counts and times since the last line of the log.
pub(super) struct Figures<'a> {
    groups: &'a Groups,
    device: Device,
    metrics: Metrics,
    log_freq: u64,
    /// Tokens of a step, of all ranks.
    step_tokens: u64,
    /// And of this one.
    rank_tokens: u64,
    turns: u64,
    non_data_parallel: u32,
    tokens_seen: u64,
    since: Instant,
    window: Window,
    is_first: bool,
}

impl<'a> Figures<'a> {
    /// Opens what is reported to. Called by all ranks alike.
    ///
    /// Errors: a file that cannot be made; ranks that do not come.
    pub(super) fn open(
        config: &Config,
        session: &Session,
        setup: &Setup,
        groups: &'a Groups,
        log: &Log,
        done: (u64, u64),
    ) -> Result<Self> {
        let costs = Costs {
            flops_per_token: flops::per_token(setup.model.spec(), config.training.seq_len).ok(),
            peak: peak(setup.device)?,
            non_data_parallel: setup.dims.non_data_parallel(),
        };
        let (steps_done, tokens_seen) = done;
        let options = MetricsOptions {
            config: &config.metrics,
            dump_folder: Path::new(&config.job.dump_folder),
            rank: session.member.rank,
            // The loss of a pipeline is told to all its ranks.
            metrics_rank: 0,
            log_ranks: &log.ranks,
            is_coloured: log.is_coloured,
            screen: log.screen.clone(),
            costs,
            steps_done,
            steps_total: config.training.steps,
            started: started(session)?,
        };
        let metrics = session.together("metrics", Metrics::new(&options))?;
        let step_tokens = setup.step.batch.global * config.training.seq_len;
        Ok(Figures {
            groups,
            device: setup.device,
            metrics,
            log_freq: config.metrics.log_freq,
            step_tokens,
            rank_tokens: step_tokens / u64::from(setup.dims.batch()),
            turns: setup.step.batch.accumulation_steps,
            non_data_parallel: costs.non_data_parallel,
            tokens_seen,
            since: Instant::now(),
            window: Window::default(),
            is_first: true,
        })
    }

    /// Keeps a record of what happened to checkpoints.
    pub(super) fn tell(&self, happenings: Vec<Happening>) {
        happenings.iter().for_each(|happening| self.metrics.event(happening.name, &happening.fields));
    }

    /// Takes the bar away, and waits until the files are on the disk.
    pub(super) fn finish(&self) {
        self.metrics.finish();
    }

    /// Tokens that the run has seen, of all ranks and runs.
    pub(super) fn tokens_seen(&self) -> u64 {
        self.tokens_seen
    }

    /// Notes a step, and logs where it is time. Called by all ranks alike.
    ///
    /// Errors: what the collectives give.
    pub(super) fn stepped(&mut self, step: u64, lr: f64, report: &StepReport, feed: &mut Feed) -> Result<()> {
        self.tokens_seen += self.step_tokens;
        self.window.steps += 1;
        self.window.tokens += self.rank_tokens;
        self.window.batches += self.turns;
        let is_first = std::mem::take(&mut self.is_first);
        if !step.is_multiple_of(self.log_freq) && !is_first {
            self.metrics.step_done(step);
            return Ok(());
        }
        let (global_avg_loss, global_max_loss) = self.losses(report)?;
        let grad_norm = number(&report.grad_norm)?;
        let (data, saves) = feed.take_waits();
        self.window.seconds = self.since.elapsed().as_secs_f64();
        self.window.data_loading_seconds = data.as_secs_f64();
        self.window.checkpoint_wait_seconds = saves.as_secs_f64();
        let (window, memory) = (std::mem::take(&mut self.window), self.memory()?);
        let tokens_seen = self.tokens_seen;
        self.metrics.record(&Record {
            step,
            global_avg_loss,
            global_max_loss,
            grad_norm,
            lr,
            tokens_seen,
            window,
            memory,
        });
        self.since = Instant::now();
        Ok(())
    }

    /// Reports a validation.
    ///
    /// Errors: what asking for memory gives.
    pub(super) fn validated(&mut self, step: u64, found: &Validated) -> Result<()> {
        let tokens_per_second =
            flops::tokens_per_second(found.tokens, found.took.as_secs_f64(), self.non_data_parallel);
        let memory = self.memory()?;
        self.metrics.validation(&Validation { step, loss: found.loss, tokens_per_second, memory });
        // Steps have the time of steps.
        self.since += found.took;
        Ok(())
    }

    /// The loss over all tokens, and the largest of a rank over its own.
    fn losses(&self, report: &StepReport) -> Result<(f64, f64)> {
        let own = Tensor::from(number(&report.loss)?);
        self.groups.sum_over_pipeline(&own)?;
        let own = number(&own)?;
        let share = report.global_valid_tokens as f64 / report.valid_tokens.max(1) as f64;
        let (sum, most) = (Tensor::from(own), Tensor::from(own * share));
        self.groups.sum_over_data(&sum)?;
        self.groups.reduce_over_data(&most, ReduceOp::Max)?;
        Ok((number(&sum)?, number(&most)?))
    }

    fn memory(&self) -> Result<Memory> {
        let Device::Cuda(index) = self.device else { return Memory::of_process() };
        let found = device::memory(index as u32)?;
        device::reset_peak(index as u32)?;
        Ok(Memory {
            max_active_bytes: found.allocated_peak,
            max_reserved_bytes: found.reserved_peak,
            total_bytes: found.total,
            alloc_retries: found.retries,
            ooms: found.out_of_memory,
        })
    }
}

fn number(tensor: &Tensor) -> Result<f64> {
    Ok(f64::try_from(tensor.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
}

fn peak(device: Device) -> Result<flops::Peak> {
    let Device::Cuda(index) = device else { return Ok(flops::peak("cpu", None)) };
    let name = device::device_name(index as u32)?;
    let peak = flops::peak(&name, None);
    info!("{name}; peak FLOPS used for computing MFU: {:.3e}", peak.flops);
    if !peak.is_known {
        warn!("the peak of {name} is not known; an A100's is taken, so that MFU says little");
    }
    Ok(peak)
}

/// When the run began, by rank 0's clock.
fn started(session: &Session) -> Result<SystemTime> {
    let own = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let shared = session.coordinator.share("started", &own.to_le_bytes())?;
    let seconds = shared.try_into().map_or(own, u64::from_le_bytes);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
