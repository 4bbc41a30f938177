//! The sequences of one virtual shard: its documents' tokens, one after the other, cut every `seq_len + 1`.
//!
//! Where a stream stands is the document in which its next token is, and how many tokens of that were taken: nothing of
//! the text or of the tokens needs to be kept to go on from there.

mod documents;

pub(crate) use documents::{Cursor, Deal, Documents, Source};

use crate::documents::record_in_words;
use crate::encode::{Encoder, Encoding};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;

/// Texts that wait for their tokens are no more, over all of a stream.
const AHEAD_BYTES_MAX: usize = 4 << 20;

/// Where a stream stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StreamState {
    /// Sequences taken so far.
    pub(crate) taken: u64,
    /// The document of the next token.
    pub(crate) cursor: Cursor,
    /// Tokens of that document that are gone.
    pub(crate) tokens_gone: u64,
}

/// A virtual shard's sequences.
pub(crate) struct Stream {
    documents: Documents,
    encoder: Arc<Encoder>,
    sequence_tokens: usize,
    /// Documents that are encoded ahead.
    ahead: usize,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    tokens: VecDeque<u32>,
    parts: VecDeque<Part>,
    /// Tokens of the first document that were taken before the stream began.
    tokens_gone: u64,
    taken: u64,
    /// Epoch of the document that was packed last, whether it was seen whole, and its tokens.
    epoch: u64,
    epoch_is_whole: bool,
    epoch_tokens: u64,
    relooped: Vec<u64>,
}

struct Pending {
    cursor: Cursor,
    object: usize,
    text_bytes: usize,
    encoding: Encoding,
}

/// Tokens of one document in `tokens`.
struct Part {
    cursor: Cursor,
    token_count: u64,
    gone: u64,
}

impl Stream {
    /// A stream that stands at `state`, and cuts every `sequence_tokens`.
    pub(crate) fn new(
        documents: Source,
        encoder: Arc<Encoder>,
        sequence_tokens: usize,
        ahead: usize,
        state: StreamState,
    ) -> Stream {
        let epoch = state.cursor.epoch;
        let is_start = state.tokens_gone == 0 && documents.is_start(&state.cursor);
        Stream {
            documents: Documents::new(documents, state.cursor),
            encoder,
            sequence_tokens,
            ahead,
            pending: VecDeque::new(),
            pending_bytes: 0,
            tokens: VecDeque::new(),
            parts: VecDeque::new(),
            tokens_gone: state.tokens_gone,
            taken: state.taken,
            epoch,
            epoch_is_whole: is_start,
            epoch_tokens: 0,
            relooped: Vec::new(),
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> StreamState {
        let (cursor, tokens_gone) = match (self.parts.front(), self.pending.front()) {
            (Some(part), _) => (part.cursor, part.gone),
            (None, Some(pending)) => (pending.cursor, self.tokens_gone),
            (None, None) => (self.documents.cursor(), self.tokens_gone),
        };
        StreamState { taken: self.taken, cursor, tokens_gone }
    }

    /// Sequences taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Epochs that were begun since this was asked last.
    pub(crate) fn take_relooped(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.relooped)
    }

    /// Gives documents to the encoder's threads, where the next sequence needs more.
    pub(crate) fn prime(&mut self) -> Result<()> {
        while self.tokens.len() < self.sequence_tokens
            && self.pending.len() < self.ahead
            && (self.pending_bytes < AHEAD_BYTES_MAX || self.pending.is_empty())
        {
            let Some(document) = self.documents.next()? else { break };
            let text_bytes = document.text.len();
            self.pending_bytes += text_bytes;
            let encoding = self.encoder.encode(document.text);
            let (cursor, object) = (document.cursor, document.object);
            self.pending.push_back(Pending { cursor, object, text_bytes, encoding });
        }
        Ok(())
    }

    /// The next sequence of `seq_len + 1` tokens; `None` where the documents end before it is full.
    pub(crate) fn take(&mut self) -> Result<Option<impl Iterator<Item = u32> + '_>> {
        if !self.fill()? {
            return Ok(None);
        }
        self.pass_parts();
        Ok(Some(self.tokens.drain(..self.sequence_tokens)))
    }

    /// Passes over sequences until `taken`; `false` where the documents end before.
    pub(crate) fn skip_to(&mut self, taken: u64) -> Result<bool> {
        while self.taken < taken {
            if !self.fill()? {
                return Ok(false);
            }
            self.pass_parts();
            self.tokens.drain(..self.sequence_tokens);
        }
        Ok(true)
    }

    /// Counts one sequence off the documents it came from.
    fn pass_parts(&mut self) {
        self.taken += 1;
        let mut left = self.sequence_tokens as u64;
        while let Some(part) = self.parts.front_mut().filter(|_| left > 0) {
            let passed = left.min(part.token_count - part.gone);
            part.gone += passed;
            left -= passed;
            if part.gone == part.token_count {
                self.parts.pop_front();
            }
        }
    }

    /// Gets tokens until a sequence is full; `false` where the documents end before.
    fn fill(&mut self) -> Result<bool> {
        while self.tokens.len() < self.sequence_tokens {
            self.prime()?;
            let Some(pending) = self.pending.pop_front() else { return Ok(false) };
            self.pending_bytes -= pending.text_bytes;
            let tokens = pending.encoding.wait()?.map_err(|why| {
                let object = self.documents.object(pending.object);
                let record = record_in_words(object.encoding, pending.cursor.at.record);
                Error::NotEncoded { object: object.shown.clone(), record, why }
            })?;
            self.append(pending.cursor, &tokens)?;
        }
        Ok(true)
    }

    fn append(&mut self, cursor: Cursor, tokens: &[u32]) -> Result<()> {
        if cursor.epoch > self.epoch {
            if self.epoch_is_whole && self.epoch_tokens == 0 {
                return Err(self.documents.no_tokens());
            }
            (self.epoch, self.epoch_is_whole, self.epoch_tokens) = (cursor.epoch, true, 0);
            self.relooped.push(cursor.epoch);
        }
        let token_count = tokens.len() as u64;
        self.epoch_tokens += token_count;
        let gone = std::mem::take(&mut self.tokens_gone);
        if gone > token_count {
            let why = format!("it has taken {gone} tokens of a document that gives {token_count}");
            return Err(Error::BadState { why });
        }
        self.tokens.extend(&tokens[gone as usize..]);
        if gone < token_count {
            self.parts.push_back(Part { cursor, token_count, gone });
        }
        Ok(())
    }
}
