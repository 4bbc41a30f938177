//! libtorch for the trainer, in the ignored folder `.libtorch/`: headers and the CPU half of a PyTorch wheel.
//!
//! PyPI has only CUDA builds of torch for Linux. Their `libtorch_cpu.so` serves a machine without a GPU, once stubs stand
//! where it expects two CUDA libraries; what is only for CUDA stays in the wheel. `docs/libtorch.md` says how the same
//! program then finds CUDA.
//!
//!     include/                              headers
//!     lib/libtorch_cpu.so libc10.so libgomp.so.1
//!     lib/libcudart.so.13 libcupti.so.13    stubs, where libtorch was unpacked; not where it is linked to a Python's
//!     lib/libtorch.so                       a linker script in place of the library that asks for CUDA
//!     build-version                         read by the build script of the crate torch-sys

use crate::made::Made;
use crate::peers::{self, BasePython, STUB_MAKER};
use crate::process::{read, run as run_command};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct LibtorchArgs {
    /// A wheel of torch 2.11.0 for Linux, instead of downloading it; `.libtorch` is made anew
    #[arg(long, value_name = "FILE", conflicts_with = "from_python")]
    wheel: Option<PathBuf>,
    /// An interpreter that imports torch 2.11.0: links to its files, instead of downloading; `.libtorch` is made anew
    #[arg(long, value_name = "PYTHON")]
    from_python: Option<PathBuf>,
}

/// Unpacks and checks a wheel. Part of the recipe: another text means another folder.
const UNPACKER: &str = include_str!("../libtorch/unpack.py");
/// Prints version and folder of an installed torch, without loading it.
const LOCATE: &str = "import importlib.metadata as m, importlib.util as u, os; \
    print(m.version('torch')); print(os.path.dirname(u.find_spec('torch').origin))";
/// Loads a library with every symbol that it needs.
const LOAD: &str = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW)";
/// What is linked, from a torch's `lib`.
const LIBRARIES: &[&str] = &["libc10.so", "libtorch_cpu.so", "libgomp.so.1"];
/// In place of `libtorch.so`, which torch-sys links and which would ask for the whole of CUDA.
const LINKER_SCRIPT: &str = "INPUT ( -ltorch_cpu )\n";
/// Written last, with the hash of the recipe.
const STAMP: &str = "titan-recipe";

/// Where `.libtorch` comes from.
enum Source<'a> {
    Download,
    Wheel(&'a Path),
    Python(PathBuf),
}

/// `cargo xtask libtorch`.
pub(crate) fn run(root: &Path, args: &LibtorchArgs) -> Result<()> {
    let source = match (&args.wheel, &args.from_python) {
        (Some(wheel), _) => Some(Source::Wheel(wheel)),
        (None, Some(python)) => Some(Source::Python(python.clone())),
        (None, None) => None,
    };
    make_from(root, source)
}

/// Finds `.libtorch`, or makes it: from the PyTorch that tests compare against if that is there, else by download.
pub(crate) fn ensure_libtorch(root: &Path) -> Result<()> {
    make_from(root, None)
}

fn make_from(root: &Path, source: Option<Source>) -> Result<()> {
    let peer = peers::find("2.11")?;
    let recipe = format!("{} {LIBRARIES:?} {LINKER_SCRIPT} {UNPACKER} {STUB_MAKER}", peer.torch);
    let made = Made {
        folder: root.join(".libtorch"),
        stamp: STAMP,
        recipe: &recipe,
        // A link to a torch that is gone does not count.
        proof: "lib/libtorch_cpu.so",
    };
    made.ensure(source.is_some(), |folder| {
        let start = Instant::now();
        let source =
            source.or_else(|| peers::if_ready(root, peer).map(Source::Python)).unwrap_or(Source::Download);
        fs::create_dir_all(folder.join("lib"))?;
        match source {
            Source::Python(python) => link(&python, peer.torch, folder)?,
            Source::Wheel(wheel) => unpack(&base(peer)?, wheel, peer.torch, folder)?,
            Source::Download => download(&base(peer)?, peer.torch, folder)?,
        }
        fs::write(folder.join("lib/libtorch.so"), LINKER_SCRIPT)?;
        fs::write(folder.join("build-version"), peer.torch)?;
        println!("    .libtorch: torch {} [{:.0} s]", peer.torch, start.elapsed().as_secs_f64());
        Ok(())
    })
}

fn base(peer: &peers::Peer) -> Result<BasePython> {
    BasePython::find(&format!("torch {}", peer.torch), peer.python_minor)
}

/// Links to an installed torch.
fn link(python: &Path, version: &str, folder: &Path) -> Result<()> {
    let located = read(Command::new(python).args(["-c", LOCATE]))
        .with_context(|| format!("{} has no torch; install torch=={version}", python.display()))?;
    let mut lines = located.lines();
    let (found, torch) = (lines.next().unwrap_or_default(), Path::new(lines.next().unwrap_or_default()));
    check_version(&python.display().to_string(), found, version)?;
    println!("    .libtorch: links to {}", torch.display());
    let torch = torch.canonicalize()?;
    symlink(torch.join("include"), folder.join("include"))?;
    for library in LIBRARIES {
        let target = torch.join("lib").join(library);
        ensure!(target.exists(), "{} is missing; is this a torch from PyPI?", target.display());
        symlink(target, folder.join("lib").join(library))?;
    }
    let loaded = torch.join("lib/libtorch_cpu.so");
    read(Command::new(python).args(["-c", LOAD]).arg(&loaded)).map(drop)
}

/// Downloads a wheel, unpacks it and removes it.
fn download(base: &BasePython, version: &str, folder: &Path) -> Result<()> {
    println!("    .libtorch: downloading torch {version} (0.5 GB), without GPU libraries");
    let wheels = tempfile::tempdir_in(folder)?;
    let mut pip = Command::new(&base.program);
    pip.env("TMPDIR", wheels.path());
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar", "off"]);
    pip.args(["--retries", "10", "--dest"]).arg(wheels.path()).arg(format!("torch=={version}"));
    run_command(&mut pip)?;
    let wheel = fs::read_dir(wheels.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    unpack(base, &wheel, version, folder)
}

/// Unpacks what is linked, makes the stubs, and proves that the library loads.
fn unpack(base: &BasePython, wheel: &Path, version: &str, folder: &Path) -> Result<()> {
    println!("    .libtorch: unpacking {}", wheel.file_name().unwrap_or_default().to_string_lossy());
    let unpacked = tempfile::tempdir_in(folder)?;
    let python = |name: &str, script: &str| -> Result<Command> {
        let path = unpacked.path().join(name);
        fs::write(&path, script)?;
        let mut python = Command::new(&base.program);
        python.arg(path);
        Ok(python)
    };
    let found = read(python("unpack.py", UNPACKER)?.arg(wheel).arg(unpacked.path()))?;
    check_version(&wheel.display().to_string(), found.trim(), version)?;
    let lib = unpacked.path().join("torch/lib");
    for library in ["libc10.so", "libtorch_cpu.so"] {
        // Local symbols are a fifth of it, and nothing here reads them.
        run_command(Command::new("strip").arg("--strip-unneeded").arg(lib.join(library)))?;
    }
    let mut stubs = python("make_cuda_stubs.py", STUB_MAKER)?;
    read(stubs.arg(unpacked.path()).args(["--all", "--into-torch-lib"]))?;
    fs::rename(unpacked.path().join("torch/include"), folder.join("include"))?;
    fs::remove_dir(folder.join("lib"))?;
    fs::rename(lib, folder.join("lib"))?;
    read(python("load.py", LOAD)?.arg(folder.join("lib/libtorch_cpu.so"))).map(drop)
}

/// Checks a version such as `2.11.0+cu130`, whose part from the `+` on is left to the builder.
fn check_version(whose: &str, found: &str, expected: &str) -> Result<()> {
    if found.split('+').next() != Some(expected) {
        bail!("{whose} is of torch {found:?}; expected {expected}, which the crate tch is made for");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_without_their_build() {
        for (found, works) in
            [("2.11.0", true), ("2.11.0+cu130", true), ("2.11.1", false), ("2.11.0rc1", false), ("", false)]
        {
            assert_eq!(check_version("x", found, "2.11.0").is_ok(), works, "{found}");
        }
    }
}
