use anyhow::Result;
use clap::Args;
use std::path::Path;
#[derive(Args)]
pub(crate) struct TestArgs {}
pub(crate) fn run(_: &Path, _: &TestArgs) -> Result<()> {
    Ok(())
}
