//! The progress gauge: steps done, loss, throughput and the time that is left, on a terminal's standard error.

use super::screen::Screen;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write;

const STYLE: &str = "step {pos}/{len} {wide_bar} {percent}% {msg}{left} left";

/// A bar, until it is dropped. Where standard error is no terminal there is none.
#[derive(Debug)]
pub(super) struct Progress {
    gauge: ProgressBar,
    screen: Screen,
}

impl Progress {
    /// Shows the bar of a training of `steps_total` steps, of which others have been done before.
    pub(super) fn new(screen: Screen, target: ProgressDrawTarget, steps_done: u64, steps_total: u64) -> Self {
        let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("left", write_left);
        let gauge = ProgressBar::with_draw_target(Some(steps_total), target).with_style(style);
        gauge.set_position(steps_done);
        // Steps of an earlier run say nothing of how fast this one is.
        gauge.reset_eta();
        screen.share_with((!gauge.is_hidden()).then(|| gauge.clone()));
        gauge.tick();
        Progress { gauge, screen }
    }

    /// So many steps are done.
    pub(super) fn step(&self, steps_done: u64) {
        self.gauge.set_position(steps_done);
    }

    /// What stands beside the bar.
    pub(super) fn figures(&self, loss: f64, tokens_per_second: f64) {
        self.gauge.set_message(format!("loss {loss:.4}, {tokens_per_second:.0} tokens/s, "));
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.screen.share_with(None);
        self.gauge.finish_and_clear();
    }
}

/// The time that is left. Nobody knows before a step of this run is done.
fn write_left(state: &ProgressState, text: &mut dyn Write) {
    let is_unknown = state.eta().is_zero() && Some(state.pos()) != state.len();
    // What a terminal is shown goes to a string first, which takes everything.
    let _ = match is_unknown {
        true => text.write_str("?"),
        false => write!(text, "{:#}", HumanDuration(state.eta())),
    };
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::super::screen::captured::Captured;
    use super::*;
    use indicatif::{InMemoryTerm, TermLike};
    use std::io::{self, Write};

    /// Standard output on the same terminal as the bar.
    #[derive(Debug)]
    struct Output(InMemoryTerm);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
            // A terminal's driver begins lines at the left.
            self.0.write_str(&text.replace('\n', "\r\n"))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    fn terminal() -> (InMemoryTerm, Screen, ProgressDrawTarget) {
        let terminal = InMemoryTerm::new(10, 70);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        (terminal.clone(), Screen::on(Output(terminal)), target)
    }

    #[test]
    fn lines_stand_above_the_bar() {
        let (terminal, screen, target) = terminal();
        let progress = Progress::new(screen.clone(), target, 0, 200);
        assert!(terminal.contents().ends_with(" 0% ? left"), "{}", terminal.contents());
        screen.line("first");
        progress.step(50);
        progress.figures(2.34567, 12345.6);
        screen.line("second");
        progress.gauge.tick();
        let contents = terminal.contents();
        let lines: Vec<_> = contents.lines().map(str::trim_end).collect();
        assert_eq!(lines[..2], ["first", "second"], "{contents}");
        assert!(lines[2].starts_with("step 50/200 "), "{contents}");
        assert!(lines[2].contains(" 25% loss 2.3457, 12346 tokens/s, "), "{contents}");
        assert!(lines[2].ends_with("s left") && lines.len() == 3, "{contents}");
        drop(progress);
        screen.line("third");
        assert_eq!(terminal.contents(), "first\nsecond\nthird");
    }

    #[test]
    fn steps_of_an_earlier_run_do_not_shorten_what_is_left() {
        let (_terminal, screen, target) = terminal();
        let progress = Progress::new(screen, target, 1_000_000, 1_000_010);
        // The first step of this run takes longer than a millionth of what the bar has been there for.
        std::thread::sleep(std::time::Duration::from_millis(200));
        progress.step(1_000_001);
        let left = progress.gauge.eta().as_secs_f64();
        assert!((0.9..60.0).contains(&left), "{left} s for nine steps of 0.2 s");
    }

    #[test]
    fn without_a_terminal_there_are_lines_alone() {
        let captured = Captured::default();
        let screen = Screen::on(captured.clone());
        let progress = Progress::new(screen.clone(), ProgressDrawTarget::hidden(), 3, 10);
        progress.step(4);
        progress.figures(f64::NAN, f64::INFINITY);
        screen.line("line");
        progress.finish();
        assert_eq!(captured.text(), "line\n");
    }
}
