use anyhow::Result;
use clap::Args;
use std::path::Path;
#[derive(Args)]
pub(crate) struct FuzzArgs {}
pub(crate) fn run(_: &Path, _: &FuzzArgs) -> Result<()> {
    Ok(())
}
