use anyhow::Result;
use clap::Args;
use std::path::Path;
#[derive(Args)]
pub(crate) struct BenchArgs {}
pub(crate) fn run(_: &Path, _: &BenchArgs) -> Result<()> {
    Ok(())
}
