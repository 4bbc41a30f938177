//! The sequences that TorchTitan 0.2.2's own dataset class made of a corpus (`fixtures/text/words`) are ours.

use data::{Corpus, DataOptions, Dataset, Loader, Notice, State, Tokenizer};
use dcp::storage::open_url;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words");

const PACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words/corpus");

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("{FIXTURE}/expected.json")).unwrap()).unwrap()
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(tokens: &[i64]) -> String {
    hex(Sha256::digest(tokens.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<_>>()))
}

fn options(corpus: &str, seq_len: usize, sequences_per_step: u64) -> DataOptions {
    let place = |path: &str| open_url(path).unwrap();
    let corpus = Corpus::open(Dataset::find("c4_test").unwrap(), &place(corpus)).unwrap();
    let tokenizer = Tokenizer::open(&place(&format!("{FIXTURE}/tokenizer"))).unwrap();
    DataOptions::new(Arc::new(corpus), Arc::new(tokenizer), seq_len, sequences_per_step)
}

/// Hashes of input and label of every sequence of a step.
fn hashes(loader: &mut Loader, seq_len: usize) -> Vec<[String; 2]> {
    let step = loader.next_step().unwrap().unwrap();
    let rows = step.inputs.chunks(seq_len).zip(step.labels.chunks(seq_len));
    rows.map(|(input, label)| [sha256(input), sha256(label)]).collect()
}

/// The folder of the unpacked corpus: the same bytes as every comparison with TorchTitan uses.
fn unpacked() -> tempfile::TempDir {
    let packed = std::fs::File::open(format!("{FIXTURE}/corpus/data.json.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    assert_eq!(hex(Sha256::digest(&bytes)), expected()["corpus_sha256"].as_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data.json"), bytes).unwrap();
    folder
}

/// Cuts the corpus of a folder into files of these lines; `false` where it stays one.
fn cut_as(files: &Value, from: &Path, into: &Path) -> bool {
    let Some(files) = files.as_object() else { return false };
    let text = std::fs::read_to_string(from.join("data.json")).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    for (name, range) in files {
        let bound = |index: usize| range[index].as_u64().unwrap() as usize;
        std::fs::write(into.join(name), lines[bound(0)..bound(1)].concat()).unwrap();
    }
    true
}

#[test]
fn sequences_are_those_of_torchtitan() {
    let folder = unpacked();
    for packed in expected()["packed"].as_array().unwrap() {
        let number = |key: &str| packed[key].as_u64().unwrap() as usize;
        let (seq_len, count) = (number("seq_len"), number("count"));
        let first: Vec<[String; 2]> = serde_json::from_value(packed["first"].clone()).unwrap();
        let path = folder.path().to_str().unwrap();
        let several = tempfile::tempdir().unwrap();
        // TorchTitan reads the files of a folder as one.
        let (virtual_shards, corpora) = match cut_as(&packed["files"], folder.path(), several.path()) {
            true => (Some(1), vec![(several.path().to_str().unwrap(), 0)]),
            false => (None, vec![(path, 0), (PACKED, 2)]),
        };
        for (corpus, workers) in corpora {
            let options = DataOptions { workers, virtual_shards, ..options(corpus, seq_len, 1) };
            let mut loader = Loader::open(&options).unwrap();
            let ours: Vec<_> = (0..count).flat_map(|_| hashes(&mut loader, seq_len)).collect();
            assert_eq!(ours[..first.len()], first, "seq_len {seq_len} of {corpus}");
            let all = hex(Sha256::digest(ours.concat().concat()));
            assert_eq!(all, packed["all_sha256"].as_str().unwrap(), "seq_len {seq_len} of {corpus}");
        }
    }
}

#[test]
fn an_epoch_is_as_long_and_its_end_is_told() {
    for packed in expected()["packed"].as_array().unwrap().iter().take(2) {
        let (seq_len, per_epoch) =
            (packed["seq_len"].as_u64().unwrap(), packed["per_epoch"].as_u64().unwrap());
        let corpus = format!("{FIXTURE}/corpus/data.json.gz");
        let mut loader =
            Loader::open(&DataOptions { infinite: false, ..options(&corpus, seq_len as usize, 1) }).unwrap();
        for _ in 0..per_epoch {
            assert_eq!(loader.next_step().unwrap().unwrap().notices, []);
        }
        for _ in 0..2 {
            assert!(loader.next_step().unwrap().is_none());
        }
        let end = loader.out_of_data().unwrap();
        assert_eq!((end.shard, end.sequences), (0, per_epoch));

        let mut endless = Loader::open(&options(&corpus, seq_len as usize, 1)).unwrap();
        let notices: Vec<_> =
            (0..per_epoch + 4).flat_map(|_| endless.next_step().unwrap().unwrap().notices).collect();
        assert_eq!(notices, [Notice::Relooped { shard: 0, epoch: 1 }]);
        assert!(notices[0].to_string().contains("re-looped"));
    }
}

/// A run that stops and goes on, twice, gives what one that does not stop gives.
#[test]
fn a_second_resume_works_as_the_first() {
    let folder = unpacked();
    let options =
        |ranks, rank| DataOptions { ranks, rank, ..options(folder.path().to_str().unwrap(), 256, 8) };
    let mut whole = Loader::open(&options(1, 0)).unwrap();
    let expected: Vec<_> = (0..150).map(|_| hashes(&mut whole, 256)).collect();
    let mut state: Option<State> = None;
    let mut ours = Vec::new();
    for ranks in [4, 2, 8] {
        let mut loaders: Vec<_> = (0..ranks)
            .map(|rank| match &state {
                None => Loader::open(&options(ranks, rank)).unwrap(),
                Some(state) => Loader::resume(&options(ranks, rank), state).unwrap(),
            })
            .collect();
        for _ in 0..50 {
            ours.push(loaders.iter_mut().flat_map(|loader| hashes(loader, 256)).collect::<Vec<_>>());
        }
        let merged = State::merge(loaders.iter().map(Loader::state).collect()).unwrap();
        assert!(merged.to_json().unwrap().len() < 500);
        state = Some(State::from_json(&merged.to_json().unwrap()).unwrap());
    }
    assert_eq!(ours, expected);
}
