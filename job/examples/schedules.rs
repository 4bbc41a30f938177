//! Prints `docs/schedules.md`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(job::pipeline::pictures().as_bytes())
}
