//! What a save to S3 costs beside a plain upload of as many bytes: GIB GiB in tensors of 16 MiB, to a server in this
//! process over the loopback device.
//!
//! `cargo run --release -p e2e --example s3_upload -- WHAT GIB`
//!
//! | WHAT | prints the seconds of |
//! |---|---|
//! | `save` | `save` and `wait_done`: committed; a trainer's second save, whose host memory is in place |
//! | `plain` | one multipart upload of the same bytes by `object_store`: parts of 16 MiB, 16 at once, no checksums |

use bytes::Bytes;
use dcp::coordinate::Alone;
use dcp::format::by_name;
use dcp::model::{DType, TensorSpec};
use dcp::save::{HostMemory, SaveOptions, Saver, State, StateTensor};
use dcp::storage::{Environment, open_url_with};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TENSOR_BYTES: usize = 16 << 20;
/// Parts of the plain upload under way.
const PARTS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, gib] = &args[..] else { return Err("usage: s3_upload save|plain GIB".into()) };
    let tensors = (gib.parse::<f64>()? * (1 << 30) as f64) as usize / TENSOR_BYTES;
    let tensors: Vec<Bytes> = (0..tensors).map(|seed| incompressible(seed as u64)).collect();
    let server = S3Server::start(Faults::default())?;
    let seconds = match what.as_str() {
        "save" => save(&server, &tensors)?,
        "plain" => plain(&server, &tensors)?,
        _ => return Err(format!("unknown: {what}").into()),
    };
    println!("SECONDS {:.6}", seconds.as_secs_f64());
    Ok(())
}

fn incompressible(seed: u64) -> Bytes {
    let mut seed = seed + 1;
    let words = (0..TENSOR_BYTES / 8).flat_map(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed ^ (seed >> 29)).to_le_bytes()
    });
    words.collect::<Vec<u8>>().into()
}

fn save(server: &S3Server, tensors: &[Bytes]) -> Result<Duration, Box<dyn Error>> {
    let settings: Environment = server.environment().into_iter().collect();
    let run = open_url_with(&format!("s3://{BUCKET}/run"), &settings)?;
    let state = || {
        let tensor = |(number, bytes): (usize, &Bytes)| StateTensor {
            fqn: format!("layers.{number}.weight").as_str().into(),
            spec: TensorSpec::new(DType::U8, [TENSOR_BYTES as u64]),
            path: Vec::new(),
            placements: Vec::new(),
            local: Some(Arc::new(HostMemory::new(bytes.clone()))),
        };
        State { mesh: None, tensors: tensors.iter().enumerate().map(tensor).collect(), values: Vec::new() }
    };
    let mut saver = Saver::new(run, SaveOptions::new(by_name("titan")?), Arc::new(Alone))?;
    saver.save(1, state())?.wait_done()?;
    let next = state();
    let start = Instant::now();
    saver.save(2, next)?.wait_done()?;
    Ok(start.elapsed())
}

fn plain(server: &S3Server, tensors: &[Bytes]) -> Result<Duration, Box<dyn Error>> {
    let mut builder = AmazonS3Builder::new().with_bucket_name(BUCKET).with_allow_http(true);
    for (name, value) in server.environment() {
        builder = builder.with_config(name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()?, value);
    }
    let store = builder.build()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let upload = async |name: &str| -> object_store::Result<()> {
        let upload = store.put_multipart(&Path::from(name)).await?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, TENSOR_BYTES);
        for tensor in tensors {
            writer.wait_for_capacity(PARTS).await?;
            writer.put(tensor.clone());
        }
        writer.finish().await.map(drop)
    };
    runtime.block_on(upload("first"))?;
    let start = Instant::now();
    runtime.block_on(upload("second"))?;
    Ok(start.elapsed())
}
