//! JSON lines: one object with a string `text` per line; plain, or compressed by gzip or zstd.

use super::blocks::{Blocks, ByteStream, Fetcher, OpenObject, carried};
use super::{Document, Packing, Position};
use crate::error::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;

/// The longest line that is read into memory.
pub(super) const LINE_BYTES_MAX: usize = 64 << 20;
/// What a decoder unpacks at a time.
const UNPACKED_BYTES: usize = 64 << 10;

/// Reads lines.
pub(crate) struct LineReader {
    input: Box<dyn BufRead + Send>,
    packing: Packing,
    shown: String,
    line: Vec<u8>,
    line_bytes_max: usize,
    at: Position,
}

/// What of a line is looked at.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
}

impl LineReader {
    pub(super) fn open(
        object: Arc<OpenObject>,
        packing: Packing,
        fetcher: &Arc<Fetcher>,
        at: Position,
    ) -> Result<LineReader> {
        let shown = object.shown.clone();
        if at.byte_offset > object.byte_len() {
            return Err(Error::BadState {
                why: format!(
                    "it stands at byte {} of {shown}, which has {}",
                    at.byte_offset,
                    object.byte_len()
                ),
            });
        }
        let plain = packing == Packing::None;
        let stream = ByteStream::new(Blocks::new(object, fetcher), if plain { at.byte_offset } else { 0 });
        let input: Box<dyn BufRead + Send> = match packing {
            Packing::None => Box::new(stream),
            Packing::Gzip => Box::new(BufReader::with_capacity(UNPACKED_BYTES, MultiGzDecoder::new(stream))),
            Packing::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(stream)
                    .map_err(|error| broken(&shown, packing, 0, error))?;
                Box::new(BufReader::with_capacity(UNPACKED_BYTES, decoder))
            }
        };
        let line_bytes_max = LINE_BYTES_MAX;
        let start = if plain { at } else { Position::default() };
        let mut reader = LineReader { input, packing, shown, line: Vec::new(), line_bytes_max, at: start };
        while reader.at.record < at.record {
            if !reader.read_line(false)? {
                let why = format!(
                    "it stands after line {} of {}, which has {}",
                    at.record, reader.shown, reader.at.record
                );
                return Err(Error::BadState { why });
            }
        }
        Ok(reader)
    }

    #[cfg(test)]
    pub(super) fn limit_lines(&mut self, line_bytes_max: usize) {
        self.line_bytes_max = line_bytes_max;
    }

    pub(super) fn position(&self) -> Position {
        self.at
    }

    pub(super) fn next(&mut self) -> Result<Option<Document>> {
        loop {
            let at = self.at;
            if !self.read_line(true)? {
                return Ok(None);
            }
            if !is_blank(&self.line) {
                let text = text_of(&self.line).map_err(|(found, remedy)| self.bad(at, found, remedy))?;
                return Ok(Some(Document { text, at }));
            }
        }
    }

    pub(super) fn skip(&mut self, count: u64) -> Result<u64> {
        let mut skipped = 0;
        while skipped < count {
            if !self.read_line(false)? {
                break;
            }
            // `line` holds no more than what tells whether it is blank.
            skipped += u64::from(!is_blank(&self.line));
        }
        Ok(skipped)
    }

    /// Passes over lines until so many of the object are passed; says how many of them were documents.
    pub(super) fn documents_until(&mut self, record: u64) -> Result<u64> {
        let mut documents = 0;
        while self.at.record < record && self.read_line(false)? {
            documents += u64::from(!is_blank(&self.line));
        }
        Ok(documents)
    }

    /// Reads a line without its end into `line`, or, unless `whole`, its first byte that is not blank. `false` at the
    /// end of the object.
    fn read_line(&mut self, whole: bool) -> Result<bool> {
        self.line.clear();
        // What one very long line took is given back.
        self.line.shrink_to(1 << 20);
        let mut byte_len = 0_usize;
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(&self.shown, self.packing, self.at.record, error)),
            };
            let end = memchr::memchr(b'\n', buffer);
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            let is_end = end.is_some() || buffer.is_empty();
            if byte_len + piece.len() > self.line_bytes_max {
                let found = format!("is longer than {} bytes", self.line_bytes_max);
                return Err(self.bad(
                    self.at,
                    found,
                    "one JSON object with a string `text` is expected per line",
                ));
            }
            if whole {
                self.line.extend_from_slice(piece);
            } else if self.line.is_empty() {
                self.line.extend(piece.iter().find(|byte| !byte.is_ascii_whitespace()));
            }
            let consumed = piece.len() + usize::from(end.is_some());
            byte_len += consumed;
            self.input.consume(consumed);
            if is_end {
                break;
            }
        }
        if byte_len == 0 {
            return Ok(false);
        }
        self.at.record += 1;
        if self.packing == Packing::None {
            self.at.byte_offset += byte_len as u64;
        }
        Ok(true)
    }

    fn bad(&self, at: Position, found: String, remedy: &'static str) -> Error {
        Error::BadDocument {
            object: self.shown.clone(),
            record: format!("line {}", at.record + 1),
            found,
            remedy,
        }
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// The text of a line, or what was found in its place and what to do.
fn text_of(line: &[u8]) -> std::result::Result<String, (String, &'static str)> {
    const LINES: &str = "one JSON object per line is expected; `jq -c '.[]'` makes lines of an array";
    const TEXT: &str = "every line needs a string `text`";
    let first = line.iter().copied().find(|byte| !byte.is_ascii_whitespace()).unwrap_or_default();
    if first != b'{' {
        let found = format!("begins with {:?}, which is no JSON object", char::from(first));
        return Err((found, LINES));
    }
    let parsed: Line = serde_json::from_slice(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => (in_words(&error), TEXT),
        _ => (format!("is not valid JSON: {}", in_words(&error)), LINES),
    })?;
    let raw = parsed.text.get();
    serde_json::from_str::<String>(raw).map_err(|error| {
        let found = match raw.as_bytes().first() {
            Some(b'"') => return (format!("`text` is no valid string: {}", in_words(&error)), TEXT),
            Some(b'n') => "null",
            Some(b't' | b'f') => "a boolean",
            Some(b'[') => "an array",
            Some(b'{') => "an object",
            _ => "a number",
        };
        (format!("`text` is {found}"), TEXT)
    })
}

/// What serde says, with its column; its line is always the first.
fn in_words(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// The error of a stream that cannot be read on.
fn broken(shown: &str, packing: Packing, records: u64, error: io::Error) -> Error {
    let error = match carried(error) {
        Ok(own) => return own,
        Err(error) => error,
    };
    let format = match packing {
        Packing::None => "JSON lines",
        Packing::Gzip => "gzip",
        Packing::Zstd => "zstd",
    };
    let object = shown.to_owned();
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Cut { object, format, records },
        _ => {
            let place = format!("after {records} lines");
            Error::BadObject { object, format, place, why: error.to_string() }
        }
    }
}
