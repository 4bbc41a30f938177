//! JSON shapes that the manifest and the part records share.

use crate::model::{Path, PathPart};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// A checksum as 16 lower-case hex digits: JSON numbers lose precision over 2^53 in many readers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hex64(pub(crate) u64);

impl Hex64 {
    /// Reads exactly 16 hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Hex64)
    }
}

impl Serialize for Hex64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Hex64::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not 16 hex digits")))
    }
}

/// A list that is refused as soon as it has more than `MAX` items, before they take memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bounded<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T: Serialize, const MAX: usize> Serialize for Bounded<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a list of at most {MAX} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::custom(format!("a list of more than {MAX} items")));
                    }
                    list.push(item);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Items::<T, MAX>(PhantomData)).map(Bounded)
    }
}

/// One step of a path: a string is a key, a number an index.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum Part {
    Index(u64),
    Key(String),
}

/// A path as it is written; `None` for an empty one.
pub(crate) fn path_parts(path: &Path) -> Option<Vec<Part>> {
    let part = |part: &PathPart| match part {
        PathPart::Index(index) => Part::Index(*index),
        PathPart::Key(key) => Part::Key(key.clone()),
    };
    (!path.is_empty()).then(|| path.iter().map(part).collect())
}

/// A path as it was written.
pub(crate) fn path_of(parts: Option<Vec<Part>>) -> Path {
    let part = |part| match part {
        Part::Index(index) => PathPart::Index(index),
        Part::Key(key) => PathPart::Key(key),
    };
    parts.into_iter().flatten().map(part).collect()
}
