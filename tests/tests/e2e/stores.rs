//! Stores over a network: the conformance suite, with and without faults.

use crate::{convert, fixture};
use dcp::convert::{ConvertOptions, Sharding};
use dcp::coordinate::Alone;
use dcp::diff::{DiffOptions, Difference, diff};
use dcp::format::Attempt;
use dcp::model::FqnFilter;
use dcp::prune::{Policy, plan};
use dcp::save::{SaveOptions, Saver, State};
use dcp::storage::{Environment, Key, Place, Storage, conformance, open_url_with};
use dcp::verify::{VerifyOptions, verify};
use e2e::kills::{RANKS, load_newest, save_all};
use e2e::s3_server::{BUCKET, Faults, Options, S3Server};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn bucket(server: &S3Server) -> Arc<dyn Storage> {
    let environment: Environment = server.environment().into_iter().collect();
    open_url_with(&format!("s3://{BUCKET}"), &environment).unwrap().store
}

#[test]
fn s3_conforms() {
    let server = S3Server::start(Faults::default()).unwrap();
    conformance::all(&bucket(&server));
}

#[test]
fn s3_conforms_while_requests_fail() {
    let server = S3Server::start(Faults::FEW).unwrap();
    conformance::all(&bucket(&server));
    let counts = server.counts();
    println!("{} of {} requests failed", counts.faults, counts.requests);
    assert!(counts.faults > 10);
}

#[test]
fn a_store_that_ignores_conditions_is_told_from_one_that_keeps_to_them() {
    let home = Key::new("run").unwrap();
    for ignores_conditions in [true, false] {
        let server = S3Server::start_with(Options { ignores_conditions, ..Options::default() }).unwrap();
        let store = bucket(&server);
        assert_eq!(store.creates_exclusively(&home).unwrap(), !ignores_conditions);
        let requests = server.counts().requests;
        assert_eq!(store.creates_exclusively(&home).unwrap(), !ignores_conditions);
        assert_eq!(server.counts().requests, requests, "it is tried once");
        assert_eq!(store.list(&Key::root()).unwrap(), []);
    }
}

/// More unfinished uploads, and more parts, than a page holds; and what is found is what was sent.
#[test]
fn unfinished_uploads_are_listed_page_by_page() {
    const BYTE_LEN: u64 = 100 << 20;
    let server = S3Server::start_with(Options { page_len: 2, ..Options::default() }).unwrap();
    let store = bucket(&server);
    let bytes: Vec<u8> = (0..BYTE_LEN).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let keys: Vec<Key> = (0..5).map(|index| Key::new(format!("run/{index} & co")).unwrap()).collect();
    for key in &keys {
        let writer = store.resume(key, 17 << 20).unwrap();
        writer.write_at(0, &bytes[..16 << 20]).unwrap();
    }
    let found = store.unfinished(&Key::new("run").unwrap()).unwrap();
    assert_eq!(
        found.iter().map(|unfinished| &unfinished.key).collect::<Vec<_>>(),
        keys.iter().collect::<Vec<_>>()
    );
    assert!(found.iter().all(|unfinished| unfinished.byte_len == Some(16 << 20)));

    let key = Key::new("run/large").unwrap();
    let writer = store.resume(&key, BYTE_LEN).unwrap();
    writer.write_at(0, &bytes[..5 << 24]).unwrap();
    drop(writer);
    let before = server.counts().put_bytes;
    let writer = store.resume(&key, BYTE_LEN).unwrap();
    assert_eq!(writer.stored().len(), 5);
    writer.write_at(5 << 24, &bytes[5 << 24..]).unwrap();
    writer.finish().unwrap();
    let after = server.counts().put_bytes;
    assert_eq!(after - before, BYTE_LEN - (5 << 24), "parts that were there are not sent again");
    assert!(store.get(&key, BYTE_LEN).unwrap() == bytes);
    let left = store.unfinished(&Key::root()).unwrap();
    assert_eq!(left, found);
    left.iter().for_each(|unfinished| store.discard(unfinished).unwrap());
    assert_eq!(store.unfinished(&Key::root()).unwrap(), []);
}

/// The suite on servers that others wrote: moto, and whatever bucket `TITAN_S3_TEST_URL` names with the usual settings.
#[test]
fn s3_of_others_conforms() {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (moto, named) = (variable("TITAN_S3_MOTO"), variable("TITAN_S3_TEST_URL"));
    if moto.is_none() && named.is_none() {
        return e2e::skip("TITAN_S3_MOTO is not set; `cargo xtask test` sets it. Nor is TITAN_S3_TEST_URL");
    }
    if let Some(address) = moto {
        let settings = [
            ("AWS_ENDPOINT_URL", address.as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
        ];
        let environment =
            settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        // It looks and then writes, in threads: no judge of races.
        conforms_and_is_left_empty("s3://bucket/moto", &environment, &["racing-writers"]);
    }
    if let Some(url) = named {
        conforms_and_is_left_empty(&url, &std::env::vars().collect(), &[]);
    }
}

/// Ranks save three steps, and others die in their uploads; one step stays.
fn is_pruned(run: &Place) {
    for step in 1..4 {
        for saved in save_all(&vec![run.clone(); RANKS as usize], step) {
            saved.unwrap();
        }
    }
    // Of a step that is there, and of one of which nothing else is.
    for step in ["step-3", "step-4"] {
        let key = run.key.join(&format!("{step}/{}/r00000-0000.safetensors", Attempt::new(1).id)).unwrap();
        let writer = run.store.resume(&key, 40 << 20).unwrap();
        writer.write_at(0, &vec![1; 32 << 20]).unwrap();
    }
    assert_eq!(run.store.unfinished(&run.key).unwrap().len(), 2);
    let keep_latest = NonZeroUsize::new(1);
    let mut policy = Policy {
        keep_latest,
        keep_every: None,
        older_than: Duration::from_secs(3600),
        now: SystemTime::now(),
    };
    for older_than in [policy.older_than, Duration::ZERO] {
        policy.older_than = older_than;
        for report in plan(run, policy).unwrap().run(&()) {
            assert!(report.error.is_none(), "{report:?}");
        }
        // The uploads are young: they stay until nobody saves.
        let left = run.store.unfinished(&run.key).unwrap().len();
        assert_eq!(left, if older_than.is_zero() { 0 } else { 2 });
    }
    let left = run.store.list(&run.key).unwrap();
    assert!(!left.is_empty() && left.iter().all(|it| it.key.as_str().contains("/step-3/")), "{left:?}");
    assert_eq!(load_newest(run).unwrap(), (3, true));
}

#[test]
fn a_run_on_s3_is_pruned() {
    let server =
        S3Server::start(Faults { slow_down: 3, reset: 2, lost_reply: 2, seed: 3, ..Faults::default() });
    let server = server.unwrap();
    is_pruned(&Place { store: bucket(&server), key: Key::new("run").unwrap() });
}

fn conforms_and_is_left_empty(url: &str, environment: &Environment, left_out: &[&str]) {
    let Place { store, key } = open_url_with(url, environment).unwrap();
    let home = conformance::within(&store, &key, left_out);
    in_parts(&*store, &home.join("in-parts").unwrap());
    is_pruned(&Place { store: store.clone(), key: home.join("run").unwrap() });
    for object in store.list(&home).unwrap() {
        assert!(store.remove(&object.key).unwrap());
    }
    assert_eq!(store.list(&home).unwrap(), []);
}

/// An object of more than one part, of a length that is not told, the end first.
fn in_parts(store: &dyn Storage, key: &Key) {
    const HALF_BYTES: usize = 9 << 20;
    let bytes: Vec<u8> = (0..2 * HALF_BYTES).map(|at| (at / 1000) as u8).collect();
    let writer = store.create(key, None).unwrap();
    writer.write_at(HALF_BYTES as u64, &bytes[HALF_BYTES..]).unwrap();
    writer.write_at(0, &bytes[..HALF_BYTES]).unwrap();
    assert_eq!(store.head(key).unwrap(), None);
    writer.finish().unwrap();
    assert!(store.get(key, u64::MAX).unwrap() == bytes);
}

#[test]
fn large_objects_go_in_parts() {
    let server = S3Server::start(Faults::default()).unwrap();
    in_parts(&*bucket(&server), &Key::new("large").unwrap());
}

/// Every format to the bucket and back, whole and resharded, while requests fail.
#[test]
fn checkpoints_on_s3() {
    let faults =
        Faults { slow_down: 2, reset: 1, done_but_500: 1, lost_reply: 1, seed: 2, ..Faults::default() };
    let server = S3Server::start(faults).unwrap();
    let store = bucket(&server);
    let source = fixture("torch-2.11/llama_ws4_2d/ckpt");
    for format in ["titan", "dcp", "safetensors", "pt"] {
        let place = Place { store: store.clone(), key: Key::new(format!("run/{format}")).unwrap() };
        let sharding = if matches!(format, "titan" | "dcp") { Sharding::Keep } else { Sharding::Whole };
        let options =
            ConvertOptions { sharding, drop_values: format == "safetensors", ..ConvertOptions::default() };
        let before = server.counts();
        let there = convert(&*source, format, &place, &options);
        let deep = VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 2 };
        let report = verify(&*there, &deep, &()).unwrap();
        assert!(report.is_sound() && report.tensors > 0, "{format}: {:?}", report.findings);
        let back = convert(&*there, "titan", &crate::in_memory(), &ConvertOptions::default());
        let tensors = FqnFilter::new(&[], &[]).unwrap();
        let options = DiffOptions { filter: tensors, rtol: 0.0, atol: 0.0, threads: 2 };
        let report = diff(&*source, &*back, &options, &()).unwrap();
        let values_only = |found: &Difference| source.catalog().values.contains_key(found.fqn().as_str());
        let unequal: Vec<_> = report.differences.iter().filter(|found| !values_only(found)).collect();
        assert!(unequal.is_empty(), "{format}: {unequal:?}");
        let after = server.counts();
        let (gets, bytes) = (after.gets - before.gets, after.get_bytes - before.get_bytes);
        println!(
            "{format}: {} requests, {gets} to read, {bytes} bytes read",
            after.requests - before.requests
        );
    }
}

/// Framing is read in few requests, rows that are far from each other without what is between them.
#[test]
fn small_reads_share_requests_and_far_ones_fetch_what_they_want() {
    const ROWS: u64 = 32;
    const STRIDE_BYTES: u64 = 256 << 10;
    const ROW_BYTES: u64 = 8 << 10;
    let server = S3Server::start(Faults::default()).unwrap();
    let store = bucket(&server);
    let key = Key::new("object").unwrap();
    store.put(&key, &vec![1; (ROWS * STRIDE_BYTES) as usize]).unwrap();
    let object = store.open(&key).unwrap();
    let read = |byte_offset: u64, byte_len: u64| {
        object.read_at(byte_offset, &mut vec![0; byte_len as usize]).unwrap();
    };
    let before = server.counts();
    (0..ROWS).for_each(|row| read(row * STRIDE_BYTES + 4096, ROW_BYTES));
    let rows = server.counts();
    assert_eq!((rows.gets - before.gets, rows.get_bytes - before.get_bytes), (ROWS, ROWS * ROW_BYTES));
    (0..1000).for_each(|number| read(number * 60, 30));
    let small = server.counts();
    assert_eq!((small.gets - rows.gets, small.get_bytes - rows.get_bytes), (1, 64 << 10));
}

/// A store that overwrites where it should refuse is found out before the first commit.
#[test]
fn a_save_tells_whether_its_store_keeps_conditions() {
    for ignores_conditions in [false, true] {
        let server = S3Server::start_with(Options { ignores_conditions, ..Options::default() }).unwrap();
        let run = Place { store: bucket(&server), key: Key::new("run").unwrap() };
        let options = SaveOptions::new(dcp::format::by_name("titan").unwrap());
        let mut saver = Saver::new(run, options, Arc::new(Alone)).unwrap();
        for step in 1..3 {
            let saved = saver.save(step, State::default()).unwrap().wait_done().unwrap();
            assert_eq!(saved.exclusive, !ignores_conditions);
        }
    }
}
