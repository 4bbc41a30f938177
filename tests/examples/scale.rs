//! How long planning takes at scale: Llama 405B with AdamW state, 4,548 tensors, 4.86 TB, without its data.
//!
//! `cargo run --release -p e2e --example scale -- open | plan-rank | plan-all | step-rank`
//!
//! * `open`: open the titan checkpoint of 16,384 ranks, from a folder with all of its (sparse) objects;
//! * `plan-rank`: the reads of one rank of 8,192 from that checkpoint;
//! * `plan-all`: the reads of every rank of 1,024 from a checkpoint of 512 ranks;
//! * `step-rank`: the configuration, mesh and programs of one rank of 16,384, checked.
//!
//! Prints `SECONDS`, the median of five.

use dcp::format::{self, Reader};
use dcp::model::Catalog;
use dcp::plan::{Degrees, reads};
use dcp::storage::{Place, open_url};
use e2e::large::{commit_without_data, llama_405b, wants};
use e2e::startup::programs_of;
use std::error::Error;
use std::fs::{self, File};
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RANKS_16384: Degrees = Degrees { pp: 16, dp_replicate: 2, dp_shard: 64, cp: 1, tp: 8 };
const RANKS_8192: Degrees = Degrees { pp: 8, dp_replicate: 1, dp_shard: 128, cp: 1, tp: 8 };
const RANKS_1024: Degrees = Degrees { pp: 4, dp_replicate: 1, dp_shard: 32, cp: 1, tp: 8 };
const RANKS_512: Degrees = Degrees { pp: 4, dp_replicate: 1, dp_shard: 16, cp: 1, tp: 8 };

fn main() -> Result<()> {
    let what = std::env::args().nth(1).unwrap_or_default();
    if what == "step-rank" {
        return median(|| Ok(programs_of(9_001)?.1.iter().map(|program| program.instructions.len()).sum()));
    }
    let folder = tempfile::tempdir()?;
    let place = open_url(folder.path().join("checkpoint").to_str().ok_or("a folder that is no UTF-8")?)?;
    let (saved, resumed) = match what.as_str() {
        "open" | "plan-rank" => (RANKS_16384, RANKS_8192),
        "plan-all" => (RANKS_512, RANKS_1024),
        _ => return Err("usage: scale open | plan-rank | plan-all | step-rank".into()),
    };
    commit_without_data(&llama_405b(saved)?, &place)?;
    let reader = format::open(&place)?;
    make_objects(&place, reader.catalog())?;
    let target = llama_405b(resumed)?;
    match what.as_str() {
        "open" => median(|| Ok(format::open(&place)?.catalog().tensors.len())),
        "plan-rank" => median(|| plan(&reader, &target, 4_321)),
        _ => median(|| (0..target.writers).map(|rank| plan(&reader, &target, rank)).sum()),
    }
}

/// Files of the right lengths, without contents.
fn make_objects(place: &Place, catalog: &Catalog) -> Result<()> {
    for object in &catalog.objects {
        let path = place.store.display(&object.key);
        if !fs::exists(&path)? {
            File::create(path)?.set_len(object.byte_len)?;
        }
    }
    Ok(())
}

/// The number of reads of one rank.
fn plan(reader: &Arc<dyn Reader>, target: &format::Target, rank: u32) -> Result<usize> {
    Ok(reads(reader.catalog(), &wants(target, rank)?)?.len())
}

fn median(work: impl Fn() -> Result<usize>) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let count = work()?;
        seconds.push(start.elapsed().as_secs_f64());
        println!("{count} in {:.4} s", seconds[seconds.len() - 1]);
    }
    seconds.sort_by(f64::total_cmp);
    println!("SECONDS {:.6}", seconds[2]);
    Ok(())
}
