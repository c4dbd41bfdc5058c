//! `sway runs`: the record of what ran.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sway_client::Client;
use sway_client::jobs::RunPage;
use sway_core::api::jobs::{RunView, TraceUse};

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::size::{show_size, show_time};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway runs                   the last 20 runs
  sway runs --limit 100
  sway runs 17                all about run 17, with its output
  sway runs --json            for programs: an array, newest first, outputs included
  sway runs 17 --json         one object

JSON objects have at least id, filename, username, image, started_at, duration_ms, exit_code,
cause, memory_cache_hits, disk_cache_hits, server_fetches, bytes_fetched, stdout, stderr, and how
the start used a trace: trace, trace_pushed_bytes, trace_used_bytes, trace_missed_bytes. A file
name with * is a run that `sway export` had made to record a trace.")]
pub(crate) struct RunsArgs {
    /// Number of a run, or id of a job (its first characters do)
    id: Option<String>,
    /// How many runs to list
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "id",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print JSON with all that is on record, outputs included
    #[arg(long)]
    json: bool,
}

/// Lists runs, or shows one.
pub(crate) async fn run(args: RunsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let worker = context.worker()?;
    let output = &context.output;
    if let Some(id) = &args.id {
        let run = worker.jobs().run(id).await?;
        if args.json {
            output.json(&run)?;
        } else {
            for line in details(&run) {
                output.line(line)?;
            }
        }
        return Ok(ExitCode::Success);
    }
    let mut runs = newest(&worker, args.limit).await?;
    if args.json {
        for run in &mut runs {
            *run = worker.jobs().run(&run.id.to_string()).await?;
        }
        output.json(&runs)?;
    } else if runs.is_empty() {
        output.note("Nothing has run yet. `sway run SCRIPT` runs something.");
    } else {
        let header = [
            "RUN ", "JOB", "FILE", "USER", "IMAGE", "STARTED", "TIME ", "ENDED", "FETCHED ",
            "TRACE",
        ];
        output.table(&header, runs.iter().map(row).collect())?;
    }
    Ok(ExitCode::Success)
}

/// The last runs, newest first, page by page.
async fn newest(worker: &Client, limit: u32) -> anyhow::Result<Vec<RunView>> {
    let mut runs = Vec::new();
    let mut page = RunPage { before: None, limit: Some(limit) };
    loop {
        let list = worker.jobs().runs(page).await?;
        let is_empty = list.runs.is_empty();
        runs.extend(list.runs);
        let missing = (limit as usize).saturating_sub(runs.len());
        match list.next_before {
            Some(before) if missing > 0 && !is_empty => {
                page = RunPage { before: Some(before), limit: u32::try_from(missing).ok() };
            }
            Some(_) | None => break,
        }
    }
    runs.truncate(limit as usize);
    Ok(runs)
}

fn row(run: &RunView) -> Vec<String> {
    vec![
        run.id.to_string(),
        run.job_id.clone(),
        format!("{}{}", run.filename, if run.records_trace { "*" } else { "" }),
        run.username.clone(),
        run.image.clone(),
        moment(&run.started_at),
        run.duration_ms.map_or_else(String::new, |ms| show_time(duration(ms))),
        ending(run),
        show_size(run.bytes_fetched.unsigned_abs()),
        trace_in_short(run),
    ]
}

/// What a run's trace was worth: the part of what it brought that was used, and the part of what
/// was needed that it brought.
struct TraceWorth {
    precision: Option<f64>,
    recall: Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "parts of bytes, shown in per cent")]
fn trace_worth(run: &RunView) -> TraceWorth {
    let part = |some: i64, all: i64| (all > 0).then(|| some as f64 / all as f64);
    let used = run.trace_used_bytes;
    TraceWorth {
        precision: used.and_then(|used| part(used, run.trace_pushed_bytes)),
        recall: used.and_then(|used| part(used, used.saturating_add(run.trace_missed_bytes))),
    }
}

fn trace_in_short(run: &RunView) -> String {
    match (run.trace, trace_worth(run)) {
        (TraceUse::None, _) => String::new(),
        (used, TraceWorth { precision: Some(precision), recall: Some(recall) }) => {
            format!("{} {:.0}%/{:.0}%", used.as_str(), precision * 100.0, recall * 100.0)
        }
        (used, _) => used.as_str().to_owned(),
    }
}

fn trace_at_length(run: &RunView) -> String {
    let size = |bytes: i64| show_size(bytes.unsigned_abs());
    let brought = match run.trace {
        TraceUse::None => "none".to_owned(),
        used => format!("{}, {} brought", used.as_str(), size(run.trace_pushed_bytes)),
    };
    let used = match (run.trace_used_bytes, trace_worth(run)) {
        (Some(used), TraceWorth { precision: Some(precision), recall: Some(recall) }) => format!(
            ", {} used (precision {:.0}%, recall {:.0}%)",
            size(used),
            precision * 100.0,
            recall * 100.0
        ),
        _ => String::new(),
    };
    let recorded = if run.records_trace { "; made to record one" } else { "" };
    format!("{brought}{used}, {} missed{recorded}", size(run.trace_missed_bytes))
}

/// How it ended, in a word.
fn ending(run: &RunView) -> String {
    match (run.cause, run.exit_code) {
        (None, _) => "running".to_owned(),
        (Some(sway_core::job::Cause::Exited), Some(code)) => format!("exit {code}"),
        (Some(cause), _) => cause.as_str().to_owned(),
    }
}

fn details(run: &RunView) -> Vec<String> {
    let mut lines = vec![
        format!("run        {} (job {})", run.id, run.job_id),
        format!("file       {}", run.filename),
        format!("user       {}", run.username),
        format!("image      {} ({})", run.image, run.manifest),
        format!("started    {}", moment(&run.started_at)),
        format!(
            "took       {}; before it {} queued, {} mounting, {} starting",
            run.duration_ms.map_or_else(|| "(running)".to_owned(), |ms| show_time(duration(ms))),
            show_time(duration(run.queued_ms)),
            show_time(duration(run.mount_ms)),
            show_time(duration(run.start_ms)),
        ),
        format!("ended      {}", ending(run)),
    ];
    if let Some(message) = &run.message {
        lines.push(format!("message    {message}"));
    }
    lines.push(format!(
        "limits     {}, {} memory, {} CPUs, {} processes",
        show_time(Duration::from_millis(run.limits.timeout_ms)),
        show_size(run.limits.memory_bytes),
        f64::from(run.limits.cpus_milli) / 1000.0,
        run.limits.pids,
    ));
    lines.push(format!("chunks     {}", cache_figures(run)));
    lines.push(format!("trace      {}", trace_at_length(run)));
    if let Some(peak) = run.memory_peak_bytes {
        lines.push(format!("memory     {} at most", show_size(peak.unsigned_abs())));
    }
    if let (Some(cpu_ms), Some(peak)) = (run.cpu_ms, run.cpus_peak_milli) {
        let peak = f64::from(u32::try_from(peak).unwrap_or(u32::MAX)) / 1000.0;
        lines.push(format!("cpu        {}, {peak} CPUs at most", show_time(duration(cpu_ms))));
    }
    for (name, text, cut) in [
        ("stdout", &run.stdout, run.stdout_truncated),
        ("stderr", &run.stderr, run.stderr_truncated),
    ] {
        let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else { continue };
        lines.push(String::new());
        lines.push(format!("{name}{}", if cut { " (cut at its limit)" } else { "" }));
        lines.extend(text.lines().map(|line| format!("  {line}")));
    }
    lines
}

/// Where a run's chunks came from.
pub(crate) fn cache_figures(run: &RunView) -> String {
    format!(
        "{} from memory, {} from disk, {} fetched ({})",
        run.memory_cache_hits,
        run.disk_cache_hits,
        run.server_fetches,
        show_size(run.bytes_fetched.unsigned_abs()),
    )
}

/// A moment as the reader's clock shows it; as it came where it is none.
pub(crate) fn moment(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(moment) => moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => text.to_owned(),
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}
