//! All ranks of a pipeline, run together on paper.

use super::{Action, Message, Move, Pass, Payload, Pipeline, Stage};
use crate::program::{Microbatch, Purpose};

/// Why lists of moves are wrong: at which, and what of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rank {rank}, move {at} ({what}): {why}")]
pub struct Fault {
    /// The rank.
    pub rank: u32,
    /// The place in its list; the length of the list for what is found at its end.
    pub at: usize,
    /// The move, as text.
    pub what: String,
    /// What was expected of it.
    pub why: String,
}

/// The most that a rank holds at a time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Pairs of stage and microbatch that have gone forward and not all the way back: what backward needs is kept of each.
    pub activations: u32,
    /// Activations and gradients that have come and are not used yet.
    pub waiting: u32,
}

/// Runs all ranks together, where a send waits until the other rank receives; gives the most that each rank holds.
///
/// Every microbatch must pass every stage once, forward and, in training, back; each pass on the rank that has the stage,
/// after what it needs is there. Every message must be received by the rank that waits for it, in the order of sending.
///
/// Errors: [`Fault`], the first move that cannot be made, or what the end lacks.
pub fn check(pipeline: &Pipeline, moves: &[Vec<Move>]) -> Result<Vec<Held>, Fault> {
    let mut paper = Paper::new(pipeline, moves);
    while paper.round()? {}
    paper.end()?;
    Ok(paper.ranks.into_iter().map(|rank| rank.most).collect())
}

/// How far a microbatch is in a stage.
#[derive(Clone, Copy, Default, Debug)]
struct Place {
    has_input: bool,
    forward: bool,
    output_sent: bool,
    has_gradient: bool,
    /// The gradient of the input is computed.
    input: bool,
    gradient_sent: bool,
    /// Those of the parameters are.
    weight: bool,
}

#[derive(Default, Debug)]
struct Rank {
    /// Moves made.
    at: usize,
    now: Held,
    most: Held,
}

struct Paper<'a> {
    pipeline: &'a Pipeline,
    moves: &'a [Vec<Move>],
    ranks: Vec<Rank>,
    /// Per stage and microbatch.
    places: Vec<Place>,
}

fn expect(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

impl<'a> Paper<'a> {
    fn new(pipeline: &'a Pipeline, moves: &'a [Vec<Move>]) -> Self {
        Paper {
            pipeline,
            moves,
            ranks: moves.iter().map(|_| Rank::default()).collect(),
            places: vec![Place::default(); pipeline.rank_of.len() * pipeline.microbatches as usize],
        }
    }

    /// Lets every rank go on as far as it can; gives whether any did.
    fn round(&mut self) -> Result<bool, Fault> {
        let mut is_moved = false;
        for rank in 0..self.ranks.len() {
            while let Some(next) = self.next(rank) {
                let is_done = match next {
                    Move::Compute(action) => self.compute(rank, action).map(|()| {
                        self.ranks[rank].at += 1;
                        true
                    }),
                    Move::Send(message) => self.send(rank, message),
                    // The sender does it.
                    Move::Recv(message) => self.receivable(rank, message).map(|()| false),
                };
                if !is_done.map_err(|why| self.fault(rank, why))? {
                    break;
                }
                is_moved = true;
            }
        }
        Ok(is_moved)
    }

    fn next(&self, rank: usize) -> Option<Move> {
        self.moves[rank].get(self.ranks[rank].at).copied()
    }

    fn fault(&self, rank: usize, why: String) -> Fault {
        let what = self.next(rank).map_or("the end".to_owned(), |next| next.to_string());
        Fault { rank: rank as u32, at: self.ranks[rank].at, what, why }
    }

    fn place(&mut self, stage: Stage, microbatch: Microbatch) -> Result<&mut Place, String> {
        let (stages, microbatches) = (self.pipeline.stages(), self.pipeline.microbatches);
        expect(stage.0 < stages, || format!("there are {stages} stages"))?;
        expect(microbatch.0 < microbatches, || format!("there are {microbatches} microbatches"))?;
        Ok(&mut self.places[(stage.0 * microbatches + microbatch.0) as usize])
    }

    fn note(&mut self, rank: usize, activations: i32, waiting: i32) {
        let Rank { now, most, .. } = &mut self.ranks[rank];
        now.activations = now.activations.saturating_add_signed(activations);
        now.waiting = now.waiting.saturating_add_signed(waiting);
        most.activations = most.activations.max(now.activations);
        most.waiting = most.waiting.max(now.waiting);
    }

    /// The rank that has a stage.
    fn owner(&self, stage: Stage) -> Result<usize, String> {
        let owner = self.pipeline.rank_of.get(stage.0 as usize);
        owner.map(|rank| *rank as usize).ok_or_else(|| format!("there is no stage {}", stage.0))
    }

    fn compute(&mut self, rank: usize, Action { pass, stage, microbatch }: Action) -> Result<(), String> {
        let owner = self.owner(stage)?;
        expect(owner == rank, || format!("stage {} is on rank {owner}", stage.0))?;
        let is_training = self.pipeline.purpose == Purpose::Train;
        expect(is_training || pass == Pass::Forward, || "an evaluation goes forward only".to_owned())?;
        let (is_first, is_last) = (stage.0 == 0, stage.0 + 1 == self.pipeline.stages());
        let place = self.place(stage, microbatch)?;
        match pass {
            Pass::Forward => {
                expect(!place.forward, || "it has gone forward before".to_owned())?;
                expect(is_first || place.has_input, || "its input is not there".to_owned())?;
                place.forward = true;
                self.note(rank, i32::from(is_training), -i32::from(!is_first));
                self.hand_over(rank, stage, microbatch, Payload::Activation)
            }
            Pass::Backward | Pass::BackwardInput => {
                expect(place.forward, || "it has not gone forward".to_owned())?;
                expect(!place.input, || "it has gone backward before".to_owned())?;
                expect(is_last || place.has_gradient, || {
                    "the gradient of its output is not there".to_owned()
                })?;
                place.input = true;
                place.weight = pass == Pass::Backward;
                self.note(rank, -i32::from(pass == Pass::Backward), -i32::from(!is_last));
                self.hand_over(rank, stage, microbatch, Payload::Gradient)
            }
            Pass::BackwardWeight => {
                expect(place.input, || "the gradient of its input is not computed".to_owned())?;
                expect(!place.weight, || "the gradients of its parameters were computed before".to_owned())?;
                place.weight = true;
                self.note(rank, -1, 0);
                Ok(())
            }
        }
    }

    /// Gives what a pass made to the next stage, where the same rank has it.
    fn hand_over(
        &mut self,
        rank: usize,
        from: Stage,
        microbatch: Microbatch,
        payload: Payload,
    ) -> Result<(), String> {
        let to = match payload {
            Payload::Activation => Stage(from.0 + 1),
            Payload::Gradient => Stage(from.0.wrapping_sub(1)),
        };
        match self.owner(to) {
            Ok(owner) if owner == rank => self.arrive(rank, Message { payload, from, to, microbatch }),
            _ => Ok(()),
        }
    }

    fn arrive(&mut self, rank: usize, message: Message) -> Result<(), String> {
        let place = self.place(message.to, message.microbatch)?;
        let arrived = match message.payload {
            Payload::Activation => &mut place.has_input,
            Payload::Gradient => &mut place.has_gradient,
        };
        expect(!std::mem::replace(arrived, true), || "it has come before".to_owned())?;
        self.note(rank, 0, 1);
        Ok(())
    }

    /// The ranks of a message's stages.
    fn ends(&self, message: Message) -> Result<[usize; 2], String> {
        let Message { payload, from, to, .. } = message;
        let is_next = match payload {
            Payload::Activation => from.0.checked_add(1) == Some(to.0),
            Payload::Gradient => to.0.checked_add(1) == Some(from.0),
        };
        expect(is_next, || "activations go to the stage after, gradients to the one before".to_owned())?;
        Ok([self.owner(from)?, self.owner(to)?])
    }

    fn receivable(&self, rank: usize, message: Message) -> Result<(), String> {
        let [from, to] = self.ends(message)?;
        expect(to == rank, || format!("stage {} is on rank {to}", message.to.0))?;
        expect(from != rank, || "it is made on this rank".to_owned())
    }

    /// Sends, if the other rank receives; gives whether.
    fn send(&mut self, rank: usize, message: Message) -> Result<bool, String> {
        let [from, to] = self.ends(message)?;
        expect(from == rank, || format!("stage {} is on rank {from}", message.from.0))?;
        expect(to != rank, || "the same rank needs it".to_owned())?;
        let place = self.place(message.from, message.microbatch)?;
        let (made, sent) = match message.payload {
            Payload::Activation => (place.forward, &mut place.output_sent),
            Payload::Gradient => (place.input, &mut place.gradient_sent),
        };
        expect(made, || "it is not computed".to_owned())?;
        expect(!*sent, || "it was sent before".to_owned())?;
        match self.next(to) {
            Some(Move::Recv(expected)) if expected == message => {
                *match message.payload {
                    Payload::Activation => &mut self.place(message.from, message.microbatch)?.output_sent,
                    Payload::Gradient => &mut self.place(message.from, message.microbatch)?.gradient_sent,
                } = true;
                self.arrive(to, message)?;
                self.ranks[rank].at += 1;
                self.ranks[to].at += 1;
                Ok(true)
            }
            Some(Move::Recv(expected)) if self.ends(expected)? == [rank, to] => {
                Err(format!("rank {to} waits for {expected}"))
            }
            Some(_) => Ok(false),
            None => Err(format!("rank {to} has nothing more to do and never receives it")),
        }
    }

    fn end(&self) -> Result<(), Fault> {
        let waiting: Vec<usize> = (0..self.ranks.len()).filter(|rank| self.next(*rank).is_some()).collect();
        // One that waits for what does not come says more than others that wait for it.
        for &rank in &waiting {
            let (message, other) = match self.next(rank) {
                Some(Move::Recv(message)) => (Move::Send(message), self.owner(message.from)),
                Some(Move::Send(message)) => (Move::Recv(message), self.owner(message.to)),
                _ => continue,
            };
            let other = other.map_err(|why| self.fault(rank, why))?;
            if !self.moves[other][self.ranks[other].at..].contains(&message) {
                let does = if matches!(message, Move::Send(_)) { "sends" } else { "receives" };
                return Err(self.fault(rank, format!("rank {other} never {does} it")));
            }
        }
        if let Some(&first) = waiting.first() {
            let all = waiting.iter().filter_map(|rank| Some(format!("rank {rank} at {}", self.next(*rank)?)));
            let why = format!("ranks wait for each other: {}", all.collect::<Vec<_>>().join(", "));
            return Err(self.fault(first, why));
        }
        let is_training = self.pipeline.purpose == Purpose::Train;
        for (index, place) in self.places.iter().enumerate() {
            let microbatches = self.pipeline.microbatches as usize;
            let (stage, microbatch) = (index / microbatches, index % microbatches);
            let rank = self.pipeline.rank_of[stage] as usize;
            let lacks = |what: &str| {
                Err(self.fault(rank, format!("microbatch {microbatch} of stage {stage} has not gone {what}")))
            };
            match place {
                Place { forward: false, .. } => return lacks("forward"),
                Place { input: false, .. } if is_training => return lacks("backward"),
                Place { weight: false, .. } if is_training => {
                    return lacks("backward to the gradients of the parameters");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
