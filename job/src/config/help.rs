//! The table for people: `--help`, and `docs/config.md`.

use super::key::{Key, Status};
use super::setting::Value;
use super::table::{KeyRow, sections};
use std::fmt::Write;

/// Every flag with type, default and meaning, by section.
pub fn help() -> String {
    let mut text = String::from(
        "Flags are `--section.key value` or `--section.key=value`, with `-` for `_` if you like; keys that are on or off\n\
         are `--section.key` and `--section.no-key`. Flags go before the TOML file of --job.config_file, the file before\n\
         the defaults, which are in brackets. Lists are a,b,c; `None` unsets what can be unset. Keys marked + are not\n\
         TorchTitan's. docs/config.md has the same as a page.\n",
    );
    for section in sections() {
        let _ = write!(text, "\n[{}]  {}\n", section.path, section.about);
        for KeyRow { path, key, default } in &section.keys {
            let mark = if key.is_ours { "+ " } else { "  " };
            let kind = if key.is_switch { String::new() } else { format!(" <{}>", (key.short)()) };
            let _ = writeln!(text, "{mark}--{path}{kind} [{default}]");
            let _ = writeln!(text, "        {}", about(key));
        }
    }
    text
}

/// The page `docs/config.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Sections and keys of a job, in TOML or as flags `--section.key`. They are TorchTitan 0.2's; those marked **+** are\n\
         not. Made by `cargo run -p job --example config_reference > docs/config.md`; a test compares.\n\n\
         * A flag goes before the file, the file before the default.\n\
         * `--section.key value` or `--section.key=value`; `-` and `_` are the same. What is on or off takes no value:\n  \
           `--checkpoint.enable`, `--checkpoint.no-enable`.\n\
         * A list is `[\"a\", \"b\"]` in a file and `a,b` after a flag. `None` unsets what may be unset; in a file it is\n  \
           `\"None\"`.\n\
         * `--job.config_file preset:NAME` takes a preset; `job/presets` has them.\n\
         * Types are checked in files as after flags. An integer will do for a float; case does not matter in words.\n\
         * An unknown section or key is an error, and so is a value that is refused; every mistake is told at once.\n\n\
         `titan-train` reads it ([training.md](training.md)); what it differs in from TorchTitan is in\n\
         [differences-from-torchtitan.md](differences-from-torchtitan.md). Degrees of tensor, pipeline and context\n\
         parallelism are checked, and above 1 it refuses them when it starts.\n\n\
         Status: *yes*, acted on; *refused*, any but the default is an error; *unread*, says more of a key that is\n\
         refused; *no effect*, any value is accepted.\n",
    );
    for section in sections() {
        let _ = write!(text, "\n## {}\n\n{}\n\n", section.path, section.about);
        text.push_str("| key | type | default | meaning | status |\n|---|---|---|---|---|\n");
        for KeyRow { key, default, .. } in &section.keys {
            let mark = if key.is_ours { " **+**" } else { "" };
            let kind = (key.short)();
            let default =
                if *default == Value::Text(String::new()) { String::new() } else { format!("`{default}`") };
            let (meaning, status) = (meaning(key), status(key));
            let _ = writeln!(text, "| {}{mark} | {kind} | {default} | {meaning} | {status} |", key.name);
        }
    }
    text
}

/// Meaning and legal values.
fn meaning(key: &Key) -> String {
    match key.rule {
        Some(rule) => format!("{} It {rule}.", key.doc),
        None => key.doc.to_owned(),
    }
}

fn status(key: &Key) -> String {
    let refused: Vec<_> = key
        .refused_values
        .iter()
        .map(|refused| format!("; not `{}`: {}; {}", refused.value, refused.reason, refused.remedy))
        .collect();
    match key.status {
        Status::Implemented => format!("yes{}", refused.concat()),
        Status::Refused { reason, remedy } => format!("refused: {reason}; {remedy}"),
        Status::Inert { of } => format!("unread: goes with `{of}`"),
        Status::Moot { why } => format!("no effect: {why}"),
    }
}

/// Meaning, legal values and, where it is not simply acted on, status.
fn about(key: &Key) -> String {
    match status(key) {
        status if status == "yes" => meaning(key),
        status => format!("{} ({})", meaning(key), status.trim_start_matches("yes; ")),
    }
}
