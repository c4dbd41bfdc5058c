//! `sway outputs`: what a job left in `/output`.

use std::path::PathBuf;

use clap::Args;
use sway_core::api::jobs::OutputKind;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::outputs;
use crate::size::show_size;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway outputs 3f9                the files of job 3f9…
  sway outputs 17                 those of run 17
  sway outputs 3f9 --to results   all of them into the folder results, which is made
  sway outputs 3f9 --json         the list for programs")]
pub(crate) struct OutputsArgs {
    /// Fetch all files into this folder; it must be new or empty
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    to: Option<PathBuf>,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    /// Number of a run, or id of a job (its first characters do)
    id: String,
}

/// Lists, or fetches.
pub(crate) async fn run(args: OutputsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker_of_run(&args.id).await?;
    let job = match args.id.parse::<i64>() {
        Ok(_) => worker.jobs().run(&args.id).await?.job_id,
        Err(_) => args.id,
    };
    let output = &context.output;
    if let Some(to) = args.to {
        let unpacked = outputs::fetch(&worker, &job, &to).await?;
        outputs::tell(&unpacked, &to, output);
        return Ok(ExitCode::Success);
    }
    let files = worker.jobs().output_files(&job).await?;
    if args.json {
        output.json(&files)?;
        return Ok(ExitCode::Success);
    }
    let rows = files.into_iter().map(|file| {
        let size = match file.kind {
            OutputKind::File => show_size(file.bytes),
            OutputKind::Folder => "folder".to_owned(),
            OutputKind::Link => "link".to_owned(),
        };
        vec![size, file.path]
    });
    output.table(&["SIZE ", "PATH"], rows.collect())?;
    Ok(ExitCode::Success)
}
