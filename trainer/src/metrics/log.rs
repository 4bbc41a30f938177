//! The log: events of `tracing` as lines of TorchTitan's form on standard output.
//!
//! ```text
//! [titan] 2026-11-25 10:00:00,123 - root - INFO - message
//! [titan] 2026-11-25 10:00:00,123 - root - ERROR - [rank 3] message
//! ```
//!
//! The logger's name is `root` for what this repository says, as in TorchTitan, and the crate's name for others.
//!
//! Source: torchtitan/tools/logging.py, v0.2.2, and what torchrun's `--local-ranks-filter` leaves of the ranks.

use super::console::Colours;
use super::screen::Screen;
use crate::error::{Error, Result};
use chrono::{DateTime, Local};
use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Crates of this repository.
const OURS: &[&str] = &["convert", "data", "dcp", "job", "titan_train", "trainer"];

/// Ranks whose warnings and information are printed. Errors are, of every rank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRanks(BTreeSet<u32>);

impl Default for LogRanks {
    /// Rank 0.
    fn default() -> Self {
        LogRanks(BTreeSet::from([0]))
    }
}

impl LogRanks {
    /// The value of the variable `LOG_RANK`: ranks with commas between. Empty is as if it were not set: rank 0.
    ///
    /// Errors: [`Error::Usage`] for what is no rank.
    pub fn parse(text: &str) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(LogRanks::default());
        }
        let rank = |word: &str| {
            word.trim().parse::<u32>().map_err(|_| {
                Error::Usage(format!(
                    "LOG_RANK={text}: `{word}` is no rank; write ranks with commas, such as 0,4"
                ))
            })
        };
        Ok(LogRanks(text.split(',').map(rank).collect::<Result<_>>()?))
    }

    /// Whether the rank is one of them.
    pub fn shows(&self, rank: u32) -> bool {
        self.0.contains(&rank)
    }
}

/// What is printed, and how.
#[derive(Clone, Debug)]
pub struct LogOptions<'a> {
    /// Of this process.
    pub rank: u32,
    /// Whose lines are printed, of `LOG_RANK`.
    pub log_ranks: &'a LogRanks,
    /// Whether lines have colours, of [`wants_colour`](super::wants_colour).
    pub is_coloured: bool,
    /// The value of the variable `RUST_LOG`: levels, or crates and modules with levels, such as `warn,dcp=debug`. What it
    /// does not speak of is printed from `info` on.
    pub filter: Option<&'a str>,
}

/// Starts the log of this process, on standard output. Once.
///
/// Errors: [`Error::Usage`] for a filter that cannot be read, and where there is a log already.
pub fn init(options: &LogOptions) -> Result<Screen> {
    let screen = Screen::stdout();
    let subscriber = subscriber(options, screen.clone())?;
    set_global_default(subscriber)
        .map_err(|_| Error::Usage("this process has a log already; start it once, in main".into()))?;
    Ok(screen)
}

pub(super) fn subscriber(
    options: &LogOptions,
    screen: Screen,
) -> Result<impl Subscriber + Send + Sync + use<>> {
    let is_listed = options.log_ranks.shows(options.rank);
    let lines = Lines {
        screen,
        rank: options.rank,
        has_company: options.log_ranks.0.len() > 1,
        is_coloured: options.is_coloured,
    };
    let level = if is_listed { LevelFilter::TRACE } else { LevelFilter::ERROR };
    Ok(Registry::default().with(lines.with_filter(targets(options.filter)?.and(level))))
}

fn targets(filter: Option<&str>) -> Result<Targets> {
    let text = filter.unwrap_or("").trim();
    let targets = match text.is_empty() {
        true => Targets::new(),
        false => text.parse::<Targets>().map_err(|error| {
            Error::Usage(format!(
                "RUST_LOG={text}: {error}; write levels (off, error, warn, info, debug, trace), or crates with levels, \
                 such as warn,dcp=debug"
            ))
        })?,
    };
    let has_default = targets.default_level().is_some();
    Ok(if has_default { targets } else { targets.with_default(LevelFilter::INFO) })
}

/// Prints events.
struct Lines {
    screen: Screen,
    rank: u32,
    /// Whether other ranks' lines are printed too, so that each must say whose it is.
    has_company: bool,
    is_coloured: bool,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.screen.line(&self.format(event, Local::now()));
    }
}

impl Lines {
    fn format(&self, event: &Event<'_>, now: DateTime<Local>) -> String {
        let level = *event.metadata().level();
        let Colours { red, yellow, reset, .. } = Colours::new(self.is_coloured);
        let (colour, name) = match level {
            Level::ERROR => (*red, "ERROR"),
            Level::WARN => (*yellow, "WARNING"),
            Level::INFO => ("", "INFO"),
            Level::DEBUG => ("", "DEBUG"),
            Level::TRACE => ("", "TRACE"),
        };
        let target = event.metadata().target().split("::").next().unwrap_or_default();
        let logger = if OURS.contains(&target) { "root" } else { target };
        let time = now.format("%Y-%m-%d %H:%M:%S,%3f");
        let mut line = format!("{colour}[titan] {time} - {logger} - {name} - ");
        if self.has_company || level == Level::ERROR {
            let _ = write!(line, "[rank {}] ", self.rank);
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        line += &fields.message;
        line += &fields.others;
        line + if colour.is_empty() { "" } else { reset }
    }
}

/// What an event says: its message, and its other fields as ` name=value`.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::screen::captured::Captured;
    use super::*;
    use tracing::subscriber::with_default;
    use tracing::{debug, error, info, warn};

    const ONE: LogOptions<'static> =
        LogOptions { rank: 0, log_ranks: &LogRanks(BTreeSet::new()), is_coloured: false, filter: None };

    /// What is printed, without its times, which are checked.
    fn printed(options: &LogOptions, log: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        with_default(subscriber(options, Screen::on(captured.clone())).unwrap(), log);
        let time = regex::Regex::new(r"\[titan\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - ").unwrap();
        let text = captured.text();
        let lines = text.lines().map(|line| {
            assert!(time.is_match(line), "{line}");
            time.replace(line, "").into_owned()
        });
        lines.collect()
    }

    fn all_levels() {
        error!("broken: {}", "disk");
        warn!("slow");
        info!("step:  1  loss:  8.12346");
        debug!("detail");
    }

    #[test]
    fn a_listed_rank_prints_from_info_on() {
        let options = LogOptions { log_ranks: &LogRanks::default(), ..ONE };
        assert_eq!(
            printed(&options, all_levels),
            [
                "root - ERROR - [rank 0] broken: disk",
                "root - WARNING - slow",
                "root - INFO - step:  1  loss:  8.12346"
            ]
        );
    }

    #[test]
    fn other_ranks_print_errors_alone() {
        // Whatever the filter asks for.
        for filter in [None, Some("debug")] {
            let options = LogOptions { rank: 3, log_ranks: &LogRanks::default(), filter, ..ONE };
            assert_eq!(printed(&options, all_levels), ["root - ERROR - [rank 3] broken: disk"]);
        }
    }

    #[test]
    fn lines_of_several_ranks_say_whose_they_are() {
        let options = LogOptions { rank: 4, log_ranks: &LogRanks::parse("0,4").unwrap(), ..ONE };
        assert_eq!(
            printed(&options, || info!("step:  1  loss:  8.12346")),
            ["root - INFO - [rank 4] step:  1  loss:  8.12346"]
        );
    }

    #[test]
    fn what_a_filter_leaves() {
        let ranks = LogRanks::default();
        let levels = |filter| {
            let lines = printed(&LogOptions { log_ranks: &ranks, filter: Some(filter), ..ONE }, || {
                all_levels();
                info!(target: "hyper::client", "connected");
                debug!(target: "dcp::save", "drawn up");
            });
            lines
                .iter()
                .map(|line| line.split(" - ").take(2).collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(levels(""), ["root ERROR", "root WARNING", "root INFO", "hyper INFO"]);
        assert_eq!(levels("warn"), ["root ERROR", "root WARNING"]);
        assert_eq!(levels("off"), [""; 0]);
        assert_eq!(levels("error,dcp=debug"), ["root ERROR", "root DEBUG"]);
        // What a filter does not speak of is as without one.
        let with_dcp = ["root ERROR", "root WARNING", "root INFO", "hyper INFO", "root DEBUG"];
        assert_eq!(levels("dcp=debug"), with_dcp);
        assert_eq!(levels("hyper=off"), ["root ERROR", "root WARNING", "root INFO"]);
    }

    #[test]
    fn colours_by_level() {
        let options = LogOptions { log_ranks: &LogRanks::default(), is_coloured: true, ..ONE };
        let captured = Captured::default();
        with_default(subscriber(&options, Screen::on(captured.clone())).unwrap(), all_levels);
        let text = captured.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("\x1b[31m[titan] ") && lines[0].ends_with("disk\x1b[39m"), "{text:?}");
        assert!(lines[1].starts_with("\x1b[33m[titan] ") && lines[1].ends_with("slow\x1b[39m"), "{text:?}");
        assert!(lines[2].starts_with("[titan] ") && lines[2].ends_with("8.12346"), "{text:?}");
    }

    #[test]
    fn fields_follow_the_message() {
        let options = LogOptions { log_ranks: &LogRanks::default(), ..ONE };
        let lines = printed(&options, || info!(step = 3, store = %"s3", name = "a b", "saved"));
        assert_eq!(lines, ["root - INFO - saved step=3 store=s3 name=\"a b\""]);
    }

    #[test]
    fn times_are_local_with_milliseconds() {
        let text = "2026-11-25 10:00:00,007";
        let now = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S,%3f").unwrap();
        let now = now.and_local_timezone(Local).earliest().unwrap();
        assert_eq!(now.format("%Y-%m-%d %H:%M:%S,%3f").to_string(), text);
    }

    #[test]
    fn ranks_by_comma() {
        let ranks = LogRanks::parse(" 4, 0 ,4").unwrap();
        assert_eq!((ranks.shows(0), ranks.shows(1), ranks.shows(4)), (true, false, true));
        assert_eq!(LogRanks::parse(" ").unwrap(), LogRanks::default());
        for (text, word) in [("0,", ""), ("0;1", "0;1"), ("-1", "-1"), ("all", "all")] {
            assert_eq!(
                LogRanks::parse(text).unwrap_err().to_string(),
                format!("LOG_RANK={text}: `{word}` is no rank; write ranks with commas, such as 0,4")
            );
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read() {
        let error = targets(Some("dcp=loud")).unwrap_err().to_string();
        assert!(error.starts_with("RUST_LOG=dcp=loud: "), "{error}");
        assert!(error.ends_with("or crates with levels, such as warn,dcp=debug"), "{error}");
    }

    #[test]
    fn one_log_per_process() {
        let options = LogOptions { log_ranks: &LogRanks::default(), filter: Some("off"), ..ONE };
        // Another test of this process may have been first.
        let started = [init(&options), init(&options)];
        assert!(started[0].is_ok(), "{started:?}");
        assert_eq!(
            started[1].as_ref().unwrap_err().to_string(),
            "this process has a log already; start it once, in main"
        );
    }
}
