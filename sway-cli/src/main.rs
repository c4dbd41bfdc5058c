//! What a person types: `sway export`, `sway run app.py`.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod config;
mod owners;
mod context;
mod export;
mod project;
mod program;
mod data;
mod job_folder;
mod job_options;
mod panel;
mod follow;
mod foreign;
mod syntax;
mod outputs;
mod interrupt;
mod size;
mod output;
mod failure;
mod exit_code;

use std::io::{self, IsTerminal};
use std::process;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::config::Settings;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::follow::NoReader;
use crate::output::Output;

fn main() -> process::ExitCode {
    // `sway up` has a worker, which may have started this program for that.
    #[cfg(target_os = "linux")]
    sway_worker::job::sandbox::enter_if_asked();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let output = Output::new(cli.options.verbose, cli.options.quiet);
    match start(cli, &output) {
        Ok(code) => code.into(),
        // `sway runs | head`: whoever read our result has enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::Success.into(),
        Err(error) => {
            output.error(&error);
            ExitCode::of(&error).into()
        }
    }
}

fn start(cli: Cli, output: &Output) -> anyhow::Result<ExitCode> {
    let Some(command) = cli.command else {
        output.line(Cli::command().render_help().ansi())?;
        return Ok(ExitCode::Success);
    };
    if let Command::Completions(args) = &command {
        return commands::completions::run(args, output);
    }
    let settings = Settings::load(&cli.options)?;
    if !matches!(command, Command::Up(_)) {
        log_to_stderr(settings.log.as_deref(), cli.options.verbose);
    }
    let context = Context { settings, output: output.clone() };
    let runtime = match &command {
        // They wait for servers and do little themselves: threads would only cost their start.
        Command::Run(_)
        | Command::Invoke(_)
        | Command::Logs(_)
        | Command::Outputs(_)
        | Command::Runs(_)
        | Command::Images(_)
        | Command::Submit(_)
        | Command::Pending(_)
        | Command::Review(_)
        | Command::Approve(_)
        | Command::Reject(_)
        | Command::Jobs(_)
        | Command::Status(_)
        | Command::Wait(_)
        | Command::Queue(_)
        | Command::Audit(_)
        | Command::Whoami(_)
        | Command::Owner(_)
        | Command::User(_)
        | Command::Token(_) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?
        }
        _ => tokio::runtime::Runtime::new()?,
    };
    let result = runtime.block_on(commands::dispatch(command, &context));
    // A read of standard input can't be interrupted; waiting for it could take for ever.
    runtime.shutdown_background();
    result
}

/// Log lines are for finding faults: without being asked for, only warnings are shown. `sway up`
/// logs as the servers do.
fn log_to_stderr(filter: Option<&str>, verbose: bool) {
    let filter = filter.unwrap_or(if verbose { "info" } else { "warn" });
    // The error that ends the command says it too, and what to do.
    let hushed = "rustls_platform_verifier=off";
    let filter = EnvFilter::try_new(format!("{hushed},{}", filter.to_ascii_lowercase()))
        .unwrap_or_else(|_| EnvFilter::new(format!("{hushed},warn")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// Prints what clap has to say: help, version, or what is wrong with the command line. A job that
/// was never described was refused.
fn usage(error: &clap::Error) -> ExitCode {
    // There is nobody to tell that it can't be printed.
    let _ = error.print();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ExitCode::Success;
    }
    let lenient = Cli::command().ignore_errors(true).try_get_matches();
    match lenient.ok().and_then(|matches| matches.subcommand_name().map(str::to_owned)) {
        Some(name) if name == "run" || name == "submit" => ExitCode::Refused,
        Some(_) | None => ExitCode::Usage,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    error.is::<NoReader>() || io_error.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
