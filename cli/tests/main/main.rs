//! What a user sees: every command's whole output, exit codes, and messages for wrong input.

mod bad_input;
mod cmd_cat;
mod cmd_convert;
mod cmd_cp;
mod cmd_diff;
mod cmd_help;
mod cmd_inspect;
mod cmd_ls;
mod cmd_models;
mod cmd_plan;
mod cmd_prune;
mod cmd_reshard;
mod cmd_tasks;
mod cmd_verify;

use std::path::Path;
use std::process::Command;

/// A small model with its optimizer state, in one file.
const LLAMA: &str = "torch-2.11/llama_ws4_2d/expected.safetensors";
/// Two files of whole tensors with an index.
const TWO_FILES: &str = "torch-2.11/ws1_hf_two_files/ckpt";
/// Two files of boxes.
const BOXES: &str = "torch-2.11/ws2_hf_sharded/ckpt";
/// One tensor of each type.
const DTYPES: &str = "torch-2.11/ws1_dtypes/expected.safetensors";

/// A run of the program in the folder of fixtures. `TMP` in an argument stands for `folder`.
fn run(folder: &Path, args: &[&str]) -> (i32, String) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let folder = folder.to_str().expect("temporary folders have plain names");
    let args: Vec<_> = args.iter().map(|arg| arg.replace("TMP", folder)).collect();
    let output =
        Command::new(env!("CARGO_BIN_EXE_titan-ckpt")).args(&args).current_dir(fixtures).output().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if !stderr.is_empty() {
        text.push_str("--- stderr\n");
        text.push_str(&stderr);
    }
    let code = output.status.code().unwrap();
    let names = dcp::format::names();
    let mut text = text.replace(folder, "TMP");
    // Another format is no change of these messages.
    for before in ["known: ", "--to: "] {
        text = text.replace(&format!("{before}{names}"), &format!("{before}FORMATS"));
    }
    (code, text.lines().map(|line| redact(line) + "\n").collect())
}

/// Takes times and rates out of a line.
fn redact(line: &str) -> String {
    if let (Some(from), Some(until)) = (line.find(" in "), line.find(" GB/s")) {
        return format!("{} in TIME at RATE{}", &line[..from], &line[until + " GB/s".len()..]);
    }
    match line.find("\"seconds\": ") {
        Some(at) if !line.contains("null") => format!("{}\"seconds\": TIME,", &line[..at]),
        _ => line.to_owned(),
    }
}

/// The whole session of several runs: what was typed, the exit code, what came back.
fn session(folder: &Path, runs: &[&[&str]]) -> String {
    let mut text = String::new();
    for args in runs {
        let (code, output) = run(folder, args);
        text.push_str(&format!("$ titan-ckpt {}\n{output}[{code}]\n\n", args.join(" ")));
    }
    text
}
