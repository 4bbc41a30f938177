//! The order of sequences depends on nothing but the corpus, the division into virtual shards and the seed.

use data::{Corpus, DataOptions, Dataset, Error, Loader, State, Step, Tokenizer};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place, Storage, open_url};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use std::io::Write;
use std::sync::Arc;

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words/tokenizers/as_dicts");

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::open(&open_url(TOKENIZER).unwrap()).unwrap())
}

/// Objects of these documents, of one ending each in turn.
fn corpus(files: &[Vec<String>]) -> Arc<Corpus> {
    let store = MemoryStore::new();
    for (index, texts) in files.iter().enumerate() {
        let line = |text: &String| format!("{}\n", serde_json::json!({ "text": text }));
        let lines = texts.iter().map(line).collect::<String>().into_bytes();
        let (ending, bytes) = match index % 4 {
            0 => ("json", lines),
            1 => ("json.zst", zstd::encode_all(&*lines, 1).unwrap()),
            2 => ("parquet", rows(texts)),
            _ => ("jsonl.gz", gzip(&lines)),
        };
        store.put(&Key::new(format!("c/{index}.{ending}")).unwrap(), &bytes).unwrap();
    }
    let place = Place { store: Arc::new(store), key: Key::new("c").unwrap() };
    Arc::new(Corpus::open(Dataset::find("c4").unwrap(), &place).unwrap())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// A parquet file with row groups of four rows.
fn rows(texts: &[String]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type("message m { REQUIRED BYTE_ARRAY text (UTF8); }").unwrap());
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    for rows in texts.chunks(4) {
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<_> = rows.iter().map(|text| ByteArray::from(text.as_str())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    file.close().unwrap();
    bytes
}

fn texts(file: usize, documents: usize) -> Vec<String> {
    let words = ["the", "state", "of a world", "", "model weights and their shards", "\u{1f642}"];
    let text = |document| format!("{file} {document} {}", words[(file * 5 + document * 7) % words.len()]);
    (0..documents).map(text).collect()
}

/// The order as its definition says, written apart from the loader: sequences at positions from `from` on.
fn expected(
    files: &[Vec<String>],
    tokenizer: &Tokenizer,
    options: &DataOptions,
    count: usize,
) -> Vec<Vec<i64>> {
    let shards = options.virtual_shards.unwrap_or(files.len() as u64) as usize;
    let all: Vec<_> = files.concat();
    let of_shard = |shard: usize| -> Vec<String> {
        match options.virtual_shards {
            None => files[shard].clone(),
            Some(_) => all.iter().skip(shard).step_by(shards).cloned().collect(),
        }
    };
    let tokens: Vec<Vec<i64>> = (0..shards)
        .map(|shard| {
            let once: Vec<i64> = of_shard(shard)
                .iter()
                .flat_map(|text| tokenizer.encode(text).unwrap().into_iter().map(i64::from))
                .collect();
            once.iter().copied().cycle().take((count / shards + 1) * (options.seq_len + 1)).collect()
        })
        .collect();
    let sequence = |position: usize| {
        let from = position / shards * (options.seq_len + 1);
        tokens[position % shards][from..from + options.seq_len + 1].to_vec()
    };
    (0..count).map(sequence).collect()
}

/// Whole sequences of a step: what goes in and the last label.
fn sequences(step: &Step, seq_len: usize) -> Vec<Vec<i64>> {
    assert_eq!((step.inputs.len(), step.labels.len()), (step.sequences * seq_len, step.sequences * seq_len));
    let rows = step.inputs.chunks(seq_len).zip(step.labels.chunks(seq_len));
    rows.map(|(input, label)| {
        assert_eq!(input[1..], label[..seq_len - 1]);
        [input, &label[seq_len - 1..]].concat()
    })
    .collect()
}

fn loaders(options: &DataOptions, state: Option<&State>) -> Vec<Loader> {
    let of_rank = |rank| DataOptions { rank, ..options.clone() };
    (0..options.ranks)
        .map(|rank| match state {
            None => Loader::open(&of_rank(rank)).unwrap(),
            Some(state) => Loader::resume(&of_rank(rank), state).unwrap(),
        })
        .collect()
}

/// One step of all ranks, in their order.
fn step(loaders: &mut [Loader], seq_len: usize) -> Vec<Vec<i64>> {
    loaders.iter_mut().flat_map(|loader| sequences(&loader.next_step().unwrap().unwrap(), seq_len)).collect()
}

fn merged(loaders: &[Loader]) -> State {
    let joined = State::merge(loaders.iter().map(Loader::state).collect()).unwrap();
    State::from_json(&joined.to_json().unwrap()).unwrap()
}

#[test]
fn every_mesh_of_a_small_domain_gives_the_defined_order() {
    let files: Vec<_> =
        [5, 3, 8].iter().enumerate().map(|(file, documents)| texts(file, *documents)).collect();
    let tokenizer = tokenizer();
    for file_count in 1..=3 {
        let files = &files[..file_count];
        let corpus = corpus(files);
        for virtual_shards in [None, Some(1), Some(2), Some(3), Some(5)] {
            for sequences_per_step in 1..=6 {
                let options = DataOptions {
                    virtual_shards,
                    ..DataOptions::new(corpus.clone(), tokenizer.clone(), 9, sequences_per_step)
                };
                let expected = expected(files, &tokenizer, &options, 4 * sequences_per_step as usize);
                for ranks in (1..=sequences_per_step).filter(|ranks| sequences_per_step % ranks == 0) {
                    let options = DataOptions { ranks, ..options.clone() };
                    let mut loaders = loaders(&options, None);
                    let ours: Vec<_> = (0..4).flat_map(|_| step(&mut loaders, 9)).collect();
                    assert_eq!(
                        ours, expected,
                        "{ranks} ranks, {virtual_shards:?} shards of {file_count} files"
                    );
                }
            }
        }
    }
}

/// Sizes of a run that stops and goes on elsewhere.
#[derive(Debug, Clone)]
struct Run {
    documents: Vec<usize>,
    virtual_shards: Option<u64>,
    seq_len: usize,
    /// Sequences of a rank, ranks, steps, threads; of each part of the run.
    parts: Vec<(u64, u64, u64, usize)>,
}

fn runs() -> impl Strategy<Value = Run> {
    let parts = proptest::collection::vec((1..4_u64, 1..5_u64, 0..5_u64, 0..3_usize), 2..5);
    let documents = proptest::collection::vec(5..12_usize, 1..5);
    let virtual_shards = prop_oneof![Just(None), (1..6_u64).prop_map(Some)];
    (documents, virtual_shards, 1..40_usize, parts).prop_map(|(documents, virtual_shards, seq_len, parts)| {
        Run { documents, virtual_shards, seq_len, parts }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_run_that_changes_its_mesh_sees_what_it_would_have_seen(run in runs()) {
        let files: Vec<_> = run.documents.iter().enumerate().map(|(file, documents)| texts(file, *documents)).collect();
        let (corpus, tokenizer) = (corpus(&files), tokenizer());
        let options = DataOptions {
            virtual_shards: run.virtual_shards,
            ..DataOptions::new(corpus, tokenizer.clone(), run.seq_len, 1)
        };
        let count: u64 = run.parts.iter().map(|(per_rank, ranks, steps, _)| per_rank * ranks * steps).sum();
        let expected = expected(&files, &tokenizer, &options, count as usize);
        let mut ours = Vec::new();
        let mut state = None;
        for (per_rank, ranks, steps, workers) in run.parts {
            let options = DataOptions { ranks, sequences_per_step: per_rank * ranks, workers, ..options.clone() };
            let mut loaders = loaders(&options, state.as_ref());
            for _ in 0..steps {
                ours.extend(step(&mut loaders, run.seq_len));
            }
            let merged = merged(&loaders);
            prop_assert_eq!(merged.position() as usize, ours.len());
            state = Some(merged);
        }
        prop_assert_eq!(ours, expected);
    }
}

#[test]
fn a_seed_changes_the_order_and_no_rank_count_does() {
    let files: Vec<_> = (0..4).map(|file| texts(file, 6)).collect();
    let (corpus, tokenizer) = (corpus(&files), tokenizer());
    for virtual_shards in [None, Some(2)] {
        let of_seed = |shuffle_seed, ranks| {
            let options = DataOptions {
                virtual_shards,
                shuffle_seed,
                ranks,
                ..DataOptions::new(corpus.clone(), tokenizer.clone(), 9, 4)
            };
            let mut first = loaders(&options, None);
            let mut ours: Vec<_> = (0..6).flat_map(|_| step(&mut first, 9)).collect();
            let mut second = loaders(&options, Some(&merged(&first)));
            ours.extend((0..6).flat_map(|_| step(&mut second, 9)));
            ours
        };
        let plain = of_seed(None, 1);
        let shuffled = of_seed(Some(3), 1);
        assert_ne!(plain, shuffled);
        assert_ne!(shuffled, of_seed(Some(4), 1));
        for ranks in [2, 4] {
            assert_eq!(of_seed(Some(3), ranks), shuffled);
            assert_eq!(of_seed(None, ranks), plain);
        }
    }
}

#[test]
fn the_state_is_of_what_was_taken_and_not_of_what_was_made_ahead() {
    let files = vec![texts(0, 40)];
    let (corpus, tokenizer) = (corpus(&files), tokenizer());
    let inline = DataOptions::new(corpus, tokenizer, 9, 2);
    let ahead = DataOptions { workers: 2, prefetch_steps: 8, ..inline.clone() };
    let (mut inline, mut ahead) = (loaders(&inline, None), loaders(&ahead, None));
    for _ in 0..12 {
        assert_eq!(merged(&ahead), merged(&inline));
        assert_eq!(step(&mut ahead, 9), step(&mut inline, 9));
    }
}

#[test]
fn a_state_of_something_else_names_the_difference() {
    let files = vec![texts(0, 9), texts(1, 9)];
    let options = DataOptions::new(corpus(&files), tokenizer(), 9, 2);
    let mut loader = Loader::open(&options).unwrap();
    loader.next_step().unwrap();
    let state = loader.state();
    let other = format!("{TOKENIZER}/../only_eos");
    let other_tokenizer = Arc::new(Tokenizer::open(&open_url(&other).unwrap()).unwrap());
    for (changed, says) in [
        (
            DataOptions { corpus: corpus(&files[..1]), ..options.clone() },
            "another corpus: it has 2 objects of ",
        ),
        (
            DataOptions { tokenizer: other_tokenizer, ..options.clone() },
            "another tokenizer: it has 302 tokens, ",
        ),
        (DataOptions { seq_len: 10, ..options.clone() }, "another seq_len: it has 9, this run 10; "),
        (
            DataOptions { virtual_shards: Some(2), ..options.clone() },
            "another division: it has 2 virtual shards, one per object, this run 2 virtual shards; ",
        ),
        (
            DataOptions { shuffle_seed: Some(1), ..options.clone() },
            "another shuffle seed: it has none, this run 1",
        ),
    ] {
        let error = Loader::resume(&changed, &state).err().unwrap();
        assert!(matches!(error, Error::OtherState { .. }) && error.to_string().contains(says), "{error}");
    }
    // The state of one rank alone lacks the virtual shards of another.
    let one = Loader::open(&DataOptions { ranks: 2, ..options.clone() }).unwrap().state();
    let error = Loader::resume(&options, &one).err().unwrap().to_string();
    assert!(error.contains("it lacks virtual shard 1; merge the states of all ranks"), "{error}");
}

#[test]
fn what_is_no_state_is_an_error() {
    let files = vec![texts(0, 9), texts(1, 9)];
    let options = DataOptions::new(corpus(&files), tokenizer(), 9, 2);
    let good = Loader::open(&options).unwrap().state().to_json().unwrap();
    for (from, to, says) in [
        ("{", "[", "not a state of a data loader: "),
        ("titan-data", "other", "its format is `other`, expected `titan-data`"),
        ("\"version\":1", "\"version\":2", "version 2; this program reads 1"),
        ("\"position\":0", "\"position\":9007199254740993", "a number in it is over"),
        ("\"shard\":1", "\"shard\":0", "virtual shard 0 stands at two places"),
        ("\"shard\":1", "\"shard\":2", "virtual shard 2 of 2"),
        ("\"pass\":0", "\"pass\":-1", "invalid value"),
        ("\"seq_len\":9", "\"seq_len\":\"9\"", "invalid type"),
    ] {
        assert!(good.contains(from), "{good}");
        let error = State::from_json(&good.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for (from, to, says) in [
        ("\"0.json\"", "\"9.json\"", "virtual shard 0 stands in `9.json`, which is none of its objects"),
        ("\"0.json\"", "\"1.json.zst\"", "which is none of its objects"),
        ("\"pass\":0", "\"pass\":2", "virtual shard 0 is to pass over 2 documents"),
        ("\"byte_offset\":0", "\"byte_offset\":99999", "it stands at byte 99999 of "),
        ("\"tokens_gone\":0", "\"tokens_gone\":99999", "it has taken 99999 tokens of a document that gives "),
    ] {
        assert!(good.contains(from), "{good}");
        let state = State::from_json(&good.replacen(from, to, 1)).unwrap();
        let error = Loader::resume(&options, &state).and_then(|mut loader| loader.next_step()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(State::merge(Vec::new()).is_err());
}

#[test]
fn options_that_make_no_sense_are_named() {
    let options = DataOptions::new(corpus(&[texts(0, 9)]), tokenizer(), 9, 6);
    for (changed, says) in [
        (
            DataOptions { ranks: 0, ..options.clone() },
            "the data-parallel rank is 0; expected less than the 0 ranks",
        ),
        (DataOptions { rank: 3, ranks: 3, ..options.clone() }, "the data-parallel rank is 3"),
        (
            DataOptions { ranks: 4, ..options.clone() },
            "the global batch size is 6; expected a multiple of the 4",
        ),
        (DataOptions { sequences_per_step: 0, ..options.clone() }, "the global batch size is 0"),
        (DataOptions { seq_len: 0, ..options.clone() }, "seq_len is 0"),
        (DataOptions { seq_len: usize::MAX, ..options.clone() }, "seq_len is 18446744073709551615"),
        (DataOptions { virtual_shards: Some(0), ..options.clone() }, "the number of virtual shards is 0"),
        (DataOptions { virtual_shards: Some(1 << 40), ..options.clone() }, "the number of virtual shards is"),
    ] {
        let error = Loader::open(&changed).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_shard_without_documents_or_tokens_is_an_error_and_no_endless_loop() {
    let nothing =
        Arc::new(Tokenizer::open(&open_url(&format!("{TOKENIZER}/../no_config")).unwrap()).unwrap());
    for (files, virtual_shards, tokenizer, says) in [
        (
            vec![texts(0, 9), Vec::new()],
            None,
            tokenizer(),
            "virtual shard 1 gives no token in a whole epoch (memory://c/1",
        ),
        (vec![texts(0, 2)], Some(4), tokenizer(), "virtual shard 2 gives no token"),
        (vec![vec![String::new(); 3]], None, nothing, "virtual shard 0 gives no token"),
    ] {
        for workers in [0, 2] {
            let options = DataOptions {
                virtual_shards,
                workers,
                ..DataOptions::new(corpus(&files), tokenizer.clone(), 3, 4)
            };
            let mut loader = Loader::open(&options).unwrap();
            let error = loader.next_step().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(matches!(loader.next_step(), Err(Error::Ended)));
        }
        let options = DataOptions {
            virtual_shards,
            infinite: false,
            ..DataOptions::new(corpus(&files), tokenizer, 3, 4)
        };
        assert!(Loader::open(&options).unwrap().next_step().unwrap().is_none());
    }
}

#[test]
fn a_finite_corpus_ends_where_the_order_does() {
    let files: Vec<_> = [4, 9].iter().enumerate().map(|(file, documents)| texts(file, *documents)).collect();
    let (corpus, tokenizer) = (corpus(&files), tokenizer());
    let whole = |file: usize| {
        let tokens: usize = files[file].iter().map(|text| tokenizer.encode(text).unwrap().len()).sum();
        tokens / 10
    };
    // Position 2 t + v is the last there is, for the shorter of both.
    let last = (2 * whole(0)).min(2 * whole(1) + 1);
    let options = DataOptions { infinite: false, ..DataOptions::new(corpus, tokenizer.clone(), 9, 1) };
    let mut loader = Loader::open(&options).unwrap();
    let steps = std::iter::from_fn(|| loader.next_step().unwrap()).count();
    assert_eq!(steps, last);
    assert_eq!(loader.position() as usize, last);
    let end = loader.out_of_data().unwrap();
    assert_eq!((end.shard as usize, end.sequences as usize), (last % 2, last / 2));
    assert!(end.to_string().contains("has run out of data"), "{end}");
}
