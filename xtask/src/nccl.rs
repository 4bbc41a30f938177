//! `cargo xtask nccl`: the NCCL half of process groups, `.libtorch/lib/libtitan_nccl.so`.
//!
//! It needs headers of CUDA and NCCL, but neither of them itself, so that any machine builds it. What it takes from
//! `libtorch_cuda.so` is looked at symbol by symbol: nothing else may be missing on a machine with a GPU.

use crate::libtorch;
use crate::peers::BasePython;
use crate::process::{read, run as run_command};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Headers, of the versions that torch 2.11.0 is built with.
const PACKAGES: &[&str] = &[
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
];
/// Takes the headers out of wheels: `FOLDER WHEEL...`.
const UNPACKER: &str = "\
import re, sys, zipfile
folder, *wheels = sys.argv[1:]
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if re.match(r'nvidia/\\w+/include/', n) and '..' not in n]
        archive.extractall(folder, names)
";
const SOURCE: &str = "trainer/csrc/nccl/nccl.cpp";
/// What may be missing on the CPU: the class whose half this is.
const OF_CUDA: &str = "c10d::ProcessGroupNCCL::";

/// `cargo xtask nccl`.
pub(crate) fn run(root: &Path) -> Result<()> {
    libtorch::ensure_libtorch(root)?;
    let libtorch = root.join(".libtorch");
    let headers = tempfile::tempdir_in(&libtorch)?;
    fetch_headers(headers.path())?;
    let library = libtorch.join("lib/libtitan_nccl.so");
    let unfinished = headers.path().join("libtitan_nccl.so");
    let mut compiler = Command::new("g++");
    compiler.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-DUSE_C10D_NCCL", "-DUSE_DISTRIBUTED"]);
    for include in ["nvidia/cu13/include", "nvidia/cu13/include/cccl", "nvidia/nccl/include"] {
        compiler.arg("-isystem").arg(headers.path().join(include));
    }
    for include in ["include", "include/torch/csrc/api/include"] {
        compiler.arg("-isystem").arg(libtorch.join(include));
    }
    compiler.arg("-I").arg(root.join("trainer/csrc/nccl/include"));
    compiler.arg(root.join(SOURCE)).arg("-o").arg(&unfinished);
    run_command(&mut compiler)?;

    let of_cuda = check_symbols(&unfinished, &libtorch.join("lib"))?;
    fs::rename(&unfinished, &library)?;
    println!("    {}: takes from libtorch_cuda.so only", library.display());
    of_cuda.iter().for_each(|symbol| println!("        {symbol}"));
    Ok(())
}

fn fetch_headers(folder: &Path) -> Result<()> {
    println!("    headers of NCCL and CUDA (0.2 GB)");
    let base = BasePython::find("NCCL", (9, 99))?;
    let mut pip = Command::new(&base.program);
    pip.env("TMPDIR", folder);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar", "off"]);
    pip.args(["--retries", "10", "--dest"]).arg(folder).args(PACKAGES);
    run_command(&mut pip)?;
    let wheels: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    read(Command::new(&base.program).args(["-c", UNPACKER]).arg(folder).args(wheels)).map(drop)
}

/// Symbols that the CPU half of libtorch and the system's libraries do not have. All must be of the one class, and in
/// `libtorch_cuda.so` where that is at hand.
fn check_symbols(library: &Path, lib: &Path) -> Result<BTreeSet<String>> {
    let symbols = |file: &Path, which: &str| -> Result<BTreeSet<String>> {
        let listed = read(Command::new("nm").args(["-D", "--format=posix", which]).arg(file))?;
        Ok(listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
    };
    let mut missing = symbols(library, "--undefined-only")?;
    for half in ["libtorch_cpu.so", "libc10.so"] {
        let defined = symbols(&lib.join(half), "--defined-only")?;
        missing.retain(|symbol| !defined.contains(symbol));
    }
    // Those of the system's libraries have a version, and some that start-up code asks for may be missing.
    let weak = read(Command::new("nm").args(["-D", "--undefined-only"]).arg(library))?;
    let is_weak = |symbol: &str| {
        weak.lines().any(|line| line.trim_start().strip_prefix("w ").is_some_and(|name| name == symbol))
    };
    missing.retain(|symbol| !symbol.contains('@') && !is_weak(symbol));

    let cpu = lib.join("libtorch_cpu.so").canonicalize()?;
    let cuda = cpu.with_file_name("libtorch_cuda.so");
    if cuda.exists() {
        let defined = symbols(&cuda, "--defined-only")?;
        let lost: Vec<_> = missing.difference(&defined).collect();
        ensure!(lost.is_empty(), "{} does not define {lost:?}", cuda.display());
    }
    let named = missing
        .iter()
        .map(|symbol| Ok(read(Command::new("c++filt").arg(symbol))?.trim().to_owned()))
        .collect::<Result<BTreeSet<_>>>()
        .context("c++filt is of binutils")?;
    let others: Vec<_> = named.iter().filter(|name| !name.starts_with(OF_CUDA)).collect();
    ensure!(others.is_empty(), "{} takes more than {OF_CUDA}*: {others:?}", library.display());
    Ok(named)
}
