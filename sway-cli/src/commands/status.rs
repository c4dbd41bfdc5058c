//! `sway status` and `sway wait`: where jobs stand, and their end.

use clap::Args;
use sway_core::api::jobs::JobView;
use sway_core::api::submissions::{Packages, StateCounts};
use sway_core::job::JobState;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::follow::follow;
use crate::foreign;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway status                how many jobs there are for you to decide on, and of your own
  sway status a1b2c3d4       where a job stands
  sway status a1b2 --json    for programs: the job as JSON")]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Id of a job (its first characters do)
    id: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway wait a1b2c3d4         until the job has ended, also while it waits for its owner
  sway wait a1b2 e5f6        several of them
  sway wait a1b2 && sway output a1b2 --to results

The exit code is 0 if all of them completed.")]
pub(crate) struct WaitArgs {
    /// Print an array of JSON objects at the end
    #[arg(long)]
    json: bool,
    /// Ids of jobs (their first characters do)
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// The queue's state, or one job's.
pub(crate) async fn status(args: StatusArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let output = &context.output;
    if let Some(id) = &args.id {
        let job = context.worker_with(id).await?.jobs().job(id).await?;
        match args.json {
            true => output.json(&job)?,
            false => details(&job).iter().try_for_each(|line| output.line(line))?,
        }
        return Ok(ExitCode::Success);
    }
    let mut workers = context.workers()?.into_iter();
    let own = workers.next().expect("there is the worker of the settings");
    let mut queue = own.submissions().queue().await?;
    for worker in workers {
        match worker.submissions().queue().await {
            Ok(there) => queue.by_me = queue.by_me.plus(there.by_me),
            Err(error) => context.is_missing(&worker, error),
        }
    }
    if args.json {
        output.json(&queue)?;
        return Ok(ExitCode::Success);
    }
    let row = |title: &str, counts: StateCounts| {
        let StateCounts { pending, approved, running, completed, failed, rejected, cancelled } =
            counts;
        let counts = [pending, approved, running, completed, failed, rejected, cancelled];
        [title.to_owned()].into_iter().chain(counts.map(|count| count.to_string())).collect()
    };
    let header = [
        "JOBS",
        "PENDING ",
        "APPROVED ",
        "RUNNING ",
        "COMPLETED ",
        "FAILED ",
        "REJECTED ",
        "CANCELLED ",
    ];
    let me = queue.owner;
    let rows = vec![row(&format!("for {me}"), queue.for_me), row(&format!("by {me}"), queue.by_me)];
    output.table(&header, rows)?;
    Ok(ExitCode::Success)
}

/// What a person wants to know of a job.
fn details(job: &JobView) -> Vec<String> {
    let mut lines = vec![format!("{}  {}", job.id, job.state.as_str())];
    let mut add = |title: &str, text: String| lines.push(format!("  {title:<10} {text}"));
    if let Some(submission) = &job.submission {
        add("name", foreign::line(&submission.name, 200));
        add("to", submission.owner.to_string());
        for text in submission.packages.iter().flat_map(Packages::told) {
            add("packages", foreign::line(&text, 2000));
        }
        if let Some(decision) = &submission.decision {
            let word = if decision.approved { "approved" } else { "rejected" };
            let at = super::runs::moment(&decision.at);
            add(word, format!("by {} at {at}", decision.by));
            if !decision.reason.is_empty() {
                add("reason", foreign::line(&decision.reason, 1000));
            }
        }
    }
    add("by", job.username.to_string());
    add("submitted", super::runs::moment(&job.created_at));
    if let Some(run) = &job.run {
        add("run", run.id.to_string());
        match (run.interruption(), run.exit_code) {
            (Some(why), _) => add("ended", foreign::line(&why, 1000)),
            (None, Some(code)) => add("exit code", code.to_string()),
            (None, None) => {}
        }
    }
    lines
}

/// Waits for the end of all of them.
pub(crate) async fn wait(args: WaitArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let output = &context.output;
    let mut ended = Vec::new();
    for id in &args.ids {
        let worker = context.worker_with(id).await?;
        let id = worker.jobs().job(id).await?.id;
        follow(&worker, &id, None, output).await?;
        let job = worker.jobs().job(&id).await?;
        if !args.json {
            output.line(format_args!("{id} {}", job.state.as_str()))?;
        }
        ended.push(job);
    }
    if args.json {
        output.json(&ended)?;
    }
    let good = ended.iter().all(|job| job.state == JobState::Completed);
    Ok(if good { ExitCode::Success } else { ExitCode::Failed })
}
