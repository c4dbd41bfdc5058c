//! `sway images`: what can be run.

use clap::Args;

use crate::context::Context;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway images                 your own images and the shared ones (library/…)
  sway images --json          for programs: name, manifest, updated_at")]
pub(crate) struct ImagesArgs {
    /// Print an array of JSON objects
    #[arg(long)]
    json: bool,
}

/// Asks the worker.
pub(crate) async fn run(args: ImagesArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let images = context.worker()?.jobs().images().await?;
    let output = &context.output;
    if args.json {
        output.json(&images)?;
    } else if images.is_empty() {
        output.note("There are no images yet. `sway export` makes one of the Dockerfile here.");
    } else {
        let rows = images
            .iter()
            .map(|image| {
                vec![
                    image.name.to_string(),
                    image.manifest.to_string().chars().take(12).collect(),
                    super::runs::moment(&image.updated_at),
                ]
            })
            .collect();
        output.table(&["IMAGE", "MANIFEST", "EXPORTED"], rows)?;
    }
    Ok(ExitCode::Success)
}
