//! Column `text` of a parquet file. A page of it is in memory at a time, whole, as the format demands.

use super::blocks::{Blocks, Fetcher, OpenObject, carried};
use super::{Document, Position};
use crate::error::{Error, Result};
use bytes::Bytes;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

const COLUMN: &str = "text";
/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 64;

/// Reads rows.
pub(crate) struct RowReader {
    file: SerializedFileReader<Chunks>,
    shown: String,
    column: usize,
    nullable: bool,
    /// Next row group to open.
    group: usize,
    rows: Option<ColumnReaderImpl<ByteArrayType>>,
    batch: VecDeque<Option<ByteArray>>,
    record: u64,
}

impl RowReader {
    pub(super) fn open(object: Arc<OpenObject>, fetcher: &Arc<Fetcher>, at: Position) -> Result<RowReader> {
        let shown = object.shown.clone();
        let byte_len = object.byte_len();
        let blocks = Arc::new(Mutex::new(Blocks::new(object, fetcher)));
        let chunks = Chunks { blocks, byte_len };
        let file = guarded(|| SerializedFileReader::new(chunks)).map_err(|error| broken(&shown, 0, error))?;
        let (column, nullable) = find_column(&shown, file.metadata())?;
        check_chunks(&shown, file.metadata(), column, byte_len)?;
        let batch = VecDeque::new();
        let mut reader = RowReader { file, shown, column, nullable, group: 0, rows: None, batch, record: 0 };
        let skipped = reader.skip(at.record)?;
        if skipped < at.record {
            let why = format!("it stands after row {} of {}, which has {skipped}", at.record, reader.shown);
            return Err(Error::BadState { why });
        }
        Ok(reader)
    }

    pub(super) fn position(&self) -> Position {
        Position { record: self.record, byte_offset: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<Document>> {
        while self.batch.is_empty() {
            if !self.read_batch()? && !self.open_group()? {
                return Ok(None);
            }
        }
        let at = self.position();
        let bad = |found: String| Error::BadDocument {
            object: self.shown.clone(),
            record: format!("row {}", at.record + 1),
            found,
            remedy: "every row needs a string in column `text`",
        };
        let text = match self.batch.pop_front().flatten() {
            None => return Err(bad("`text` is null".to_owned())),
            Some(bytes) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => text.to_owned(),
                Err(error) => return Err(bad(format!("`text` is not UTF-8: {error}"))),
            },
        };
        self.record += 1;
        Ok(Some(Document { text, at }))
    }

    pub(super) fn skip(&mut self, count: u64) -> Result<u64> {
        let mut left = count;
        while left > 0 {
            let decoded = left.min(self.batch.len() as u64);
            self.batch.drain(..decoded as usize);
            self.pass(decoded, &mut left);
            if left == 0 {
                break;
            }
            if let Some(rows) = &mut self.rows {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX);
                let skipped = guarded(|| rows.skip_records(wanted));
                let skipped = skipped.map_err(|error| broken(&self.shown, self.record, error))?;
                self.pass(skipped as u64, &mut left);
                if skipped > 0 {
                    continue;
                }
                self.rows = None;
            }
            // Whole groups are passed over unread.
            match self.group_rows(self.group) {
                None => break,
                Some(rows) if rows <= left => {
                    self.group += 1;
                    self.pass(rows, &mut left);
                }
                Some(_) => {
                    self.open_group()?;
                }
            }
        }
        Ok(count - left)
    }

    fn pass(&mut self, rows: u64, left: &mut u64) {
        *left -= rows;
        self.record += rows;
    }

    fn group_rows(&self, group: usize) -> Option<u64> {
        self.file.metadata().row_groups().get(group).map(|group| group.num_rows().max(0) as u64)
    }

    /// Opens the next row group; `false` after the last.
    fn open_group(&mut self) -> Result<bool> {
        if self.group >= self.file.metadata().num_row_groups() {
            self.rows = None;
            return Ok(false);
        }
        let column = guarded(|| self.file.get_row_group(self.group)?.get_column_reader(self.column));
        match column.map_err(|error| broken(&self.shown, self.record, error))? {
            ColumnReader::ByteArrayColumnReader(rows) => self.rows = Some(rows),
            _ => return Err(other_type(&self.shown)),
        }
        self.group += 1;
        Ok(true)
    }

    /// Decodes some rows of the open group; `false` where none are left.
    fn read_batch(&mut self) -> Result<bool> {
        let Some(rows) = &mut self.rows else { return Ok(false) };
        let mut levels = Vec::new();
        let mut values = Vec::new();
        let read = guarded(|| rows.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values));
        let (records, _, _) = read.map_err(|error| broken(&self.shown, self.record, error))?;
        let mut values = values.into_iter();
        if self.nullable {
            self.batch.extend(levels.iter().map(|level| if *level > 0 { values.next() } else { None }));
        } else {
            self.batch.extend(values.map(Some));
        }
        Ok(records > 0)
    }
}

/// Position of column `text` among the leaves, and whether a row may lack it.
fn find_column(shown: &str, metadata: &ParquetMetaData) -> Result<(usize, bool)> {
    let schema = metadata.file_metadata().schema_descr();
    let Some(column) =
        (0..schema.num_columns()).find(|column| schema.column(*column).path().string() == COLUMN)
    else {
        let names: Vec<_> = schema.columns().iter().map(|column| column.path().string()).take(32).collect();
        return Err(Error::BadDocument {
            object: shown.to_owned(),
            record: "schema".to_owned(),
            found: format!("no column `text`, only {}", names.join(", ")),
            remedy: "rename the column that holds the text",
        });
    };
    let description = schema.column(column);
    let is_bytes = description.physical_type() == parquet::basic::Type::BYTE_ARRAY;
    if !is_bytes || description.max_rep_level() > 0 || description.max_def_level() > 1 {
        return Err(other_type(shown));
    }
    Ok((column, description.max_def_level() > 0))
}

/// Checks that the column's chunks lie in the object, which the parquet crate takes for granted.
fn check_chunks(shown: &str, metadata: &ParquetMetaData, column: usize, byte_len: u64) -> Result<()> {
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let is_inside = group.columns().get(column).is_some_and(|chunk| {
            let data = chunk.data_page_offset();
            let start = chunk.dictionary_page_offset().unwrap_or(data);
            let range = u64::try_from(start).ok().zip(u64::try_from(chunk.compressed_size()).ok());
            let end = range.and_then(|(start, byte_count)| start.checked_add(byte_count));
            let rows = group.num_rows();
            end.is_some_and(|end| end <= byte_len) && data >= start && rows >= 0 && rows == chunk.num_values()
        });
        if !is_inside {
            return Err(Error::BadObject {
                object: shown.to_owned(),
                format: "parquet",
                place: format!("row group {}", index + 1),
                why: "its pages lie outside of the object, or are of other rows".to_owned(),
            });
        }
    }
    Ok(())
}

/// Runs a part of the parquet crate. What it panics on is damage that it did not expect, and becomes an error; the
/// reader is not used after one.
fn guarded<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> parquet::errors::Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(ParquetError::General(format!("unexpected bytes: {}", message.unwrap_or_default())))
    })
}

fn other_type(shown: &str) -> Error {
    Error::BadDocument {
        object: shown.to_owned(),
        record: "schema".to_owned(),
        found: "column `text` holds no strings".to_owned(),
        remedy: "every row needs one string in column `text`",
    }
}

fn broken(shown: &str, records: u64, error: ParquetError) -> Error {
    let why = match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => match carried(*error) {
                Ok(own) => return own,
                Err(error) => error.to_string(),
            },
            Err(inner) => match inner.downcast::<Error>() {
                Ok(own) => return *own,
                Err(inner) => inner.to_string(),
            },
        },
        error => error.to_string(),
    };
    let place = format!("after {records} rows");
    Error::BadObject { object: shown.to_owned(), format: "parquet", place, why }
}

/// The object as the parquet crate wants it.
struct Chunks {
    blocks: Arc<Mutex<Blocks>>,
    byte_len: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.byte_len
    }
}

impl ChunkReader for Chunks {
    type T = ChunkStream;

    fn get_read(&self, start: u64) -> parquet::errors::Result<ChunkStream> {
        Ok(ChunkStream { blocks: self.blocks.clone(), byte_offset: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        // A length that the object does not have is not reserved.
        if start.checked_add(length as u64).is_none_or(|end| end > self.byte_len) {
            let found = format!("{length} bytes at {start} of an object of {}", self.byte_len);
            return Err(ParquetError::EOF(found));
        }
        let mut stream = self.get_read(start)?;
        let first = stream.at()?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// The object's bytes from somewhere on.
struct ChunkStream {
    blocks: Arc<Mutex<Blocks>>,
    byte_offset: u64,
}

impl ChunkStream {
    fn at(&self) -> io::Result<Bytes> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.at(self.byte_offset).map_err(io::Error::other)
    }
}

impl Read for ChunkStream {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let bytes = self.at()?;
        let amount = bytes.len().min(target.len());
        target[..amount].copy_from_slice(&bytes[..amount]);
        self.byte_offset += amount as u64;
        Ok(amount)
    }
}
