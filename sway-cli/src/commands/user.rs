//! `sway user`: who has an account on the worker.

use clap::{Args, Subcommand};
use sway_core::access::Role;
use sway_core::api::users::NewUser;
use sway_core::name::UserName;

use super::runs::moment;
use crate::context::Context;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway user add ada --role owner       ada may run jobs and export images, once she has a token
  sway user add sue@example.org        may ask owners to run jobs, and see what came of them
  sway user list                       who there is
  sway user revoke ada                 ends ada and all tokens of hers at once

Roles: submitter (submit and see own jobs), owner (run, submit, export, approve), operator
(everything). It takes the operator's token, which the machine of the worker has. Users see and
store what is theirs, and read what is in library.")]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a user, who then needs a token
    Add {
        /// 1 to 128 letters, digits and . _ - + @
        name: UserName,
        /// What the user may do: submitter, owner or operator
        #[arg(long, default_value = "submitter")]
        role: Role,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the users
    List {
        /// Print an array of JSON objects
        #[arg(long)]
        json: bool,
    },
    /// End a user and all tokens of it; jobs and images stay
    Revoke {
        /// The user
        name: UserName,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Asks the worker.
pub(crate) async fn run(args: UserArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker()?;
    let output = &context.output;
    match args.verb {
        Verb::Add { name, role, json } => {
            let user = worker.users().add(&NewUser { name, role }).await?;
            if json {
                output.json(&user)?;
            } else {
                output.done(format_args!("{} is a user with the role {}", user.name, user.role));
                output.note(format_args!("`sway token add {}` makes a token", user.name));
            }
        }
        Verb::List { json } => {
            let users = worker.users().list().await?;
            if json {
                output.json(&users)?;
            } else if users.is_empty() {
                output.note("There are no users yet, only the operator. `sway user add` adds one.");
            } else {
                let rows = users.iter().map(|user| {
                    let since = moment(&user.created_at);
                    let state = user
                        .revoked_at
                        .as_deref()
                        .map_or_else(String::new, |at| format!("revoked {}", moment(at)));
                    vec![user.name.to_string(), user.role.to_string(), since, state]
                });
                output.table(&["USER", "ROLE", "SINCE", ""], rows.collect())?;
            }
        }
        Verb::Revoke { name, json } => {
            let user = worker.users().revoke(&name).await?;
            if json {
                output.json(&user)?;
            } else {
                output.done(format_args!("{} and all tokens of it are revoked", user.name));
            }
        }
    }
    Ok(ExitCode::Success)
}
