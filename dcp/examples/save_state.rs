//! What a save costs a trainer: a Llama-like state of 291 float32 tensors of about GIB GiB, saved by one rank.
//!
//! `cargo run --release -p dcp --example save_state -- WHAT FOLDER GIB [BUDGET_MIB]`
//!
//! | WHAT | prints the seconds of |
//! |---|---|
//! | `return` | `save`, until it returns |
//! | `snapshot` | `save` and `wait_staged`: the state may change again |
//! | `total` | `save` and `wait_done`: committed and durable |
//! | `memcpy` | copying the state to other memory, one thread: the limit of `snapshot` |
//! | `write` | writing it to one file in pieces of 8 MiB, and fsync: the limit of `total` |
//! | `compute` | a computation of one thread, while saves follow each other, with one thread of the saver |
//! | `compute-alone` | the same computation, while nothing is saved |
//!
//! With a budget of host memory `total` also prints how much of the state was staged and how much streamed, and what the
//! process took beyond the state itself.
//!
//! Memory is in place before the clock starts: the saver's by a save before, as from a trainer's second save on.

#![expect(clippy::disallowed_macros, reason = "an example prints")]

use dcp::coordinate::Alone;
use dcp::format::by_name;
use dcp::model::{DType, TensorSpec};
use dcp::save::{HostMemory, SaveOptions, Saver, State, StateTensor};
use dcp::storage::open_url;
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pieces of the plain write.
const PIECE_BYTES: usize = 8 << 20;
/// How long the computation takes, about.
const ROUNDS: u32 = 40_000;

type Tensors = Vec<(String, Vec<u64>, HostMemory, Arc<Vec<u8>>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, folder, gib, budget @ ..] = &args[..] else {
        return Err("usage: save_state WHAT FOLDER GIB [BUDGET_MIB]".into());
    };
    let tensors = tensors(gib.parse()?);
    if let [budget_mib] = budget {
        return save_within(&tensors, folder, budget_mib.parse()?);
    }
    let seconds = match what.as_str() {
        "memcpy" => memcpy(&tensors),
        "write" => write(&tensors, folder)?,
        "compute-alone" => compute(),
        "compute" => compute_beside_saves(&tensors, folder)?,
        "return" | "snapshot" | "total" => save(&tensors, folder, what)?,
        _ => return Err(format!("unknown: {what}").into()),
    };
    println!("SECONDS {:.6}", seconds.as_secs_f64());
    Ok(())
}

/// The shapes of `xtask/peers/bench_checkpoint.py`, with bytes that do not compress.
fn tensors(gib: f64) -> Tensors {
    let scale = (gib / 2.03).sqrt();
    let size = |size: f64| ((size * scale) as u64) / 16 * 16;
    let (width, hidden, vocabulary) = (size(1024.0), size(3840.0), size(16384.0));
    let mut shapes = vec![("tok_embeddings.weight".to_owned(), vec![vocabulary, width])];
    for layer in 0..32 {
        let mut add =
            |name: &str, shape: &[u64]| shapes.push((format!("layers.{layer}.{name}"), shape.to_vec()));
        ["wq", "wk", "wv", "wo"]
            .iter()
            .for_each(|name| add(&format!("attention.{name}.weight"), &[width, width]));
        ["w1", "w3"].iter().for_each(|name| add(&format!("feed_forward.{name}.weight"), &[hidden, width]));
        add("feed_forward.w2.weight", &[width, hidden]);
        ["attention_norm", "ffn_norm"].iter().for_each(|name| add(&format!("{name}.weight"), &[width]));
    }
    shapes.push(("norm.weight".to_owned(), vec![width]));
    shapes.push(("output.weight".to_owned(), vec![vocabulary, width]));
    let mut seed = 1u64;
    let tensor = |(name, shape): (String, Vec<u64>)| {
        let words = shape.iter().product::<u64>() / 2;
        let bytes = (0..words).flat_map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed ^ (seed >> 29)).to_le_bytes()
        });
        let bytes: Arc<Vec<u8>> = Arc::new(bytes.collect());
        (name, shape, HostMemory::new(SharedBytes(bytes.clone())), bytes)
    };
    shapes.into_iter().map(tensor).collect()
}

struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn state(tensors: &Tensors) -> State {
    let tensor = |(name, shape, memory, _): &(String, Vec<u64>, HostMemory, _)| StateTensor {
        fqn: name.as_str().into(),
        spec: TensorSpec::new(DType::F32, shape.clone()),
        path: Vec::new(),
        placements: Vec::new(),
        local: Some(Arc::new(memory.clone())),
    };
    State { mesh: None, tensors: tensors.iter().map(tensor).collect(), values: Vec::new() }
}

/// A saver that has saved once: its memory is in place. What it saved is removed.
fn saver(tensors: &Tensors, folder: &str, threads: usize) -> Result<Saver, Box<dyn Error>> {
    let options =
        SaveOptions { stage_threads: threads, write_threads: threads, ..SaveOptions::new(by_name("titan")?) };
    let mut saver = Saver::new(open_url(folder)?, options, Arc::new(Alone))?;
    saver.save(0, state(tensors))?.wait_done()?;
    std::fs::remove_dir_all(folder)?;
    File::open("/")?.sync_all().ok();
    std::thread::sleep(Duration::from_secs(1));
    Ok(saver)
}

fn save(tensors: &Tensors, folder: &str, until: &str) -> Result<Duration, Box<dyn Error>> {
    let mut saver = saver(tensors, folder, 2)?;
    let state = state(tensors);
    let start = Instant::now();
    let saving = saver.save(1, state)?;
    let returned = start.elapsed();
    saving.wait_staged();
    let staged = start.elapsed();
    saving.wait_done()?;
    Ok(match until {
        "return" => returned,
        "snapshot" => staged,
        _ => start.elapsed(),
    })
}

/// Saves twice within a budget; what it took.
fn save_within(tensors: &Tensors, folder: &str, budget_mib: u64) -> Result<(), Box<dyn Error>> {
    let options = SaveOptions { memory_bytes_max: budget_mib << 20, ..SaveOptions::new(by_name("titan")?) };
    let before = resident_kib("VmRSS:")?;
    let mut saver = Saver::new(open_url(folder)?, options, Arc::new(Alone))?;
    for step in 0..2 {
        let saved = saver.save(step, state(tensors))?.wait_done()?;
        println!("STAGED_BYTES {}\nSTREAMED_BYTES {}", saved.staged_bytes, saved.streamed_bytes);
    }
    println!("TAKEN_MIB {}", (resident_kib("VmHWM:")? - before) / 1024);
    Ok(())
}

/// A line of what Linux says of this process's memory.
fn resident_kib(name: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn memcpy(tensors: &Tensors) -> Duration {
    let mut copies: Vec<Vec<u8>> = tensors.iter().map(|(.., bytes)| vec![1; bytes.len()]).collect();
    let start = Instant::now();
    for ((.., bytes), copy) in tensors.iter().zip(&mut copies) {
        copy.copy_from_slice(bytes);
    }
    black_box(&copies);
    start.elapsed()
}

fn write(tensors: &Tensors, path: &str) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let mut file = File::create(path)?;
    for (.., bytes) in tensors {
        for piece in bytes.chunks(PIECE_BYTES) {
            file.write_all(piece)?;
        }
    }
    file.sync_all()?;
    Ok(start.elapsed())
}

/// Multiplies small matrices, as a step on the CPU would: most of it in a core's own cache.
fn compute() -> Duration {
    const SIZE: usize = 96;
    let (left, right) = (vec![1.5f32; SIZE * SIZE], vec![0.5f32; SIZE * SIZE]);
    let mut product = vec![0f32; SIZE * SIZE];
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for (row, target) in product.chunks_mut(SIZE).enumerate() {
            for (inner, of_right) in right.chunks(SIZE).enumerate() {
                let factor = left[row * SIZE + inner];
                target.iter_mut().zip(of_right).for_each(|(target, right)| *target += factor * right);
            }
        }
        black_box(&mut product);
    }
    start.elapsed()
}

fn compute_beside_saves(tensors: &Tensors, folder: &str) -> Result<Duration, Box<dyn Error>> {
    let mut saver = saver(tensors, folder, 1)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, own) = (stop.clone(), state(tensors));
    let mut states = vec![own];
    let tensors = tensors
        .iter()
        .map(|(name, shape, memory, bytes)| (name.clone(), shape.clone(), memory.clone(), bytes.clone()));
    let tensors: Tensors = tensors.collect();
    let saves = std::thread::spawn(move || -> Result<u64, dcp::Error> {
        let mut step = 0;
        while !stopped.load(Ordering::Relaxed) {
            step += 1;
            let state = states.pop().unwrap_or_else(|| state(&tensors));
            saver.save(step, state)?.wait_done()?;
        }
        Ok(step)
    });
    std::thread::sleep(Duration::from_millis(50));
    let seconds = compute();
    stop.store(true, Ordering::Relaxed);
    saves.join().map_err(|_| "the saves panicked")??;
    Ok(seconds)
}
