//! What a job is: what it asks for, what it may ask for, the states that it goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::handler::Handler;
use crate::name::{DatasetName, ImageName};

/// A request to run something in an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The image to run in; the worker's default for such a program where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// What to run.
    pub program: Program,
    /// Arguments of the program.
    #[serde(default)]
    pub args: Vec<String>,
    /// Added to the image's environment; the same names replace the image's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What the caller asks for; what is left out gets the entry's default.
    #[serde(default)]
    pub limits: LimitsRequest,
    /// Data that it reads, below `/data`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<Dataset>,
    /// A directory `/output` whose files are kept with the run, and its limits; without it the job
    /// has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputRequest>,
    /// What the job can reach.
    #[serde(default)]
    pub network: Network,
    /// Whether the caller will send standard input; without it the job reads an empty one.
    #[serde(default)]
    pub stdin: bool,
    /// Whether the job goes on when nobody follows its output.
    #[serde(default)]
    pub detach: bool,
    /// Whether too much output ends the job (cause `output_limit`) instead of being cut.
    #[serde(default)]
    pub fail_on_output_limit: bool,
    /// The caller's own notes.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl JobSpec {
    /// A job that asks for nothing beside.
    pub fn new(image: Option<ImageName>, program: Program) -> Self {
        Self {
            image,
            program,
            args: Vec::new(),
            env: BTreeMap::new(),
            limits: LimitsRequest::default(),
            datasets: Vec::new(),
            output: None,
            network: Network::default(),
            stdin: false,
            detach: false,
            fail_on_output_limit: false,
            labels: BTreeMap::new(),
        }
    }
}

/// Data that a job reads: a file tree on the fileserver, as an image is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Its name below `/data`. Where absent, it is `/data` itself: for a folder that comes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is.
    pub kind: DatasetKind,
    /// Which one: the ref behind it leads to its manifest.
    pub dataset: DatasetName,
}

/// Datasets of one job.
pub const DATASETS_MAX: usize = 16;

/// Labels of one job, and bytes of a name and of a value.
pub const LABELS_MAX: usize = 64;
const LABEL_NAME_LEN_MAX: usize = 128;
const LABEL_VALUE_LEN_MAX: usize = 1024;

/// What a dataset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetKind {
    /// One file: the only entry of its manifest's root.
    File,
    /// All of its manifest's tree.
    Folder,
}

/// Limits of `/output` that a caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputRequest {
    /// Bytes of all files together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Files, folders and links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes of one file that the job writes, wherever it writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
}

/// Limits of `/output` that hold for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links.
    pub files: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
}

impl OutputLimits {
    /// What a job gets that asks for no more than an `/output`.
    pub const DEFAULT: Self = Self { bytes: 64 << 20, files: 1000, file_bytes: 64 << 20 };

    /// A worker's maxima unless configured.
    pub const MAXIMA: Self = Self { bytes: 1 << 30, files: 100_000, file_bytes: 1 << 30 };

    /// What holds for a job that asks for `request`. One file may have what all may have, unless
    /// the request says less.
    pub fn grant(request: &OutputRequest, maxima: &Self) -> Result<Self, LimitError> {
        let pick = |field, asked: Option<u64>, default: u64, max: u64| match asked {
            None => Ok(default.min(max)),
            Some(asked) if asked == 0 || asked > max => {
                Err(LimitError { field, asked, min: 1, max })
            }
            Some(asked) => Ok(asked),
        };
        let bytes = pick("output.bytes", request.bytes, Self::DEFAULT.bytes, maxima.bytes)?;
        let files = pick("output.files", request.files, Self::DEFAULT.files, maxima.files)?;
        let file_bytes = pick("output.file_bytes", request.file_bytes, bytes, maxima.file_bytes)?;
        Ok(Self { bytes, files, file_bytes: file_bytes.min(bytes) })
    }
}

/// What a job runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Program {
    /// One file, placed in the image's working directory under its own name.
    Script {
        /// The script.
        file: JobFile,
    },
    /// A folder, placed at `/code`, with the path of its entry file.
    Folder {
        /// All files of the folder.
        files: Vec<JobFile>,
        /// The file to start, a path within the folder.
        entry: String,
    },
    /// A command of the image itself; empty for the image's own entrypoint and command.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// A function that is called once with an event, its files placed at `/code`.
    Handler(Handler),
}

impl Program {
    /// The name under which a run of this is on record: the script's base name, the folder's
    /// entry, the command's program, or the handler.
    pub fn filename(&self) -> &str {
        let path = match self {
            Self::Script { file } => &file.path,
            Self::Folder { entry, .. } => entry,
            Self::Command { argv } => argv.first().map_or("", String::as_str),
            Self::Handler(handler) => return &handler.handler,
        };
        path.rsplit('/').next().unwrap_or(path)
    }

    /// The files that come along.
    pub fn files(&self) -> &[JobFile] {
        match self {
            Self::Script { file } => std::slice::from_ref(file),
            Self::Folder { files, .. } => files,
            Self::Handler(handler) => &handler.files,
            Self::Command { .. } => &[],
        }
    }
}

/// A file that the caller sends along.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// Relative path, parts joined by `/`, without `.` and `..`.
    pub path: String,
    /// Its bytes, base64 in JSON.
    #[serde(with = "base64_bytes")]
    #[schema(value_type = String, content_encoding = "base64")]
    pub content: Vec<u8>,
    /// Whether it may be executed.
    #[serde(default)]
    pub executable: bool,
}

impl fmt::Debug for JobFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobFile({:?}, {} bytes)", self.path, self.content.len())
    }
}

/// Bytes as base64 text in JSON (RFC 4648, standard alphabet, padded).
pub mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes base64.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}

/// What a job can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing: an empty network namespace.
    #[default]
    None,
    /// An own namespace whose egress passes a filter that refuses the host's loopback, private
    /// and metadata addresses.
    Isolated,
}

/// Limits that a caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Wall-clock time from the start of the job's process, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Memory including swap, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPUs, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus_milli: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes of stdout, and as many of stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Bytes of `/tmp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tmp_bytes: Option<u64>,
}

/// Limits that hold for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Wall-clock time from the start of the job's process, in milliseconds.
    pub timeout_ms: u64,
    /// Memory including swap, in bytes.
    pub memory_bytes: u64,
    /// CPUs, in thousandths.
    pub cpus_milli: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes of stdout, and as many of stderr.
    pub output_bytes: u64,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Of `/output`; none where the job has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputLimits>,
}

impl Limits {
    /// Defaults of direct jobs (`docs/semantics.md`).
    pub const DIRECT: Self = Self {
        timeout_ms: 10_000,
        memory_bytes: 256 << 20,
        cpus_milli: 500,
        pids: 64,
        output_bytes: 10 << 20,
        tmp_bytes: 64 << 20,
        output: None,
    };

    /// Defaults of code that comes in `PyRunner`'s form of `/run`.
    pub const PYRUNNER: Self =
        Self { timeout_ms: 30_000, memory_bytes: 512 << 20, cpus_milli: 1000, ..Self::DIRECT };

    /// Defaults of the original program's `/run`.
    pub const TINYCONTAINER: Self = Self {
        timeout_ms: 30 * 60_000,
        memory_bytes: 1 << 30,
        cpus_milli: 1000,
        pids: 128,
        ..Self::DIRECT
    };

    /// Of jobs that an owner decides on.
    pub const SUBMITTED: Self = Self {
        timeout_ms: 600_000,
        memory_bytes: 1 << 30,
        cpus_milli: 1000,
        pids: 128,
        ..Self::DIRECT
    };

    /// A worker's maxima unless configured, on a machine with so many cores.
    pub const fn maxima(cores: u32) -> Self {
        Self {
            timeout_ms: 3_600_000,
            memory_bytes: 4 << 30,
            cpus_milli: cores * 1000,
            pids: 1024,
            output_bytes: 100 << 20,
            tmp_bytes: 1 << 30,
            output: Some(OutputLimits::MAXIMA),
        }
    }

    /// What holds for a job that asks for `request`, which says nothing of `/output`: that is
    /// [`OutputLimits::grant`]'s. Defaults are lowered to the maxima;
    /// a request beyond them is refused, never lowered in silence.
    pub fn grant(
        request: &LimitsRequest,
        default: &Self,
        maxima: &Self,
    ) -> Result<Self, LimitError> {
        fn pick<T: Copy + Ord + Into<u64>>(
            field: &'static str,
            asked: Option<T>,
            default: T,
            min: T,
            max: T,
        ) -> Result<T, LimitError> {
            match asked {
                None => Ok(default.min(max)),
                Some(asked) if asked < min || asked > max => {
                    Err(LimitError { field, asked: asked.into(), min: min.into(), max: max.into() })
                }
                Some(asked) => Ok(asked),
            }
        }
        Ok(Self {
            timeout_ms: pick(
                "timeout_ms",
                request.timeout_ms,
                default.timeout_ms,
                1,
                maxima.timeout_ms,
            )?,
            // runc itself needs a few MiB of the job's memory to start.
            memory_bytes: pick(
                "memory_bytes",
                request.memory_bytes,
                default.memory_bytes,
                16 << 20,
                maxima.memory_bytes,
            )?,
            cpus_milli: pick(
                "cpus_milli",
                request.cpus_milli,
                default.cpus_milli,
                10,
                maxima.cpus_milli,
            )?,
            pids: pick("pids", request.pids, default.pids, 1, maxima.pids)?,
            output_bytes: pick(
                "output_bytes",
                request.output_bytes,
                default.output_bytes,
                0,
                maxima.output_bytes,
            )?,
            tmp_bytes: pick(
                "tmp_bytes",
                request.tmp_bytes,
                default.tmp_bytes,
                4096,
                maxima.tmp_bytes,
            )?,
            output: None,
        })
    }
}

impl From<Limits> for LimitsRequest {
    /// Asks for exactly these.
    fn from(limits: Limits) -> Self {
        Self {
            timeout_ms: Some(limits.timeout_ms),
            memory_bytes: Some(limits.memory_bytes),
            cpus_milli: Some(limits.cpus_milli),
            pids: Some(limits.pids),
            output_bytes: Some(limits.output_bytes),
            tmp_bytes: Some(limits.tmp_bytes),
        }
    }
}

/// A limit that the worker does not grant.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("limit {field} = {asked} is outside what this worker grants ({min} to {max})")]
pub struct LimitError {
    /// Field of [`LimitsRequest`].
    pub field: &'static str,
    /// What was asked for.
    pub asked: u64,
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

/// A spec that can't be run, whatever the worker.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {reason}")]
pub struct SpecError {
    /// Where in the request.
    pub field: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl JobSpec {
    /// Checks what does not depend on the worker: paths, names, and that nothing holds a NUL.
    pub fn check(&self) -> Result<(), SpecError> {
        let bad = |field, reason: String| Err(SpecError { field, reason });
        match &self.program {
            Program::Script { file } => {
                if !is_plain_name(&file.path) {
                    return bad("program.file.path", format!("{:?} is not a file name", file.path));
                }
            }
            Program::Folder { files, entry } => {
                if let Some(file) = files.iter().find(|file| !is_relative_path(&file.path)) {
                    return bad(
                        "program.files",
                        format!("{:?} is not a path within the folder", file.path),
                    );
                }
                if !files.iter().any(|file| file.path == *entry) {
                    return bad("program.entry", format!("{entry:?} is not among the files"));
                }
            }
            Program::Command { argv } => {
                if argv.iter().any(|arg| arg.contains('\0')) {
                    return bad("program.argv", "an argument holds a NUL".to_owned());
                }
            }
            Program::Handler(handler) => {
                handler.check()?;
                if !self.args.is_empty() {
                    return bad("args", "a handler has no arguments but its event".to_owned());
                }
                if self.stdin {
                    return bad("stdin", "a handler's input is its event".to_owned());
                }
            }
        }
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return bad("args", "an argument holds a NUL".to_owned());
        }
        if self.datasets.len() > DATASETS_MAX {
            let reason = format!("{} of them, and at most {DATASETS_MAX} go", self.datasets.len());
            return bad("datasets", reason);
        }
        let mut names = BTreeSet::new();
        for dataset in &self.datasets {
            let reason = match &dataset.name {
                Some(name) if !is_plain_name(name) => format!("{name:?} is not a file name"),
                Some(name) if !names.insert(name) => format!("{name:?} is there twice"),
                None if self.datasets.len() > 1 => "several need names".to_owned(),
                None if dataset.kind == DatasetKind::File => "a file needs a name".to_owned(),
                _ => continue,
            };
            return bad("datasets", reason);
        }
        let sound = |(name, value): (&String, &String)| {
            !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
        };
        if let Some((name, _)) = self.env.iter().find(|&(name, value)| !sound((name, value))) {
            return bad("env", format!("{name:?} is not a variable that a process can have"));
        }
        if self.labels.len() > LABELS_MAX {
            let reason = format!("{} of them, and at most {LABELS_MAX} go", self.labels.len());
            return bad("labels", reason);
        }
        let fits = |(name, value): (&String, &String)| {
            (1..=LABEL_NAME_LEN_MAX).contains(&name.len()) && value.len() <= LABEL_VALUE_LEN_MAX
        };
        if !self.labels.iter().all(fits) {
            let reason = format!(
                "a name has 1 to {LABEL_NAME_LEN_MAX} bytes, a value at most {LABEL_VALUE_LEN_MAX}"
            );
            return bad("labels", reason);
        }
        Ok(())
    }
}

/// One part of a path: no `/`, no NUL, no control characters, not `.` or `..`.
fn is_plain_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c.is_control())
}

pub(crate) fn is_relative_path(path: &str) -> bool {
    path.len() <= 4095 && path.split('/').all(is_plain_name)
}

/// Where a job stands. The moves are in [`JobState::may_become`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for an owner's decision.
    Pending,
    /// May run, waits for a place.
    Approved,
    /// Runs.
    Running,
    /// Ran, and its program exited with 0.
    Completed,
    /// Ended in any other way.
    Failed,
    /// An owner said no.
    Rejected,
    /// Somebody stopped it.
    Cancelled,
}

impl JobState {
    /// All of them, in the order in which a job may come to them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Approved,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Rejected,
        Self::Cancelled,
    ];

    /// The state of this name, as [`JobState::as_str`] gives it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether nothing comes after it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Approved | Self::Running => false,
            Self::Completed | Self::Failed | Self::Rejected | Self::Cancelled => true,
        }
    }

    /// The legal moves: pending → approved → running → completed | failed; pending → rejected;
    /// any that is not final → cancelled; approved → failed where the job can't be started, pending
    /// → failed where its packages can't be installed.
    pub fn may_become(self, next: Self) -> bool {
        match next {
            Self::Pending => false,
            Self::Approved | Self::Rejected => self == Self::Pending,
            Self::Running => self == Self::Approved,
            Self::Completed => self == Self::Running,
            Self::Failed => matches!(self, Self::Pending | Self::Approved | Self::Running),
            Self::Cancelled => !self.is_final(),
        }
    }

    /// The name in columns, JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The program ended by itself, or was killed from within.
    Exited,
    /// Its time was over.
    Timeout,
    /// It wanted more memory than its limit.
    MemoryExceeded,
    /// It wrote more than its limit, and asked to fail then.
    OutputLimit,
    /// Somebody stopped it.
    Cancelled,
    /// A policy refused it before it started.
    Policy,
    /// Not its own fault: the worker, the fileserver or the machine failed.
    Infrastructure,
}

impl Cause {
    /// The name in columns, JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Timeout => "timeout",
            Self::MemoryExceeded => "memory_exceeded",
            Self::OutputLimit => "output_limit",
            Self::Cancelled => "cancelled",
            Self::Policy => "policy",
            Self::Infrastructure => "infrastructure",
        }
    }

    /// Reads what [`Cause::as_str`] wrote.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Exited,
            Self::Timeout,
            Self::MemoryExceeded,
            Self::OutputLimit,
            Self::Cancelled,
            Self::Policy,
            Self::Infrastructure,
        ]
        .into_iter()
        .find(|cause| cause.as_str() == name)
    }

    /// What `sway run` exits with: the job's own code, or one that names the cause.
    pub fn exit_code(self, job_exit_code: Option<i32>) -> i32 {
        match self {
            Self::Exited => job_exit_code.unwrap_or(70),
            Self::Timeout => 124,
            Self::Policy => 125,
            Self::Cancelled => 130,
            Self::MemoryExceeded | Self::OutputLimit => 137,
            Self::Infrastructure => 70,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(path: &str) -> JobSpec {
        let file = JobFile { path: path.to_owned(), content: vec![0, 255], executable: false };
        JobSpec::new(Some("scipy".parse().unwrap()), Program::Script { file })
    }

    #[test]
    fn a_spec_survives_json_with_any_bytes() {
        let spec = script("app.py");
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<JobSpec>(&json).unwrap(), spec);
        assert_eq!(spec.program.filename(), "app.py");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let json = r#"{"image": "scipy", "program": {"kind": "command", "argv": []}, "cpu": 1}"#;
        assert!(serde_json::from_str::<JobSpec>(json).unwrap_err().to_string().contains("cpu"));
    }

    #[test]
    fn paths_out_of_the_folder_are_refused() {
        for path in ["", ".", "..", "/etc/passwd", "a/b", "a\0", "a\nb"] {
            assert!(script(path).check().is_err(), "{path:?}");
        }
        let folder = |path: &str| {
            let file = JobFile { path: path.to_owned(), content: vec![], executable: true };
            let program = Program::Folder { files: vec![file], entry: path.to_owned() };
            JobSpec { program, ..script("x") }
        };
        assert_eq!(folder("a/b/main.py").check(), Ok(()));
        for path in ["../a", "a/../b", "/a", "a//b", "a/", "./a"] {
            assert!(folder(path).check().is_err(), "{path:?}");
        }
    }

    #[test]
    fn datasets_have_names_of_their_own_or_stand_alone() {
        let with = |datasets: &[(Option<&str>, DatasetKind)]| {
            let datasets = datasets.iter().map(|&(name, kind)| Dataset {
                name: name.map(str::to_owned),
                kind,
                dataset: "d".parse().unwrap(),
            });
            JobSpec { datasets: datasets.collect(), ..script("x") }.check()
        };
        use DatasetKind::{File, Folder};
        for good in [
            &[(None, Folder)][..],
            &[(Some("a.csv"), File)],
            &[(Some("a"), File), (Some("b"), Folder)],
        ] {
            assert_eq!(with(good), Ok(()), "{good:?}");
        }
        for bad in [
            &[(None, File)][..],
            &[(None, Folder), (Some("b"), File)],
            &[(Some("a"), File), (Some("a"), Folder)],
            &[(Some(".."), File)],
            &[(Some("a/b"), File)],
            &[(Some("a\nb"), File)],
        ] {
            assert_eq!(with(bad).unwrap_err().field, "datasets", "{bad:?}");
        }
        assert!(with(&[(Some("a"), File); DATASETS_MAX + 1]).is_err());
    }

    #[test]
    fn an_output_is_granted_within_the_maxima() {
        let maxima = OutputLimits { bytes: 100 << 20, files: 10, file_bytes: 50 << 20 };
        let granted = |request| OutputLimits::grant(&request, &maxima);
        let nothing = OutputRequest::default();
        let expected = OutputLimits { bytes: 64 << 20, files: 10, file_bytes: 50 << 20 };
        assert_eq!(granted(nothing), Ok(expected));
        let small = granted(OutputRequest { bytes: Some(4096), ..nothing }).unwrap();
        assert_eq!(small.file_bytes, 4096, "no file is longer than all together");
        for (request, field) in [
            (OutputRequest { bytes: Some(101 << 20), ..nothing }, "output.bytes"),
            (OutputRequest { files: Some(0), ..nothing }, "output.files"),
            (OutputRequest { file_bytes: Some(51 << 20), ..nothing }, "output.file_bytes"),
        ] {
            assert_eq!(granted(request).unwrap_err().field, field);
        }
    }

    #[test]
    fn limits_are_granted_within_the_maxima_and_refused_beyond() {
        let maxima = Limits::maxima(2);
        let nothing = LimitsRequest::default();
        assert_eq!(Limits::grant(&nothing, &Limits::DIRECT, &maxima), Ok(Limits::DIRECT));
        let asked = LimitsRequest { cpus_milli: Some(2001), ..nothing };
        let error = Limits::grant(&asked, &Limits::DIRECT, &maxima).unwrap_err();
        assert_eq!(
            error.to_string(),
            "limit cpus_milli = 2001 is outside what this worker grants (10 to 2000)"
        );
        let small = Limits { memory_bytes: 100 << 20, ..maxima };
        let granted = Limits::grant(&nothing, &Limits::DIRECT, &small).unwrap();
        assert_eq!(granted.memory_bytes, 100 << 20);
    }

    #[test]
    fn ended_jobs_stay_ended() {
        use JobState::{Approved, Cancelled, Completed, Failed, Pending, Rejected, Running};
        let all = [Pending, Approved, Running, Completed, Failed, Rejected, Cancelled];
        for state in all {
            for next in all {
                let allowed = state.may_become(next);
                assert!(!(state.is_final() && allowed), "{state:?} → {next:?}");
            }
        }
        assert!(Pending.may_become(Approved) && Approved.may_become(Running));
        assert!(Pending.may_become(Failed), "its packages can't be installed");
        assert!(Running.may_become(Completed) && !Pending.may_become(Running));
    }

    #[test]
    fn causes_read_back() {
        for name in [
            "exited",
            "timeout",
            "memory_exceeded",
            "output_limit",
            "cancelled",
            "policy",
            "infrastructure",
        ] {
            assert_eq!(Cause::from_name(name).unwrap().as_str(), name);
        }
    }
}
