//! What people see while they wait, and how sizes are written.

use crate::error::CliError;
use dcp::copy::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Arguments;
use std::io::{BufWriter, IsTerminal, StdoutLock, Write, stderr, stdout};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) use job::quantity::bytes;

/// Between two lines of progress where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// Prints a line to standard error. Where that is closed nobody is listening, and the work goes on.
pub(crate) fn note(line: Arguments<'_>) {
    let _ = writeln!(stderr(), "{line}");
}

/// Buffered standard output, for results. The caller flushes it with `flush`.
pub(crate) fn results() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(stdout().lock())
}

/// Prints one JSON document to standard output.
pub(crate) fn print_json(document: &serde_json::Value) -> std::io::Result<()> {
    let mut out = results();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)?;
    out.flush()
}

/// What came of showing a verdict: a reader that has seen enough (`head`, a pager) is no failure, and the exit code must
/// still tell the verdict.
pub(crate) fn shown(printed: Result<(), CliError>) -> Result<(), CliError> {
    match printed {
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// `1 tensor`, `2 tensors`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Pads the cells of a table to columns; numbers (the columns of `right`) to the right.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = widths[column];
                if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Text of a checkpoint made safe for a terminal: control characters are escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| match char.is_control() {
            true => char.escape_default().collect::<Vec<_>>(),
            false => vec![char],
        })
        .collect()
}

/// How far a command is: a bar on a terminal, a line every few seconds elsewhere.
pub(crate) struct Meter {
    verb: String,
    total_bytes: u64,
    done_bytes: AtomicU64,
    started: Instant,
    gauge: Option<ProgressBar>,
    last_line: Mutex<Instant>,
}

impl Meter {
    /// Starts one; `verb` as in `reading 3.2 GB`.
    pub(crate) fn start(verb: impl Into<String>, total_bytes: u64) -> Self {
        let verb = verb.into();
        let gauge = stderr().is_terminal().then(|| {
            let style =
                "{msg} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            let gauge = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
            gauge.with_style(style).with_message(verb.clone())
        });
        if gauge.is_none() {
            note(format_args!("{verb} {}", bytes(total_bytes)));
        }
        let started = Instant::now();
        Meter {
            verb,
            total_bytes,
            done_bytes: AtomicU64::new(0),
            started,
            gauge,
            last_line: Mutex::new(started),
        }
    }

    /// Ends it and gives the seconds it took.
    pub(crate) fn finish(self) -> f64 {
        if let Some(gauge) = &self.gauge {
            gauge.finish_and_clear();
        }
        self.started.elapsed().as_secs_f64()
    }
}

impl Progress for Meter {
    fn advance(&self, bytes_more: u64) {
        let done = self.done_bytes.fetch_add(bytes_more, Ordering::Relaxed) + bytes_more;
        if let Some(gauge) = &self.gauge {
            gauge.set_position(done);
            return;
        }
        // Whoever finds the clock taken leaves the line to the other thread.
        if let Ok(mut last_line) = self.last_line.try_lock()
            && last_line.elapsed() >= LINE_PERIOD
        {
            *last_line = Instant::now();
            let per_second = done as f64 / self.started.elapsed().as_secs_f64();
            let left = self.total_bytes.saturating_sub(done) as f64 / per_second.max(1.0);
            note(format_args!(
                "{} {} of {}, {}/s, {left:.0} s left",
                self.verb,
                bytes(done),
                bytes(self.total_bytes),
                bytes(per_second as u64)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
    }
}
