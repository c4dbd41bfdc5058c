//! `sway whoami`: whom the worker takes the caller for.

use clap::Args;

use crate::context::Context;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway whoami            your name, role and scopes on the worker
  sway whoami --json     for programs: user, role, scopes, token")]
pub(crate) struct WhoamiArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Asks the worker.
pub(crate) async fn run(args: WhoamiArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let me = context.worker()?.users().me().await?;
    let output = &context.output;
    if args.json {
        output.json(&me)?;
        return Ok(ExitCode::Success);
    }
    let token = me.token.as_deref().unwrap_or("of the worker's data directory");
    output.line(format_args!("User    {}", me.user))?;
    output.line(format_args!("Role    {}", me.role))?;
    output.line(format_args!("Scopes  {}", me.scopes))?;
    output.line(format_args!("Token   {token}"))?;
    Ok(ExitCode::Success)
}
