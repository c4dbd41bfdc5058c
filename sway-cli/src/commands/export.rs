//! `sway export`: the image of a Dockerfile, or one that was built elsewhere, stored on the
//! fileserver.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use sway_core::access::Scope;
use sway_core::api::jobs::TraceRequest;
use sway_core::digest::Digest;
use sway_core::image::Platform;
use sway_core::job::Program;
use sway_core::name::ImageName;
use tokio::task::spawn_blocking;

use crate::context::{Context, Fileserver};
use crate::exit_code::ExitCode;
use crate::export::{
    BuildRequest, Builder, Built, Export, ExportError, Exported, OpenImage, Progress, Source,
    build, cache_directory,
};
use crate::output::chain;
use crate::program;
use crate::project;
use crate::size::{show_size, show_time};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway export                              build the Dockerfile here and export the image
  sway export testapps/scipy --name sci:2  another folder, another name
  sway export --build-arg BASE=python:3.12-slim
  sway export --from docker-archive:image.tar --name tools
  sway export --from oci:layout:latest --name tools
  sway export --trace 'python app.py'      run this once afterwards, to record what it reads
  sway export --no-trace                   record nothing

After an export the worker runs the image's command once, in a job of its own (`sway runs` shows
it), and keeps which pages it read: the next start brings those first. A file that --trace names
and that only this folder has is sent along, as `sway run` does.

The image is the token's user's; in others' names and in library only an operator stores.

Without a Dockerfile the image is built from pyproject.toml or requirements.txt, if there is one.")]
pub(crate) struct ExportArgs {
    /// The project's folder
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Name of the image [default: the folder's name]
    #[arg(long, value_name = "NAME[:TAG]", value_parser = parse_name)]
    name: Option<ImageName>,
    /// Take an image as it is: docker-archive:FILE, oci-archive:FILE or oci:DIR
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["builder", "file", "build_args", "builder_args"])]
    from: Option<Source>,
    /// Program that builds [default: the first of these that works]
    #[arg(long, value_enum)]
    builder: Option<Builder>,
    /// The Dockerfile [default: Dockerfile in DIR]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Value for an ARG of the Dockerfile; may be repeated
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    build_args: Vec<String>,
    /// Argument for the builder, as it is; may be repeated
    #[arg(long = "builder-arg", value_name = "ARG", allow_hyphen_values = true)]
    builder_args: Vec<String>,
    /// For which machine
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    platform: Platform,
    /// Record what this command reads, for fast first starts [default: the image's own command]
    #[arg(long, value_name = "COMMAND", value_parser = parse_command)]
    trace: Option<TraceCommand>,
    /// Don't have the worker run anything to record what it reads
    #[arg(long, conflicts_with = "trace")]
    no_trace: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The words of a command.
#[derive(Clone, Debug)]
struct TraceCommand(Vec<String>);

fn parse_command(text: &str) -> Result<TraceCommand, String> {
    match program::words(text) {
        Some(words) if words.is_empty() => Err("an empty command".to_owned()),
        Some(words) => Ok(TraceCommand(words)),
        None => Err("a quote is not closed".to_owned()),
    }
}

fn parse_name(text: &str) -> Result<ImageName, String> {
    let name: ImageName = text.parse().map_err(|error| format!("{error}"))?;
    match name.digest {
        Some(_) => Err("a new image can't be given a digest".to_owned()),
        None => Ok(name),
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Summary {
    image: ImageName,
    manifest: Digest,
    files: u64,
    bytes: u64,
    new_blobs: u64,
    bytes_sent: u64,
    seconds: f64,
    layers_processed: usize,
    layers_cached: usize,
    records_trace: bool,
}

/// Builds or opens, cuts, sends.
pub(crate) async fn run(args: ExportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let directory = args.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    let image_name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&directory)?,
    };
    let owner = image_name.user.as_ref();
    let Fileserver { client, user } = context.fileserver_for(owner, Scope::Export).await?;
    let name = image_name.to_ref(&user);
    // Before a build that may take minutes: is there somewhere to export to?
    let previous = client.refs().get(&name).await?;

    let cache = cache_directory()?;
    let progress = Progress::new(context.output.clone());
    let (source, built) = match args.from.clone() {
        Some(source) => (source, None),
        None => {
            let built = build_image(&args, &directory, &image_name, &cache, context).await?;
            (built.source.clone(), Some(built))
        }
    };
    let platform = args.platform.clone();
    let exporting = async {
        let image = spawn_blocking(move || OpenImage::open(&source, &platform))
            .await
            .map_err(ExportError::Internal)??;
        Export::new(client, image, built.is_some(), name, &cache, progress.clone()).run().await
    };
    let exported = match exporting.await {
        Ok(exported) => exported,
        Err(error) => {
            if let (ExportError::Archive { .. }, Some(layout)) =
                (&error, built.and_then(|built| built.layout))
            {
                layout.discard();
            }
            return Err(error.into());
        }
    };
    // An archive says nothing about the folder that one happens to be in.
    let names_the_project = args.from.is_none() || args.directory.is_some();
    if names_the_project && let Err(error) = project::remember(&directory, &image_name) {
        context.output.warning(format_args!(
            "`sway run` will need --image {image_name}: the project can't be remembered ({error})"
        ));
    }
    progress.done("Ready for sway run!");
    let took = started.elapsed();
    let wanted = !args.no_trace && (args.trace.is_some() || !exported.unchanged);
    let records_trace =
        wanted && ask_for_trace(&args, &directory, &image_name, previous, context).await;
    report(&args, context, image_name, &exported, took, records_trace)
}

/// Has the worker prepare the image's first start; tells whether it will. The image is exported
/// whatever becomes of this.
async fn ask_for_trace(
    args: &ExportArgs,
    directory: &Path,
    image: &ImageName,
    previous: Option<Digest>,
    context: &Context,
) -> bool {
    let asking = async {
        let argv = args.trace.as_ref().map(|command| command.0.clone());
        // A word that names a file of the folder; the worker knows whether the image has it.
        let file = argv.iter().flatten().find_map(|word| program::file_in(directory, word));
        let request = TraceRequest {
            image: image.clone(),
            previous,
            program: argv.map(|argv| Program::Command { argv }),
            args: Vec::new(),
            file: file.transpose()?,
        };
        context.worker()?.jobs().prepare(&request).await?;
        anyhow::Ok(())
    };
    match asking.await {
        Ok(()) => true,
        Err(error) => {
            let reason = chain(&error);
            context.output.note(format_args!("No trace is recorded for fast starts: {reason}"));
            false
        }
    }
}

async fn build_image(
    args: &ExportArgs,
    directory: &Path,
    image: &ImageName,
    cache: &Path,
    context: &Context,
) -> Result<Built, ExportError> {
    let request = BuildRequest {
        directory: directory.to_owned(),
        file: args.file.clone(),
        builder: args.builder,
        build_args: args.build_args.clone(),
        builder_args: args.builder_args.clone(),
        platform: args.platform.clone(),
        image: image.clone(),
    };
    let progress = Progress::new(context.output.clone());
    let spinner = progress.spinner("Building");
    let verbose = context.output.is_verbose();
    let built = build(&request, cache, &mut |line| {
        if verbose {
            context.output.note(line);
        } else {
            spinner.at(line);
        }
    })
    .await?;
    drop(spinner);
    progress.done(format_args!("Built docker image (with {})", built.builder));
    Ok(built)
}

fn report(
    args: &ExportArgs,
    context: &Context,
    image: ImageName,
    exported: &Exported,
    took: Duration,
    records_trace: bool,
) -> anyhow::Result<ExitCode> {
    let output = &context.output;
    if args.json {
        output.json(&Summary {
            image,
            manifest: exported.manifest,
            files: exported.files,
            bytes: exported.bytes,
            new_blobs: exported.new_blobs,
            bytes_sent: exported.bytes_sent,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            layers_processed: exported.layers_processed,
            layers_cached: exported.layers_cached,
            records_trace,
        })?;
        return Ok(ExitCode::Success);
    }
    let manifest = exported.manifest;
    let change = if exported.unchanged { " (as before)" } else { "" };
    output.line(format_args!("{image} is manifest {manifest}{change}"))?;
    output.line(format_args!(
        "{} files, {}; {} new blobs, {} sent; {} layers read, {} known",
        exported.files,
        show_size(exported.bytes),
        exported.new_blobs,
        show_size(exported.bytes_sent),
        exported.layers_processed,
        exported.layers_cached,
    ))?;
    output.line(format_args!("Done! Export completed in {}", show_time(took)))?;
    Ok(ExitCode::Success)
}

/// The name that a folder gives its image.
fn name_of(directory: &Path) -> Result<ImageName, ExportError> {
    let full = fs_err::canonicalize(directory).map_err(ExportError::file(directory))?;
    full.file_name()
        .and_then(|name| name.to_str())
        .and_then(ImageName::from_folder)
        .ok_or(ExportError::NoName(full))
}
