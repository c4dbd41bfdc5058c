//! `sway jobs` and `sway pending`: jobs that owners decide on.

use clap::Args;
use sway_client::submissions::JobQuery;
use sway_client::{Client, ClientError};
use sway_core::api::jobs::JobView;
use sway_core::api::submissions::Packages;
use sway_core::job::JobState;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::foreign;
use crate::output::Output;

/// Letters of a name, and of a person, in a table.
const NAME_LEN_MAX: usize = 32;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway jobs                  jobs that you submitted, and that were submitted to you
  sway jobs --state failed
  sway jobs --json           for programs: an array, newest first

A job is pending, approved, running, completed, failed, rejected or cancelled. Jobs of `sway run`,
on which nobody decides, are in `sway runs`.")]
pub(crate) struct JobsArgs {
    /// Only jobs in this state
    #[arg(long, value_parser = parse_state)]
    state: Option<JobState>,
    /// Only jobs in the queue of this name
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// How many jobs to list
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print JSON with all that is on record
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway pending               jobs that wait for your decision
  sway pending --json        for programs: an array, newest first; `id` is what approve takes")]
pub(crate) struct PendingArgs {
    /// Only jobs in the queue of this name
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Print JSON with all that is on record
    #[arg(long)]
    json: bool,
}

fn parse_state(text: &str) -> Result<JobState, String> {
    let names = || JobState::ALL.map(JobState::as_str).join(", ");
    JobState::from_name(text).ok_or_else(|| format!("there are: {}", names()))
}

/// Lists jobs of either side.
pub(crate) async fn jobs(args: JobsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let query = JobQuery { state: args.state, queue: args.queue, ..JobQuery::default() };
    let (workers, mut jobs) = (context.workers()?, Vec::new());
    let mut left = workers.len();
    for worker in &workers {
        match newest(worker, query.clone(), args.limit).await {
            Ok(found) => jobs.extend(found),
            Err(error) => {
                left -= 1;
                // No list is another thing than an empty one.
                if left == 0 {
                    return Err(error.into());
                }
                context.is_missing(worker, error);
            }
        }
    }
    if workers.len() > 1 {
        // All times have one form, whose order is that of time.
        jobs.sort_by(|a, b| b.created_at.cmp(&a.created_at));
        jobs.truncate(args.limit as usize);
    }
    tell(&jobs, args.json, "There are no such jobs.", &context.output)?;
    Ok(ExitCode::Success)
}

/// Lists what the caller has to decide on.
pub(crate) async fn pending(args: PendingArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker()?;
    // The token decides who one is.
    let owner = worker.submissions().queue().await?.owner;
    let query = JobQuery {
        owner: Some(owner),
        queue: args.queue,
        state: Some(JobState::Pending),
        ..JobQuery::default()
    };
    let jobs = newest(&worker, query, 10_000).await?;
    tell(&jobs, args.json, "No job waits for your decision.", &context.output)?;
    Ok(ExitCode::Success)
}

/// Jobs, newest first, page by page.
async fn newest(
    worker: &Client,
    mut query: JobQuery,
    limit: u32,
) -> Result<Vec<JobView>, ClientError> {
    let mut jobs = Vec::new();
    loop {
        let missing = limit.saturating_sub(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        query.limit = Some(missing.min(1000));
        let page = worker.submissions().jobs(&query).await?;
        jobs.extend(page.jobs);
        match page.next_before {
            Some(before) if jobs.len() < limit as usize => query.before = Some(before),
            Some(_) | None => return Ok(jobs),
        }
    }
}

fn tell(jobs: &[JobView], json: bool, none: &str, output: &Output) -> anyhow::Result<()> {
    if json {
        output.json(&jobs)?;
    } else if jobs.is_empty() {
        output.note(none);
    } else {
        let header = ["ID", "STATE", "NAME", "BY", "TO", "SUBMITTED"];
        output.table(&header, jobs.iter().map(row).collect())?;
    }
    Ok(())
}

fn row(job: &JobView) -> Vec<String> {
    let submission = job.submission.as_ref();
    let of = |text: Option<&str>| foreign::line(text.unwrap_or_default(), NAME_LEN_MAX);
    let packages = submission.and_then(|it| it.packages.as_ref());
    let state = match packages {
        Some(Packages::Preparing) if job.state == JobState::Pending => "pending (installing)",
        Some(_) | None => job.state.as_str(),
    };
    vec![
        job.id.clone(),
        state.to_owned(),
        of(submission.map(|it| it.name.as_str())),
        of(Some(job.username.as_ref())),
        of(submission.map(|it| it.owner.as_ref())),
        super::runs::moment(&job.created_at),
    ]
}
