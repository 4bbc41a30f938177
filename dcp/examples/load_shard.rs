//! One rank's load: the slice of every tensor that rank `RANK` of `RANKS` holds when dim `DIM` is sharded.
//!
//! `cargo run --release -p dcp --example load_shard -- CHECKPOINT DIM RANK RANKS`
//!
//! Tensors of fewer dims are sharded on their last. Prints the seconds (the open included), the bytes wanted and the
//! bytes read.

#![expect(clippy::disallowed_macros, reason = "an example prints")]

use dcp::copy::{CopyOptions, Wanted, load};
use dcp::format;
use dcp::layout::{Layout, Mesh, Placement, Region};
use dcp::storage::open_url;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, dim, rank, ranks] = &args[..] else {
        return Err("usage: load_shard CHECKPOINT DIM RANK RANKS".into());
    };
    let (dim, rank, ranks): (u32, u32, u32) = (dim.parse()?, rank.parse()?, ranks.parse()?);

    let start = Instant::now();
    let reader = format::open(&open_url(url)?)?;
    let opening = start.elapsed();
    let mesh = Arc::new(Mesh::new([("shard", ranks)])?);
    // A rank's parameters exist before they are loaded: their memory is in place when the clock starts.
    let mut memory: Vec<(&str, Region, Vec<u8>)> = Vec::new();
    for (fqn, tensor) in &reader.catalog().tensors {
        let shape = tensor.spec.shape.clone();
        let placement = match shape.len() as u32 {
            0 => Placement::Replicate,
            dims => Placement::Shard { dim: dim.min(dims - 1) },
        };
        let layout = Layout::new(mesh.clone(), vec![placement], shape)?;
        let region = layout.region(rank).ok_or("the rank is not on the mesh")?;
        let byte_len = tensor.spec.dtype.bytes(region.elements()).ok_or("the shard cuts packed elements")?;
        memory.push((fqn.as_str(), region, vec![1; byte_len as usize]));
    }

    let start = Instant::now();
    let wanted = memory.iter_mut();
    let wanted = wanted
        .map(|(fqn, region, target)| Wanted { fqn, region: region.clone(), dtype: None, target })
        .collect();
    let stats = load(&*reader, wanted, CopyOptions::default(), &())?;
    println!("SECONDS {:.4}", (opening + start.elapsed()).as_secs_f64());
    println!("WANTED_BYTES {}", stats.written_bytes);
    println!("READ_BYTES {}", stats.read_bytes);
    Ok(())
}
