//! What ranks send each other, put between what they compute.
//!
//! What a stage gives on the way forward, and the gradient of what it took on the way back, goes to the rank of the next
//! stage; to a stage of the same rank nothing is sent.
//!
//! **Where.** All ranks are run together on paper, with every pass taking its time. When a pass ends, the message with what
//! it made is put at the end of both lists as they then are, the sender's and the receiver's; passes that begin later come
//! after it. Messages of passes that end at the same time are put in the order of their ranks.
//!
//! **Why nothing waits for ever**, though a send should wait until it is received. The order in which things were put into
//! lists is one order of all passes and messages of all ranks; each list has its own part of it, in that order, and a message
//! has one place in it although it is in two lists. Of what is not yet done, take what is first in that order. All before it is
//! done, so it is at the head of its list, and of both lists if it is a message: it can be done. A pass comes after the
//! messages that it needs, for it began when they were there.
//!
//! It is also the earliest place for a receive: what arrives during a pass is received right after it.
//!
//! `_add_send_recv` of PyTorch 2.11 has one order of all messages too. It goes through ranks in turns, not through time.

use super::{Action, Fault, Message, Move, Pass, Payload, Pipeline, Stage};
use crate::program::Microbatch;

/// A pass, and when it begins, in durations of a forward pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timed {
    /// Which.
    pub action: Action,
    /// From 0.
    pub start: u32,
}

impl Timed {
    /// When it ends.
    pub fn end(&self) -> u32 {
        self.start + self.action.pass.duration()
    }
}

/// A pipeline with its messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Communicated {
    /// What every rank does, in order.
    pub moves: Vec<Vec<Move>>,
    /// When every rank computes what, where messages take no time and passes the time of [`Pass::duration`].
    pub timed: Vec<Vec<Timed>>,
}

/// Puts messages between what ranks compute.
///
/// Errors: [`Fault`], where a pass waits for what nobody makes before it.
pub fn communicate(pipeline: &Pipeline) -> Result<Communicated, Fault> {
    let mut clock = Clock::new(pipeline);
    let mut now = 0;
    loop {
        clock.end_passes(now);
        clock.begin_passes(now);
        let under_way = clock.under_way.iter().flatten();
        match under_way.map(Timed::end).min() {
            Some(end) => now = end,
            None => break,
        }
    }
    match clock.stuck() {
        Some(fault) => Err(fault),
        None => Ok(Communicated { moves: clock.moves, timed: clock.timed }),
    }
}

/// What of a microbatch is done in a stage.
#[derive(Clone, Copy, Default, Debug)]
struct Done {
    forward: bool,
    backward: bool,
}

struct Clock<'a> {
    pipeline: &'a Pipeline,
    moves: Vec<Vec<Move>>,
    timed: Vec<Vec<Timed>>,
    /// Per rank, what it computes now.
    under_way: Vec<Option<Timed>>,
    /// Per stage and microbatch.
    done: Vec<Done>,
}

impl<'a> Clock<'a> {
    fn new(pipeline: &'a Pipeline) -> Self {
        let ranks = pipeline.actions.len();
        Clock {
            pipeline,
            moves: vec![Vec::new(); ranks],
            timed: vec![Vec::new(); ranks],
            under_way: vec![None; ranks],
            done: vec![Done::default(); pipeline.rank_of.len() * pipeline.microbatches as usize],
        }
    }

    fn done(&mut self, stage: Stage, microbatch: Microbatch) -> &mut Done {
        &mut self.done[(stage.0 * self.pipeline.microbatches + microbatch.0) as usize]
    }

    fn end_passes(&mut self, now: u32) {
        for rank in 0..self.under_way.len() {
            let Some(Timed { action, .. }) = self.under_way[rank].take_if(|timed| timed.end() == now) else {
                continue;
            };
            let done = self.done(action.stage, action.microbatch);
            match action.pass {
                Pass::Forward => done.forward = true,
                Pass::Backward | Pass::BackwardInput => done.backward = true,
                Pass::BackwardWeight => {}
            }
            let Some(message) = self.pipeline.message_of(action) else { continue };
            let to = self.pipeline.rank_of(message.to) as usize;
            if to != rank {
                self.moves[rank].push(Move::Send(message));
                self.moves[to].push(Move::Recv(message));
            }
        }
    }

    fn begin_passes(&mut self, now: u32) {
        for rank in 0..self.under_way.len() {
            let next = self.pipeline.actions[rank].get(self.timed[rank].len()).copied();
            let next = next.filter(|_| self.under_way[rank].is_none());
            if let Some(action) = next.filter(|action| self.is_ready(*action)) {
                let timed = Timed { action, start: now };
                self.under_way[rank] = Some(timed);
                self.timed[rank].push(timed);
                self.moves[rank].push(Move::Compute(action));
            }
        }
    }

    fn is_ready(&mut self, Action { pass, stage, microbatch }: Action) -> bool {
        match pass {
            Pass::Forward => stage.0 == 0 || self.done(Stage(stage.0 - 1), microbatch).forward,
            Pass::Backward | Pass::BackwardInput => {
                let is_last = stage.0 + 1 == self.pipeline.stages();
                self.done(stage, microbatch).forward
                    && (is_last || self.done(Stage(stage.0 + 1), microbatch).backward)
            }
            Pass::BackwardWeight => self.done(stage, microbatch).backward,
        }
    }

    /// The first pass that never began.
    fn stuck(&self) -> Option<Fault> {
        let mut ranks = self.pipeline.actions.iter().zip(&self.timed).enumerate();
        let waits = |(rank, (actions, timed)): (usize, (&Vec<Action>, &Vec<Timed>))| {
            let action = actions.get(timed.len())?;
            let needs = match action.pass {
                Pass::Forward => "the stage before has not passed it forward",
                Pass::Backward | Pass::BackwardInput => {
                    "its forward pass, or the backward pass of the stage after, is not done before"
                }
                Pass::BackwardWeight => "the gradient of its input is not computed before",
            };
            let why = format!("it can never begin: {needs}, with every rank going on as far as it can");
            Some(Fault { rank: rank as u32, at: timed.len(), what: action.to_string(), why })
        };
        ranks.find_map(waits)
    }
}

impl Pipeline {
    /// What a pass makes for another stage.
    fn message_of(&self, Action { pass, stage, microbatch }: Action) -> Option<Message> {
        let (payload, to) = match pass {
            Pass::Forward if stage.0 + 1 < self.stages() => (Payload::Activation, stage.0 + 1),
            Pass::Backward | Pass::BackwardInput if stage.0 > 0 => (Payload::Gradient, stage.0 - 1),
            _ => return None,
        };
        Some(Message { payload, from: stage, to: Stage(to), microbatch })
    }
}
