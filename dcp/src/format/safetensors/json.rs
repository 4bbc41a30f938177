//! JSON objects whose keys must be unique.

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A JSON object in stored order. A key that occurs twice is an error: the usual map types keep the last one, so that
/// two readers of one file might see different tensors.
#[derive(Debug)]
pub(super) struct UniqueMap<V>(pub(super) IndexMap<String, V>);

impl<V> Default for UniqueMap<V> {
    fn default() -> Self {
        UniqueMap(IndexMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut map = IndexMap::new();
                while let Some(key) = access.next_key::<String>()? {
                    let value = next_value(&mut access, &key)?;
                    insert_unique(&mut map, key, value)?;
                }
                Ok(UniqueMap(map))
            }
        }

        deserializer.deserialize_map(Keys(PhantomData))
    }
}

/// The value of `key`, whose name is put in front of what goes wrong with it.
pub(super) fn next_value<'de, V: Deserialize<'de>, A: MapAccess<'de>>(
    access: &mut A,
    key: &str,
) -> Result<V, A::Error> {
    access.next_value().map_err(|error| A::Error::custom(format!("`{key}`: {error}")))
}

/// Inserts a key that must be new.
pub(super) fn insert_unique<V, E: Error>(
    map: &mut IndexMap<String, V>,
    key: String,
    value: V,
) -> Result<(), E> {
    match map.entry(key) {
        Entry::Occupied(entry) => Err(E::custom(format!("the name `{}` occurs twice", entry.key()))),
        Entry::Vacant(entry) => {
            entry.insert(value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UniqueMap<u8>, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn keeps_order_and_refuses_repeated_keys() {
        let keys: Vec<_> = parse(r#"{"b": 1, "a": 2}"#).unwrap().0.into_keys().collect();
        assert_eq!(keys, ["b", "a"]);
        // An escape does not hide the repetition.
        let error = parse(r#"{"a": 1, "\u0061": 2}"#).unwrap_err();
        assert!(error.contains("`a` occurs twice"), "{error}");
    }

    #[test]
    fn an_error_names_the_key_and_the_place_once() {
        let error = parse(r#"{"a": 300}"#).unwrap_err();
        assert!(error.starts_with("`a`: invalid value"), "{error}");
        assert_eq!(error.matches("at line").count(), 1, "{error}");
    }
}
