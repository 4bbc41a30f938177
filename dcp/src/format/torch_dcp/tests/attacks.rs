//! Metadata and items that lie.

use super::super::encode::{Entry, PlacedItem, Stored, encode};
use super::goldens::{fixture, open};
use super::round_trip::convert;
use crate::error::{Error, Result};
use crate::format::{self, Reader};
use crate::layout::Region;
use crate::model::{DType, Severity};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place, Storage};
use crate::verify::{VerifyOptions, verify};
use std::sync::Arc;

const NAME: &str = "torch-2.11/ws2_fsdp_uneven";

/// The files of a small checkpoint of two ranks.
fn files() -> Vec<(String, Vec<u8>)> {
    let place = convert(&*open(NAME));
    let all = place.store.list(&place.key).unwrap();
    let named = all
        .iter()
        .map(|object| (object.key.name().to_owned(), place.store.get(&object.key, 1 << 24).unwrap()));
    named.collect()
}

fn folder(files: &[(String, Vec<u8>)]) -> Place {
    let (store, key) = (MemoryStore::new(), Key::new("step-3").unwrap());
    for (name, bytes) in files {
        store.put(&key.join(name).unwrap(), bytes).unwrap();
    }
    Place { store: Arc::new(store), key }
}

/// Replaces every occurrence in one file; there must be one.
fn replaced(files: &[(String, Vec<u8>)], name: &str, from: &[u8], to: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files = files.to_vec();
    let (_, bytes) = files.iter_mut().find(|(known, _)| known == name).unwrap();
    let (mut changed, mut at, mut count) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(from) {
            changed.extend_from_slice(to);
            (at, count) = (at + from.len(), count + 1);
        } else {
            changed.push(bytes[at]);
            at += 1;
        }
    }
    assert!(count > 0, "{} is not in {name}", from.escape_ascii());
    *bytes = changed;
    files
}

fn deep(reader: &dyn Reader) -> Vec<String> {
    let options = VerifyOptions { deep: true, threads: 1, filter: Default::default() };
    let report = verify(reader, &options, &()).unwrap();
    let damage = report.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    damage.map(|finding| finding.message.clone()).collect()
}

#[test]
fn metadata_that_lies_is_refused() {
    let files = files();
    let cases: &[(&[u8], &[u8], &str)] = &[
        (b"__0_0.distcp", b"../../etc/pw", "`..` component"),
        (b"__0_0.distcp", b"/etc/passwd1", "it is absolute"),
        (b"relative_path", b"relative_hath", "there is no `relative_path`"),
        (b"state_dict_metadata", b"state_dict_metadatb", "there is no `state_dict_metadata`"),
        (b"storage_data", b"storage_datb", "there is no `storage_data`"),
        (b"\nTensorStorageMetadata", b"\nTensorStorageMetadatb", "where a TensorStorageMetadata is expected"),
        (b"ctorch\nfloat32", b"ctorch\nfloat31", "element type torch.float31 is not known"),
        (b"ctorch\nSize", b"ctorch\nSizf", "is no torch.Size"),
        (b"torch.distributed.checkpoint.metadata\nMetadata", b"os\nsystem", "os.system"),
    ];
    for (from, to, expected) in cases {
        let place = folder(&replaced(&files, ".metadata", from, to));
        let error = format::open(&place).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn truncated_or_changed_metadata_never_panics() {
    let files = files();
    let at = files.iter().position(|(name, _)| name == ".metadata").unwrap();
    for byte_len in 0..files[at].1.len() {
        let mut cut = files.clone();
        cut[at].1.truncate(byte_len);
        let opened = format::open(&folder(&cut));
        assert!(matches!(opened, Err(Error::Malformed { .. })), "{byte_len}: {opened:?}");
    }
    for position in 0..files[at].1.len() {
        let mut flipped = files.clone();
        flipped[at].1[position] ^= 0x41;
        let opened: Result<_> = format::open(&folder(&flipped));
        if let Ok(reader) = opened {
            deep(&*reader);
        }
    }
}

#[test]
fn a_chunk_without_a_place_is_damage() {
    let item = PlacedItem { file: "__0_0.distcp".to_owned(), byte_offset: 0, byte_len: 1 };
    let chunks = vec![(Region::new([77], [1]), item)];
    let stored = Stored::Tensor { dtype: DType::U8, shape: &[78], chunks };
    let mut bytes = encode(&[Entry { fqn: "w", path: &Vec::new(), stored }]);
    // The corner is there twice: in the chunk, and in the key that says where its item is.
    let corner = bytes.windows(2).rposition(|pair| pair == [b'K', 77]).unwrap();
    bytes[corner + 1] = 76;
    let reader = format::open(&folder(&[(".metadata".to_owned(), bytes)])).unwrap();
    let found: Vec<_> = reader.catalog().findings.iter().map(|f| (f.severity, f.message.as_str())).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == Severity::Damage && found[0].1.contains("does not say where it is"), "{found:?}");
}

#[test]
fn metadata_of_ranks_that_is_not_complete() {
    let ckpt = fixture("torch-2.11/ws2_no_collectives/ckpt");
    let names = ["__1.metadata", "__1_0.distcp"];
    let part =
        names.map(|name| (name.to_owned(), ckpt.store.get(&ckpt.key.join(name).unwrap(), 1 << 20).unwrap()));
    let told = |place: &Place, severity: Severity| {
        let reader = format::open(place).unwrap();
        let found = reader.catalog().findings.iter().filter(|finding| finding.severity == severity);
        found.map(|finding| finding.message.clone()).collect::<Vec<_>>()
    };
    let damage = told(&folder(&part), Severity::Damage);
    assert!(damage.len() == 1 && damage[0].contains("1 ranks is missing, of rank 0 first"), "{damage:?}");
    let notes = told(&ckpt, Severity::Note);
    assert!(notes.iter().any(|note| note.contains("those of the lowest rank are read")), "{notes:?}");
}

#[test]
fn damaged_items_are_found() {
    let files = files();
    let data = files.iter().position(|(name, _)| name == "__1_0.distcp").unwrap();
    // Where the records of every archive are that are not padding: the rest says nothing of the checkpoint.
    let bytes = &files[data].1;
    let mut records = 0;
    for name in ["data.pkl", ".format_version", "byteorder", "version", ".data/serialization_id"] {
        // A record's first name is in its local header, the second in the directory.
        let name = [b"archive/", name.as_bytes()].concat();
        let headers = bytes.windows(name.len()).enumerate().filter(|(_, window)| *window == name);
        for (at, _) in headers.step_by(2) {
            let length =
                |from: usize| usize::from(u16::from_le_bytes([bytes[at - from], bytes[at - from + 1]]));
            let position = at + name.len() + length(2);
            let mut flipped = files.clone();
            flipped[data].1[position] ^= 0x10;
            let messages = deep(&*format::open(&folder(&flipped)).unwrap());
            assert!(messages.iter().any(|m| m.contains("checksum")), "{position}: {messages:?}");
            records += 1;
        }
    }
    assert!(records > 5, "{records}");
    let mut cut = files.clone();
    cut[data].1.pop();
    let messages = deep(&*format::open(&folder(&cut)).unwrap());
    assert!(messages.iter().any(|message| message.contains("cut short")), "{messages:?}");
    let mut grown = files.clone();
    grown[data].1.push(0);
    let messages = deep(&*format::open(&folder(&grown)).unwrap());
    assert!(messages.iter().any(|message| message.contains("too long")), "{messages:?}");
}

#[test]
fn what_another_save_left_behind_is_noted() {
    let mut files = files();
    for name in [".metadata.tmp", "__7_0.distcp", "__0.metadata"] {
        files.push((name.to_owned(), b"x".to_vec()));
    }
    let reader = format::open(&folder(&files)).unwrap();
    let findings = &reader.catalog().findings;
    assert!(findings.iter().all(|finding| finding.severity == Severity::Note), "{findings:?}");
    let mut names: Vec<_> = findings.iter().map(|f| f.object.as_ref().unwrap().name()).collect();
    names.sort_unstable();
    assert_eq!(names, [".metadata.tmp", "__0.metadata", "__7_0.distcp"]);
}

#[test]
fn a_size_that_disagrees_with_the_item_names_the_defect() {
    let place = fixture("torch-2.11/handwritten/ckpt");
    let reader = format::open(&place).unwrap();
    assert!(deep(&*reader).is_empty());
    let (fqn, tensor) =
        reader.catalog().tensors.iter().find(|(_, tensor)| !tensor.spec.shape.is_empty()).unwrap();
    let mut chunk = tensor.chunks.all(&tensor.spec.shape).unwrap().swap_remove(0);
    chunk.region.extent[0] += 1;
    let error = reader.resolve(fqn, tensor, &chunk).unwrap_err().to_string();
    assert!(error.contains("_StridedShard") && error.contains("it holds a tensor of size"), "{error}");
}
