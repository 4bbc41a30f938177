//! Sections and keys like one that is not there.

use super::table;
use std::cmp::Reverse;

/// How alike names must be, of 1.
const SIMILARITY_MIN: f64 = 0.6;
/// How alike the last parts of two paths must be for the rest not to matter.
const KEY_SIMILARITY_MIN: f64 = 0.8;
/// How much less alike than the first the others may be.
const SIMILARITY_GAP: f64 = 0.15;
/// How many are told.
const SUGGESTIONS_MAX: usize = 3;

/// `; did you mean ...` with the keys most like a path; empty where none is.
pub(super) fn keys_like(path: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(path);
    near(table::keys().map(|row| row.path.as_str()), |candidate| {
        let whole = strsim::normalized_damerau_levenshtein(candidate, path);
        let key = strsim::normalized_damerau_levenshtein(&last(candidate), &wanted);
        // The right key in the wrong section.
        if key >= KEY_SIMILARITY_MIN { whole.max(SIMILARITY_MIN) + key / 4.0 } else { whole }
    })
}

/// The same for sections.
pub(super) fn sections_like(path: &str) -> String {
    near(table::sections().iter().map(|section| section.path.as_str()), |candidate| {
        strsim::normalized_damerau_levenshtein(candidate, path)
    })
}

/// The same for any names.
pub(crate) fn near<'a>(names: impl Iterator<Item = &'a str>, score: impl Fn(&str) -> f64) -> String {
    let mut scored: Vec<(f64, &str)> = names.map(|name| (score(name), name)).collect();
    scored.retain(|(score, _)| *score >= SIMILARITY_MIN);
    let best = scored.iter().map(|(score, _)| *score).fold(0.0, f64::max);
    scored.retain(|(score, _)| *score >= best - SIMILARITY_GAP);
    scored.sort_by_key(|(score, name)| (Reverse((score * 1e6) as u64), *name));
    let names: Vec<_> = scored.iter().take(SUGGESTIONS_MAX).map(|(_, name)| format!("`{name}`")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}", names.join(" or ")) }
}
