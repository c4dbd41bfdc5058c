//! `sway owner`: owners of data whose workers are not the caller's own.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sway_client::ClientError;
use sway_core::api::submissions::QUEUE;
use sway_core::name::UserName;

use crate::config::server_url_of;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::owners::{Owner, Owners};

/// Bytes of a token's file that are read.
const TOKEN_LEN_MAX: u64 = 4 << 10;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway owner add alice@example.org https://alice.example.org:8444 --token-file alice.token
                             what is submitted to alice goes to her worker, with your token there
  pass alice | sway owner add alice@example.org https://alice.example.org:8444 --token-file -
                             the token comes from standard input
  sway owner add bob http://127.0.0.1:8444 --queue nightly
                             bob decides at the worker of your settings, under another label
  sway owner list
  sway owner remove bob

An owner's operator makes your token (`sway token add YOU`) and tells you the URL, and the
certificate's fingerprint where it is self-signed (--pin). `sway submit --to`, jobs, status, wait,
output, logs, review and `sway data list --owner` then find the worker by themselves; --worker
overrides it. Other owners decide at the worker of your settings. The list lies in owners.json in the
data directory (SWAY_DATA), readable by you alone; the Python client uses it too.")]
pub(crate) struct OwnerArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say where an owner decides; once more says it anew
    Add {
        /// The owner
        owner: UserName,
        /// The owner's worker
        url: String,
        /// A label that keeps queues of one worker apart
        #[arg(long, value_name = "NAME")]
        queue: Option<String>,
        /// SHA-256 of the worker's self-signed certificate, in hex
        #[arg(long, value_name = "SHA256")]
        pin: Option<String>,
        /// File with your token for that worker; - for standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// List the owners who were added, without the tokens
    List {
        /// Print an array of JSON objects
        #[arg(long)]
        json: bool,
    },
    /// Forget an owner's worker, and the token for it
    Remove {
        /// The owner
        owner: UserName,
    },
}

/// Changes or shows the list.
pub(crate) async fn run(args: OwnerArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let (data, output) = (&context.settings.data, &context.output);
    let mut owners = Owners::load(data)?;
    match args.verb {
        Verb::Add { owner: name, url, queue, pin, token_file } => {
            let worker_url = server_url_of("URL", &url)?.to_string();
            let token = token_file.as_deref().map(token_in).transpose()?;
            let owner = Owner { worker_url, queue, worker_pin: pin, token };
            if owner.token.is_none() && !context.is_own(&owner)? {
                let message = format!("no token for {}", owner.worker_url);
                let hint = "--token-file FILE names one, - reads it from standard input; the \
                            owner's operator makes it with `sway token add`";
                return Err(Failure::new(message).hint(hint).into());
            }
            // A token that opens nothing is told now, and not when a job is submitted.
            match context.worker_at(&owner)?.users().me().await {
                Ok(me) => output.done(format_args!(
                    "{name} decides at {}, where you are {} ({})",
                    owner.worker_url, me.user, me.role
                )),
                Err(error @ (ClientError::Unreachable { .. } | ClientError::Timeout { .. })) => {
                    output.warning(format_args!("{name} is added, and not checked: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
            owners.0.insert(name, owner);
            owners.save(data)?;
        }
        Verb::List { json } => {
            let of = |queue: Option<String>| queue.unwrap_or_else(|| QUEUE.to_owned());
            if json {
                let list = owners.0.into_iter().map(|(name, owner)| {
                    serde_json::json!({
                        "owner": name,
                        "worker_url": owner.worker_url,
                        "queue": of(owner.queue),
                        "worker_pin": owner.worker_pin,
                        "has_token": owner.token.is_some(),
                    })
                });
                output.json(&list.collect::<Vec<_>>())?;
            } else if owners.0.is_empty() {
                output
                    .note("No owner was added: all of them decide at the worker of the settings.");
            } else {
                let rows = owners.0.into_iter().map(|(name, owner)| {
                    let token = if owner.token.is_some() { "its own" } else { "of the settings" };
                    vec![name.to_string(), owner.worker_url, of(owner.queue), token.to_owned()]
                });
                output.table(&["OWNER", "WORKER", "QUEUE", "TOKEN"], rows.collect())?;
            }
        }
        Verb::Remove { owner: name } => {
            if owners.0.remove(&name).is_none() {
                let hint = "`sway owner list` tells which there are";
                return Err(Failure::new(format!("{name} was not added")).hint(hint).into());
            }
            owners.save(data)?;
            output.done(format_args!("{name} decides at the worker of the settings again"));
        }
    }
    Ok(ExitCode::Success)
}

/// The token in a file, or on standard input. Never an argument: others see those.
fn token_in(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().take(TOKEN_LEN_MAX).read_to_string(&mut text),
        false => fs_err::File::open(path)
            .and_then(|file| file.take(TOKEN_LEN_MAX).read_to_string(&mut text)),
    };
    read.context("can't read the token")?;
    match text.trim() {
        "" => Err(Failure::new(format!("there is no token in {}", path.display())).into()),
        token => Ok(token.to_owned()),
    }
}
