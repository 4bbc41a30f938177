//! `cargo xtask memory`: the most memory that the commands take on checkpoints much larger than it.

use crate::bench::{machine, section};
use crate::process::{cargo, run as run_command, words};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use wait4::Wait4;

/// What no command may exceed, whatever the size of checkpoint and tensors.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;

#[derive(Args)]
pub(crate) struct MemoryArgs {
    /// Size of the checkpoints, in GiB
    #[arg(long, default_value_t = 8)]
    gib: u64,
    /// Put the result into BENCHMARKS.md
    #[arg(long)]
    write: bool,
}

/// One command: its words, and the checkpoint that nothing needs after it.
type Step = (&'static [&'static str], Option<&'static str>);

/// What is done to a checkpoint `a` of 2 ranks in DCP. At most three checkpoints are on the disk at once.
static STEPS: &[Step] = &[
    (&["verify", "a", "--deep"], None),
    (&["reshard", "a", "b", "--dp-shard", "4"], Some("a")),
    (&["reshard", "b", "c", "--dp-shard", "8"], None),
    (&["diff", "b", "c"], Some("c")),
    (&["convert", "b", "d", "--to", "titan"], Some("b")),
    (&["verify", "d", "--deep"], None),
    (&["convert", "d", "e", "--to", "titan", "--compress"], None),
    (&["diff", "d", "e"], Some("e")),
    (&["convert", "d", "f.safetensors", "--dtype", "bf16"], Some("f.safetensors")),
    (&["convert", "d", "g.safetensors"], Some("d")),
    (&["convert", "g.safetensors", "h.pt"], Some("g.safetensors")),
    (&["verify", "h.pt", "--deep"], None),
    (&["convert", "h.pt", "i", "--to", "dcp"], Some("h.pt")),
    (&["inspect", "i"], Some("i")),
];

/// `cargo xtask memory`.
pub(crate) fn run(root: &Path, args: &MemoryArgs) -> Result<()> {
    run_command(cargo(&["build", "--release", "--package", "titan-ckpt"]).current_dir(root))?;
    run_command(
        cargo(&["build", "--release", "--package", "e2e", "--example", "make_checkpoint"]).current_dir(root),
    )?;
    let mut rows = Vec::new();
    let mib = args.gib << 10;
    for (what, tensors, tensor_mib) in
        [("tensors of 128 MiB", mib / 128, 128), ("one tensor", 1, mib), ("tensors of 1 MiB", mib, 1)]
    {
        println!("==> {} GiB: {what}", args.gib);
        let folder = root.join(".bench/memory");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let mut make = Command::new(root.join("target/release/examples/make_checkpoint"));
        let sizes = [tensors.to_string(), tensor_mib.to_string(), "2".to_owned()];
        run_command(make.arg("a").arg("dcp").args(sizes).current_dir(&folder))?;
        for (words, done_with) in STEPS {
            rows.push(step(root, &folder, what, words)?);
            done_with.iter().try_for_each(|name| remove(&folder.join(name)))?;
        }
        fs::remove_dir_all(&folder)?;
    }
    let text = render(&machine::describe(root)?, args.gib, &rows);
    println!("\n{text}");
    if args.write {
        section::write(root, "memory", &text)?;
    }
    let most = rows.iter().map(|row| row.resident_bytes).max().unwrap_or(0);
    ensure!(
        most <= RESIDENT_BYTES_MAX,
        "a command took {most} bytes, over the limit of {RESIDENT_BYTES_MAX}"
    );
    Ok(())
}

/// One command's figures.
struct Row {
    what: &'static str,
    words: String,
    seconds: f64,
    resident_bytes: u64,
}

fn step(root: &Path, folder: &Path, what: &'static str, words_of: &[&str]) -> Result<Row> {
    let mut command = Command::new(root.join("target/release/titan-ckpt"));
    command
        .args(words_of)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("could not start {}", words(&command)))?;
    let used = child.wait4().with_context(|| format!("lost {}", words(&command)))?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(used.status.success(), "`{}` failed: {}", words(&command), used.status);
    let row = Row { what, words: words_of.join(" "), seconds, resident_bytes: used.rusage.maxrss };
    println!("    {:<50} {:>7.2} s {:>6} MiB", row.words, row.seconds, row.resident_bytes >> 20);
    Ok(row)
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("could not remove {}", path.display()))
}

fn render(machine: &str, gib: u64, rows: &[Row]) -> String {
    let mut text = format!(
        "{machine}.\n\nThe most resident memory (`ru_maxrss`) of each command on checkpoints of {gib} GiB; the limit is \
         512 MiB.\n\n| checkpoint | command | s | max MiB |\n|---|---|---|---|\n"
    );
    for row in rows {
        let mib = row.resident_bytes >> 20;
        text.push_str(&format!(
            "| {} | `titan-ckpt {}` | {:.1} | {mib} |\n",
            row.what, row.words, row.seconds
        ));
    }
    text
}
