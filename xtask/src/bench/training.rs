//! Tokens per second of the trainer beside TorchTitan 0.2.2 on PyTorch 2.11, and beside itself without checkpoints.
//!
//! The sides of a comparison are runs of the small Llama on the same text with the same flags, in turns. What counts of a run
//! is its tokens over the time of its steps, the first ones left out.

use crate::models;
use crate::process::{cargo, run as run_command};
use anyhow::{Context, Result, bail};
use regex::Regex;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Steps that are left out: memory is taken and pages are touched.
const WARM_UP: u64 = 2;

/// Two ways to run the same steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Race {
    pub(super) name: &'static str,
    ranks: u32,
    /// Of each rank.
    threads: u32,
    steps: u64,
    flags: &'static [&'static str],
    against: Against,
    /// The least that ours may be of the other.
    least: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Against {
    TorchTitan,
    /// Ours with checkpoints, against the same without.
    Itself,
}

const BF16: &[&str] = &["--training.mixed_precision_param=bfloat16"];
const SAVING: &[&str] = &[
    "--checkpoint.enable",
    "--checkpoint.interval=2",
    "--checkpoint.async_mode=async_with_pinned_mem",
    "--checkpoint.writer_threads=1",
    "--checkpoint.keep_latest_k=2",
];

const TP: &[&str] = &["--parallelism.tensor_parallel_degree=2"];
/// A pipeline needs microbatches: four sequences of a quarter of the tokens.
const PP: &[&str] = &[
    "--parallelism.pipeline_parallel_degree=2",
    "--parallelism.pipeline_parallel_schedule=1F1B",
    "--training.local_batch_size=4",
    "--training.seq_len=512",
];

const fn beside(name: &'static str, ranks: u32, threads: u32, flags: &'static [&'static str]) -> Race {
    Race { name, ranks, threads, steps: 8, flags, against: Against::TorchTitan, least: 1.0 }
}

/// To add one: a line here.
pub(super) static RACES: &[Race] = &[
    beside("train: float32, 1 rank of 1 thread", 1, 1, &[]),
    beside("train: float32, 1 rank of 2 threads", 1, 2, &[]),
    beside("train: float32, 2 ranks of 1 thread", 2, 1, &[]),
    beside("train: bfloat16, 1 rank of 1 thread", 1, 1, BF16),
    beside("train: bfloat16, 1 rank of 2 threads", 1, 2, BF16),
    beside("train: bfloat16, 2 ranks of 1 thread", 2, 1, BF16),
    beside("train: float32, tensor parallel 2", 2, 1, TP),
    beside("train: float32, pipeline 2, 1F1B", 2, 1, PP),
    Race {
        name: "train: saved every 2nd step, 1 rank of 1 thread",
        ranks: 1,
        threads: 1,
        steps: 22,
        flags: SAVING,
        against: Against::Itself,
        least: 0.97,
    },
];

/// Tokens per second of every run of both sides, ours first; and of ours what the step loop waited for saves, in percent.
#[derive(Debug, Default)]
pub(super) struct Rates {
    sides: [Vec<f64>; 2],
    waited_percent: Vec<f64>,
}

/// Where races are run.
pub(super) struct Track {
    root: PathBuf,
    folder: PathBuf,
    python: PathBuf,
}

impl Track {
    /// Builds ours, makes TorchTitan's environment where it is not there, and lays out the text.
    pub(super) fn new(root: &Path) -> Result<Self> {
        run_command(&mut cargo(&["build", "--release", "--package", "titan-train"]))?;
        let python = models::ensure_installed(root)?;
        let folder = root.join(".bench/training");
        fs::create_dir_all(&folder)?;
        let text = root.join("fixtures/text/words");
        for (from, to) in [
            ("corpus/data.json.gz", "corpus/data.json.gz"),
            ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json"),
        ] {
            let to = folder.join(to);
            fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
            fs::copy(text.join(from), to)?;
        }
        fs::copy(
            text.join("tokenizer/tokenizer_config.json"),
            folder.join("tokenizer/tokenizer_config.json"),
        )?;
        run_command(Command::new("gzip").args(["-dkf", "corpus/data.json.gz"]).current_dir(&folder))?;
        fs::remove_file(folder.join("corpus/data.json.gz"))?;
        Ok(Track { root: root.to_owned(), folder, python })
    }

    /// Runs both sides in turns.
    pub(super) fn race(&self, race: &Race, repetitions: u32) -> Result<Rates> {
        let mut rates = Rates::default();
        for _ in 0..repetitions {
            for (side, found) in rates.sides.iter_mut().enumerate() {
                let said = self.run(race, side)?;
                found.push(tokens_per_second(&said).with_context(|| format!("{}:\n{said}", race.name))?);
                if side == 0 {
                    rates.waited_percent.extend(self.waited()?);
                }
            }
        }
        Ok(rates)
    }

    /// Runs a side, 0 for ours, and gives what it printed.
    fn run(&self, race: &Race, side: usize) -> Result<String> {
        let _ = fs::remove_dir_all(self.folder.join("checkpoint"));
        let config = self.root.join("tests/peers/torchtitan.toml");
        let is_torchtitan = side == 1 && race.against == Against::TorchTitan;
        let ranks = race.ranks;
        let mut command = match is_torchtitan {
            true => {
                let mut command = Command::new(&self.python);
                command.args([
                    "-m",
                    "torch.distributed.run",
                    "--standalone",
                    &format!("--nproc_per_node={ranks}"),
                ]);
                command.arg(self.root.join("tests/peers/torchtitan_cpu.py"));
                command
            }
            false => {
                let _ = fs::remove_file(self.folder.join("metrics.jsonl"));
                let mut command = Command::new(self.root.join("target/release/titan-train"));
                command.args([format!("--nproc={ranks}"), "--metrics.enable_jsonl".to_owned()]);
                command
            }
        };
        command.arg("--job.config_file").arg(config);
        command.args(["--training.seq_len=2048", "--training.local_batch_size=1"]);
        command.args([format!("--training.steps={}", race.steps), "--checkpoint.no-enable".to_owned()]);
        if !(side == 1 && race.against == Against::Itself) {
            command.args(race.flags);
        }
        command.current_dir(&self.folder).env("OMP_NUM_THREADS", race.threads.to_string());
        command.env("GLOO_SOCKET_IFNAME", "lo").env("TITAN_TORCH_CUDA", "off");
        let output = command.output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if !output.status.success() {
            bail!("{} ended with {}:\n{said}", race.name, output.status);
        }
        Ok(said)
    }

    /// The share of its time that the last run of ours waited for saves.
    fn waited(&self) -> Result<Option<f64>> {
        let text = fs::read_to_string(self.folder.join("metrics.jsonl"))?;
        let (mut waited, mut seconds) = (0.0, 0.0);
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line)?;
            let number = |key: &str| record[key].as_f64().unwrap_or(0.0);
            waited += number("checkpoint_wait_seconds");
            seconds += number("window_seconds");
        }
        Ok((seconds > 0.0).then_some(100.0 * waited / seconds))
    }
}

/// Tokens over time of the steps after the first, as the log has it: the harmonic mean of the steps' rates.
fn tokens_per_second(said: &str) -> Result<f64> {
    let line = Regex::new(r"step:\s*(\d+)\s+loss:.*\btps: ([\d,]+)")?;
    let mut slowness = Vec::new();
    for found in line.captures_iter(said) {
        let (step, rate): (u64, f64) = (found[1].parse()?, found[2].replace(',', "").parse()?);
        if step > WARM_UP {
            slowness.push(1.0 / rate);
        }
    }
    match slowness.len() {
        0 => bail!("no step was logged"),
        steps => Ok(steps as f64 / slowness.iter().sum::<f64>()),
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The section's text.
pub(super) fn render(machine: &str, repetitions: u32, results: &[(&Race, Rates)]) -> String {
    let mut text = format!(
        "{machine}.\n\nllama3 debugmodel (6,163,712 parameters), sequences of 2,048 tokens, one per rank; tokens per second of one \
         rank over the steps after the first {WARM_UP}; medians of {repetitions} runs of each side in turns. TorchTitan is 0.2.2 \
         on PyTorch 2.11, by gloo.\n\n\
         | comparison | ours | the other | ours over the other | least | kept | waited for saves |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for (race, rates) in results {
        let [ours, other] = rates.sides.each_ref().map(|side| median(side));
        let ratio = ours / other;
        let other_name = match race.against {
            Against::TorchTitan => "TorchTitan",
            Against::Itself => "without saves",
        };
        let kept = if ratio >= race.least { "yes" } else { "NO" };
        text += &format!(
            "| {} | {ours:.0} | {other_name}: {other:.0} | {ratio:.2} | {:.2} | {kept} | {:.2} % |\n",
            race.name,
            race.least,
            median(&rates.waited_percent)
        );
    }
    text
}
