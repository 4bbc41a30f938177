//! SIGTERM and SIGUSR1: finish the step, save, end well.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGTERM, SIGUSR1};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process was asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by SIGTERM and SIGUSR1 from now on, which no longer end the process.
    ///
    /// Errors: what the system gives.
    pub fn on_signals() -> Result<Stop> {
        let stop = Stop::default();
        for signal in [SIGTERM, SIGUSR1] {
            signal_hook::flag::register(signal, stop.0.clone()).map_err(|source| Error::File {
                path: "signals".into(),
                action: "watching for them",
                source,
            })?;
        }
        Ok(stop)
    }

    /// Asks it.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
