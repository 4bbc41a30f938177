//! Prints `docs/config.md`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(job::config::reference().as_bytes())
}
