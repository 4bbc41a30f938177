//! A training that is killed while it saves, and goes on on another mesh.

use super::Story;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;

/// Steps of the run, and between saves.
const STEPS: u64 = 32;
const INTERVAL: u64 = 6;
/// The save that is under way when the run is killed.
const KILLED_AT: u64 = 18;

/// Loss by step.
type Losses = BTreeMap<u64, f64>;

/// `step: 12  loss:  7.70003` of a line of the log.
fn loss_of(line: &str) -> Option<(u64, f64)> {
    let (_, rest) = line.split_once("step:")?;
    let (step, rest) = rest.split_once("loss:")?;
    Some((step.trim().parse().ok()?, rest.split_whitespace().next()?.parse().ok()?))
}

pub(super) fn run(story: &Story, folder: &Path) -> Result<()> {
    let (first, second) = (story.place(folder, "run"), story.place(folder, "run-of-2"));
    let (dump, steps, interval) = (folder.to_string_lossy(), STEPS.to_string(), INTERVAL.to_string());
    let text = "fixtures/text/words";
    let (tokenizer, corpus) = (format!("{text}/tokenizer"), format!("{text}/corpus"));
    let job = [
        "--job.config_file=preset:llama3_debug",
        &format!("--job.dump_folder={dump}"),
        &format!("--model.hf_assets_path={tokenizer}"),
        &format!("--training.dataset_path={corpus}"),
        &format!("--training.steps={steps}"),
        "--training.seq_len=128",
        "--training.local_batch_size=1",
        "--training.global_batch_size=4",
        "--training.mixed_precision_param=float32",
        "--debug.seed=1",
        "--checkpoint.enable",
        &format!("--checkpoint.interval={interval}"),
        "--checkpoint.async_mode=async_with_pinned_mem",
    ]
    .map(str::to_owned);
    let with = |more: &[&str]| -> Vec<String> {
        job.iter().cloned().chain(more.iter().map(|word| (*word).to_owned())).collect()
    };

    let mut before = Losses::new();
    let words = with(&["--nproc=4", &format!("--checkpoint.folder={}", absolute(&first)?)]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    story.train("4 ranks train, save in the background, and are killed while they save", &words, |line| {
        let found = loss_of(line);
        before.extend(found);
        found.is_some_and(|(step, _)| step == KILLED_AT)
    })?;
    let saved = KILLED_AT - INTERVAL;
    let (whole, cut) = (format!("{first}/step-{saved}"), format!("{second}/step-{saved}"));
    story.ckpt("what is left of the run", &["ls", &first, "--long"], 0)?;
    story.ckpt("is the newest complete step sound", &["verify", &whole, "--deep"], 0)?;
    story.ckpt("from 4 ranks to 2", &["reshard", &whole, &cut, "--dp-shard", "2"], 0)?;
    story.ckpt("nothing changed", &["diff", &whole, &cut], 0)?;

    let mut after = Losses::new();
    let hf = story.place(folder, "hf");
    let words = with(&[
        "--nproc=2",
        &format!("--checkpoint.folder={}", absolute(&second)?),
        "--checkpoint.last_save_in_hf",
        "--checkpoint.last_save_model_only",
        &format!("--checkpoint.export_hf_folder={}", absolute(&hf)?),
    ]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    story.train("2 ranks go on to the end", &words, |line| {
        after.extend(loss_of(line));
        false
    })?;
    let (last, exported) = (format!("{second}/step-{STEPS}"), format!("{hf}/step-{STEPS}"));
    story.ckpt("is the last step sound", &["verify", &last, "--deep"], 0)?;
    story.ckpt("is the export", &["verify", &exported, "--deep"], 0)?;
    story.ckpt("for Hugging Face", &["inspect", &exported], 0)?;
    story.ckpt(
        "the same by hand",
        &[
            "to-hf",
            &last,
            &format!("{hf}/by-hand"),
            "--model",
            "llama3:debugmodel",
            "--hf-assets",
            &tokenizer,
        ],
        0,
    )?;
    report(&before, &after, saved)
}

/// A folder as it is from everywhere; a URL as it is.
fn absolute(place: &str) -> Result<String> {
    match place.contains("://") {
        true => Ok(place.to_owned()),
        false => Ok(std::path::absolute(place)?.to_string_lossy().into_owned()),
    }
}

/// The losses before the kill and after, and how far they are apart where both have a step.
fn report(before: &Losses, after: &Losses, saved: u64) -> Result<()> {
    const WIDTH: f64 = 40.0;
    println!("\n# report\nstep   4 ranks   2 ranks");
    let all: Losses = before.iter().chain(after).map(|(step, loss)| (*step, *loss)).collect();
    let most = all.values().copied().fold(f64::MIN, f64::max);
    let least = all.values().copied().fold(f64::MAX, f64::min);
    let number =
        |losses: &Losses, step| losses.get(&step).map_or(" ".repeat(8), |loss| format!("{loss:8.5}"));
    for (step, loss) in &all {
        let drawn = "#".repeat(1 + ((loss - least) / (most - least).max(1e-9) * WIDTH) as usize);
        println!("{step:4}  {}  {}  {drawn}", number(before, *step), number(after, *step));
    }
    let apart = after.iter().filter_map(|(step, loss)| Some((before.get(step)? - loss).abs() / loss));
    let apart = apart.fold(0f64, f64::max);
    println!(
        "killed after step {KILLED_AT}, while it was saved; went on from step {saved} on half the ranks. Where both have a \
         step, the losses are at most {apart:.1e} apart."
    );
    let first = after.keys().next().context("the second run has steps")?;
    ensure!(*first == saved + 1, "the second run began with step {first}, expected {}", saved + 1);
    ensure!(after.contains_key(&STEPS), "the second run did not come to step {STEPS}");
    ensure!(apart < 1e-5, "the losses before and after are {apart} apart, expected less than 1e-5");
    Ok(())
}
