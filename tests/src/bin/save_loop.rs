//! One rank of a job that saves step after step until it is killed.
//!
//! `save_loop RUN_URL RANK ADDRESS JOB FIRST_STEP`; prints `committed STEP` when `wait_done` has said so.

use dcp::coordinate::over_tcp;
use dcp::format::by_name;
use dcp::save::{SaveOptions, Saver};
use dcp::storage::open_url_with;
use e2e::kills::{RANK_TIMEOUT, RANKS, state};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, rank, address, job, first] = &args[..] else {
        return Err("usage: save_loop RUN_URL RANK ADDRESS JOB FIRST_STEP".into());
    };
    let (rank, first): (u32, u64) = (rank.parse()?, first.parse()?);
    let coordinator = over_tcp(address, job, rank, RANKS, RANK_TIMEOUT)?;
    let run = open_url_with(url, &std::env::vars().collect())?;
    let options = SaveOptions { memory_bytes_max: 64 << 20, ..SaveOptions::new(by_name("titan")?) };
    let mut saver = Saver::new(run, options, Arc::new(coordinator))?;
    for step in first.. {
        let saving = saver.save(step, state(rank, step))?;
        saving.wait_staged();
        saving.wait_done()?;
        writeln!(std::io::stdout().lock(), "committed {step}")?;
    }
    Ok(())
}
