//! The settings that stores take from the caller's environment.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::str::FromStr;

/// Environment variables by name. The library never asks the process for its own: a program passes
/// `std::env::vars().collect()`, a test what it likes. Settings a store does not know are left alone, except where the
/// name is nearly one that it does.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Environment(variables.into_iter().collect())
    }
}

/// As `std::env::vars_os` gives them. A variable that is not UTF-8 is no setting of any store.
impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let text =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        variables.into_iter().filter_map(text).collect()
    }
}

impl Environment {
    /// The value of a variable that is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Every variable of this prefix that parses as a setting, with its value.
    ///
    /// Errors: [`Error::BadSetting`] for a name that differs from one of `documented` in one or two letters.
    pub(super) fn settings<K: FromStr>(
        &self,
        prefix: &str,
        documented: &[&'static str],
    ) -> Result<Vec<(K, String)>> {
        let mut settings = Vec::new();
        let of_store = self.0.iter().filter(|(name, value)| name.starts_with(prefix) && !value.is_empty());
        for (name, value) in of_store {
            match name.to_ascii_lowercase().parse() {
                Ok(key) => settings.push((key, value.clone())),
                // The caller knows what to do with it.
                Err(_) if documented.contains(&name.as_str()) => {}
                Err(_) => {
                    if let Some(near) = documented.iter().find(|known| strsim::levenshtein(name, known) <= 2)
                    {
                        let why = format!("it is no setting of this store; is {near} meant?");
                        return Err(Error::BadSetting { name: name.clone(), why });
                    }
                }
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that knows one setting.
    #[derive(Debug, PartialEq)]
    struct Endpoint;

    impl FromStr for Endpoint {
        type Err = ();
        fn from_str(name: &str) -> std::result::Result<Self, ()> {
            (name == "aws_endpoint_url").then_some(Endpoint).ok_or(())
        }
    }

    fn settings(variables: &[(&str, &str)]) -> Result<Vec<(Endpoint, String)>> {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        variables.iter().map(own).collect::<Environment>().settings("AWS_", &["AWS_ENDPOINT_URL"])
    }

    #[test]
    fn a_misspelt_setting_is_an_error_and_a_foreign_one_is_not() {
        let found = settings(&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_PAGER", "less"), ("HOME", "/")]);
        assert_eq!(found.unwrap(), [(Endpoint, "http://a".to_owned())]);
        assert_eq!(settings(&[("AWS_ENDPOINT_URL", "")]).unwrap(), []);
        for misspelt in ["AWS_ENDPIONT_URL", "AWS_ENDPOINT_URI", "AWS_ENDPOINTURL"] {
            let error = settings(&[(misspelt, "http://a")]).unwrap_err().to_string();
            assert!(error.contains("is AWS_ENDPOINT_URL meant"), "{error}");
        }
    }
}
