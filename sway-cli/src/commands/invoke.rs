//! `sway invoke`: a handler is called once with an event, and its answer printed as JSON.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sway_core::api::execute::Executed;
use sway_core::handler::{Handler, INPUT_LEN_MAX, Runtime};
use sway_core::job::{Cause, JobFile, JobSpec, Program};
use sway_core::name::ImageName;

use super::run::{attend, never_ran, refused, tell_of_approval, verdict};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::job_options::JobOptions;
use crate::program;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway invoke main.handler --code main.py --event data.json
  sway invoke app.main.run --code ./project --event data.json    a folder of modules
  sway invoke main.handler --code main.js --event data.json      Node.js
  echo '{\"version\": \"v1\", \"event\": {\"a\": 1}}' | sway invoke main.handler --code main.py --event -
  sway invoke main.handler --code main.py --event data.json | jq .result

The event's file is {\"version\": \"v1\", \"context\": {…}, \"event\": …}, at most 1 MiB. Printed is
{\"result\", \"logs\", \"error\", \"duration_ms\"}; the exit code is 1 where the handler failed, else as
`sway run --help` has it.")]
pub(crate) struct InvokeArgs {
    /// Module and function, such as main.handler
    #[arg(value_name = "HANDLER")]
    handler: String,
    /// The module's file, or the folder that holds it
    #[arg(long, value_name = "FILE|DIR")]
    code: PathBuf,
    /// File with the event, - for standard input
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// The handler's language [default: told by its file]
    #[arg(long, value_enum)]
    runtime: Option<RuntimeArg>,
    /// Image to run in [default: the worker's for handlers]
    #[arg(long, value_name = "NAME[:TAG]")]
    image: Option<ImageName>,
    #[command(flatten)]
    options: JobOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RuntimeArg {
    /// def handler(event, context)
    Python,
    /// exports.handler = async (event, context) => …
    Nodejs,
}

impl From<RuntimeArg> for Runtime {
    fn from(runtime: RuntimeArg) -> Self {
        match runtime {
            RuntimeArg::Python => Self::Python,
            RuntimeArg::Nodejs => Self::Nodejs,
        }
    }
}

/// Submits the job, waits for its end, prints the answer.
pub(crate) async fn run(args: InvokeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let spec = job_spec(args).map_err(refused)?;
    let worker = context.worker()?;
    let output = &context.output;
    let mut interrupts = Interrupts::listen()?;
    let jobs = worker.jobs();
    let submitted = tokio::select! {
        submitted = jobs.submit(&spec) => submitted,
        () = interrupts.next() => {
            output.verdict(false, "cancelled before the job was submitted");
            return Ok(ExitCode::Cancelled);
        }
    };
    let job = submitted.map_err(|error| refused(error.into()))?;
    tell_of_approval(&job, output);
    let end = attend(&worker, &job, false, &mut interrupts, None, output).await?;
    let Some(end) = end else { return Ok(ExitCode::Cancelled) };
    let Some(run) = end.run else {
        return Ok(never_ran(&worker, &job, end.state, output).await);
    };
    let run = jobs.run(&run.id.to_string()).await?;
    let cause = run.cause.unwrap_or(Cause::Infrastructure);
    let code = ExitCode::Run { cause, code: run.exit_code };
    let good = code == ExitCode::Run { cause: Cause::Exited, code: Some(0) };
    let told = verdict(&run, cause, code.number());
    output.json(&Executed::of_run(run))?;
    output.verdict(good, told);
    Ok(code)
}

fn job_spec(args: InvokeArgs) -> anyhow::Result<JobSpec> {
    let input = read_input(&args.event)?;
    let given = args.runtime.map(Runtime::from);
    let handler = if args.code.is_dir() {
        let files = program::read_files(&args.code)?;
        let python = Handler { runtime: Runtime::Python, handler: args.handler, files, input };
        let node = || Handler { runtime: Runtime::Nodejs, ..python.clone() };
        let runtime = given.unwrap_or_else(|| match python.module_file() {
            None if node().module_file().is_some() => Runtime::Nodejs,
            _ => Runtime::Python,
        });
        Handler { runtime, ..python }
    } else {
        let Program::Script { file } = program::read(&args.code, None)? else {
            return Err(Failure::refused(format!("{} is no file", args.code.display())).into());
        };
        let runtime = given.or_else(|| Runtime::of_file(&file.path)).ok_or_else(|| {
            Failure::refused(format!("the name of {} does not tell its language", file.path))
                .hint("--runtime python or --runtime nodejs does")
        })?;
        // Whatever the file is called, it is the handler's module.
        let named = Handler::of_source(runtime, args.handler, String::new(), input);
        let is_found =
            Handler { files: vec![file.clone()], ..named.clone() }.module_file().is_some();
        let path = match (is_found, named.files.first()) {
            (false, Some(module)) => module.path.clone(),
            _ => file.path.clone(),
        };
        Handler { files: vec![JobFile { path, ..file }], ..named }
    };
    let spec = JobSpec {
        env: args.options.env()?,
        limits: args.options.limits(),
        network: args.options.network(),
        ..JobSpec::new(args.image, Program::Handler(handler))
    };
    spec.check()?;
    Ok(spec)
}

/// The event's file, or standard input; not more of it than a handler takes.
fn read_input(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let most = INPUT_LEN_MAX as u64 + 1;
    let read = match path.to_str() {
        Some("-") => std::io::stdin().lock().take(most).read_to_string(&mut text),
        _ => fs_err::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)),
    };
    read.map_err(|error| Failure::refused(format!("the event can't be read: {error}")))?;
    Ok(text)
}
