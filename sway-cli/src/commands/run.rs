//! `sway run`: a script or a folder in an image, as if it ran here.
//!
//! The job's stdout and stderr are this process's, byte for byte and at once; so is its standard
//! input; its exit code is ours, unless its end has another cause. Four things happen side by
//! side in one task, so that none of them can hold up another: output comes, input goes, and
//! somebody may press Ctrl-C, once to cancel the job, twice to leave.
//!
//! A job with data or an `--output-dir` gets a folder of its own here: its logs as they come, and
//! what it left in `/output` when it has ended.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use sway_client::Client;
use sway_core::api::jobs::{JobView, RunView};
use sway_core::job::{Cause, JobSpec, JobState, OutputRequest};
use sway_core::name::ImageName;
use tokio_util::io::ReaderStream;

use crate::context::Context;
use crate::data::{self, DataSource, SentDataset};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::follow::{End, NoReader, follow};
use crate::foreign;
use crate::interrupt::Interrupts;
use crate::job_folder::JobFolder;
use crate::job_options::JobOptions;
use crate::output::{Output, Relay};
use crate::outputs;
use crate::panel::panel;
use crate::program;
use crate::project;
use crate::size::{parse_size, show_size, show_time};

/// How long a cancelled job may take to end before we stop waiting for it.
const CANCEL_DEADLINE: Duration = Duration::from_secs(15);

/// Where folders of jobs are made unless the caller says where.
const JOBS: &str = "jobs";

/// Letters of an owner's reason.
const REASON_LEN_MAX: usize = 500;

/// Bytes of standard input in one piece.
const STDIN_PIECE_LEN: usize = 64 << 10;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway run app.py                            in the image that `sway export` made here
  sway run --image scipy:1.0 app.py 3 4      in another image, with arguments
  sway run app.py --timeout 60 --memory 1G   options may also stand after the script
  sway run app.py -- --verbose               what follows -- is the script's own
  sway run my_folder --entry train.py        a folder; without --entry main.py, else run.sh
  sway run ./function1 data.csv              the file is /data/data.csv in the job, and what it
                                             writes to /output comes to jobs/<time>/output here
  sway run app.py --data a.csv --data t=tables --output-dir results
                                             /data/a.csv and the folder /data/t
  sort words.txt | sway run count.py         standard input is passed on
  sway run --json app.py                     the run's record, with its output, as JSON

Exit codes:
  the job's own, or
    69  a server can't be reached           125  refused, or failed before it started
    70  worker, fileserver or machine       130  cancelled
        failed                              137  out of memory, too much output, or killed
   124  timeout
The last line on standard error says which.")]
pub(crate) struct RunArgs {
    /// Image to run in [default: the one exported from the script's project]
    #[arg(long, value_name = "NAME[:TAG]")]
    image: Option<ImageName>,
    #[command(flatten)]
    options: JobOptions,
    /// A file or folder for the job to read, at /data/NAME; a folder alone without a name at /data
    #[arg(long, value_name = "[NAME=]PATH")]
    data: Vec<String>,
    /// Have what the job writes to /output, and its logs, in a new folder in DIR on this machine,
    /// named after the time [default, with data: jobs]
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Bytes of /output [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    output_size: Option<u64>,
    /// Files and folders in /output [default: 1000]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    output_files: Option<u64>,
    /// Bytes of one file that the job writes, anywhere [default: as --output-size]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    output_file_size: Option<u64>,
    /// The file of the folder to start [default: main.py, else run.sh]
    #[arg(long, value_name = "FILE")]
    entry: Option<String>,
    /// Print the job's id and leave; the job gets no standard input (`sway logs -f ID` follows)
    #[arg(long, short)]
    detach: bool,
    /// Pass standard input on even if it is a terminal
    #[arg(long, short, conflicts_with = "detach")]
    interactive: bool,
    /// End the job when it writes more than the output limit, instead of cutting its output
    #[arg(long)]
    fail_on_output_limit: bool,
    /// Print one JSON object at the end (see `sway runs --help`) instead of the job's output
    #[arg(long)]
    json: bool,
    /// Script or folder on this machine
    #[arg(value_name = "SCRIPT|DIR")]
    program: PathBuf,
    /// Arguments of the script; the first one after a folder is its dataset if it is a path that
    /// is there, and there is no --data
    #[arg(allow_negative_numbers = true)]
    args: Vec<String>,
    /// Arguments of the script, whatever they look like
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// Submits the job and follows it.
pub(crate) async fn run(mut args: RunArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let (detach, json) = (args.detach, args.json);
    let sources = data_sources(&mut args);
    let base = output_base(&args, &sources);
    let program = args.program.clone();
    let mut spec = job_spec(args, base.is_some()).map_err(refused)?;
    let worker = context.worker()?;
    let output = &context.output;
    let mut interrupts = Interrupts::listen()?;
    let jobs = worker.jobs();
    let submitting = async {
        let datasets = data::send(&sources, context).await?;
        spec.datasets = datasets.iter().map(|sent| sent.dataset.clone()).collect();
        spec.check()?;
        let folder = match base.filter(|_| !detach) {
            Some(base) => Some(make_folder(&base)?),
            None => None,
        };
        match jobs.submit(&spec).await {
            Ok(job) => Ok((job, folder, datasets)),
            Err(error) => {
                folder.into_iter().for_each(JobFolder::remove_unused);
                Err(anyhow::Error::from(error))
            }
        }
    };
    let submitted = tokio::select! {
        submitted = submitting => submitted,
        () = interrupts.next() => {
            output.verdict(false, "cancelled before the job was submitted");
            return Ok(ExitCode::Cancelled);
        }
    };
    let (job, folder, datasets) = submitted.map_err(refused)?;
    tell_of_approval(&job, output);
    if detach {
        if json {
            output.json(&job)?
        } else {
            output.line(&job.id)?
        }
        return Ok(ExitCode::Success);
    }
    let logs = match &folder {
        Some(folder) => {
            configuration(&program, &datasets, folder, &job, output);
            Some(folder.open_logs().context("can't make the job's logs")?)
        }
        None => {
            output.done(format_args!("Initialized. Running {} as {}", job.filename, job.username));
            output.leaves(&[
                format!("Script: {}", job.filename),
                format!("User: {}", job.username),
                format!("Image: {}", job.image),
            ]);
            None
        }
    };
    let is_relayed = !json || logs.is_some();
    let mut relay = is_relayed.then(|| Relay::new().into_logs(logs, !json));
    let end = attend(&worker, &job, spec.stdin, &mut interrupts, relay.as_mut(), output).await?;
    match end {
        Some(end) => conclude(&worker, &job, end, folder.as_ref(), json, output).await,
        None => Ok(ExitCode::Cancelled),
    }
}

/// Says whom a job waits for that needs an approval: nothing else is seen until somebody decides.
pub(super) fn tell_of_approval(job: &JobView, output: &Output) {
    if let (JobState::Pending, Some(submission)) = (job.state, &job.submission) {
        output.setting(format_args!(
            "Job {} waits for the approval of {}; `sway review {}` shows it",
            job.id, submission.owner, job.id
        ));
    }
}

/// Tells of a job that ended without a run.
pub(super) async fn never_ran(
    worker: &Client,
    job: &JobView,
    state: JobState,
    output: &Output,
) -> ExitCode {
    let now = match state {
        JobState::Rejected => worker.jobs().job(&job.id).await.map(|job| job.submission),
        _ => Ok(None),
    };
    let submission = now.unwrap_or_else(|error| {
        tracing::debug!(%error, job.id, "why it was rejected is not known");
        None
    });
    match submission.and_then(|it| it.decision) {
        Some(decision) => {
            let reason = foreign::line(&decision.reason, REASON_LEN_MAX);
            output.verdict(false, format_args!("rejected by {}: {reason}", decision.by));
        }
        None => output.verdict(false, format_args!("{} before it started", state.as_str())),
    }
    match state {
        JobState::Cancelled => ExitCode::Cancelled,
        JobState::Rejected => ExitCode::Refused,
        JobState::Pending
        | JobState::Approved
        | JobState::Running
        | JobState::Completed
        | JobState::Failed => ExitCode::Infrastructure,
    }
}

/// The data that is asked for: by `--data`, else by the path behind a folder, which then is no
/// argument of the script.
fn data_sources(args: &mut RunArgs) -> Vec<DataSource> {
    let is_there = |first: &String| Path::new(first).exists();
    if args.data.is_empty() && args.program.is_dir() && args.args.first().is_some_and(is_there) {
        return vec![DataSource { name: None, path: args.args.remove(0).into() }];
    }
    args.data.iter().map(|text| DataSource::parse(text)).collect()
}

/// Where folders of jobs are made; none for a job that has no `/output`.
fn output_base(args: &RunArgs, sources: &[DataSource]) -> Option<PathBuf> {
    let is_limited = args.output_size.is_some()
        || args.output_files.is_some()
        || args.output_file_size.is_some();
    let is_wanted = !sources.is_empty() || args.output_dir.is_some() || is_limited;
    is_wanted.then(|| args.output_dir.clone().unwrap_or_else(|| PathBuf::from(JOBS)))
}

fn make_folder(base: &Path) -> anyhow::Result<JobFolder> {
    let made = JobFolder::make(base);
    made.with_context(|| format!("can't make a folder for the job in {}", base.display()))
}

/// Shows what the job was given.
fn configuration(
    program: &Path,
    datasets: &[SentDataset],
    folder: &JobFolder,
    job: &JobView,
    output: &Output,
) {
    if let Some(path) = data::data_path(datasets) {
        output.setting(format_args!("Data mount path: {path}"));
    }
    let place = if program.is_dir() { " → /code" } else { "" };
    let mut lines = vec!["Starting job".to_owned(), format!("Function: {}{place}", shown(program))];
    let data = datasets.iter().map(|sent| (shown(&sent.path), sent.target()));
    lines.extend(data.map(|(path, target)| format!("Dataset:  {path} → {target}")));
    lines.push(format!("Output:   {} → /output", shown(folder.path())));
    let (seconds, rest) = (job.limits.timeout_ms / 1000, job.limits.timeout_ms % 1000);
    let timeout = match rest {
        0 => seconds.to_string(),
        rest => format!("{seconds}.{rest:03}").trim_end_matches('0').to_owned(),
    };
    lines.push(format!("Timeout:  {timeout}s"));
    output.setting(panel("Job Configuration", &lines));
}

/// A path without what says nothing.
fn shown(path: &Path) -> String {
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    match plain.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => plain.display().to_string(),
    }
}

/// Before the job has started, whatever stops it is a refusal, unless the fault is a server's.
pub(super) fn refused(error: anyhow::Error) -> anyhow::Error {
    match ExitCode::of(&error) {
        ExitCode::Failed => Failure::refused("the job was not started").source(error).into(),
        _ => error,
    }
}

/// The image that was exported from the project that a script or folder belongs to.
fn project_image(program: &Path) -> anyhow::Result<ImageName> {
    project::find(program).ok_or_else(|| {
        Failure::refused(format!("no image was exported from the project of {}", program.display()))
            .hint("`sway export` makes one of its Dockerfile; --image takes one of `sway images`")
            .into()
    })
}

/// What is sent to the worker.
fn job_spec(args: RunArgs, has_output: bool) -> anyhow::Result<JobSpec> {
    let program = program::read(&args.program, args.entry.as_deref())?;
    let image = match args.image {
        Some(image) => image,
        None => project_image(&args.program)?,
    };
    let spec = JobSpec {
        args: [args.args, args.rest].concat(),
        env: args.options.env()?,
        limits: args.options.limits(),
        output: has_output.then_some(OutputRequest {
            bytes: args.output_size,
            files: args.output_files,
            file_bytes: args.output_file_size,
        }),
        network: args.options.network(),
        stdin: !args.detach && stdin_is_sent(args.interactive),
        detach: args.detach,
        fail_on_output_limit: args.fail_on_output_limit,
        ..JobSpec::new(Some(image), program)
    };
    spec.check()?;
    Ok(spec)
}

/// Whether there may be something to read: not from a terminal, unless asked to, and not from
/// `/dev/null`, which also stands where standard input was closed.
fn stdin_is_sent(interactive: bool) -> bool {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return interactive;
    }
    let null = Path::new("/dev/null").metadata();
    let own = stdin.as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    match (own, null) {
        (Ok(own), Ok(null)) => !(own.file_type().is_char_device() && own.rdev() == null.rdev()),
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    }
}

/// Passes output and input until the job is over. None where the caller did not want to wait.
pub(super) async fn attend(
    worker: &Client,
    job: &JobView,
    stdin: bool,
    interrupts: &mut Interrupts,
    relay: Option<&mut Relay>,
    output: &Output,
) -> anyhow::Result<Option<End>> {
    let jobs = worker.jobs();
    let following = follow(worker, &job.id, relay, output);
    let feeding = async {
        if stdin {
            let pieces = ReaderStream::with_capacity(tokio::io::stdin(), STDIN_PIECE_LEN);
            // A job that ended, or that closed its input, refuses the rest: no fault of anyone's.
            if let Err(error) = jobs.send_stdin(&job.id, pieces).await {
                tracing::debug!(%error, job.id, "standard input was not taken to its end");
            }
        }
        std::future::pending::<anyhow::Error>().await
    };
    let leaving = async {
        interrupts.next().await;
        output.note("Cancelling the job. Ctrl-C once more leaves at once.");
        let cancelled = jobs.cancel(&job.id);
        tokio::select! {
            cancelled = cancelled => if let Err(error) = cancelled {
                output.warning(format_args!("the job could not be cancelled: {error}"));
            },
            () = interrupts.next() => return,
        }
        tokio::select! {
            () = interrupts.next() => {}
            () = tokio::time::sleep(CANCEL_DEADLINE) => {}
        }
    };
    let end = tokio::select! {
        end = following => end,
        error = feeding => Err(error),
        () = leaving => {
            output.verdict(false, format_args!("cancelled: job {} may still be ending", job.id));
            return Ok(None);
        }
    };
    match end {
        Ok(end) => Ok(Some(end)),
        Err(error) => {
            // Nobody would read what the job still writes.
            if error.is::<NoReader>() {
                let _ = jobs.cancel(&job.id).await;
                output.verdict(false, format_args!("cancelled: {error}"));
                return Ok(None);
            }
            Err(error)
        }
    }
}

/// Tells how it ended, and turns it into an exit code.
async fn conclude(
    worker: &Client,
    job: &JobView,
    end: End,
    folder: Option<&JobFolder>,
    json: bool,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let Some(run) = end.run else {
        if json {
            output.json(&worker.jobs().job(&job.id).await?)?;
        }
        return Ok(never_ran(worker, job, end.state, output).await);
    };
    if json {
        output.json(&worker.jobs().run(&run.id.to_string()).await?)?;
    }
    if let Some(folder) = folder.filter(|_| run.output_files.is_some()) {
        let fetched = outputs::fetch(worker, &job.id, &folder.output()).await.map_err(|error| {
            let message = "the job has ended, and its output could not be fetched";
            Failure::new(message).source(error).hint(format!("try `sway outputs {}`", job.id))
        })?;
        outputs::tell(&fetched, &folder.output(), output);
    }
    let cause = run.cause.unwrap_or(Cause::Infrastructure);
    let code = ExitCode::Run { cause, code: run.exit_code };
    let good = code == ExitCode::Run { cause: Cause::Exited, code: Some(0) };
    if good {
        output.done("Container execution complete");
    }
    output.leaves(&[super::runs::cache_figures(&run)]);
    output.note(format_args!("View run at {}/run/{}", worker.base(), run.id));
    output.verdict(good, verdict(&run, cause, code.number()));
    Ok(code)
}

/// The last line: what happened, in words that scripts can look for.
pub(super) fn verdict(run: &RunView, cause: Cause, code: u8) -> String {
    let took = Duration::from_millis(run.duration_ms.unwrap_or(0).unsigned_abs());
    let took = show_time(took);
    let how = match (cause, run.exit_code) {
        (Cause::Exited, Some(0)) => {
            return format!("Run completed in {took} (exited with code 0)");
        }
        (Cause::Exited, Some(own)) if own > 128 => {
            format!("exited: ended by signal {} after {took}", own - 128)
        }
        (Cause::Exited, _) => format!("exited by itself after {took}"),
        (Cause::Timeout, _) => {
            let limit = Duration::from_millis(run.limits.timeout_ms);
            format!("timeout: killed after {}; --timeout gives more", show_time(limit))
        }
        (Cause::MemoryExceeded, _) => {
            let limit = show_size(run.limits.memory_bytes);
            format!("memory_exceeded: it wanted more than {limit}; --memory gives more")
        }
        (Cause::OutputLimit, _) if !run.stdout_truncated && !run.stderr_truncated => {
            "output_limit: --output-size, --output-files and --output-file-size give more"
                .to_owned()
        }
        (Cause::OutputLimit, _) => {
            let limit = show_size(run.limits.output_bytes);
            format!("output_limit: it wrote more than {limit}; --output-limit gives more")
        }
        (Cause::Cancelled | Cause::Policy | Cause::Infrastructure, _) => cause.as_str().to_owned(),
    };
    let message = match &run.message {
        // One line, whatever the message holds: it is the last.
        Some(message) => format!(" ({})", message.replace(['\n', '\r'], " ")),
        None => String::new(),
    };
    format!("Container execution failed (exit code {code}): {how}{message}")
}
