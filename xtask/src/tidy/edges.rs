//! Which module of `dcp` may use which. The lower ones are listed with all they may know; the upper ones, not listed,
//! may use anything below them. And what the pure ones may not name at all. ARCHITECTURE.md gives the reasons.

use super::{Problem, Source};
use regex::Regex;

/// A module, and the paths below `crate::` that it may use.
struct Edges {
    module: &'static str,
    may_use: &'static [&'static str],
}

static DCP: &[Edges] = &[
    Edges { module: "error", may_use: &["layout"] },
    Edges { module: "layout", may_use: &[] },
    Edges { module: "model", may_use: &["error", "layout", "storage::Key"] },
    Edges { module: "storage", may_use: &["error", "threads"] },
    Edges { module: "coordinate", may_use: &["error", "threads"] },
    Edges { module: "format", may_use: &["error", "layout", "model", "storage"] },
    Edges { module: "commit", may_use: &["error", "format", "storage"] },
    Edges { module: "plan", may_use: &["error", "layout", "model"] },
    Edges { module: "threads", may_use: &["error"] },
];

/// Modules that compute results from their arguments alone: integers in, integers out.
const PURE: &[&str] = &["layout", "model", "plan"];

/// Other files that are as pure, and folders.
const PURE_FILES: &[&str] = &[
    "dcp/src/commit/protocol.rs",
    "dcp/src/commit/sim.rs",
    "dcp/src/commit/sim/",
    "dcp/src/prune/retention.rs",
    "dcp/src/prune/round.rs",
    // The file of a configuration is read by the caller.
    "job/src/",
    "data/src/order.rs",
];

/// What a pure module may not name: files, the clock, the environment, threads, chance.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime::now",
    "rayon",
    "rand",
];

/// Uses that the table does not allow.
pub(super) fn forbidden(sources: &[Source]) -> Vec<Problem> {
    let path = Regex::new(r"\bcrate::(\{|[\w:]+)").expect("a constant");
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let Some(module) = module(&source.path) else { continue };
        let Some(edges) = DCP.iter().find(|edges| edges.module == module) else { continue };
        let code: Vec<_> = source.code().filter(|(_, line)| !line.trim_start().starts_with("//")).collect();
        for (position, (line, text)) in code.iter().enumerate() {
            for found in path.captures_iter(text) {
                let used = match &found[1] {
                    "{" => group(&code[position..], found.get(0).map_or(0, |whole| whole.end())),
                    used => vec![used.to_owned()],
                };
                let bad = used.iter().filter(|used| !allowed(edges, used));
                problems.extend(bad.map(|used| {
                    let may_use =
                        if edges.may_use.is_empty() { "nothing".into() } else { edges.may_use.join(", ") };
                    let message = format!("`{module}` uses crate::{used}; it may use {may_use}");
                    Problem::new(source, *line, message)
                }));
            }
        }
    }
    problems
}

/// Impure words in pure modules.
pub(super) fn impure(sources: &[Source]) -> Vec<Problem> {
    let words = Regex::new(&format!(r"\b({})\b", IMPURE.join("|"))).expect("constants");
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let is_listed = PURE_FILES.iter().any(|file| source.path.starts_with(file));
        if !is_listed && !module(&source.path).is_some_and(|module| PURE.contains(&module)) {
            continue;
        }
        for (line, text) in source.code().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = words.find(text) {
                let message = format!("this file is pure: no {}", word.as_str());
                problems.push(Problem::new(source, line, message));
            }
        }
    }
    problems
}

/// The top module of `dcp` that a file belongs to.
fn module(path: &str) -> Option<&str> {
    let below = path.strip_prefix("dcp/src/")?;
    Some(below.split('/').next().unwrap_or(below).trim_end_matches(".rs"))
}

fn allowed(edges: &Edges, used: &str) -> bool {
    std::iter::once(&edges.module)
        .chain(edges.may_use)
        .any(|path| used == *path || used.strip_prefix(path).is_some_and(|rest| rest.starts_with("::")))
}

/// The members of `crate::{...}`, nested groups left as their prefix. `start` is the position after the brace.
fn group(code: &[(usize, &str)], start: usize) -> Vec<String> {
    let mut members = vec![String::new()];
    let mut depth = 1;
    let text =
        code.iter().enumerate().map(|(index, (_, line))| if index == 0 { &line[start..] } else { line });
    for char in text.flat_map(|line| line.chars().filter(|char| !char.is_whitespace())) {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => members.push(String::new()),
            _ if depth == 1 => members.last_mut().expect("never empty").push(char),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    members.retain(|member| !member.is_empty());
    members.iter_mut().for_each(|member| *member = member.trim_end_matches("::").to_owned());
    members
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, source};
    use super::*;

    #[test]
    fn edges_of_the_table() {
        for (path, text, bad) in [
            ("dcp/src/layout/region.rs", "use crate::layout::Mesh;", false),
            ("dcp/src/layout/region.rs", "use crate::error::Error;", true),
            ("dcp/src/layout/region.rs", "/// See [`crate::copy`].", false),
            ("dcp/src/model/catalog.rs", "use crate::storage::Key;", false),
            ("dcp/src/model/catalog.rs", "use crate::storage::Keyring;", true),
            ("dcp/src/model/catalog.rs", "use crate::storage::Storage;", true),
            ("dcp/src/storage/local.rs", "fn f(x: crate::model::Fqn) {}", true),
            ("dcp/src/format/dcp.rs", "use crate::{error::Result, model::{Fqn, Value}};", false),
            ("dcp/src/format/dcp.rs", "use crate::{error::Result, copy::Engine};", true),
            ("dcp/src/format/dcp.rs", "use crate::{\n    error::Result,\n    copy::{A, B},\n};", true),
            ("dcp/src/format/dcp.rs", "#[cfg(test)]\nmod tests {\n    use crate::copy::Engine;\n}", false),
            ("dcp/src/copy.rs", "use crate::format::Format;", false),
            ("cli/src/main.rs", "use crate::commands;", false),
        ] {
            assert_eq!(!lines(forbidden, path, text).is_empty(), bad, "{path}: {text}");
        }
    }

    #[test]
    fn pure_modules_name_no_clock_and_no_file() {
        for (path, text, bad) in [
            ("dcp/src/layout/region.rs", "use std::time::Instant;", true),
            ("dcp/src/plan/reads.rs", "let x = std::fs::read(path)?;", true),
            ("dcp/src/plan/reads.rs", "boxes.par_iter(); // rayon", true),
            ("dcp/src/plan/reads.rs", "// unlike std::fs", false),
            ("dcp/src/plan/reads.rs", "let operand = brand;", false),
            ("dcp/src/plan/reads.rs", "#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}", false),
            ("dcp/src/storage/local.rs", "use std::fs::File;", false),
            ("dcp/src/commit.rs", "use rayon::iter::ParallelIterator;", false),
            ("dcp/src/commit/protocol.rs", "use std::time::Instant;", true),
            ("dcp/src/commit/sim/world.rs", "use std::thread;", true),
            ("dcp/src/prune/round.rs", "let now = SystemTime::now();", true),
            ("dcp/src/prune/round.rs", "fn is_old(now: SystemTime) {}", false),
            ("job/src/config/load.rs", "let text = std::fs::read_to_string(path)?;", true),
            ("job/src/config/load.rs", "use std::path::Path;", false),
            ("cli/src/main.rs", "use std::fs;", false),
        ] {
            assert_eq!(!lines(impure, path, text).is_empty(), bad, "{path}: {text}");
        }
    }

    #[test]
    fn the_message_says_what_is_allowed() {
        let found = forbidden(&[source("dcp/src/storage/local.rs", "\nuse crate::model::Fqn;\n")]);
        assert_eq!(found[0].line, 2);
        assert_eq!(found[0].message, "`storage` uses crate::model::Fqn; it may use error, threads");
    }
}
