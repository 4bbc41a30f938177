//! `cargo xtask bench`: ours beside the peers and the raw limit, in one run.
//!
//! A speed means nothing alone and little on another day: the sides of a comparison are run in turns (A B C A B C ...)
//! on the same files, and what counts is the ratio of their medians. The machine is named with the figures.

mod machine;
mod section;

use crate::peers;
use crate::process::{cargo, run as run_command, watch, words};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Comparisons whose name contains one of these; all when none is named
    names: Vec<String>,
    /// Size of the checkpoint, in GiB
    #[arg(long, default_value_t = 2.0)]
    gib: f64,
    /// Runs of each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Drop the page cache before every run (needs root)
    #[arg(long)]
    cold: bool,
    /// Put the result into BENCHMARKS.md
    #[arg(long)]
    write: bool,
}

/// Sides of one comparison, ours first.
struct Comparison {
    name: &'static str,
    sides: &'static [Side],
}

struct Side {
    label: &'static str,
    /// What runs, on a source and a target in the bench's folder.
    run: Run,
}

enum Run {
    /// `titan-ckpt` with these arguments; `SRC` and `DST` stand for the two.
    Ours(&'static [&'static str]),
    /// Copies the source's files and makes them durable: nothing that writes as many bytes can be faster.
    CopyDurably,
    /// An operation of `xtask/peers/bench_peer.py` under PyTorch 2.11.
    Torch(&'static str),
}

const COPY: Side = Side { label: "cp + fsync", run: Run::CopyDurably };

static COMPARISONS: &[Comparison] = &[
    Comparison {
        name: "reshard rows, 2 to 4 ranks",
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["reshard", "SRC", "DST", "--dp-shard", "4"]) },
            COPY,
        ],
    },
    Comparison {
        name: "dcp to one safetensors file",
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["convert", "SRC", "DST.safetensors"]) },
            COPY,
            Side { label: "HuggingFaceStorageWriter + consolidation", run: Run::Torch("hf_consolidated") },
        ],
    },
    Comparison {
        name: "dcp to one torch.save file",
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["convert", "SRC", "DST.pt"]) },
            COPY,
            Side { label: "dcp_to_torch_save", run: Run::Torch("dcp_to_torch_save") },
        ],
    },
    Comparison {
        name: "dcp to titan",
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["convert", "SRC", "DST", "--to", "titan"]) },
            COPY,
        ],
    },
];

/// What all sides share.
struct Bench {
    titan_ckpt: PathBuf,
    python: PathBuf,
    peer_script: PathBuf,
    source: PathBuf,
    target: PathBuf,
    cold: bool,
}

/// `cargo xtask bench`.
pub(crate) fn run(root: &Path, args: &BenchArgs) -> Result<()> {
    let chosen: Vec<_> = COMPARISONS
        .iter()
        .filter(|c| args.names.is_empty() || args.names.iter().any(|name| c.name.contains(name.as_str())))
        .collect();
    if chosen.is_empty() {
        let known: Vec<_> = COMPARISONS.iter().map(|comparison| comparison.name).collect();
        bail!("no comparison is named so; known: {}", known.join("; "));
    }
    let bench = Bench::new(root, args)?;
    println!("{}", machine::describe(&bench.target)?);
    let mut rows = Vec::new();
    for comparison in chosen {
        println!("==> {}", comparison.name);
        rows.extend(bench.compare(comparison, args.repetitions)?);
    }
    let cache = if args.cold { "cold" } else { "warm" };
    let text = section::render(&machine::describe(&bench.target)?, args.gib, args.repetitions, cache, &rows);
    println!("\n{text}");
    if args.write {
        let path = root.join("BENCHMARKS.md");
        let old = fs::read_to_string(&path).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
        fs::write(&path, section::replace(&old, &format!("cli, {cache} cache"), &text))?;
        println!("written to BENCHMARKS.md");
    }
    Ok(())
}

impl Bench {
    /// Builds ours, finds the peer, makes the checkpoint unless it is there.
    fn new(root: &Path, args: &BenchArgs) -> Result<Self> {
        run_command(cargo(&["build", "--release", "--package", "titan-ckpt"]).current_dir(root))?;
        let python = peers::ensure_peer(root, peers::find("2.11")?)?.python;
        let folder = root.join(".bench");
        fs::create_dir_all(&folder)?;
        let source = folder.join(format!("llama-{}gib", args.gib));
        if !source.join(".metadata").exists() {
            println!("    making a checkpoint of {} GiB with PyTorch", args.gib);
            let script = root.join("xtask/peers/bench_checkpoint.py");
            run_command(Command::new(&python).arg(script).arg(&source).arg(args.gib.to_string()))?;
        }
        Ok(Bench {
            titan_ckpt: root.join("target/release/titan-ckpt"),
            python,
            peer_script: root.join("xtask/peers/bench_peer.py"),
            source,
            target: folder.join("out"),
            cold: args.cold,
        })
    }

    /// Runs the sides in turns.
    fn compare(&self, comparison: &Comparison, repetitions: u32) -> Result<Vec<section::Row>> {
        let mut seconds = vec![Vec::new(); comparison.sides.len()];
        for turn in 1..=repetitions {
            for (side, seconds) in comparison.sides.iter().zip(&mut seconds) {
                let took = self.time(side).with_context(|| format!("{}: {}", comparison.name, side.label))?;
                println!("    {turn}/{repetitions} {:<42} {took:.3} s", side.label);
                seconds.push(took);
            }
        }
        let sides = comparison.sides.iter().zip(seconds);
        let row = |(side, seconds): (&Side, Vec<f64>)| (side.label, seconds);
        Ok(section::rows(comparison.name, sides.map(row).collect()))
    }

    /// Runs one side once, from a settled disk and without its target.
    fn time(&self, side: &Side) -> Result<f64> {
        self.clear()?;
        run_command(&mut Command::new("sync"))?;
        if self.cold {
            fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")?;
        }
        std::thread::sleep(Duration::from_secs(1));

        let mut command = self.command(side);
        let (mut inner, mut said) = (None, Vec::new());
        let start = Instant::now();
        let status = watch(&mut command, |line| {
            inner = inner.or_else(|| line.strip_prefix("SECONDS ")?.trim().parse().ok());
            said.push(line.to_owned());
        })?;
        let outer = start.elapsed().as_secs_f64();
        ensure!(status.success(), "`{}` failed: {status}\n{}", words(&command), said.join("\n"));
        self.clear()?;
        Ok(inner.unwrap_or(outer))
    }

    fn command(&self, side: &Side) -> Command {
        match side.run {
            Run::Ours(args) => {
                let mut command = Command::new(&self.titan_ckpt);
                for arg in args {
                    match (*arg, arg.strip_prefix("DST")) {
                        ("SRC", _) => command.arg(&self.source),
                        (_, Some(extension)) => command.arg(format!("{}{extension}", self.target.display())),
                        _ => command.arg(arg),
                    };
                }
                command
            }
            Run::CopyDurably => {
                let mut command = Command::new("sh");
                let script = r#"cp -r "$1" "$2" && find "$2" -type f -exec sync {} + && sync "$2""#;
                command.args(["-c", script, "copy"]).arg(&self.source).arg(&self.target);
                command
            }
            Run::Torch(operation) => {
                let mut command = Command::new(&self.python);
                command.arg(&self.peer_script).arg(operation).arg(&self.source).arg(&self.target);
                command
            }
        }
    }

    /// Removes every output.
    fn clear(&self) -> Result<()> {
        let folder = self.target.parent().context("the target is in a folder")?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("out") {
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}
