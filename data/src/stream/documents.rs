//! The documents of one virtual shard: which objects, from where on, which of them.

use crate::corpus::{Corpus, Object};
use crate::documents::{Fetcher, OpenObject, Position, Reader};
use crate::error::{Error, Result};
use crate::order::shuffled;
use std::sync::Arc;

/// How documents come to virtual shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deal {
    /// A virtual shard per object.
    PerObject,
    /// So many virtual shards; of the documents of all objects in a row, shard `v` gets every `V`-th from `v` on.
    RoundRobin(u64),
}

/// Before which document of a virtual shard a stream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cursor {
    /// Times that the documents were read to their end before.
    pub(crate) epoch: u64,
    /// How many objects of the epoch lie before.
    pub(crate) object: usize,
    /// Where in the object.
    pub(crate) at: Position,
    /// Documents of other shards from there to the next of this.
    pub(crate) pass: u64,
}

/// What a virtual shard reads.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) corpus: Arc<Corpus>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) deal: Deal,
    pub(crate) shuffle_seed: Option<u64>,
    pub(crate) infinite: bool,
    pub(crate) shard: u64,
}

impl Source {
    /// Where the shard begins.
    pub(crate) fn start(&self) -> Cursor {
        Cursor { pass: self.first(), ..Cursor::default() }
    }

    /// Whether an epoch begins there.
    pub(crate) fn is_start(&self, cursor: &Cursor) -> bool {
        *cursor == Cursor { epoch: cursor.epoch, ..self.start() }
    }

    /// A reader of an object, by its position in the corpus.
    pub(crate) fn open(&self, object: usize, at: Position) -> Result<Reader> {
        let object = &self.corpus.objects()[object];
        let keeps_open = self.fetcher.keeps_open();
        let opened = OpenObject::open(&self.corpus.store, &object.key, object.byte_len, keeps_open)?;
        Reader::open(opened, object.encoding, &self.fetcher, at)
    }

    fn first(&self) -> u64 {
        if self.deal == Deal::PerObject { 0 } else { self.shard }
    }

    fn others(&self) -> u64 {
        match self.deal {
            Deal::PerObject => 0,
            Deal::RoundRobin(virtual_shards) => virtual_shards - 1,
        }
    }

    /// The objects of an epoch, as positions in the corpus.
    pub(crate) fn objects(&self, epoch: u64) -> Vec<usize> {
        let count = self.corpus.objects().len();
        match (self.deal, self.shuffle_seed) {
            (Deal::RoundRobin(_), None) => (0..count).collect(),
            (Deal::RoundRobin(_), Some(seed)) => shuffled(count, seed, epoch),
            // A shard keeps its object, so that its stream goes on; which is whose is what the seed decides.
            (Deal::PerObject, None) => vec![self.shard as usize],
            (Deal::PerObject, Some(seed)) => vec![shuffled(count, seed, 0)[self.shard as usize]],
        }
    }
}

/// A text and where the shard stood before it.
pub(crate) struct ShardDocument {
    pub(crate) text: String,
    pub(crate) cursor: Cursor,
    /// Position of its object in the corpus.
    pub(crate) object: usize,
}

/// Reads them.
pub(crate) struct Documents {
    source: Source,
    cursor: Cursor,
    objects: Vec<usize>,
    reader: Option<Reader>,
    /// Whether this epoch was read from its start, and what it gave.
    is_whole: bool,
    given: u64,
}

impl Documents {
    pub(crate) fn new(source: Source, cursor: Cursor) -> Documents {
        let objects = source.objects(cursor.epoch);
        let is_whole = source.is_start(&cursor);
        Documents { source, cursor, objects, reader: None, is_whole, given: 0 }
    }

    /// Where the next document is looked for.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// An object of the corpus.
    pub(crate) fn object(&self, object: usize) -> &Object {
        &self.source.corpus.objects()[object]
    }

    /// The next document; `None` at the end of a finite corpus.
    pub(crate) fn next(&mut self) -> Result<Option<ShardDocument>> {
        loop {
            let Some(&object) = self.objects.get(self.cursor.object) else {
                if !self.source.infinite {
                    return Ok(None);
                }
                self.begin_again()?;
                continue;
            };
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => self.source.open(object, self.cursor.at)?,
            };
            if self.cursor.pass > 0 {
                self.cursor.pass -= reader.skip(self.cursor.pass)?;
            }
            // The reader's place, not that before the documents that were passed over: a seek is shorter.
            self.cursor.at = reader.position();
            if self.cursor.pass == 0
                && let Some(document) = reader.next()?
            {
                let cursor = Cursor { at: document.at, ..self.cursor };
                self.cursor.at = reader.position();
                self.cursor.pass = self.source.others();
                self.reader = Some(reader);
                self.given += 1;
                return Ok(Some(ShardDocument { text: document.text, cursor, object }));
            }
            self.cursor.object += 1;
            self.cursor.at = Position::default();
        }
    }

    fn begin_again(&mut self) -> Result<()> {
        if self.is_whole && self.given == 0 {
            return Err(self.no_tokens());
        }
        self.cursor = Cursor { epoch: self.cursor.epoch + 1, ..self.source.start() };
        self.objects = self.source.objects(self.cursor.epoch);
        (self.is_whole, self.given) = (true, 0);
        Ok(())
    }

    /// The error of an epoch that gives nothing.
    pub(crate) fn no_tokens(&self) -> Error {
        let holds = match self.objects.as_slice() {
            [object] => self.object(*object).shown.clone(),
            objects => format!("its documents of {} objects", objects.len()),
        };
        Error::NoTokens { shard: self.source.shard, holds }
    }
}
