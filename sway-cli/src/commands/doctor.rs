//! `sway doctor`: what is missing on this machine.

use clap::Args;

use crate::context::Context;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway doctor
  sway doctor --json")]
pub(crate) struct DoctorArgs {
    /// Print an array of JSON objects
    #[arg(long)]
    json: bool,
}

/// Looks around.
pub(crate) async fn run(args: DoctorArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let _ = (args.json, context);
    anyhow::bail!("not there yet")
}
