//! A tokenizer as TorchTitan takes it from a folder: the files of Hugging Face, with BOS and EOS around every document.

mod config;
mod files;

use crate::error::{Error, Result};
use config::Config;
use dcp::storage::Place;
use tokenizers::AddedToken;

/// Text to tokens. The ids of special tokens are those the tokenizer really has, whatever the configuration declares.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos_itself: bool,
    adds_eos_itself: bool,
    crc64: u64,
}

impl Tokenizer {
    /// Opens the tokenizer of a folder: `tokenizer.json`; else `vocab.json` or `vocab.txt`, with `merges.txt` (byte-level
    /// BPE) or without (whole words). `tokenizer_config.json`, where it is, names the special tokens.
    ///
    /// Errors: [`Error::NoTokenizer`], [`Error::BadTokenizer`].
    pub fn open(folder: &Place) -> Result<Tokenizer> {
        let mut files = files::Files::of(folder);
        let mut inner = files.tokenizer()?;
        let config = files.read("tokenizer_config.json")?;
        let config = config.map(|(object, bytes)| Config::parse(&object, &bytes)).transpose()?;
        let bad = |why: tokenizers::Error| Error::BadTokenizer {
            object: folder.display(),
            found: why.to_string(),
            remedy: "its special tokens and its model must fit together",
        };
        let (mut bos, mut eos) = (None, None);
        if let Some(config) = &config {
            inner.add_special_tokens(config.tokens.iter().map(config::Token::added)).map_err(bad)?;
            bos = config.bos.as_deref().and_then(|token| inner.token_to_id(token));
            eos = config.eos.as_deref().and_then(|token| inner.token_to_id(token));
        }
        // Only a trial tells what the post-processor adds.
        let of_nothing = inner.encode_fast("", true).map_err(bad)?;
        let adds = |id: Option<u32>| id.is_some_and(|id| of_nothing.get_ids().contains(&id));
        let (adds_bos_itself, adds_eos_itself) = (adds(bos), adds(eos));
        Ok(Tokenizer { inner, bos, eos, adds_bos_itself, adds_eos_itself, crc64: files.crc64() })
    }

    /// Tokens of a document: BOS, text, EOS. BOS and EOS are added where they exist and the tokenizer itself does not add
    /// them.
    ///
    /// Errors: why the tokenizer's model has no tokens for it.
    pub fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let encoded = self.inner.encode_fast(text, true).map_err(|error| error.to_string())?;
        let bos = self.bos.filter(|_| !self.adds_bos_itself);
        let eos = self.eos.filter(|_| !self.adds_eos_itself);
        Ok(bos.into_iter().chain(encoded.get_ids().iter().copied()).chain(eos).collect())
    }

    /// The id of the token that begins a document.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id of the token that ends a document.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// How many tokens it knows, added ones too.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Text of tokens, special ones left out.
    ///
    /// Errors: [`Error::BadOption`] for ids that are no tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| Error::BadOption {
            name: "ids",
            found: error.to_string(),
            expected: format!("ids below {}", self.vocab_size()),
        })
    }

    /// Checksum of the files it was made of.
    pub(crate) fn crc64(&self) -> u64 {
        self.crc64
    }
}

impl config::Token {
    fn added(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), true)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

#[cfg(test)]
mod tests;
