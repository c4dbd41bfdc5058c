//! One file for each verb.

use crate::cli::Command;
use crate::context::Context;
use crate::exit_code::ExitCode;

pub(crate) mod up;
pub(crate) mod export;
pub(crate) mod run;
pub(crate) mod invoke;
pub(crate) mod runs;
pub(crate) mod logs;
pub(crate) mod outputs;
pub(crate) mod images;
pub(crate) mod submit;
pub(crate) mod jobs;
pub(crate) mod review;
pub(crate) mod decide;
pub(crate) mod status;
pub(crate) mod owner;
pub(crate) mod queue;
pub(crate) mod data;
pub(crate) mod audit;
pub(crate) mod whoami;
pub(crate) mod user;
pub(crate) mod token;
pub(crate) mod mount;
pub(crate) mod doctor;
pub(crate) mod completions;

/// Does what the command says.
pub(crate) async fn dispatch(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => up::run(*args, context).await,
        Command::Export(args) => export::run(*args, context).await,
        Command::Run(args) => run::run(*args, context).await,
        Command::Invoke(args) => invoke::run(*args, context).await,
        Command::Runs(args) => runs::run(args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Outputs(args) => outputs::run(args, context).await,
        Command::Images(args) => images::run(args, context).await,
        Command::Submit(args) => submit::run(*args, context).await,
        Command::Pending(args) => jobs::pending(args, context).await,
        Command::Review(args) => review::run(args, context).await,
        Command::Approve(args) => decide::run(args, true, context).await,
        Command::Reject(args) => decide::run(args, false, context).await,
        Command::Jobs(args) => jobs::jobs(args, context).await,
        Command::Status(args) => status::status(args, context).await,
        Command::Wait(args) => status::wait(args, context).await,
        Command::Owner(args) => owner::run(args, context).await,
        Command::Queue(args) => queue::run(args, context).await,
        Command::Data(args) => data::run(args, context).await,
        Command::Audit(args) => audit::run(args, context).await,
        Command::Whoami(args) => whoami::run(args, context).await,
        Command::User(args) => user::run(args, context).await,
        Command::Token(args) => token::run(args, context).await,
        Command::Mount(args) => mount::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Completions(args) => completions::run(&args, &context.output),
    }
}
