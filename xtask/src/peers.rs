//! Python environments with the real PyTorch, one per version, in the ignored folder `.peers/`.
//!
//! PyPI has only CUDA builds of torch for Linux. Without its `nvidia-*` dependencies (2 GB that a machine without a
//! GPU has no use for) such a wheel imports once small stub libraries stand where the CUDA libraries would:
//! `xtask/peers/make_cuda_stubs.py` makes them.
//!
//! Environment variables: `TITAN_PEERS`, a folder that holds ready environments (`torch-2.11/bin/python`, ...);
//! `TITAN_PYTHON`, the interpreter to make environments with (default: `python3`).

use crate::made::Made;
use crate::moto;
use crate::process::{read, run as run_command};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct PeersArgs {
    /// A PyTorch version (2.4, 2.11, 2.15), or all of them and the S3 server moto
    #[arg(long, default_value = "all")]
    torch: String,
}

/// One PyTorch that tests compare against.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Major and minor version: the name of its folder and of the fixtures it made.
    pub(crate) version: &'static str,
    /// The exact version installed.
    pub(crate) torch: &'static str,
    /// Minor versions of CPython 3 that have a wheel, first and last.
    pub(crate) python_minor: (u32, u32),
}

/// Every version: the oldest that TorchTitan checkpoints come from, the one that fixtures come from, the newest.
pub(crate) static PEERS: &[Peer] = &[
    Peer { version: "2.4", torch: "2.4.1", python_minor: (8, 12) },
    Peer { version: "2.11", torch: "2.11.0", python_minor: (10, 14) },
    Peer { version: "2.15", torch: "2.15.0", python_minor: (10, 14) },
];

/// What torch imports, what its checkpoints need (numpy, zstandard), and the reference reader of safetensors.
const PACKAGES: &[&str] = &[
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "numpy",
    "packaging",
    "safetensors",
    "sympy",
    "typing_extensions",
    "zstandard",
];

/// Makes the CUDA stubs. Part of the recipe: another text means another environment.
pub(crate) const STUB_MAKER: &str = include_str!("../peers/make_cuda_stubs.py");
/// Proves that an environment works.
const PROBE: &str = include_str!("../peers/probe.py");
/// Written last into an environment, with the hash of the recipe that made it.
const STAMP: &str = "titan-peer-recipe";

/// An environment that works.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) peer: &'static Peer,
    /// Its interpreter.
    pub(crate) python: PathBuf,
}

impl Peer {
    /// The environment variable that tells tests where the interpreter is.
    pub(crate) fn variable(&self) -> String {
        format!("TITAN_PYTHON_{}", self.version.replace('.', "_"))
    }
}

/// `cargo xtask peers`.
pub(crate) fn run(root: &Path, args: &PeersArgs) -> Result<()> {
    let peers = match args.torch.as_str() {
        "all" => PEERS.iter().collect(),
        version => vec![find(version)?],
    };
    for peer in peers {
        let ready = ensure_peer(root, peer)?;
        println!("{}={}", ready.peer.variable(), ready.python.display());
    }
    if args.torch == "all" {
        moto::ensure_installed(root)?;
    }
    Ok(())
}

/// Finds a peer by its version.
pub(crate) fn find(version: &str) -> Result<&'static Peer> {
    PEERS.iter().find(|peer| peer.version == version).with_context(|| {
        let known: Vec<_> = PEERS.iter().map(|peer| peer.version).collect();
        format!("no PyTorch version {version:?}; known: {}", known.join(", "))
    })
}

/// Finds a peer's environment, or makes it.
pub(crate) fn ensure_peer(root: &Path, peer: &'static Peer) -> Result<Ready> {
    let name = format!("torch-{}", peer.version);
    if let Some(folder) = std::env::var_os("TITAN_PEERS") {
        let python = Path::new(&folder).join(&name).join("bin/python");
        if python.exists() {
            let found = probe(&python).with_context(|| format!("{} does not work", python.display()))?;
            ensure!(found == peer.torch, "{} has torch {found}, expected {}", python.display(), peer.torch);
            println!("    {name}: torch {found}, from TITAN_PEERS");
            return Ok(Ready { peer, python });
        }
    }
    let base = BasePython::find(&format!("torch {}", peer.torch), peer.python_minor)?;
    let python = ensure_environment(root, &name, &recipe(peer, &base), |folder| make(peer, &base, folder))?;
    Ok(Ready { peer, python })
}

/// A peer's interpreter, if its environment is there and whole; nothing is made.
pub(crate) fn if_ready(root: &Path, peer: &Peer) -> Option<PathBuf> {
    let name = format!("torch-{}", peer.version);
    let given = std::env::var_os("TITAN_PEERS")
        .map(|folder| Path::new(&folder).join(&name).join("bin/python"))
        .filter(|python| python.exists());
    let made = || {
        let base = BasePython::find(&format!("torch {}", peer.torch), peer.python_minor).ok()?;
        let recipe = recipe(peer, &base);
        let made = environment(root, &name, &recipe);
        made.is_ready().then(|| made.folder.join(made.proof))
    };
    given.or_else(made)
}

/// Everything that decides what a peer's environment holds.
fn recipe(peer: &Peer, base: &BasePython) -> String {
    format!("{} {} {PACKAGES:?} {STUB_MAKER} {PROBE}", peer.torch, base.minor)
}

/// Finds the environment `.peers/NAME`, or makes it; gives its interpreter. `recipe` is everything that decides what it
/// holds.
pub(crate) fn ensure_environment(
    root: &Path,
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let made = environment(root, name, recipe);
    made.ensure(false, make)?;
    Ok(made.folder.join(made.proof))
}

/// The environment `.peers/NAME`, made or not.
fn environment<'a>(root: &Path, name: &str, recipe: &'a str) -> Made<'a> {
    Made { folder: root.join(".peers").join(name), stamp: STAMP, recipe, proof: "bin/python" }
}

/// The interpreter to make environments with.
#[derive(Debug)]
pub(crate) struct BasePython {
    pub(crate) program: String,
    /// Minor version of CPython 3.
    pub(crate) minor: u32,
}

impl BasePython {
    /// Finds an interpreter of these minor versions, first and last, which `package` has wheels for.
    pub(crate) fn find(package: &str, (first, last): (u32, u32)) -> Result<Self> {
        let named = std::env::var("TITAN_PYTHON").ok();
        let programs: Vec<String> = match named {
            Some(program) => vec![program],
            None => std::iter::once("python3".to_owned())
                .chain((first..=last).rev().map(|minor| format!("python3.{minor}")))
                .collect(),
        };
        let mut found = Vec::new();
        for program in programs {
            let version = read(Command::new(&program).args(["-c", "import sys; print(sys.version_info[1])"]));
            let Ok(minor) = version else { continue };
            let minor = minor.trim().parse().with_context(|| format!("{program} printed {minor:?}"))?;
            if (first..=last).contains(&minor) {
                return Ok(BasePython { program, minor });
            }
            found.push(format!("{program} (3.{minor})"));
        }
        bail!(
            "{package} has wheels for CPython 3.{first} to 3.{last}; found {}. Install one and name it in TITAN_PYTHON",
            if found.is_empty() { "no python3".to_owned() } else { found.join(", ") }
        )
    }
}

/// Installs packages into an environment that has no pip inside.
pub(crate) fn install(
    base: &BasePython,
    folder: &Path,
    packages: &[impl AsRef<OsStr>],
    options: &[&str],
) -> Result<()> {
    // Unpacked beside the target, so that the last step of an install is a rename.
    let unpacked = tempfile::tempdir_in(folder)?;
    let mut pip = Command::new(&base.program);
    pip.env("TMPDIR", unpacked.path()).env("PIP_ROOT_USER_ACTION", "ignore");
    pip.args(["-m", "pip", "install", "--only-binary=:all:", "--progress-bar", "off", "--retries", "10"]);
    pip.args(options).arg("--target").arg(site_packages(base, folder)).args(packages);
    run_command(&mut pip)
}

fn site_packages(base: &BasePython, folder: &Path) -> PathBuf {
    folder.join(format!("lib/python3.{}/site-packages", base.minor))
}

/// Makes an environment with a PyTorch.
pub(crate) fn make(peer: &Peer, base: &BasePython, folder: &Path) -> Result<()> {
    let start = Instant::now();
    let name = format!("torch-{}", peer.version);
    let step = |title: &str| println!("    {name}: {title} [{:.0} s]", start.elapsed().as_secs_f64());

    // Without pip inside and with `pip --target` from outside: works where the system's python3 lacks `ensurepip`.
    step("1/4 virtual environment");
    run_command(Command::new(&base.program).args(["-m", "venv", "--without-pip"]).arg(folder))?;

    step(&format!("2/4 torch {} without GPU libraries, numpy and others (0.5 to 0.9 GB)", peer.torch));
    let mut packages = vec![format!("torch=={}", peer.torch)];
    packages.extend(PACKAGES.iter().map(|&package| package.to_owned()));
    install(base, folder, &packages, &["--no-deps"])?;

    step("3/4 stubs for the CUDA libraries");
    let maker = folder.join("make_cuda_stubs.py");
    fs::write(&maker, STUB_MAKER)?;
    read(
        Command::new(&base.program)
            .arg(&maker)
            .arg(site_packages(base, folder))
            .args(["--all", "--into-torch-lib"]),
    )?;

    step("4/4 proof: import, save and load a checkpoint");
    let found = probe(&folder.join("bin/python"))?;
    ensure!(found == peer.torch, "installed torch {found}, expected {}", peer.torch);
    step("done");
    Ok(())
}

/// Runs the probe; gives the version of torch.
fn probe(python: &Path) -> Result<String> {
    Ok(read(Command::new(python).args(["-c", PROBE]))?.trim().to_owned())
}
