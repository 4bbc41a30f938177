use super::*;
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Storage, open_url};
use serde_json::Value;
use std::sync::Arc;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words");

/// TorchTitan's own tokenizer class said what is expected.
#[test]
fn every_kind_gives_the_ids_that_torchtitan_gives() {
    let expected = std::fs::read_to_string(format!("{FIXTURE}/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let texts: Vec<_> =
        expected["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let kinds = expected["tokenizers"].as_object().unwrap();
    assert_eq!(kinds.len(), 13);
    for (name, expected) in kinds {
        let tokenizer = Tokenizer::open(&open_url(&format!("{FIXTURE}/tokenizers/{name}")).unwrap()).unwrap();
        let id = |key: &str| expected[key].as_u64().map(|id| id as u32);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (id("bos"), id("eos")), "{name}");
        assert_eq!(tokenizer.vocab_size() as u64, expected["size"].as_u64().unwrap(), "{name}");
        for (text, ids) in texts.iter().zip(expected["ids"].as_array().unwrap()) {
            let ids: Vec<_> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn text_comes_back() {
    let tokenizer = Tokenizer::open(&open_url(&format!("{FIXTURE}/tokenizer")).unwrap()).unwrap();
    let ids = tokenizer.encode("the weight of a model").unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (tokenizer.bos().unwrap(), tokenizer.eos().unwrap()));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the weight of a model");
}

fn open(files: &[(&str, &str)]) -> Result<Tokenizer> {
    let store = MemoryStore::new();
    for (name, text) in files {
        store.put(&Key::new(format!("t/{name}")).unwrap(), text.as_bytes()).unwrap();
    }
    Tokenizer::open(&Place { store: Arc::new(store), key: Key::new("t").unwrap() })
}

const VOCAB: (&str, &str) = ("vocab.json", r#"{"[UNK]": 0, "a": 1}"#);

#[test]
fn what_is_no_tokenizer_is_named() {
    let config = |text| open(&[VOCAB, ("tokenizer_config.json", text)]);
    for (result, says) in [
        (open(&[]), "memory://t: no tokenizer: nothing is there; expected tokenizer.json"),
        (open(&[("README.md", ""), ("merges.txt", "")]), "there are README.md, merges.txt"),
        (open(&[("tokenizer.json", "{")]), "memory://t/tokenizer.json: not a tokenizer: EOF"),
        (open(&[("tokenizer.json", "[1]")]), "tokenizer.json: not a tokenizer"),
        (open(&[("vocab.json", "[1]")]), "vocab.json: not an object of tokens and ids"),
        (open(&[("vocab.json", r#"{"a": -1}"#)]), "vocab.json: not an object of tokens and ids"),
        (open(&[("vocab.json", r#"{"a": 0}"#), ("merges.txt", "a b\n")]), "vocab.json: not a tokenizer"),
        (config("[]"), "tokenizer_config.json: not a JSON object"),
        (config(r#"{"bos_token": 7}"#), "`bos_token` is no token but 7"),
        (config(r#"{"eos_token": {"id": 7}}"#), r#"`eos_token` is no token but {"id":7}"#),
        (config(r#"{"eos_token": {"content": "e", "lstrip": 1}}"#), "`eos_token` is no token"),
        (config(r#"{"add_bos_token": "yes"}"#), "`add_bos_token` is neither true nor false"),
        (config(r#"{"added_tokens_decoder": [1]}"#), "`added_tokens_decoder` is no object"),
        (
            config(r#"{"added_tokens_decoder": {"x": {"content": "e"}}}"#),
            r#""x": {"content":"e"}, which is no id"#,
        ),
        (config(r#"{"added_tokens_decoder": {"5": {}}}"#), r#""5": {}, which is no id"#),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says), "{error}\n  lacks {says}");
    }
}

#[test]
fn the_checksum_covers_every_file_that_counts() {
    let plain = open(&[VOCAB]).unwrap().crc64();
    assert_eq!(plain, open(&[VOCAB, ("README.md", "x")]).unwrap().crc64());
    assert_ne!(plain, open(&[VOCAB, ("tokenizer_config.json", "{}")]).unwrap().crc64());
    assert_ne!(plain, open(&[("vocab.json", r#"{"[UNK]": 0, "b": 1}"#)]).unwrap().crc64());
}
