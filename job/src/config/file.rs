//! A TOML file as assignments.

use super::load::Assignment;
use super::setting::Value;
use super::{names, table};
use crate::error::{Place, Problem};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// What a file assigns, in its order, and all that is wrong with it.
pub(super) fn read(text: &str, path: &Path) -> (Vec<Assignment>, Vec<Problem>) {
    let mut reading = Reading { text, path, assignments: Vec::new(), problems: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        reading.problem(offset, format!("not TOML: {}", error.message()));
    }
    if errors.is_empty() {
        reading.section("", document.get_ref());
    }
    let Reading { mut assignments, mut problems, .. } = reading;
    let position = |place: &Place| match place {
        Place::File { line, column, .. } => (*line, *column),
        Place::Flag | Place::Whole => (0, 0),
    };
    assignments.sort_by_key(|assignment| position(&assignment.place));
    problems.sort_by_key(|problem| position(&problem.place));
    (assignments, problems)
}

/// One value in TOML's notation.
pub(super) fn value_of(text: &str) -> Option<Value> {
    DeValue::parse(text).ok().map(|value| value_from(value.get_ref()))
}

struct Reading<'a> {
    text: &'a str,
    path: &'a Path,
    assignments: Vec<Assignment>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let offset = name.span().start;
            let name = name.get_ref();
            let path = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            let is_section = table::sections().iter().any(|section| section.path == path);
            let has_sections = table::sections().iter().any(|row| is_below(&row.path, &path));
            match (value.get_ref(), table::key(&path)) {
                (value, Some(row)) => {
                    let value = value_from(value);
                    self.assignments.push(Assignment { row, value, place: self.place(offset) });
                }
                (DeValue::Table(below), None) if is_section || has_sections => self.section(&path, below),
                (value, None) if is_section || has_sections => {
                    let found = value_from(value);
                    let message = format!("found `{path} = {found}`, expected a section `[{path}]`");
                    self.problem(offset, message);
                }
                (value, None) => self.unknown(offset, section, &path, value),
            }
        }
    }

    fn unknown(&mut self, offset: usize, section: &str, path: &str, value: &DeValue<'_>) {
        let message = match value {
            DeValue::Table(_) => format!("there is no section `[{path}]`{}", names::sections_like(path)),
            _ if section.is_empty() => {
                format!("`{path}` stands outside of any section{}", names::keys_like(path))
            }
            _ => format!("there is no key `{path}`{}", names::keys_like(path)),
        };
        self.problem(offset, message);
    }

    fn problem(&mut self, offset: usize, message: String) {
        self.problems.push(Problem { place: self.place(offset), message });
    }

    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// Whether a section is in another.
fn is_below(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

fn value_from(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(is_on) => Value::Bool(*is_on),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("an integer beyond 64 bits"), Value::Int),
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other("a number"), Value::Float),
        DeValue::Array(values) => {
            Value::List(values.iter().map(|value| value_from(value.get_ref())).collect())
        }
        DeValue::Table(_) => Value::Other("a table"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
    }
}
