//! Reports of whole configurations, and published figures.

use super::published::{PUBLISHED, Published, table};
use super::*;
use crate::config::Config;

pub(super) fn question<'a>(config: &'a Config, world: u32) -> Question<'a> {
    let device = Device::find("h100").unwrap();
    let (assumptions, write_bandwidth) = (Assumptions::default(), WRITE_BANDWIDTH);
    Question { config, csv: None, world, device, assumptions, write_bandwidth }
}

pub(super) fn config(flags: &str) -> Config {
    let read = |_: &std::path::Path| -> std::io::Result<String> { panic!("there is no file") };
    Config::from_args(flags.split_whitespace(), read).unwrap().config
}

fn row(tokens_per_second: f64) -> &'static Published {
    PUBLISHED.iter().find(|row| row.tokens_per_second == tokens_per_second).unwrap()
}

/// Those that users ask about first. All rows are in `docs/plan.md`, errors as they are.
#[test]
fn published_figures_are_predicted() {
    for tokens_per_second in [5762.0, 876.0, 128.0] {
        let row = row(tokens_per_second);
        let error = row.error_percent(&row.forecast().unwrap());
        assert!(error.abs() < 10.0, "{}: {error}", row.what);
    }
    for row in PUBLISHED.iter().filter(|row| row.is_calibrated_on) {
        let error = row.error_percent(&row.forecast().unwrap());
        assert!(error.abs() < 10.0, "{}: {error}", row.what);
    }
}

#[test]
fn the_page_has_the_table() {
    let page = include_str!("../../../docs/plan.md");
    let table = table().unwrap();
    assert!(
        page.contains(&table),
        "docs/plan.md lacks what `cargo run -p job --example published` prints:\n{table}"
    );
}

#[test]
fn a_report_in_words() {
    let config = config("--job.config_file=preset:llama3_8b --checkpoint.enable");
    let forecast = Forecast::new(&question(&config, 8)).unwrap();
    insta::assert_snapshot!(forecast.text());
    let row = row(128.0);
    insta::assert_snapshot!("a_pipeline_in_words", row.forecast().unwrap().text());
}

#[test]
fn a_trace_has_every_rank_of_a_pipeline() {
    let flags = "--training.local_batch_size=8 --parallelism.pipeline_parallel_degree=2";
    let config = config(flags);
    let forecast = Forecast::new(&question(&config, 4)).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&forecast.trace()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let ranks: std::collections::BTreeSet<_> =
        events.iter().filter_map(|event| event["pid"].as_u64()).collect();
    assert_eq!(ranks.into_iter().collect::<Vec<_>>(), [0, 2]);
    // In the program's lane is every instruction once, in its order.
    for rank in 0..2 {
        let program = forecast.step.train(rank);
        let names = events
            .iter()
            .filter(|event| event["ph"] == "X" && event["pid"] == u64::from(2 * rank) && event["tid"] == 0);
        let names: Vec<_> = names.map(|event| event["name"].as_str().unwrap().to_owned()).collect();
        let expected: Vec<_> = program.instructions.iter().map(ToString::to_string).collect();
        assert_eq!(names, expected);
    }
}

#[test]
fn saves_stop_training_as_their_mode_says() {
    let saves = |flags: &str| {
        let config = config(&format!("--checkpoint.enable {flags}"));
        Forecast::new(&question(&config, 4)).unwrap().saves
    };
    let plain = saves("--checkpoint.async_mode=disabled");
    assert_eq!(plain.total_bytes, 12 * 6_163_712);
    assert!(plain.rank_bytes.abs_diff(plain.total_bytes / 4) < 1000);
    assert_eq!(plain.stall_seconds, plain.stage_seconds + plain.write_seconds);
    assert_eq!(plain.write_seconds, (plain.rank_bytes * 4) as f64 / WRITE_BANDWIDTH);
    let background = saves("--checkpoint.async_mode=async");
    assert_eq!(background.stall_seconds, background.stage_seconds);
    assert!(saves("--checkpoint.async_mode=async_with_pinned_mem").stall_seconds <= background.stall_seconds);
    // A save that takes longer than the steps between two is waited for.
    assert!(
        saves("--checkpoint.async_mode=async --checkpoint.interval=1").stall_seconds
            > background.stall_seconds
    );
    let copies = saves("--parallelism.data_parallel_replicate_degree=2");
    assert!(copies.rank_bytes.abs_diff(plain.rank_bytes) < 1000, "copies are shared out");
    assert_eq!(saves("--checkpoint.load_only").interval, None);
}
