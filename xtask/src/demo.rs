use anyhow::Result;
use clap::Args;
use std::path::Path;
#[derive(Args)]
pub(crate) struct DemoArgs {}
pub(crate) fn run(_: &Path, _: &DemoArgs) -> Result<()> {
    Ok(())
}
