//! Where a run stands, as TorchTitan 0.2.2 says it of a dataset in map style, and back.
//!
//! Its `HuggingFaceTextDataset` counts the documents that it has read, of all files in a row, and keeps the tokens of them
//! that are in no sequence yet. One virtual shard over JSON lines, in the order of names, stands at such places; nothing else
//! here does.
//!
//! Source: torchtitan/hf_datasets/text_datasets.py, v0.2.2.

use crate::documents::{Encoding, Fetcher, Position, Reader};
use crate::error::{Error, Result};
use crate::loader::DataOptions;
use crate::state::State;
use crate::stream::{Cursor, Source, StreamState};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of a block of documents that are looked through.
const BLOCK_BYTES: usize = 1 << 20;
/// A buffer of tokens spans no more documents than this. TorchTitan's own holds the rest of one, and after a resume of two.
const BUFFERED_DOCUMENTS_MAX: usize = 1 << 10;

/// A place in a dataset in map style.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapPlace {
    /// Documents that were read in this epoch.
    pub sample_idx: u64,
    /// Their tokens that are in no sequence yet.
    pub token_buffer: Vec<u32>,
}

/// Tells such places of a run, as it goes on. Looks once more through the lines that the run has passed since it was asked
/// last.
pub struct MapPlaces {
    options: DataOptions,
    source: Source,
    epoch: u64,
    /// How many objects of the epoch lie before the reader.
    object: usize,
    reader: Option<Reader>,
    /// Documents before the reader, of all objects.
    documents: u64,
    /// The document right before the reader, where its tokens are known.
    last: Option<Last>,
}

struct Last {
    object: usize,
    record: u64,
    tokens: Vec<u32>,
}

/// The one stream of documents, where there is one.
fn one_stream(options: &DataOptions) -> Option<Source> {
    let corpus = &options.corpus;
    let of_lines = |encoding| matches!(encoding, Encoding::Lines(_));
    let is_one = options.order(0).virtual_shards == 1
        && options.shuffle_seed.is_none()
        && corpus.is_map_style
        && corpus.objects().iter().all(|object| of_lines(object.encoding));
    is_one.then(|| Source {
        corpus: corpus.clone(),
        fetcher: Fetcher::new(BLOCK_BYTES, true),
        deal: options.deal(),
        shuffle_seed: None,
        infinite: options.infinite,
        shard: 0,
    })
}

fn bad(why: String) -> Error {
    Error::BadState { why }
}

fn encode(options: &DataOptions, object: usize, record: u64, text: &str) -> Result<Vec<u32>> {
    options.tokenizer.encode(text).map_err(|why| {
        let object = options.corpus.objects()[object].shown.clone();
        Error::NotEncoded { object, record: format!("line {}", record + 1), why }
    })
}

impl MapPlaces {
    /// For a run of these options; `None` where TorchTitan's loader cannot stand where such a run does: with more than one
    /// data-parallel rank or virtual shard, shuffled, of another dataset than one in map style, or not over JSON lines.
    pub fn new(options: &DataOptions) -> Option<MapPlaces> {
        let source = one_stream(options).filter(|_| options.ranks == 1)?;
        let options = options.clone();
        Some(MapPlaces { options, source, epoch: 0, object: 0, reader: None, documents: 0, last: None })
    }

    /// The place of a state of the run.
    ///
    /// Errors: [`Error::OtherState`], [`Error::BadState`] for a state of another run; what is wrong with a document.
    pub fn place(&mut self, state: &State) -> Result<MapPlace> {
        state.check(&self.options.identity())?;
        let StreamState { cursor, tokens_gone, .. } = state.of_shard(&self.source, 0)?;
        if tokens_gone == 0 {
            self.last = None;
            self.go_to(&cursor)?;
            return Ok(MapPlace { sample_idx: self.documents, token_buffer: Vec::new() });
        }
        let (object, record) = (cursor.object, cursor.at.record);
        let is_there = |last: &&Last| (last.object, last.record) == (object, record);
        let last = match self.last.take().filter(|last| self.epoch == cursor.epoch && is_there(&last)) {
            Some(last) => last,
            None => {
                self.go_to(&cursor)?;
                self.read_document()?
            }
        };
        let rest = last.tokens.get(tokens_gone as usize..).map(<[u32]>::to_vec);
        let token_count = last.tokens.len();
        let is_at = is_there(&&last);
        self.last = Some(last);
        let token_buffer = rest.filter(|_| is_at).ok_or_else(|| {
            bad(format!(
                "{tokens_gone} tokens of line {} are taken, and the document there has {token_count}",
                record + 1
            ))
        })?;
        Ok(MapPlace { sample_idx: self.documents, token_buffer })
    }

    /// Brings the reader before a document, and counts those that it passes.
    fn go_to(&mut self, cursor: &Cursor) -> Result<()> {
        let record = self.reader.as_ref().map_or(0, |reader| reader.position().record);
        if self.epoch != cursor.epoch || (self.object, record) > (cursor.object, cursor.at.record) {
            (self.epoch, self.object, self.reader, self.documents) = (cursor.epoch, 0, None, 0);
        }
        loop {
            let is_last = self.object == cursor.object;
            if self.object < self.source.corpus.objects().len() {
                let until = if is_last { cursor.at.record } else { u64::MAX };
                let passed = self.reader()?.documents_until(until)?;
                self.documents += passed;
            }
            if is_last {
                return Ok(());
            }
            (self.object, self.reader) = (self.object + 1, None);
        }
    }

    fn reader(&mut self) -> Result<&mut Reader> {
        let opened = match self.reader.take() {
            Some(reader) => reader,
            None => self.source.open(self.object, Position::default())?,
        };
        Ok(self.reader.insert(opened))
    }

    fn read_document(&mut self) -> Result<Last> {
        let object = self.object;
        let read = self.reader()?.next()?;
        let document =
            read.ok_or_else(|| bad(format!("it stands after the last document of object {object}")))?;
        self.documents += 1;
        let record = document.at.record;
        let tokens = encode(&self.options, object, record, &document.text)?;
        Ok(Last { object, record, tokens })
    }
}

impl State {
    /// The state of a run that has taken `position` sequences and stands at a place of TorchTitan's, on any number of ranks;
    /// `None` where a run of these options stands at no such places. Looks through all lines up to there.
    ///
    /// Errors: [`Error::BadState`] where the buffered tokens are not those of the documents before it: of another corpus or
    /// tokenizer, or from before the corpus began again; what is wrong with a document.
    pub fn of_map_place(options: &DataOptions, place: &MapPlace, position: u64) -> Result<Option<State>> {
        let Some(source) = one_stream(options) else { return Ok(None) };
        let (before, end) = documents_before(&source, place.sample_idx)?;
        let mut stream = StreamState { taken: position, cursor: end, tokens_gone: 0 };
        let mut left = &place.token_buffer[..];
        for cursor in before.iter().rev() {
            if left.is_empty() {
                break;
            }
            let read = source.open(cursor.object, cursor.at)?.next()?;
            let document = read.ok_or_else(|| bad("a document is gone".to_owned()))?;
            let tokens = encode(options, cursor.object, document.at.record, &document.text)?;
            let buffered = left.len().min(tokens.len());
            let (rest, found) = left.split_at(left.len() - buffered);
            let tokens_gone = tokens.len() - buffered;
            if tokens[tokens_gone..] != *found {
                return Err(bad(format!(
                    "its buffered tokens are not those of line {} of {}: it is of another corpus or tokenizer",
                    document.at.record + 1,
                    options.corpus.objects()[cursor.object].shown,
                )));
            }
            left = rest;
            let cursor = Cursor { at: document.at, ..*cursor };
            stream = StreamState { taken: position, cursor, tokens_gone: tokens_gone as u64 };
        }
        if !left.is_empty() {
            let (buffered, documents) = (place.token_buffer.len(), before.len());
            return Err(bad(format!(
                "it has {buffered} buffered tokens, more than the last {documents} documents give"
            )));
        }
        Ok(Some(State::new(position, &options.identity(), &source, &BTreeMap::from([(0, stream)]))))
    }
}

/// The last documents among the first `count`, and the place after them.
fn documents_before(source: &Source, count: u64) -> Result<(VecDeque<Cursor>, Cursor)> {
    let mut before = VecDeque::new();
    let (mut end, mut passed) = (source.start(), 0);
    for object in 0..source.corpus.objects().len() {
        let mut reader = source.open(object, Position::default())?;
        while passed < count {
            let cursor = Cursor { object, at: reader.position(), ..Cursor::default() };
            if reader.skip(1)? == 0 {
                break;
            }
            passed += 1;
            before.push_back(cursor);
            if before.len() > BUFFERED_DOCUMENTS_MAX {
                before.pop_front();
            }
            end = Cursor { object, at: reader.position(), ..Cursor::default() };
        }
        if passed == count {
            return Ok((before, end));
        }
    }
    Err(bad(format!("it has read {count} documents of a corpus of {passed}")))
}

#[cfg(test)]
mod tests;
