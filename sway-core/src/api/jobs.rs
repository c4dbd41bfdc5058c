//! The worker's native API.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::job::{Cause, JobState, Limits, Network, base64_bytes};
use crate::name::{ImageName, UserName};

/// The longest body of `POST /v1/jobs`, in bytes: scripts and folders travel in it as base64.
pub const JOB_BODY_LEN_MAX: usize = 64 << 20;

/// Header in which the operator's token names the user that it speaks for. Tokens of users
/// ignore it: the token decides who one is.
pub const USER_HEADER: &str = "x-sway-user";

/// A job, as told to its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Short and typeable; unique prefixes are accepted wherever an id is.
    pub id: String,
    /// Whose.
    pub username: UserName,
    /// The image as asked for.
    pub image: ImageName,
    /// The manifest that the name led to at submission: what runs.
    pub manifest: Digest,
    /// What runs, by name.
    pub filename: String,
    /// Where it stands.
    pub state: JobState,
    /// Limits that hold.
    pub limits: Limits,
    /// What it can reach.
    pub network: Network,
    /// When it was submitted, RFC 3339.
    pub created_at: String,
    /// Its run, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunView>,
}

/// One execution of a job: a row of the run log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// Number of the run.
    pub id: i64,
    /// The job.
    pub job_id: String,
    /// What ran, by name.
    pub filename: String,
    /// Whose.
    pub username: String,
    /// The image as asked for.
    pub image: String,
    /// The manifest that ran.
    pub manifest: String,
    /// When the job's process started, RFC 3339; when the run was created where it never did.
    pub started_at: String,
    /// From the process's start to its end.
    pub duration_ms: Option<i64>,
    /// The process's exit code, 128 + signal where a signal ended it; none while it runs and
    /// where it never started.
    pub exit_code: Option<i32>,
    /// Why it ended; none while it runs.
    pub cause: Option<Cause>,
    /// What to tell the user beside the cause, such as the path that could not be read.
    #[serde(default)]
    pub message: Option<String>,
    /// Chunks that were answered from memory.
    pub memory_cache_hits: i64,
    /// Chunks that were answered from disk.
    pub disk_cache_hits: i64,
    /// Chunks that were fetched from the fileserver.
    pub server_fetches: i64,
    /// Bytes answered from memory.
    pub memory_cache_bytes: i64,
    /// Bytes answered from disk.
    pub disk_cache_bytes: i64,
    /// Bytes on the wire that this run's fetches moved (encoded blobs).
    pub bytes_fetched: i64,
    /// Peak of anonymous and shared memory, in bytes, where it was measured.
    #[serde(default)]
    pub memory_peak_bytes: Option<i64>,
    /// Limits that held.
    pub limits: Limits,
    /// From submission to a free place.
    pub queued_ms: i64,
    /// Until the rootfs was there.
    pub mount_ms: i64,
    /// Until the process started.
    pub start_ms: i64,
    /// From the process's start to its first output.
    pub first_output_ms: Option<i64>,
    /// Standard output; invalid UTF-8 replaced. Left out of listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Standard error, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Whether stdout was cut at its limit.
    pub stdout_truncated: bool,
    /// Whether stderr was cut at its limit.
    pub stderr_truncated: bool,
}

/// Answer of `GET /v1/jobs`: newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobList {
    /// The page.
    pub jobs: Vec<JobView>,
    /// Pass as `before` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<i64>,
}

/// Answer of `GET /v1/runs`: newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunList {
    /// The page.
    pub runs: Vec<RunView>,
    /// Pass as `before` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<i64>,
}

/// Answer of `GET /v1/images`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageList {
    /// Sorted by name.
    pub images: Vec<ImageView>,
}

/// An image that the caller can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Name with user and tag.
    pub name: ImageName,
    /// Its manifest.
    pub manifest: Digest,
    /// When it was exported last, RFC 3339.
    pub updated_at: String,
}

/// Which stream a frame of output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One event of `GET /v1/jobs/{id}/logs` (server-sent events; the event's name is the variant's,
/// its id a running number for `Last-Event-ID`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum JobEvent {
    /// The job's state changed.
    State {
        /// The new one.
        state: JobState,
    },
    /// Bytes that the job wrote, as it wrote them.
    Output {
        /// Where to.
        stream: OutputStream,
        /// The bytes, base64.
        #[serde(with = "base64_bytes")]
        data: Vec<u8>,
    },
    /// Output beyond the limit was dropped from here on.
    Truncated {
        /// Of which stream.
        stream: OutputStream,
    },
    /// The job is over; nothing follows.
    End {
        /// Its last state.
        state: JobState,
        /// Its run without the outputs; none where it never ran.
        run: Option<Box<RunView>>,
    },
}
