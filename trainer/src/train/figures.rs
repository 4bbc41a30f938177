//! What a run reports of its steps.

use super::feed::Feed;
use super::setup::Setup;
use super::validation::Validated;
use crate::error::Result;
use crate::ffi::process_group::ReduceOp;
use crate::groups::Groups;
use crate::run::StepReport;
use job::config::Config;
use job::flops;
use std::time::Instant;
use tch::{Kind, Tensor};
use tracing::info;

/// Counts and times since the last line of the log.
pub(super) struct Figures<'a> {
    groups: &'a Groups,
    log_freq: u64,
    /// Tokens of a step, of all ranks and of this one.
    step_tokens: (u64, u64),
    flops_per_token: u64,
    non_data_parallel: u32,
    tokens_seen: u64,
    since: Instant,
    steps: u64,
    is_first: bool,
}

impl<'a> Figures<'a> {
    pub(super) fn new(config: &Config, setup: &Setup, groups: &'a Groups, tokens_seen: u64) -> Self {
        let all = setup.batch.global * config.training.seq_len;
        Figures {
            groups,
            log_freq: config.metrics.log_freq,
            step_tokens: (all, all / u64::from(setup.dims.batch())),
            flops_per_token: flops::per_token(setup.model.spec(), config.training.seq_len).unwrap_or(0),
            non_data_parallel: setup.dims.non_data_parallel(),
            tokens_seen,
            since: Instant::now(),
            steps: 0,
            is_first: true,
        }
    }

    /// Tokens that the run has seen, of all ranks and runs.
    pub(super) fn tokens_seen(&self) -> u64 {
        self.tokens_seen
    }

    /// Notes a step, and logs where it is time. Called by all ranks alike.
    ///
    /// Errors: what the collectives give.
    pub(super) fn stepped(&mut self, step: u64, lr: f64, report: &StepReport, feed: &mut Feed) -> Result<()> {
        self.tokens_seen += self.step_tokens.0;
        self.steps += 1;
        if !step.is_multiple_of(self.log_freq) && !std::mem::take(&mut self.is_first) {
            return Ok(());
        }
        let (loss, _loss_max) = self.losses(report)?;
        let seconds = self.since.elapsed().as_secs_f64();
        let tokens = self.steps * self.step_tokens.1;
        let tps = flops::tokens_per_second(tokens, seconds, self.non_data_parallel);
        let (_data, _wait) = feed.take_waits();
        let norm = f64::try_from(&report.grad_norm)?;
        info!(
            "step: {step:2}  loss: {loss:8.5}  grad_norm: {norm:7.4}  tps: {tps:.0}  tflops: {:.2} lr {lr}",
            flops::tflops(self.flops_per_token, tps)
        );
        (self.since, self.steps) = (Instant::now(), 0);
        Ok(())
    }

    /// Logs a validation.
    pub(super) fn validated(&mut self, step: u64, found: &Validated) {
        let tps = found.tokens as f64 / found.took.as_secs_f64();
        info!("validate step: {step:2}  loss: {:7.4}  tps: {tps:.0}", found.loss);
        // What follows is no part of it.
        self.since += found.took;
    }

    /// The loss over all tokens, and the largest of a rank over its own.
    fn losses(&self, report: &StepReport) -> Result<(f64, f64)> {
        let sum = report.loss.f_to_kind(Kind::Double)?.f_to_device(tch::Device::Cpu)?;
        let share = report.global_valid_tokens as f64 / report.valid_tokens.max(1) as f64;
        let most = sum.f_mul_scalar(share)?;
        self.groups.sum_over_data(&sum)?;
        self.groups.reduce_over_data(&most, ReduceOp::Max)?;
        let number = |tensor: &Tensor| f64::try_from(tensor);
        Ok((number(&sum)?, number(&most)?))
    }
}
