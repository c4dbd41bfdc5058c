//! `sway audit`: who did what to which job, and whether the record of it is whole.

use clap::Args;
use sway_client::submissions::AuditQuery;
use sway_core::api::submissions::AuditPage;
use sway_core::audit::{AuditFault, Head, Verifier};

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::foreign;

/// Entries in one answer.
const PAGE_LEN: u32 = 1000;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway audit                 all entries, oldest first: for the operator
  sway audit --job a1b2      what happened to one job of yours
  sway audit --json          for programs: an array
  sway audit --verify        follow the chain of hashes to its head
  sway audit --head          print the head, to be noted where nobody of this worker can write
  sway audit --verify --head 17:5c0f…
                             and whether the entry that was noted is still there

Each entry has a hash over itself and the one before: one that was edited, removed or moved is found,
and the exit code is 1 then. An end that was cut off is found with a head that was noted.")]
pub(crate) struct AuditArgs {
    /// Check every entry here, on this machine
    #[arg(long, conflicts_with_all = ["job", "json"])]
    verify: bool,
    /// Print the head; with --verify, the head that was noted
    #[arg(long, value_name = "SEQ:HASH", num_args = 0..=1, conflicts_with_all = ["job", "json"])]
    head: Option<Option<Head>>,
    /// Only what happened to this job (the first characters of its id do)
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Print an array of JSON objects
    #[arg(long)]
    json: bool,
}

/// Shows, or checks.
pub(crate) async fn run(args: AuditArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker()?;
    let output = &context.output;
    let mut query = AuditQuery { job: args.job, after: None, limit: Some(PAGE_LEN) };
    let is_checked = args.verify || args.head.is_some();
    let mut verifier = Verifier::new(args.head.flatten());
    let mut entries = Vec::new();
    loop {
        let AuditPage { entries: page, next_after } = worker.submissions().audit(&query).await?;
        match is_checked {
            true => {
                for entry in &page {
                    verifier.push(entry).map_err(|fault| broken(&fault))?;
                }
            }
            false => entries.extend(page),
        }
        if next_after.is_none() {
            break;
        }
        query.after = next_after;
    }
    if is_checked {
        let head = verifier.end().map_err(|fault| broken(&fault))?;
        output.line(&head)?;
        output.verdict(true, format_args!("the audit is sound: {} entries", head.seq));
    } else if args.json {
        output.json(&entries)?;
    } else {
        let rows = entries.iter().map(|entry| {
            vec![
                entry.seq.to_string(),
                super::runs::moment(&entry.at),
                foreign::line(&entry.actor, 32),
                entry.peer.clone(),
                entry.action.clone(),
                entry.job.clone(),
                foreign::line(&entry.detail, 60),
            ]
        });
        let header = ["SEQ ", "AT", "WHO", "FROM", "DID", "JOB", "MORE"];
        output.table(&header, rows.collect())?;
    }
    Ok(ExitCode::Success)
}

fn broken(fault: &AuditFault) -> anyhow::Error {
    Failure::new(format!("the audit is not what was written: {fault}"))
        .hint("compare it with a backup of the worker's database")
        .into()
}
