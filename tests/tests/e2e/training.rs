//! The trainer beside TorchTitan, and over S3.

mod matrix;
mod parity;
mod s3;
mod tied;
mod torchtitan;
mod traces;

use flate2::read::GzDecoder;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// What both trainers run: `tests/peers/torchtitan.toml`, from a folder with its corpus and tokenizer.
fn folder() -> TempDir {
    let (folder, text) = (tempfile::tempdir().unwrap(), e2e::fixtures().join("text/words"));
    for name in ["corpus", "tokenizer"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let packed = fs::File::open(text.join("corpus/data.json.gz")).unwrap();
    let mut corpus = fs::File::create(folder.path().join("corpus/data.json")).unwrap();
    std::io::copy(&mut GzDecoder::new(packed), &mut corpus).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(text.join("tokenizer").join(name), folder.path().join("tokenizer").join(name)).unwrap();
    }
    folder
}

fn config() -> std::path::PathBuf {
    e2e::workspace().join("tests/peers/torchtitan.toml")
}

/// How the trainer ended in a folder with these flags, and what it said.
fn run(folder: &Path, flags: &[&str], variables: &[(String, String)]) -> (Option<i32>, String) {
    let mut command = e2e::trainer::command(folder);
    command.arg("--job.config_file").arg(config()).args(flags).envs(variables.iter().cloned());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The same where it ends well.
fn run_well(folder: &Path, flags: &[&str], variables: &[(String, String)]) -> String {
    let (code, said) = run(folder, flags, variables);
    assert_eq!(code, Some(0), "{flags:?}:\n{said}");
    said
}
