//! `sway logs`: what a run wrote, on the stream that it wrote to.

use clap::Args;
use sway_core::api::jobs::OutputStream;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::follow::follow;
use crate::output::Relay;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway logs 17                what run 17 wrote so far
  sway logs -f 3f9            follow job 3f9… until it ends
  sway logs 17 2>/dev/null    its standard output alone")]
pub(crate) struct LogsArgs {
    /// Follow until the job ends; Ctrl-C stops following, not the job
    #[arg(long, short)]
    follow: bool,
    /// Number of a run, or id of a job (its first characters do)
    id: String,
}

/// Prints what is there, or follows.
pub(crate) async fn run(args: LogsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker_of_run(&args.id).await?;
    let mut relay = Relay::new();
    if args.follow {
        let job = match args.id.parse::<i64>() {
            Ok(_) => worker.jobs().run(&args.id).await?.job_id,
            Err(_) => args.id,
        };
        follow(&worker, &job, Some(&mut relay), &context.output).await?;
    } else {
        let run = worker.jobs().run(&args.id).await?;
        relay.write(OutputStream::Stdout, run.stdout.unwrap_or_default().as_bytes()).await?;
        relay.write(OutputStream::Stderr, run.stderr.unwrap_or_default().as_bytes()).await?;
        relay.end_line().await;
    }
    Ok(ExitCode::Success)
}
