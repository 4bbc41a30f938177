//! Traces that were written, read again.

use super::{Event, KINDS, Lane};
use serde_json::Value;
use std::time::Duration;

/// The events of a rank's trace, in the order of the file. What is no complete event is passed over.
///
/// Errors: what is no trace of ours, in words.
pub fn read_trace(text: &str) -> Result<Vec<Event>, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let events = document["traceEvents"].as_array().ok_or("it has no list `traceEvents`")?;
    let complete = events.iter().filter(|event| event["ph"] == "X");
    complete
        .map(|value| event(value).ok_or_else(|| format!("it has an event of another kind: {value}")))
        .collect()
}

fn event(value: &Value) -> Option<Event> {
    let text = |name: &str| value[name].as_str();
    let time = |name: &str| Duration::try_from_secs_f64(value[name].as_f64()? / 1e6).ok();
    let lane = usize::try_from(value["tid"].as_u64()?).ok()?;
    Some(Event {
        name: text("name")?.to_owned(),
        kind: KINDS.into_iter().find(|kind| text("cat") == Some(kind))?,
        lane: *Lane::ALL.get(lane)?,
        begun: time("ts")?,
        took: time("dur")?,
        step: value["args"]["step"].as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{chrome_trace, kind};
    use super::*;
    use crate::program::{Instruction, Unit};

    #[test]
    fn what_is_written_is_read() {
        let instructions = [Instruction::LoadBatch, Instruction::Gather(Unit(2)), Instruction::WaitStaged];
        let of = |(instruction, lane): (Instruction, Lane)| Event {
            name: instruction.to_string(),
            kind: kind(instruction),
            lane,
            begun: Duration::from_micros(1_500),
            took: Duration::from_millis(2),
            step: 7,
        };
        let events: Vec<Event> = instructions.into_iter().zip(Lane::ALL).map(of).collect();
        assert_eq!(read_trace(&chrome_trace(3, &events)).unwrap(), events);
    }

    #[test]
    fn what_is_no_trace_is_said() {
        for (text, expected) in [
            ("{", "it is no JSON"),
            ("[]", "it has no list"),
            (r#"{"traceEvents": [{"ph": "X", "name": "x", "cat": "cpu_op"}]}"#, "an event of another kind"),
            (
                r#"{"traceEvents": [{"ph": "X", "name": "x", "cat": "loss", "tid": 0, "ts": -1, "dur": 0, "args": {"step": 1}}]}"#,
                "an event of another kind",
            ),
        ] {
            let found = read_trace(text).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
        assert_eq!(read_trace(r#"{"traceEvents": []}"#), Ok(Vec::new()));
    }
}
