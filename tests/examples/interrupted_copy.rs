//! Copies a checkpoint to an S3 server in a process that is killed again and again, then back, and compares.
//!
//! `cargo run --release -p e2e --example interrupted_copy -- MIB SEED`
//!
//! Prints the number of tries, the bytes of the checkpoint and the bytes that the server took in all tries.

use dcp::storage::open_url_with;
use e2e::interrupted::{copy, interrupted, local};
use e2e::s3_server::S3Server;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["copy", source, url] => {
            copy(&local(Path::new(source))?, &open_url_with(url, &std::env::vars().collect())?)?;
            Ok(())
        }
        [mib, seed] => {
            let report = interrupted(mib.parse()?, seed.parse()?, &killed)?;
            let resent = report.sent_bytes.saturating_sub(report.byte_len);
            println!("{report:?}");
            println!("{} tries, {} bytes, {resent} of them sent twice", report.tries, report.byte_len);
            match resent {
                0 => Ok(()),
                resent => Err(format!("{resent} bytes were sent twice").into()),
            }
        }
        _ => Err("usage: interrupted_copy MIB SEED".into()),
    }
}

/// Copies in a process of its own, which is killed once the server has taken so many bytes more.
fn killed(server: &S3Server, source: &Path, url: &str, put_bytes: u64) -> Result<bool, Box<dyn Error>> {
    let before = server.counts().put_bytes;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("copy")
        .arg(source)
        .arg(url)
        .envs(server.environment())
        .stdout(Stdio::null())
        .spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return match status.success() {
                true => Ok(true),
                false => Err(format!("the copy failed by itself: {status}").into()),
            };
        }
        if server.counts().put_bytes - before >= put_bytes {
            child.kill()?;
            return Ok(child.wait()?.success());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
