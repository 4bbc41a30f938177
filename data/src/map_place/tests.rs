use super::*;
use crate::{Corpus, Dataset, Loader, Tokenizer};
use dcp::storage::open_url;
use std::sync::Arc;

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words/tokenizer");
const SEQ_LEN: usize = 16;

/// Documents of different lengths, the last of them in a second file; blank lines between.
fn corpus(folder: &std::path::Path, dataset: &str) -> DataOptions {
    let text = |words: usize| format!("{{\"text\": \"{}\"}}\n", vec!["state of the world"; words].join(" "));
    let first = [text(1), "\n".to_owned(), text(40), text(2), "  \n\n".to_owned(), text(9)].concat();
    std::fs::write(folder.join("a.json"), first).unwrap();
    std::fs::write(folder.join("b.json"), [text(3), text(1), "\n".to_owned()].concat()).unwrap();
    let place = open_url(folder.to_str().unwrap()).unwrap();
    let corpus = Corpus::open(Dataset::find(dataset).unwrap(), &place).unwrap();
    let tokenizer = Tokenizer::open(&open_url(TOKENIZER).unwrap()).unwrap();
    let options = DataOptions::new(Arc::new(corpus), Arc::new(tokenizer), SEQ_LEN, 1);
    DataOptions { virtual_shards: Some(1), ..options }
}

/// What TorchTitan's loop has after so many sequences: a transcription of it.
fn expected(documents: &[Vec<u32>], sequences: usize) -> MapPlace {
    let (mut token_buffer, mut sample_idx, mut taken) = (Vec::new(), 0, 0);
    loop {
        for tokens in documents {
            if taken == sequences {
                return MapPlace { sample_idx, token_buffer };
            }
            token_buffer.extend_from_slice(tokens);
            sample_idx += 1;
            while token_buffer.len() > SEQ_LEN && taken < sequences {
                token_buffer.drain(..SEQ_LEN + 1);
                taken += 1;
            }
        }
        if taken == sequences {
            return MapPlace { sample_idx, token_buffer };
        }
        sample_idx = 0;
    }
}

fn documents(options: &DataOptions) -> Vec<Vec<u32>> {
    let encode =
        |words: usize| options.tokenizer.encode(&vec!["state of the world"; words].join(" ")).unwrap();
    [1, 40, 2, 9, 3, 1].map(encode).to_vec()
}

#[test]
fn places_are_torchtitans_and_lead_back_over_files_and_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let options = corpus(folder.path(), "c4_test");
    let documents = documents(&options);
    let per_epoch = documents.iter().map(Vec::len).sum::<usize>() / (SEQ_LEN + 1);
    let mut loader = Loader::open(&options).unwrap();
    let mut places = MapPlaces::new(&options).unwrap();
    let mut seen = Vec::new();
    for sequences in 0..2 * per_epoch + 3 {
        let place = places.place(&loader.state()).unwrap();
        assert_eq!(place, expected(&documents, sequences), "after {sequences} sequences");
        // One that has seen nothing of the run before says the same.
        assert_eq!(MapPlaces::new(&options).unwrap().place(&loader.state()).unwrap(), place);
        let state = State::of_map_place(&options, &place, sequences as u64).unwrap().unwrap();
        let mut resumed = Loader::resume(&options, &state).unwrap();
        let next = loader.next_step().unwrap().unwrap();
        let again = resumed.next_step().unwrap().unwrap();
        assert_eq!(
            (again.position, &again.inputs, &again.labels),
            (next.position, &next.inputs, &next.labels)
        );
        let mut after = Loader::open_after(&options, sequences as u64).unwrap();
        assert_eq!(after.position(), sequences as u64);
        let skipped = after.next_step().unwrap().unwrap();
        assert_eq!((skipped.position, skipped.inputs), (next.position, next.inputs));
        assert_eq!(after.state().to_json().unwrap(), loader.state().to_json().unwrap());
        seen.push(place);
    }
    // Backwards, whoever was asked for a later place starts anew.
    assert_eq!(places.place(&Loader::open(&options).unwrap().state()).unwrap(), seen[0]);
    assert!(seen.iter().any(|place| place.token_buffer.is_empty()));
    assert!(seen.iter().any(|place| place.token_buffer.len() > 2 * SEQ_LEN));
}

/// After a resume TorchTitan reads one document before it looks at what it has: its buffer then spans two.
#[test]
fn a_buffer_of_several_documents_leads_to_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let options = corpus(folder.path(), "c4_test");
    let documents = documents(&options);
    let MapPlace { sample_idx, mut token_buffer } = expected(&documents, 3);
    token_buffer.extend_from_slice(&documents[sample_idx as usize]);
    let place = MapPlace { sample_idx: sample_idx + 1, token_buffer };
    let state = State::of_map_place(&options, &place, 3).unwrap().unwrap();
    let mut loader = Loader::open(&options).unwrap();
    for _ in 0..3 {
        loader.next_step().unwrap();
    }
    assert_eq!(state, loader.state());
}

#[test]
fn a_place_of_another_corpus_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = corpus(folder.path(), "c4_test");
    let refused = |sample_idx, token_buffer: &[u32]| {
        let place = MapPlace { sample_idx, token_buffer: token_buffer.to_vec() };
        State::of_map_place(&options, &place, 3).unwrap_err().to_string()
    };
    assert!(refused(7, &[]).ends_with("it has read 7 documents of a corpus of 6"));
    assert!(refused(2, &[99_999]).contains("not those of line 3 of "), "{}", refused(2, &[99_999]));
    let too_many = documents(&options).concat();
    assert!(refused(5, &[&[1], &too_many[..]].concat()).contains("another corpus or tokenizer"));
    let all: Vec<u32> = documents(&options)[..5].concat();
    let error = refused(5, &[&[1, 2, 3], &all[..]].concat());
    assert!(error.contains("more than the last 5 documents give"), "{error}");
}

#[test]
fn other_runs_stand_at_no_such_places() {
    let folder = tempfile::tempdir().unwrap();
    let exact = corpus(folder.path(), "c4_test");
    let place = MapPlace { sample_idx: 0, token_buffer: Vec::new() };
    let two_ranks = DataOptions { ranks: 2, sequences_per_step: 2, ..exact.clone() };
    assert!(MapPlaces::new(&exact).is_some() && MapPlaces::new(&two_ranks).is_none());
    // A run of one rank goes on with two.
    assert!(State::of_map_place(&two_ranks, &place, 0).unwrap().is_some());
    let others = [
        DataOptions { virtual_shards: Some(2), ..exact.clone() },
        DataOptions { virtual_shards: None, ..exact.clone() },
        DataOptions { shuffle_seed: Some(1), ..exact.clone() },
        corpus(folder.path(), "c4"),
    ];
    for options in others {
        assert!(MapPlaces::new(&options).is_none());
        assert_eq!(State::of_map_place(&options, &place, 0).unwrap(), None);
    }
}
