//! The command line as assignments.

use super::load::Assignment;
use super::names;
use super::setting::Value;
use super::table::{self, KeyRow};
use crate::error::{Place, Problem};
use std::iter::Peekable;

/// What the command line says.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// Its assignments, in order.
    pub(super) assignments: Vec<Assignment>,
    /// All that is wrong with it.
    pub(super) problems: Vec<Problem>,
    /// Whether `--help` or `-h` is there.
    pub(super) wants_help: bool,
}

/// Reads arguments, the program's name left out.
pub(super) fn read(args: impl Iterator<Item = String>) -> Flags {
    let mut flags = Flags::default();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--") {
            _ if arg == "--help" || arg == "-h" => flags.wants_help = true,
            Some(flag) if !flag.is_empty() => flags.flag(flag, &mut args),
            _ => flags.problem(format!("found `{arg}`, expected a flag: `--section.key value`")),
        }
    }
    flags
}

impl Flags {
    /// One flag without its dashes; takes its value from what follows.
    fn flag(&mut self, flag: &str, args: &mut Peekable<impl Iterator<Item = String>>) {
        let (name, attached) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let path = name.replace('-', "_");
        if let Some((row, is_on)) = switch(&path) {
            let attached = attached.or_else(|| args.next_if(|next| is_on_or_off(next)));
            match attached {
                None => self.assign(row, Value::Bool(is_on)),
                Some(value) => self.problem(with_value(name, row, &value)),
            }
            return;
        }
        let attached = attached.or_else(|| args.next_if(|next| !next.starts_with("--") && next != "-h"));
        match (table::key(&path), attached) {
            (Some(row), Some(value)) => self.assign(row, (row.key.of_text)(&value)),
            (Some(row), None) => self.problem(format!(
                "`--{name}` has no value; expected `--{} VALUE`: {}",
                row.path,
                (row.key.expected)()
            )),
            (None, _) => self.problem(unknown(name, &path)),
        }
    }

    fn assign(&mut self, row: &'static KeyRow, value: Value) {
        self.assignments.push(Assignment { row, value, place: Place::Flag });
    }

    fn problem(&mut self, message: String) {
        self.problems.push(Problem { place: Place::Flag, message });
    }
}

/// The key that is on or off, and which, where a flag is of one.
fn switch(path: &str) -> Option<(&'static KeyRow, bool)> {
    let find = |path: &str| table::key(path).filter(|row| row.key.is_switch);
    let off = || {
        let (section, name) = path.rsplit_once('.')?;
        find(&format!("{section}.{}", name.strip_prefix("no_")?))
    };
    find(path).map(|row| (row, true)).or_else(|| off().map(|row| (row, false)))
}

fn is_on_or_off(text: &str) -> bool {
    ["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A switch that was given a value.
fn with_value(name: &str, row: &KeyRow, value: &str) -> String {
    let (on, off) = (format!("`--{}`", row.path), format!("`--{}`", off_flag(row)));
    let wanted = match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => on,
        "false" | "0" | "no" | "off" => off,
        _ => format!("{on} or {off}"),
    };
    format!("`--{name}` takes no value, found `{value}`; write {wanted}")
}

/// The flag that turns a switch off.
pub(super) fn off_flag(row: &KeyRow) -> String {
    let (section, name) = row.path.rsplit_once('.').unwrap_or(("", &row.path));
    format!("{section}.no-{name}")
}

fn unknown(name: &str, path: &str) -> String {
    if let Some((row, _)) = path.strip_prefix("no_").and_then(switch) {
        return format!("there is no flag `--{name}`; write `--{}`", off_flag(row));
    }
    let valued = path
        .rsplit_once('.')
        .and_then(|(section, name)| table::key(&format!("{section}.{}", name.strip_prefix("no_")?)));
    if let Some(row) = valued {
        let expected = (row.key.expected)();
        return format!("there is no flag `--{name}`: `{}` is not on or off, but {expected}", row.path);
    }
    if let Some(section) = table::sections().iter().find(|section| section.path == path) {
        let key = &section.keys[0].path;
        return format!("`--{name}` is a section; expected one of its keys, as `--{key}`");
    }
    format!("there is no flag `--{name}`{}", names::keys_like(path))
}
