//! `sway data`: datasets with names, for jobs that others submit.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sway_core::access::Scope;
use sway_core::digest::Digest;
use sway_core::job::DatasetKind;
use sway_core::name::{DatasetName, UserName};

use crate::context::{Context, Fileserver};
use crate::exit_code::ExitCode;
use crate::export::{Progress, cache_directory, store_dataset};
use crate::failure::Failure;
use crate::size::show_size;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway data add weather ./weather.csv
                             a file or folder, under a name that jobs can ask for
  sway data list             yours
  sway data list --owner alice
                             what alice offers to jobs that are submitted to her

Jobs that are submitted to you can ask for your datasets (`sway queue set --datasets` says for which);
jobs of others that you don't decide on can't. A job reads what the name led to when it was
submitted.")]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Store a file or folder under a name; a name that is there leads to the new one from now on
    Add {
        /// Letters, digits and . _ -
        name: String,
        /// File or folder on this machine
        path: PathBuf,
    },
    /// List datasets that have names
    List {
        /// Whose [default: your own]
        #[arg(long)]
        owner: Option<UserName>,
        /// Print an array of JSON objects
        #[arg(long)]
        json: bool,
    },
}

/// Stores, or lists.
pub(crate) async fn run(args: DataArgs, context: &Context) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Add { name, path } => add(&name, &path, context).await,
        What::List { owner, json } => list(owner, json, context).await,
    }
}

async fn add(name: &str, path: &std::path::Path, context: &Context) -> anyhow::Result<ExitCode> {
    let dataset: DatasetName = name.parse()?;
    if dataset.user.is_some() || name.parse::<Digest>().is_ok() {
        let message = format!("{name:?} is not a name for a dataset of your own");
        return Err(Failure::new(message).hint("give it a name such as weather").into());
    }
    let cache = cache_directory()?;
    let Fileserver { client, user } = context.fileserver(&[Scope::Export]).await?;
    let output = &context.output;
    let progress = Progress::new(output.clone());
    let to_ref = |_| dataset.to_ref(&user);
    let stored = store_dataset(&client, path, to_ref, &cache, &progress)
        .await
        .with_context(|| format!("the dataset {name} is not stored"))?;
    output.done(format_args!("{name}: {} in {} files", show_size(stored.bytes), stored.files));
    output.line(stored.manifest)?;
    Ok(ExitCode::Success)
}

async fn list(owner: Option<UserName>, json: bool, context: &Context) -> anyhow::Result<ExitCode> {
    let (worker, owner) = match owner {
        Some(owner) => (context.worker_of(&owner)?.0, owner),
        None => {
            let worker = context.worker()?;
            let owner = worker.submissions().queue().await?.owner;
            (worker, owner)
        }
    };
    let datasets = worker.submissions().datasets(&owner).await?;
    let output = &context.output;
    if json {
        output.json(&datasets)?;
    } else if datasets.is_empty() {
        output.note(format_args!("{owner} has no datasets with names. `sway data add` makes one."));
    } else {
        let rows = datasets.into_iter().map(|dataset| {
            let kind = match dataset.kind {
                DatasetKind::File => "file",
                DatasetKind::Folder => "folder",
            };
            vec![
                dataset.name,
                kind.to_owned(),
                show_size(dataset.bytes),
                dataset.manifest.to_string().chars().take(12).collect(),
                super::runs::moment(&dataset.updated_at),
            ]
        });
        output.table(&["NAME", "KIND", "SIZE ", "MANIFEST", "ADDED"], rows.collect())?;
    }
    Ok(ExitCode::Success)
}
