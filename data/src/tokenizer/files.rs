//! The files of a tokenizer's folder, and the tokenizer that they describe.

use crate::error::{Error, Result};
use dcp::storage::Place;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// No file of a tokenizer is larger.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Reads files of a folder and sums them up.
pub(super) struct Files<'a> {
    folder: &'a Place,
    digest: crc_fast::Digest,
}

impl Files<'_> {
    pub(super) fn of(folder: &Place) -> Files<'_> {
        Files { folder, digest: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme) }
    }

    /// Checksum of names and bytes of every file that was read.
    pub(super) fn crc64(&self) -> u64 {
        self.digest.clone().finalize()
    }

    /// How a person names a file, and its bytes; `None` where it is not.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<(String, Vec<u8>)>> {
        let key = self.folder.key.join(name)?;
        if self.folder.store.head(&key)?.is_none() {
            return Ok(None);
        }
        let bytes = self.folder.store.get(&key, FILE_BYTES_MAX)?;
        self.digest.update(name.as_bytes());
        self.digest.update(&(bytes.len() as u64).to_le_bytes());
        self.digest.update(&bytes);
        Ok(Some((self.folder.store.display(&key), bytes)))
    }

    /// The tokenizer without what `tokenizer_config.json` adds.
    pub(super) fn tokenizer(&mut self) -> Result<tokenizers::Tokenizer> {
        if let Some((object, bytes)) = self.read("tokenizer.json")? {
            return parsed(&object, &bytes);
        }
        let (object, vocab) = match self.read("vocab.json")? {
            Some((object, bytes)) => (object.clone(), vocab_of_json(&object, &bytes)?),
            None => match self.read("vocab.txt")? {
                Some((object, bytes)) => (object.clone(), vocab_of_lines(as_text(&object, &bytes)?)),
                None => return Err(self.nothing()?),
            },
        };
        let described = match self.read("merges.txt")? {
            Some((object, bytes)) => json!({
                "version": "1.0",
                "added_tokens": [],
                "pre_tokenizer": byte_level(false),
                "post_processor": byte_level(true),
                "decoder": byte_level(true),
                "model": {"type": "BPE", "vocab": vocab, "merges": merges(as_text(&object, &bytes)?)},
            }),
            None => json!({
                "version": "1.0",
                "added_tokens": [],
                "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
            }),
        };
        parsed(&object, described.to_string().as_bytes())
    }

    fn nothing(&self) -> Result<Error> {
        const SHOWN_MAX: usize = 16;
        let listed = self.folder.store.list(&self.folder.key)?;
        let names: Vec<_> = listed.iter().map(|meta| meta.key.name()).take(SHOWN_MAX).collect();
        let found = match names.as_slice() {
            [] => "nothing is there".to_owned(),
            names => format!("there are {}", names.join(", ")),
        };
        Ok(Error::NoTokenizer { folder: self.folder.display(), found })
    }
}

fn byte_level(add_prefix_space: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true})
}

fn parsed(object: &str, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| Error::BadTokenizer {
        object: object.to_owned(),
        found: format!("not a tokenizer: {error}"),
        remedy: "take the file as the tokenizer's author published it",
    })
}

fn as_text<'a>(object: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| Error::BadTokenizer {
        object: object.to_owned(),
        found: format!("not UTF-8: {error}"),
        remedy: "store it as UTF-8",
    })
}

fn vocab_of_json(object: &str, bytes: &[u8]) -> Result<BTreeMap<String, u32>> {
    serde_json::from_slice(bytes).map_err(|error| Error::BadTokenizer {
        object: object.to_owned(),
        found: format!("not an object of tokens and ids: {error}"),
        remedy: "take the file as the tokenizer's author published it",
    })
}

/// A token per line; its id is the number of lines before it. Blank lines keep their number.
fn vocab_of_lines(text: &str) -> BTreeMap<String, u32> {
    let lines = text.lines().zip(0..);
    lines.map(|(line, id)| (line.trim().to_owned(), id)).filter(|(token, _)| !token.is_empty()).collect()
}

/// Pairs of tokens; lines that begin with `#` are none, as TorchTitan has it.
fn merges(text: &str) -> Vec<[&str; 2]> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some([words.next()?, words.next()?])
        })
        .collect()
}
