//! Runs jobs: each in a fresh container, on an image's mount, strictly isolated.
//!
//! `bundle` decides what runc is told (with `user`, `program`, `skeleton`, `seccomp`, `ids`; all
//! pure); `make` carries it out: `stage` mounts the rootfs, on an `overlay` that an earlier job
//! left where there is one, `creator` has the container created, by the `runc` command or by
//! [`sandbox`]. [`Runner`] has it started, `supervise`
//! watches it and moves its bytes, `cleanup` removes what was made. The `pool` has containers made
//! before their jobs come. Who runs when is the queue's business.

pub mod archive;
pub mod output;

mod bundle;
mod data;
mod init;
mod user;
mod program;
mod handler;
mod skeleton;
mod seccomp;
mod ids;
mod kernel;
mod overlay;
mod stage;
mod cgroup;
mod network;
mod container;
mod runc;
pub mod sandbox;
mod creator;
mod supervise;
mod usage;
mod cleanup;
mod make;
mod pool;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use rustix::fs::Mode;
use sway_core::api::jobs::{OutputStream, TraceUse, Usage};
use sway_core::handler::Answer;
use sway_core::job::{Cause, JobSpec, Limits, OutputLimits, Program};
use sway_core::manifest::Manifest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::archive::Packed;
use self::cgroup::{Hierarchies, OwnGroup};
use self::container::Ended;
use self::creator::CreateError;
use self::make::{Created, Maker, Plan, Progress, hostname};
use self::output::OutputLog;
use self::pool::{Pool, Taken};
use self::supervise::{Start, Watch};
use crate::account::{Accounts, CacheFigures, RunAccount};
use crate::id_map::IdMaps;

pub use self::creator::Sandbox;
pub use self::data::MountedDataset;
pub use self::ids::Owners;
pub use self::init::find_init;
pub use self::overlay::Overlays;
pub use self::pool::{PoolBounds, PoolUse};
pub use self::usage::Used;

/// Above the mount points of all workers' containers.
const ROOTFS_DIR: &str = "/run/sway";

/// An image, mounted.
pub trait Rootfs: Send + Sync + std::fmt::Debug {
    /// Its tree.
    fn manifest(&self) -> &Arc<Manifest>;
    /// The owners of its files.
    fn owners(&self) -> &Owners;
    /// Where it is mounted for a job with these ids. Stays as long as this value.
    fn lower(&self, ids: &IdMaps) -> BoxFuture<'_, io::Result<Lower>>;
    /// Overlays on it that wait for a job.
    fn overlays(&self) -> &Overlays;
    /// A file's bytes, at most `max`. Not through the kernel: no job waits for it.
    fn read_file(&self, path: &str, max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>>;
}

/// An image's mount, as the lower layer of a job's rootfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lower {
    /// With the image's own owners: an id-mapped bind of it has the job's.
    ToMap(PathBuf),
    /// With the job's owners, for kernels that can't map those of such a mount.
    Mapped(PathBuf),
}

/// How jobs are run on this machine.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Directories of runs; the runner owns all that is in it.
    pub dir: PathBuf,
    /// Names this worker's cgroups and mount points: unique on the machine, the same after a
    /// restart. Letters, digits and `-`.
    pub worker_id: String,
    /// What creates containers.
    pub sandbox: Sandbox,
    /// The `runc` program.
    pub runc: PathBuf,
    /// Where runc keeps its state; the runner owns all that is in it.
    pub runc_root: PathBuf,
    /// Whether an image's user root stays root of its container (still without capabilities).
    pub allow_container_root: bool,
    /// A static init for every container's first process; without one that is the job's program.
    pub init: Option<PathBuf>,
    /// How many containers may wait for their jobs; none where all are made when the job comes.
    pub pool: Option<PoolBounds>,
}

/// One run to carry out.
#[derive(Debug)]
pub struct RunRequest {
    /// Its job; what the job sees as its host name.
    pub job_id: String,
    /// What to run.
    pub spec: JobSpec,
    /// What it may use.
    pub limits: Limits,
    /// The image. Kept until the run has ended.
    pub mount: Arc<dyn Rootfs>,
    /// Its datasets, in the order of the spec's.
    pub datasets: Vec<MountedDataset>,
    /// Whether it may have a container of the pool.
    pub pool: Option<PoolUse>,
    /// Told when all is ready; dropped where it never will be.
    pub ready: oneshot::Sender<()>,
    /// What the run waits for when all is ready: its program does not start before. Where the
    /// sender is dropped, it never starts, and what was made ready is thrown away.
    pub go: oneshot::Receiver<Go>,
    /// Ends the run.
    pub cancel: CancellationToken,
    /// To be told when the job's process has started.
    pub started: oneshot::Sender<()>,
}

/// Leave to start a run's program, and what is its own from then on.
#[derive(Debug)]
pub struct Go {
    /// Its number on record.
    pub run_id: i64,
    /// Standard input, ended by the channel's end; an empty one where absent.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// Where output goes; ended with the run.
    pub output: Arc<OutputLog>,
    /// Where to tell what it uses, about twice a second and at its end.
    pub usage: watch::Sender<Option<Usage>>,
    /// Where to pack what it leaves in `/output`, where it has that.
    pub archive: PathBuf,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// Why.
    pub cause: Cause,
    /// The process's exit code, 128 + signal; 127 and 126 where the image has no such program.
    pub exit_code: Option<i32>,
    /// What to tell the user beside the cause.
    pub message: Option<String>,
    /// When the process was started; none where it never was, so that the job may run again.
    pub started_at: Option<SystemTime>,
    /// From then to its end.
    pub duration: Duration,
    /// To make the rootfs: owners, overlay, the job's files.
    pub mount: Duration,
    /// To create the container.
    pub start: Duration,
    /// From the process's start to its first output.
    pub first_output: Option<Duration>,
    /// What it used.
    pub used: Used,
    /// What the run read.
    pub figures: CacheFigures,
    /// Its account; none where it never got one.
    pub account: Option<Arc<RunAccount>>,
    /// How its start used a trace.
    pub trace: TraceUse,
    /// Bytes of the trace that were brought for it.
    pub trace_pushed_bytes: u64,
    /// What a handler answered.
    pub answer: Option<Answer>,
    /// Whether stdout was cut at its limit.
    pub stdout_truncated: bool,
    /// Whether stderr was.
    pub stderr_truncated: bool,
    /// What it left in `/output`, once that is packed.
    pub packed: Option<Packed>,
    /// Whether its container was made before it came.
    pub pooled: bool,
}

/// A run that did not get to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Not with this image or on this worker.
    #[error("{0}")]
    Refused(String),
    /// The image lacks the program.
    #[error("{0}")]
    NotFound(String),
    /// The program is none.
    #[error("{0}")]
    NotExecutable(String),
    /// Somebody stopped it before it started.
    #[error("cancelled before it started")]
    Cancelled,
    /// It was made ready and never asked for.
    #[error("not wanted any more")]
    Unwanted,
    /// The worker could not prepare the container.
    #[error("cannot {what}: {source}")]
    Stage {
        /// The step.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The container could not be created or started.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The way out could not be made.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
}

impl RunError {
    /// What the run log says of it.
    fn verdict(&self) -> (Cause, Option<i32>) {
        match self {
            Self::Refused(_) => (Cause::Policy, None),
            // As shells have it.
            Self::NotFound(_) => (Cause::Exited, Some(127)),
            Self::NotExecutable(_) => (Cause::Exited, Some(126)),
            Self::Cancelled | Self::Unwanted => (Cause::Cancelled, None),
            Self::Stage { .. } | Self::Create(_) | Self::Network(_) => {
                (Cause::Infrastructure, None)
            }
        }
    }
}

/// A runner that can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct RunnerError {
    what: &'static str,
    source: io::Error,
}

/// Carries runs out. Any number at once, up to the ranges of ids.
#[derive(Debug)]
pub struct Runner {
    maker: Arc<Maker>,
    pool: Option<Arc<Pool>>,
    /// Where this process is; none where [`Runner::expect_run`] is of no use.
    own_group: Option<Arc<OwnGroup>>,
    /// Whether that is at work.
    expecting: Arc<AtomicBool>,
}

/// What is known of a run so far.
#[derive(Debug, Default)]
struct Report {
    started_at: Option<SystemTime>,
    duration: Duration,
    first_output: Option<Duration>,
    used: Used,
    answer: Option<Answer>,
    /// What went wrong beside the run's end.
    notes: Vec<String>,
}

impl Runner {
    /// Makes the directories, and this process the parent of its containers' processes.
    pub fn new(config: RunnerConfig, accounts: Arc<Accounts>) -> Result<Self, RunnerError> {
        let step = |what| move |source| RunnerError { what, source };
        let hierarchies = Hierarchies::detect().map_err(step("read this machine's cgroups"))?;
        if hierarchies.unified && config.sandbox != Sandbox::Runc {
            let source = io::Error::other("this machine has cgroup v2 alone: use --sandbox runc");
            return Err(RunnerError { what: "create containers without runc", source });
        }
        for directory in [&config.dir, &config.runc_root] {
            crate::private_dir(directory).map_err(step("make the runner's directories"))?;
        }
        let rootfs_dir = Path::new(ROOTFS_DIR).join(&config.worker_id);
        fs_err::create_dir_all(&rootfs_dir).map_err(step("make the runner's directories"))?;
        // Containers' root users walk along here, whatever this process' umask is.
        for directory in [Path::new(ROOTFS_DIR), &rootfs_dir] {
            rustix::fs::chmod(directory, Mode::from_raw_mode(0o711))
                .map_err(|error| step("open the mount points' directory")(error.into()))?;
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| RunnerError { what: "become a subreaper", source: error.into() })?;
        let own_group = OwnGroup::find().map_err(step("find this process' cgroup"))?.map(Arc::new);
        let bounds = config.pool;
        let maker = Arc::new(Maker::new(config, accounts, hierarchies));
        let pool = bounds.map(|bounds| Pool::open(bounds, Arc::clone(&maker)));
        Ok(Self { maker, pool, own_group, expecting: Arc::default() })
    }

    /// Removes what a killed worker left: processes, cgroups, mounts, directories. Call it before
    /// the first run.
    pub async fn recover(&self) -> Result<(), RunnerError> {
        let step = |what| move |source| RunnerError { what, source };
        let maker = &self.maker;
        let parent = maker.worker_cgroup();
        for name in maker.hierarchies.children(&parent) {
            let cgroup = maker.hierarchies.group(&format!("{parent}/{name}"));
            if !cgroup.kill().await {
                tracing::error!(cgroup = name, "processes of an earlier run survive");
            }
            cgroup.remove().map_err(step("remove an earlier run's cgroup"))?;
            tracing::info!(cgroup = name, "removed an earlier run's cgroup");
        }
        let directories = [maker.config.dir.clone(), maker.rootfs_dir()];
        let runc_root = maker.config.runc_root.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for directory in &directories {
                cleanup::unmount_below(directory)?;
            }
            for directory in directories.iter().chain([&runc_root]) {
                for entry in fs_err::read_dir(directory).into_iter().flatten() {
                    fs_err::remove_dir_all(entry?.path())?;
                }
            }
            Ok(())
        });
        let removed = removed.await.map_err(io::Error::other).and_then(|removed| removed);
        removed.map_err(step("remove an earlier run's mounts and directories"))?;
        if let Err(error) = maker.hierarchies.hold_quotas(&format!("{parent}/quota")) {
            tracing::debug!(%error, "each run switches CPU quotas on and off");
        }
        Ok(())
    }

    /// Removes what is there for all runs. Call it after the last one.
    pub fn shutdown(&self) {
        let maker = &self.maker;
        let _ = fs_err::remove_dir(maker.rootfs_dir());
        if let Err(error) = maker.hierarchies.group(&maker.worker_cgroup()).remove() {
            tracing::warn!(error = %error, "the worker's cgroup can't be removed");
        }
        // Other workers of this machine may still have theirs.
        maker.hierarchies.group("/sway").remove_unless_used();
        let _ = fs_err::remove_dir(ROOTFS_DIR);
    }

    /// A run is about to come: what the kernel needs time for begins now, unless the run will most
    /// likely find a container that is made. Waits for nothing.
    pub fn expect_run(&self) {
        let Some(own_group) = self.own_group.clone() else { return };
        let has_waiting = self.pool.as_ref().is_some_and(|pool| pool.has_waiting());
        if has_waiting || self.expecting.swap(true, Ordering::Relaxed) {
            return;
        }
        let expecting = Arc::clone(&self.expecting);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = own_group.expect_moves() {
                tracing::debug!(%error, "moves between cgroups come unexpected");
            }
            expecting.store(false, Ordering::Relaxed);
        });
    }

    /// Waits until nothing is left of runs that have ended.
    pub async fn settled(&self) {
        self.maker.settled().await;
    }

    /// Removes the containers that wait, and makes no more. Call it after the last run.
    pub async fn drain(&self) {
        if let Some(pool) = &self.pool {
            pool.close().await;
        }
        self.maker.settled().await;
    }

    /// Runs a job to its end. When this returns, its processes are gone, and what it used can
    /// serve others; its cgroup and directories go soon after ([`Runner::settled`]). It must not
    /// be dropped before (cancel it instead).
    pub async fn run(&self, request: RunRequest) -> RunOutcome {
        let RunRequest { job_id, spec, limits, mount, datasets, pool, ready, go, cancel, started } =
            request;
        let _running = self.pool.as_ref().map(Pool::job);
        let fail_on_limit = spec.fail_on_output_limit;
        // A handler reads its event, and nothing else.
        let input = match &spec.program {
            Program::Handler(handler) => Some(Bytes::from(handler.input.clone())),
            Program::Script { .. } | Program::Folder { .. } | Program::Command { .. } => None,
        };
        // The init is in the job's cgroup, and not one of the processes that the job may have.
        let init = u32::from(self.maker.config.init.is_some());
        let limits = Limits { pids: limits.pids.saturating_add(init), ..limits };
        let hostname = hostname(&job_id);
        let name = format!("run-{hostname}");
        let plan = Arc::new(Plan { hostname, spec, limits, mount, datasets, waits: None });
        let mount = Arc::clone(&plan.mount);
        // Waiting for the fileserver must not use the whole of the time that a job has.
        let read_deadline = Duration::from_millis(limits.timeout_ms) / 3;
        let mut report = Report::default();
        let mut progress = Progress::default();
        let pool = pool.and_then(|used| Some((self.pool.as_ref()?, used)));
        let (mut taken, mut asked) = (None, None);
        if let Some((pool, used)) = &pool {
            (taken, asked) = pool.take(&plan, used).await;
        }
        let pooled = taken.is_some();
        let (run, range, created, start) = match taken {
            Some(Taken { run, range, created, overlay, message, took }) => {
                run.account.bound_reads(read_deadline);
                progress = Progress { overlay: Some(overlay), mount: took, ..progress };
                (run, range, Ok(created), Start::Message(message))
            }
            None => {
                let run = self.maker.begin(&name);
                run.account.bound_reads(read_deadline);
                run.account.of_image(mount.manifest());
                let range = Arc::new(self.range().await);
                let creating = self.maker.create(plan, &cancel, &run, &range, &mut progress);
                let created = creating.await;
                (run, range, created, Start::Program)
            }
        };
        match created {
            // Whoever gives leave may have gone.
            Ok(_) => drop(ready.send(())),
            Err(_) => drop(ready),
        }
        let go = go.await.ok();
        let output = go.as_ref().map(|go| Arc::clone(&go.output));
        let run_id = go.as_ref().map(|go| go.run_id);
        let archive = go.as_ref().map(|go| go.archive.clone());
        let result = match (created, go) {
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(RunError::Unwanted),
            (Ok(_), Some(_)) if cancel.is_cancelled() => Err(RunError::Cancelled),
            (Ok(Created { container, pipes, egress }), Some(go)) => {
                let watch = Watch {
                    creator: &self.maker.creator,
                    run: &run,
                    container: &container,
                    limits: &limits,
                    cancel: &cancel,
                    fail_on_limit,
                    is_handler: input.is_some(),
                    output: go.output,
                    usage: go.usage,
                };
                let stdin = input.map(whole).or(go.stdin);
                let end = watch.to_the_end(start, pipes, stdin, started, &mut report).await;
                if let Some(egress) = egress {
                    egress.close().await;
                }
                Ok(end)
            }
        };
        let oom_kills = run.cgroup.oom_kills();
        // Once its first process is reaped, the kernel has killed all others of the container.
        let ended = matches!(result, Ok((_, Some(_)))) && run.cgroup.is_deserted();
        let gone = ended || run.cgroup.kill().await;
        if !gone {
            tracing::error!(
                run.id = run_id,
                run.name = run.container,
                "processes of the run survive"
            );
        }
        self.maker.give_back(&run, mount, progress.overlay.take(), range, gone).await;
        // Not before: what a first run reads would be in the kernel's cache by then.
        if let (Some((pool, _)), Some(asked), true) = (&pool, asked, report.started_at.is_some()) {
            pool.want(asked);
        }
        let kept = match (limits.output, archive) {
            (Some(limits), Some(archive)) if progress.is_staged && gone => {
                keep_output(&run.stage.home, limits, archive, &mut report).await
            }
            _ => Kept::default(),
        };
        self.maker.remove(&run).await;
        let (cause, exit_code) = match &result {
            Ok((Some(cause), ended)) => (*cause, ended.map(Ended::exit_code)),
            Ok((None, None)) => (Cause::Infrastructure, None),
            Ok((None, Some(ended))) => {
                let exit_code = ended.exit_code();
                let cause = match exit_code {
                    0 => Cause::Exited,
                    _ if oom_kills > 0 => Cause::MemoryExceeded,
                    _ if kept.is_at_a_limit => Cause::OutputLimit,
                    _ => Cause::Exited,
                };
                (cause, Some(exit_code))
            }
            Err(error) => error.verdict(),
        };
        if oom_kills > 0 {
            report.used.memory_peak_bytes = Some(limits.memory_bytes);
            if cause == Cause::Exited {
                report.notes.push("the kernel killed a process that had no memory left".to_owned());
            }
        }
        let mut messages = run.account.messages();
        messages.extend(result.err().map(|error| error.to_string()));
        messages.append(&mut report.notes);
        if let Some(output) = &output {
            for message in &messages {
                if let Err(error) =
                    output.append_note(OutputStream::Stderr, &format!("sway: {message}\n"))
                {
                    tracing::error!(run.id = run_id, error = %error, "a note is not on record");
                }
            }
            output.end();
        }
        let is_cut = |stream| output.as_ref().is_some_and(|output| output.is_cut(stream));
        RunOutcome {
            cause,
            exit_code,
            message: (!messages.is_empty()).then(|| messages.join("; ")),
            started_at: report.started_at,
            duration: report.duration,
            mount: progress.mount,
            start: progress.start,
            first_output: report.first_output,
            used: report.used,
            figures: run.account.figures(),
            account: Some(Arc::clone(&run.account)),
            trace: TraceUse::None,
            trace_pushed_bytes: 0,
            answer: report.answer,
            stdout_truncated: is_cut(OutputStream::Stdout),
            stderr_truncated: is_cut(OutputStream::Stderr),
            packed: kept.packed,
            pooled,
        }
    }

    /// A range of ids. Where none is free, those of containers that wait are.
    async fn range(&self) -> ids::IdRange {
        if let Some(range) = self.maker.ids.try_take(0) {
            return range;
        }
        if let Some(pool) = &self.pool {
            pool.empty().await;
        }
        self.maker.ids.take().await
    }
}

/// Standard input that is there already.
fn whole(input: Bytes) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    sender.try_send(input).expect("the channel is empty and has a receiver");
    receiver
}

/// What became of a run's `/output`.
#[derive(Debug, Default)]
struct Kept {
    packed: Option<Packed>,
    is_at_a_limit: bool,
}

/// Packs the `/output` of a run whose processes are gone, and notes which limits it met.
async fn keep_output(
    home: &Path,
    limits: OutputLimits,
    archive: PathBuf,
    report: &mut Report,
) -> Kept {
    let at = data::output_of(home);
    let packing = tokio::task::spawn_blocking(move || {
        let used_up = data::used_up(&at)?;
        Ok((used_up, archive::pack(&at, &limits, &archive)?))
    });
    let packing = packing.await.map_err(io::Error::other).and_then(|packed| packed);
    let ((bytes, files), packed) = match packing {
        Ok(packed) => packed,
        Err(error) => {
            report.notes.push(format!("what is in /output could not be kept: {error}"));
            return Kept::default();
        }
    };
    // By default the length of one file is bounded by that of all.
    let longest = packed.has_longest && limits.file_bytes < limits.bytes;
    for (is_met, what) in [
        (bytes, format!("is full: its limit is {} bytes", limits.bytes)),
        (files, format!("has as many files as it may: {}", limits.files)),
        (longest, format!("has a file of the greatest length: {} bytes", limits.file_bytes)),
        (packed.left_out > 0, format!("held {} entries that are not kept", packed.left_out)),
    ] {
        if is_met {
            report.notes.push(format!("/output {what}"));
        }
    }
    Kept { packed: Some(packed), is_at_a_limit: bytes || files || longest }
}
