//! Runs the sides of a comparison in turns.

use super::comparisons::{Comparison, Run, Side, Source};
use super::families::Model;
use super::section::Figures;
use crate::process::{cargo, run as run_command, watch_used, words};
use crate::{models, peers};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What all sides share.
pub(super) struct Bench {
    root: PathBuf,
    /// With PyTorch 2.11, where something needs it.
    python: Option<PathBuf>,
    /// With TorchTitan, likewise.
    titan_python: Option<PathBuf>,
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
    elements: u64,
    /// The most resident memory of a process.
    resident_bytes: u64,
}

impl Bench {
    /// Builds ours and finds the peers, as far as the comparisons need them.
    pub(super) fn new(root: &Path, gib: f64, cold: bool, chosen: &[&Comparison]) -> Result<Self> {
        let sides = || chosen.iter().flat_map(|comparison| comparison.sides);
        let needs_example =
            |example: &str| sides().any(|side| matches!(side.run, Run::Example(name, _) if name == example));
        run_command(cargo(&["build", "--release", "--package", "titan-ckpt"]).current_dir(root))?;
        for (package, example) in
            [("dcp", "load_shard"), ("dcp", "save_state"), ("e2e", "scale"), ("e2e", "s3_upload")]
        {
            if needs_example(example) {
                let words = ["build", "--release", "--package", package, "--example", example];
                run_command(cargo(&words).current_dir(root))?;
            }
        }
        let is_of_torch = |source| matches!(source, Source::Rows | Source::Columns | Source::OneChunk);
        let with_torch = sides().any(|side| matches!(side.run, Run::Torch(_)))
            || chosen.iter().any(|comparison| is_of_torch(comparison.source));
        let with_titan = sides().any(|side| matches!(side.run, Run::TorchTitan(_)));
        let torch = || anyhow::Ok(peers::ensure_peer(root, peers::find("2.11")?)?.python);
        let python = with_torch.then(torch).transpose()?;
        let titan_python = with_titan.then(|| models::ensure_installed(root)).transpose()?;
        let folder = root.join(".bench");
        fs::create_dir_all(&folder)?;
        Ok(Bench { root: root.to_owned(), python, titan_python, folder, gib, cold })
    }

    /// The checkpoint, made unless it is there.
    fn source(&self, source: Source) -> Result<PathBuf> {
        let (kind, gib) = match source {
            Source::Rows => ("rows", self.gib),
            Source::Columns => ("columns", self.gib),
            Source::OneChunk => ("one_chunk", self.gib / 4.0),
            Source::Seeded(model) => return self.seeded(model),
            Source::Exported(model) => return self.exported(model),
            Source::Nothing => return Ok(PathBuf::new()),
        };
        let folder = self.folder.join(format!("{kind}-{gib}gib"));
        if !folder.join(".metadata").exists() {
            println!("    making a checkpoint of {gib} GiB with PyTorch: {kind}");
            let script = self.root.join("xtask/peers/bench_checkpoint.py");
            let mut command = Command::new(self.python.as_ref().context("PyTorch was not asked for")?);
            run_command(command.arg(script).arg(kind).arg(&folder).arg(gib.to_string()))?;
        }
        Ok(folder)
    }

    /// The initial state of a model, made unless it is there; its `config.json` lies beside it.
    fn seeded(&self, model: &Model) -> Result<PathBuf> {
        let folder = self.folder.join(model.name);
        if !folder.join(".metadata").exists() {
            println!("    making {}", model.name);
            let config = folder.with_extension("json");
            fs::write(&config, model.config)?;
            let mut command = Command::new(self.root.join("target/release/titan-ckpt"));
            command.arg("seed").arg(&folder).arg("--config").arg(&config);
            run_command(command.args(["--dtype", model.dtype, "--dp-shard", "4"]))?;
        }
        Ok(folder)
    }

    /// The same for Hugging Face.
    fn exported(&self, model: &Model) -> Result<PathBuf> {
        let (source, folder) = (self.seeded(model)?, self.folder.join(format!("{}-hf", model.name)));
        if !folder.join("model.safetensors.index.json").exists() {
            let mut command = Command::new(self.root.join("target/release/titan-ckpt"));
            command.arg("to-hf").arg(&source).arg(&folder);
            run_command(command.arg("--config").arg(source.with_extension("json")))?;
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
                    .time(side, comparison.source, &source)
                    .with_context(|| format!("{}: {}", comparison.name, side.label))?;
                let seconds = said.seconds.unwrap_or_default();
                let mib = said.resident_bytes >> 20;
                println!("    {turn}/{repetitions} {:<42} {seconds:.4} s {mib:>6} MiB", side.label);
                figures.seconds.push(seconds);
                figures.resident_bytes = figures.resident_bytes.max(said.resident_bytes);
                figures.elements = said.elements;
                figures.amplification =
                    (said.wanted_bytes > 0).then(|| said.read_bytes as f64 / said.wanted_bytes as f64);
            }
        }
        Ok(figures)
    }

    /// Runs one side once, from a settled disk and without its target.
    fn time(&self, side: &Side, of: Source, source: &Path) -> Result<Said> {
        self.clear()?;
        run_command(&mut Command::new("sync"))?;
        if self.cold {
            fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        let said = self.run(self.commands(side, of, source)?)?;
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
            all.elements += said.elements;
            all.resident_bytes = all.resident_bytes.max(said.resident_bytes);
        }
        Ok(all)
    }

    fn commands(&self, side: &Side, of: Source, source: &Path) -> Result<Vec<Command>> {
        let release = self.root.join("target/release");
        let target = self.folder.join("out");
        let config = match of {
            Source::Seeded(model) | Source::Exported(model) => {
                self.folder.join(model.name).with_extension("json")
            }
            _ => PathBuf::new(),
        };
        let filled = |mut command: Command, args: &[&str]| {
            for arg in args {
                match (*arg, arg.strip_prefix("DST")) {
                    ("GIB", _) => command.arg(self.gib.to_string()),
                    ("SRC", _) => command.arg(source),
                    ("CONFIG", _) => command.arg(&config),
                    (_, Some(extension)) => command.arg(format!("{}{extension}", target.display())),
                    _ => command.arg(arg),
                };
            }
            command
        };
        Ok(match side.run {
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
                let python = self.python.as_ref().context("PyTorch was not asked for")?;
                let mut command = Command::new(python);
                command.arg(self.root.join("xtask/peers/bench_peer.py"));
                vec![filled(command, args)]
            }
            Run::TorchTitan(args) => {
                let python = self.titan_python.as_ref().context("TorchTitan was not asked for")?;
                let mut command = Command::new(python);
                command.arg(self.root.join("xtask/peers/bench_titan.py"));
                vec![filled(command, args)]
            }
        })
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
    let (status, resident_bytes) = watch_used(&mut command, |line| {
        let figure = |name: &str| line.strip_prefix(name)?.trim().parse::<f64>().ok();
        said.seconds = said.seconds.or_else(|| figure("SECONDS "));
        said.wanted_bytes = figure("WANTED_BYTES ").map_or(said.wanted_bytes, |bytes| bytes as u64);
        said.read_bytes = figure("READ_BYTES ").map_or(said.read_bytes, |bytes| bytes as u64);
        let before = line.strip_suffix(" elements, seed 0").and_then(|line| line.rsplit(' ').next());
        said.elements = before.and_then(|count| count.parse().ok()).unwrap_or(said.elements);
        lines.push(line.to_owned());
    })?;
    said.resident_bytes = resident_bytes;
    ensure!(status.success(), "`{}` failed: {status}\n{}", words(&command), lines.join("\n"));
    Ok(said)
}
