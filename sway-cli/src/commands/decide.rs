//! `sway approve` and `sway reject`: what an owner decides.

use clap::Args;
use sway_core::api::submissions::DecisionRequest;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::output::chain;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway approve a1b2c3d4 -r 'Looks safe'
  sway reject a1b2c3d4 e5f6g7h8 -r 'Too broad'
                             several at once
  sway approve a1b2 --digest 4be1…
                             only if it is what `sway review` showed with this digest

Only pending jobs can be decided on, once. Where some of several can't, the others are all the same,
and the exit code is 1.")]
pub(crate) struct DecideArgs {
    /// Ids of jobs (their first characters do)
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Why; the submitter sees it
    #[arg(long, short, default_value = "", value_name = "TEXT")]
    reason: String,
    /// The digest of what was reviewed [default: the one that the job has now]
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
    /// Print an array of JSON objects, one for each job that was decided on
    #[arg(long)]
    json: bool,
}

/// Decides on all of them, one after the other.
pub(crate) async fn run(
    args: DecideArgs,
    approved: bool,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let worker = context.worker()?;
    let output = &context.output;
    let word = if approved { "approved" } else { "rejected" };
    let (mut all, mut failed) = (Vec::new(), false);
    for id in &args.ids {
        let deciding = async {
            let digest = match &args.digest {
                Some(digest) => Some(digest.clone()),
                None => worker.jobs().job(id).await?.submission.map(|it| it.digest),
            };
            let request = DecisionRequest { reason: args.reason.clone(), digest };
            let submissions = worker.submissions();
            match approved {
                true => submissions.approve(id, &request).await,
                false => submissions.reject(id, &request).await,
            }
        };
        match deciding.await {
            Ok(decided) if args.json => all.push(decided),
            Ok(decided) => {
                let id = &decided.job.id;
                let decision = decided.job.submission.and_then(|it| it.decision);
                match decision.filter(|_| decided.already) {
                    Some(was) => output.line(format_args!(
                        "{id} was {word} already, by {} at {}",
                        was.by,
                        super::runs::moment(&was.at)
                    ))?,
                    None => output.line(format_args!("{id} {word}"))?,
                }
            }
            // The last one's error is the command's own.
            Err(error) if args.ids.len() == 1 => return Err(error.into()),
            Err(error) => {
                failed = true;
                output.warning(format_args!("{id}: {}", chain(&error.into())));
            }
        }
    }
    if args.json {
        output.json(&all)?;
    }
    Ok(if failed { ExitCode::Failed } else { ExitCode::Success })
}
