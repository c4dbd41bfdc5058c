//! From a request to its end: takes jobs, lets them wait, has them run, keeps the record.
//!
//! A job is in the database before its submitter hears of it. Each open job has one task that
//! waits for a place, begins a run, has it carried out and writes down how it ended; all that
//! others see of it (state, output, end) goes through `Active`'s progress. Its container is made
//! (`attempt`) while it is looked up and written down. A job becomes `running` when its process
//! starts: one that was only being prepared when the worker died runs again at the next start, one
//! that ran is on record with cause `infrastructure` and does not.
//!
//! A job that an owner decides on (`submissions`) waits for its packages (`preparation`) and the
//! decision first, and then also for one of the owner's turns. Where every job needs an approval,
//! all are such jobs.
//!
//! A job goes on as long as somebody follows it, detached ones in any case; 5 s after the last
//! follower has gone it is cancelled. One that nobody ever followed runs to its end.

mod active;
mod attempt;
mod batch;
mod error;
mod events;
mod execution;
mod images;
mod job_outputs;
mod outputs;
mod preparation;
mod recovery;
mod run_job;
mod submissions;
mod turns;

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sway_core::api::jobs::{ImageView, JobList, JobView, RunList, RunView};
use sway_core::handler::{Handler, Runtime};
use sway_core::job::{JobSpec, JobState, LimitError, Limits, OutputLimits, Program};
use sway_core::name::{ImageName, UserName};
use sway_core::trace::TraceKey;
use sway_server::guard::Identity;
use sway_server::tasks::Tasks;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::active::{Active, Progress, Stop};
use self::attempt::Attempt;
pub use self::error::QueueError;
pub use self::events::Events;
use self::events::Past;
pub use self::images::Images;
pub use self::job_outputs::{JobOutputs, OutputBytes};
use self::outputs::Outputs;
pub use self::run_job::{RunJob, RunOrder};
use self::turns::Turns;
use crate::db::{
    Accepted, Caller, Db, DbError, JobFilter, NewJob, RunFilter, STORED_OUTPUT_LEN_MAX, Scope,
    new_id,
};
use crate::job::output::OutputLog;
use crate::packages::PackagesConfig;
use crate::policy::{Finding, Policy};

/// When to try again after the queue was full.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long cancelled jobs may take to end then.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long a run that was begun ahead of its job holds a place while the fileserver does not answer.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// What a refusal tells of what the policy objects to, at most.
const FINDINGS_TOLD_MAX: usize = 20;

/// What a queue needs to know.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// Directory of the runs' outputs, one file per run.
    pub outputs_dir: PathBuf,
    /// Jobs that run at a time.
    pub running_max: usize,
    /// Jobs that wait; half of them of one user.
    pub waiting_max: usize,
    /// What a job gets that asks for nothing.
    pub default_limits: Limits,
    /// What the source of every job is held to.
    pub policy: Option<Policy>,
    /// Who decides on jobs that nobody submitted to an owner; none where they run at once.
    pub approver: Option<UserName>,
    /// Where a job runs that names no image.
    pub default_images: DefaultImages,
    /// What a job gets at most.
    pub maxima: Limits,
    /// Runs that stay on record.
    pub keep_runs: u32,
    /// Bytes of output files of ended runs that are kept.
    pub keep_output_bytes: u64,
    /// How the packages of submitted jobs are installed.
    pub packages: PackagesConfig,
    /// How long a job goes on after its last follower has gone.
    pub abandoned_after: Duration,
    /// How long jobs may go on when the worker stops.
    pub stop_grace: Duration,
}

/// Images of jobs that name none.
#[derive(Clone, Debug)]
pub struct DefaultImages {
    /// Of all but Node.js handlers.
    pub any: ImageName,
    /// Of Node.js handlers.
    pub node: ImageName,
}

impl DefaultImages {
    /// The image of a job without one.
    pub fn of(&self, program: &Program) -> &ImageName {
        match program {
            Program::Handler(Handler { runtime: Runtime::Nodejs, .. }) => &self.node,
            Program::Script { .. }
            | Program::Folder { .. }
            | Program::Command { .. }
            | Program::Handler(_) => &self.any,
        }
    }
}

impl QueueConfig {
    /// Jobs of one user that wait at most.
    fn share(&self) -> usize {
        (self.waiting_max / 2).max(1)
    }

    /// The image that a job runs in.
    fn image(&self, spec: &JobSpec) -> ImageName {
        spec.image.as_ref().unwrap_or_else(|| self.default_images.of(&spec.program)).clone()
    }

    /// The limits that hold for a job.
    fn grant(&self, spec: &JobSpec) -> Result<Limits, LimitError> {
        let limits = Limits::grant(&spec.limits, &self.default_limits, &self.maxima)?;
        Ok(Limits { output: self.grant_output(spec)?, ..limits })
    }

    /// Those of what it leaves in `/output`.
    fn grant_output(&self, spec: &JobSpec) -> Result<Option<OutputLimits>, LimitError> {
        let maxima = self.maxima.output.unwrap_or(OutputLimits::MAXIMA);
        spec.output.as_ref().map(|request| OutputLimits::grant(request, &maxima)).transpose()
    }
}

/// A run with the beginnings of its outputs.
#[derive(Debug)]
pub struct FoundRun {
    /// With at most the first MiB of stdout and of stderr.
    pub run: RunView,
    /// All of both, where that may be more.
    pub whole: Option<Arc<OutputLog>>,
}

/// The queue. Clones share it.
#[derive(Clone, Debug)]
pub struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: QueueConfig,
    db: Db,
    images: Images,
    runner: Arc<dyn RunJob>,
    tasks: Tasks,
    outputs: Outputs,
    places: Arc<Semaphore>,
    turns: Turns,
    /// Those of submitters whose packages are installed.
    installations: Turns,
    stopping: CancellationToken,
    open: Mutex<HashMap<String, Arc<Active>>>,
    ended: AtomicU32,
}

impl Queue {
    /// A queue over what `db` remembers: runs that an earlier process left open are closed, jobs
    /// that waited wait again. Call it when the runner has cleaned up after that process.
    pub async fn open(
        config: QueueConfig,
        db: Db,
        images: Images,
        runner: Arc<dyn RunJob>,
        tasks: Tasks,
    ) -> Result<Self, QueueError> {
        let places = Arc::new(Semaphore::new(config.running_max));
        let outputs = Outputs::new(config.outputs_dir.clone(), config.keep_output_bytes);
        let queue = Self(Arc::new(Inner {
            config,
            outputs,
            db,
            images,
            runner,
            tasks,
            places,
            turns: Turns::default(),
            installations: Turns::default(),
            stopping: CancellationToken::new(),
            open: Mutex::default(),
            ended: AtomicU32::new(0),
        }));
        queue.0.outputs.recover().await.map_err(QueueError::Outputs)?;
        queue.0.close_interrupted().await?;
        queue.0.prune().await?;
        for id in queue.0.db.waiting_jobs().await? {
            let job = queue.0.db.job(&id, &Scope::All).await?.view;
            let (owner, packages) = match job.submission {
                Some(submission) => (Some(submission.owner), submission.packages),
                None => (None, None),
            };
            if owner.is_none() && job.state == JobState::Pending {
                tracing::error!(job.id = id, "nobody can decide on the job any more");
                continue;
            }
            let spec = match queue.0.db.job_spec(&id).await {
                Ok(Some(spec)) => spec,
                Ok(None) => continue,
                // It is refused where it would be started.
                Err(DbError::Row { .. }) if owner.is_some() => unreadable(),
                Err(error) => return Err(error.into()),
            };
            let active = Active::with_owner(id, job.username, owner, &spec, job.state);
            active.set_preparing(packages.as_ref());
            queue.start(active, None);
        }
        let inner = Arc::clone(&queue.0);
        queue.0.tasks.spawn("clean up", async move { inner.keep_clean().await });
        Ok(queue)
    }

    /// Takes a job, or refuses it with the reason.
    pub async fn submit(
        &self,
        identity: &Identity,
        spec: JobSpec,
        idempotency_key: Option<String>,
        caller: Caller,
    ) -> Result<JobView, QueueError> {
        let inner = &self.0;
        if inner.stopping.is_cancelled() {
            return Err(QueueError::Stopping);
        }
        if idempotency_key.as_deref().is_some_and(|key| !is_key(key)) {
            return Err(QueueError::BadKey);
        }
        let config = &inner.config;
        if let Some(approver) = &config.approver {
            return self
                .submit_for_approval(identity, approver, spec, idempotency_key, caller)
                .await;
        }
        let (spec, limits) = self.granted(spec).await?;
        let scope = Scope::User(identity.user.clone());
        if let Some(key) = idempotency_key.clone()
            && let Some(id) = inner.db.job_of_key(identity.user.clone(), key, &spec).await?
        {
            return Ok(inner.db.job(&id, &scope).await?.view);
        }
        let key = TraceKey::of_program(&spec.program);
        let image = config.image(&spec);
        let images = match crate::trace::is_recording(&spec) {
            true => inner.images.without_starts(),
            false => inner.images.clone(),
        };
        let active = Active::new(new_id(), identity.user.clone(), &spec, JobState::Approved);
        let (user, operator) = (&identity.user, identity.is_operator());
        // Most names lead to where they led the last time; of datasets, nobody knows that.
        let expected = match spec.datasets.as_slice() {
            [] => images.expected(user, operator, &image, &key),
            _ => None,
        };
        let mut ahead = expected.and_then(|manifest| {
            let place = Arc::clone(&inner.places).try_acquire_owned().ok()?;
            Some(inner.attempt(&active, spec.clone(), limits, manifest, Vec::new(), place))
        });
        let is_ahead = ahead.is_some();
        let manifest = {
            let mut resolving = pin!(images.resolve(user, operator, &image, &key));
            match tokio::time::timeout(AHEAD_MAX, &mut resolving).await {
                Ok(resolved) => resolved,
                Err(_) => {
                    ahead = None;
                    resolving.await
                }
            }
        };
        ahead = ahead.filter(|attempt| manifest.as_ref().is_ok_and(|it| *it == attempt.manifest));
        if is_ahead {
            let used = if ahead.is_some() { "true" } else { "false" };
            metrics::counter!("sway_runs_ahead_total", "used" => used).increment(1);
        }
        let manifest = manifest?;
        let datasets = images.datasets(user, operator, &spec.datasets).await?;
        inner.has_room(&identity.user, 1)?;
        let job = NewJob {
            id: active.id.clone(),
            username: identity.user.clone(),
            image,
            spec,
            manifest,
            datasets,
            limits,
            state: JobState::Approved,
            submission: None,
            idempotency_key,
        };
        // In a task of its own: a submitter that goes away half-way leaves no job behind that is
        // on record and never starts.
        let (answer, answered) = oneshot::channel();
        let queue = self.clone();
        inner.tasks.spawn("submit", async move {
            let _ = answer.send(queue.insert(job, active, ahead).await);
        });
        let id = answered.await.map_err(|_| QueueError::Stopping)??;
        Ok(inner.db.job(&id, &scope).await?.view)
    }

    /// A spec that can be run here, and the limits that hold for it.
    async fn granted(&self, spec: JobSpec) -> Result<(JobSpec, Limits), QueueError> {
        spec.check()?;
        self.0.runner.expect();
        let config = &self.0.config;
        let spec = match config.policy {
            Some(policy) => held_to(policy, spec).await?,
            None => spec,
        };
        let limits = config.grant(&spec)?;
        Ok((spec, limits))
    }

    async fn insert(
        &self,
        job: NewJob,
        active: Arc<Active>,
        ahead: Option<Attempt>,
    ) -> Result<String, QueueError> {
        let image = job.image.clone();
        match self.0.db.insert_job(job).await? {
            Accepted::Known(id) => Ok(id),
            Accepted::New(id) => {
                tracing::info!(job.id = id, image.name = %image, "job accepted");
                self.start(active, ahead);
                Ok(id)
            }
        }
    }

    /// Gives an open job its task.
    fn start(&self, active: Arc<Active>, ahead: Option<Attempt>) {
        self.0.lock().insert(active.id.clone(), Arc::clone(&active));
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn("job", async move {
            let work = inner.carry_out(&active, ahead);
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => {}
                () = active.abandoned(inner.config.abandoned_after) => {
                    tracing::info!(job.id = active.id, "nobody follows the job any more");
                    active.stop(Stop::Abandoned);
                    work.await;
                }
            }
            inner.lock().remove(&active.id);
        });
    }

    /// A job by its id or the beginning of it.
    pub async fn job(&self, prefix: &str, scope: &Scope) -> Result<JobView, QueueError> {
        Ok(self.0.db.job(prefix, scope).await?.view)
    }

    /// Jobs, newest first.
    pub async fn jobs(&self, filter: JobFilter) -> Result<JobList, QueueError> {
        Ok(self.0.db.jobs(filter).await?)
    }

    /// Runs, newest first.
    pub async fn runs(&self, filter: RunFilter) -> Result<RunList, QueueError> {
        Ok(self.0.db.runs(filter).await?)
    }

    /// A run by its number or its job's id.
    pub async fn run(&self, name: &str, scope: &Scope) -> Result<FoundRun, QueueError> {
        let stored = u32::try_from(STORED_OUTPUT_LEN_MAX).expect("1 MiB");
        let mut run = self.0.db.run(name, scope, stored).await?;
        if run.cause.is_none()
            && let Some(output) = self.0.outputs.open(run.id)?
        {
            // The row of an open run has none yet.
            let (stdout, stderr) = read_output(&output, STORED_OUTPUT_LEN_MAX, run.id).await?;
            run.stdout = Some(String::from_utf8_lossy(&stdout).into_owned());
            run.stderr = Some(String::from_utf8_lossy(&stderr).into_owned());
        }
        let long = may_go_on(run.stdout.as_deref()) || may_go_on(run.stderr.as_deref());
        let whole = if long { self.0.outputs.open(run.id)? } else { None };
        Ok(FoundRun { run, whole })
    }

    /// The files that a job's latest run left in `/output`.
    pub async fn outputs(&self, prefix: &str, scope: &Scope) -> Result<JobOutputs, QueueError> {
        let job = self.0.db.job(prefix, scope).await?.view;
        let none = |reason| Err(QueueError::NoOutputs { id: job.id.clone(), reason });
        if job.limits.output.is_none() {
            return none("was submitted without `output`");
        }
        if !job.state.is_final() {
            return none("has not ended yet");
        }
        match job.run {
            Some(run) if run.output_files.is_some() => {
                Ok(JobOutputs::new(job.id, run.id, self.0.outputs.archive(run.id)))
            }
            Some(_) => none("has no files in /output that are kept"),
            None => none("never ran"),
        }
    }

    /// What the user can run.
    pub async fn images(&self, identity: &Identity) -> Result<Vec<ImageView>, QueueError> {
        self.0.images.list(&identity.user).await
    }

    /// Tells a job to end, and waits until it has.
    pub async fn cancel(
        &self,
        prefix: &str,
        scope: &Scope,
        caller: Caller,
    ) -> Result<JobView, QueueError> {
        let job = self.0.db.job(prefix, scope).await?.view;
        let ended =
            |state: JobState| QueueError::Ended { id: job.id.clone(), state: state.as_str() };
        if job.state.is_final() {
            return Err(ended(job.state));
        }
        if let Some(active) = self.0.active(&job.id) {
            if active.owner.is_some() {
                self.0.db.note_cancel(&job.id, caller).await?;
            }
            active.stop(Stop::Asked);
            let mut progress = active.progress.subscribe();
            let _ = progress.wait_for(Progress::is_over).await;
        }
        Ok(self.0.db.job(&job.id, scope).await?.view)
    }

    /// Waits for a job's end, as a follower.
    pub async fn wait(&self, id: &str, scope: &Scope) -> Result<JobView, QueueError> {
        self.wait_until_over(id).await?;
        self.job(id, scope).await
    }

    async fn wait_until_over(&self, id: &str) -> Result<(), QueueError> {
        if let Some(active) = self.0.active(id) {
            let _follower = active.follow();
            let mut progress = active.progress.subscribe();
            let over = progress.wait_for(Progress::is_over).await;
            if over.is_ok_and(|progress| progress.parked) {
                return Err(QueueError::Stopping);
            }
        }
        Ok(())
    }

    /// Waits for a job's end, as a follower; its run, or the state in which it ended without one.
    pub async fn ended(
        &self,
        id: &str,
        scope: &Scope,
    ) -> Result<Result<FoundRun, JobState>, QueueError> {
        self.wait_until_over(id).await?;
        match self.run(id, scope).await {
            Err(QueueError::Db(DbError::NoRun(_))) => Ok(Err(self.job(id, scope).await?.state)),
            found => found.map(Ok),
        }
    }

    /// Where to send a job's standard input; it ends when the sender is dropped.
    pub async fn stdin(
        &self,
        prefix: &str,
        scope: &Scope,
    ) -> Result<mpsc::Sender<Bytes>, QueueError> {
        let job = self.0.db.job(prefix, scope).await?.view;
        match self.0.active(&job.id) {
            Some(active) => active.stdin(),
            None => Err(QueueError::Ended { id: job.id, state: job.state.as_str() }),
        }
    }

    /// What happened to a job after event `after`, and what happens until its end.
    pub async fn events(
        &self,
        prefix: &str,
        scope: &Scope,
        after: u64,
    ) -> Result<Events, QueueError> {
        self.events_of(prefix, scope, after, true).await
    }

    /// The same for somebody whose going the job does not mind.
    pub async fn watch(
        &self,
        prefix: &str,
        scope: &Scope,
        after: u64,
    ) -> Result<Events, QueueError> {
        self.events_of(prefix, scope, after, false).await
    }

    async fn events_of(
        &self,
        prefix: &str,
        scope: &Scope,
        after: u64,
        follows: bool,
    ) -> Result<Events, QueueError> {
        let job = self.0.db.job(prefix, scope).await?.view;
        if let Some(active) = self.0.active(&job.id) {
            return Ok(Events::of_active(&active, after, follows));
        }
        // It may have ended between the two looks.
        let job = self.0.db.job(&job.id, scope).await?.view;
        let output = match &job.run {
            None => None,
            Some(run) => match self.0.outputs.open(run.id)? {
                Some(output) => Some(Past::Whole(output)),
                None => {
                    let run = self.run(&run.id.to_string(), scope).await?.run;
                    Some(Past::Beginning(Box::new(run)))
                }
            },
        };
        Ok(Events::of_ended(&job, output, after))
    }

    /// Jobs that wait, and jobs that run.
    pub fn counts(&self) -> (usize, usize) {
        let open = self.0.lock();
        let waiting = open.values().filter(|active| active.waits()).count();
        let pending = open.values().filter(|active| active.is_pending()).count();
        (waiting, open.len() - waiting - pending)
    }

    /// Takes nothing more; lets running jobs end for a while, then ends them with cause
    /// `infrastructure`. Waiting jobs stay on record and run at the next start.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        let all_ended = async |deadline| {
            let ended = async {
                loop {
                    let next = self.0.lock().values().next().cloned();
                    let Some(active) = next else { return };
                    let mut progress = active.progress.subscribe();
                    let _ = progress.wait_for(Progress::is_over).await;
                    // Its task is about to remove it.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(deadline, ended).await.is_ok()
        };
        if all_ended(self.0.config.stop_grace).await {
            return;
        }
        for active in self.0.lock().values() {
            active.stop(Stop::Shutdown);
        }
        if !all_ended(STOP_DEADLINE).await {
            tracing::error!("jobs did not end when the worker stopped");
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Active>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self, id: &str) -> Option<Arc<Active>> {
        self.lock().get(id).cloned()
    }

    /// Whether so many more jobs of a user may wait.
    fn has_room(&self, user: &UserName, jobs: usize) -> Result<(), QueueError> {
        let config = &self.config;
        let waiting = self.waiting(|_| true);
        if waiting + jobs > config.waiting_max {
            return Err(QueueError::Full { waiting, retry_after: RETRY_AFTER });
        }
        // One user leaves places to others.
        let waiting = self.waiting(|active| active.user == *user);
        if waiting + jobs > config.share() {
            return Err(QueueError::Share { waiting, retry_after: RETRY_AFTER });
        }
        Ok(())
    }

    /// How many jobs of these wait.
    fn waiting(&self, which: impl Fn(&Active) -> bool) -> usize {
        self.lock().values().filter(|active| active.waits() && which(active)).count()
    }
}

/// Stands for the request of a submitted job that can't be read any more.
fn unreadable() -> JobSpec {
    JobSpec { detach: true, ..JobSpec::new(None, Program::Command { argv: Vec::new() }) }
}

/// What the policy objects to in a job, the first `max`, and the job back.
async fn looked_into(
    policy: Policy,
    spec: JobSpec,
    max: usize,
) -> Result<(Vec<Finding>, JobSpec), QueueError> {
    let looking = tokio::task::spawn_blocking(move || (policy.findings(&spec, max), spec));
    looking.await.map_err(|_| QueueError::Stopping)
}

/// The spec, unless the policy objects to it.
async fn held_to(policy: Policy, spec: JobSpec) -> Result<JobSpec, QueueError> {
    let (findings, spec) = looked_into(policy, spec, FINDINGS_TOLD_MAX).await?;
    if findings.is_empty() { Ok(spec) } else { Err(QueueError::Policy { policy, findings }) }
}

/// Whether this is so much of an output that there may be more of it.
pub fn may_go_on(text: Option<&str>) -> bool {
    text.is_some_and(|text| text.len() as u64 >= STORED_OUTPUT_LEN_MAX)
}

/// The beginning of both streams.
async fn read_output(
    output: &Arc<OutputLog>,
    max: u64,
    run_id: i64,
) -> Result<(Vec<u8>, Vec<u8>), QueueError> {
    let both = output.beginnings(max, max).await;
    both.map_err(|source| QueueError::Output { run: run_id, source })
}

fn is_key(key: &str) -> bool {
    (1..=200).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}
