//! What is read of an object that is larger than any memory, and of one that is broken.

use data::{Corpus, DataOptions, Dataset, Loader, State, Tokenizer};
use dcp::storage::{Key, ObjectMeta, ObjectWriter, Place, ReadAt, Storage, Unfinished, open_url};
use dcp::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words/tokenizers/as_dicts");
const LINE: &[u8] = b"{\"text\": \"the state of the world is a large model of many weights and more\"}\n";
const BYTE_LEN: u64 = 1 << 40;

/// A store of objects of one TiB that are made when read: lines, or one line without an end.
#[derive(Debug, Clone, Default)]
struct Huge {
    is_endless_line: bool,
    bytes_read: Arc<AtomicU64>,
    /// No read fails before this byte; none of it, where it is 0.
    broken_from: u64,
}

impl Storage for Huge {
    fn display(&self, key: &Key) -> String {
        format!("huge://{key}")
    }
    fn list(&self, _prefix: &Key) -> Result<Vec<ObjectMeta>> {
        let meta =
            |name: &str| ObjectMeta { key: Key::new(name).unwrap(), byte_len: BYTE_LEN, modified: None };
        Ok(["c/a.json", "c/b.json"].map(meta).to_vec())
    }
    fn list_prefixes(&self, _prefix: &Key) -> Result<Vec<Key>> {
        Ok(Vec::new())
    }
    fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(key.name().ends_with(".json").then_some(BYTE_LEN))
    }
    fn open(&self, _key: &Key) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(self.clone()))
    }
    fn create(&self, key: &Key, _byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        Err(Error::ReadOnly { store: self.display(key) })
    }
    fn unfinished(&self, _prefix: &Key) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }
    fn discard(&self, _unfinished: &Unfinished) -> Result<()> {
        Ok(())
    }
    fn remove(&self, _key: &Key) -> Result<bool> {
        Ok(false)
    }
    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl ReadAt for Huge {
    fn byte_len(&self) -> u64 {
        BYTE_LEN
    }
    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        self.bytes_read.fetch_add(target.len() as u64, Ordering::SeqCst);
        if self.broken_from > 0 && byte_offset >= self.broken_from {
            return Err(Error::Truncated {
                object: "huge://c/a.json".into(),
                found: self.broken_from,
                expected: byte_offset,
            });
        }
        for (byte, offset) in target.iter_mut().zip(byte_offset..) {
            *byte = if self.is_endless_line { b'{' } else { LINE[(offset % LINE.len() as u64) as usize] };
        }
        Ok(())
    }
}

fn options(store: &Huge) -> DataOptions {
    let place = Place { store: Arc::new(store.clone()), key: Key::new("c").unwrap() };
    let corpus = Corpus::open(Dataset::find("c4").unwrap(), &place).unwrap();
    let tokenizer = Tokenizer::open(&open_url(TOKENIZER).unwrap()).unwrap();
    let options = DataOptions::new(Arc::new(corpus), Arc::new(tokenizer), 64, 4);
    DataOptions { read_ahead_bytes: 1 << 20, ..options }
}

/// Blocks of both objects that may be in memory at once, and what a step needs.
const READ_BYTES_MAX: u64 = (1 << 20) + (1 << 18);

#[test]
fn no_more_is_read_than_blocks_ahead() {
    for workers in [0, 2] {
        let store = Huge::default();
        let mut loader = Loader::open(&DataOptions { workers, ..options(&store) }).unwrap();
        assert_eq!(store.bytes_read.load(Ordering::SeqCst), 0);
        loader.next_step().unwrap().unwrap();
        drop(loader);
        let read = store.bytes_read.load(Ordering::SeqCst);
        assert!(read > 0 && read <= READ_BYTES_MAX, "{read}");
    }
}

#[test]
fn a_seek_in_plain_lines_reads_only_what_is_there() {
    let store = Huge::default();
    let options = options(&store);
    let mut loader = Loader::open(&options).unwrap();
    loader.next_step().unwrap().unwrap();
    let json = loader.state().to_json().unwrap();
    drop(loader);
    // The same line, half a TiB further on.
    let lines = (1_u64 << 39) / LINE.len() as u64;
    let mut state: serde_json::Value = serde_json::from_str(&json).unwrap();
    for shard in state["shards"].as_array_mut().unwrap() {
        for (field, more) in [("record", lines), ("byte_offset", lines * LINE.len() as u64)] {
            shard[field] = (shard[field].as_u64().unwrap() + more).into();
        }
    }
    let near = Loader::resume(&options, &State::from_json(&json).unwrap()).unwrap().next_step().unwrap();
    store.bytes_read.store(0, Ordering::SeqCst);
    let mut far = Loader::resume(&options, &State::from_json(&state.to_string()).unwrap()).unwrap();
    assert_eq!(far.next_step().unwrap(), near);
    drop(far);
    assert!(store.bytes_read.load(Ordering::SeqCst) <= READ_BYTES_MAX);
}

#[test]
fn an_endless_line_is_given_up() {
    let store = Huge { is_endless_line: true, ..Huge::default() };
    let error = Loader::open(&options(&store)).unwrap().next_step().unwrap_err().to_string();
    assert!(error.starts_with("huge://c/a.json: line 1: is longer than 67108864 bytes; "), "{error}");
    assert!(store.bytes_read.load(Ordering::SeqCst) <= (64 << 20) + READ_BYTES_MAX);
}

#[test]
fn what_a_store_says_comes_through() {
    for workers in [0, 2] {
        let store = Huge { broken_from: 1, ..Huge::default() };
        let mut loader = Loader::open(&DataOptions { workers, ..options(&store) }).unwrap();
        let error = until_error(&mut loader);
        assert!(error.contains("huge://c/a.json: ends at byte 1, "), "{error}");
    }
}

/// Takes steps until one fails.
fn until_error(loader: &mut Loader) -> String {
    loop {
        if let Err(error) = loader.next_step() {
            return error.to_string();
        }
    }
}
