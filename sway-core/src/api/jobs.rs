//! The worker's native API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::submissions::SubmissionView;
use crate::digest::Digest;
use crate::handler::Answer;
use crate::job::{
    Cause, DatasetKind, JobFile, JobSpec, JobState, Limits, Network, Program, base64_bytes,
};
use crate::name::{DatasetName, ImageName, UserName};

/// The longest body of `POST /v1/jobs`, in bytes: scripts and folders travel in it as base64.
pub const JOB_BODY_LEN_MAX: usize = 64 << 20;

/// Header in which the operator's token names the user that it speaks for. Tokens of users
/// ignore it: the token decides who one is.
pub const USER_HEADER: &str = "x-sway-user";

/// A job, as told to its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// The data that it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<DatasetView>,
    /// The caller's own notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who decides on it, and how they decided; none for jobs that nobody decides on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Box<SubmissionView>>,
    /// When it was submitted, RFC 3339.
    pub created_at: String,
    /// Its run, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunView>,
}

/// A dataset of a job, and what its name led to when the job was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetView {
    /// Its name below `/data`; where absent, it is `/data` itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is.
    pub kind: DatasetKind,
    /// As asked for.
    pub dataset: DatasetName,
    /// What the job reads.
    pub manifest: Digest,
}

/// Answer of `GET /v1/jobs/{id}/outputs`: what its latest run left in `/output`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputFiles {
    /// Folders before what they hold.
    pub files: Vec<OutputFile>,
}

/// An entry of `/output`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputFile {
    /// From `/output`; invalid UTF-8 replaced.
    pub path: String,
    /// What it is.
    pub kind: OutputKind,
    /// Its length; 0 where it is no file.
    pub bytes: u64,
}

/// What an entry of `/output` is; nothing else is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// A regular file.
    File,
    /// A directory.
    Folder,
    /// A symbolic link that stays within `/output`.
    Link,
}

/// One execution of a job: a row of the run log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// Chunks, and frames of traces, that were fetched from the fileserver for it, read or not.
    pub server_fetches: i64,
    /// Bytes answered from memory.
    pub memory_cache_bytes: i64,
    /// Bytes answered from disk.
    pub disk_cache_bytes: i64,
    /// Bytes on the wire that this run's fetches moved (encoded blobs).
    pub bytes_fetched: i64,
    /// How its start used a trace.
    #[serde(default)]
    pub trace: TraceUse,
    /// Bytes of the trace that were brought for it.
    #[serde(default)]
    pub trace_pushed_bytes: i64,
    /// Bytes of those that it used; none where that is not known: it is sampled after cold starts
    /// that had their mount for themselves.
    #[serde(default)]
    pub trace_used_bytes: Option<i64>,
    /// Bytes that it asked for and its trace did not bring.
    #[serde(default)]
    pub trace_missed_bytes: i64,
    /// Whether it was made to record a trace, by `POST /v1/traces`.
    #[serde(default)]
    pub records_trace: bool,
    /// Peak of anonymous and shared memory, in bytes, where it was measured.
    #[serde(default)]
    pub memory_peak_bytes: Option<i64>,
    /// CPU time of all its processes, user and system, where it was measured.
    #[serde(default)]
    pub cpu_ms: Option<i64>,
    /// Most CPUs that it used over half a second (over all of a shorter run), in thousandths.
    #[serde(default)]
    pub cpus_peak_milli: Option<i64>,
    /// What a handler answered; none where it gave no answer, and for all other programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Files that it left in `/output` and that are kept; none where it had no `/output`.
    #[serde(default)]
    pub output_files: Option<i64>,
    /// Bytes of those.
    #[serde(default)]
    pub output_files_bytes: Option<i64>,
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
    /// Whether its container was made, and its interpreter started, before the job came.
    #[serde(default)]
    pub pooled: bool,
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

impl RunView {
    /// Why it did not end by itself, in words; none where it did.
    pub fn interruption(&self) -> Option<String> {
        let because = |cause: Cause| match &self.message {
            Some(message) => format!("{}: {message}", cause.as_str()),
            None => cause.as_str().to_owned(),
        };
        #[expect(clippy::cast_precision_loss, reason = "a time in seconds for people")]
        let seconds = self.limits.timeout_ms as f64 / 1000.0;
        let mib = self.limits.memory_bytes >> 20;
        match self.cause {
            Some(Cause::Exited) => None,
            Some(Cause::Timeout) => Some(format!("timeout: it did not end within {seconds} s")),
            Some(Cause::MemoryExceeded) => {
                Some(format!("memory_exceeded: it wanted more than {mib} MB"))
            }
            Some(
                cause @ (Cause::OutputLimit
                | Cause::Cancelled
                | Cause::Policy
                | Cause::Infrastructure),
            ) => Some(because(cause)),
            None => Some("it has not ended".to_owned()),
        }
    }
}

/// How the start of a run used a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceUse {
    /// Its pages were put into the kernel's cache.
    Pushed,
    /// Its frames answered reads.
    Read,
    /// There was none, or the start needed none.
    #[default]
    None,
}

impl TraceUse {
    /// The name in columns, JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::Read => "read",
            Self::None => "none",
        }
    }

    /// Reads what [`TraceUse::as_str`] wrote.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Pushed, Self::Read, Self::None].into_iter().find(|used| used.as_str() == name)
    }
}

/// A label that marks a job as one that records a trace: name and value.
pub const RECORD_LABEL: (&str, &str) = ("sway.trace", "record");

/// Body of `POST /v1/traces`: prepare an image for cold starts. Its trace is derived from what is
/// known of the same contents; then its command is run once, and what that touches is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The image.
    pub image: ImageName,
    /// What the name led to before its last export: the image whose traces it inherits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// What to run; the image's own command where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    /// Arguments of the program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// A file that a word of the command names. Where the image lacks it, it is what runs, with
    /// the words behind it as its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<JobFile>,
}

/// Answer of `POST /v1/traces`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceAnswer {
    /// The image's manifest.
    pub manifest: Digest,
}

/// Jobs in one body of `POST /v1/jobs/batch`.
pub const BATCH_LEN_MAX: usize = 100;

/// Body of `POST /v1/jobs/batch`: all of them are taken, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// 1 to [`BATCH_LEN_MAX`].
    #[schema(min_items = 1, max_items = 100)]
    pub jobs: Vec<JobSpec>,
}

/// Answer of `POST /v1/jobs/batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Batch {
    /// In the order of the request.
    pub jobs: Vec<JobView>,
}

/// Answer of `GET /v1/jobs`: newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The page.
    pub jobs: Vec<JobView>,
    /// Pass as `before` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<i64>,
}

/// Answer of `GET /v1/runs`: newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    /// The page.
    pub runs: Vec<RunView>,
    /// Pass as `before` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<i64>,
}

/// Answer of `GET /v1/images`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// Sorted by name.
    pub images: Vec<ImageView>,
}

/// An image that the caller can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Name with user and tag.
    pub name: ImageName,
    /// Its manifest.
    pub manifest: Digest,
    /// When it was exported last, RFC 3339.
    pub updated_at: String,
}

/// What a job uses at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Since the start of its process.
    pub elapsed_ms: u64,
    /// Anonymous and shared memory then, in bytes.
    pub memory_bytes: u64,
    /// CPU time of all its processes until then, user and system.
    pub cpu_ms: u64,
}

/// Which stream a frame of output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One event of `GET /v1/jobs/{id}/logs` (server-sent events; the event's name is the variant's,
/// its id a running number for `Last-Event-ID`, where
/// it has one).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
        #[schema(value_type = String, content_encoding = "base64")]
        data: Vec<u8>,
    },
    /// Output beyond the limit was dropped from here on.
    Truncated {
        /// Of which stream.
        stream: OutputStream,
    },
    /// What the job uses: about two a second, and one at its end. Has no number of its own: it is
    /// told to who listens then, and not again.
    Usage(Usage),
    /// The job is over; nothing follows.
    End {
        /// Its last state.
        state: JobState,
        /// Its run without the outputs; none where it never ran.
        run: Option<Box<RunView>>,
    },
}
