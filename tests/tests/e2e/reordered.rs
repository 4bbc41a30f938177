//! An export whose experts change the order of their dims, from S3: every byte is asked for about once, in long ranges.

use crate::{convert as write, in_memory};
use convert::exchange::outward;
use convert::families::of_config;
use convert::seed::Seed;
use dcp::convert::{ConvertOptions, Sharding};
use dcp::copy::CopyOptions;
use dcp::diff::{DiffOptions, diff};
use dcp::format::{Reader, open};
use dcp::model::{DType, FqnFilter};
use dcp::plan::Degrees;
use dcp::storage::{Environment, open_url_with};
use e2e::s3_server::{BUCKET, Faults, S3Server};

const CONFIG: &str = r#"{"model_type": "llama4_text", "hidden_size": 1024, "intermediate_size": 2048,
    "intermediate_size_mlp": 2048, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2,
    "num_local_experts": 2, "vocab_size": 128, "rope_theta": 500000.0}"#;

#[test]
fn transposed_experts_are_fetched_once() {
    let model = of_config("config.json", CONFIG).unwrap();
    let seed = Seed::new(&model, 1, |fqn| fqn.to_owned());
    let degrees = Degrees { pp: 1, dp_replicate: 1, dp_shard: 4, cp: 1, tp: 1 };
    let options = ConvertOptions {
        dtype: Some(DType::BF16),
        sharding: Sharding::Degrees(degrees),
        ..Default::default()
    };
    let server = S3Server::start(Faults::default()).unwrap();
    let environment: Environment = server.environment().into_iter().collect();
    let stored = open_url_with(&format!("s3://{BUCKET}/native"), &environment).unwrap();
    write(&seed, "dcp", &stored, &options);
    let local = write(&seed, "dcp", &in_memory(), &options);

    // Strips of 1 MiB, a quarter of an expert's matrix.
    let copy = CopyOptions { memory_bytes_max: 6 << 20, threads: 2 };
    let options = ConvertOptions { sharding: Sharding::Whole, copy, ..Default::default() };
    // With a store of its own, which keeps nothing of what another has read.
    let native = || open(&open_url_with(&format!("s3://{BUCKET}/native"), &environment).unwrap()).unwrap();
    let fetched = |view: &dyn Reader| {
        let before = server.counts();
        let written = write(view, "safetensors", &in_memory(), &options);
        let (after, tensors) = (server.counts(), view.catalog().tensors.values());
        let wanted_bytes: u64 = tensors.map(|tensor| tensor.spec.bytes().unwrap()).sum();
        let (gets, get_bytes) = (after.gets - before.gets, after.get_bytes - before.get_bytes);
        println!("{gets} requests for {get_bytes} bytes, {wanted_bytes} wanted");
        assert!(get_bytes * 10 <= wanted_bytes * 11, "{get_bytes} bytes were fetched for {wanted_bytes}");
        (gets, written)
    };
    let (plain_gets, _) = fetched(&*native());
    let (view, _) = outward(&model, native()).unwrap();
    let (gets, exported) = fetched(&view);
    // Half of the bytes change their order.
    assert!(gets <= 2 * plain_gets, "{gets} requests, without a change of order {plain_gets}");

    let (expected, _) = outward(&model, local).unwrap();
    let compared = DiffOptions { filter: FqnFilter::default(), rtol: 0.0, atol: 0.0, threads: 2 };
    assert_eq!(diff(&*exported, &expected, &compared, &()).unwrap().differences, []);
}
