//! Stores over a network: the conformance suite, with and without faults.

use crate::{convert, fixture};
use dcp::convert::{ConvertOptions, Sharding};
use dcp::diff::{DiffOptions, Difference, diff};
use dcp::model::FqnFilter;
use dcp::storage::{Environment, Key, Place, Storage, conformance, open_url_with};
use dcp::verify::{VerifyOptions, verify};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use std::sync::Arc;

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
    let faults = Faults { slow_down: 3, reset: 2, done_but_500: 2, lost_reply: 1, seed: 1 };
    let server = S3Server::start(faults).unwrap();
    conformance::all(&bucket(&server));
    let (requests, failed, _) = server.counts();
    println!("{failed} of {requests} requests failed");
    assert!(failed > 10);
}

/// Every format to the bucket and back, whole and resharded, while requests fail.
#[test]
fn checkpoints_on_s3() {
    let faults = Faults { slow_down: 2, reset: 1, done_but_500: 1, lost_reply: 1, seed: 2 };
    let server = S3Server::start(faults).unwrap();
    let store = bucket(&server);
    let source = fixture("torch-2.11/llama_ws4_2d/ckpt");
    for format in ["titan", "dcp", "safetensors", "pt"] {
        let place = Place { store: store.clone(), key: Key::new(format!("run/{format}")).unwrap() };
        let sharding = if matches!(format, "titan" | "dcp") { Sharding::Keep } else { Sharding::Whole };
        let options =
            ConvertOptions { sharding, drop_values: format == "safetensors", ..ConvertOptions::default() };
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
    }
}
