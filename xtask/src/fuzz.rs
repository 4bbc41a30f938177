//! `cargo xtask fuzz`: the fuzz targets of `dcp/fuzz`, each for a time, from seeds that PyTorch and we wrote.
//!
//! Limits: an input of 64 KiB at most may not make us allocate more than 256 MiB at once, hold more than 1 GiB, or
//! think for more than 20 s. Needs a nightly toolchain (`rustup toolchain install nightly`).

use crate::process::{cargo, ensure_subcommand, read, run as run_command, watch, words};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::process::Command;

#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Targets; all when none is named
    targets: Vec<String>,
    /// Minutes for each target
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

/// Longest input.
const INPUT_BYTES_MAX: u64 = 64 << 10;
const LIMITS: &[&str] = &["-max_len=65536", "-malloc_limit_mb=256", "-rss_limit_mb=1024", "-timeout=20"];

/// Which files are seeds of a target, by the end of their names.
static SEEDS: &[(&str, &[&str])] = &[
    ("dcp_item", &[".distcp"]),
    ("dcp_item_zstd", &[".distcp"]),
    ("dcp_metadata", &[".metadata"]),
    ("safetensors_header", &[".safetensors"]),
    ("safetensors_index", &[".safetensors.index.json"]),
    ("titan_manifest", &["titan-0000.json"]),
    ("titan_part", &[".part.json"]),
    ("torch_save", &[".pt"]),
];

/// Fixtures that are converted to be seeds of the formats that PyTorch does not write.
const CONVERTED: &[&str] =
    &["torch-2.11/ws2_tp", "torch-2.11/ws4_2d", "torch-2.11/ws2_fsdp_uneven", "torch-2.11/ws1_dtypes"];

/// `cargo xtask fuzz`.
pub(crate) fn run(root: &Path, args: &FuzzArgs) -> Result<()> {
    let folder = root.join("dcp/fuzz");
    let known = targets(&folder)?;
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(target)) {
        bail!("no fuzz target {unknown:?}; known: {}", known.join(", "));
    }
    ensure_subcommand("fuzz")?;
    seed(root, &folder)?;
    let mut broken = Vec::new();
    let mut table = Vec::new();
    for target in known.iter().filter(|target| args.targets.is_empty() || args.targets.contains(target)) {
        println!("==> {target}: {} minutes", args.minutes);
        let seconds = (args.minutes * 60.0).ceil();
        let (held, inputs) = fuzz(root, target, seconds)?;
        println!("<== {target}: {inputs} inputs, {}", outcome(held));
        table.push(format!("{target:<20} {inputs:>12} inputs in {seconds:.0} s: {}", outcome(held)));
        if !held {
            broken.push(target.as_str());
        }
    }
    println!("\n{}", table.join("\n"));
    ensure!(broken.is_empty(), "broken by inputs under dcp/fuzz/artifacts: {}", broken.join(", "));
    Ok(())
}

fn outcome(held: bool) -> &'static str {
    if held { "held" } else { "BROKEN" }
}

/// Runs one target; gives whether it held, and how many inputs it ran.
fn fuzz(root: &Path, target: &str, seconds: f64) -> Result<(bool, u64)> {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "run", target, "--"]).args(LIMITS);
    command.args([&format!("-max_total_time={seconds:.0}"), "-print_final_stats=1", "-print_funcs=0"]);
    command.current_dir(root.join("dcp")).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    let mut inputs = 0;
    let mut lines = 0_u64;
    let status = watch(&mut command, |line| {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            inputs = count.trim().parse().unwrap_or(0);
        }
        // Thousands of lines say that one more path was found; of these a few are enough.
        let progress = line.starts_with('#') && !line.contains("DONE");
        lines += u64::from(progress);
        if !progress || lines.is_power_of_two() {
            println!("    {line}");
        }
    })?;
    ensure!(status.success() || inputs > 0 || lines > 0, "`{}` failed: {status}", words(&command));
    Ok((status.success(), inputs))
}

/// The targets, by their files.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(folder.join("fuzz_targets")).context("could not list the fuzz targets")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        targets.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    targets.sort();
    Ok(targets)
}

/// Fills the corpus of every target with what real producers wrote.
fn seed(root: &Path, folder: &Path) -> Result<()> {
    run_command(cargo(&["build", "--package", "titan-ckpt"]).current_dir(root))?;
    let converted = tempfile::tempdir()?;
    for fixture in CONVERTED {
        let source = root.join("fixtures").join(fixture).join("ckpt");
        let name = fixture.replace('/', "-");
        for target in [name.clone(), format!("{name}.pt")] {
            let to = if target == name { "titan" } else { "pt" };
            let mut convert = cargo(&["run", "--quiet", "--package", "titan-ckpt", "--", "convert"]);
            convert.current_dir(root).arg(&source).arg(converted.path().join(target)).args(["--to", to]);
            read(&mut convert)?;
        }
    }
    for (target, ends) in SEEDS {
        let corpus = folder.join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        for from in [&root.join("fixtures"), converted.path()] {
            for entry in ignore::WalkBuilder::new(from).standard_filters(false).build() {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy();
                let is_seed = entry.file_type().is_some_and(|kind| kind.is_file())
                    && ends.iter().any(|end| name.ends_with(end))
                    && entry.metadata()?.len() <= INPUT_BYTES_MAX;
                if is_seed {
                    let bytes = fs::read(entry.path())?;
                    let sha256: String =
                        Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                    fs::write(corpus.join(format!("seed-{sha256}")), bytes)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_and_every_seed_a_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dcp/fuzz");
        let seeded: Vec<_> = SEEDS.iter().map(|(target, _)| target.to_string()).collect();
        assert_eq!(targets(&folder).unwrap(), seeded);
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for target in seeded {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        }
    }
}
