//! `sway export`: the image of a Dockerfile, stored on the fileserver.

use clap::Args;

use crate::context::Context;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sway export")]
pub(crate) struct ExportArgs {}

/// Builds, cuts, sends.
pub(crate) async fn run(_args: ExportArgs, _context: &Context) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not there yet")
}
