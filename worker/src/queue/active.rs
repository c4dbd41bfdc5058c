//! A job that has not ended: its progress, its followers, its standard input.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sway_core::api::jobs::{RunView, Usage};
use sway_core::api::submissions::Packages;
use sway_core::job::{JobSpec, JobState};
use sway_core::name::UserName;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::QueueError;
use crate::db::NewJob;
use crate::job::output::OutputLog;

/// Pieces of standard input between the socket and the job.
const STDIN_PIECES_MAX: usize = 16;

/// Why a job was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody asked for it.
    Asked,
    /// Its followers have gone.
    Abandoned,
    /// The worker stops.
    Shutdown,
}

/// Where a job stands, for those who wait for the next step.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Its state, once it is on record.
    pub state: JobState,
    /// Its output, once it has a run.
    pub output: Option<Arc<OutputLog>>,
    /// Its run, once it has ended.
    pub run: Option<Box<RunView>>,
    /// It waited when the worker stopped, and waits for the next one.
    pub parked: bool,
    /// The packages that it asks for are not installed, so that its owner can't approve it.
    pub preparing: bool,
}

impl Progress {
    /// Whether its owner could decide, and has not.
    pub(super) fn is_undecided(&self) -> bool {
        self.state == JobState::Pending && !self.preparing
    }

    /// Whether nothing more happens to the job in this process.
    pub(super) fn is_over(&self) -> bool {
        self.parked || self.state.is_final()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Followers {
    now: usize,
    ever: bool,
}

#[derive(Debug)]
enum Stdin {
    /// The job reads an empty one.
    None,
    /// Nobody sends it yet.
    Free(mpsc::Sender<Bytes>),
    /// Somebody sends it, or has sent it.
    Taken,
}

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct Active {
    pub id: String,
    pub user: UserName,
    /// Who decides on it; none where nobody does.
    pub owner: Option<UserName>,
    pub cancel: CancellationToken,
    pub progress: watch::Sender<Progress>,
    /// What it uses, once it runs.
    pub usage: watch::Sender<Option<Usage>>,
    stop: OnceLock<Stop>,
    detach: bool,
    followers: watch::Sender<Followers>,
    stdin: Mutex<Stdin>,
    stdin_of_job: Mutex<Option<mpsc::Receiver<Bytes>>>,
}

impl Active {
    pub(super) fn new(id: String, user: UserName, spec: &JobSpec, state: JobState) -> Arc<Self> {
        Self::with_owner(id, user, None, spec, state)
    }

    /// Of a job that is about to be on record.
    pub(super) fn of(job: &NewJob) -> Arc<Self> {
        let owner = job.submission.as_ref().map(|submission| submission.owner.clone());
        let packages = job.submission.as_ref().and_then(|submission| submission.packages.as_ref());
        let active =
            Self::with_owner(job.id.clone(), job.username.clone(), owner, &job.spec, job.state);
        active.set_preparing(packages);
        active
    }

    /// Notes whether it is not ready to be decided on.
    pub(super) fn set_preparing(&self, packages: Option<&Packages>) {
        let preparing = matches!(packages, Some(Packages::Preparing | Packages::Failed { .. }));
        self.progress.send_modify(|progress| progress.preparing = preparing);
    }

    pub(super) fn with_owner(
        id: String,
        user: UserName,
        owner: Option<UserName>,
        spec: &JobSpec,
        state: JobState,
    ) -> Arc<Self> {
        let (stdin, stdin_of_job) = if spec.stdin {
            let (sender, receiver) = mpsc::channel(STDIN_PIECES_MAX);
            (Stdin::Free(sender), Some(receiver))
        } else {
            (Stdin::None, None)
        };
        let progress = Progress { state, output: None, run: None, parked: false, preparing: false };
        Arc::new(Self {
            id,
            user,
            owner,
            cancel: CancellationToken::new(),
            progress: watch::Sender::new(progress),
            usage: watch::Sender::default(),
            stop: OnceLock::new(),
            detach: spec.detach,
            followers: watch::Sender::default(),
            stdin: Mutex::new(stdin),
            stdin_of_job: Mutex::new(stdin_of_job),
        })
    }

    /// Whether it may run, and has no run yet.
    pub(super) fn waits(&self) -> bool {
        let progress = self.progress.borrow();
        progress.output.is_none() && progress.state != JobState::Pending
    }

    /// Whether its owner has not decided.
    pub(super) fn is_pending(&self) -> bool {
        self.progress.borrow().state == JobState::Pending
    }

    /// Whether its owner could decide, and has not.
    pub(super) fn is_undecided(&self) -> bool {
        self.progress.borrow().is_undecided()
    }

    /// Waits until its owner has decided; whether it may run.
    pub(super) async fn is_approved(&self) -> bool {
        let mut progress = self.progress.subscribe();
        // `self` owns the sender, so that waiting can't fail.
        let decided = progress.wait_for(|progress| progress.state != JobState::Pending).await;
        decided.is_ok_and(|progress| progress.state == JobState::Approved)
    }

    /// Tells the job to end; the first reason counts.
    pub(super) fn stop(&self, why: Stop) {
        let _ = self.stop.set(why);
        self.cancel.cancel();
    }

    /// Why it was told to end.
    pub(super) fn stopped(&self) -> Option<Stop> {
        self.stop.get().copied()
    }

    /// Somebody follows the job until the guard is dropped.
    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        self.followers.send_modify(|followers| {
            followers.now += 1;
            followers.ever = true;
        });
        Follower(Arc::clone(self))
    }

    /// Ends when the job's followers have been gone for so long. A job that nobody ever followed,
    /// or that was detached, is not abandoned.
    pub(super) async fn abandoned(&self, after: Duration) {
        if self.detach {
            return std::future::pending().await;
        }
        let mut followers = self.followers.subscribe();
        loop {
            // `self` owns the sender, so that waiting can't fail.
            let _ = followers.wait_for(|followers| followers.ever && followers.now == 0).await;
            let back = followers.wait_for(|followers| followers.now > 0);
            if tokio::time::timeout(after, back).await.is_err() {
                return;
            }
        }
    }

    /// Where to send standard input; once.
    pub(super) fn stdin(&self) -> Result<mpsc::Sender<Bytes>, QueueError> {
        let refuse = |reason| QueueError::NoStdin { id: self.id.clone(), reason };
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stdin, Stdin::Taken) {
            Stdin::Free(sender) => Ok(sender),
            Stdin::Taken => Err(refuse("has its standard input from another request")),
            Stdin::None => {
                *stdin = Stdin::None;
                Err(refuse("was submitted without `stdin`"))
            }
        }
    }

    /// The job's end of its standard input.
    pub(super) fn take_stdin(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.stdin_of_job.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Somebody who wants to see the job's end.
#[derive(Debug)]
pub(super) struct Follower(Arc<Active>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.followers.send_modify(|followers| followers.now -= 1);
    }
}
