//! Several jobs in one request: all of them are taken, or none.

use std::collections::HashMap;
use std::sync::Arc;

use sway_core::api::jobs::{BATCH_LEN_MAX, JobView};
use sway_core::digest::Digest;
use sway_core::job::{JobSpec, JobState};
use sway_core::name::{ImageName, UserName};
use sway_core::trace::TraceKey;
use sway_server::guard::Identity;
use tokio::sync::oneshot;

use super::active::Active;
use super::submissions::{approvable, for_approval};
use super::{Queue, QueueError, is_key};
use crate::db::{Accepted, Caller, NewJob, NewSubmission, Scope, new_id};

impl Queue {
    /// Takes all jobs of a batch in their order, or refuses it with the first one's reason.
    pub async fn submit_batch(
        &self,
        identity: &Identity,
        specs: Vec<JobSpec>,
        idempotency_key: Option<String>,
        caller: &Caller,
    ) -> Result<Vec<JobView>, QueueError> {
        let inner = &self.0;
        if inner.stopping.is_cancelled() {
            return Err(QueueError::Stopping);
        }
        if idempotency_key.as_deref().is_some_and(|key| !is_key(key)) {
            return Err(QueueError::BadKey);
        }
        let max = BATCH_LEN_MAX.min(inner.config.share());
        if specs.is_empty() || specs.len() > max {
            return Err(QueueError::BatchLen { len: specs.len(), max });
        }
        let user = &identity.user;
        let approver = inner.config.approver.as_ref();
        let specs = match approver {
            Some(_) => (0..).zip(specs).map(|(at, spec)| in_batch(at, approvable(spec))).collect(),
            None => Ok(specs),
        }?;
        if let Some(key) = idempotency_key.clone()
            && let Some(ids) = inner.db.batch_of_key(user.clone(), key, &specs).await?
        {
            return self.all_of(&ids, identity).await;
        }
        // Before the fileserver is asked for any of them.
        self.has_room_for(user, specs.len()).await?;
        let mut jobs = Vec::with_capacity(specs.len());
        // Jobs of one batch that name the same image get the same one.
        let mut manifests = HashMap::new();
        for (at, spec) in specs.into_iter().enumerate() {
            let (submission, spec) = match approver {
                Some(owner) => {
                    let (submission, spec) = for_approval(owner, spec, caller.clone()).await?;
                    (Some(submission), spec)
                }
                None => (None, spec),
            };
            let job = self.planned(identity, spec, submission, &mut manifests).await;
            jobs.push(in_batch(at, job)?);
        }
        self.has_room_for(user, jobs.len()).await?;
        // In a task of its own, as for a single job.
        let (answer, answered) = oneshot::channel();
        let queue = self.clone();
        inner.tasks.spawn("submit", async move {
            let _ = answer.send(queue.insert_batch(jobs, idempotency_key).await);
        });
        let ids = answered.await.map_err(|_| QueueError::Stopping)??;
        self.all_of(&ids, identity).await
    }

    /// Whether so many more jobs may wait: for a place, or where each needs an approval for that.
    async fn has_room_for(&self, user: &UserName, jobs: usize) -> Result<(), QueueError> {
        match &self.0.config.approver {
            Some(_) => self.0.has_room_to_wait(user, jobs).await,
            None => self.0.has_room(user, jobs),
        }
    }

    /// One of them, as it will be on record.
    async fn planned(
        &self,
        identity: &Identity,
        spec: JobSpec,
        submission: Option<NewSubmission>,
        manifests: &mut HashMap<ImageName, Digest>,
    ) -> Result<NewJob, QueueError> {
        let (spec, limits) = self.granted(spec).await?;
        let (user, operator) = (&identity.user, identity.is_operator());
        let images = &self.0.images;
        let image = self.0.config.image(&spec);
        let manifest = match manifests.get(&image) {
            Some(manifest) => *manifest,
            None => {
                let key = TraceKey::of_program(&spec.program);
                let manifest = images.resolve(user, operator, &image, &key).await?;
                manifests.insert(image.clone(), manifest);
                manifest
            }
        };
        let datasets = images.datasets(user, operator, &spec.datasets).await?;
        Ok(NewJob {
            id: new_id(),
            username: user.clone(),
            image,
            spec,
            manifest,
            datasets,
            limits,
            state: if submission.is_some() { JobState::Pending } else { JobState::Approved },
            submission,
            idempotency_key: None,
        })
    }

    async fn insert_batch(
        &self,
        jobs: Vec<NewJob>,
        idempotency_key: Option<String>,
    ) -> Result<Vec<String>, QueueError> {
        let active: Vec<Arc<Active>> = jobs.iter().map(Active::of).collect();
        match self.0.db.insert_batch(jobs, idempotency_key).await? {
            Accepted::Known(ids) => Ok(ids),
            Accepted::New(ids) => {
                tracing::info!(jobs = ids.len(), first.id = ids.first(), "batch accepted");
                active.into_iter().for_each(|active| self.start(active, None));
                Ok(ids)
            }
        }
    }

    async fn all_of(
        &self,
        ids: &[String],
        identity: &Identity,
    ) -> Result<Vec<JobView>, QueueError> {
        let scope = Scope::User(identity.user.clone());
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids {
            jobs.push(self.0.db.job(id, &scope).await?.view);
        }
        Ok(jobs)
    }
}

/// What is wrong with one of them is wrong with the batch.
fn in_batch<T>(at: usize, of_one: Result<T, QueueError>) -> Result<T, QueueError> {
    of_one.map_err(|source| QueueError::InBatch { at, source: Box::new(source) })
}
