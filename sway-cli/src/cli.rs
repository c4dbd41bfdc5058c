//! The command line: which commands there are, and the options that all of them share.
//! Each command's own arguments stand with the command.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};

use crate::commands::{
    audit, completions, data, decide, doctor, export, images, invoke, jobs, logs, mount, outputs,
    owner, queue, review, run, runs, status, submit, token, up, user, whoami,
};

/// `sway …`
#[derive(Debug, Parser)]
#[command(
    name = "sway",
    version,
    about = "Runs programs in containers whose images have not been downloaded",
    after_help = "\
First steps:
  sway doctor            what is missing on this machine
  sway up                fileserver and worker in one process
  sway export            the image of the Dockerfile in this directory
  sway run app.py        app.py in that image

Settings come from flags, else the environment (FILESERVER_URL, WORKER_URL, SWAY_USERNAME,
SWAY_TOKEN, SWAY_DATA, SWAY_LOG), else ~/.config/sway/config.toml.",
    disable_help_subcommand = true,
    color = ColorChoice::Auto
)]
pub(crate) struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub(crate) options: GlobalOptions,
    /// What to do; without it the commands are listed.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalOptions {
    /// Instead of `FILESERVER_URL`.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Where the fileserver is [env: FILESERVER_URL] [default: http://127.0.0.1:8443]"
    )]
    pub(crate) fileserver: Option<String>,
    /// Instead of `WORKER_URL`.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Where the worker is [env: WORKER_URL] [default: http://127.0.0.1:8444]"
    )]
    pub(crate) worker: Option<String>,
    /// Instead of `SWAY_USERNAME`.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help = "Who is asking [env: SWAY_USERNAME] [default: your login name]"
    )]
    pub(crate) username: Option<String>,
    /// Instead of `SWAY_CONFIG`.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "The config file [env: SWAY_CONFIG] [default: ~/.config/sway/config.toml]"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Say more about what happens, on standard error
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    /// Say nothing but errors, on standard error
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// The commands, in the order in which one needs them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start fileserver and worker in one process
    Up(Box<up::UpArgs>),
    /// Build an image and store what is new of it on the fileserver
    Export(Box<export::ExportArgs>),
    /// Run a script or a folder in an image
    Run(Box<run::RunArgs>),
    /// Call a function with an event, and print its answer as JSON
    Invoke(Box<invoke::InvokeArgs>),
    /// List what ran, or show one run
    Runs(runs::RunsArgs),
    /// Print the output of a run
    Logs(logs::LogsArgs),
    /// List or fetch the files that a run left in /output
    #[command(visible_alias = "output")]
    Outputs(outputs::OutputsArgs),
    /// List the images that can be run
    Images(images::ImagesArgs),
    /// Submit a job to an owner, who decides whether it runs
    Submit(Box<submit::SubmitArgs>),
    /// List the jobs that wait for your decision
    Pending(jobs::PendingArgs),
    /// Show a job with all its code, as its owner has to see it
    Review(review::ReviewArgs),
    /// Let submitted jobs run
    Approve(decide::DecideArgs),
    /// Refuse submitted jobs
    Reject(decide::DecideArgs),
    /// List submitted jobs
    #[command(visible_alias = "list")]
    Jobs(jobs::JobsArgs),
    /// Say where a submitted job stands, or how many there are
    Status(status::StatusArgs),
    /// Wait until submitted jobs have ended
    Wait(status::WaitArgs),
    /// Say where owners decide whose worker is not yours
    Owner(owner::OwnerArgs),
    /// Show or change what you grant to jobs that others submit
    Queue(queue::QueueArgs),
    /// Store and list datasets that submitted jobs can ask for
    Data(data::DataArgs),
    /// Show or check the record of who did what to which job
    Audit(audit::AuditArgs),
    /// Say whom the worker takes you for
    Whoami(whoami::WhoamiArgs),
    /// Add, list or revoke users of the worker
    User(user::UserArgs),
    /// Make, list or revoke tokens of users
    Token(token::TokenArgs),
    /// Mount an image on a directory, to look around in it
    Mount(mount::MountArgs),
    /// Say what is missing on this machine to run jobs
    Doctor(doctor::DoctorArgs),
    /// Print a script that completes sway's commands in a shell
    Completions(completions::CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_in_its_help() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n  "), "{}", command.get_name());
        }
    }
}
