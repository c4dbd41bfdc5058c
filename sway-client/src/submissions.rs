//! Jobs that an owner decides on: submit, review, decide; an owner's queue, and the audit.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use sway_core::api::jobs::{JobList, JobView};
use sway_core::api::submissions::{
    AuditPage, AuditVerdict, DatasetList, Decided, DecisionRequest, NamedDataset, QueueSettings,
    QueueView, Review, Submission,
};
use sway_core::audit::Head;
use sway_core::job::JobState;
use sway_core::name::UserName;

use crate::client::Client;
use crate::error::ClientError;
use crate::refs::encoded;

/// Which submitted jobs to list: those that all of these hold for.
#[derive(Clone, Debug, Default)]
pub struct JobQuery {
    /// Of this submitter.
    pub username: Option<UserName>,
    /// That this owner decides on.
    pub owner: Option<UserName>,
    /// In the owners' queues of this name.
    pub queue: Option<String>,
    /// In this state.
    pub state: Option<JobState>,
    /// Older than this position: `next_before` of the page before.
    pub before: Option<i64>,
    /// At most so many; the worker decides where this is absent.
    pub limit: Option<u32>,
}

/// Which entries of the audit.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// About one job, by its id or the beginning of it.
    pub job: Option<String>,
    /// After this one.
    pub after: Option<i64>,
    /// At most so many; the worker decides where this is absent.
    pub limit: Option<u32>,
}

/// See [`Client::submissions`].
#[derive(Clone, Copy, Debug)]
pub struct Submissions<'a>(pub(crate) &'a Client);

impl Submissions<'_> {
    /// Submits a job to its owner. May be repeated on the way, but makes one job.
    pub async fn submit(&self, submission: &Submission) -> Result<JobView, ClientError> {
        let key = uuid::Uuid::new_v4().to_string();
        let body = serde_json::to_vec(submission).expect("a job's fields always serialise");
        let body = Bytes::from(body);
        self.0
            .call(|| {
                self.0
                    .request(Method::POST, "/v1/submissions")
                    .header("idempotency-key", &key)
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.clone())
            })
            .await
    }

    /// A page of submitted jobs, newest first.
    pub async fn jobs(&self, query: &JobQuery) -> Result<JobList, ClientError> {
        let path = with_query(
            "/v1/jobs",
            &[
                ("submitted", Some("true".to_owned())),
                ("username", query.username.as_ref().map(ToString::to_string)),
                ("owner", query.owner.as_ref().map(ToString::to_string)),
                ("queue", query.queue.clone()),
                ("state", query.state.map(|state| state.as_str().to_owned())),
                ("before", query.before.map(|before| before.to_string())),
                ("limit", query.limit.map(|limit| limit.to_string())),
            ],
        );
        self.0.call(|| self.0.request(Method::GET, &path)).await
    }

    /// All that a decision on a job needs.
    pub async fn review(&self, id: &str) -> Result<Review, ClientError> {
        let path = format!("/v1/jobs/{}/review", encoded(id));
        self.0.call(|| self.0.request(Method::GET, &path)).await
    }

    /// Lets a pending job run.
    pub async fn approve(
        &self,
        id: &str,
        request: &DecisionRequest,
    ) -> Result<Decided, ClientError> {
        let path = format!("/v1/jobs/{}/approve", encoded(id));
        self.0.call(|| self.0.request(Method::POST, &path).json(request)).await
    }

    /// Ends a pending job before it runs.
    pub async fn reject(
        &self,
        id: &str,
        request: &DecisionRequest,
    ) -> Result<Decided, ClientError> {
        let path = format!("/v1/jobs/{}/reject", encoded(id));
        self.0.call(|| self.0.request(Method::POST, &path).json(request)).await
    }

    /// The caller's own queue.
    pub async fn queue(&self) -> Result<QueueView, ClientError> {
        self.0.call(|| self.0.request(Method::GET, "/v1/queue")).await
    }

    /// Changes what the caller's own queue grants.
    pub async fn set_queue(&self, settings: &QueueSettings) -> Result<QueueView, ClientError> {
        self.0.call(|| self.0.request(Method::PUT, "/v1/queue").json(settings)).await
    }

    /// The datasets of an owner that have names, and that jobs submitted to the owner may ask for.
    pub async fn datasets(&self, owner: &UserName) -> Result<Vec<NamedDataset>, ClientError> {
        let path = with_query("/v1/datasets", &[("owner", Some(owner.to_string()))]);
        let list: DatasetList = self.0.call(|| self.0.request(Method::GET, &path)).await?;
        Ok(list.datasets)
    }

    /// A page of the audit, oldest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, ClientError> {
        let path = with_query(
            "/v1/audit",
            &[
                ("job", query.job.clone()),
                ("after", query.after.map(|after| after.to_string())),
                ("limit", query.limit.map(|limit| limit.to_string())),
            ],
        );
        self.0.call(|| self.0.request(Method::GET, &path)).await
    }

    /// Has the worker follow the audit's chain, and whether it goes through `noted`.
    pub async fn verify_audit(&self, noted: Option<&Head>) -> Result<AuditVerdict, ClientError> {
        let path = with_query("/v1/audit/verify", &[("head", noted.map(ToString::to_string))]);
        self.0.call(|| self.0.request(Method::GET, &path)).await
    }
}

fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}
