//! What carries a job out: containers on mounted images, or a stand-in in tests.

use futures::future::BoxFuture;
use sway_core::api::jobs::DatasetView;
use sway_core::digest::Digest;
use sway_core::job::{JobSpec, Limits};
use sway_core::name::UserName;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::job::{Go, RunOutcome};

/// One run to carry out.
#[derive(Debug)]
pub struct RunOrder {
    /// Its job.
    pub job_id: String,
    /// Whose job it is.
    pub user: UserName,
    /// What to run.
    pub spec: JobSpec,
    /// What it may use.
    pub limits: Limits,
    /// The image.
    pub manifest: Digest,
    /// Its datasets, in the order of the spec's.
    pub datasets: Vec<DatasetView>,
    /// To be told when all is ready for its program to start. Dropped where it never will be.
    pub ready: oneshot::Sender<()>,
    /// Comes when its program may start; see [`crate::job::RunRequest`].
    pub go: oneshot::Receiver<Go>,
    /// Ends it.
    pub cancel: CancellationToken,
    /// To be told when its process has started.
    pub started: oneshot::Sender<()>,
}

/// Carries out runs.
pub trait RunJob: Send + Sync + std::fmt::Debug + 'static {
    /// Ends with the run; never before its processes are gone.
    fn run(&self, order: RunOrder) -> BoxFuture<'_, RunOutcome>;

    /// A run may come soon; called when a job is submitted. Waits for nothing.
    fn expect(&self) {}

    /// Gives back what runs shared; called once, when none is left.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
