//! Plugins stand in a table that a person can read: what is in the folder and not in the table is a mistake.

use super::{Problem, Source};
use std::collections::BTreeSet;

/// A folder of plugins and the table that lists them.
struct Table {
    folder: &'static str,
    /// The file with the table, in that folder.
    file: &'static str,
    /// The start of the table's item, up to its brackets.
    item: &'static str,
    /// What a file holds when it is a plugin.
    mark: &'static str,
    /// Modules that hold the mark and are no plugin: wrappers around others, and doubles for tests.
    exempt: &'static [&'static str],
}

static TABLES: &[Table] = &[
    Table {
        folder: "dcp/src/format",
        file: "mod.rs",
        item: "pub static FORMATS",
        mark: "impl Format for ",
        exempt: &["conformance"],
    },
    Table {
        folder: "dcp/src/storage",
        file: "mod.rs",
        item: "pub static STORES",
        mark: "impl Storage for ",
        exempt: &["conformance", "counting", "faulty", "memory"],
    },
    Table {
        folder: "convert/src/families",
        file: "mod.rs",
        item: "pub static FAMILIES",
        mark: "impl Family for ",
        exempt: &[],
    },
];

/// Plugins that their table does not list.
pub(super) fn missing(sources: &[Source]) -> Vec<Problem> {
    TABLES.iter().flat_map(|table| missing_from(table, sources)).collect()
}

fn missing_from(table: &Table, sources: &[Source]) -> Vec<Problem> {
    let path = format!("{}/{}", table.folder, table.file);
    let Some(listing) = sources.iter().find(|source| source.path == path) else { return Vec::new() };
    let Some(rows) = rows(&listing.text, table.item) else {
        return vec![Problem::new(listing, 0, format!("no table `{}`", table.item))];
    };
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for source in sources {
        let Some(below) = source.path.strip_prefix(table.folder).and_then(|below| below.strip_prefix('/'))
        else {
            continue;
        };
        let module = below.split('/').next().unwrap_or(below).trim_end_matches(".rs");
        let is_plugin = source.is_rust()
            && below != table.file
            && !table.exempt.contains(&module)
            && source.code().any(|(_, line)| line.trim_start().starts_with(table.mark));
        if is_plugin && !rows.contains(&format!("{module}::")) && seen.insert(module) {
            problems.push(Problem::new(
                source,
                0,
                format!("`{module}` is in no row of `{}` in {path}", table.item),
            ));
        }
    }
    problems
}

/// The text of a table, from its item to the closing `];`.
fn rows<'a>(text: &'a str, item: &str) -> Option<&'a str> {
    let rest = &text[text.find(item)?..];
    Some(&rest[..rest.find("];")?])
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn a_format_missing_from_its_table_is_named() {
        let plugin = "//! x\nimpl Format for A {\n}\n";
        let table =
            "mod dcp;\npub static FORMATS: &[&dyn Format] =\n    &[&dcp::Dcp, &titan::Titan];\n// pt::Pt\n";
        let files = [
            source("dcp/src/format/mod.rs", table),
            source("dcp/src/format/dcp.rs", plugin),
            source("dcp/src/format/titan/mod.rs", plugin),
            source("dcp/src/format/pt/reader.rs", plugin),
            source("dcp/src/format/conformance.rs", plugin),
            source("dcp/src/format/wire/zip.rs", "//! not a format\n"),
        ];
        let found = missing(&files);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "dcp/src/format/pt/reader.rs");
        assert!(found[0].message.contains("`pt`"), "{}", found[0].message);
    }

    #[test]
    fn a_table_that_is_gone_is_a_problem() {
        let found = missing(&[source("dcp/src/storage/mod.rs", "mod local;\n")]);
        assert!(found[0].message.contains("STORES"));
    }

    #[test]
    fn a_double_in_a_unit_test_is_no_plugin() {
        let files = [
            source("dcp/src/storage/mod.rs", "pub static STORES: &[Scheme] = &[];\n"),
            source(
                "dcp/src/storage/key.rs",
                "\n#[cfg(test)]\nmod tests {\n    impl Storage for Double {}\n}\n",
            ),
        ];
        assert!(missing(&files).is_empty());
    }
}
