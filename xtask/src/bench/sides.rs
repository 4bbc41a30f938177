//! Runs the sides of a comparison in turns.

use super::comparisons::{Comparison, Run, Side, Source};
use super::section::Figures;
use crate::peers;
use crate::process::{cargo, run as run_command, watch, words};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What all sides share.
pub(super) struct Bench {
    root: PathBuf,
    python: PathBuf,
    folder: PathBuf,
    gib: f64,
    cold: bool,
}

/// What one process said of itself.
#[derive(Default)]
struct Said {
    seconds: Option<f64>,
    wanted_bytes: u64,
    read_bytes: u64,
}

impl Bench {
    /// Builds ours, finds the peer.
    pub(super) fn new(root: &Path, gib: f64, cold: bool) -> Result<Self> {
        for what in [
            &["titan-ckpt"][..],
            &["dcp", "--example", "load_shard"],
            &["dcp", "--example", "save_state"],
            &["e2e", "--example", "scale"],
            &["e2e", "--example", "s3_upload"],
        ] {
            run_command(cargo(&["build", "--release", "--package"]).args(what).current_dir(root))?;
        }
        let python = peers::ensure_peer(root, peers::find("2.11")?)?.python;
        let folder = root.join(".bench");
        fs::create_dir_all(&folder)?;
        Ok(Bench { root: root.to_owned(), python, folder, gib, cold })
    }

    /// The checkpoint, made unless it is there.
    fn source(&self, source: Source) -> Result<PathBuf> {
        let (kind, gib) = match source {
            Source::Rows => ("rows", self.gib),
            Source::Columns => ("columns", self.gib),
            Source::OneChunk => ("one_chunk", self.gib / 4.0),
            Source::Nothing => return Ok(PathBuf::new()),
        };
        let folder = self.folder.join(format!("{kind}-{gib}gib"));
        if !folder.join(".metadata").exists() {
            println!("    making a checkpoint of {gib} GiB with PyTorch: {kind}");
            let script = self.root.join("xtask/peers/bench_checkpoint.py");
            let mut command = Command::new(&self.python);
            run_command(command.arg(script).arg(kind).arg(&folder).arg(gib.to_string()))?;
        }
        Ok(folder)
    }

    /// Runs the sides in turns; gives each side's figures.
    pub(super) fn compare(&self, comparison: &Comparison, repetitions: u32) -> Result<Vec<Figures>> {
        let source = self.source(comparison.source)?;
        let mut figures = vec![Figures::default(); comparison.sides.len()];
        for turn in 1..=repetitions {
            for (side, figures) in comparison.sides.iter().zip(&mut figures) {
                let said = self
                    .time(side, &source)
                    .with_context(|| format!("{}: {}", comparison.name, side.label))?;
                let seconds = said.seconds.unwrap_or_default();
                println!("    {turn}/{repetitions} {:<42} {seconds:.4} s", side.label);
                figures.seconds.push(seconds);
                figures.amplification =
                    (said.wanted_bytes > 0).then(|| said.read_bytes as f64 / said.wanted_bytes as f64);
            }
        }
        Ok(figures)
    }

    /// Runs one side once, from a settled disk and without its target.
    fn time(&self, side: &Side, source: &Path) -> Result<Said> {
        self.clear()?;
        run_command(&mut Command::new("sync"))?;
        if self.cold {
            fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        let said = self.run(self.commands(side, source))?;
        let seconds = start.elapsed().as_secs_f64();
        self.clear()?;
        Ok(Said { seconds: said.seconds.or(Some(seconds)), ..said })
    }

    /// Runs commands at once; the slowest one's seconds, everyone's bytes.
    fn run(&self, commands: Vec<Command>) -> Result<Said> {
        let results: Vec<Result<Said>> = std::thread::scope(|scope| {
            let spawn = |command| scope.spawn(move || listen(command));
            let running: Vec<_> = commands.into_iter().map(spawn).collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut all = Said::default();
        for said in results {
            let said = said?;
            all.seconds = all.seconds.into_iter().chain(said.seconds).reduce(f64::max);
            all.wanted_bytes += said.wanted_bytes;
            all.read_bytes += said.read_bytes;
        }
        Ok(all)
    }

    fn commands(&self, side: &Side, source: &Path) -> Vec<Command> {
        let release = self.root.join("target/release");
        let target = self.folder.join("out");
        let filled = |mut command: Command, args: &[&str]| {
            for arg in args {
                match (*arg, arg.strip_prefix("DST")) {
                    ("GIB", _) => command.arg(self.gib.to_string()),
                    ("SRC", _) => command.arg(source),
                    (_, Some(extension)) => command.arg(format!("{}{extension}", target.display())),
                    _ => command.arg(arg),
                };
            }
            command
        };
        match side.run {
            Run::Ours(args) => vec![filled(Command::new(release.join("titan-ckpt")), args)],
            Run::Example(name, processes) => {
                let program = release.join("examples").join(name);
                processes.iter().map(|args| filled(Command::new(&program), args)).collect()
            }
            Run::CopyDurably => {
                let mut command = Command::new("sh");
                let script = r#"cp -r "$1" "$2" && find "$2" -type f -exec sync {} + && sync "$2""#;
                command.args(["-c", script, "copy"]).arg(source).arg(&target);
                vec![command]
            }
            Run::Torch(args) => {
                let mut command = Command::new(&self.python);
                command.arg(self.root.join("xtask/peers/bench_peer.py"));
                vec![filled(command, args)]
            }
        }
    }

    /// Removes every output.
    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
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

/// Runs a command and picks up what it says of itself.
fn listen(mut command: Command) -> Result<Said> {
    let (mut said, mut lines) = (Said::default(), Vec::new());
    let status = watch(&mut command, |line| {
        let figure = |name: &str| line.strip_prefix(name)?.trim().parse::<f64>().ok();
        said.seconds = said.seconds.or_else(|| figure("SECONDS "));
        said.wanted_bytes = figure("WANTED_BYTES ").map_or(said.wanted_bytes, |bytes| bytes as u64);
        said.read_bytes = figure("READ_BYTES ").map_or(said.read_bytes, |bytes| bytes as u64);
        lines.push(line.to_owned());
    })?;
    ensure!(status.success(), "`{}` failed: {status}\n{}", words(&command), lines.join("\n"));
    Ok(said)
}
