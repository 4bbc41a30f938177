//! What TensorBoard shows: TorchTitan's tags and folders, and one tag of ours.
//!
//! Source: torchtitan/components/metrics.py and `extra_metrics` in train.py, v0.2.2.

use super::memory::{BYTES_PER_GIB, Memory};
use super::record::{Rates, Record, Validation};
use chrono::{DateTime, Local};
use job::config;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The folder of a run's events, named after the local time of its start; `rank` where each rank has its own.
pub(super) fn folder(
    dump_folder: &Path,
    config: &config::Metrics,
    started: SystemTime,
    rank: u32,
) -> PathBuf {
    let minute = DateTime::<Local>::from(started).format("%Y%m%d-%H%M").to_string();
    let folder = dump_folder.join(&config.save_tb_folder).join(minute);
    if config.save_for_all_ranks { folder.join(format!("rank_{rank}")) } else { folder }
}

/// The scalars of a step. Models without a figure for their operations have no `tflops` and `mfu(%)`.
pub(super) fn step_scalars(record: &Record, rates: &Rates) -> Vec<(&'static str, f64)> {
    let [active, active_percent, reserved, reserved_percent] = peaks(&record.memory);
    let mut scalars = vec![
        ("loss_metrics/global_avg_loss", record.global_avg_loss),
        ("loss_metrics/global_max_loss", record.global_max_loss),
        ("grad_norm", record.grad_norm),
        ("throughput(tps)", rates.tokens_per_second),
    ];
    scalars.extend(rates.tflops.map(|tflops| ("tflops", tflops)));
    scalars.extend(rates.mfu_percent.map(|mfu| ("mfu(%)", mfu)));
    scalars.extend([
        ("time_metrics/end_to_end(s)", rates.step_seconds),
        ("time_metrics/data_loading(s)", rates.batch_seconds),
        ("time_metrics/data_loading(%)", rates.data_loading_percent),
        ("time_metrics/checkpoint_wait(s)", record.window.checkpoint_wait_seconds),
        ("memory/max_active(GiB)", active),
        ("memory/max_active(%)", active_percent),
        ("memory/max_reserved(GiB)", reserved),
        ("memory/max_reserved(%)", reserved_percent),
        ("memory/num_alloc_retries", record.memory.alloc_retries as f64),
        ("memory/num_ooms", record.memory.ooms as f64),
        ("n_tokens_seen", record.tokens_seen as f64),
        ("lr", record.lr),
    ]);
    scalars
}

/// The scalars of a validation.
pub(super) fn validation_scalars(validation: &Validation) -> Vec<(&'static str, f64)> {
    let [active, active_percent, reserved, reserved_percent] = peaks(&validation.memory);
    vec![
        ("validation_metrics/loss", validation.loss),
        ("validation_metrics/throughput(tps)", validation.tokens_per_second),
        ("validation_metrics/memory/max_active(GiB)", active),
        ("validation_metrics/memory/max_active(%)", active_percent),
        ("validation_metrics/memory/max_reserved(GiB)", reserved),
        ("validation_metrics/memory/max_reserved(%)", reserved_percent),
    ]
}

/// Active and reserved memory, each in GiB and percent.
fn peaks(memory: &Memory) -> [f64; 4] {
    [
        memory.max_active_bytes as f64 / BYTES_PER_GIB,
        memory.max_active_percent(),
        memory.max_reserved_bytes as f64 / BYTES_PER_GIB,
        memory.max_reserved_percent(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::record::Costs;
    use crate::metrics::record::samples::{COSTS, record, validation};

    /// What TorchTitan 0.2.2 gave its logger of the same figures, in its order, and where ours comes in.
    #[test]
    fn tags_and_figures_are_torchtitans() {
        let step = step_scalars(&record(10), &record(10).window.rates(&COSTS));
        let expected = [
            ("loss_metrics/global_avg_loss", 8.123456),
            ("loss_metrics/global_max_loss", 8.5),
            ("grad_norm", 1.98765),
            ("throughput(tps)", 7000.0),
            ("tflops", 405.40114944),
            ("mfu(%)", 40.99101612133468),
            ("time_metrics/end_to_end(s)", 0.4),
            ("time_metrics/data_loading(s)", 0.2),
            ("time_metrics/data_loading(%)", 10.0),
            ("time_metrics/checkpoint_wait(s)", 0.125),
            ("memory/max_active(GiB)", 40.0),
            ("memory/max_active(%)", 50.51862997816944),
            ("memory/max_reserved(GiB)", 48.0),
            ("memory/max_reserved(%)", 60.62235597380333),
            ("memory/num_alloc_retries", 0.0),
            ("memory/num_ooms", 0.0),
            ("n_tokens_seen", 655360.0),
            ("lr", 0.0003),
        ];
        assert_eq!(step, expected);
        let expected = [
            ("validation_metrics/loss", 3.98765),
            ("validation_metrics/throughput(tps)", 820500.0),
            ("validation_metrics/memory/max_active(GiB)", 40.0),
            ("validation_metrics/memory/max_active(%)", 50.51862997816944),
            ("validation_metrics/memory/max_reserved(GiB)", 48.0),
            ("validation_metrics/memory/max_reserved(%)", 60.62235597380333),
        ];
        assert_eq!(validation_scalars(&validation()), expected);
    }

    #[test]
    fn no_figure_for_operations_no_tags_of_them() {
        let costs = Costs { flops_per_token: None, ..COSTS };
        let scalars = step_scalars(&record(10), &record(10).window.rates(&costs));
        assert_eq!(scalars.len(), 16);
        assert!(!scalars.iter().any(|(tag, _)| ["tflops", "mfu(%)"].contains(tag)));
    }

    #[test]
    fn folders() {
        let mut config = config::Metrics { save_tb_folder: "tb".into(), ..config::Metrics::default() };
        let started = SystemTime::now();
        let minute = DateTime::<Local>::from(started).format("%Y%m%d-%H%M").to_string();
        assert_eq!((minute.len(), minute.find('-')), (13, Some(8)));
        let found = |config: &config::Metrics| folder(Path::new("out"), config, started, 3);
        assert_eq!(found(&config), Path::new("out/tb").join(&minute));
        config.save_for_all_ranks = true;
        assert_eq!(found(&config), Path::new("out/tb").join(&minute).join("rank_3"));
    }
}
