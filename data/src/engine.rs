//! The steps of one rank, made one after the other.

use crate::encode::Encoder;
use crate::error::Result;
use crate::order::Order;
use crate::stream::{Source, Stream, StreamState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A rank's part of a step's sequences.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Position in the run of this rank's first sequence.
    pub position: u64,
    /// Sequences, of this rank.
    pub sequences: usize,
    /// Tokens that go in: `sequences` rows of `seq_len`, row-major.
    pub inputs: Vec<i64>,
    /// The token after each: the same shape.
    pub labels: Vec<i64>,
    /// What happened on the way.
    pub notices: Vec<Notice>,
}

/// Something a person may want to know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A virtual shard's documents were all read and are read again.
    Relooped {
        /// The virtual shard.
        shard: u64,
        /// Times its documents were read to their end before.
        epoch: u64,
    },
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Notice::Relooped { shard, epoch } = self;
        write!(f, "virtual shard {shard} of the dataset is being re-looped (epoch {epoch})")
    }
}

/// The end of a corpus that is read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfData {
    /// The virtual shard that has no whole sequence left.
    pub shard: u64,
    /// Sequences it gave.
    pub sequences: u64,
}

impl std::fmt::Display for OutOfData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let OutOfData { shard, sequences } = self;
        write!(
            f,
            "the dataset has run out of data: virtual shard {shard} gave its last of {sequences} sequences"
        )
    }
}

/// A step, and where this rank's own virtual shards stand after it.
pub(crate) struct Made {
    pub(crate) step: Step,
    pub(crate) states: BTreeMap<u64, StreamState>,
}

/// Makes steps.
pub(crate) struct Engine {
    order: Order,
    rank: u64,
    seq_len: usize,
    next_step: u64,
    /// The virtual shards that this rank touches.
    streams: BTreeMap<u64, Stream>,
}

/// What streams are made of.
pub(crate) struct Parts {
    pub(crate) order: Order,
    pub(crate) rank: u64,
    pub(crate) seq_len: usize,
    pub(crate) source: Source,
    pub(crate) encoder: Arc<Encoder>,
    /// Documents that each stream encodes ahead.
    pub(crate) ahead: usize,
}

impl Engine {
    /// Makes the streams of the virtual shards that the rank touches, where `state` says that they stand.
    pub(crate) fn new(parts: Parts, state: impl Fn(u64) -> Result<StreamState>) -> Result<Engine> {
        let Parts { order, rank, seq_len, source, encoder, ahead } = parts;
        let touched = (0..order.virtual_shards).filter(|shard| order.touches(rank, *shard));
        let stream = |shard| {
            let source = Source { shard, ..source.clone() };
            Ok((shard, Stream::new(source, encoder.clone(), seq_len + 1, ahead, state(shard)?)))
        };
        let streams = touched.map(stream).collect::<Result<_>>()?;
        Ok(Engine { order, rank, seq_len, next_step: 0, streams })
    }

    /// Has every stream pass over what was taken before the first step. One that ends before gives no step: the next says
    /// so.
    pub(crate) fn skip_to_start(&mut self) -> Result<()> {
        for (shard, stream) in &mut self.streams {
            stream.skip_to(self.order.turns_before(*shard, self.order.start))?;
            stream.take_relooped();
        }
        Ok(())
    }

    /// Where this rank's own virtual shards stand.
    pub(crate) fn states(&self) -> BTreeMap<u64, StreamState> {
        let owned = self.streams.iter().filter(|(shard, _)| self.order.owner(**shard) == self.rank);
        owned.map(|(shard, stream)| (*shard, stream.state())).collect()
    }

    /// The next step; or why there is none.
    pub(crate) fn next_step(&mut self) -> Result<std::result::Result<Made, OutOfData>> {
        let positions = self.order.positions(self.next_step, self.rank);
        let sequences = (positions.end - positions.start) as usize;
        let mut step = Step { position: positions.start, sequences, ..Step::default() };
        step.inputs.reserve_exact(sequences * self.seq_len);
        step.labels.reserve_exact(sequences * self.seq_len);
        // Threads encode for all streams of the step before the first is waited for.
        for position in positions.clone().take(self.order.virtual_shards.min(sequences as u64) as usize) {
            self.stream(position)?.prime()?;
        }
        for position in positions {
            let shard = self.order.shard_of(position);
            let turn = self.order.turns_before(shard, position);
            let stream = self.stream(position)?;
            if !stream.skip_to(turn)? {
                return Ok(Err(OutOfData { shard, sequences: stream.taken() }));
            }
            let Some(tokens) = stream.take()? else {
                return Ok(Err(OutOfData { shard, sequences: turn }));
            };
            push(&mut step, tokens);
        }
        // What other ranks took is passed over, where this rank keeps the state.
        let end = self.order.step_start(self.next_step + 1);
        for (shard, stream) in &mut self.streams {
            let turns = self.order.turns_before(*shard, end);
            if self.order.owner(*shard) == self.rank && !stream.skip_to(turns)? {
                return Ok(Err(OutOfData { shard: *shard, sequences: stream.taken() }));
            }
            let relooped = stream.take_relooped();
            step.notices.extend(relooped.into_iter().map(|epoch| Notice::Relooped { shard: *shard, epoch }));
        }
        self.next_step += 1;
        Ok(Ok(Made { step, states: self.states() }))
    }

    fn stream(&mut self, position: u64) -> Result<&mut Stream> {
        let shard = self.order.shard_of(position);
        self.streams.get_mut(&shard).ok_or(crate::Error::Ended)
    }
}

/// Adds a sequence: all but the last token go in, all but the first are labels.
fn push(step: &mut Step, tokens: impl Iterator<Item = u32>) {
    let mut tokens = tokens.map(i64::from);
    let Some(mut input) = tokens.next() else { return };
    for label in tokens {
        step.inputs.push(input);
        step.labels.push(label);
        input = label;
    }
}
