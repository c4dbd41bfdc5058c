//! A job's output on its way to this process's own streams.

use std::io;

use anyhow::Context as _;
use futures::StreamExt;
use sway_client::Client;
use sway_core::api::jobs::{JobEvent, OutputStream, RunView};
use sway_core::job::JobState;

use crate::output::{Output, Relay};

/// How a job ended, as its event stream told it.
#[derive(Debug)]
pub(crate) struct End {
    /// The job's last state.
    pub(crate) state: JobState,
    /// Its run, without the outputs; none where it never ran.
    pub(crate) run: Option<RunView>,
}

/// Nobody reads our output any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct NoReader;

/// Follows a job to its end. `relay` passes the output on, byte for byte; without it the output
/// is left to the record.
pub(crate) async fn follow(
    worker: &Client,
    job: &str,
    mut relay: Option<&mut Relay>,
    output: &Output,
) -> anyhow::Result<End> {
    let events = worker.jobs().events(job, None);
    tokio::pin!(events);
    while let Some(event) = events.next().await {
        let (_, event) = event.with_context(|| format!("lost track of job {job}"))?;
        match event {
            JobEvent::State { state } => tracing::debug!(job.id = job, state = state.as_str()),
            JobEvent::Output { stream, data } => {
                if let Some(relay) = relay.as_deref_mut() {
                    relay.write(stream, &data).await.map_err(unwritable)?;
                }
            }
            JobEvent::Truncated { stream } => {
                if let Some(relay) = relay.as_deref_mut() {
                    relay.end_line().await;
                }
                let name = match stream {
                    OutputStream::Stdout => "stdout",
                    OutputStream::Stderr => "stderr",
                };
                output.warning(format_args!(
                    "{name} is cut here: the limit is reached (--output-limit sets it)"
                ));
            }
            JobEvent::Usage(usage) => {
                tracing::trace!(job.id = job, usage.memory_bytes, usage.cpu_ms);
            }
            JobEvent::End { state, run } => {
                if let Some(relay) = relay.as_deref_mut() {
                    relay.end_line().await;
                }
                return Ok(End { state, run: run.map(|run| *run) });
            }
        }
    }
    anyhow::bail!("the worker stopped telling about job {job} before it ended")
}

fn unwritable(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => NoReader.into(),
        _ => anyhow::Error::new(error).context("can't write the job's output"),
    }
}
