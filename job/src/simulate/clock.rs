//! All ranks of a pipeline, from the first instruction to the last.

use super::channel::{Channels, Post};
use super::costs::{Costs, Pass};
use super::stuck::{Stuck, Waiting};
use crate::pipeline::{Message, Payload, Stage};
use crate::program::{Instruction, Microbatch, Program, StageUnits, Unit};
use std::collections::BTreeMap;

/// What runs one thing after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stream {
    /// Computing.
    Compute,
    /// Making parameters whole.
    Gathers,
    /// Summing gradients.
    Reductions,
    /// Messages of the pipeline.
    Messages,
}

/// Seconds that the computing stream stood still before an instruction, by what it waited for.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Waited {
    /// For parameters.
    pub gather: f64,
    /// For sums of gradients.
    pub reduce: f64,
    /// For a message that was on its way.
    pub message: f64,
    /// For another rank, that had not come so far.
    pub bubble: f64,
}

/// An instruction, and when it was under way.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timed {
    /// Which.
    pub instruction: Instruction,
    /// On which stream; what takes no time is on that of computing.
    pub stream: Stream,
    /// Seconds since the step began.
    pub begin: f64,
    /// When it was over.
    pub end: f64,
    /// What it is made of, where it computes.
    pub pass: Pass,
    /// What was waited for before it.
    pub waited: Waited,
}

/// A simulated step.
#[derive(Clone, PartialEq, Debug)]
pub struct Run {
    /// Per rank, its instructions in the order of its program.
    pub ranks: Vec<Vec<Timed>>,
    /// Seconds from the beginning to the end of everything.
    pub seconds: f64,
}

/// Simulates the programs of all ranks of a pipeline, the rank's place first.
///
/// Errors: [`Stuck`], where ranks wait for what never comes, or are sent what they never take.
///
/// Panics where a program has a unit that `costs` has not: programs are checked before.
pub fn simulate(programs: &[Program], costs: &Costs) -> Result<Run, Stuck> {
    let mut clock = Clock::new(programs, costs);
    while (0..programs.len()).any(|rank| clock.run_rank(rank)) {}
    clock.end()
}

struct Clock<'a> {
    programs: &'a [Program],
    costs: &'a Costs,
    ranks: Vec<Rank>,
    channels: Channels,
    /// When every rank came to the instruction that all wait for each other at.
    met: Vec<Option<f64>>,
}

/// How far a rank is.
#[derive(Default)]
struct Rank {
    units: Vec<Unit>,
    at: usize,
    /// When its streams are free.
    computed: f64,
    gathered: f64,
    reduced: f64,
    /// Of every unit that is being gathered, when it is whole.
    whole: BTreeMap<Unit, f64>,
    /// Of every unit whose gradients are being summed, when they are.
    summed: BTreeMap<Unit, f64>,
    /// Messages that it has begun to receive, by their place in its list.
    incoming: BTreeMap<(Payload, Stage, Microbatch), usize>,
    timed: Vec<Timed>,
}

impl<'a> Clock<'a> {
    fn new(programs: &'a [Program], costs: &'a Costs) -> Self {
        let rank = |program: &Program| Rank {
            units: program.stages.iter().flat_map(|stage| stage.units.clone().map(Unit)).collect(),
            ..Rank::default()
        };
        Clock {
            programs,
            costs,
            ranks: programs.iter().map(rank).collect(),
            channels: Channels::new(programs),
            met: vec![None; programs.len()],
        }
    }

    /// Carries out what a rank can; whether that was anything.
    fn run_rank(&mut self, rank: usize) -> bool {
        let before = self.ranks[rank].at;
        while let Some(&instruction) = self.programs[rank].instructions.get(self.ranks[rank].at) {
            let Some(timed) = self.carry_out(rank, instruction) else { break };
            self.ranks[rank].timed.push(timed);
            self.ranks[rank].at += 1;
            if let Instruction::Send(message) | Instruction::Recv(message) = instruction {
                let at = self.ranks[rank].at - 1;
                if let Instruction::Recv(_) = instruction {
                    let key = (message.payload, message.to, message.microbatch);
                    self.ranks[rank].incoming.insert(key, at);
                }
                self.channels.post(Post { message, ready: timed.begin, place: (rank, at) });
                self.deliver(message);
            }
        }
        self.ranks[rank].at > before
    }

    /// Times of messages of which both ends are now known.
    fn deliver(&mut self, message: Message) {
        while let Some((begin, ends)) = self.channels.next(message, self.costs.message) {
            for (rank, at) in ends {
                let timed = &mut self.ranks[rank].timed[at];
                (timed.begin, timed.end) = (begin, begin + self.costs.message);
            }
        }
    }

    /// An instruction with its times; `None` where it needs what is not known yet.
    fn carry_out(&mut self, rank: usize, instruction: Instruction) -> Option<Timed> {
        let (mut waited, mut begin) = (Waited::default(), self.ranks[rank].computed);
        match instruction {
            Instruction::Gather(unit) => return Some(self.gather(rank, unit)),
            Instruction::Reduce(unit) => return Some(self.reduce(rank, unit)),
            Instruction::Send(_) | Instruction::Recv(_) => {
                return Some(Timed {
                    // When both ends are ready it is told when it really begins and ends.
                    end: f64::INFINITY,
                    stream: Stream::Messages,
                    ..still(instruction, begin)
                });
            }
            Instruction::ClipGrad => {
                let all = self.meet(rank)?;
                waited.bubble = all - begin;
                begin = all;
            }
            Instruction::FinishReduce(unit) => {
                let summed = self.ranks[rank].summed.remove(&unit).unwrap_or(begin);
                waited.reduce = (summed - begin).max(0.0);
                begin = begin.max(summed);
            }
            Instruction::Forward { unit, .. }
            | Instruction::Recompute(unit, _)
            | Instruction::Backward(unit, _)
            | Instruction::BackwardInput(unit, _)
            | Instruction::BackwardWeight(unit, _) => {
                let arrived = self.arrival(rank, instruction)?;
                let used = self.programs[rank].used(unit);
                let whole = used.filter_map(|used| self.ranks[rank].whole.remove(&used));
                let whole = whole.fold(begin, f64::max);
                let idle = (whole.max(arrived.1) - begin).max(0.0);
                if arrived.1 > whole {
                    // While it travelled; before that nobody had sent it.
                    waited.message = idle.min(arrived.1 - arrived.0);
                    waited.bubble = idle - waited.message;
                } else {
                    waited.gather = idle;
                }
                begin += idle;
            }
            Instruction::LoadBatch
            | Instruction::Loss(_)
            | Instruction::Free(_)
            | Instruction::WaitStaged
            | Instruction::OptimizerStep => {}
        }
        let pass = self.costs.pass(instruction, &self.ranks[rank].units);
        let end = begin + pass.seconds();
        self.ranks[rank].computed = end;
        Some(Timed { begin, end, pass, waited, ..still(instruction, begin) })
    }

    fn gather(&mut self, rank: usize, unit: Unit) -> Timed {
        let state = &mut self.ranks[rank];
        let begin = state.gathered.max(state.computed);
        let end = begin + self.costs.of(unit).gather;
        state.gathered = end;
        state.whole.insert(unit, end);
        Timed { end, stream: Stream::Gathers, ..still(Instruction::Gather(unit), begin) }
    }

    fn reduce(&mut self, rank: usize, unit: Unit) -> Timed {
        let state = &mut self.ranks[rank];
        let begin = state.reduced.max(state.computed);
        let end = begin + self.costs.of(unit).reduce;
        state.reduced = end;
        state.summed.insert(unit, end);
        Timed { end, stream: Stream::Reductions, ..still(Instruction::Reduce(unit), begin) }
    }

    /// When all ranks have come to this instruction.
    fn meet(&mut self, rank: usize) -> Option<f64> {
        self.met[rank] = Some(self.ranks[rank].computed);
        self.met.iter().try_fold(0.0, |all: f64, met| Some(all.max((*met)?)))
    }

    /// When the message that an instruction needs began and came, which is the beginning of time where it needs none; none
    /// where that is not known yet.
    fn arrival(&self, rank: usize, instruction: Instruction) -> Option<(f64, f64)> {
        let state = &self.ranks[rank];
        let needed = needs(&self.programs[rank], instruction);
        let Some(place) = needed.and_then(|needed| state.incoming.get(&needed)) else {
            return Some((0.0, 0.0));
        };
        let timed = &state.timed[*place];
        timed.end.is_finite().then_some((timed.begin, timed.end))
    }

    fn end(self) -> Result<Run, Stuck> {
        let waits = |rank: usize| {
            let instruction = self.programs[rank].instructions.get(self.ranks[rank].at)?;
            Some(self.waiting(rank, *instruction))
        };
        let waiting: Vec<Waiting> = (0..self.ranks.len()).filter_map(waits).collect();
        let left = self.channels.left();
        if !waiting.is_empty() || !left.is_empty() {
            return Err(Stuck { waiting, left });
        }
        let all = self.ranks.iter().flat_map(|rank| &rank.timed);
        let seconds = all.fold(0.0, |seconds: f64, timed| seconds.max(timed.end));
        Ok(Run { ranks: self.ranks.into_iter().map(|rank| rank.timed).collect(), seconds })
    }

    /// Why a rank does not go on.
    fn waiting(&self, rank: usize, instruction: Instruction) -> Waiting {
        let at = self.ranks[rank].at;
        let message = needs(&self.programs[rank], instruction)
            .and_then(|needed| self.ranks[rank].incoming.get(&needed))
            .and_then(|place| match self.programs[rank].instructions[*place] {
                Instruction::Recv(message) => Some(message),
                _ => None,
            });
        let why = match message {
            None => {
                let missing = (0..self.met.len()).filter(|rank| self.met[*rank].is_none());
                let missing: Vec<_> = missing.map(|rank| rank.to_string()).collect();
                format!("for all ranks, of which these do not come there: {}", missing.join(", "))
            }
            Some(message) => {
                let peer = self.channels.peer(rank, message);
                let first = |rank, peer| self.channels.first(rank, peer);
                let of = match peer.map(|peer| (peer, first(rank, peer), first(peer, rank))) {
                    None => "of a stage that no rank has".to_owned(),
                    Some((peer, Some(own), Some(other))) if own != other => {
                        format!("of rank {peer}: the first between them is `{own}` here and `{other}` there")
                    }
                    Some((peer, ..)) => format!("of rank {peer}, which has not sent it"),
                };
                format!("for `{message}` {of}")
            }
        };
        Waiting { rank: rank as u32, at, instruction: instruction.to_string(), why }
    }
}

/// An instruction that takes no time, nor has to wait.
fn still(instruction: Instruction, at: f64) -> Timed {
    let (pass, waited) = (Pass::default(), Waited::default());
    Timed { instruction, stream: Stream::Compute, begin: at, end: at, pass, waited }
}

/// The message that an instruction needs, unless its rank makes it itself.
fn needs(program: &Program, instruction: Instruction) -> Option<(Payload, Stage, Microbatch)> {
    let stage = |is_it: &dyn Fn(&StageUnits) -> bool| {
        program.stages.iter().find(|stage| is_it(stage)).map(|stage| stage.stage)
    };
    match instruction {
        Instruction::Forward { unit, microbatch, .. } => {
            let stage = stage(&|stage| stage.units.start == unit.0)?;
            Some((Payload::Activation, stage, microbatch))
        }
        Instruction::Backward(unit, microbatch) | Instruction::BackwardInput(unit, microbatch) => {
            let stage = stage(&|stage| stage.units.end == unit.0 + 1)?;
            Some((Payload::Gradient, stage, microbatch))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
pub(super) mod tests;
