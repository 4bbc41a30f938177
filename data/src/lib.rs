//! Training data: documents of any store, tokenised, packed into sequences, in an order that no mesh changes.
//!
//! Text goes through four stages, each a module:
//!
//! * a [`Corpus`] is the objects that a dataset name and a place mean, in order; `documents` reads their texts one by one,
//!   in bounded memory;
//! * a [`Tokenizer`] turns a text into tokens, with BOS and EOS where the tokenizer itself adds none;
//! * a stream per virtual shard (`stream`) packs tokens into sequences of `seq_len + 1`, without overlap;
//! * [`order`] says which stream gives the sequence at a global position, and which rank takes it.
//!
//! [`Loader`] joins them for one rank. Its [`State`] does not depend on the number of ranks. `docs/data.md` tells the
//! formats, the order, the state and what a seek costs.

mod corpus;
mod dataset;
mod documents;
mod encode;
mod engine;
mod error;
mod loader;
mod map_place;
pub mod order;
mod state;
mod stream;
mod tokenizer;

pub use corpus::{Corpus, Object};
pub use dataset::{DATASETS, Dataset, Split};
pub use engine::{Notice, OutOfData, Step};
pub use error::{Error, Result};
pub use loader::{DataOptions, Loader};
pub use map_place::{MapPlace, MapPlaces};
pub use state::State;
pub use tokenizer::Tokenizer;
