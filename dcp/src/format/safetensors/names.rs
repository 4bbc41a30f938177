//! The file names of safetensors checkpoints, and what they tell.

use std::collections::{BTreeMap, BTreeSet};

/// How the name of a data file ends.
pub(super) const SUFFIX: &str = ".safetensors";

/// How the name of an index ends.
pub(super) const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// What the names of a checkpoint's files begin with.
pub(super) const STEM: &str = "model";

/// The usual name of the index.
pub(super) const INDEX_NAME: &str = "model.safetensors.index.json";

/// The sub-folder in which PyTorch's HuggingFaceStorageWriter leaves the shards that it consolidates.
pub(super) const SHARDED_FOLDER: &str = "sharded";

/// Name of file `number` (from 1 on) of `count` files of whole tensors.
pub(super) fn numbered(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{number:05}-of-{count:05}{SUFFIX}")
}

/// Name of file `number` (from 1 on) of `count` that `writer` (from 0 on) may write, as PyTorch's
/// HuggingFaceStorageWriter names the files of distributed saves.
pub(super) fn shard(writer: u32, number: usize, count: usize) -> String {
    format!("shard-{:05}-{}", u64::from(writer) + 1, numbered(STEM, number, count))
}

/// The writer (from 0 on) in a name that [`shard`] makes.
pub(super) fn writer(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("shard-")?.split_once('-')?;
    number.parse::<u32>().ok()?.checked_sub(1)
}

/// Splits `PREFIX-00001-of-00003.safetensors` into prefix, number and count.
fn parts(name: &str) -> Option<(&str, u64, u64)> {
    let (rest, count) = name.strip_suffix(SUFFIX)?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    Some((prefix, number.parse().ok()?, count.parse().ok()?))
}

/// Series of numbered files of whole tensors of which some are not among `names`: one sentence each.
pub(super) fn missing_files<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut series: BTreeMap<(&str, u64), BTreeSet<u64>> = BTreeMap::new();
    for name in names.filter(|name| writer(name).is_none()) {
        if let Some((prefix, number, count)) = parts(name) {
            series.entry((prefix, count)).or_default().insert(number);
        }
    }
    let mut missing = Vec::new();
    for ((prefix, count), numbers) in series {
        let found = numbers.range(1..=count).count() as u64;
        if found < count {
            let first = first_absent(&numbers);
            missing.push(format!(
                "the names say that there are {count} files `{prefix}-...`, but only {found} of them are there; \
                 number {first} is the first that is missing"
            ));
        }
    }
    missing
}

/// The first writer (from 0 on) of which no file is among `names`, though a later one's is.
pub(super) fn absent_writer<'a>(names: impl Iterator<Item = &'a str>) -> Option<u64> {
    let writers: BTreeSet<u64> = names.filter_map(writer).map(|writer| u64::from(writer) + 1).collect();
    let first = first_absent(&writers);
    (first < *writers.last()?).then_some(first - 1)
}

/// The least number from 1 on that is not in the set.
fn first_absent(numbers: &BTreeSet<u64>) -> u64 {
    let mut expected = 1u64;
    for &number in numbers.range(1..) {
        if number != expected {
            break;
        }
        expected = expected.saturating_add(1);
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_fixtures() {
        assert_eq!(numbered(STEM, 2, 3), "model-00002-of-00003.safetensors");
        assert_eq!(shard(1, 1, 2), "shard-00002-model-00001-of-00002.safetensors");
        assert_eq!(writer(&shard(u32::MAX - 1, 1, 1)), Some(u32::MAX - 1));
        assert_eq!(writer("shard-00000-model-00001-of-00001.safetensors"), None);
        assert_eq!(writer("model-00001-of-00002.safetensors"), None);
    }

    #[test]
    fn tells_which_numbered_files_are_missing() {
        let missing = |names: &[&str]| missing_files(names.iter().copied());
        assert!(missing(&["model.safetensors", &numbered(STEM, 1, 2), &numbered(STEM, 2, 2)]).is_empty());
        let found = missing(&[&numbered(STEM, 1, 4), &numbered(STEM, 3, 4), "a-00001-of-00001.safetensors"]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("4 files") && found[0].contains("only 2"), "{found:?}");
        assert!(found[0].contains("number 2 is the first"), "{found:?}");
        let found = missing(&["x-00001-of-18446744073709551615.safetensors"]);
        assert!(found[0].contains("number 2 is the first"), "{found:?}");
        // A number past the count does not stand in for one that is missing.
        assert_eq!(missing(&[&numbered(STEM, 1, 2), &numbered(STEM, 9, 2)]).len(), 1);
    }

    #[test]
    fn tells_which_writer_is_absent() {
        let absent = |names: &[String]| absent_writer(names.iter().map(String::as_str));
        assert_eq!(absent(&[shard(0, 1, 1), shard(1, 1, 1)]), None);
        assert_eq!(absent(&[shard(0, 1, 1), shard(2, 1, 1)]), Some(1));
        assert_eq!(absent(&[shard(2, 1, 1)]), Some(0));
        assert_eq!(absent(&[numbered(STEM, 1, 1)]), None);
    }
}
