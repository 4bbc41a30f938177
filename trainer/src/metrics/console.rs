//! The line of a step, as TorchTitan prints it: tools find steps and losses in logs by it.
//!
//! Source: `MetricsProcessor.log` and `log_validation` in torchtitan/components/metrics.py, `Color` in tools/utils.py, v0.2.2.

use super::memory::{BYTES_PER_GIB, Memory};
use super::record::{Rates, Record, Validation};
use job::quantity::grouped;
use std::ffi::OsStr;

/// Escape sequences, empty where there are no colours.
pub(super) struct Colours {
    pub(super) red: &'static str,
    pub(super) green: &'static str,
    pub(super) yellow: &'static str,
    pub(super) blue: &'static str,
    pub(super) magenta: &'static str,
    pub(super) cyan: &'static str,
    pub(super) orange: &'static str,
    pub(super) turquoise: &'static str,
    pub(super) reset: &'static str,
}

static COLOURS: Colours = Colours {
    red: "\x1b[31m",
    green: "\x1b[32m",
    yellow: "\x1b[33m",
    blue: "\x1b[34m",
    magenta: "\x1b[35m",
    cyan: "\x1b[36m",
    orange: "\x1b[38;2;180;60;0m",
    turquoise: "\x1b[38;2;54;234;195m",
    reset: "\x1b[39m",
};

static PLAIN: Colours = Colours {
    red: "",
    green: "",
    yellow: "",
    blue: "",
    magenta: "",
    cyan: "",
    orange: "",
    turquoise: "",
    reset: "",
};

impl Colours {
    pub(super) fn new(is_coloured: bool) -> &'static Colours {
        if is_coloured { &COLOURS } else { &PLAIN }
    }
}

/// Whether lines are coloured: on a terminal, unless the configuration (`metrics.disable_color_printing`) or the variable
/// `NO_COLOR`, set to anything, says no.
pub fn wants_colour(is_terminal: bool, is_disabled: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && !is_disabled && no_color.is_none_or(OsStr::is_empty)
}

/// The line of a step. Models without a figure for their operations have no `tflops` and `mfu`.
pub(super) fn step_line(record: &Record, rates: &Rates, is_coloured: bool) -> String {
    let Colours { red, green, orange, turquoise, blue, cyan, magenta, reset, .. } = Colours::new(is_coloured);
    let loss = fixed(record.global_avg_loss, 8, 5);
    let grad_norm = fixed(record.grad_norm, 7, 4);
    let memory = memory(&record.memory);
    let tps = whole(rates.tokens_per_second);
    let mut line = format!(
        "{red}step: {:2}  {green}loss: {loss}  {orange}grad_norm: {grad_norm}  {turquoise}memory: {memory}  \
         {blue}tps: {tps}",
        record.step
    );
    if let (Some(tflops), Some(mfu)) = (rates.tflops, rates.mfu_percent) {
        let (tflops, mfu) = (grouped(fixed(tflops, 0, 2)), fixed(mfu, 0, 2));
        line += &format!("  {cyan}tflops: {tflops}  {magenta}mfu: {mfu}%");
    }
    line + reset
}

/// The line of a validation.
pub(super) fn validation_line(validation: &Validation, is_coloured: bool) -> String {
    let Colours { green, yellow, turquoise, blue, reset, .. } = Colours::new(is_coloured);
    let loss = fixed(validation.loss, 7, 4);
    let memory = memory(&validation.memory);
    let tps = whole(validation.tokens_per_second);
    format!(
        "{yellow}validate step: {:2}  {green}loss: {loss}  {turquoise}memory: {memory}  {blue}tps: {tps}{reset}",
        validation.step
    )
}

fn memory(memory: &Memory) -> String {
    let gib = fixed(memory.max_reserved_bytes as f64 / BYTES_PER_GIB, 5, 2);
    format!("{gib}GiB({}%)", fixed(memory.max_reserved_percent(), 0, 2))
}

/// Python's `{value:width.decimals f}`, which writes `nan` where Rust writes `NaN`.
fn fixed(value: f64, width: usize, decimals: usize) -> String {
    match value.is_nan() {
        true => format!("{:>width$}", "nan"),
        false => format!("{value:width$.decimals$}"),
    }
}

/// Python's `{round(value):,}`: halves to even, and zero has no sign.
fn whole(value: f64) -> String {
    grouped(fixed(value.round_ties_even() + 0.0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::record::samples::{COSTS, record, validation};
    use crate::metrics::record::{Costs, Window};
    use job::flops::Peak;

    /// The small Llama on an A100.
    const SMALL: Costs = Costs {
        flops_per_token: Some(71_585_280),
        peak: Peak { flops: 312e12, is_known: true },
        non_data_parallel: 1,
    };

    /// Records, and what TorchTitan 0.2.2 printed of the same figures.
    fn printed() -> Vec<(Record, Costs, &'static str)> {
        let gib = BYTES_PER_GIB as u64;
        let of_memory = |max_reserved_bytes, total_bytes| Memory {
            max_active_bytes: max_reserved_bytes,
            max_reserved_bytes,
            total_bytes,
            ..Memory::default()
        };
        let of_window = |tokens, seconds| Window { tokens, seconds, ..record(1).window };
        let fast = Record {
            step: 1234,
            global_avg_loss: 12.345678,
            grad_norm: 123.45678,
            window: of_window(81_920_000, 10.0),
            memory: of_memory(gib / 3, 4 * gib),
            ..record(1)
        };
        let broken = Record {
            step: 7,
            global_avg_loss: f64::NAN,
            grad_norm: f64::INFINITY,
            window: of_window(5, 2.0),
            memory: of_memory(1_234_567, 987_654_321),
            ..record(1)
        };
        vec![
            (
                record(10),
                COSTS,
                "step: 10  loss:  8.12346  grad_norm:  1.9876  memory: 48.00GiB(60.62%)  tps: 7,000  tflops: 405.40  mfu: 40.99%",
            ),
            (
                fast,
                SMALL,
                "step: 1234  loss: 12.34568  grad_norm: 123.4568  memory:  0.33GiB(8.33%)  tps: 8,192,000  tflops: 586.43  mfu: 187.96%",
            ),
            (
                broken,
                SMALL,
                "step:  7  loss:      nan  grad_norm:     inf  memory:  0.00GiB(0.12%)  tps: 2  tflops: 0.00  mfu: 0.00%",
            ),
        ]
    }

    #[test]
    fn steps_are_printed_as_torchtitan_prints_them() {
        for (record, costs, line) in printed() {
            assert_eq!(step_line(&record, &record.window.rates(&costs), false), line);
        }
    }

    #[test]
    fn colours_are_torchtitans() {
        let (step, validation) = (
            step_line(&record(10), &record(10).window.rates(&COSTS), true),
            validation_line(&validation(), true),
        );
        assert_eq!(
            step,
            "\x1b[31mstep: 10  \x1b[32mloss:  8.12346  \x1b[38;2;180;60;0mgrad_norm:  1.9876  \
             \x1b[38;2;54;234;195mmemory: 48.00GiB(60.62%)  \x1b[34mtps: 7,000  \x1b[36mtflops: 405.40  \
             \x1b[35mmfu: 40.99%\x1b[39m"
        );
        assert_eq!(
            validation,
            "\x1b[33mvalidate step: 200  \x1b[32mloss:  3.9876  \
             \x1b[38;2;54;234;195mmemory: 48.00GiB(60.62%)  \x1b[34mtps: 820,500\x1b[39m"
        );
    }

    #[test]
    fn validations_are_printed_as_torchtitan_prints_them() {
        assert_eq!(
            validation_line(&validation(), false),
            "validate step: 200  loss:  3.9876  memory: 48.00GiB(60.62%)  tps: 820,500"
        );
    }

    #[test]
    fn torchtitans_tools_find_steps_and_losses() {
        // As they do: without the escape sequences.
        let escapes = regex::Regex::new("\x1b\\[[0-9;]*m").unwrap();
        let losses = regex::Regex::new(r"step:\s*(\d+)\s*loss:\s*(\d+\.\d+)").unwrap();
        let found = |line: &str| {
            let line = escapes.replace_all(line, "").into_owned();
            losses.captures(&line).map(|found| (found[1].to_owned(), found[2].to_owned()))
        };
        for (record, costs, _) in printed() {
            let line = step_line(&record, &record.window.rates(&costs), true);
            let expected = (record.step.to_string(), format!("{:.5}", record.global_avg_loss));
            assert_eq!(found(&line), record.global_avg_loss.is_finite().then_some(expected), "{line}");
        }
        let line = validation_line(&validation(), true);
        assert_eq!(found(&line), Some(("200".to_owned(), "3.9876".to_owned())));
    }

    #[test]
    fn no_figure_for_operations_no_words_of_them() {
        let costs = Costs { flops_per_token: None, ..COSTS };
        assert_eq!(
            step_line(&record(10), &record(10).window.rates(&costs), false),
            "step: 10  loss:  8.12346  grad_norm:  1.9876  memory: 48.00GiB(60.62%)  tps: 7,000"
        );
    }

    #[test]
    fn numbers_are_pythons() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.4, "0"),
            (0.5, "0"),
            (1.5, "2"),
            (2.5, "2"),
            (999.4, "999"),
            (999.5, "1,000"),
            (123_456.0, "123,456"),
            (-123_456.0, "-123,456"),
            (1_234_567.0, "1,234,567"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(whole(value), expected);
        }
        for (value, expected) in [
            (999.994, "999.99"),
            (999.996, "1,000.00"),
            (-1234.5, "-1,234.50"),
            (12_345_678.125, "12,345,678.12"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(grouped(fixed(value, 0, 2)), expected);
        }
        assert_eq!((&*fixed(f64::NAN, 8, 5), &*fixed(-1.0, 8, 5)), ("     nan", "-1.00000"));
    }

    #[test]
    fn colour_is_for_terminals_where_nobody_objects() {
        let set = |value: &'static str| Some(OsStr::new(value));
        for (is_terminal, is_disabled, no_color, expected) in [
            (true, false, None, true),
            // The convention: an empty variable says nothing.
            (true, false, set(""), true),
            (true, false, set("0"), false),
            (true, true, None, false),
            (false, false, None, false),
        ] {
            assert_eq!(wants_colour(is_terminal, is_disabled, no_color), expected);
        }
    }
}
