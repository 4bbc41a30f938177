//! What a rank saves that is no tensor.

use super::names::{DATA, DATALOADER, LR_SCHEDULER, OPTIMIZER, RNG, TRAIN_STATE, stage_ranks};
use super::{Hyper, Progress};
use crate::error::Result;
use dcp::model::{Fqn, PathPart, Value};
use dcp::plan::Degrees;
use dcp::save::StateValue;

fn value(first: &str, second: &str, value: Value) -> StateValue {
    StateValue {
        fqn: Fqn::new(format!("{first}.{second}")),
        path: vec![PathPart::Key(first.to_owned()), PathPart::Key(second.to_owned())],
        value,
    }
}

fn int(number: u64) -> Value {
    Value::Int(number as i64)
}

/// Beside the model alone.
pub(super) fn of_model(progress: &Progress) -> Vec<StateValue> {
    vec![value(TRAIN_STATE, "step", int(progress.step))]
}

/// Of a full checkpoint. What is the same on all ranks rank 0 gives, what is the same on all ranks of a pipeline's stage the
/// first of them.
pub(super) fn full<'a>(
    fqns: impl Iterator<Item = &'a str>,
    degrees: Degrees,
    rank: u32,
    progress: &Progress,
    hyper: &Hyper,
) -> Result<Vec<StateValue>> {
    let own = format!("rank_{rank}");
    let data = progress.data.iter().map(|data| value(DATA, &own, Value::Str(data.clone())));
    let mut values: Vec<StateValue> = data.collect();
    values.push(value(RNG, &own, Value::Bytes(progress.rng.as_bytes().to_vec())));
    if rank.is_multiple_of(stage_ranks(degrees)) {
        let group = hyper.param_group(progress.schedule_step);
        for fqn in fqns {
            let of_param = |(key, stored): &(&str, Value)| {
                value(OPTIMIZER, &format!("param_groups.{fqn}.{key}"), stored.clone())
            };
            values.extend(group.iter().map(of_param));
        }
    }
    if rank > 0 {
        return Ok(values);
    }
    let Progress { step, schedule_step, tokens_seen, .. } = *progress;
    let data_ranks = u64::from(degrees.dp_replicate) * u64::from(degrees.dp_shard);
    values.push(value(TRAIN_STATE, "step", int(step)));
    values.push(value(TRAIN_STATE, "ntokens_seen", int(tokens_seen / data_ranks.max(1))));
    values.push(value(TRAIN_STATE, "tokens_seen", int(tokens_seen)));
    for (key, stored) in hyper.lr_scheduler(schedule_step) {
        values.push(value(LR_SCHEDULER, key, stored));
    }
    // TorchTitan wants one for each data-parallel rank or none, and only that of a single rank can be told.
    if let Some(dataloader) = progress.dataloader.as_ref().filter(|_| data_ranks == 1) {
        values.push(value(DATALOADER, "world_size", int(1)));
        values.push(value(DATALOADER, "dp_rank_0", Value::Bytes(dataloader.encode()?)));
    }
    Ok(values)
}
