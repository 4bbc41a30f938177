//! The same schedules and stages as PyTorch 2.11 and TorchTitan 0.2.2 make (`fixtures/pipeline`).

use super::*;
use crate::config::PipelineSchedule;
use serde_json::Value;

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn number(case: &Value, name: &str) -> u32 {
    u32::try_from(case[name].as_u64().unwrap()).unwrap()
}

/// Action by action, and read from the CSV that PyTorch writes. What PyTorch refuses is refused.
#[test]
fn schedules_are_pytorchs() {
    let (mut same, mut refused) = (0, 0);
    for case in cases(include_str!("../../../fixtures/pipeline/torch/schedules.json")) {
        let name = case["schedule"].as_str().unwrap();
        let choice = PipelineSchedule::ALL.iter().find(|choice| choice.as_str() == name).unwrap();
        let shape = Shape {
            ranks: number(&case, "ranks"),
            stages_per_rank: number(&case, "stages_per_rank"),
            microbatches: number(&case, "microbatches"),
        };
        let ours = schedules::find(*choice).pipeline(shape);
        let Some(lines) = case["csv"].as_array() else {
            assert!(matches!(ours, Err(PipelineError::Microbatches { .. })), "{name} {shape:?}");
            refused += 1;
            continue;
        };
        let text: String = lines.iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect();
        let theirs = csv::parse(&text, shape).unwrap_or_else(|error| panic!("{name} {shape:?}: {error}"));
        let ours = ours.unwrap_or_else(|error| panic!("{name} {shape:?}: {error}"));
        for rank in 0..shape.ranks {
            let words = |pipeline: &Pipeline| -> Vec<String> {
                pipeline.actions(rank).iter().map(Action::to_string).collect()
            };
            assert_eq!(words(&ours), words(&theirs), "{name} {shape:?}, rank {rank}");
        }
        assert_eq!(ours, theirs, "{name} {shape:?}");
        same += 1;
    }
    assert_eq!((same, refused), (294, 33));
}

#[test]
fn stages_are_torchtitans() {
    let (mut same, mut refused) = (0, 0);
    for case in cases(include_str!("../../../fixtures/pipeline/torch/splits.json")) {
        let layers = number(&case, "layers");
        let [stages, first_less, last_less] =
            ["stages", "first_less", "last_less"].map(|name| u64::from(number(&case, name)));
        let ours = split(layers, stages, first_less, last_less);
        let Some(parts) = case["parts"].as_array() else {
            assert!(ours.is_err(), "{case}");
            refused += 1;
            continue;
        };
        let names = |part: &Value| part.as_str().unwrap().split(' ').map(str::to_owned).collect();
        let parts: Vec<Vec<String>> = parts.iter().map(names).collect();
        assert_eq!(ours.unwrap(), split_by_names(&parts, layers).unwrap(), "{case}");
        same += 1;
    }
    assert_eq!((same, refused), (233, 91));
}
