//! Messages between ranks: each two ranks have one stream for what they send each other, either way.

use crate::pipeline::{Message, Stage};
use crate::program::Program;
use std::collections::{BTreeMap, VecDeque};

/// One end of a message that is ready.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Post {
    pub(super) message: Message,
    /// Since when.
    pub(super) ready: f64,
    /// Whose it is, and the instruction's place in its list.
    pub(super) place: (usize, usize),
}

#[derive(Debug, Default)]
struct Pair {
    /// When its stream is free.
    free: f64,
    /// What the rank of the lower number and the other one are ready for, in order.
    posts: [VecDeque<Post>; 2],
}

#[derive(Debug)]
pub(super) struct Channels {
    rank_of: BTreeMap<Stage, usize>,
    pairs: BTreeMap<(usize, usize), Pair>,
}

impl Channels {
    pub(super) fn new(programs: &[Program]) -> Self {
        let stages = programs.iter().enumerate();
        let rank_of =
            stages.flat_map(|(rank, program)| program.stages.iter().map(move |stage| (stage.stage, rank)));
        Channels { rank_of: rank_of.collect(), pairs: BTreeMap::new() }
    }

    /// The rank at the other end of a rank's message; none where no rank has the stage.
    pub(super) fn peer(&self, rank: usize, message: Message) -> Option<usize> {
        let ends = [message.from, message.to].map(|stage| self.rank_of.get(&stage).copied());
        match ends {
            [Some(from), to] if from == rank => to,
            [from, _] => from,
        }
    }

    /// An end is ready, after those that its rank had ready before.
    pub(super) fn post(&mut self, post: Post) {
        let rank = post.place.0;
        // A message to a stage that no rank has stays.
        let peer = self.peer(rank, post.message).unwrap_or(usize::MAX);
        let pair = self.pairs.entry((rank.min(peer), rank.max(peer))).or_default();
        pair.posts[usize::from(rank > peer)].push_back(post);
    }

    /// The next message between the ranks of this one of which both ends are ready: when it begins, and the places of its
    /// two instructions.
    pub(super) fn next(&mut self, between: Message, seconds: f64) -> Option<(f64, [(usize, usize); 2])> {
        let ranks = [between.from, between.to].map(|stage| self.rank_of.get(&stage).copied());
        let [Some(from), Some(to)] = ranks else { return None };
        let pair = self.pairs.get_mut(&(from.min(to), from.max(to)))?;
        let [low, high] = [pair.posts[0].front()?, pair.posts[1].front()?];
        if low.message != high.message {
            return None;
        }
        let begin = low.ready.max(high.ready).max(pair.free);
        let places = [low.place, high.place];
        pair.free = begin + seconds;
        for posts in &mut pair.posts {
            posts.pop_front();
        }
        Some((begin, places))
    }

    /// What the ranks of a message are ready for first, of what is between them.
    pub(super) fn first(&self, rank: usize, peer: usize) -> Option<Message> {
        let pair = self.pairs.get(&(rank.min(peer), rank.max(peer)))?;
        Some(pair.posts[usize::from(rank > peer)].front()?.message)
    }

    /// Ends that never met their other end.
    pub(super) fn left(&self) -> Vec<(u32, Message)> {
        let posts = self.pairs.values().flat_map(|pair| pair.posts.iter().flatten());
        posts.map(|post| (post.place.0 as u32, post.message)).collect()
    }
}
