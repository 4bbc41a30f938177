//! The index of a checkpoint of several files: which file holds which tensor.
//!
//! `{"metadata": {"total_size": BYTES}, "weight_map": {NAME: FILE}}`; Source: `save_torch_state_dict` of
//! huggingface_hub 2.4, `HuggingFaceStorageWriter.finish` of PyTorch 2.11.

use super::json::UniqueMap;
use crate::error::{Error, Result};
use crate::storage::{Key, Storage};
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The largest index that is read: over a million tensors.
const INDEX_BYTES_MAX: u64 = 100_000_000;

/// An index, checked: every file is a name below the index's folder.
#[derive(Debug)]
pub(super) struct Index {
    /// Tensor name -> file, relative to the index's folder, in stored order.
    pub(super) weight_map: IndexMap<String, Key>,
    /// What `metadata` holds, as text.
    pub(super) metadata: IndexMap<String, String>,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "an object with `weight_map`")]
struct RawIndex {
    weight_map: UniqueMap<String>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

impl Index {
    /// Reads and checks an index.
    ///
    /// Errors: [`Error::Malformed`] for what is not an index or names a file outside its folder; [`Error::OverLimit`].
    pub(super) fn read(store: &dyn Storage, key: &Key) -> Result<Self> {
        let bytes = store.get(key, INDEX_BYTES_MAX)?;
        Index::parse(&bytes).map_err(|why| Error::malformed(store.display(key), "safetensors index", why))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let raw: RawIndex = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let mut weight_map = IndexMap::with_capacity(raw.weight_map.0.len());
        for (name, file) in raw.weight_map.0 {
            match Key::new(file.as_str()) {
                Ok(file) if !file.is_root() => weight_map.insert(name, file),
                _ => return Err(format!("it puts `{name}` in `{file}`, which is no file below its folder")),
            };
        }
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let metadata = raw.metadata.unwrap_or_default().into_iter();
        Ok(Index { weight_map, metadata: metadata.map(|(key, value)| (key, text(value))).collect() })
    }

    /// The files named, sorted, each with the number of tensors it should hold and the first of them.
    pub(super) fn files(&self) -> BTreeMap<&Key, (usize, &str)> {
        let mut files = BTreeMap::new();
        for (name, file) in &self.weight_map {
            files.entry(file).or_insert((0, name.as_str())).0 += 1;
        }
        files
    }
}

/// Serialises an index, tensors sorted by name, as huggingface_hub writes it.
pub(super) fn encode(total_bytes: u64, weight_map: &BTreeMap<&str, &str>) -> String {
    let index = serde_json::json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
    format!("{index:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let map = BTreeMap::from([("b", "2.safetensors"), ("a", "1.safetensors"), ("c", "2.safetensors")]);
        let text = encode(90, &map);
        assert!(text.starts_with(
            "{\n  \"metadata\": {\n    \"total_size\": 90\n  },\n  \"weight_map\": {\n    \"a\":"
        ));
        let index = Index::parse(text.as_bytes()).unwrap();
        assert_eq!(index.metadata["total_size"], "90");
        let files: Vec<_> = index.files().into_iter().map(|(file, held)| (file.as_str(), held)).collect();
        assert_eq!(files, [("1.safetensors", (1, "a")), ("2.safetensors", (2, "b"))]);
    }

    #[test]
    fn attacks() {
        for (text, why) in [
            ("", "EOF"),
            ("3", "expected an object with `weight_map`"),
            ("[]", "expected an object with `weight_map`"),
            ("{}", "missing field `weight_map`"),
            (r#"{"weight_map": {"a": 1}}"#, "`a`: invalid type"),
            (r#"{"weight_map": {"a": "x", "a": "y"}}"#, "`a` occurs twice"),
            (r#"{"weight_map": {"a": "../x.safetensors"}}"#, "it puts `a` in `../x.safetensors`"),
            (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "no file below its folder"),
            (r#"{"weight_map": {"a": "s\\x.safetensors"}}"#, "no file below its folder"),
            (r#"{"weight_map": {"a": ""}}"#, "no file below its folder"),
            (r#"{"weight_map": {}, "metadata": 3}"#, "invalid type"),
        ] {
            let error = Index::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let deep = "[".repeat(100_000);
        let deep = format!(r#"{{"weight_map": {{}}, "metadata": {{"x": {deep}"#);
        assert!(Index::parse(deep.as_bytes()).unwrap_err().contains("recursion limit"));
    }
}
