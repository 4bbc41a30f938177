//! Checkpoints under `fixtures/`, made by the real PyTorch, and their lock file.
//!
//! `fixtures/LOCK.toml` lists every fixture: who made it, by which command, and the SHA-256 of every file. Tests read
//! fixtures and never run Python; `--check` proves that they are what was made; `--make` makes them again. PyTorch
//! stores random ids, so that a fixture made again has other hashes: the lock is rewritten, and the diff shows it.

use crate::models;
use crate::peers::{self, Ready};
use crate::process::run as run_command;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

#[derive(Args)]
#[group(required = true)]
pub(crate) struct FixturesArgs {
    /// Check every file against the lock
    #[arg(long)]
    check: bool,
    /// Make fixtures again (such as torch-2.11/ws1_zstd) with the real PyTorch, and lock what came out
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with = "check")]
    make: Vec<String>,
    /// Lock fixtures as they are: for those no command makes
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with_all = ["check", "make"])]
    accept: Vec<String>,
}

/// Folders of fixtures that the environment of transformers and TorchTitan makes, and the script of each.
const BY_MODELS: &[(&str, &str)] = &[
    ("models/", "make/gen_models.py"),
    ("optimizer/", "make/gen_optimizer.py"),
    ("pipeline/", "make/gen_pipeline.py"),
    ("text/", "make/gen_text.py"),
];

/// Files in git stay below this, so that a clone stays quick.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct Lock {
    #[serde(rename = "fixture", default)]
    fixtures: Vec<Fixture>,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// Folder below `fixtures/`.
    name: String,
    /// What wrote it.
    producer: String,
    /// Script (below `fixtures/`) and arguments, run with the producer's Python in an empty folder; empty where no
    /// command makes it.
    command: Vec<String>,
    /// SHA-256 of every file.
    files: BTreeMap<String, String>,
}

/// `cargo xtask fixtures`.
pub(crate) fn run(root: &Path, args: &FixturesArgs) -> Result<()> {
    if args.check {
        let checked = check(root)?;
        println!("{checked}");
        return Ok(());
    }
    let folder = root.join("fixtures");
    let mut lock = read_lock(&folder)?;
    for name in &args.make {
        let fixture = make(root, name).with_context(|| format!("could not make {name}"))?;
        println!("{name}: {} files by {}", fixture.files.len(), fixture.producer);
        lock.put(fixture);
        write_lock(&folder, &lock)?;
    }
    for name in &args.accept {
        let old = lock.fixtures.iter().find(|fixture| fixture.name == *name);
        let (producer, command) = match old {
            Some(old) => (old.producer.clone(), old.command.clone()),
            None => (producer(name), command(name)?),
        };
        lock.put(Fixture { name: name.clone(), producer, command, files: hashes(&folder.join(name))? });
    }
    write_lock(&folder, &lock)
}

/// Checks every file against the lock; gives a line that says how many.
pub(crate) fn check(root: &Path) -> Result<String> {
    let folder = root.join("fixtures");
    let lock = read_lock(&folder)?;
    let mut found = BTreeMap::new();
    for version in versions(&folder)? {
        for (name, sha256) in hashes(&folder.join(&version))? {
            found.insert(format!("{version}/{name}"), sha256);
        }
    }
    let problems = differences(&lock, &found);
    if !problems.is_empty() {
        bail!("fixtures differ from LOCK.toml:\n  {}", problems.join("\n  "));
    }
    for path in large(&folder, found.keys())? {
        println!("warning: {path}");
    }
    Ok(format!("{} fixtures, {} files: as locked", lock.fixtures.len(), found.len()))
}

/// What is missing, extra or changed, one line each.
fn differences(lock: &Lock, found: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut locked = BTreeSet::new();
    for fixture in &lock.fixtures {
        for (file, sha256) in &fixture.files {
            let path = format!("{}/{file}", fixture.name);
            match found.get(&path) {
                None => problems.push(format!("{path}: missing")),
                Some(now) if now != sha256 => {
                    problems.push(format!("{path}: has SHA-256 {now}, locked {sha256}"))
                }
                Some(_) => {}
            }
            if !locked.insert(path.clone()) {
                problems.push(format!("{path}: locked twice"));
            }
        }
    }
    let extra = found.keys().filter(|path| !locked.contains(*path));
    problems.extend(extra.map(|path| format!("{path}: in no fixture of the lock")));
    problems
}

/// Makes a fixture in an empty folder and puts it in place of the old one.
fn make(root: &Path, name: &str) -> Result<Fixture> {
    let folder = root.join("fixtures");
    let lock = read_lock(&folder)?;
    let command = match lock.fixtures.iter().find(|fixture| fixture.name == name) {
        Some(fixture) => fixture.command.clone(),
        None => command(name)?,
    };
    let [script, args @ ..] = command.as_slice() else { bail!("no command makes it: it was made by hand") };
    let (python, made_at) = match is_by_models(name) {
        true => (models::ensure_installed(root)?, name.to_owned()),
        false => {
            let (version, case) = peer_of(name)?;
            let Ready { python, .. } = peers::ensure_peer(root, peers::find(version)?)?;
            (python, format!("torch-{version}/{case}"))
        }
    };

    let made = tempfile::tempdir()?;
    let mut maker = Command::new(&python);
    maker.current_dir(made.path()).arg(folder.join(script)).args(args);
    run_command(&mut maker)?;
    let made = made.path().join(made_at);
    let files = hashes(&made)?;
    ensure!(!files.is_empty(), "{script} made nothing");

    let place = folder.join(name);
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    for file in files.keys() {
        let target = place.join(file);
        fs::create_dir_all(target.parent().unwrap_or(&place))?;
        fs::copy(made.join(file), target)?;
    }
    Ok(Fixture { name: name.to_owned(), producer: producer(name), command, files })
}

fn is_by_models(name: &str) -> bool {
    BY_MODELS.iter().any(|(folder, _)| name.starts_with(folder))
}

/// Version and case of a fixture: `torch-2.11/ws1_zstd`.
fn peer_of(name: &str) -> Result<(&str, &str)> {
    name.strip_prefix("torch-")
        .and_then(|name| name.split_once('/'))
        .filter(|(_, case)| !case.is_empty() && !case.contains('/'))
        .with_context(|| format!("{name:?} names no fixture; expected such as torch-2.11/ws1_zstd"))
}

/// The command that makes a fixture which the lock does not have yet.
fn command(name: &str) -> Result<Vec<String>> {
    for (folder, script) in BY_MODELS {
        if let Some(case) = name.strip_prefix(folder) {
            return Ok([script, case].map(str::to_owned).to_vec());
        }
    }
    let (version, case) = peer_of(name)?;
    let script = if case == "pt_files" { "make/gen_pt_files.py" } else { "make/gen_dcp_fixtures.py" };
    Ok([script, &format!("torch-{version}"), "--only", case].map(str::to_owned).to_vec())
}

fn producer(name: &str) -> String {
    let Ok((version, _)) = peer_of(name) else { return models::PRODUCER.to_owned() };
    peers::find(version).map_or_else(|_| format!("torch {version}"), |peer| format!("torch {}", peer.torch))
}

impl Lock {
    fn put(&mut self, fixture: Fixture) {
        self.fixtures.retain(|old| old.name != fixture.name);
        self.fixtures.push(fixture);
        self.fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

fn read_lock(folder: &Path) -> Result<Lock> {
    let path = folder.join("LOCK.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a lock", path.display()))
}

fn write_lock(folder: &Path, lock: &Lock) -> Result<()> {
    let head = "# Who made each fixture, by which command, and the SHA-256 of every file.\n\
                # Checked by `cargo xtask fixtures --check`, written by `cargo xtask fixtures --make NAME`.\n\n";
    fs::write(folder.join("LOCK.toml"), head.to_owned() + &toml::to_string(lock)?)?;
    Ok(())
}

/// The folders of producers: `torch-2.4`, ...
fn versions(folder: &Path) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && name != "make" {
            versions.push(name);
        }
    }
    versions.sort();
    Ok(versions)
}

/// SHA-256 of every file below a folder, by its `/`-separated name.
fn hashes(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    for entry in ignore::WalkBuilder::new(folder).standard_filters(false).build() {
        let entry = entry?;
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            let name = entry.path().strip_prefix(folder)?.to_string_lossy().replace('\\', "/");
            let sha256 = Sha256::digest(fs::read(entry.path())?);
            hashes.insert(name, sha256.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    Ok(hashes)
}

/// Files over the limit, one line each.
fn large<'a>(folder: &Path, names: impl Iterator<Item = &'a String>) -> Result<Vec<String>> {
    let mut large = Vec::new();
    for name in names {
        let byte_len = fs::metadata(folder.join(name))?.len();
        if byte_len > FILE_BYTES_MAX {
            large.push(format!("{name}: {byte_len} bytes, more than {FILE_BYTES_MAX}"));
        }
    }
    Ok(large)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(files: &[(&str, &str)]) -> Lock {
        let files = files.iter().map(|(name, sha256)| (name.to_string(), sha256.to_string())).collect();
        let (name, producer) = ("torch-2.11/a".to_owned(), "torch 2.11.0".to_owned());
        Lock { fixtures: vec![Fixture { name, producer, command: Vec::new(), files }] }
    }

    #[test]
    fn missing_extra_and_changed_files_are_named() {
        let lock = lock(&[("same", "1"), ("changed", "2"), ("gone", "3")]);
        let found = [("same", "1"), ("changed", "9"), ("new", "4")]
            .map(|(name, sha256)| (format!("torch-2.11/a/{name}"), sha256.to_owned()))
            .into();
        assert_eq!(
            differences(&lock, &found),
            [
                "torch-2.11/a/changed: has SHA-256 9, locked 2",
                "torch-2.11/a/gone: missing",
                "torch-2.11/a/new: in no fixture of the lock",
            ]
        );
    }

    #[test]
    fn a_lock_survives_writing_and_reading() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock(&[("ckpt/.metadata", "1"), ("expected.json", "2")]);
        write_lock(folder.path(), &lock).unwrap();
        assert_eq!(read_lock(folder.path()).unwrap().fixtures, lock.fixtures);
    }

    #[test]
    fn names_of_fixtures() {
        assert_eq!(peer_of("torch-2.11/ws1_zstd").unwrap(), ("2.11", "ws1_zstd"));
        for bad in ["ws1_zstd", "torch-2.11", "torch-2.11/", "torch-2.11/a/b"] {
            assert!(peer_of(bad).is_err(), "{bad}");
        }
    }
}
