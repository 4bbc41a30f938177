//! A checkpoint that PyTorch 2.11 made: looked into, resharded, converted, damaged.

use super::Story;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// A real TorchTitan-like checkpoint: model, AdamW state and training state, saved by PyTorch 2.11 from 2 FSDP ranks.
const FIXTURE: &str = "fixtures/torch-2.11/llama_ws2_fsdp/ckpt";

/// Shows it in a folder that is made.
pub(super) fn run(story: &Story, folder: &Path) -> Result<()> {
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
    let steps: &[(&str, &[&str])] = &[
        ("a run's checkpoints", &["ls", &at("run"), "--long"]),
        ("what is in it", &["inspect", &source, "--html", &page]),
        ("is it sound", &["verify", &source, "--deep"]),
        ("one slice of one tensor", &["cat", &source, "layers.0.attention.wq.weight[0:2,0:4]"]),
        ("from 2 ranks to 4", &["reshard", &source, &four, "--dp-shard", "4"]),
        ("nothing changed", &["diff", &source, &four]),
        ("to the native format", &["convert", &source, &native, "--to", "titan"]),
        ("every checksum", &["verify", &native, "--deep"]),
        ("to safetensors", &["convert", &source, &tensors, "--to", "safetensors", "--drop-values"]),
        ("the tensors are equal", &["diff", &source, &tensors, "--include", "layers.*"]),
        ("to one file for torch.load", &["convert", &native, &file, "--to", "pt"]),
        ("nothing changed", &["diff", &source, &file]),
    ];
    for (title, words) in steps {
        story.ckpt(title, words, 0)?;
    }
    flip_a_bit(&native)?;
    story.ckpt("one bit of the native checkpoint flipped", &["verify", &native, "--deep"], 1)?;
    println!("\nopen {page} in a browser to see which rank holds what");
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
