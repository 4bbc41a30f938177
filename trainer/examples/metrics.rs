//! What a run reports, without a training: `cargo run -p titan-train --example metrics -- FOLDER [STEPS] [STEP_MS]`.
//!
//! Prints the log with `LOG_RANK`, `RUST_LOG` and `NO_COLOR` as a training takes them, shows the bar on a terminal, and
//! writes TensorBoard events and JSON below FOLDER.

use job::config;
use job::flops;
use std::env;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use trainer::metrics::{
    Costs, LogOptions, LogRanks, Memory, Metrics, MetricsOptions, Record, Validation, Window, init_log,
    wants_colour,
};
use trainer::{Error, Result};

const TOKENS_PER_STEP: u64 = 8192;

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let usage = || Error::Usage("usage: metrics FOLDER [STEPS] [STEP_MS]".into());
    let folder = arguments.next().ok_or_else(usage)?;
    let mut number = |default| match arguments.next() {
        Some(text) => text.parse::<u64>().map_err(|_| usage()),
        None => Ok(default),
    };
    let (steps_total, step_time) = (number(100)?, Duration::from_millis(number(50)?));
    let is_coloured =
        wants_colour(std::io::stdout().is_terminal(), false, env::var_os("NO_COLOR").as_deref());
    let log_ranks = LogRanks::parse(&env::var("LOG_RANK").unwrap_or_default())?;
    let filter = env::var("RUST_LOG").ok();
    let screen =
        init_log(&LogOptions { rank: 0, log_ranks: &log_ranks, is_coloured, filter: filter.as_deref() })?;
    let config =
        config::Metrics { enable_tensorboard: true, enable_jsonl: true, ..config::Metrics::default() };
    let metrics = Metrics::new(&MetricsOptions {
        config: &config,
        dump_folder: Path::new(&folder),
        rank: 0,
        metrics_rank: 0,
        log_ranks: &log_ranks,
        is_coloured,
        screen,
        costs: Costs {
            flops_per_token: Some(71_585_280),
            peak: flops::peak("cpu", None),
            non_data_parallel: 1,
        },
        steps_done: 0,
        steps_total,
        started: SystemTime::now(),
    })?;
    run(&metrics, &config, steps_total, step_time)?;
    metrics.event("finished", &[("step", steps_total.into())]);
    metrics.finish();
    Ok(())
}

fn run(metrics: &Metrics, config: &config::Metrics, steps_total: u64, step_time: Duration) -> Result<()> {
    let (mut logged_at, mut logged_step) = (Instant::now(), 0);
    for step in 1..=steps_total {
        std::thread::sleep(step_time);
        metrics.step_done(step);
        if step != 1 && step % config.log_freq != 0 {
            continue;
        }
        let loss = 2.0 + 6.0 * (-(step as f64) / 50.0).exp();
        let (steps, seconds) = (step - logged_step, logged_at.elapsed().as_secs_f64());
        let window = Window {
            steps,
            tokens: steps * TOKENS_PER_STEP,
            seconds,
            batches: steps,
            data_loading_seconds: 0.01 * seconds,
            checkpoint_wait_seconds: 0.0,
        };
        let memory = Memory::of_process()?;
        metrics.record(&Record {
            step,
            global_avg_loss: loss,
            global_max_loss: 1.1 * loss,
            grad_norm: loss / 4.0,
            lr: 3e-4,
            tokens_seen: step * TOKENS_PER_STEP,
            window,
            memory,
        });
        let tokens_per_second = window.rates(&COSTLESS).tokens_per_second;
        if step % (10 * config.log_freq) == 0 {
            metrics.validation(&Validation { step, loss: 1.05 * loss, tokens_per_second, memory });
        }
        (logged_at, logged_step) = (Instant::now(), step);
    }
    Ok(())
}

/// For throughput alone.
const COSTLESS: Costs = Costs {
    flops_per_token: None,
    peak: flops::Peak { flops: f64::NAN, is_known: false },
    non_data_parallel: 1,
};
