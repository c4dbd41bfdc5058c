//! One try to run a job: a task of its own, which makes everything ready, waits for leave to start
//! the program, and ends with the run.
//!
//! A try may begin before the job is on record, while the fileserver is asked whether the image's
//! name still leads to what this worker has mounted. Where it does not, the try is dropped, and what
//! it made ready is thrown away: what runs is always what the name led to.

use std::sync::Arc;

use sway_core::api::jobs::DatasetView;
use sway_core::digest::Digest;
use sway_core::job::{JobSpec, Limits};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::active::Active;
use super::{Inner, RunOrder};
use crate::job::{Go, RunOutcome};

/// A try that waits for leave to start. Dropping it is the refusal.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The image that it was made for.
    pub(super) manifest: Digest,
    /// What it may write to each of its outputs.
    pub(super) output_bytes: u64,
    ready: oneshot::Receiver<()>,
    go: oneshot::Sender<Go>,
    started: oneshot::Receiver<()>,
    outcome: oneshot::Receiver<RunOutcome>,
}

/// A try that got leave.
#[derive(Debug)]
pub(super) struct Running {
    /// Told when the program has started.
    pub(super) started: oneshot::Receiver<()>,
    /// Comes with the end.
    pub(super) outcome: oneshot::Receiver<RunOutcome>,
}

impl Inner {
    /// Begins to make a run ready. Its place is free again when its processes are gone.
    pub(super) fn attempt(
        self: &Arc<Self>,
        active: &Active,
        spec: JobSpec,
        limits: Limits,
        manifest: Digest,
        datasets: Vec<DatasetView>,
        place: OwnedSemaphorePermit,
    ) -> Attempt {
        let (is_ready, ready) = oneshot::channel();
        let (go, has_leave) = oneshot::channel();
        let (has_started, started) = oneshot::channel();
        let (tell, outcome) = oneshot::channel();
        let order = RunOrder {
            job_id: active.id.clone(),
            user: active.user.clone(),
            spec,
            limits,
            manifest,
            datasets,
            ready: is_ready,
            go: has_leave,
            cancel: active.cancel.clone(),
            started: has_started,
        };
        let inner = Arc::clone(self);
        self.tasks.spawn("run", async move {
            let outcome = inner.runner.run(order).await;
            drop(place);
            // Nobody waits for one that was refused.
            let _ = tell.send(outcome);
        });
        let output_bytes = limits.output_bytes;
        Attempt { manifest, output_bytes, ready, go, started, outcome }
    }
}

impl Attempt {
    /// Waits until only leave is missing. False where the program can't be started, of which the
    /// outcome tells.
    pub(super) async fn is_ready(&mut self) -> bool {
        (&mut self.ready).await.is_ok()
    }

    /// Lets the program start.
    pub(super) fn go(self, go: Go) -> Running {
        let Self { go: sender, started, outcome, .. } = self;
        // Where it has ended already, its outcome tells why.
        let _ = sender.send(go);
        Running { started, outcome }
    }
}
