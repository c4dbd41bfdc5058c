//! Runs jobs: each in a fresh container, on an image's mount, strictly isolated.
//!
//! `bundle` decides what runc is told (with `user`, `program`, `skeleton`, `seccomp`, `ids`; all
//! pure); [`Runner`] carries it out: `stage` mounts the rootfs, on an `overlay` that an earlier job
//! left where there is one, `runc` creates and starts the
//! container, `supervise` watches it and moves its bytes, `cleanup` removes what was made. Who
//! runs when is the queue's business.

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
mod runc;
mod supervise;
mod usage;
mod cleanup;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use rustix::fs::Mode;
use sway_core::api::jobs::{OutputStream, TraceUse, Usage};
use sway_core::handler::Answer;
use sway_core::job::{Cause, JobSpec, Limits, Network, OutputLimits, Program};
use sway_core::manifest::Manifest;
use sway_server::tasks::Tasks;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::archive::Packed;
use self::bundle::{Host, Request};
use self::cgroup::{Cgroup, Hierarchies};
use self::ids::{IdRange, IdRanges};
use self::output::OutputLog;
use self::overlay::Overlay;
use self::runc::{Container, Ended, Runc, RuncError};
use self::stage::Stage;
use self::supervise::{Pipes, Watch};
use self::user::{AccountFiles, User};
use crate::account::{Accounts, CacheFigures, RunAccount};
use crate::id_map::IdMaps;

pub use self::data::MountedDataset;
pub use self::init::find_init;
pub use self::overlay::Overlays;
pub use self::usage::Used;

/// Above the mount points of all workers' containers.
const ROOTFS_DIR: &str = "/run/sway";

/// Runs that may have told their outcome and not be removed yet; the end of a further one waits.
const REMOVED_AT_ONCE: usize = 8;

/// Numbers of this process' containers: no two of a job's have one name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Bytes of `/etc/passwd` that are read.
const ACCOUNT_FILE_LEN_MAX: usize = 1 << 20;

/// An image, mounted.
pub trait Rootfs: Send + Sync + std::fmt::Debug {
    /// Its tree.
    fn manifest(&self) -> &Arc<Manifest>;
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
    /// The program.
    pub runc: PathBuf,
    /// Where runc keeps its state; the runner owns all that is in it.
    pub runc_root: PathBuf,
    /// Whether an image's user root stays root of its container (still without capabilities).
    pub allow_container_root: bool,
    /// A static init for every container's first process; without one that is the job's program.
    pub init: Option<PathBuf>,
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
    /// runc could not.
    #[error(transparent)]
    Runc(#[from] RuncError),
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
            Self::Stage { .. } | Self::Runc(_) | Self::Network(_) => (Cause::Infrastructure, None),
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
    config: RunnerConfig,
    runc: Runc,
    accounts: Arc<Accounts>,
    hierarchies: Hierarchies,
    ids: Arc<IdRanges>,
    /// Whether [`Runner::expect_run`] is at work.
    expecting: Arc<AtomicBool>,
    /// Runs that have ended and are being removed.
    removing: Arc<Semaphore>,
    tasks: Tasks,
}

/// One run while it goes on: what all of its steps need.
struct Run {
    container: String,
    stage: Stage,
    cgroup_path: String,
    cgroup: Cgroup,
    account: Arc<RunAccount>,
}

/// A container whose program was not started.
struct Created {
    container: Container,
    pipes: Pipes,
    egress: Option<network::Egress>,
}

/// What is known of a run so far.
#[derive(Debug, Default)]
struct Report {
    started_at: Option<SystemTime>,
    duration: Duration,
    mount: Duration,
    start: Duration,
    first_output: Option<Duration>,
    used: Used,
    answer: Option<Answer>,
    /// What went wrong beside the run's end.
    notes: Vec<String>,
    /// What it runs on, if that may serve another one.
    overlay: Option<Overlay>,
    /// Whether it has come so far as to have its `/output`.
    is_staged: bool,
}

impl Runner {
    /// Makes the directories, and this process the parent of its containers' processes.
    pub fn new(config: RunnerConfig, accounts: Arc<Accounts>) -> Result<Self, RunnerError> {
        let step = |what| move |source| RunnerError { what, source };
        let hierarchies = Hierarchies::detect().map_err(step("read this machine's cgroups"))?;
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
        let runc = Runc::new(config.runc.clone(), config.runc_root.clone());
        let ids = IdRanges::new(&config.worker_id);
        Ok(Self {
            config,
            runc,
            accounts,
            hierarchies,
            ids,
            expecting: Arc::default(),
            removing: Arc::new(Semaphore::new(REMOVED_AT_ONCE)),
            tasks: Tasks::new(),
        })
    }

    /// Removes what a killed worker left: processes, cgroups, mounts, directories. Call it before
    /// the first run.
    pub async fn recover(&self) -> Result<(), RunnerError> {
        let step = |what| move |source| RunnerError { what, source };
        let parent = self.worker_cgroup();
        for name in self.hierarchies.children(&parent) {
            let cgroup = self.hierarchies.group(&format!("{parent}/{name}"));
            if !cgroup.kill().await {
                tracing::error!(cgroup = name, "processes of an earlier run survive");
            }
            cgroup.remove().map_err(step("remove an earlier run's cgroup"))?;
            tracing::info!(cgroup = name, "removed an earlier run's cgroup");
        }
        let directories = [self.config.dir.clone(), self.rootfs_dir()];
        let runc_root = self.config.runc_root.clone();
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
        if let Err(error) = self.hierarchies.hold_quotas(&format!("{parent}/quota")) {
            tracing::debug!(%error, "each run switches CPU quotas on and off");
        }
        Ok(())
    }

    /// Removes what is there for all runs. Call it after the last one.
    pub fn shutdown(&self) {
        let _ = fs_err::remove_dir(self.rootfs_dir());
        if let Err(error) = self.hierarchies.group(&self.worker_cgroup()).remove() {
            tracing::warn!(error = %error, "the worker's cgroup can't be removed");
        }
        // Other workers of this machine may still have theirs.
        self.hierarchies.group("/sway").remove_unless_used();
        let _ = fs_err::remove_dir(ROOTFS_DIR);
    }

    /// A run is about to come: what the kernel needs time for begins now. Waits for nothing.
    pub fn expect_run(&self) {
        if self.expecting.swap(true, Ordering::Relaxed) {
            return;
        }
        let expecting = Arc::clone(&self.expecting);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = cgroup::expect_moves() {
                tracing::debug!(%error, "moves between cgroups come unexpected");
            }
            expecting.store(false, Ordering::Relaxed);
        });
    }

    fn worker_cgroup(&self) -> String {
        format!("/sway/{}", self.config.worker_id)
    }

    fn rootfs_dir(&self) -> PathBuf {
        Path::new(ROOTFS_DIR).join(&self.config.worker_id)
    }

    /// Waits until nothing is left of runs that have ended.
    pub async fn settled(&self) {
        let all = u32::try_from(REMOVED_AT_ONCE).expect("a handful");
        let _all = self.removing.acquire_many(all).await;
    }

    /// Runs a job to its end. When this returns, its processes are gone, and what it used can
    /// serve others; its cgroup and directories go soon after ([`Runner::settled`]). It must not
    /// be dropped before (cancel it instead).
    pub async fn run(&self, request: RunRequest) -> RunOutcome {
        let RunRequest { job_id, spec, limits, mount, datasets, go, cancel, started } = request;
        let container =
            format!("run-{}-{}", hostname(&job_id), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup_path = format!("{}/{container}", self.worker_cgroup());
        let place = self.rootfs_dir().join(&container);
        let run = Run {
            stage: Stage {
                home: self.config.dir.join(&container),
                rootfs: place.join("rootfs"),
                place,
            },
            container,
            cgroup: self.hierarchies.group(&cgroup_path),
            account: self.accounts.open(&cgroup_path),
            cgroup_path,
        };
        // Waiting for the fileserver must not use the whole of the time that a job has.
        run.account.bound_reads(Duration::from_millis(limits.timeout_ms) / 3);
        run.account.of_image(mount.manifest());
        let mut report = Report::default();
        let range = Arc::new(self.ids.take().await);
        let fail_on_limit = spec.fail_on_output_limit;
        // A handler reads its event, and nothing else.
        let input = match &spec.program {
            Program::Handler(handler) => Some(Bytes::from(handler.input.clone())),
            Program::Script { .. } | Program::Folder { .. } | Program::Command { .. } => None,
        };
        // The init is in the job's cgroup, and not one of the processes that the job may have.
        let init = u32::from(self.config.init.is_some());
        let limits = Limits { pids: limits.pids.saturating_add(init), ..limits };
        let creating = self.create(
            job_id,
            spec,
            limits,
            &mount,
            &datasets,
            &cancel,
            &run,
            &range,
            &mut report,
        );
        let created = creating.await;
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
                    runc: &self.runc,
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
                let end = watch.to_the_end(pipes, stdin, started, &mut report).await;
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
        if let Some(mut overlay) = report.overlay.take() {
            let _ = tokio::task::spawn_blocking(move || {
                if gone && overlay.reset() {
                    mount.overlays().give_back(overlay);
                }
            })
            .await;
        }
        drop(range);
        self.accounts.close(&run.cgroup_path);
        let kept = match (limits.output, archive) {
            (Some(limits), Some(archive)) if report.is_staged && gone => {
                keep_output(&run.stage.home, limits, archive, &mut report).await
            }
            _ => Kept::default(),
        };
        self.remove(&run).await;
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
            mount: report.mount,
            start: report.start,
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
        }
    }

    /// Has what is left of the run removed, while its end is told.
    async fn remove(&self, run: &Run) {
        let place = Arc::clone(&self.removing).acquire_owned().await;
        let runc = self.runc.clone();
        let Run { container, stage, cgroup, .. } = run;
        let (container, stage, cgroup) = (container.clone(), stage.clone(), cgroup.clone());
        self.tasks.spawn("remove run", async move {
            for failure in cleanup::remove_run(&runc, &container, &cgroup, &stage).await {
                tracing::error!(run.name = container, error = failure, "a run is not cleaned up");
            }
            drop(place);
        });
    }

    /// From the request to a container whose program only has to be started.
    #[expect(clippy::too_many_arguments, reason = "all that a run is made of")]
    async fn create(
        &self,
        job_id: String,
        spec: JobSpec,
        limits: Limits,
        mount: &Arc<dyn Rootfs>,
        datasets: &[MountedDataset],
        cancel: &CancellationToken,
        run: &Run,
        range: &Arc<IdRange>,
        report: &mut Report,
    ) -> Result<Created, RunError> {
        let cancelled = || RunError::Cancelled;
        let init = self.config.init.clone();
        let begun = Instant::now();
        let user =
            cancel.run_until_cancelled(self.user(mount.as_ref())).await.ok_or_else(cancelled)??;
        let mut gids = vec![user.gid];
        gids.extend(&user.additional_gids);
        let ids = ids::maps(range.base(), mount.manifest(), user.uid, &gids)?;
        let host_uid = ids.uids.outside(user.uid).unwrap_or_else(|| range.base());
        let step = |what: &'static str| move |source| RunError::Stage { what, source };
        // Waits for no fileserver.
        let lower = mount.lower(&ids).await;
        let lower = lower.map_err(step("mount the image with the job's owners"))?;
        let data = data::Plan {
            datasets: data::planned(&spec, datasets, &ids).await?,
            output: limits.output.map(|limits| data::PlannedOutput {
                limits,
                uid: host_uid,
                gid: ids.gids.outside(user.gid).unwrap_or_else(|| range.base()),
            }),
        };
        let network = spec.network;
        let has_stdin = spec.stdin || matches!(spec.program, Program::Handler(_));
        let staging = {
            let range = Arc::clone(range);
            let (stage, cgroup) = (run.stage.clone(), run.cgroup_path.clone());
            let host = Host {
                unified: self.hierarchies.unified,
                swap_limit: self.hierarchies.swap_limit(),
            };
            let mount = Arc::clone(mount);
            tokio::task::spawn_blocking(move || {
                let manifest = Arc::clone(mount.manifest());
                let hostname = hostname(&job_id);
                let request = Request {
                    spec: &spec,
                    limits: &limits,
                    manifest: &manifest,
                    user: &user,
                    ids: &ids,
                    cgroup: &cgroup,
                    hostname: &hostname,
                    name_server: bundle::name_server(spec.network),
                    host,
                    init: init.as_deref(),
                };
                let mut bundle = bundle::plan(&request)?;
                stage.make(&mut bundle, mount.overlays(), &lower, &data, &ids, &range)
            })
        };
        report.overlay = staging.await.map_err(|error| RunError::Stage {
            what: "prepare the container",
            source: io::Error::other(error),
        })??;
        report.is_staged = true;
        report.mount = begun.elapsed();

        let begun = Instant::now();
        let (stdio, pipes) =
            Pipes::open(has_stdin, host_uid).map_err(step("make the container's pipes"))?;
        let container = cancel
            .run_until_cancelled(self.runc.create(&run.container, &run.stage.home, stdio))
            .await
            .ok_or_else(cancelled)??;
        let egress = match network {
            Network::None => None,
            Network::Isolated => {
                let opening = network::Egress::open(container.pid());
                Some(cancel.run_until_cancelled(opening).await.ok_or_else(cancelled)??)
            }
        };
        report.start = begun.elapsed();
        Ok(Created { container, pipes, egress })
    }

    async fn user(&self, mount: &dyn Rootfs) -> Result<User, RunError> {
        let config = mount.manifest().config();
        let mut files = AccountFiles::default();
        if user::needs_account_files(config) {
            files.passwd = account_file(mount, "/etc/passwd").await?;
            files.group = account_file(mount, "/etc/group").await?;
        }
        user::resolve(config, &files, self.config.allow_container_root)
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

/// A small text of the image; empty where it lacks it.
async fn account_file(mount: &dyn Rootfs, path: &str) -> Result<String, RunError> {
    if mount.manifest().resolve_following(path.as_bytes()).is_none() {
        return Ok(String::new());
    }
    let bytes = mount.read_file(path, ACCOUNT_FILE_LEN_MAX).await;
    let bytes =
        bytes.map_err(|source| RunError::Stage { what: "read the image's users", source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A job's id as a host name: its letters, digits and `-`, at most 63 of them.
fn hostname(job_id: &str) -> String {
    let sound = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = job_id.chars().filter(sound).take(63).collect();
    if name.is_empty() { "job".to_owned() } else { name }
}
