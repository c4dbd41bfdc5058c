//! Jobs that an owner decides on: what is submitted, reviewed and decided.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::jobs::JobView;
use crate::audit::{AuditEntry, AuditFault, Head};
use crate::digest::Digest;
use crate::job::{DatasetKind, JobSpec, JobState, Limits, LimitsRequest, Network, SpecError};
use crate::name::{DatasetName, ImageName, UserName};

/// The queue that a submission goes to unless it names one.
pub const QUEUE: &str = "code-queue";

const NAME_LEN_MAX: usize = 200;
const DESCRIPTION_LEN_MAX: usize = 16 << 10;
const TAGS_MAX: usize = 32;
const TAG_LEN_MAX: usize = 64;
const REASON_LEN_MAX: usize = 4 << 10;

/// Body of `POST /v1/submissions`: a job, and who decides on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Who decides.
    pub owner: UserName,
    /// A label that keeps queues of one worker apart.
    #[serde(default = "queue_name")]
    pub queue: String,
    /// What it is called, in one line.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What to run. It gets an `/output` in any case, and no standard input.
    pub job: JobSpec,
}

fn queue_name() -> String {
    QUEUE.to_owned()
}

impl Submission {
    /// The same with what every submitted job has.
    #[must_use]
    pub fn completed(mut self) -> Self {
        self.job.detach = true;
        self.job.output.get_or_insert_default();
        self
    }

    /// Checks what does not depend on the worker.
    pub fn check(&self) -> Result<(), SpecError> {
        let bad = |field, reason: String| Err(SpecError { field, reason });
        let is_line = |text: &str, max: usize| {
            (1..=max).contains(&text.len()) && !text.contains(char::is_control)
        };
        if !is_line(&self.name, NAME_LEN_MAX) {
            return bad("name", format!("a name is one line of 1 to {NAME_LEN_MAX} bytes"));
        }
        if !is_line(&self.queue, TAG_LEN_MAX) {
            return bad("queue", format!("a queue's name is one line of 1 to {TAG_LEN_MAX} bytes"));
        }
        if self.description.len() > DESCRIPTION_LEN_MAX {
            let reason = format!("a description has at most {DESCRIPTION_LEN_MAX} bytes");
            return bad("description", reason);
        }
        if self.tags.len() > TAGS_MAX || !self.tags.iter().all(|tag| is_line(tag, TAG_LEN_MAX)) {
            let reason = format!("at most {TAGS_MAX}, each a line of 1 to {TAG_LEN_MAX} bytes");
            return bad("tags", reason);
        }
        if self.job.stdin {
            return bad("job.stdin", "a submitted job has no standard input".to_owned());
        }
        self.job.check()
    }
}

/// What a job is to its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmissionView {
    /// Who decides.
    pub owner: UserName,
    /// Its queue.
    pub queue: String,
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// SHA-256 over all that was submitted: code, image, datasets, limits, names. What has another
    /// one does not run.
    pub digest: String,
    /// What the policy objects to in its files, counted when it was submitted, up to 1000. None where
    /// that was not counted yet then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<u32>,
    /// None while it is pending, and where it was cancelled before anybody decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// When its code, outputs and logs were removed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleaned_at: Option<String>,
    /// What became of its `requirements.txt`; none where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Packages>,
}

/// The Python packages that a job's `requirements.txt` asks for. They are installed into an image of
/// the job's own before its owner can approve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Packages {
    /// They are being installed: until they are, the job can't be approved.
    Preparing,
    /// The job's image has them all.
    Ready {
        /// The image that the job was submitted for. The job's own differs where something was
        /// installed.
        image: Digest,
        /// What it lacked, sorted by name.
        installed: Vec<Package>,
    },
    /// Nothing is installed: the image is the submitter's own, and nothing of the submitter's runs
    /// before it is approved.
    LeftToImage,
    /// They can't be installed, and the job has failed.
    Failed {
        /// Why, and what to do.
        reason: String,
    },
}

/// A package that was installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its wheel, in hex.
    pub sha256: String,
}

impl Packages {
    /// For a person, in lines. What of it comes from elsewhere is not made safe to show.
    pub fn told(&self) -> Vec<String> {
        match self {
            Self::Preparing => {
                vec!["are being installed: the job can be approved when they are".to_owned()]
            }
            Self::Ready { installed, .. } if installed.is_empty() => {
                vec!["the image has all that requirements.txt asks for".to_owned()]
            }
            Self::Ready { image, installed } => {
                let all = installed.iter().map(|it| format!("{}=={}", it.name, it.version));
                all.chain([format!("installed into {image}")]).collect()
            }
            Self::LeftToImage => vec![
                "nothing is installed into a submitter's own image: what it lacks, the job lacks"
                    .to_owned(),
            ],
            Self::Failed { reason } => vec![format!("can't be installed: {reason}")],
        }
    }
}

/// What an owner decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// Yes or no.
    pub approved: bool,
    /// Who.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// Body of `POST /v1/jobs/{id}/approve` and `/reject`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionRequest {
    /// Why; the submitter sees it.
    #[serde(default)]
    pub reason: String,
    /// The digest of what was reviewed: where the job has another one, nothing is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl DecisionRequest {
    /// Checks what does not depend on the worker.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.reason.len() > REASON_LEN_MAX {
            let reason = format!("at most {REASON_LEN_MAX} bytes");
            return Err(SpecError { field: "reason", reason });
        }
        Ok(())
    }
}

/// Answer of `POST /v1/jobs/{id}/approve` and `/reject`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decided {
    /// The job as it is now.
    pub job: JobView,
    /// Whether it had been decided so before: nothing was changed then.
    pub already: bool,
}

/// Answer of `GET /v1/jobs/{id}/review`: all that a decision needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Review {
    /// The job.
    pub job: JobView,
    /// What it runs, every file included; none where it was cleaned up.
    pub spec: Option<JobSpec>,
    /// What the policy objects to in its Python files and shell scripts.
    pub findings: Vec<Finding>,
    /// Whether it objects to more than is listed: the first 1,000 are.
    #[serde(default)]
    pub more_findings: bool,
    /// The submitter's last approved job to the same owner before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousJob>,
}

/// A job to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreviousJob {
    /// The job.
    pub job: JobView,
    /// What it ran; none where it was cleaned up.
    pub spec: Option<JobSpec>,
}

/// What a policy objects to, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// The file, as the job has it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

/// What an owner grants to jobs that others submit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Submitted jobs that run at a time.
    pub max_concurrent_jobs: u32,
    /// Timeout of a job that asks for none, and the longest that one may ask for, in seconds.
    pub job_timeout_s: u64,
    /// How long after its end a job's code, outputs and logs are kept, in seconds.
    pub cleanup_completed_after_s: u64,
    /// Names of the owner's datasets that may be asked for; all of them where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datasets: Option<Vec<String>>,
    /// Images that may be asked for; all that the submitter, or the owner, can run where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImageName>>,
    /// Whether jobs may ask for the network.
    pub network: bool,
    /// The owner's dataset with the wheels that packages are installed from; the worker's index where
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wheels: Option<String>,
    /// Most memory, in bytes; the worker's maximum where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// Most CPUs, in thousandths, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpus_milli: Option<u32>,
    /// Most processes and threads, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pids: Option<u32>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            max_concurrent_jobs: 3,
            job_timeout_s: 600,
            cleanup_completed_after_s: 86_400,
            datasets: None,
            images: None,
            network: false,
            wheels: None,
            max_memory_bytes: None,
            max_cpus_milli: None,
            max_pids: None,
        }
    }
}

/// What an owner does not grant.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{owner} does not grant {what}")]
pub struct NotGranted {
    /// Whose queue.
    pub owner: UserName,
    /// What was asked for.
    pub what: String,
}

impl QueueSettings {
    /// Checks what does not depend on the worker.
    pub fn check(&self) -> Result<(), SpecError> {
        let bad = |field, reason: &str| Err(SpecError { field, reason: reason.to_owned() });
        if self.max_concurrent_jobs == 0 {
            return bad("max_concurrent_jobs", "at least 1");
        }
        if !(1..=31_536_000).contains(&self.job_timeout_s) {
            return bad("job_timeout_s", "1 to 31536000");
        }
        if self.cleanup_completed_after_s > 3_153_600_000 {
            return bad("cleanup_completed_after_s", "at most 3153600000");
        }
        let is_own =
            |name: &String| name.parse::<DatasetName>().is_ok_and(|name| name.user.is_none());
        if !self.wheels.as_ref().is_none_or(is_own) {
            return bad("wheels", "the name of one of the owner's datasets");
        }
        Ok(())
    }

    /// What a job may ask for at most, on a worker with these maxima.
    pub fn maxima(&self, of_worker: &Limits) -> Limits {
        let lower = |own: Option<u64>, worker: u64| own.map_or(worker, |own| own.min(worker));
        Limits {
            timeout_ms: (self.job_timeout_s.saturating_mul(1000)).min(of_worker.timeout_ms),
            memory_bytes: lower(self.max_memory_bytes, of_worker.memory_bytes),
            cpus_milli: self.max_cpus_milli.unwrap_or(u32::MAX).min(of_worker.cpus_milli),
            pids: self.max_pids.unwrap_or(u32::MAX).min(of_worker.pids),
            ..*of_worker
        }
    }

    /// Limits that hold for a job.
    pub fn grant(
        &self,
        asked: &LimitsRequest,
        of_worker: &Limits,
    ) -> Result<Limits, crate::job::LimitError> {
        let default =
            Limits { timeout_ms: self.job_timeout_s.saturating_mul(1000), ..Limits::SUBMITTED };
        Limits::grant(asked, &default, &self.maxima(of_worker))
    }

    /// Whether `owner`, whose settings these are, lets a job ask for its network, its image and
    /// the owner's datasets. `image` is the one that it will run in, `manifest` what that led to.
    pub fn allows(
        &self,
        owner: &UserName,
        job: &JobSpec,
        image: &ImageName,
        manifest: Digest,
    ) -> Result<(), NotGranted> {
        let not = |what: String| Err(NotGranted { owner: owner.clone(), what });
        if job.network != Network::None && !self.network {
            return not("a network".to_owned());
        }
        let is_meant = |allowed: &ImageName| {
            allowed.name == image.name
                && allowed.tag_or_latest() == image.tag_or_latest()
                && (allowed.user.is_none() || allowed.user == image.user)
                && allowed.digest.is_none_or(|digest| digest == manifest)
        };
        if self.images.as_ref().is_some_and(|images| !images.iter().any(is_meant)) {
            return not(format!("the image {image}"));
        }
        let owned = job.datasets.iter().filter(|it| it.dataset.user.as_ref() == Some(owner));
        for dataset in owned.map(|it| &it.dataset) {
            if self.datasets.as_ref().is_some_and(|names| !names.contains(&dataset.name)) {
                return not(format!("the dataset {dataset}"));
            }
        }
        Ok(())
    }
}

/// How many jobs there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateCounts {
    /// Wait for a decision.
    pub pending: u64,
    /// Wait for a place.
    pub approved: u64,
    /// Run.
    pub running: u64,
    /// Exited with 0.
    pub completed: u64,
    /// Ended in any other way.
    pub failed: u64,
    /// Were refused.
    pub rejected: u64,
    /// Were stopped.
    pub cancelled: u64,
}

impl StateCounts {
    /// Those of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            pending: self.pending + other.pending,
            approved: self.approved + other.approved,
            running: self.running + other.running,
            completed: self.completed + other.completed,
            failed: self.failed + other.failed,
            rejected: self.rejected + other.rejected,
            cancelled: self.cancelled + other.cancelled,
        }
    }

    /// The count of one state.
    pub fn of(&mut self, state: JobState) -> &mut u64 {
        match state {
            JobState::Pending => &mut self.pending,
            JobState::Approved => &mut self.approved,
            JobState::Running => &mut self.running,
            JobState::Completed => &mut self.completed,
            JobState::Failed => &mut self.failed,
            JobState::Rejected => &mut self.rejected,
            JobState::Cancelled => &mut self.cancelled,
        }
    }
}

/// Answer of `GET /v1/queue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Whose queue: the caller's.
    pub owner: UserName,
    /// What its owner grants.
    pub settings: QueueSettings,
    /// Jobs that were submitted to the caller.
    pub for_me: StateCounts,
    /// Jobs that the caller submitted.
    pub by_me: StateCounts,
}

/// Answer of `GET /v1/datasets`: an owner's datasets that have names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetList {
    /// Sorted by name.
    pub datasets: Vec<NamedDataset>,
}

/// A dataset that was given a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedDataset {
    /// Its name.
    pub name: String,
    /// Whose.
    pub owner: UserName,
    /// What it is.
    pub kind: DatasetKind,
    /// The file's own name, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Its manifest.
    pub manifest: Digest,
    /// When it was added last, RFC 3339.
    pub updated_at: String,
}

/// Answer of `GET /v1/audit`: oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The page.
    pub entries: Vec<AuditEntry>,
    /// Pass as `after` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<i64>,
}

/// Answer of `GET /v1/audit/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerdict {
    /// Where the chain ends, as far as it is sound: to be noted elsewhere.
    pub head: Head,
    /// Where it is broken; none where it is sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<AuditFault>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Dataset, Program};

    fn submission() -> Submission {
        let job = JobSpec::new(None, Program::Command { argv: vec!["true".to_owned()] });
        Submission {
            owner: "alice".parse().unwrap(),
            queue: queue_name(),
            name: "Statistics".to_owned(),
            description: "two\nlines".to_owned(),
            tags: vec!["a".to_owned()],
            job,
        }
    }

    #[test]
    fn what_is_submitted_is_bounded_and_names_are_lines() {
        assert_eq!(submission().check(), Ok(()));
        let refused = |change: &dyn Fn(&mut Submission)| {
            let mut submission = submission();
            change(&mut submission);
            submission.check().unwrap_err().field
        };
        assert_eq!(refused(&|it| it.name.clear()), "name");
        assert_eq!(refused(&|it| it.name = "a\u{1b}[2Jb".to_owned()), "name");
        assert_eq!(refused(&|it| it.queue = "x".repeat(65)), "queue");
        assert_eq!(refused(&|it| it.description = "x".repeat(17 << 10)), "description");
        assert_eq!(refused(&|it| it.tags = vec!["x".to_owned(); 33]), "tags");
        assert_eq!(refused(&|it| it.job.stdin = true), "job.stdin");
        assert!(submission().completed().job.output.is_some());
    }

    #[test]
    fn an_owner_grants_what_the_settings_say() {
        let alice: UserName = "alice".parse().unwrap();
        let (image, manifest) = ("science".parse().unwrap(), Digest::of(b""));
        let mut job = submission().job;
        let mut settings = QueueSettings::default();
        let allows = |settings: &QueueSettings, job: &JobSpec| {
            settings.allows(&alice, job, &image, manifest).map_err(|refused| refused.to_string())
        };
        assert_eq!(allows(&settings, &job), Ok(()));
        job.network = Network::Isolated;
        assert_eq!(allows(&settings, &job).unwrap_err(), "alice does not grant a network");
        job.network = Network::None;
        settings.images = Some(vec!["other".parse().unwrap()]);
        assert_eq!(allows(&settings, &job).unwrap_err(), "alice does not grant the image science");
        settings.images = Some(vec!["science:latest".parse().unwrap()]);
        assert_eq!(allows(&settings, &job), Ok(()));
        let dataset = |name: &str| Dataset {
            name: None,
            kind: DatasetKind::Folder,
            dataset: name.parse().unwrap(),
        };
        settings.datasets = Some(vec!["open".to_owned()]);
        job.datasets = vec![dataset("alice/open"), dataset("bob/own"), dataset("own")];
        assert_eq!(allows(&settings, &job), Ok(()));
        job.datasets.push(dataset("alice/closed"));
        let refused = allows(&settings, &job).unwrap_err();
        assert_eq!(refused, "alice does not grant the dataset alice/closed");
    }

    #[test]
    fn limits_are_the_owners_within_the_workers() {
        let worker = Limits::maxima(4);
        let mut settings = QueueSettings::default();
        let nothing = LimitsRequest::default();
        assert_eq!(settings.grant(&nothing, &worker), Ok(Limits::SUBMITTED));
        let longer = LimitsRequest { timeout_ms: Some(600_001), ..nothing };
        assert_eq!(settings.grant(&longer, &worker).unwrap_err().max, 600_000);
        settings.job_timeout_s = 1_000_000;
        assert_eq!(settings.grant(&nothing, &worker).unwrap().timeout_ms, worker.timeout_ms);
        settings.max_memory_bytes = Some(64 << 20);
        settings.max_pids = Some(9);
        let granted = settings.grant(&nothing, &worker).unwrap();
        assert_eq!((granted.memory_bytes, granted.pids), (64 << 20, 9));
        let read: QueueSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(read, QueueSettings::default());
    }
}
