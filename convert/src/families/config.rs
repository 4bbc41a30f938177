//! Reading `config.json`, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::spec::Config;
use serde_json::Value;

/// Largest size of a dim: of three of them the product has 60 bits.
const SIZE_MAX: u64 = 1 << 20;
/// Most layers, and most experts of a layer.
const COUNT_MAX: u64 = 1 << 12;
/// Most experts of all layers together, each of which has tensors of its own outside.
const EXPERTS_MAX: u64 = 1 << 17;

/// A `config.json` with the name that errors give it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) object: &'a str,
    pub(super) config: &'a Config,
}

impl Reading<'_> {
    pub(super) fn bad(&self, why: impl Into<String>) -> Error {
        Error::BadConfig { object: self.object.to_owned(), why: why.into() }
    }

    /// Refuses another text of a name that may be absent.
    pub(super) fn must_be_text(&self, name: &str, expected: &str) -> Result<()> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(found)) if found == expected => Ok(()),
            Some(found) => {
                Err(self.bad(format!("`{name}` is {found}, but the native module computes {expected:?}")))
            }
        }
    }

    /// A size above zero under the first of these names that is there.
    pub(super) fn size(&self, names: &[&str]) -> Result<u64> {
        self.number_up_to(names, SIZE_MAX)
    }

    /// A number of layers or experts, likewise.
    pub(super) fn count(&self, names: &[&str]) -> Result<u64> {
        self.number_up_to(names, COUNT_MAX)
    }

    /// The longest sequence, which no tensor's size depends on.
    pub(super) fn positions(&self, otherwise: u64) -> Result<u64> {
        match self.config.get("max_position_embeddings") {
            None | Some(Value::Null) => Ok(otherwise),
            Some(_) => self.number_up_to(&["max_position_embeddings"], u64::MAX),
        }
    }

    /// Refuses more experts in all layers together than any model has.
    pub(super) fn check_experts(&self, layers: u64, experts: u64) -> Result<()> {
        match layers * experts {
            all if all > EXPERTS_MAX => {
                Err(self.bad(format!("{all} experts are over the limit of {EXPERTS_MAX}")))
            }
            _ => Ok(()),
        }
    }

    fn number_up_to(&self, names: &[&str], most: u64) -> Result<u64> {
        let found = names.iter().find_map(|name| self.config.get(*name));
        let size = found.and_then(Value::as_u64).filter(|&size| (1..=most).contains(&size));
        size.ok_or_else(|| match found {
            Some(found) => self.bad(format!("`{}` is {found}, expected a size from 1 to {most}", names[0])),
            None => self.bad(format!("it has no `{}`", names[0])),
        })
    }

    /// A size that may be absent or null.
    pub(super) fn size_or(&self, name: &str, otherwise: u64) -> Result<u64> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(otherwise),
            Some(_) => self.size(&[name]),
        }
    }

    pub(super) fn number_or(&self, name: &str, otherwise: f64) -> Result<f64> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(otherwise),
            Some(found) => {
                found.as_f64().ok_or_else(|| self.bad(format!("`{name}` is {found}, expected a number")))
            }
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(found) => found
                .as_bool()
                .ok_or_else(|| self.bad(format!("`{name}` is {found}, expected true or false"))),
        }
    }

    /// Refuses a setting that the native modules do not have.
    pub(super) fn must_be_off(&self, name: &str) -> Result<()> {
        match self.flag(name)? {
            true => Err(self.bad(format!("`{name}` is true, which the native module does not have"))),
            false => Ok(()),
        }
    }

    /// The base of the rotary embedding, and how it is scaled: `rope_parameters` of transformers 5, or `rope_theta` and
    /// `rope_scaling` of those before.
    pub(super) fn rope(&self, theta: f64) -> Result<(f64, Value)> {
        let Some(Value::Object(parameters)) = self.config.get("rope_parameters") else {
            let scaling = self.config.get("rope_scaling").cloned().unwrap_or(Value::Null);
            return Ok((self.number_or("rope_theta", theta)?, scaling));
        };
        let theta = parameters.get("rope_theta").and_then(Value::as_f64).unwrap_or(theta);
        let mut scaling = parameters.clone();
        scaling.remove("rope_theta");
        let is_plain = scaling.get("rope_type").and_then(Value::as_str).is_none_or(|kind| kind == "default");
        Ok((theta, if is_plain { Value::Null } else { Value::Object(scaling) }))
    }
}

/// Names no token that a small vocabulary does not have: transformers refuses one that does.
pub(super) fn keep_tokens_below(vocabulary: u64, config: &mut Config) {
    let tokens = config.iter_mut().filter(|(name, _)| name.ends_with("_token_id"));
    tokens
        .filter(|(_, token)| token.as_u64() >= Some(vocabulary))
        .for_each(|(_, token)| *token = Value::Null);
}

/// The object that `json!` was given.
pub(super) fn object(value: Value) -> Config {
    match value {
        Value::Object(config) => config,
        _ => Config::new(),
    }
}
