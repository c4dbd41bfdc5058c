//! A job from its place in the queue to its end: one run, carried out and written down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sway_core::api::jobs::{JobView, RunView};
use sway_core::job::{Cause, JobState};
use tokio::sync::{AcquireError, OwnedSemaphorePermit};

use super::active::{Active, Stop};
use super::attempt::{Attempt, Running};
use super::turns::Turn;
use super::{Inner, QueueError, read_output};
use crate::db::{ApprovedJob, DbError, NewRun, RunEnd, STORED_OUTPUT_LEN_MAX, Scope, rfc3339};
use crate::job::output::OutputLog;
use crate::job::{Go, RunOutcome};

/// Runs that end between two looks at how many are kept.
const PRUNE_EVERY: u32 = 64;

/// A job's place among those that run.
enum Place {
    /// With a try that was begun ahead.
    Taken(Attempt),
    /// With the owner's turn where one decided.
    Free(Result<OwnedSemaphorePermit, AcquireError>, Option<Turn>),
    /// Its owner said no, or its packages can't be installed.
    Ended,
}

impl Inner {
    /// Brings a job from its place in the queue to its end.
    pub(super) async fn carry_out(self: &Arc<Self>, active: &Active, ahead: Option<Attempt>) {
        let since = Instant::now();
        let place = async {
            let turn = match &active.owner {
                None => None,
                Some(owner) if !self.prepare(active, owner).await? => return Ok(Place::Ended),
                Some(_) if !active.is_approved().await => return Ok(Place::Ended),
                Some(owner) => {
                    let settings = self.db.queue_settings(owner).await?;
                    Some(self.turns.take(owner, settings.max_concurrent_jobs).await)
                }
            };
            Ok(match ahead {
                Some(attempt) => Place::Taken(attempt),
                None => Place::Free(Arc::clone(&self.places).acquire_owned().await, turn),
            })
        };
        let place = tokio::select! {
            biased;
            () = active.cancel.cancelled() => None,
            () = self.stopping.cancelled() => {
                active.progress.send_modify(|progress| progress.parked = true);
                return;
            }
            place = place => Some(place),
        };
        let ended = match place {
            Some(Ok(Place::Ended)) => return,
            Some(Ok(place)) => self.run(active, place, since.elapsed()).await,
            Some(Err(error)) => Err(error),
            None => self.end_waiting(active).await,
        };
        if let Err(error) = ended {
            tracing::error!(
                job.id = active.id,
                error = &error as &dyn std::error::Error,
                "the job's end is not on record"
            );
            active.progress.send_modify(|progress| progress.state = JobState::Failed);
        }
    }

    async fn end_waiting(&self, active: &Active) -> Result<(), QueueError> {
        if active.stopped() == Some(Stop::Shutdown) {
            return Ok(());
        }
        match self.db.move_job(&active.id, JobState::Cancelled).await {
            Err(DbError::IllegalMove { .. }) => {
                // Its owner said no at the same moment.
                let state = self.db.job(&active.id, &Scope::All).await?.view.state;
                active.progress.send_modify(|progress| progress.state = state);
                return Ok(());
            }
            moved => moved?,
        }
        tracing::info!(job.id = active.id, "job cancelled while it waited");
        active.progress.send_modify(|progress| progress.state = JobState::Cancelled);
        Ok(())
    }

    async fn run(
        self: &Arc<Self>,
        active: &Active,
        place: Place,
        queued: Duration,
    ) -> Result<(), QueueError> {
        let begun = Instant::now();
        let (mut attempt, output_bytes, records_trace, _turn) = match place {
            Place::Ended => return Ok(()),
            // None is begun ahead for a job that records.
            Place::Taken(attempt) => {
                let output_bytes = attempt.output_bytes;
                (attempt, output_bytes, false, None)
            }
            Place::Free(place, turn) => {
                let place = place.map_err(|_| QueueError::Stopping)?;
                let job = match self.to_run(active).await? {
                    Ok(job) => job,
                    Err(reason) => return self.refuse(active, queued, reason).await,
                };
                let ApprovedJob { spec, limits, manifest, datasets } = job;
                let records = crate::trace::is_recording(&spec);
                let attempt = self.attempt(active, spec, limits, manifest, datasets, place);
                (attempt, limits.output_bytes, records, turn)
            }
        };
        // Its container is made meanwhile.
        let new = NewRun { job_id: active.id.clone(), queued_ms: millis(queued), records_trace };
        let run_id = self.db.begin_run(new).await?;
        let output = self.outputs.create(run_id, output_bytes)?;
        active.progress.send_modify(|progress| progress.output = Some(Arc::clone(&output)));
        if attempt.is_ready().await {
            // From here on the job is one that was running: whatever dies now, it is not run again.
            match active.owner {
                Some(_) => self.db.start_approved_job(&active.id, run_id).await?,
                None => self.db.start_job(&active.id).await?,
            }
        }
        let go = Go {
            run_id,
            stdin: active.take_stdin(),
            output: Arc::clone(&output),
            usage: active.usage.clone(),
            archive: self.outputs.archive(run_id),
        };
        let Running { started, outcome } = attempt.go(go);
        if started.await.is_ok() {
            self.tell_running(active, run_id).await;
        }
        let outcome = outcome.await.map_err(|_| QueueError::Stopping)?;
        // Whoever carried it out: nothing follows.
        output.end();
        let end = self.end_of(active, outcome, &output, run_id).await;
        let state = end.state;
        let run = self.db.end_run(run_id, end).await?;
        tracing::info!(
            job.id = active.id,
            run.id = run_id,
            image.name = run.image,
            cause = run.cause.map(Cause::as_str),
            exit_code = run.exit_code,
            duration_ms = run.duration_ms,
            total_ms = millis(begun.elapsed()),
            "run ended"
        );
        count_run(&run);
        active.progress.send_modify(|progress| {
            progress.state = state;
            progress.run = Some(Box::new(run));
        });
        let many = self.ended.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1;
        if (self.outputs.count_ended(run_id) || many)
            && let Err(error) = self.prune().await
        {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "old runs can't be removed");
        }
        Ok(())
    }

    /// What a job runs: what was approved, where an owner decides; else why it must not run.
    async fn to_run(&self, active: &Active) -> Result<Result<ApprovedJob, String>, QueueError> {
        if active.owner.is_some() {
            return Ok(self.db.approved_job(&active.id).await?);
        }
        let job = self.db.job(&active.id, &Scope::All).await?.view;
        let spec = self.db.job_spec(&active.id).await?;
        let spec = spec.ok_or_else(|| DbError::NoJob(active.id.clone()))?;
        let JobView { limits, manifest, datasets, .. } = job;
        Ok(Ok(ApprovedJob { spec, limits, manifest, datasets }))
    }

    /// Ends a job that is not what was approved, before anything of it is made.
    async fn refuse(
        &self,
        active: &Active,
        queued: Duration,
        reason: String,
    ) -> Result<(), QueueError> {
        tracing::error!(job.id = active.id, reason, "the job is not what was approved");
        self.db.note_refusal(&active.id, &reason).await?;
        let queued_ms = millis(queued);
        let new = NewRun { job_id: active.id.clone(), queued_ms, records_trace: false };
        let run_id = self.db.begin_run(new).await?;
        let message = format!("the job was not started: {reason}");
        let run = match self.db.end_run(run_id, RunEnd::failed(message)).await {
            Ok(run) => Some(Box::new(run)),
            // Its row can't even be read: that it failed is all that is put down.
            Err(_) => {
                self.db.move_job(&active.id, JobState::Failed).await?;
                None
            }
        };
        active.progress.send_modify(|progress| {
            progress.state = JobState::Failed;
            progress.run = run;
        });
        Ok(())
    }

    async fn tell_running(&self, active: &Active, run_id: i64) {
        active.progress.send_modify(|progress| progress.state = JobState::Running);
        if let Err(error) = self.db.note_start(run_id).await {
            tracing::error!(
                job.id = active.id,
                error = &error as &dyn std::error::Error,
                "the time of the job's start is not on record"
            );
        }
    }

    /// What the row says of an outcome.
    async fn end_of(
        &self,
        active: &Active,
        outcome: RunOutcome,
        output: &Arc<OutputLog>,
        run_id: i64,
    ) -> RunEnd {
        let (cause, message) = match (outcome.cause, active.stopped()) {
            (Cause::Cancelled, Some(Stop::Shutdown)) => {
                (Cause::Infrastructure, Some("the worker was stopped".to_owned()))
            }
            (Cause::Cancelled, Some(Stop::Abandoned)) => {
                (Cause::Cancelled, Some("its client went away".to_owned()))
            }
            (cause, _) => (cause, outcome.message),
        };
        let state = match (cause, outcome.exit_code) {
            (Cause::Exited, Some(0)) => JobState::Completed,
            (Cause::Cancelled, _) => JobState::Cancelled,
            _ => JobState::Failed,
        };
        let (stdout, stderr) = match read_output(output, STORED_OUTPUT_LEN_MAX, run_id).await {
            Ok(both) => both,
            Err(error) => {
                tracing::error!(
                    run.id = run_id,
                    error = &error as &dyn std::error::Error,
                    "the output is not on record"
                );
                Default::default()
            }
        };
        RunEnd {
            state,
            cause,
            exit_code: outcome.exit_code,
            message,
            started_at: outcome.started_at.map(rfc3339),
            duration_ms: outcome.started_at.map(|_| millis(outcome.duration)),
            stdout,
            stderr,
            stdout_truncated: outcome.stdout_truncated,
            stderr_truncated: outcome.stderr_truncated,
            figures: outcome.figures,
            trace: outcome.trace,
            trace_pushed_bytes: outcome.trace_pushed_bytes,
            output_files: outcome.packed.map(|packed| (packed.files, packed.bytes)),
            used: outcome.used,
            answer: outcome.answer,
            mount_ms: millis(outcome.mount),
            start_ms: millis(outcome.start),
            first_output_ms: outcome.first_output.map(millis),
            pooled: outcome.pooled,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Adds a run to the process's metrics.
pub(super) fn count_run(run: &RunView) {
    let cause = run.cause.map_or("none", Cause::as_str);
    metrics::counter!("sway_runs_total", "cause" => cause).increment(1);
    if let Some(duration_ms) = run.duration_ms {
        let seconds = Duration::from_millis(duration_ms.unsigned_abs()).as_secs_f64();
        metrics::histogram!("sway_run_duration_seconds").record(seconds);
    }
    for (tier, hits, bytes) in [
        ("memory", run.memory_cache_hits, run.memory_cache_bytes),
        ("disk", run.disk_cache_hits, run.disk_cache_bytes),
        ("server", run.server_fetches, run.bytes_fetched),
    ] {
        metrics::counter!("sway_run_chunks_total", "tier" => tier).increment(hits.unsigned_abs());
        metrics::counter!("sway_run_bytes_total", "tier" => tier).increment(bytes.unsigned_abs());
    }
    metrics::counter!("sway_run_starts_total", "trace" => run.trace.as_str()).increment(1);
    for (what, bytes) in [("pushed", run.trace_pushed_bytes), ("missed", run.trace_missed_bytes)] {
        metrics::counter!("sway_trace_bytes_total", "what" => what).increment(bytes.unsigned_abs());
    }
}
