//! Steps for one rank: made when asked for, or ahead by threads.

use crate::corpus::Corpus;
use crate::documents::Fetcher;
use crate::encode::Encoder;
use crate::engine::{Engine, Made, OutOfData, Parts, Step};
use crate::error::{Error, Result};
use crate::order::Order;
use crate::state::{CorpusPrint, Identity, State, TokenizerPrint};
use crate::stream::{Deal, Source, StreamState};
use crate::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Blocks that are read at once, in bytes.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 20;
/// More streams than this close their objects between blocks: a process may open about a thousand files.
const OPEN_OBJECTS_MAX: usize = 256;
/// More virtual shards than anyone has files.
const VIRTUAL_SHARDS_MAX: u64 = 1 << 20;

/// What a rank wants of its data.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// The objects.
    pub corpus: Arc<Corpus>,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens that go in per sequence. Each sequence uses one more, as the last label.
    pub seq_len: usize,
    /// Sequences per step, of all ranks together: the global batch size. A multiple of `ranks`.
    pub sequences_per_step: u64,
    /// This rank, among the data-parallel ones.
    pub rank: u64,
    /// Data-parallel ranks.
    pub ranks: u64,
    /// So many virtual shards, documents dealt round robin; `None` for one per object.
    pub virtual_shards: Option<u64>,
    /// Shuffles objects: which virtual shard has which; with a set number of virtual shards, their order, anew in every
    /// epoch. `None` for the order of their names.
    pub shuffle_seed: Option<u64>,
    /// Whether documents are read again from the start when they end.
    pub infinite: bool,
    /// Threads that tokenise; with none, everything happens in [`Loader::next_step`].
    pub workers: usize,
    /// Steps that are made ahead, where there are threads; at least one.
    pub prefetch_steps: usize,
    /// Bytes of all blocks in memory. Not less than 128 KiB per virtual shard that the rank touches are used.
    pub read_ahead_bytes: u64,
}

impl DataOptions {
    /// For one rank that trains: endless, in the order of names, without threads.
    pub fn new(
        corpus: Arc<Corpus>,
        tokenizer: Arc<Tokenizer>,
        seq_len: usize,
        sequences_per_step: u64,
    ) -> Self {
        DataOptions {
            corpus,
            tokenizer,
            seq_len,
            sequences_per_step,
            rank: 0,
            ranks: 1,
            virtual_shards: None,
            shuffle_seed: None,
            infinite: true,
            workers: 0,
            prefetch_steps: 2,
            read_ahead_bytes: 256 << 20,
        }
    }

    pub(crate) fn deal(&self) -> Deal {
        self.virtual_shards.map_or(Deal::PerObject, Deal::RoundRobin)
    }

    pub(crate) fn order(&self, start: u64) -> Order {
        let virtual_shards = self.virtual_shards.unwrap_or(self.corpus.objects().len() as u64);
        let (sequences_per_step, ranks) = (self.sequences_per_step, self.ranks);
        Order { start, sequences_per_step, ranks, virtual_shards }
    }

    pub(crate) fn identity(&self) -> Identity {
        let hex = |crc64: u64| format!("{crc64:016x}");
        Identity {
            seq_len: self.seq_len as u64,
            virtual_shards: self.order(0).virtual_shards,
            deal: self.deal().into(),
            shuffle_seed: self.shuffle_seed,
            tokenizer: TokenizerPrint {
                vocab_size: self.tokenizer.vocab_size() as u64,
                crc64: hex(self.tokenizer.crc64()),
            },
            corpus: CorpusPrint {
                objects: self.corpus.objects().len() as u64,
                bytes: self.corpus.byte_len(),
                crc64: hex(self.corpus.crc64()),
            },
        }
    }

    fn check(&self) -> Result<()> {
        let bad = |name, found: u64, expected: String| {
            Err(Error::BadOption { name, found: found.to_string(), expected })
        };
        if self.ranks == 0 || self.rank >= self.ranks {
            return bad("the data-parallel rank", self.rank, format!("less than the {} ranks", self.ranks));
        }
        if self.sequences_per_step == 0 || !self.sequences_per_step.is_multiple_of(self.ranks) {
            let expected = format!("a multiple of the {} data-parallel ranks, and not 0", self.ranks);
            return bad("the global batch size", self.sequences_per_step, expected);
        }
        let per_rank = self.sequences_per_step / self.ranks;
        let tokens = per_rank.checked_mul(self.seq_len as u64);
        if self.seq_len == 0 || tokens.is_none_or(|tokens| tokens > isize::MAX as u64 / 16) {
            let expected = format!("at least 1, and {per_rank} sequences of it fit memory");
            return bad("seq_len", self.seq_len as u64, expected);
        }
        let virtual_shards = self.order(0).virtual_shards;
        if virtual_shards == 0 || virtual_shards > VIRTUAL_SHARDS_MAX {
            return bad("the number of virtual shards", virtual_shards, format!("1 to {VIRTUAL_SHARDS_MAX}"));
        }
        Ok(())
    }
}

/// One rank's data.
pub struct Loader {
    steps: Steps,
    order: Order,
    identity: Identity,
    source: Source,
    /// Where this rank's virtual shards stood after the last step that was taken.
    states: BTreeMap<u64, StreamState>,
    steps_taken: u64,
    out_of_data: Option<OutOfData>,
}

/// Where a loader starts.
enum Start<'a> {
    Beginning,
    State(&'a State),
    /// After so many sequences of all ranks.
    After(u64),
}

enum Steps {
    Inline(Box<Engine>),
    Ahead(Ahead),
    /// An error left streams at different places.
    Failed,
}

type Answer = Result<std::result::Result<Made, OutOfData>>;

/// A thread that makes steps until nobody takes them.
struct Ahead {
    made: Option<Receiver<Answer>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts at the beginning of the data. Without threads, nothing of the corpus is read before
    /// the first step.
    ///
    /// Errors: [`Error::BadOption`].
    pub fn open(options: &DataOptions) -> Result<Loader> {
        Self::start(options, &Start::Beginning)
    }

    /// Goes on where a job stood, on any number of ranks and with any global batch size: the sequences are those it would
    /// have taken. The state is of all ranks, or at least has the virtual shards that this rank touches.
    ///
    /// Errors: [`Error::OtherState`] where it is of another corpus, tokenizer or `seq_len`, or divided otherwise;
    /// [`Error::BadState`].
    pub fn resume(options: &DataOptions, state: &State) -> Result<Loader> {
        Self::start(options, &Start::State(state))
    }

    /// Starts after so many sequences of all ranks, as a job would that has taken them: for a run whose place in its data is
    /// known by nothing else. All documents up to there are read and encoded once more.
    ///
    /// Errors: [`Error::BadOption`]; what is wrong with a document that is passed over.
    pub fn open_after(options: &DataOptions, sequences: u64) -> Result<Loader> {
        Self::start(options, &Start::After(sequences))
    }

    fn start(options: &DataOptions, start: &Start) -> Result<Loader> {
        options.check()?;
        let identity = options.identity();
        let position = match start {
            Start::Beginning => 0,
            Start::After(sequences) => *sequences,
            Start::State(state) => {
                state.check(&identity)?;
                state.position()
            }
        };
        let order = options.order(position);
        let touched = (0..order.virtual_shards).filter(|shard| order.touches(options.rank, *shard)).count();
        let block_bytes = (options.read_ahead_bytes / 2 / touched.max(1) as u64)
            .clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end());
        let source = Source {
            corpus: options.corpus.clone(),
            fetcher: Fetcher::new(block_bytes as usize, touched <= OPEN_OBJECTS_MAX),
            deal: options.deal(),
            shuffle_seed: options.shuffle_seed,
            infinite: options.infinite,
            shard: 0,
        };
        // Streams that are asked in turn share the threads.
        let per_rank = order.sequences_per_step / order.ranks;
        let asked = per_rank.min(order.virtual_shards) as usize;
        let ahead = (options.workers * 2).div_ceil(asked).max(1);
        let parts = Parts {
            order,
            rank: options.rank,
            seq_len: options.seq_len,
            source: source.clone(),
            encoder: Encoder::new(options.tokenizer.clone(), options.workers),
            ahead,
        };
        let mut engine = Engine::new(parts, |shard| {
            let source = Source { shard, ..source.clone() };
            match start {
                Start::Beginning | Start::After(_) => {
                    Ok(StreamState { taken: 0, cursor: source.start(), tokens_gone: 0 })
                }
                Start::State(state) => state.of_shard(&source, order.turns_before(shard, order.start)),
            }
        })?;
        engine.skip_to_start()?;
        let states = engine.states();
        let steps = match options.workers {
            0 => Steps::Inline(Box::new(engine)),
            _ => Steps::Ahead(Ahead::start(engine, options.prefetch_steps.max(1))),
        };
        Ok(Loader { steps, order, identity, source, states, steps_taken: 0, out_of_data: None })
    }

    /// This rank's part of the next step; `None` where a corpus that is read once has no whole step left for this rank.
    /// Another rank may then have one: the job ends for all of them where it ends for one.
    ///
    /// Errors: what is wrong with a document, by object and line; what a store says. After an error, [`Error::Ended`].
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        if self.out_of_data.is_some() {
            return Ok(None);
        }
        let answer = self.steps.next();
        if answer.is_err() {
            self.steps = Steps::Failed;
        }
        match answer? {
            Ok(made) => {
                self.states = made.states;
                self.steps_taken += 1;
                Ok(Some(made.step))
            }
            Err(out_of_data) => {
                self.out_of_data = Some(out_of_data);
                Ok(None)
            }
        }
    }

    /// Why [`Loader::next_step`] gave `None`.
    pub fn out_of_data(&self) -> Option<OutOfData> {
        self.out_of_data
    }

    /// Sequences that the job has taken so far, of all ranks.
    pub fn position(&self) -> u64 {
        self.order.step_start(self.steps_taken)
    }

    /// Where the run stands after the last step that was taken, whatever was made ahead: this rank's own virtual shards.
    /// [`State::merge`] joins the states of all ranks.
    pub fn state(&self) -> State {
        State::new(self.position(), &self.identity, &self.source, &self.states)
    }
}

impl Steps {
    fn next(&mut self) -> Answer {
        match self {
            Steps::Inline(engine) => engine.next_step(),
            Steps::Ahead(ahead) => {
                let made = ahead.made.as_ref().and_then(|made| made.recv().ok());
                made.unwrap_or(Err(Error::Ended))
            }
            Steps::Failed => Err(Error::Ended),
        }
    }
}

impl Ahead {
    fn start(engine: Engine, steps: usize) -> Ahead {
        let (sender, made) = sync_channel(steps);
        let thread = std::thread::spawn(move || make(engine, &sender));
        Ahead { made: Some(made), thread: Some(thread) }
    }
}

fn make(mut engine: Engine, sender: &SyncSender<Answer>) {
    loop {
        let answer = engine.next_step();
        let is_last = !matches!(answer, Ok(Ok(_)));
        if sender.send(answer).is_err() || is_last {
            return;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.made = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was `Error::Ended` to whoever waited.
            let _ = thread.join();
        }
    }
}
