//! The log.

/// Begins to log.
pub fn start(rank: u32) {
    let level = if rank == 0 { tracing::Level::INFO } else { tracing::Level::ERROR };
    tracing_subscriber::fmt().with_max_level(level).with_target(false).init();
}
