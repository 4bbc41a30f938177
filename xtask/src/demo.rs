//! `cargo xtask demo`: the whole story on CPUs, every command shown with what it prints and how long it takes.
//!
//! 1. A small Llama is trained on 4 ranks and saved in the background, and killed in the middle of a save.
//! 2. What is left is looked at, verified, and resharded for 2 ranks.
//! 3. The run goes on there to its end, and is exported for Hugging Face.
//! 4. A report: the losses before and after.
//! 5. A checkpoint that PyTorch made is looked into, converted and damaged.

mod look;
mod story;
mod train;

use crate::libtorch::ensure_libtorch;
use crate::process::{cargo, run as run_command};
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::Path;
use std::time::Instant;
use story::Story;

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Folder for what the demo writes; made anew
    #[arg(long, default_value = ".demo")]
    folder: String,
    /// Stream the checkpoints to an S3 server, which is started for it (moto)
    #[arg(long)]
    s3: bool,
}

/// `cargo xtask demo`.
pub(crate) fn run(root: &Path, args: &DemoArgs) -> Result<()> {
    let begun = Instant::now();
    std::env::set_current_dir(root)?;
    ensure_libtorch(root)?;
    println!("building titan-ckpt and titan-train");
    run_command(&mut cargo(&["build", "--package", "titan-ckpt", "--package", "titan-train", "--bins"]))?;
    let built = begun.elapsed().as_secs_f64();
    let folder = Path::new(&args.folder);
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not clear {}", folder.display()))?;
    }
    fs::create_dir_all(folder)?;
    let story = Story::new(root, args.s3)?;
    train::run(&story, folder)?;
    look::run(&story, &folder.join("look"))?;
    println!("\ndone in {:.0} s, {built:.0} s of them to build", begun.elapsed().as_secs_f64());
    Ok(())
}
