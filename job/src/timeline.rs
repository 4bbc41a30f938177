//! What a rank did when, for the viewers of Chrome traces (Perfetto, `chrome://tracing`).
//!
//! ```text
//! {"displayTimeUnit": "ms",
//!  "traceEvents": [{"name": "process_name", "ph": "M", "pid": RANK, "args": {"name": "rank 0"}},
//!                  {"name": "Forward 3.0", "cat": "forward", "ph": "X",
//!                   "pid": RANK, "tid": LANE, "ts": microseconds, "dur": microseconds,
//!                   "args": {"step": 7}}]}
//! ```
//!
//! Source: "Trace Event Format", Google, the parts on complete and metadata events.

mod read;

pub use read::read_trace;

use crate::program::Instruction;
use serde_json::{Value, json};
use std::time::Duration;

/// Something that took time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What it was.
    pub name: String,
    /// Which kind of thing, by which viewers colour.
    pub kind: &'static str,
    /// Events of one lane do not overlap, or lie within each other.
    pub lane: Lane,
    /// When it began, since the beginning of the timeline.
    pub begun: Duration,
    /// How long it took.
    pub took: Duration,
    /// In which step.
    pub step: u64,
}

/// What works by itself beside the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// The thread that runs the program.
    Program,
    /// Saves, in the background.
    Saves,
    /// Of a simulated step: parameters being made whole.
    Gathers,
    /// Of a simulated step: gradients being summed.
    Reductions,
    /// Of a simulated step: messages of the pipeline under way.
    Messages,
}

impl Lane {
    const ALL: [Lane; 5] = [Lane::Program, Lane::Saves, Lane::Gathers, Lane::Reductions, Lane::Messages];

    fn name(self) -> &'static str {
        match self {
            Lane::Program => "program",
            Lane::Saves => "saves",
            Lane::Gathers => "gathers",
            Lane::Reductions => "reductions",
            Lane::Messages => "messages",
        }
    }
}

/// Which kind of thing an instruction is.
pub fn kind(instruction: Instruction) -> &'static str {
    match instruction {
        Instruction::LoadBatch => "data",
        Instruction::Gather(_) | Instruction::Free(_) => "gather",
        Instruction::Forward { .. } => "forward",
        Instruction::Recompute(..) => "recompute",
        Instruction::Loss(_) => "loss",
        Instruction::Backward(..) | Instruction::BackwardInput(..) | Instruction::BackwardWeight(..) => {
            "backward"
        }
        Instruction::Send(_) | Instruction::Recv(_) => "pipeline",
        Instruction::Reduce(_) | Instruction::FinishReduce(_) => "reduce",
        Instruction::ClipGrad | Instruction::OptimizerStep => "optimizer",
        Instruction::WaitStaged => "checkpoint",
    }
}

/// Every kind there is: those of [`kind`], of which saves have one too.
const KINDS: [&str; 10] = [
    "data",
    "gather",
    "forward",
    "recompute",
    "loss",
    "backward",
    "pipeline",
    "reduce",
    "optimizer",
    "checkpoint",
];

/// What viewers show together: the lanes of a rank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process<'a> {
    /// Viewers order by it.
    pub id: u32,
    /// What viewers call it.
    pub name: String,
    /// What it did when.
    pub events: &'a [Event],
}

impl<'a> Process<'a> {
    /// That of a rank.
    pub fn rank(rank: u32, events: &'a [Event]) -> Self {
        Process { id: rank, name: format!("rank {rank}"), events }
    }
}

/// The file of a rank's events.
pub fn chrome_trace(rank: u32, events: &[Event]) -> String {
    chrome_traces(&[Process::rank(rank, events)])
}

/// The file of several processes' events.
pub fn chrome_traces(processes: &[Process]) -> String {
    let all: Vec<Value> = processes.iter().flat_map(of_process).collect();
    let document: Value = json!({ "displayTimeUnit": "ms", "traceEvents": all });
    document.to_string()
}

fn of_process(process: &Process) -> Vec<Value> {
    let Process { id, events, .. } = *process;
    let microseconds = |duration: Duration| duration.as_nanos() as f64 / 1e3;
    let named = |name: &str, lane: Option<Lane>, value: String| {
        let mut event = json!({ "name": name, "ph": "M", "pid": id, "args": { "name": value } });
        if let Some(lane) = lane {
            event["tid"] = json!(lane as u32);
        }
        event
    };
    let mut all = vec![named("process_name", None, process.name.clone())];
    let lanes = Lane::ALL.into_iter().filter(|lane| events.iter().any(|event| event.lane == *lane));
    all.extend(lanes.map(|lane| named("thread_name", Some(lane), lane.name().to_owned())));
    all.extend(events.iter().map(|event| {
        json!({
            "name": event.name, "cat": event.kind, "ph": "X", "pid": id, "tid": event.lane as u32,
            "ts": microseconds(event.begun), "dur": microseconds(event.took), "args": { "step": event.step },
        })
    }));
    all
}

/// Which steps are recorded: cycles of `cycle` steps, at the end of each `active` ones
/// (torchtitan/tools/profiling.py, v0.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cycles {
    /// Steps of a cycle, at least `active`.
    pub cycle: u64,
    /// Steps of it that are recorded, at least 1.
    pub active: u64,
}

impl Cycles {
    /// Whether a step is recorded; steps of this run, from 1.
    pub fn is_active(self, step: u64) -> bool {
        let place = (step.max(1) - 1) % self.cycle.max(1);
        place + self.active >= self.cycle
    }

    /// Whether a cycle ends with a step.
    pub fn ends(self, step: u64) -> bool {
        step.is_multiple_of(self.cycle.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Microbatch, Unit};

    #[test]
    fn the_last_steps_of_a_cycle_are_recorded() {
        let cycles = Cycles { cycle: 5, active: 2 };
        let active: Vec<u64> = (1..=12).filter(|step| cycles.is_active(*step)).collect();
        assert_eq!(active, [4, 5, 9, 10]);
        assert_eq!((1..=12).filter(|step| cycles.ends(*step)).collect::<Vec<_>>(), [5, 10]);
        let always = Cycles { cycle: 1, active: 1 };
        assert!((1..=3).all(|step| always.is_active(step) && always.ends(step)));
    }

    #[test]
    fn a_trace_is_what_viewers_read() {
        let instruction = Instruction::Backward(Unit(3), Microbatch(1));
        let event = |lane| Event {
            name: instruction.to_string(),
            kind: kind(instruction),
            lane,
            begun: Duration::from_nanos(1_500),
            took: Duration::from_millis(2),
            step: 7,
        };
        let trace = |lane| -> Value { serde_json::from_str(&chrome_trace(2, &[event(lane)])).unwrap() };
        assert_eq!(trace(Lane::Saves)["traceEvents"][1]["args"]["name"], "saves");
        let trace = trace(Lane::Program);
        assert_eq!(
            trace["traceEvents"][2],
            json!({
                "name": "Backward 3.1", "cat": "backward", "ph": "X", "pid": 2, "tid": 0, "ts": 1.5, "dur": 2000.0,
                "args": { "step": 7 },
            })
        );
        assert_eq!(trace["traceEvents"][0]["args"]["name"], "rank 2");
        assert_eq!(trace["traceEvents"][1]["args"]["name"], "program");
    }
}
