//! The terminal that lines of the log and the progress bar share: the bar makes way for each line.

use indicatif::ProgressBar;
use std::fmt::{self, Debug};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where lines are printed. Copies print to the same place.
#[derive(Clone)]
pub struct Screen(Arc<Shared>);

struct Shared {
    lines: Mutex<Box<dyn Write + Send>>,
    gauge: Mutex<Option<ProgressBar>>,
    has_failed: AtomicBool,
}

impl Debug for Screen {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl Screen {
    /// Lines on standard output.
    pub fn stdout() -> Self {
        Screen::on(io::stdout())
    }

    /// Lines on anything.
    pub fn on(lines: impl Write + Send + 'static) -> Self {
        let (lines, gauge) = (Mutex::new(Box::new(lines) as Box<dyn Write + Send>), Mutex::new(None));
        Screen(Arc::new(Shared { lines, gauge, has_failed: AtomicBool::new(false) }))
    }

    /// Prints a line, whole. Where nobody listens any more, that is said once on standard error, and the work goes on.
    pub fn line(&self, text: &str) {
        let mut line = String::with_capacity(text.len() + 1);
        line.extend([text, "\n"]);
        let print = || {
            let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.write_all(line.as_bytes()).and_then(|()| lines.flush())
        };
        let gauge = self.0.gauge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let printed = match gauge {
            Some(gauge) => gauge.suspend(print),
            None => print(),
        };
        if let Err(error) = printed
            && !self.0.has_failed.swap(true, Ordering::Relaxed)
        {
            let _ = writeln!(io::stderr(), "the log cannot be written to standard output: {error}");
        }
    }

    /// The bar that makes way from now on, if any.
    pub(super) fn share_with(&self, gauge: Option<ProgressBar>) {
        *self.0.gauge.lock().unwrap_or_else(PoisonError::into_inner) = gauge;
    }
}

/// Output that tests look at.
#[cfg(test)]
pub(super) mod captured {
    use super::*;

    /// Everything printed so far, to be shared with a [`Screen`].
    #[derive(Clone, Default)]
    pub(in crate::metrics) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(in crate::metrics) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::captured::Captured;
    use super::*;

    #[test]
    fn lines_of_threads_are_whole() {
        let captured = Captured::default();
        let screen = Screen::on(captured.clone());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let screen = screen.clone();
                scope.spawn(move || (0..100).for_each(|_| screen.line(&format!("{thread}").repeat(50))));
            }
        });
        let text = captured.text();
        assert_eq!(text.lines().count(), 400);
        for line in text.lines() {
            assert!(line.len() == 50 && line.bytes().all(|byte| byte == line.as_bytes()[0]), "{line}");
        }
    }

    #[test]
    fn a_reader_that_has_gone_ends_nothing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let screen = Screen::on(Closed);
        screen.line("one");
        assert!(screen.0.has_failed.load(Ordering::Relaxed));
        screen.line("two");
    }
}
