//! Where a run stands in its data: a small JSON, the same for any number of ranks.
//!
//! ```text
//! {"format": "titan-data", "version": 1,
//!  "position": 4096,                    sequences that the job has taken, of all ranks
//!  "seq_len": 2048, "virtual_shards": 1, "deal": "per_object", "shuffle_seed": null,
//!  "tokenizer": {"vocab_size": 128256, "crc64": "..."},
//!  "corpus": {"objects": 1, "bytes": 1376230, "crc64": "..."},
//!  "shards": [{"shard": 0, "epoch": 2,
//!              "object": "data.json",   null after the last of an epoch
//!              "record": 17,            lines or rows of the object before the document of the next token
//!              "byte_offset": 20412,    where its line begins; 0 in compressed lines and in parquet
//!              "pass": 0,               documents of other shards before it
//!              "tokens_gone": 37}]}     tokens of that document that are taken
//! ```
//!
//! A shard's sequences so far follow from `position`. Checksums are CRC-64/NVME: of the tokenizer's files; of the names and
//! lengths of the corpus's objects.

use crate::documents::Position;
use crate::error::{Error, Result};
use crate::stream::{Cursor, Deal, Source, StreamState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FORMAT: &str = "titan-data";
const VERSION: u32 = 1;
/// Numbers beyond are no counts of anything: JSON readers in other languages lose them, and sums stay in range.
const COUNT_MAX: u64 = 1 << 53;

/// Where a run stands. A rank has the virtual shards it keeps; [`State::merge`] joins those of all ranks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    stored: Stored,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct Stored {
    format: String,
    version: u32,
    position: u64,
    #[serde(flatten)]
    identity: Identity,
    shards: Vec<Shard>,
}

/// What a state is of. Another one has other sequences.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) seq_len: u64,
    pub(crate) virtual_shards: u64,
    pub(crate) deal: DealName,
    pub(crate) shuffle_seed: Option<u64>,
    pub(crate) tokenizer: TokenizerPrint,
    pub(crate) corpus: CorpusPrint,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DealName {
    PerObject,
    RoundRobin,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizerPrint {
    pub(crate) vocab_size: u64,
    pub(crate) crc64: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct CorpusPrint {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) crc64: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
struct Shard {
    shard: u64,
    epoch: u64,
    object: Option<String>,
    record: u64,
    byte_offset: u64,
    pass: u64,
    tokens_gone: u64,
}

impl From<Deal> for DealName {
    fn from(deal: Deal) -> Self {
        match deal {
            Deal::PerObject => DealName::PerObject,
            Deal::RoundRobin(_) => DealName::RoundRobin,
        }
    }
}

impl State {
    pub(crate) fn new(
        position: u64,
        identity: &Identity,
        source: &Source,
        states: &BTreeMap<u64, StreamState>,
    ) -> State {
        let shard = |(&shard, state): (&u64, &StreamState)| {
            let Cursor { epoch, object, at, pass } = state.cursor;
            let objects = Source { shard, ..source.clone() }.objects(epoch);
            let name = objects.get(object).map(|object| source.corpus.objects()[*object].name.clone());
            let Position { record, byte_offset } = at;
            Shard { shard, epoch, object: name, record, byte_offset, pass, tokens_gone: state.tokens_gone }
        };
        let shards = states.iter().map(shard).collect();
        let (format, identity) = (FORMAT.to_owned(), identity.clone());
        State { stored: Stored { format, version: VERSION, position, identity, shards } }
    }

    /// Sequences that the job had taken, of all ranks.
    pub fn position(&self) -> u64 {
        self.stored.position
    }

    /// As JSON, in one line.
    ///
    /// Errors: none for a state of this crate.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(&self.stored).map_err(|error| bad(error.to_string()))
    }

    /// Of JSON.
    ///
    /// Errors: [`Error::BadState`].
    pub fn from_json(json: &str) -> Result<State> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_str(json).map_err(|error| bad(error.to_string()))?;
        if head.format != FORMAT {
            return Err(bad(format!("its format is `{}`, expected `{FORMAT}`", head.format)));
        }
        if head.version != VERSION {
            let found = head.version;
            return Err(bad(format!(
                "version {found}; this program reads {VERSION}, so use the one that wrote it"
            )));
        }
        let stored: Stored = serde_json::from_str(json).map_err(|error| bad(error.to_string()))?;
        let of_shard =
            |shard: &Shard| [shard.epoch, shard.record, shard.byte_offset, shard.pass, shard.tokens_gone];
        let counts = [stored.position, stored.identity.virtual_shards];
        if stored.shards.iter().flat_map(of_shard).chain(counts).any(|count| count > COUNT_MAX) {
            return Err(bad(format!("a number in it is over {COUNT_MAX}")));
        }
        Self::merge(vec![State { stored }])
    }

    /// Joins the states of all ranks at one step into the state of the job. A part of them joins to a part.
    ///
    /// Errors: [`Error::BadState`] where they are not of one step of one job.
    pub fn merge(states: Vec<State>) -> Result<State> {
        let mut states = states.into_iter();
        let mut joined = states.next().ok_or_else(|| bad("there are no states to merge".to_owned()))?;
        for state in states {
            let (a, b) = (&joined.stored, &state.stored);
            if a.position != b.position {
                return Err(bad(format!(
                    "states of positions {} and {} are of two steps",
                    a.position, b.position
                )));
            }
            if let Some(error) = difference(&a.identity, &b.identity) {
                return Err(bad(format!("states to merge differ: {error}")));
            }
            joined.stored.shards.extend(state.stored.shards);
        }
        let virtual_shards = joined.stored.identity.virtual_shards;
        let shards = &mut joined.stored.shards;
        shards.sort_by_key(|shard| shard.shard);
        shards.dedup();
        if let Some(twice) = shards.windows(2).find(|pair| pair[0].shard == pair[1].shard) {
            return Err(bad(format!("virtual shard {} stands at two places", twice[0].shard)));
        }
        if let Some(last) = shards.last().filter(|last| last.shard >= virtual_shards) {
            return Err(bad(format!("virtual shard {} of {virtual_shards}", last.shard)));
        }
        Ok(joined)
    }

    /// Checks that the state is of this corpus, tokenizer and options.
    ///
    /// Errors: [`Error::OtherState`] that names the first difference.
    pub(crate) fn check(&self, identity: &Identity) -> Result<()> {
        difference(&self.stored.identity, identity).map_or(Ok(()), Err)
    }

    /// Where a virtual shard stands, which has given `taken` sequences.
    pub(crate) fn of_shard(&self, source: &Source, taken: u64) -> Result<StreamState> {
        let number = source.shard;
        let shards = &self.stored.shards;
        let found = shards.binary_search_by_key(&number, |shard| shard.shard);
        let shard = &shards[found
            .map_err(|_| bad(format!("it lacks virtual shard {number}; merge the states of all ranks")))?];
        if shard.pass >= self.stored.identity.virtual_shards {
            let pass = shard.pass;
            return Err(bad(format!(
                "virtual shard {number} is to pass over {pass} documents, more than there are shards"
            )));
        }
        let objects = source.objects(shard.epoch);
        let names = source.corpus.objects();
        let object = match &shard.object {
            None => objects.len(),
            Some(name) => {
                objects.iter().position(|object| names[*object].name == *name).ok_or_else(|| {
                    bad(format!("virtual shard {number} stands in `{name}`, which is none of its objects"))
                })?
            }
        };
        let at = Position { record: shard.record, byte_offset: shard.byte_offset };
        let cursor = Cursor { epoch: shard.epoch, object, at, pass: shard.pass };
        Ok(StreamState { taken, cursor, tokens_gone: shard.tokens_gone })
    }
}

fn bad(why: String) -> Error {
    Error::BadState { why }
}

/// The first thing in which two runs differ, so that their sequences do.
fn difference(found: &Identity, expected: &Identity) -> Option<Error> {
    const SAME: &str =
        "give the same value, or start the data anew by --checkpoint.exclude_from_loading=dataloader";
    let differ = |what, found: String, expected: String| {
        (found != expected).then_some(Error::OtherState { what, found, expected, remedy: SAME })
    };
    let shards = |identity: &Identity| match identity.deal {
        DealName::PerObject => format!("{} virtual shards, one per object", identity.virtual_shards),
        DealName::RoundRobin => format!("{} virtual shards", identity.virtual_shards),
    };
    let seed = |identity: &Identity| identity.shuffle_seed.map_or("none".to_owned(), |seed| seed.to_string());
    let corpus = |identity: &Identity| {
        let CorpusPrint { objects, bytes, crc64 } = &identity.corpus;
        format!("{objects} objects of {bytes} bytes, names and lengths with CRC-64 {crc64}")
    };
    let tokenizer = |identity: &Identity| {
        let TokenizerPrint { vocab_size, crc64 } = &identity.tokenizer;
        format!("{vocab_size} tokens, files with CRC-64 {crc64}")
    };
    let seq_len = |identity: &Identity| identity.seq_len.to_string();
    differ("corpus", corpus(found), corpus(expected))
        .or_else(|| differ("tokenizer", tokenizer(found), tokenizer(expected)))
        .or_else(|| differ("seq_len", seq_len(found), seq_len(expected)))
        .or_else(|| differ("division", shards(found), shards(expected)))
        .or_else(|| differ("shuffle seed", seed(found), seed(expected)))
}
