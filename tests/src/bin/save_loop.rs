//! One rank of a job that saves step after step until it is killed.
//!
//! `save_loop RUN_URL RANK ADDRESS JOB FIRST_STEP`. Rank 0 serves at the address, with port 0 at any, and prints
//! `serving ADDRESS`. Every rank prints `saving STEP` before a save, and `committed STEP` when `wait_done` has said so.

use dcp::coordinate::{Peers, TcpStore};
use dcp::format::by_name;
use dcp::save::{SaveOptions, Saver};
use dcp::storage::open_url_with;
use e2e::kills::{RANK_TIMEOUT, RANKS, state};
use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, rank, address, job, first] = &args[..] else {
        return Err("usage: save_loop RUN_URL RANK ADDRESS JOB FIRST_STEP".into());
    };
    let (rank, first): (u32, u64) = (rank.parse()?, first.parse()?);
    let store = match rank {
        0 => TcpStore::serve(address, job)?,
        _ => TcpStore::connect(address, job, RANK_TIMEOUT)?,
    };
    if rank == 0 {
        say("serving", store.address())?;
    }
    let coordinator = Peers::new(Arc::new(store), rank, RANKS, RANK_TIMEOUT)?;
    let run = open_url_with(url, &std::env::vars().collect())?;
    let options = SaveOptions { memory_bytes_max: 64 << 20, ..SaveOptions::new(by_name("titan")?) };
    let mut saver = Saver::new(run, options, Arc::new(coordinator))?;
    for step in first.. {
        let state = state(rank, step);
        say("saving", step)?;
        let saving = saver.save(step, state)?;
        saving.wait_staged();
        saving.wait_done()?;
        say("committed", step)?;
    }
    Ok(())
}

fn say(what: &str, of: impl Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{what} {of}")
}
