//! Rules on single files: their names, their length, words that must not be in them.

use super::{Problem, Source};
use regex::Regex;
use std::collections::BTreeSet;

/// Lines of code (unit tests apart) that a file may have.
const LINES_MAX: usize = 700;
/// Lines of code that make one think of cutting the file.
const LINES_LONG: usize = 400;

/// File stems that name no concept.
const NAMELESS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Marks of unfinished work, in code and in scripts.
const UNFINISHED: &str =
    concat!(r"\b(TO", r"DO|FIX", r"ME|XX", r"X)\b|\b(to", r"do|unimple", r"mented)!\(|#\[igno", r"re");

/// Paths that exist on one machine only.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/tm", "p/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Path prefixes where `unsafe` may be written.
const UNSAFE_ALLOWED: &[&str] = &["dcp/src/storage/local", "trainer/src/ffi/"];

/// Files over the cap.
pub(super) fn too_long(sources: &[Source]) -> Vec<Problem> {
    longer(sources, LINES_MAX)
        .map(|(source, lines)| Problem::new(source, 0, format!("{lines} lines of code, at most {LINES_MAX}")))
        .collect()
}

/// Files that are long, but under the cap: a warning.
pub(super) fn long(sources: &[Source]) -> Vec<Problem> {
    longer(sources, LINES_LONG)
        .filter(|(_, lines)| *lines <= LINES_MAX)
        .map(|(source, lines)| Problem::new(source, 0, format!("{lines} lines of code, over {LINES_LONG}")))
        .collect()
}

fn longer(sources: &[Source], limit: usize) -> impl Iterator<Item = (&Source, usize)> {
    sources
        .iter()
        .filter(|source| source.is_rust())
        .map(|source| (source, source.code_lines()))
        .filter(move |(_, lines)| *lines > limit)
}

/// Files whose name says nothing.
pub(super) fn nameless(sources: &[Source]) -> Vec<Problem> {
    sources
        .iter()
        .filter(|source| source.is_rust())
        .filter(|source| source.path.trim_end_matches(".rs").split('/').any(|name| NAMELESS.contains(&name)))
        .map(|source| Problem::new(source, 0, "a file or folder name that names no concept"))
        .collect()
}

/// Marks of unfinished work.
pub(super) fn unfinished(sources: &[Source]) -> Vec<Problem> {
    let mark = Regex::new(UNFINISHED).expect("a constant");
    let of_interest = |source: &&Source| {
        [".rs", ".py", ".sh", ".toml"].iter().any(|end| source.path.ends_with(end))
            || source.path == ".ci/run"
    };
    sources
        .iter()
        .filter(of_interest)
        .flat_map(|source| {
            let lines = source.text.lines().enumerate();
            lines.filter_map(|(index, line)| {
                let found = mark.find(line)?;
                Some(Problem::new(source, index + 1, format!("unfinished work: {}", found.as_str())))
            })
        })
        .collect()
}

/// Paths of one machine.
pub(super) fn machine_paths(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| !source.path.ends_with(".lock")) {
        for (index, line) in source.text.lines().enumerate() {
            if let Some(path) = MACHINE_PATHS.iter().find(|path| line.contains(*path)) {
                let message = format!("{path}: a path of one machine; tests use the tempfile crate");
                problems.push(Problem::new(source, index + 1, message));
            }
        }
    }
    problems
}

/// `unsafe` where it may not be.
pub(super) fn stray_unsafe(sources: &[Source]) -> Vec<Problem> {
    let code = Regex::new(r"\bunsafe\s*(\{|fn\b|impl\b|extern\b|trait\b)").expect("a constant");
    let allowed = |source: &Source| UNSAFE_ALLOWED.iter().any(|prefix| source.path.starts_with(prefix));
    lines_where(sources, |source, line| {
        (!allowed(source) && code.is_match(line))
            .then(|| format!("unsafe outside of {}", UNSAFE_ALLOWED.join(", ")))
    })
}

/// Characters beyond ASCII in code.
pub(super) fn not_ascii(sources: &[Source]) -> Vec<Problem> {
    lines_where(sources, |_, line| {
        let found = line.chars().find(|char| !char.is_ascii())?;
        Some(format!("{}: beyond ASCII", found.escape_unicode()))
    })
}

/// Lines of Rust files, comments apart, that `broken` has a word about.
fn lines_where(sources: &[Source], broken: impl Fn(&Source, &str) -> Option<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (index, line) in source.text.lines().enumerate() {
            if !line.trim_start().starts_with("//")
                && let Some(message) = broken(source, line)
            {
                problems.push(Problem::new(source, index + 1, message));
            }
        }
    }
    problems
}

/// Modules that no `mod` line names: rustc does not see them.
pub(super) fn dead(sources: &[Source]) -> Vec<Problem> {
    let declaration = Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);").expect("a constant");
    let elsewhere = Regex::new(r#"#\[path = "(\w+)\.rs"\]"#).expect("a constant");
    let mut declared = BTreeSet::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let Some((folder, file)) = source.path.rsplit_once('/') else { continue };
        let below = match file {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            // The root of a test binary, a bench or an example: its modules are beside it.
            _ if is_root(folder) => folder.to_owned(),
            _ => source.path.trim_end_matches(".rs").to_owned(),
        };
        for name in elsewhere.captures_iter(&source.text) {
            declared.insert(format!("{folder}/{}", &name[1]));
        }
        for name in declaration.captures_iter(&source.text) {
            declared.insert(format!("{below}/{}", &name[1]));
        }
    }
    let is_dead = |source: &&Source| {
        let Some((folder, file)) = source.path.rsplit_once('/') else { return false };
        let module = match file {
            "lib.rs" | "main.rs" | "build.rs" => return false,
            _ if is_root(folder) => return false,
            "mod.rs" => folder,
            _ => source.path.trim_end_matches(".rs"),
        };
        !declared.contains(module)
    };
    let files = sources.iter().filter(|source| source.is_rust()).filter(is_dead);
    files.map(|source| Problem::new(source, 0, "no `mod` line names it")).collect()
}

/// Folders whose files cargo builds each for itself.
fn is_root(folder: &str) -> bool {
    ["tests", "benches", "examples", "bin", "fuzz_targets"]
        .contains(&folder.rsplit('/').next().unwrap_or(folder))
        && folder.matches('/').count() >= 1
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, source};
    use super::*;

    #[test]
    fn length_is_counted_without_unit_tests() {
        let file = |code: usize, tests: usize| {
            "x\n".repeat(code) + "#[cfg(test)]\nmod tests {\n" + &"y\n".repeat(tests) + "}\n"
        };
        for (code, tests, capped, warned) in
            [(400, 9000, 0, 0), (401, 0, 0, 1), (700, 10, 0, 1), (701, 0, 1, 0), (5000, 0, 1, 0)]
        {
            let files = [source("a/b.rs", &file(code, tests))];
            assert_eq!((too_long(&files).len(), long(&files).len()), (capped, warned), "{code} {tests}");
        }
        assert!(too_long(&[source("a.md", &"x\n".repeat(5000))]).is_empty());
    }

    #[test]
    fn names_say_a_concept() {
        for (path, bad) in [
            ("dcp/src/utils.rs", true),
            ("dcp/src/common/mod.rs", true),
            ("dcp/src/helper.rs", true),
            ("dcp/src/commonality.rs", false),
            ("docs/misc.md", false),
        ] {
            assert_eq!(!nameless(&[source(path, "")]).is_empty(), bad, "{path}");
        }
    }

    #[test]
    fn unfinished_work_is_found() {
        let mark = |halves: [&str; 2]| halves.concat();
        for (text, bad) in [
            (mark(["// TO", "DO: later"]), true),
            (mark(["// FIX", "ME"]), true),
            (mark(["    to", "do!()"]), true),
            (mark(["    unimple", "mented!(\"x\")"]), true),
            (mark(["#[igno", "re = \"slow\"]"]), true),
            ("let todos = 1; // method".to_owned(), false),
        ] {
            assert_eq!(!lines(unfinished, "a/b.rs", &text).is_empty(), bad, "{text}");
        }
    }

    #[test]
    fn machine_paths_are_found_everywhere_but_in_locks() {
        let text = format!("ok\nsee {}a\n", MACHINE_PATHS[0]);
        assert_eq!(lines(machine_paths, "README.md", &text), [2]);
        assert_eq!(lines(machine_paths, "Cargo.lock", &text), [0; 0]);
    }

    #[test]
    fn unsafe_stays_in_its_folder() {
        let code =
            ["    let x = unsa", "fe { y };\n// unsa", "fe { comment }\n#![deny(unsafe_code)]\n"].concat();
        assert_eq!(lines(stray_unsafe, "dcp/src/copy.rs", &code), [1]);
        assert_eq!(lines(stray_unsafe, "trainer/src/step.rs", &code), [1]);
        for path in ["dcp/src/storage/local/direct.rs", "trainer/src/ffi/store.rs"] {
            assert_eq!(lines(stray_unsafe, path, &code), [0; 0]);
        }
    }

    #[test]
    fn code_is_ascii() {
        assert_eq!(lines(not_ascii, "a/b.rs", "let a = 1;\nlet s = \"h\u{e9}\";\n"), [2]);
        assert_eq!(lines(not_ascii, "a/b.md", "h\u{e9}\n"), [0; 0]);
    }

    #[test]
    fn a_module_that_nothing_declares_is_dead() {
        let files = [
            source("dcp/src/lib.rs", "pub mod layout;\nmod a;\n"),
            source("dcp/src/layout/mod.rs", "mod region;\n"),
            source("dcp/src/layout/region.rs", "pub(crate) mod corner;"),
            source("dcp/src/layout/region/corner.rs", ""),
            source("dcp/src/layout/lost.rs", ""),
            source("dcp/src/a.rs", ""),
            source("dcp/src/b.rs", ""),
            source("tests/tests/e2e.rs", "mod support;"),
            source("tests/tests/support/mod.rs", ""),
            source("dcp/fuzz/fuzz_targets/zip.rs", ""),
        ];
        let found: Vec<_> = dead(&files).into_iter().map(|problem| problem.path).collect();
        assert_eq!(found, ["dcp/src/layout/lost.rs", "dcp/src/b.rs"]);
    }
}
