//! Jobs that an owner decides on: submitted, reviewed, approved or rejected, cleaned up.
//!
//! They are jobs as others are, that wait for a decision first. Until then their row is all there
//! is of them; how it is pinned, and checked before a start, is in `db::submissions`.

use std::time::Duration;

use sway_core::api::jobs::JobView;
use sway_core::api::submissions::{
    AuditPage, AuditVerdict, Decided, DecisionRequest, Finding, NamedDataset, QUEUE, QueueSettings,
    QueueView, Review, Submission,
};
use sway_core::audit::Head;
use sway_core::job::{JobSpec, JobState, SpecError};
use sway_core::name::UserName;
use sway_core::trace::TraceKey;
use sway_server::guard::Identity;
use tokio::sync::oneshot;

use super::active::{Active, Progress};
use super::preparation::planned;
use super::{Inner, Queue, QueueError, RETRY_AFTER, held_to, is_key, looked_into};
use crate::db::{Caller, NewJob, NewSubmission, Scope, new_id};
use crate::policy::Policy;

/// Jobs that wait for decisions, and those of one submitter among them.
const PENDING_MAX: usize = 1000;
const PENDING_OF_USER_MAX: usize = 100;

/// Findings in one review; where there are more, it says so.
const FINDINGS_MAX: usize = 1000;

/// Bytes of a name that was taken from a program.
const NAME_LEN_MAX: usize = 200;

/// Between two looks for jobs that are old enough to be cleaned up.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

/// Jobs that are cleaned up in one go.
const CLEAN_STEP: u32 = 100;

impl Queue {
    /// Takes a job for an owner to decide on, or refuses it with the reason.
    pub async fn submit_to_owner(
        &self,
        user: &UserName,
        submission: Submission,
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
        let submission = submission.completed();
        submission.check()?;
        inner.has_room_to_wait(user, 1).await?;
        let config = &inner.config;
        let Submission { owner, queue, name, description, tags, job: spec } = submission;
        let spec = match config.policy {
            Some(policy) => held_to(policy, spec).await?,
            None => spec,
        };
        let settings = inner.db.queue_settings(&owner).await?;
        let mut limits = settings.grant(&spec.limits, &config.maxima)?;
        limits.output = config.grant_output(&spec)?;
        let image = config.image(&spec);
        let key = TraceKey::of_program(&spec.program);
        // What an operator may do in a user's name has no part in it: the owner decides.
        let images = inner.images.without_starts().lent_by(&owner);
        let manifest = images.resolve(user, false, &image, &key).await?;
        settings.allows(&owner, &spec, &image, manifest)?;
        let datasets = images.datasets(user, false, &spec.datasets).await?;
        let packages = planned(&images, user, &owner, &spec, &image, manifest).await?;
        let (findings, spec) = counted(spec).await?;
        let submission =
            NewSubmission { owner, queue, name, description, tags, findings, packages, caller };
        let job = NewJob {
            id: new_id(),
            username: user.clone(),
            image,
            spec,
            manifest,
            datasets,
            limits,
            state: JobState::Pending,
            submission: Some(submission),
            idempotency_key,
        };
        self.put_to_owner(job).await
    }

    /// Takes a job of somebody who may run jobs, where every job needs an approval.
    pub(super) async fn submit_for_approval(
        &self,
        identity: &Identity,
        approver: &UserName,
        spec: JobSpec,
        idempotency_key: Option<String>,
        caller: Caller,
    ) -> Result<JobView, QueueError> {
        let inner = &self.0;
        let (user, operator) = (&identity.user, identity.is_operator());
        let (spec, limits) = self.granted(approvable(spec)?).await?;
        inner.has_room_to_wait(user, 1).await?;
        let image = inner.config.image(&spec);
        let key = TraceKey::of_program(&spec.program);
        let images = inner.images.without_starts();
        let manifest = images.resolve(user, operator, &image, &key).await?;
        let datasets = images.datasets(user, operator, &spec.datasets).await?;
        let (submission, spec) = for_approval(approver, spec, caller).await?;
        self.put_to_owner(NewJob {
            id: new_id(),
            username: user.clone(),
            image,
            manifest,
            datasets,
            limits,
            state: JobState::Pending,
            submission: Some(submission),
            spec,
            idempotency_key,
        })
        .await
    }

    /// Writes a pending job down, in a task of its own: it is on record and waits, or neither.
    async fn put_to_owner(&self, job: NewJob) -> Result<JobView, QueueError> {
        let (active, user) = (Active::of(&job), job.username.clone());
        let (answer, answered) = oneshot::channel();
        let queue = self.clone();
        self.0.tasks.spawn("submit", async move {
            let _ = answer.send(queue.insert(job, active, None).await);
        });
        let id = answered.await.map_err(|_| QueueError::Stopping)??;
        Ok(self.0.db.job(&id, &Scope::User(user)).await?.view)
    }

    /// Whether nothing at all runs without an approval.
    pub fn has_all_approved(&self) -> bool {
        self.0.config.approver.is_some()
    }

    /// All that a decision on a job needs.
    pub async fn review(&self, prefix: &str, scope: &Scope) -> Result<Review, QueueError> {
        let db = &self.0.db;
        let job = db.job(prefix, scope).await?.view;
        if job.submission.is_none() {
            return Err(crate::db::DbError::NotSubmitted(job.id).into());
        }
        let spec = db.job_spec(&job.id).await?;
        let previous = db.previous_job(&job).await?;
        let (spec, findings) = match spec {
            None => (None, Vec::new()),
            Some(spec) => {
                let max = FINDINGS_MAX + 1;
                let (findings, spec) = looked_into(Policy::Science, spec, max).await?;
                (Some(spec), findings)
            }
        };
        let more_findings = findings.len() > FINDINGS_MAX;
        let findings = findings.into_iter().take(FINDINGS_MAX).map(|finding| Finding {
            file: finding.file,
            line: finding.line,
            column: finding.column,
            reason: finding.reason,
        });
        Ok(Review { job, spec, findings: findings.collect(), more_findings, previous })
    }

    /// An owner approves or rejects a job.
    pub async fn decide(
        &self,
        prefix: &str,
        scope: &Scope,
        approved: bool,
        request: DecisionRequest,
        caller: Caller,
    ) -> Result<Decided, QueueError> {
        request.check()?;
        let inner = std::sync::Arc::clone(&self.0);
        let (prefix, scope) = (prefix.to_owned(), scope.clone());
        let (answer, answered) = oneshot::channel();
        // In a task of its own: what is on record is told to the job, whoever has gone away.
        self.0.tasks.spawn("decide", async move {
            let DecisionRequest { reason, digest } = request;
            let decided = inner.db.decide(&prefix, &scope, approved, reason, digest, caller).await;
            if let Ok(decided) = &decided
                && !decided.already
                && let Some(active) = inner.active(&decided.job.id)
            {
                tracing::info!(job.id = active.id, approved, "job decided on");
                let state = decided.job.state;
                active.progress.send_modify(|progress| progress.state = state);
            }
            let _ = answer.send(decided);
        });
        Ok(answered.await.map_err(|_| QueueError::Stopping)??)
    }

    /// A user's own queue, and how many jobs there are in it.
    pub async fn queue_of(&self, user: &UserName) -> Result<QueueView, QueueError> {
        let settings = self.0.db.queue_settings(user).await?;
        let (for_me, by_me) = self.0.db.queue_counts(user).await?;
        Ok(QueueView { owner: user.clone(), settings, for_me, by_me })
    }

    /// Changes what a user's own queue grants from now on; what was submitted stays as it is.
    pub async fn set_queue(
        &self,
        user: &UserName,
        settings: QueueSettings,
        caller: Caller,
    ) -> Result<QueueView, QueueError> {
        settings.check()?;
        let max = settings.max_concurrent_jobs;
        self.0.db.set_queue(user, settings, caller).await?;
        self.0.turns.set(user, max);
        self.queue_of(user).await
    }

    /// The datasets of an owner that have names and that submitters may ask for; of the owner's own
    /// all.
    pub async fn named_datasets(
        &self,
        user: &UserName,
        owner: &UserName,
    ) -> Result<Vec<NamedDataset>, QueueError> {
        let mut datasets = self.0.images.named_datasets(owner).await?;
        if user != owner {
            let settings = self.0.db.queue_settings(owner).await?;
            let granted =
                |name: &String| settings.datasets.as_ref().is_none_or(|names| names.contains(name));
            datasets.retain(|dataset| granted(&dataset.name));
        }
        Ok(datasets)
    }

    /// Entries of the audit; about one job of the caller's where one is named.
    pub async fn audit(
        &self,
        job: Option<(&str, &Scope)>,
        after: i64,
        limit: u32,
    ) -> Result<AuditPage, QueueError> {
        let job = match job {
            Some((prefix, scope)) => Some(self.0.db.job(prefix, scope).await?.view.id),
            None => None,
        };
        Ok(self.0.db.audit(job, after, limit).await?)
    }

    /// Follows the audit's chain to its end.
    pub async fn verify_audit(&self, noted: Option<Head>) -> Result<AuditVerdict, QueueError> {
        Ok(self.0.db.verify_audit(noted).await?)
    }

    /// Waits until every job has ended but those that wait for a decision, and cleans up.
    pub async fn finish(&self) -> Result<(), QueueError> {
        loop {
            let next = {
                let open = self.0.lock();
                open.values().find(|active| !active.is_undecided()).cloned()
            };
            let Some(active) = next else { break };
            let mut progress = active.progress.subscribe();
            let is_done = |progress: &Progress| progress.is_over() || progress.is_undecided();
            let over = progress.wait_for(is_done).await;
            if over.is_ok_and(|progress| progress.parked) {
                return Err(QueueError::Stopping);
            }
            // Its task is about to remove it.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.0.clean().await
    }
}

impl Inner {
    /// Whether so many more jobs of a user may wait for a decision.
    pub(super) async fn has_room_to_wait(
        &self,
        user: &UserName,
        jobs: usize,
    ) -> Result<(), QueueError> {
        let (pending, of_user) = self.db.pending_counts(user).await?;
        let full = pending + jobs > PENDING_MAX;
        if full || of_user + jobs > PENDING_OF_USER_MAX {
            let pending = if full { pending } else { of_user };
            return Err(QueueError::Pending { pending, retry_after: RETRY_AFTER });
        }
        Ok(())
    }

    /// Cleans up from time to time, until the queue stops.
    pub(super) async fn keep_clean(&self) {
        loop {
            if let Err(error) = self.clean().await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "old submitted jobs can't be cleaned up");
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(CLEAN_EVERY) => {}
            }
        }
    }

    /// Removes code, outputs and logs of submitted jobs that ended long enough ago.
    async fn clean(&self) -> Result<(), QueueError> {
        loop {
            let old = self.db.old_jobs(CLEAN_STEP).await?;
            if old.is_empty() {
                return Ok(());
            }
            for job in old {
                // The files first: a worker that dies here comes back to them.
                self.outputs.remove(job.runs).await.map_err(QueueError::Outputs)?;
                if job.has_packages {
                    self.forget_image(&job.id).await?;
                }
                self.db.clean_job(&job.id).await?;
                tracing::info!(job.id = job.id, "job cleaned up");
            }
        }
    }
}

/// What waits for a person is held by nobody's connection, and is all known when it is looked at.
pub(super) fn approvable(spec: JobSpec) -> Result<JobSpec, QueueError> {
    if spec.stdin {
        let reason = "every job here waits for an approval, and nobody can approve an input that \
                      is yet to come";
        return Err(SpecError { field: "stdin", reason: reason.to_owned() }.into());
    }
    Ok(JobSpec { detach: true, ..spec })
}

/// A job that nobody submitted to an owner, and what it is to the one who has to approve it.
pub(super) async fn for_approval(
    approver: &UserName,
    spec: JobSpec,
    caller: Caller,
) -> Result<(NewSubmission, JobSpec), QueueError> {
    let (findings, spec) = counted(spec).await?;
    let mut name: String =
        spec.program.filename().chars().filter(|letter| !letter.is_control()).collect();
    name.truncate(name.floor_char_boundary(NAME_LEN_MAX));
    let submission = NewSubmission {
        owner: approver.clone(),
        queue: QUEUE.to_owned(),
        name,
        description: String::new(),
        tags: Vec::new(),
        findings,
        // Packages are installed for jobs that are submitted to an owner by name.
        packages: None,
        caller,
    };
    Ok((submission, spec))
}

/// How much the policy objects to in a job, as far as a review lists it.
async fn counted(spec: JobSpec) -> Result<(u32, JobSpec), QueueError> {
    let (findings, spec) = looked_into(Policy::Science, spec, FINDINGS_MAX).await?;
    Ok((u32::try_from(findings.len()).unwrap_or(u32::MAX), spec))
}
