//! `sway token`: what opens a worker to a user.

use clap::{Args, Subcommand};
use sway_core::access::Scopes;
use sway_core::api::users::NewToken;
use sway_core::name::UserName;

use super::runs::moment;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::size::parse_time_ms;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway token add ada                                 a token for all that ada's role allows
  sway token add ada --label ci --scopes run,read    one that runs jobs and reads outputs
  sway token add sue --expires 30d                   one for a month
  SWAY_TOKEN=$(sway token add ada) sway whoami       the secret alone goes to standard output
  sway token list                                    yours; everybody's for the operator
  sway token revoke 3f9a01b2c3d4                     ends one at once

Scopes: run, submit, read, export, approve, admin, worker. A secret is told once, when its token
is made; SWAY_TOKEN, or token in config.toml, is where the commands look for it. It takes the
operator's token to make one; everybody may list and revoke their own.")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token and print its secret, this once
    Add {
        /// Whose
        user: UserName,
        /// What it is called, such as where it will lie
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        /// What it is for [default: all that the user's role allows]
        #[arg(long, value_name = "SCOPE,…")]
        scopes: Option<Scopes>,
        /// For how long, such as 12h or 30d [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = parse_time_ms)]
        expires: Option<u64>,
        /// Print a JSON object, with the secret in it
        #[arg(long)]
        json: bool,
    },
    /// List tokens, without their secrets
    List {
        /// Only this user's
        user: Option<UserName>,
        /// Print an array of JSON objects
        #[arg(long)]
        json: bool,
    },
    /// End a token at once
    Revoke {
        /// Its public id, as `sway token list` tells it
        id: String,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Asks the worker.
pub(crate) async fn run(args: TokenArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker()?;
    let output = &context.output;
    match args.verb {
        Verb::Add { user, label, scopes, expires, json } => {
            let expires_in_s = expires.map(|ms| ms.div_ceil(1000));
            let new = NewToken { user, label, scopes, expires_in_s };
            let made = worker.users().add_token(&new).await?;
            if json {
                output.json(&made)?;
            } else {
                let token = &made.token;
                output.note(format_args!(
                    "Token {} of {} for {}. Its secret is told this once:",
                    token.id, token.user, token.scopes
                ));
                output.line(&made.secret)?;
            }
        }
        Verb::List { user, json } => {
            let mut tokens = worker.users().tokens().await?;
            tokens.retain(|token| user.as_ref().is_none_or(|user| token.user == *user));
            if json {
                output.json(&tokens)?;
            } else if tokens.is_empty() {
                output.note("There are no tokens. `sway token add USER` makes one.");
            } else {
                let rows = tokens.iter().map(|token| {
                    let state = match (&token.revoked_at, &token.expires_at) {
                        (Some(at), _) => format!("revoked {}", moment(at)),
                        (None, Some(at)) => format!("until {}", moment(at)),
                        (None, None) => String::new(),
                    };
                    let used = token.last_used_at.as_deref().map_or_else(String::new, moment);
                    vec![
                        token.id.clone(),
                        token.user.to_string(),
                        token.scopes.to_string(),
                        token.label.clone(),
                        used,
                        state,
                    ]
                });
                let header = ["ID", "USER", "SCOPES", "LABEL", "LAST USED", ""];
                output.table(&header, rows.collect())?;
            }
        }
        Verb::Revoke { id, json } => {
            let token = worker.users().revoke_token(&id).await?;
            if json {
                output.json(&token)?;
            } else {
                output.done(format_args!("token {} of {} is revoked", token.id, token.user));
            }
        }
    }
    Ok(ExitCode::Success)
}
