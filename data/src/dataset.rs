//! The names of datasets, as TorchTitan has them.

use crate::error::{Error, Result};

/// What a dataset is divided into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What a validation loss is of.
    Validation,
    /// What is looked at last.
    Test,
}

impl Split {
    /// Words in a name of a file or folder that say which split it is of. The first is the split's name.
    fn words(self) -> &'static [&'static str] {
        match self {
            Split::Train => &["train", "training"],
            Split::Validation => &["validation", "valid", "dev", "val"],
            Split::Test => &["test", "testing", "eval", "evaluation"],
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.words()[0]
    }

    /// The split that an object's name says: the first such word of the file's name, else of the nearest folder's. Words
    /// are divided by digits, spaces and any of `-._`, as the `datasets` library does.
    pub(crate) fn said_by(name: &str) -> Option<Split> {
        let of_word = |word: &str| {
            let word = word.to_ascii_lowercase();
            [Split::Train, Split::Validation, Split::Test]
                .into_iter()
                .find(|split| split.words().contains(&word.as_str()))
        };
        let divides = |char: char| matches!(char, '-' | '.' | '_' | ' ') || char.is_ascii_digit();
        name.rsplit('/').find_map(|component| component.split(divides).find_map(of_word))
    }
}

/// A dataset that `training.dataset` can name.
#[derive(PartialEq, Eq, Debug)]
pub struct Dataset {
    /// Its name.
    pub name: &'static str,
    /// Where it comes from, in words.
    pub(crate) origin: &'static str,
    /// The folder of a whole copy that is meant, where there is such a folder.
    pub(crate) folder: Option<&'static str>,
    /// What of it is read.
    pub split: Split,
    /// Whether TorchTitan loads it in map style: all of it at once, with documents by number.
    pub(crate) is_map_style: bool,
}

/// Every dataset. To add one: a line here.
pub static DATASETS: &[Dataset] = &[
    Dataset {
        name: "c4",
        origin: "allenai/c4 on a hub",
        folder: Some("en"),
        split: Split::Train,
        is_map_style: false,
    },
    // TorchTitan asks the library for split `train` of it, which is what files without a split are.
    Dataset {
        name: "c4_test",
        origin: "a folder of TorchTitan's tests",
        folder: None,
        split: Split::Train,
        is_map_style: true,
    },
    Dataset {
        name: "c4_validation",
        origin: "allenai/c4 on a hub",
        folder: Some("en"),
        split: Split::Validation,
        is_map_style: false,
    },
];

impl Dataset {
    /// The dataset of a name, in capitals or not.
    ///
    /// Errors: [`Error::NoSuchDataset`], which lists them.
    pub fn find(name: &str) -> Result<&'static Dataset> {
        let lower = name.to_lowercase();
        DATASETS.iter().find(|dataset| dataset.name == lower).ok_or_else(|| {
            let known: Vec<_> = DATASETS.iter().map(|dataset| dataset.name).collect();
            Error::NoSuchDataset { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The path or URL to read it from: `training.dataset_path`.
    ///
    /// Errors: [`Error::NoPath`] without one, since nothing is downloaded.
    pub fn path<'a>(&self, dataset_path: Option<&'a str>) -> Result<&'a str> {
        match dataset_path {
            Some(path) if !path.is_empty() => Ok(path),
            _ => Err(Error::NoPath { name: self.name, origin: self.origin }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_case_and_no_others() {
        for name in ["c4", "C4", "c4_Test", "C4_VALIDATION"] {
            assert_eq!(Dataset::find(name).unwrap().name, name.to_lowercase());
        }
        for name in ["", "c5", "c4 ", "c4-test"] {
            let error = Dataset::find(name).unwrap_err().to_string();
            assert_eq!(error, format!("no dataset is named `{name}`; known: c4, c4_test, c4_validation"));
        }
    }

    #[test]
    fn without_a_path_the_remedy_is_named() {
        for dataset in DATASETS {
            assert_eq!(dataset.path(Some("s3://b/c")).unwrap(), "s3://b/c");
            for none in [None, Some("")] {
                let error = dataset.path(none).unwrap_err().to_string();
                assert!(
                    error.contains("--training.dataset_path") && error.contains(dataset.origin),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn splits_by_words() {
        for (name, split) in [
            ("c4-train.00000-of-01024.json.gz", Some(Split::Train)),
            ("en/c4-validation.00000.json.gz", Some(Split::Validation)),
            ("validation/part.parquet", Some(Split::Validation)),
            ("train/x_test.json", Some(Split::Test)),
            ("test/deep/a.json", Some(Split::Test)),
            ("Dev1.jsonl", Some(Split::Validation)),
            ("data.json", None),
            ("latest.json", None),
            ("trains.json", None),
        ] {
            assert_eq!(Split::said_by(name), split, "{name}");
        }
    }
}
