//! `sway up`: fileserver and worker in one process.

use clap::Args;

use crate::context::Context;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway up
  sway up --data /srv/sway")]
pub(crate) struct UpArgs {}

/// Serves until it is told to stop.
pub(crate) async fn run(_args: UpArgs, _context: &Context) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not there yet")
}
