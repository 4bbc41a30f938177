//! `cargo xtask demo`: the main job on a real checkpoint, every command shown with what it prints and how long it takes.

use crate::process::{cargo, run as run_command};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A real TorchTitan-like checkpoint: model, AdamW state and training state, saved by PyTorch 2.11 from 2 FSDP ranks.
const FIXTURE: &str = "fixtures/torch-2.11/llama_ws2_fsdp/ckpt";

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Folder for what the demo writes; made anew
    #[arg(long, default_value = ".demo")]
    folder: String,
}

/// What a step of the demo must end with.
enum Expect {
    Ok,
    /// A command that must find a difference or damage.
    Found,
}

/// `cargo xtask demo`.
pub(crate) fn run(root: &Path, args: &DemoArgs) -> Result<()> {
    std::env::set_current_dir(root)?;
    println!("building titan-ckpt");
    run_command(&mut cargo(&["build", "--release", "--package", "titan-ckpt"]))?;
    let folder = Path::new(&args.folder);
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not clear {}", folder.display()))?;
    }
    let step = folder.join("run/step-2");
    fs::create_dir_all(&step)?;
    for entry in fs::read_dir(FIXTURE)? {
        let entry = entry?;
        fs::copy(entry.path(), step.join(entry.file_name()))?;
    }
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let source = step.to_string_lossy().into_owned();
    let page = at("page.html");
    let (four, native, tensors, file) = (at("four-ranks"), at("native"), at("safetensors"), at("whole.pt"));
    let steps: &[(&str, &[&str], Expect)] = &[
        ("a run's checkpoints", &["ls", &at("run"), "--long"], Expect::Ok),
        ("what is in it", &["inspect", &source, "--html", &page], Expect::Ok),
        ("is it sound", &["verify", &source, "--deep"], Expect::Ok),
        ("one slice of one tensor", &["cat", &source, "layers.0.attention.wq.weight[0:2,0:4]"], Expect::Ok),
        ("from 2 ranks to 4", &["reshard", &source, &four, "--dp-shard", "4"], Expect::Ok),
        ("nothing changed", &["diff", &source, &four], Expect::Ok),
        ("to the native format", &["convert", &source, &native, "--to", "titan"], Expect::Ok),
        ("every checksum", &["verify", &native, "--deep"], Expect::Ok),
        (
            "to safetensors",
            &["convert", &source, &tensors, "--to", "safetensors", "--drop-values"],
            Expect::Ok,
        ),
        ("the tensors are equal", &["diff", &source, &tensors, "--include", "layers.*"], Expect::Ok),
        ("to one file for torch.load", &["convert", &native, &file, "--to", "pt"], Expect::Ok),
        ("nothing changed", &["diff", &source, &file], Expect::Ok),
    ];
    for (title, words, expect) in steps {
        show(title, words, expect)?;
    }
    flip_a_bit(&native)?;
    show("one bit of the native checkpoint flipped", &["verify", &native, "--deep"], &Expect::Found)?;
    println!("\nopen {page} in a browser to see which rank holds what");
    Ok(())
}

fn show(title: &str, words: &[&str], expect: &Expect) -> Result<()> {
    println!("\n# {title}\n$ titan-ckpt {}", words.join(" "));
    let start = Instant::now();
    let output = Command::new("target/release/titan-ckpt").args(words).output()?;
    let seconds = start.elapsed().as_secs_f64();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    const LINES_MAX: usize = 30;
    lines.iter().take(LINES_MAX).for_each(|line| println!("{line}"));
    if lines.len() > LINES_MAX {
        println!("... {} more lines", lines.len() - LINES_MAX);
    }
    println!("[{seconds:.3} s]");
    let expected = match expect {
        Expect::Ok => 0,
        Expect::Found => 1,
    };
    if output.status.code() != Some(expected) {
        bail!("titan-ckpt {} ended with {}, expected status {expected}", words.join(" "), output.status);
    }
    Ok(())
}

/// Flips one bit near the end of the first shard, where tensor data is.
fn flip_a_bit(native: &str) -> Result<()> {
    let mut shards = Vec::new();
    for attempt in fs::read_dir(native)?.filter_map(|entry| entry.ok()).filter(|entry| entry.path().is_dir())
    {
        for file in fs::read_dir(attempt.path())? {
            shards.push(file?.path());
        }
    }
    shards.retain(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    shards.sort();
    let shard = shards.first().context("the native checkpoint has no shard")?;
    let mut bytes = fs::read(shard)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    Ok(fs::write(shard, bytes)?)
}
