//! `sway completions`: what a shell needs to complete sway's commands.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit_code::ExitCode;
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway completions bash > /etc/bash_completion.d/sway
  sway completions zsh > ~/.zfunc/_sway
  sway completions fish > ~/.config/fish/completions/sway.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sway", &mut script);
    output.bytes(&script)?;
    Ok(ExitCode::Success)
}
