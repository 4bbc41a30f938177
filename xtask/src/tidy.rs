//! `cargo xtask tidy`: house rules that rustc and clippy do not know, as tables.

mod edges;
mod files;
mod registered;

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// A text file of the tree.
#[derive(Debug)]
struct Source {
    /// Path from the root, `/`-separated.
    path: String,
    text: String,
}

impl Source {
    /// Lines before the unit tests of a Rust file; all lines of any other file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().take(self.code_lines()).enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Number of lines before the unit tests; none in a file or folder of tests.
    fn code_lines(&self) -> usize {
        if self.path.ends_with("tests.rs") || self.path.contains("/tests/") {
            return 0;
        }
        let lines: Vec<_> = self.text.lines().collect();
        lines
            .windows(2)
            .position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod "))
            .unwrap_or(lines.len())
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Where a rule does not hold.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    path: String,
    /// Line, from 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl Problem {
    fn new(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Problem { path: source.path.clone(), line, message: message.into() }
    }
}

/// A rule: what breaks it, over the whole tree.
type Rule = fn(&[Source]) -> Vec<Problem>;

static RULES: &[Rule] = &[
    files::too_long,
    files::nameless,
    files::unfinished,
    files::machine_paths,
    files::stray_unsafe,
    files::not_ascii,
    files::dead,
    registered::missing,
    edges::forbidden,
    edges::impure,
];

/// Checks the tree.
pub(crate) fn run(root: &Path) -> Result<()> {
    let sources = sources(root)?;
    let mut problems: Vec<_> = RULES.iter().flat_map(|rule| rule(&sources)).collect();
    problems.sort();
    for problem in &problems {
        println!("    {}:{}: {}", problem.path, problem.line, problem.message);
    }
    for warning in files::long(&sources) {
        println!("    warning: {}: {}", warning.path, warning.message);
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems in {} files", problems.len(), sources.len());
    }
    println!("    {} files: tidy", sources.len());
    Ok(())
}

/// Every text file that git does not ignore, fixtures' data left out.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut walk = ignore::WalkBuilder::new(root);
    walk.hidden(false).require_git(false).git_global(false).git_exclude(false).parents(false);
    for entry in walk.build() {
        let entry = entry?;
        let path = entry.path().strip_prefix(root)?.to_string_lossy().replace('\\', "/");
        let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
        if !is_file
            || path == ".git"
            || [".git/", "fixtures/torch-"].iter().any(|prefix| path.starts_with(prefix))
        {
            continue;
        }
        let bytes = fs::read(entry.path()).with_context(|| format!("could not read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path, text });
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a made-up tree.
    pub(super) fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    /// Runs a rule on one file and gives the lines where it does not hold.
    pub(super) fn lines(rule: fn(&[Source]) -> Vec<Problem>, path: &str, text: &str) -> Vec<usize> {
        rule(&[source(path, text)]).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn code_ends_where_unit_tests_begin() {
        let text = "a\n#[cfg(test)]\nuse x;\nb\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(source("a.rs", text).code_lines(), 4);
        assert_eq!(source("a.rs", "a\nb\n").code_lines(), 2);
    }

    #[test]
    fn the_tree_is_read_without_what_git_ignores() {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in [
            (".gitignore", &b"/target\n"[..]),
            ("src/a.rs", b"fn a() {}"),
            ("target/b.rs", b"x"),
            ("fixtures/torch-2.11/a/expected.json", b"{}"),
            (".git/config", b"x"),
            ("data.bin", b"\xff\xfe"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let paths: Vec<_> = sources(root.path()).unwrap().into_iter().map(|source| source.path).collect();
        assert_eq!(paths, [".gitignore", "src/a.rs"]);
    }
}
