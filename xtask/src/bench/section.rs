//! Figures as a table, and the table in its place in BENCHMARKS.md.

use super::comparisons::{Comparison, Limit, Source};
use anyhow::Result;
use std::fs;
use std::path::Path;

/// What was measured of one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Of every run.
    pub(super) seconds: Vec<f64>,
    /// Bytes read over bytes wanted, where the side counts them.
    pub(super) amplification: Option<f64>,
    /// The most resident memory of a run.
    pub(super) resident_bytes: u64,
    /// Elements that were made up, where the side says how many.
    pub(super) elements: u64,
}

impl Figures {
    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    fn min(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }
}

/// The limit in words, and whether ours (the first side) keeps to it.
fn verdict(limit: Limit, sides: &[Figures]) -> (String, bool) {
    let ours = sides.first().map_or(f64::NAN, Figures::median);
    let other = |index: usize| sides.get(index).map_or(f64::NAN, Figures::median);
    let resident = |index: usize| sides.get(index).map_or(0, |side| side.resident_bytes);
    match limit {
        Limit::Times { slower_than_first, faster_than_second } => {
            let slower = ours / other(1);
            let faster = other(2) / ours;
            let words = format!("at most {slower_than_first:.2} x the copy: {slower:.2}");
            match faster_than_second {
                None => (words, slower <= slower_than_first),
                Some(least) => (
                    format!("{words}; at least {least:.0} x as fast as PyTorch: {faster:.1}"),
                    slower <= slower_than_first && faster >= least,
                ),
            }
        }
        Limit::Faster(least) => {
            let faster = other(1) / ours;
            (format!("at least {least:.0} x as fast as PyTorch: {faster:.1}"), faster >= least)
        }
        Limit::Seconds(most) => (format!("at most {most} s: {ours:.4}"), ours <= most),
        Limit::Startup { seconds_max, resident_mib_max } => {
            let mib = resident(0) >> 20;
            let words = format!("at most {seconds_max} s: {ours:.4}; at most {resident_mib_max} MiB: {mib}");
            (words, ours <= seconds_max && mib > 0 && mib <= resident_mib_max)
        }
        Limit::Amplification(most) => {
            let amplification = sides.first().and_then(|ours| ours.amplification).unwrap_or(f64::NAN);
            (format!("at most {most} x the wanted bytes: {amplification:.3}"), amplification <= most)
        }
        Limit::Frugal { slower_than_first, resident_mib_max } => {
            let (slower, mib) = (ours / other(1), resident(0) >> 20);
            let mut words = match slower_than_first {
                Some(most) => format!("at most {most:.2} x the copy: {slower:.2}"),
                None => format!("{slower:.2} x the copy"),
            };
            words += &format!("; at most {resident_mib_max} MiB: {mib}");
            if let Some(elements) = sides.first().map(|ours| ours.elements).filter(|&elements| elements > 0) {
                words += &format!("; {:.0} million elements/s", elements as f64 / ours / 1e6);
            }
            let is_fast = slower_than_first.is_none_or(|most| slower <= most);
            (words, is_fast && mib > 0 && mib <= resident_mib_max)
        }
        Limit::Leaner { faster, smaller } => {
            let (found, less) = (other(1) / ours, resident(1) as f64 / resident(0) as f64);
            (
                format!(
                    "at least {faster:.0} x as fast: {found:.1}; in {smaller:.0} x less memory: {less:.1}"
                ),
                found >= faster && less >= smaller,
            )
        }
    }
}

/// The section's text.
pub(super) fn render(
    machine: &str,
    gib: f64,
    repetitions: u32,
    cache: &str,
    results: &[(&Comparison, Vec<Figures>)],
) -> String {
    let of_families = |source: Source| matches!(source, Source::Seeded(_) | Source::Exported(_));
    let sources = match results.iter().all(|(comparison, _)| of_families(comparison.source)) {
        true => "Models with the shapes of the named ones and as many layers as is said, seeded by `titan-ckpt seed` for 4 \
                 ranks (vocabulary of the last three with copies: 2,048). `cp` + fsync is of the source. TorchTitan, where \
                 it is a side, is 0.2.2 on PyTorch 2.11, timed without its imports"
            .to_owned(),
        false => format!(
            "Checkpoints of {gib} GiB float32 in 291 tensors, saved by PyTorch 2.11 from 2 ranks (\"one chunk\": one \
             tensor of {} GiB)",
            gib / 4.0
        ),
    };
    let mut text = format!(
        "{machine}.\n\n{sources}; {repetitions} runs of each side in turns, {cache} page cache.\n\n\
         | comparison | side | median s | min s | max s | median over ours | read / wanted | max MiB |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    for (comparison, sides) in results {
        let ours = sides.first().map_or(f64::NAN, Figures::median);
        for (side, figures) in comparison.sides.iter().zip(sides) {
            text.push_str(&format!(
                "| {} | {} | {:.3} | {:.3} | {:.3} | {:.2} | {} | {} |\n",
                comparison.name,
                side.label,
                figures.median(),
                figures.min(),
                figures.max(),
                figures.median() / ours,
                figures.amplification.map_or(String::new(), |amplification| format!("{amplification:.3}")),
                figures.resident_bytes >> 20,
            ));
        }
    }
    text.push_str("\n| comparison | limit: found | kept |\n|---|---|---|\n");
    for (comparison, sides) in results {
        let (words, kept) = verdict(comparison.limit, sides);
        text.push_str(&format!("| {} | {words} | {} |\n", comparison.name, if kept { "yes" } else { "NO" }));
    }
    text
}

/// Puts a section into BENCHMARKS.md.
pub(crate) fn write(root: &Path, name: &str, text: &str) -> Result<()> {
    let path = root.join("BENCHMARKS.md");
    let old = fs::read_to_string(&path).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
    fs::write(&path, replace(&old, name, text))?;
    println!("written to BENCHMARKS.md");
    Ok(())
}

/// Puts a section in the place of the one of that name, or at the end.
fn replace(document: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- begin {name} -->"), format!("<!-- end {name} -->"));
    let section = format!("{begin}\n## {name}\n\n{}\n{end}\n", text.trim_end());
    match (document.find(&begin), document.find(&end)) {
        (Some(from), Some(until)) if from < until => {
            let rest = document[until + end.len()..].trim_start_matches('\n');
            let gap = if rest.is_empty() { "" } else { "\n" };
            format!("{}{section}{gap}{rest}", &document[..from])
        }
        _ => format!("{}\n\n{section}", document.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::comparisons::{Run, Side, Source};
    use super::*;

    fn figures(seconds: &[f64]) -> Figures {
        Figures { seconds: seconds.to_vec(), ..Figures::default() }
    }

    #[test]
    fn limits_are_kept_by_medians() {
        let sides = [figures(&[2.0, 9.0, 1.0]), figures(&[4.0, 1.0]), figures(&[6.0])];
        let times = |slower, faster| Limit::Times { slower_than_first: slower, faster_than_second: faster };
        assert!(verdict(times(0.8, None), &sides).1);
        assert!(!verdict(times(0.79, None), &sides).1);
        assert!(verdict(times(0.8, Some(3.0)), &sides).1);
        assert!(!verdict(times(0.8, Some(3.1)), &sides).1);
        assert!(verdict(Limit::Faster(1.25), &sides).1);
        assert!(!verdict(Limit::Seconds(1.9), &sides).1);
        assert!(!verdict(Limit::Amplification(1.1), &sides).1, "nothing was counted");
        assert!(!verdict(Limit::Faster(1.0), &sides[..1]).1, "there is no other side");
    }

    #[test]
    fn limits_of_memory_are_kept_by_the_most() {
        let side = |seconds: f64, mib: u64| Figures { resident_bytes: mib << 20, ..figures(&[seconds]) };
        let sides = [side(2.0, 100), side(4.0, 600)];
        let frugal =
            |slower_than_first, resident_mib_max| Limit::Frugal { slower_than_first, resident_mib_max };
        assert!(verdict(frugal(Some(0.5), 100), &sides).1);
        assert!(!verdict(frugal(Some(0.4), 100), &sides).1);
        assert!(!verdict(frugal(None, 99), &sides).1);
        assert!(!verdict(frugal(None, 99), &[figures(&[1.0])]).1, "nothing was measured");
        let startup = |seconds_max, resident_mib_max| Limit::Startup { seconds_max, resident_mib_max };
        assert!(verdict(startup(2.0, 100), &sides).1);
        assert!(!verdict(startup(1.9, 100), &sides).1);
        assert!(!verdict(startup(2.0, 99), &sides).1);
        let leaner = |faster, smaller| Limit::Leaner { faster, smaller };
        assert!(verdict(leaner(2.0, 6.0), &sides).1);
        assert!(!verdict(leaner(2.1, 6.0), &sides).1);
        assert!(!verdict(leaner(2.0, 6.1), &sides).1);
        let made = [Figures { elements: 6_000_000, ..sides[0].clone() }];
        assert!(verdict(frugal(None, 100), &made).0.ends_with("; 3 million elements/s"));
    }

    #[test]
    fn a_section_names_every_side_and_limit() {
        let side = |label| Side { label, run: Run::CopyDurably };
        let sides: &'static [Side] = Box::leak(Box::new([side("ours"), side("cp")]));
        let comparison =
            Comparison { name: "copy", source: Source::Nothing, sides, limit: Limit::Faster(2.0) };
        let results = [(&comparison, vec![figures(&[2.0]), figures(&[2.5])])];
        let text = render("machine", 2.0, 1, "warm", &results);
        assert!(text.contains("| copy | cp | 2.500 | 2.500 | 2.500 | 1.25 |  | 0 |\n"), "{text}");
        assert!(text.contains("| copy | at least 2 x as fast as PyTorch: 1.2 | NO |\n"), "{text}");
    }

    #[test]
    fn a_section_is_replaced_in_its_place() {
        let one = replace("# Benchmarks\n", "a", "old");
        let two = replace(&one, "b", "other");
        let three = replace(&two, "a", "new");
        assert!(!three.contains("old"), "{three}");
        assert!(three.find("new").unwrap() < three.find("other").unwrap(), "{three}");
        assert_eq!(replace(&three, "a", "new"), three);
    }
}
