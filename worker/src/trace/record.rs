//! From a run's touches to a trace that is published.

use std::sync::Arc;
use std::time::Instant;

use sway_client::refs::Expect;
use sway_core::digest::Digest;
use sway_core::trace::touches::{Contents, Touches};
use sway_core::trace::{Trace, TraceKey};
use tokio::sync::mpsc;

use super::derive::DONATED_SHARE;
use super::store::{Stored, ref_of};
use super::{EndedRun, RecordError, Subject, Traces};
use crate::db::KnownTrace;
use crate::priority::{BACKGROUND, at_nice};
use crate::start::Pushed;

/// How often a trace is merged again because another worker was faster.
const MOVED_TRIES_MAX: usize = 5;

/// Records one run after the other, until the worker stops.
pub(super) async fn work_off(traces: Arc<Traces>, mut ended: mpsc::Receiver<EndedRun>) {
    let stopping = traces.tasks.stopping().clone();
    while let Some(Some(run)) = stopping.run_until_cancelled(ended.recv()).await {
        let subject = run.subject.clone();
        let recorded = stopping.run_until_cancelled(traces.record(run));
        match recorded.await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                metrics::counter!("sway_traces_failed_total").increment(1);
                tracing::warn!(
                    trace.r#ref = %ref_of(&subject),
                    %error,
                    "a trace was not recorded"
                );
            }
        }
    }
}

impl Traces {
    /// Puts down how much of what was pushed for a run it used, as far as that is known.
    async fn note_used(&self, job_id: &str, pushed: Pushed) -> Result<(), RecordError> {
        let bytes = pushed.bytes();
        let looking = tokio::task::spawn_blocking(move || at_nice(BACKGROUND, || pushed.used()));
        match looking.await.map_err(|_| RecordError::Stopping)? {
            Ok(Some(used)) => {
                let counter = |what| metrics::counter!("sway_trace_bytes_total", "what" => what);
                counter("used").increment(used);
                counter("unused").increment(bytes - used);
                Ok(self.db.note_trace_used(job_id, used).await?)
            }
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::debug!(job.id = job_id, %error, "what a run used of its trace is not known");
                Ok(())
            }
        }
    }

    async fn record(&self, mut run: EndedRun) -> Result<(), RecordError> {
        if let Some(pushed) = run.pushed.take() {
            self.note_used(&run.job_id, pushed).await?;
        }
        let Some(noted) = run.account.take_touched() else { return Ok(()) };
        let subject = &run.subject;
        let known = self.known(subject).await?;
        if noted.is_empty() && known.is_some() {
            return Ok(());
        }
        let begun = Instant::now();
        let manifest = Arc::clone(run.rootfs.manifest());
        let seen = tokio::task::spawn_blocking({
            let manifest = Arc::clone(&manifest);
            move || at_nice(BACKGROUND, || Touches::of_run(&manifest, &noted))
        });
        let seen = seen.await.map_err(|_| RecordError::Stopping)?;
        let contents = Contents::of(&manifest);
        // The usual case is a run that touched nothing new, and it ends here.
        if let Some(known) = &known
            && Touches::merge(Some(known), &seen, |file| contents.place(file)).is_none()
        {
            return Ok(());
        }
        for _ in 0..MOVED_TRIES_MAX {
            let stored = self.stored(subject).await?;
            let (expect, old) = match stored {
                Some(Stored { bundle, trace }) => (Expect::Is(bundle), trace),
                None => (Expect::Absent, None),
            };
            let is_new = old.is_none();
            let old = match old {
                Some(old) => Some(with_idle(old, known.as_ref())?),
                None => run.base.as_deref().and_then(|base| contents.restrict(base, DONATED_SHARE)),
            };
            let mut touched = Touches::new();
            if is_new && !run.is_exact {
                // Other jobs' pages were there already: what those runs needed, this one may
                // have needed too.
                for other in self.known_of_image(subject).await? {
                    if let Some(other) = contents.restrict(&other, DONATED_SHARE) {
                        touched.extend_by_trace(&other);
                    }
                }
            }
            touched.extend(&seen);
            let plan = Touches::merge(old.as_ref(), &touched, |file| contents.place(file));
            let trace = match (plan, old) {
                (Some(plan), _) => {
                    let made = self.make_frames(&plan, &contents, &run.rootfs).await?;
                    plan.finish(&made)?
                }
                // The trace of other images, or of other entries of this one, did.
                (None, Some(old)) if is_new => old,
                // Another worker has added it.
                (None, Some(old)) => {
                    self.remember(subject, &old).await?;
                    return Ok(());
                }
                (None, None) => return Ok(()),
            };
            if self.publish(subject, manifest.page_roots(), &trace, expect).await? {
                self.remember(subject, &trace).await?;
                self.be_default(subject, &trace, manifest.page_roots()).await?;
                tracing::info!(
                    trace.r#ref = %ref_of(subject),
                    files = trace.files().len(),
                    bytes = trace.raw_len(),
                    frames = trace.frames().len(),
                    duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "trace recorded"
                );
                metrics::counter!("sway_traces_recorded_total").increment(1);
                return Ok(());
            }
        }
        Err(RecordError::Contended)
    }

    /// Makes a trace the default one of its image where that has none.
    async fn be_default(
        &self,
        subject: &Subject,
        trace: &Trace,
        page_roots: Option<Digest>,
    ) -> Result<(), RecordError> {
        let default = Subject { key: TraceKey::any(), ..subject.clone() };
        if default != *subject
            && self.client.refs().get(&ref_of(&default)).await?.is_none()
            && self.publish(&default, page_roots, trace, Expect::Absent).await?
        {
            self.remember(&default, trace).await?;
        }
        Ok(())
    }

    async fn known(&self, subject: &Subject) -> Result<Option<Trace>, RecordError> {
        let known = self.db.trace(&subject.user, subject.manifest, &subject.key).await?;
        Ok(known.and_then(|bytes| Trace::decode(&bytes).ok()))
    }

    async fn known_of_image(&self, subject: &Subject) -> Result<Vec<Trace>, RecordError> {
        let known = self.db.traces(Some(vec![subject.user.clone()])).await?;
        let known = known.into_iter().filter(|known| known.manifest == subject.manifest);
        Ok(known.filter_map(|known| Trace::decode(&known.trace).ok()).collect())
    }

    pub(super) async fn remember(
        &self,
        subject: &Subject,
        trace: &Trace,
    ) -> Result<(), RecordError> {
        let known = KnownTrace {
            manifest: subject.manifest,
            key: subject.key.clone(),
            trace: trace.encode(),
        };
        Ok(self.db.put_trace(&subject.user, known).await?)
    }
}

/// `trace` with the idle counters that this worker keeps.
fn with_idle(trace: Trace, known: Option<&Trace>) -> Result<Trace, RecordError> {
    let Some(known) = known else { return Ok(trace) };
    Ok(sway_core::trace::touches::with_idle_of(&trace, known)?)
}
