//! `sway queue`: what the caller grants to jobs that others submit.

use clap::{Args, Subcommand};
use sway_core::api::submissions::{QueueSettings, QueueView};
use sway_core::name::ImageName;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::size::{parse_cpus_milli, parse_size, show_size};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway queue                 what you grant to jobs that others submit to you
  sway queue --json
  sway queue set --max-concurrent-jobs 3 --job-timeout 600 --cleanup-completed-after 86400
                             these are the defaults
  sway queue set --datasets weather,census --images science --network no
  sway queue set --datasets all --images all
  pip wheel -r requirements.txt -w wheels && sway data add wheels ./wheels
  sway queue set --wheels wheels
                             jobs' packages are installed from these wheels alone

What was submitted before a change stays as it was submitted.")]
pub(crate) struct QueueArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Change what is named, and leave the rest
    Set(SetArgs),
}

#[derive(Debug, Args)]
struct SetArgs {
    /// Submitted jobs that run at a time
    #[arg(long, value_name = "N")]
    max_concurrent_jobs: Option<u32>,
    /// Timeout of jobs that ask for none, and the longest that one may ask for, in seconds
    #[arg(long, value_name = "S")]
    job_timeout: Option<u64>,
    /// How long after its end a job's code, outputs and logs are kept, in seconds
    #[arg(long, value_name = "S")]
    cleanup_completed_after: Option<u64>,
    /// Your datasets that may be asked for, or all
    #[arg(long, value_name = "NAME,…|all", value_delimiter = ',')]
    datasets: Option<Vec<String>>,
    /// Images that may be asked for, or all
    #[arg(long, value_name = "NAME,…|all", value_delimiter = ',')]
    images: Option<Vec<String>>,
    /// Whether jobs may ask for the network
    #[arg(long, value_name = "yes|no", value_parser = parse_yes)]
    network: Option<bool>,
    /// Your dataset with the wheels that jobs' packages are installed from, in place of the worker's
    /// index; or none
    #[arg(long, value_name = "NAME|none")]
    wheels: Option<String>,
    /// Most memory that a job may ask for
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_memory: Option<u64>,
    /// Most CPUs
    #[arg(long, value_name = "N", value_parser = parse_cpus_milli)]
    max_cpus: Option<u32>,
    /// Most processes and threads
    #[arg(long, value_name = "N")]
    max_pids: Option<u32>,
}

fn parse_yes(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("yes or no".to_owned()),
    }
}

/// Shows the queue's settings, or changes them.
pub(crate) async fn run(args: QueueArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker()?;
    let output = &context.output;
    let submissions = worker.submissions();
    let mut queue = submissions.queue().await?;
    if let Some(Change::Set(change)) = args.change {
        let settings = changed(queue.settings, change)?;
        settings.check()?;
        queue = submissions.set_queue(&settings).await?;
    }
    match args.json {
        true => output.json(&queue)?,
        false => told(&queue).iter().try_for_each(|line| output.line(line))?,
    }
    Ok(ExitCode::Success)
}

fn changed(mut settings: QueueSettings, change: SetArgs) -> anyhow::Result<QueueSettings> {
    let is_all = |names: &[String]| names == ["all"];
    settings.max_concurrent_jobs =
        change.max_concurrent_jobs.unwrap_or(settings.max_concurrent_jobs);
    settings.job_timeout_s = change.job_timeout.unwrap_or(settings.job_timeout_s);
    settings.cleanup_completed_after_s =
        change.cleanup_completed_after.unwrap_or(settings.cleanup_completed_after_s);
    if let Some(names) = change.datasets {
        settings.datasets = (!is_all(&names)).then_some(names);
    }
    if let Some(names) = change.images {
        settings.images = match is_all(&names) {
            true => None,
            false => {
                let parsed = names.iter().map(|name| name.parse::<ImageName>());
                Some(parsed.collect::<Result<_, _>>()?)
            }
        };
    }
    settings.network = change.network.unwrap_or(settings.network);
    if let Some(wheels) = change.wheels {
        settings.wheels = (wheels != "none").then_some(wheels);
    }
    settings.max_memory_bytes = change.max_memory.or(settings.max_memory_bytes);
    settings.max_cpus_milli = change.max_cpus.or(settings.max_cpus_milli);
    settings.max_pids = change.max_pids.or(settings.max_pids);
    Ok(settings)
}

fn told(queue: &QueueView) -> Vec<String> {
    let QueueSettings {
        max_concurrent_jobs,
        job_timeout_s,
        cleanup_completed_after_s,
        datasets,
        images,
        network,
        wheels,
        max_memory_bytes,
        max_cpus_milli,
        max_pids,
    } = &queue.settings;
    let of_worker = || "the worker's".to_owned();
    let joined = |names: Option<Vec<String>>| names.map_or("all".to_owned(), |it| it.join(", "));
    let images = images.as_ref().map(|it| it.iter().map(ToString::to_string).collect());
    let cpus = max_cpus_milli.map(|milli| (f64::from(milli) / 1000.0).to_string());
    let rows = [
        ("owner", queue.owner.to_string()),
        ("max concurrent jobs", max_concurrent_jobs.to_string()),
        ("job timeout", format!("{job_timeout_s} s")),
        ("cleanup completed after", format!("{cleanup_completed_after_s} s")),
        ("datasets", joined(datasets.clone())),
        ("images", joined(images)),
        ("network", if *network { "yes" } else { "no" }.to_owned()),
        ("wheels", wheels.clone().unwrap_or_else(|| "the worker's index".to_owned())),
        ("max memory", max_memory_bytes.map_or_else(of_worker, show_size)),
        ("max cpus", cpus.unwrap_or_else(of_worker)),
        ("max pids", max_pids.map_or_else(of_worker, |pids| pids.to_string())),
    ];
    rows.into_iter().map(|(title, text)| format!("{title:<24} {text}")).collect()
}
