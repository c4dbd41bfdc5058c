//! What the queue refuses.

use std::time::Duration;

use sway_client::ClientError;
use sway_core::api::submissions::NotGranted;
use sway_core::digest::Digest;
use sway_core::job::{LimitError, SpecError};
use sway_core::name::{DatasetName, ImageName};

use crate::db::DbError;
use crate::policy::{Finding, Policy};

/// Why a job is not taken, or not found, or not to be changed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The request makes no sense on any worker.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The policy objects to its source.
    #[error("policy {}: {}", .policy.as_str(), told(.findings))]
    Policy {
        /// Which one.
        policy: Policy,
        /// What it objects to.
        findings: Vec<Finding>,
    },
    /// It asks for more than this worker grants.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// No image of this name.
    #[error("no image {name}; there are: {}", or_none(.known))]
    NoImage {
        /// As asked for.
        name: ImageName,
        /// What the caller could ask for.
        known: Vec<String>,
    },
    /// The name leads to another manifest than the one asked for.
    #[error("{name} has moved: it is {found} now")]
    ImageMoved {
        /// As asked for, with a digest.
        name: ImageName,
        /// Where the name leads.
        found: Digest,
    },
    /// No dataset of this name.
    #[error("no dataset {0}")]
    NoDataset(DatasetName),
    /// No files of a run.
    #[error("job {id} {reason}")]
    NoOutputs {
        /// The job.
        id: String,
        /// Why there are none.
        reason: &'static str,
    },
    /// No such file among those of a run.
    #[error("job {id} left no file {path:?}")]
    NoOutput {
        /// The job.
        id: String,
        /// What was asked for.
        path: String,
    },
    /// The fileserver did not answer, or not as it should.
    #[error("can't ask the fileserver for {name}")]
    Fileserver {
        /// What was looked for.
        name: String,
        /// Why not.
        source: ClientError,
    },
    /// An idempotency key of an odd form.
    #[error("idempotency-key: expected 1 to 200 printable ASCII characters")]
    BadKey,
    /// A batch of none, or of too many.
    #[error("a batch has 1 to {max} jobs, this one {len}")]
    BatchLen {
        /// How many it has.
        len: usize,
        /// How many it may have.
        max: usize,
    },
    /// One job of a batch is refused, and so all are.
    #[error("jobs[{at}]: {source}")]
    InBatch {
        /// Which one, counted from 0.
        at: usize,
        /// Why.
        source: Box<Self>,
    },
    /// Too many jobs wait.
    #[error("{waiting} jobs are waiting already")]
    Full {
        /// How many.
        waiting: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// Too many jobs wait for their owners.
    #[error("{pending} jobs wait for their owners' decisions already")]
    Pending {
        /// How many.
        pending: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// The owner's settings rule it out.
    #[error(transparent)]
    NotGranted(#[from] NotGranted),
    /// Too many jobs of this user wait.
    #[error("{waiting} of your jobs are waiting already; other places are for other users")]
    Share {
        /// How many.
        waiting: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// The worker is about to end.
    #[error("the worker is stopping")]
    Stopping,
    /// The job ended before.
    #[error("job {id} has ended ({state})")]
    Ended {
        /// The job.
        id: String,
        /// Its state.
        state: &'static str,
    },
    /// The job takes no input, or somebody sends it already.
    #[error("job {id} {reason}")]
    NoStdin {
        /// The job.
        id: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file of the worker's own.
    #[error("output of run {run}")]
    Output {
        /// The run.
        run: i64,
        /// Why it can't be read.
        source: std::io::Error,
    },
    /// The files of old runs.
    #[error("the directory of outputs")]
    Outputs(#[source] std::io::Error),
    /// The record.
    #[error(transparent)]
    Db(#[from] DbError),
}

fn told(findings: &[Finding]) -> String {
    let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
    told.join("; ")
}

fn or_none(known: &[String]) -> String {
    match known {
        [] => "none (run `sway export` first)".to_owned(),
        known => known.join(", "),
    }
}
