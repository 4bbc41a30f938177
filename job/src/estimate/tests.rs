//! Costs of whole configurations: what must grow with what, and bounds that no device goes beyond.

use super::*;
use crate::flops;
use crate::forecast::{Forecast, Question, WRITE_BANDWIDTH};

fn forecast(flags: &str, world: u32, device: &str, assumed: &[&str]) -> Result<Forecast> {
    let read = |_: &std::path::Path| -> std::io::Result<String> { panic!("there is no file") };
    let config = Config::from_args(flags.split_whitespace(), read).unwrap().config;
    let mut assumptions = Assumptions::default();
    assert!(assumed.iter().all(|name| assumptions.assume(name)));
    let device = Device::find(device).unwrap();
    let write_bandwidth = WRITE_BANDWIDTH;
    Forecast::new(&Question { config: &config, csv: None, world, device, assumptions, write_bandwidth })
}

const SMALL: &str =
    "--model.name=llama3 --model.flavor=8B --training.seq_len=8192 --training.local_batch_size=1";

#[test]
fn no_step_is_faster_than_its_products() {
    let model = convert::families::by_name("llama3:8B").unwrap();
    for device in DEVICES {
        for (tp, cp, pp) in [(1, 1, 1), (8, 1, 1), (1, 2, 1), (2, 1, 4), (2, 2, 2)] {
            let flags = format!(
                "{SMALL} --training.local_batch_size=8 --parallelism.tensor_parallel_degree={tp} \
                 --parallelism.context_parallel_degree={cp} --parallelism.pipeline_parallel_degree={pp}"
            );
            let forecast = forecast(&flags, 64, device.name, &[]).unwrap();
            // Attention counts in full where it is counted, and is half computed.
            let parameters = flops::parameters(&model).unwrap().active;
            let operations = 6.0 * parameters as f64 * forecast.tokens() as f64 / 64.0;
            let bound = operations / device.bfloat16_flops();
            assert!(forecast.figures.seconds > bound, "{} {flags}", device.name);
            assert!(forecast.mfu_percent() < 100.0);
        }
    }
}

#[test]
fn more_of_what_costs_takes_longer() {
    let rate = |flags: &str, assumed: &[&str]| {
        let flags = format!("{SMALL} --activation_checkpoint.mode=none {flags}");
        forecast(&flags, 64, "h100", assumed).unwrap().tokens_per_second()
    };
    let plain = rate("", &[]);
    assert!(rate("--activation_checkpoint.mode=full", &[]) < plain);
    assert!(
        rate("--activation_checkpoint.selective_ac_option=op --activation_checkpoint.mode=selective", &[])
            < plain
    );
    assert!(rate("--training.seq_len=32768", &[]) < plain);
    assert!(rate("--training.mixed_precision_param=float32", &[]) < plain);
    assert!(rate("", &["compile"]) > plain);
    assert!(rate("", &["compile", "float8"]) > rate("", &["compile"]));
    let tp = "--parallelism.tensor_parallel_degree=8 --training.local_batch_size=8";
    assert!(rate(tp, &["async-tp"]) > rate(tp, &[]));
    // Over the network it takes longer than within a node.
    let wide = "--parallelism.tensor_parallel_degree=8 --training.local_batch_size=8 --parallelism.disable_loss_parallel";
    assert!(rate(wide, &[]) < rate(tp, &[]));
    let balanced =
        "--parallelism.context_parallel_degree=4 --parallelism.context_parallel_load_balancer=headtail";
    let runs = "--parallelism.context_parallel_degree=4 --parallelism.context_parallel_load_balancer=None";
    assert!(rate(runs, &[]) < rate(balanced, &[]));
    let ring =
        "--parallelism.context_parallel_degree=4 --parallelism.context_parallel_rotate_method=alltoall";
    assert!(rate(ring, &[]) > rate(balanced, &[]));
}

#[test]
fn what_is_kept_is_what_memory_is_for() {
    let peak = |flags: &str| {
        let flags = format!("{SMALL} --training.local_batch_size=2 {flags}");
        forecast(&flags, 8, "h200", &[]).unwrap().peak.1.memory.total()
    };
    let none = peak("--activation_checkpoint.mode=none");
    let some = peak("--activation_checkpoint.mode=selective --activation_checkpoint.selective_ac_option=op");
    let every_second =
        peak("--activation_checkpoint.mode=selective --activation_checkpoint.selective_ac_option=2");
    let full = peak("--activation_checkpoint.mode=full");
    assert!(full < some && some < none && full < every_second && every_second < none);
    // Parameters and their state are cut by the ranks.
    let state = |world: u32| {
        let Forecast { peak: (_, peak), .. } = forecast(SMALL, world, "h100", &[]).unwrap();
        peak.memory.parameters + peak.memory.moments
    };
    let elements = 8_030_261_248;
    assert_eq!(state(1), 12 * elements);
    assert!(state(8).abs_diff(12 * elements / 8) < 1000);
}

#[test]
fn what_is_not_modelled_is_refused() {
    let told = |flags: &str, device: &str, assumed: &[&str]| {
        forecast(flags, 8, device, assumed).unwrap_err().to_string()
    };
    let experts = "--model.name=deepseek_v3 --model.flavor=16B --parallelism.expert_parallel_degree=2";
    insta::assert_snapshot!(
        [
            told(experts, "h100", &[]),
            told(SMALL, "a100", &["float8"]),
            told(SMALL, "h100", &["async-tp"]),
            told("--parallelism.tensor_parallel_degree=3", "h100", &[]),
        ]
        .join("\n")
    );
}

/// Every family of blocks over tokens has a prediction, those that the trainer does not train too.
#[test]
fn every_family_of_tokens_is_predicted() {
    let mut count = 0;
    for family in convert::families::FAMILIES.iter().filter(|family| family.name() != "flux") {
        for flavor in family.flavors() {
            let name = family.name();
            let flags = format!("--model.name={name} --model.flavor={flavor} --training.local_batch_size=1");
            let forecast = forecast(&flags, 64, "h200", &[]).unwrap();
            let utilisation = forecast.mfu_percent();
            assert!((0.0..70.0).contains(&utilisation), "{name} {flavor}: {utilisation}");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}
