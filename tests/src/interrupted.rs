//! A copy to a store that is interrupted again and again, at points drawn at random, until it is whole; for tests and for
//! runs of any size.

use crate::s3_server::{BUCKET, S3Server};
use crate::synthetic::Synthetic;
use dcp::convert::{ConvertOptions, Sharding, plan};
use dcp::copy::CopyOptions;
use dcp::format;
use dcp::plan::Degrees;
use dcp::storage::{Environment, Place, open_url, open_url_with};
use dcp::transfer::{self, TransferOptions, TransferReport};
use std::error::Error;
use std::fs;
use std::path::Path;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupted {
    /// Bytes of all objects.
    pub byte_len: u64,
    /// Tries, the last one included.
    pub tries: u64,
    /// Bytes that the store took in all tries together.
    pub sent_bytes: u64,
    /// What the last try found of objects and parts.
    pub last: TransferReport,
}

/// One try to copy the folder to the URL that ends after about so many bytes; `true` where it came to its end.
pub type Try<'a> = dyn Fn(&S3Server, &Path, &str, u64) -> Result<bool, Box<dyn Error>> + 'a;

/// Copies a checkpoint of two ranks and about `mib` MiB to an S3 server in many tries and one that is let be, then back,
/// and compares every file.
///
/// Errors: what the copy gives where nothing interrupts it, and a copy that is wrong.
pub fn interrupted(mib: u64, seed: u64, attempt: &Try) -> Result<Interrupted, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (source, back) = (folder.path().join("step-1"), folder.path().join("back"));
    make_checkpoint(&source, mib)?;
    let server = S3Server::start(crate::s3_server::Faults::default())?;
    let url = format!("s3://{BUCKET}/run/step-1");
    let environment: Environment = server.environment().into_iter().collect();
    let bucket = || open_url_with(&url, &environment);
    let byte_len: u64 =
        local(&source)?.store.list(&local(&source)?.key)?.iter().map(|meta| meta.byte_len).sum();
    let mut tries = 1;
    // Each gets on by an eighth on average.
    while tries <= 8
        && !attempt(&server, &source, &url, 1 + crate::s3_server::draw(seed, tries) % (byte_len / 4))?
    {
        server.settle();
        server.refuse_after(None);
        if format::open(&bucket()?).is_ok() {
            return Err(format!("a checkpoint after try {tries}, which was interrupted").into());
        }
        tries += 1;
    }
    server.settle();
    server.refuse_after(None);
    let last = copy(&local(&source)?, &bucket()?)?;
    let sent_bytes = server.counts().put_bytes;
    if !bucket()?.store.unfinished(&bucket()?.key)?.is_empty() {
        return Err("uploads are left".into());
    }
    copy(&bucket()?, &local(&back)?)?;
    compare(&source, &back)?;
    Ok(Interrupted { byte_len, tries, sent_bytes, last })
}

/// Copies, and reads back what was copied.
pub fn copy(source: &Place, destination: &Place) -> dcp::Result<TransferReport> {
    let copy = CopyOptions { memory_bytes_max: 64 << 20, threads: 2 };
    transfer::plan(source, destination, TransferOptions { copy, verify: true })?.run(&())
}

/// The place of a local folder.
pub fn local(path: &Path) -> dcp::Result<Place> {
    open_url(&path.to_string_lossy())
}

fn make_checkpoint(path: &Path, mib: u64) -> dcp::Result<()> {
    let source = Synthetic::new(2, [mib * 32, 4096])?;
    let degrees = Degrees { pp: 1, dp_replicate: 1, dp_shard: 2, cp: 1, tp: 1 };
    let options = ConvertOptions { sharding: Sharding::Degrees(degrees), ..ConvertOptions::default() };
    plan(&source, &local(path)?, format::by_name("titan")?, &options)?.run(&()).map(drop)
}

fn compare(one: &Path, other: &Path) -> Result<(), Box<dyn Error>> {
    let names = |path: &Path| -> dcp::Result<Vec<String>> {
        let place = local(path)?;
        let listed = place.store.list(&place.key)?;
        Ok(listed.iter().filter_map(|meta| Some(meta.key.below(&place.key)?.to_owned())).collect())
    };
    if names(one)? != names(other)? {
        return Err(format!("other files: {:?}, {:?}", names(one)?, names(other)?).into());
    }
    for name in names(one)? {
        if fs::read(one.join(&name))? != fs::read(other.join(&name))? {
            return Err(format!("{name} is not what it was").into());
        }
    }
    Ok(())
}
