//! The texts of one object, one by one, in bounded memory: what an ending means, and a place to go on from.

mod blocks;
mod lines;
mod parquet;

pub(crate) use blocks::{Fetcher, OpenObject};

use crate::error::Result;
use lines::LineReader;
use parquet::RowReader;
use std::sync::Arc;

/// How documents are stored in an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// One JSON object per line.
    Lines(Packing),
    /// A column of a parquet file.
    Parquet,
}

/// What lines are compressed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

const LINE_ENDINGS: &[&str] = &[".json", ".jsonl", ".ndjson"];
const PACKINGS: &[(&str, Packing)] =
    &[("", Packing::None), (".gz", Packing::Gzip), (".zst", Packing::Zstd), (".zstd", Packing::Zstd)];
const PARQUET_ENDING: &str = ".parquet";

impl Encoding {
    /// What the ending of a name says, in capitals or not.
    pub(crate) fn of_name(name: &str) -> Option<Encoding> {
        let name = name.to_ascii_lowercase();
        if name.ends_with(PARQUET_ENDING) {
            return Some(Encoding::Parquet);
        }
        let of_lines = |stem: &str| LINE_ENDINGS.iter().any(|ending| stem.ends_with(ending));
        let mut packings = PACKINGS.iter();
        let (_, packing) = packings.find(|(ending, _)| name.strip_suffix(ending).is_some_and(of_lines))?;
        Some(Encoding::Lines(*packing))
    }
}

/// Every ending that is known, for errors.
pub(crate) fn endings() -> String {
    format!("{}, plain or with .gz or .zst, and {PARQUET_ENDING}", LINE_ENDINGS.join(", "))
}

/// Before which document of an object a reader stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Position {
    /// Lines or rows before it. Blank lines count, as in an editor.
    pub(crate) record: u64,
    /// Byte of the object where its line begins; 0 where lines are compressed, and in parquet.
    pub(crate) byte_offset: u64,
}

/// A text and where it stands.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) text: String,
    pub(crate) at: Position,
}

/// Reads an object's documents in order.
pub(crate) enum Reader {
    Lines(LineReader),
    Rows(Box<RowReader>),
}

impl Reader {
    /// A reader that stands at `at`. In plain lines and between row groups that costs nothing; compressed lines are
    /// unpacked, and rows of a group decoded, from the start.
    pub(crate) fn open(
        object: Arc<OpenObject>,
        encoding: Encoding,
        fetcher: &Arc<Fetcher>,
        at: Position,
    ) -> Result<Reader> {
        match encoding {
            Encoding::Lines(packing) => Ok(Reader::Lines(LineReader::open(object, packing, fetcher, at)?)),
            Encoding::Parquet => Ok(Reader::Rows(Box::new(RowReader::open(object, fetcher, at)?))),
        }
    }

    /// Where it stands.
    pub(crate) fn position(&self) -> Position {
        match self {
            Reader::Lines(lines) => lines.position(),
            Reader::Rows(rows) => rows.position(),
        }
    }

    /// The next document; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Document>> {
        match self {
            Reader::Lines(lines) => lines.next(),
            Reader::Rows(rows) => rows.next(),
        }
    }

    /// Passes over up to `count` documents without looking into them; says how many there were.
    pub(crate) fn skip(&mut self, count: u64) -> Result<u64> {
        match self {
            Reader::Lines(lines) => lines.skip(count),
            Reader::Rows(rows) => rows.skip(count),
        }
    }

    /// Passes over lines or rows until so many of the object are passed; says how many documents they held.
    pub(crate) fn documents_until(&mut self, record: u64) -> Result<u64> {
        match self {
            Reader::Lines(lines) => lines.documents_until(record),
            Reader::Rows(rows) => rows.skip(record.saturating_sub(rows.position().record)),
        }
    }
}

/// `line 3` or `row 3`, counted from one, for errors.
pub(crate) fn record_in_words(encoding: Encoding, record: u64) -> String {
    let word = if encoding == Encoding::Parquet { "row" } else { "line" };
    format!("{word} {}", record + 1)
}

#[cfg(test)]
mod tests;
