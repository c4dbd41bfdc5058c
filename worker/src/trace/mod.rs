//! Recording: what a run touched becomes, or grows, the trace of its image.
//!
//! All of it happens after a run has ended, in one task that works off a bounded queue at low
//! priority, gives way to jobs, and ends with the worker. `record` merges and publishes, `pack`
//! makes frames, `derive` gives an image the traces of images with the same contents, and finds
//! donors for those that have none; what is known of contents lies in the database.

mod derive;
mod pack;
mod record;
mod request;
mod store;

use std::sync::Arc;
use std::time::Duration;

use sway_client::{Client, ClientError};
use sway_core::api::jobs::RECORD_LABEL;
use sway_core::digest::Digest;
use sway_core::job::JobSpec;
use sway_core::name::UserName;
use sway_core::trace::{Trace, TraceError, TraceKey};
use sway_server::tasks::Tasks;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::account::RunAccount;
use crate::db::{Db, DbError};
use crate::fetch::FetchError;
use crate::rootfs::Rootfs;
use crate::start::Pushed;

pub use self::request::{Deferred, PrepareError};

/// Runs that may wait to be recorded; what more ends meanwhile is not.
const QUEUE_MAX: usize = 64;

/// How long each frame waits for jobs to end. Even at the lowest priority, compressing slows down
/// who computes on the same core's other thread, or waits for the same memory.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a trace was not recorded or derived. Runs don't notice.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("fileserver: {0}")]
    Client(#[from] ClientError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("manifest {digest}: {reason}")]
    Manifest { digest: Digest, reason: String },
    #[error("the image does not have what its run touched: {0}")]
    Content(String),
    #[error("the trace's ref moved too often")]
    Contended,
    #[error("the worker is stopping")]
    Stopping,
}

/// Which trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Whose runs.
    pub user: UserName,
    /// Of which image.
    pub manifest: Digest,
    /// Of which entry.
    pub key: TraceKey,
}

/// A run that has ended, as its trace needs to know it.
#[derive(Debug)]
pub struct EndedRun {
    /// Its job.
    pub job_id: String,
    /// Its trace.
    pub subject: Subject,
    /// Its image.
    pub rootfs: Arc<Rootfs>,
    /// What it touched.
    pub account: Arc<RunAccount>,
    /// The trace that it started from, if any.
    pub base: Option<Arc<Trace>>,
    /// Whether no other job has used the mount before or meanwhile: then the run's reads are all
    /// that it needed beyond `base`.
    pub is_exact: bool,
    /// What was pushed for it, where nobody else can have used that.
    pub pushed: Option<Pushed>,
}

/// Records traces, and knows those that were recorded. One per worker.
#[derive(Debug)]
pub struct Traces {
    client: Client,
    db: Db,
    tasks: Tasks,
    shares: bool,
    queue: mpsc::Sender<EndedRun>,
    preparing: Arc<Semaphore>,
    /// Jobs that run.
    running: watch::Sender<u32>,
}

/// A job that runs.
#[derive(Debug)]
pub struct RunningJob(Arc<Traces>);

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

impl Traces {
    /// Starts the task that records; it belongs to `tasks`. With `shares`, what one user's runs
    /// touched helps the images of others too.
    pub fn new(client: Client, db: Db, tasks: &Tasks, shares: bool) -> Arc<Self> {
        let (queue, ended) = mpsc::channel(QUEUE_MAX);
        let preparing = Arc::new(Semaphore::new(request::PREPARING_MAX));
        let (tasks, running) = (tasks.clone(), watch::Sender::new(0));
        let traces = Arc::new(Self { client, db, tasks, shares, queue, preparing, running });
        let tasks = &traces.tasks;
        tasks.spawn("record traces", record::work_off(Arc::clone(&traces), ended));
        traces
    }

    /// A job runs as long as this is kept; recording gives way to it.
    pub fn job(self: &Arc<Self>) -> RunningJob {
        self.running.send_modify(|running| *running += 1);
        RunningJob(Arc::clone(self))
    }

    /// Waits until no job runs, but not for ever.
    async fn give_way(&self) {
        let mut running = self.running.subscribe();
        let _ = tokio::time::timeout(PATIENCE, running.wait_for(|running| *running == 0)).await;
    }

    /// Takes note of a run that has ended, for later. Never waits: with too many runs before it,
    /// this one is not recorded.
    pub fn ended(&self, run: EndedRun) {
        if self.queue.try_send(run).is_err() {
            metrics::counter!("sway_traces_skipped_total").increment(1);
        }
    }
}

/// Whether a job was submitted to record a trace: it gets a mount of its own and no help.
pub fn is_recording(spec: &JobSpec) -> bool {
    let (name, value) = RECORD_LABEL;
    spec.labels.get(name).is_some_and(|label| label == value)
}
