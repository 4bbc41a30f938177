//! `tokenizer_config.json`: which special tokens there are.
//!
//! A token is a string, or an object with `content` and how it is matched (`lstrip`, `rstrip`, `single_word`,
//! `normalized`). `added_tokens_decoder` declares ids for tokens: the tokens count, the ids do not. `add_bos_token` and
//! `add_eos_token` decide nothing in training, where both are wanted, as in TorchTitan; they must be booleans or null.

use crate::error::{Error, Result};
use indexmap::IndexMap;
use serde_json::Value;

/// Keys of single tokens, in the order in which they get their ids.
const KEYS: [&str; 7] =
    ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];

/// What is used of the file.
#[derive(Debug, Default)]
pub(super) struct Config {
    pub(super) bos: Option<String>,
    /// None where it is the same as BOS, which then is not added twice.
    pub(super) eos: Option<String>,
    /// In the order in which they get their ids.
    pub(super) tokens: Vec<Token>,
}

/// A special token and how it is matched.
#[derive(Debug, PartialEq)]
pub(super) struct Token {
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
}

impl Config {
    pub(super) fn parse(object: &str, bytes: &[u8]) -> Result<Config> {
        let bad = |found: String| Error::BadTokenizer {
            object: object.to_owned(),
            found,
            remedy: "take the file as the tokenizer's author published it",
        };
        let fields: IndexMap<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| bad(format!("not a JSON object: {error}")))?;
        for key in ["add_bos_token", "add_eos_token"] {
            if !matches!(fields.get(key), None | Some(Value::Null | Value::Bool(_))) {
                return Err(bad(format!("`{key}` is neither true nor false")));
            }
        }
        let mut config = Config::default();
        let of = |key: &str| match fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                Token::parse(value).map(Some).ok_or_else(|| bad(format!("`{key}` is no token but {value}")))
            }
        };
        let (bos, eos) = (of("bos_token")?, of("eos_token")?);
        for key in KEYS {
            config.tokens.extend(of(key)?);
        }
        if let Some(declared) = fields.get("added_tokens_decoder").filter(|value| !value.is_null()) {
            // Parsed again, since `Value` sorts keys, and their order decides about ids.
            let declared: IndexMap<String, Value> = in_order(bytes, declared)
                .map_err(|error| bad(format!("`added_tokens_decoder` is no object: {error}")))?;
            for (id, value) in declared {
                let token = Token::parse(&value).filter(|_| value.is_object() && id.parse::<u32>().is_ok());
                let found =
                    || bad(format!("`added_tokens_decoder` has {id:?}: {value}, which is no id of a token"));
                config.tokens.push(token.ok_or_else(found)?);
            }
        }
        config.bos = bos.map(|token| token.content);
        config.eos = eos.map(|token| token.content).filter(|eos| Some(eos) != config.bos.as_ref());
        Ok(config)
    }
}

/// The object `added_tokens_decoder` with its keys as written.
fn in_order(bytes: &[u8], declared: &Value) -> serde_json::Result<IndexMap<String, Value>> {
    #[derive(serde::Deserialize)]
    struct Declared {
        added_tokens_decoder: IndexMap<String, Value>,
    }
    match declared {
        Value::Object(_) => Ok(serde_json::from_slice::<Declared>(bytes)?.added_tokens_decoder),
        other => serde_json::from_value(other.clone()),
    }
}

impl Token {
    fn parse(value: &Value) -> Option<Token> {
        let flag = |name: &str, default: bool| match value.get(name) {
            None => Some(default),
            Some(flag) => flag.as_bool(),
        };
        match value {
            // As `AddedToken(content, special=True)`: not normalised.
            Value::String(content) => Some(Token {
                content: content.clone(),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
            }),
            Value::Object(_) => Some(Token {
                content: value.get("content")?.as_str()?.to_owned(),
                single_word: flag("single_word", false)?,
                lstrip: flag("lstrip", false)?,
                rstrip: flag("rstrip", false)?,
                normalized: flag("normalized", true)?,
            }),
            _ => None,
        }
    }
}
