//! A predicted step beside one that was measured.
//!
//! A rank's trace has a clock of its own. Ranks begin a step together, for the one before ends with a sum over all of them: the
//! step of each begins at 0.

use super::Forecast;
use crate::error::{Error, Result};
use crate::quantity::seconds;
use crate::timeline::{Event, Lane, Process, chrome_traces, read_trace};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// A step as it was predicted and as it was, on one rank of every place of a pipeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beside {
    step: u64,
    ranks: Vec<Rank>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rank {
    rank: u32,
    predicted: Vec<Event>,
    measured: Vec<Event>,
}

/// A kind of instruction: seconds in the lane of the program, waits included, mean over the ranks.
struct Row {
    kind: &'static str,
    predicted: f64,
    measured: f64,
}

impl Forecast {
    /// Lays the last step that all traces have beside the predicted one. A trace is that of the trainer for one of
    /// [`Forecast::ranks`], in their order.
    ///
    /// Errors: [`Error::BadTrace`] for what is no trace, has no step, or is of another program than the configuration's.
    pub fn beside(&self, traces: &[String]) -> Result<Beside> {
        let bad = |rank: u32| move |why: String| Error::BadTrace { rank, why };
        let mut measured = Vec::new();
        for (rank, trace) in self.ranks().zip(traces) {
            measured.push(read_trace(trace).map_err(bad(rank))?);
        }
        let steps = |events: &Vec<Event>| events.iter().map(|event| event.step).collect::<BTreeSet<_>>();
        let common = measured.iter().map(steps).reduce(|all, steps| &all & &steps);
        let Some(step) = common.and_then(|steps| steps.last().copied()) else {
            return Err(bad(0)("there is no step that the traces of all ranks have".to_owned()));
        };
        let ranks = self.ranks().zip(self.events().into_iter().zip(measured));
        let ranks = ranks.map(|(rank, (predicted, measured))| {
            let measured = from_zero(measured.into_iter().filter(|event| event.step == step).collect());
            same_program(step, &predicted, &measured).map_err(bad(rank))?;
            Ok(Rank { rank, predicted, measured })
        });
        Ok(Beside { step, ranks: ranks.collect::<Result<_>>()? })
    }
}

/// The events of a step, of which the program's first begins at 0. What began before, in the background, begins at 0 too.
fn from_zero(mut events: Vec<Event>) -> Vec<Event> {
    let origin = program(&events).map(|event| event.begun).min().unwrap_or_default();
    for event in &mut events {
        let end = (event.begun + event.took).saturating_sub(origin);
        event.begun = event.begun.saturating_sub(origin);
        event.took = end.saturating_sub(event.begun);
    }
    events
}

fn program(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| event.lane == Lane::Program)
}

fn same_program(step: u64, predicted: &[Event], measured: &[Event]) -> Result<(), String> {
    let name = |event: Option<&Event>| event.map_or("nothing", |event| &event.name).to_owned();
    let (mut ours, mut theirs) = (program(predicted), program(measured));
    for at in 0.. {
        let (expected, found) = (ours.next(), theirs.next());
        if expected.is_none() && found.is_none() {
            break;
        }
        if expected.map(|event| &event.name) != found.map(|event| &event.name) {
            return Err(format!(
                "instruction {at} of its step {step} is `{}`, that of the configuration's program `{}`; give the file and the \
                 flags of the run that was traced",
                name(found),
                name(expected)
            ));
        }
    }
    Ok(())
}

impl Beside {
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let share = 1.0 / self.ranks.len().max(1) as f64;
        for rank in &self.ranks {
            for (predicted, measured) in program(&rank.predicted).zip(program(&rank.measured)) {
                let at = rows.iter().position(|row| row.kind == predicted.kind).unwrap_or_else(|| {
                    rows.push(Row { kind: predicted.kind, predicted: 0.0, measured: 0.0 });
                    rows.len() - 1
                });
                rows[at].predicted += share * predicted.took.as_secs_f64();
                rows[at].measured += share * measured.took.as_secs_f64();
            }
        }
        let whole = |of: fn(&Rank) -> &[Event]| {
            let ends =
                self.ranks.iter().flat_map(|rank| program(of(rank)).map(|event| event.begun + event.took));
            ends.max().unwrap_or(Duration::ZERO).as_secs_f64()
        };
        let (predicted, measured) = (whole(|rank| &rank.predicted), whole(|rank| &rank.measured));
        rows.push(Row { kind: "whole step", predicted, measured });
        rows
    }

    /// The table for people.
    pub fn text(&self) -> String {
        let ranks = self.ranks.iter().map(|rank| rank.rank.to_string()).collect::<Vec<_>>().join(", ");
        let of = if self.ranks.len() == 1 { "rank" } else { "mean of ranks" };
        let mut text = format!(
            "\nprogram of step {}, {of} {ranks}, waits included\n  {:<18} {:>10} {:>10} {:>20}\n",
            self.step, "", "predicted", "measured", "measured / predicted"
        );
        let rows = self.rows().into_iter().filter(|row| row.predicted.max(row.measured) > 0.0);
        for Row { kind, predicted, measured } in rows {
            let ratio = if predicted > 0.0 { format!("{:.2}", measured / predicted) } else { String::new() };
            let line =
                format!("  {kind:<18} {:>10} {:>10} {ratio:>20}", seconds(predicted), seconds(measured));
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// The table for programs: seconds.
    pub fn json(&self) -> Value {
        let rows = self.rows().into_iter().map(|Row { kind, predicted, measured }| {
            (kind.replace(' ', "_"), json!({ "predicted": predicted, "measured": measured }))
        });
        let ranks: Vec<u32> = self.ranks.iter().map(|rank| rank.rank).collect();
        json!({ "step": self.step, "ranks": ranks, "program_seconds": Value::Object(rows.collect()) })
    }

    /// Both as one Chrome trace: of every rank the predicted step, and the measured one below it.
    pub fn trace(&self) -> String {
        let processes = self.ranks.iter().flat_map(|Rank { rank, predicted, measured }| {
            let process = |place: u32, what: &str, events| Process {
                id: 2 * rank + place,
                name: format!("rank {rank}, {what}"),
                events,
            };
            [process(0, "predicted", &predicted[..]), process(1, "measured", &measured[..])]
        });
        chrome_traces(&processes.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, question};
    use super::*;
    use crate::timeline::chrome_trace;

    fn forecast(flags: &str) -> Forecast {
        let config = config(&format!("--training.local_batch_size=8 {flags}"));
        Forecast::new(&question(&config, 4)).unwrap()
    }

    /// The predicted steps as if they had been measured: twice as long, on a clock that had begun before, as steps 9 and 10.
    fn traces(forecast: &Forecast) -> Vec<String> {
        let late = |event: &Event, step: u64| Event {
            begun: Duration::from_secs(step) + event.begun * 2,
            took: event.took * 2,
            step,
            ..event.clone()
        };
        let of_rank = |(rank, events): (u32, Vec<Event>)| {
            let program: Vec<Event> = program(&events).cloned().collect();
            let both = [9, 10].map(|step| program.iter().map(|event| late(event, step)).collect::<Vec<_>>());
            chrome_trace(rank, &both.concat())
        };
        forecast.ranks().zip(forecast.events()).map(of_rank).collect()
    }

    #[test]
    fn steps_lie_side_by_side() {
        let forecast = forecast("--parallelism.pipeline_parallel_degree=2");
        let beside = forecast.beside(&traces(&forecast)).unwrap();
        let found = beside.json();
        assert_eq!((&found["step"], &found["ranks"]), (&json!(10), &json!([0, 2])));
        let kinds = found["program_seconds"].as_object().unwrap();
        assert!(kinds.contains_key("forward") && kinds.contains_key("pipeline"), "{kinds:?}");
        for (kind, row) in kinds {
            let (predicted, measured) =
                (row["predicted"].as_f64().unwrap(), row["measured"].as_f64().unwrap());
            assert!((measured - 2.0 * predicted).abs() < 1e-6, "{kind}: {row}");
        }
        assert!((kinds["whole_step"]["predicted"].as_f64().unwrap() - forecast.figures.seconds).abs() < 1e-6);
        assert!(beside.text().contains("2.00"), "{}", beside.text());
        let trace: Value = serde_json::from_str(&beside.trace()).unwrap();
        let names = trace["traceEvents"].as_array().unwrap().iter();
        let names = names.filter(|event| event["name"] == "process_name").map(|event| &event["args"]["name"]);
        let expected = ["rank 0, predicted", "rank 0, measured", "rank 2, predicted", "rank 2, measured"];
        assert!(names.eq(&expected.map(|name| json!(name))));
    }

    #[test]
    fn traces_of_another_run_are_refused() {
        let plain = forecast("");
        let pipeline = forecast("--parallelism.pipeline_parallel_degree=2");
        let [first, second] = &traces(&pipeline)[..] else { panic!("two places") };
        let says = |found: Result<Beside>, expected: &str| {
            let message = found.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        says(
            plain.beside(std::slice::from_ref(first)),
            "give the file and the flags of the run that was traced",
        );
        says(pipeline.beside(&[second.clone(), first.clone()]), "rank 0");
        says(pipeline.beside(&[first.clone(), "{".to_owned()]), "rank 2's trace: it is no JSON");
        says(pipeline.beside(&[first.clone(), r#"{"traceEvents": []}"#.to_owned()]), "no step");
    }
}
