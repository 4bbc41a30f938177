//! Figures as a table, and the table in its place in BENCHMARKS.md.

/// One line of the table.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    comparison: &'static str,
    side: &'static str,
    median_s: f64,
    min_s: f64,
    max_s: f64,
    /// How many times as long as ours; `None` for ours.
    ratio: Option<f64>,
}

/// The rows of one comparison; the first side is ours.
pub(super) fn rows(comparison: &'static str, sides: Vec<(&'static str, Vec<f64>)>) -> Vec<Row> {
    let ours = sides.first().map_or(f64::NAN, |(_, seconds)| median(seconds));
    let row = |(index, (side, seconds)): (usize, &(&'static str, Vec<f64>))| Row {
        comparison,
        side,
        median_s: median(seconds),
        min_s: seconds.iter().copied().fold(f64::INFINITY, f64::min),
        max_s: seconds.iter().copied().fold(0.0, f64::max),
        ratio: (index > 0).then(|| median(seconds) / ours),
    };
    sides.iter().enumerate().map(row).collect()
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The section's text.
pub(super) fn render(machine: &str, gib: f64, repetitions: u32, cache: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "{machine}.\n\n{gib} GiB float32, 291 tensors, saved by PyTorch 2.11 from 2 ranks; {repetitions} runs of each \
         side in turns, {cache} page cache.\nThe last column is the side's median over ours: above 1, ours is faster.\n\n\
         | comparison | side | median s | min s | max s | x ours |\n|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let ratio = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        text.push_str(&format!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {ratio} |\n",
            row.comparison, row.side, row.median_s, row.min_s, row.max_s
        ));
    }
    text
}

/// Puts a section in the place of the one of that name, or at the end.
pub(super) fn replace(document: &str, name: &str, text: &str) -> String {
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
    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let rows = rows("copy", vec![("ours", vec![2.0, 9.0, 1.0]), ("cp", vec![4.0, 1.0])]);
        assert_eq!((rows[0].median_s, rows[0].ratio), (2.0, None));
        assert_eq!((rows[1].median_s, rows[1].min_s, rows[1].max_s), (2.5, 1.0, 4.0));
        assert_eq!(rows[1].ratio, Some(1.25));
        let text = render("machine", 2.0, 3, "warm", &rows);
        assert!(text.contains("| copy | cp | 2.50 | 1.00 | 4.00 | 1.25 |\n"), "{text}");
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
