//! The objects that a dataset and a place mean, in order.

use crate::dataset::{Dataset, Split};
use crate::documents::{Encoding, endings};
use crate::error::{Error, Result};
use dcp::storage::{Key, Place, Storage};
use std::sync::Arc;

/// Objects with documents: of one file, or of a folder at any depth, sorted by name.
#[derive(Debug)]
pub struct Corpus {
    pub(crate) store: Arc<dyn Storage>,
    objects: Vec<Object>,
    ignored: Vec<String>,
    /// Whether it is of a dataset that TorchTitan loads in map style.
    pub(crate) is_map_style: bool,
}

/// One object with documents.
#[derive(Debug)]
pub struct Object {
    pub(crate) key: Key,
    /// Its name below the corpus's place.
    pub name: String,
    /// How a person names it: a full path or URL.
    pub shown: String,
    /// Length in bytes, as stored.
    pub byte_len: u64,
    pub(crate) encoding: Encoding,
}

impl Corpus {
    /// Lists what of `dataset` is at `place`: an object, or all below a folder. Of a copy that has the folder of the
    /// dataset's language, only what is in there. Where names say splits, only those of the dataset's split.
    ///
    /// Errors: [`Error::NoDocuments`] where nothing is left.
    pub fn open(dataset: &Dataset, place: &Place) -> Result<Corpus> {
        if !place.key.is_root()
            && let Some(byte_len) = place.store.head(&place.key)?
        {
            return Self::of_one(dataset, place, byte_len);
        }
        let listed = place.store.list(&place.key)?;
        let mut objects = Vec::new();
        let mut ignored = Vec::new();
        for meta in listed {
            let name = meta.key.below(&place.key).unwrap_or(meta.key.as_str()).to_owned();
            match Encoding::of_name(&name).filter(|_| !is_description(&name)) {
                Some(encoding) => {
                    let shown = place.store.display(&meta.key);
                    objects.push(Object { key: meta.key, name, shown, byte_len: meta.byte_len, encoding });
                }
                None => ignored.push(name),
            }
        }
        let found = match ignored.len() {
            0 => "nothing is there".to_owned(),
            others => format!("{others} other objects"),
        };
        let mut keep = |objects: &mut Vec<Object>, is_meant: &dyn Fn(&Object) -> bool| {
            let others = objects.extract_if(.., |object| !is_meant(object));
            ignored.extend(others.map(|object| object.name));
        };
        if let Some(folder) = dataset.folder.map(|folder| format!("{folder}/"))
            && objects.iter().any(|object| object.name.starts_with(&folder))
        {
            keep(&mut objects, &|object| object.name.starts_with(&folder));
        }
        let mut found = if objects.is_empty() { found } else { String::new() };
        if objects.iter().any(|object| Split::said_by(&object.name).is_some()) {
            found = format!("names say splits, such as {}, and none says this one", objects[0].name);
            keep(&mut objects, &|object| Split::said_by(&object.name) == Some(dataset.split));
        }
        if objects.is_empty() {
            let expected =
                format!("objects of split {} whose names end in {}", dataset.split.name(), endings());
            return Err(Error::NoDocuments { place: place.display(), found, expected });
        }
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        ignored.sort();
        Ok(Corpus::of(dataset, place, objects, ignored))
    }

    fn of_one(dataset: &Dataset, place: &Place, byte_len: u64) -> Result<Corpus> {
        let (key, name, shown) = (place.key.clone(), place.key.name().to_owned(), place.display());
        let Some(encoding) = Encoding::of_name(&name) else {
            let found = "the name has another ending".to_owned();
            let expected = format!("a name that ends in {}", endings());
            return Err(Error::NoDocuments { place: shown, found, expected });
        };
        let objects = vec![Object { key, name, shown, byte_len, encoding }];
        Ok(Corpus::of(dataset, place, objects, Vec::new()))
    }

    fn of(dataset: &Dataset, place: &Place, objects: Vec<Object>, ignored: Vec<String>) -> Corpus {
        Corpus { store: place.store.clone(), objects, ignored, is_map_style: dataset.is_map_style }
    }

    /// The objects that are read, sorted by name.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Names of objects that are there and are not read: of other endings, splits or languages.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Sum of the objects' lengths in bytes, as stored.
    pub fn byte_len(&self) -> u64 {
        self.objects.iter().map(|object| object.byte_len).fold(0, u64::saturating_add)
    }

    /// Checksum of names and lengths. Contents are not read.
    pub(crate) fn crc64(&self) -> u64 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        for object in &self.objects {
            digest.update(&(object.name.len() as u64).to_le_bytes());
            digest.update(object.name.as_bytes());
            digest.update(&object.byte_len.to_le_bytes());
        }
        digest.finalize()
    }
}

/// Whether a JSON file describes a dataset and holds none of it, or is hidden.
fn is_description(name: &str) -> bool {
    const DESCRIPTIONS: &[&str] =
        &["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
    name.split('/').any(|component| component.starts_with(['.', '_']))
        || DESCRIPTIONS.contains(&name.rsplit('/').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcp::storage::memory::MemoryStore;

    fn open(dataset: &str, names: &[&str], key: &str) -> Result<Corpus> {
        let store = MemoryStore::new();
        names.iter().for_each(|name| store.put(&Key::new(*name).unwrap(), b"{}").unwrap());
        let place = Place { store: Arc::new(store), key: Key::new(key).unwrap() };
        Corpus::open(Dataset::find(dataset).unwrap(), &place)
    }

    fn names(corpus: &Corpus) -> Vec<&str> {
        corpus.objects().iter().map(|object| object.name.as_str()).collect()
    }

    #[test]
    fn what_a_name_and_a_folder_mean() {
        let copy = [
            "d/README.md",
            "d/en/c4-train.00001-of-2.json.gz",
            "d/en/c4-train.00000-of-2.json.gz",
            "d/en/c4-validation.00000-of-1.json.gz",
            "d/nl/c4-train.00000-of-2.json.gz",
        ];
        let train = ["en/c4-train.00000-of-2.json.gz", "en/c4-train.00001-of-2.json.gz"];
        assert_eq!(names(&open("c4", &copy, "d").unwrap()), train);
        assert_eq!(names(&open("c4_validation", &copy, "d").unwrap()), [copy[3].strip_prefix("d/").unwrap()]);
        let corpus = open("c4", &copy, "d").unwrap();
        assert_eq!(
            corpus.ignored(),
            ["README.md", "en/c4-validation.00000-of-1.json.gz", "nl/c4-train.00000-of-2.json.gz"]
        );
        assert_eq!(corpus.byte_len(), 4);

        let plain = ["b.jsonl.zst", "a/x.parquet", "dataset_info.json", ".cache/x.json", "c.txt"];
        assert_eq!(names(&open("c4_test", &plain, "").unwrap()), ["a/x.parquet", "b.jsonl.zst"]);
        assert_eq!(names(&open("c4_validation", &["d/x.json"], "d/x.json").unwrap()), ["x.json"]);
    }

    #[test]
    fn nothing_to_read_is_an_error_that_says_what_is_there() {
        for (dataset, found, key, says) in [
            ("c4", &["d/x.txt", "d/y.bin"][..], "d", "2 other objects"),
            ("c4", &[], "d", "nothing is there"),
            ("c4_validation", &["d/train.json"], "d", "such as train.json"),
            ("c4", &["d/x.txt"], "d/x.txt", "the name has another ending"),
        ] {
            let error = open(dataset, found, key).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(".parquet"), "{error}");
        }
    }

    #[test]
    fn the_checksum_is_of_names_and_lengths() {
        let of = |names: &[&str]| open("c4", names, "").unwrap().crc64();
        assert_eq!(of(&["a.json", "b.json"]), of(&["b.json", "a.json"]));
        assert_ne!(of(&["a.json", "b.json"]), of(&["a.json", "c.json"]));
        assert_ne!(of(&["a.json"]), of(&["a.json", "b.json"]));
    }
}
