//! Writes a large checkpoint of random float32 numbers, which are the same every time.
//!
//! `cargo run --release -p e2e --example make_checkpoint -- DESTINATION FORMAT TENSORS MIB RANKS`
//!
//! `TENSORS` tensors of `MIB` MiB each and 4,096 columns, sharded on dim 0 over `RANKS` ranks.

use dcp::convert::{ConvertOptions, Sharding, plan};
use dcp::format;
use dcp::plan::Degrees;
use dcp::storage::open_url;
use e2e::synthetic::Synthetic;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, format, tensors, mib, ranks] = &args[..] else {
        return Err("usage: make_checkpoint DESTINATION FORMAT TENSORS MIB RANKS".into());
    };
    let rows = mib.parse::<u64>()? * 64;
    let source = Synthetic::new(tensors.parse()?, [rows, 4096])?;
    let degrees = Degrees { pp: 1, dp_replicate: 1, dp_shard: ranks.parse()?, cp: 1, tp: 1 };
    let options = ConvertOptions { sharding: Sharding::Degrees(degrees), ..ConvertOptions::default() };
    let report = plan(&source, &open_url(url)?, format::by_name(format)?, &options)?.run(&())?;
    println!("wrote {} tensors, {} bytes", report.tensors, report.tensor_bytes);
    Ok(())
}
