//! The `runc` command: containers are created, started and deleted through it and nothing else.
//!
//! A container's first process becomes the worker's own child when `runc create` exits, because
//! the worker is a child subreaper; no runc process stays while a job runs.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;

use super::container::{Container, ContainerStdio};
use super::creator::Haste;
use crate::priority::{AHEAD, at_nice};

/// What one runc command may take; 20 ms is usual, a machine out of memory needs more.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// Where runc finds programs, and we find it.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What Go's runtime is told: runc lives for some milliseconds, in which threads for more cores take
/// more than they give. The container gets none of it.
const GO_RUNTIME: (&str, &str) = ("GOMAXPROCS", "1");

/// Bytes of runc's own log that are read: its last line tells what went wrong.
const LOG_LEN_MAX: u64 = 64 << 10;

/// A runc command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuncError {
    /// It can't be started at all.
    #[error("cannot start {}", .runc.display())]
    Start {
        /// The program.
        runc: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("runc {command} failed: {message}")]
    Failed {
        /// Its subcommand.
        command: &'static str,
        /// The last error of its log.
        message: String,
    },
    /// It took too long.
    #[error("runc {command} did not end within {} s", COMMAND_DEADLINE.as_secs())]
    Timeout {
        /// Its subcommand.
        command: &'static str,
    },
    /// The container's process can't be watched.
    #[error("cannot watch the container's process")]
    Watch(#[source] io::Error),
}

/// Where runc is, and where it keeps its state.
#[derive(Clone, Debug)]
pub(crate) struct Runc {
    program: PathBuf,
    /// `program`, or a copy of it in memory.
    executable: PathBuf,
    /// Keeps the copy.
    _copy: Option<Arc<OwnedFd>>,
    /// `--root`.
    pub(crate) root: PathBuf,
}

impl Runc {
    /// The runc at `program`, a path or a name, with its state in `root`. It is copied into
    /// memory: no start of a job waits for a disk, and runc, which protects itself from containers
    /// by running from a sealed copy, finds one and makes none of its own.
    pub(crate) fn new(program: PathBuf, root: PathBuf) -> Self {
        match sealed_copy(&program) {
            Ok(copy) => {
                let executable = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
                Self { program, executable, _copy: Some(Arc::new(copy)), root }
            }
            Err(error) => {
                tracing::debug!(%error, runc = %program.display(), "runc is read from its file");
                Self { executable: program.clone(), program, _copy: None, root }
            }
        }
    }

    /// Creates the container `id` from the bundle directory: everything is set up, its program is
    /// not started.
    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        stdio: ContainerStdio,
        haste: Haste,
    ) -> Result<Container, RuncError> {
        let pid_file = bundle.join("pid");
        let log = bundle.join("runc.log");
        let mut command = self.command();
        command.arg("--log").arg(&log).args(["--log-format", "json", "create", "--bundle"]);
        command.arg(bundle).arg("--pid-file").arg(&pid_file).arg(id);
        command.stdin(stdio.stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(stdio.stdout).stderr(stdio.stderr);
        self.run(command, "create", Some(&log), haste).await?;
        watch(&pid_file).map_err(RuncError::Watch)
    }

    /// Starts the program of a created container.
    ///
    /// Its first process waits for a reader of a pipe in its state directory: that is all that
    /// `runc start` is, and without a process of its own it takes no time.
    pub(crate) async fn start(&self, id: &str, bundle: &Path) -> Result<(), RuncError> {
        let mut byte = [0; 1];
        let opened = pipe::OpenOptions::new().open_receiver(self.root.join(id).join("exec.fifo"));
        if let Ok(mut fifo) = opened
            && let Ok(1) = fifo.read(&mut byte).await
        {
            return Ok(());
        }
        self.start_by_command(id, bundle).await
    }

    /// The same for a runc that keeps its state in another way.
    async fn start_by_command(&self, id: &str, bundle: &Path) -> Result<(), RuncError> {
        let log = bundle.join("runc-start.log");
        let mut command = self.command();
        command.arg("--log").arg(&log).args(["--log-format", "json", "start", id]);
        self.run(quiet(command), "start", Some(&log), Haste::Now).await
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        // Nothing of the worker's environment, such as its token, is any of runc's business.
        command.arg0("runc").env_clear().env("PATH", PATH);
        command.env(GO_RUNTIME.0, GO_RUNTIME.1);
        command.arg("--root").arg(&self.root).kill_on_drop(true);
        command
    }

    async fn run(
        &self,
        command: Command,
        name: &'static str,
        log: Option<&Path>,
        haste: Haste,
    ) -> Result<(), RuncError> {
        let start = |source| RuncError::Start { runc: self.program.clone(), source };
        // The ends of the container's pipes are in `command`: end of file must not wait for us, so
        // it goes at once.
        let spawn = move || {
            let mut command = command;
            command.spawn()
        };
        let spawned = match haste {
            Haste::Now => spawn(),
            Haste::Ahead => {
                let spawning = tokio::task::spawn_blocking(|| at_nice(AHEAD, spawn));
                spawning.await.map_err(io::Error::other).flatten()
            }
        };
        let mut child = spawned.map_err(start)?;
        let status = tokio::time::timeout(COMMAND_DEADLINE, child.wait())
            .await
            .map_err(|_| RuncError::Timeout { command: name })?
            .map_err(start)?;
        if status.success() {
            return Ok(());
        }
        let message = log.and_then(last_error).unwrap_or_else(|| status.to_string());
        Err(RuncError::Failed { command: name, message })
    }
}

/// A sealed copy of a program in memory.
fn sealed_copy(program: &Path) -> io::Result<OwnedFd> {
    use std::io::Write as _;
    let named = program.components().count() == 1;
    let directories = PATH.split(':').filter(|_| named).map(Path::new);
    let mut places = directories.map(|directory| directory.join(program));
    let found = places.find(|path| path.is_file()).unwrap_or_else(|| program.to_owned());
    let bytes = fs_err::read(found)?;
    if !bytes.starts_with(b"\x7fELF") {
        // An interpreter could not open the script that it shall run.
        return Err(io::Error::other("it is no ELF program"));
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 know no such flag, and allow it without.
    let copy = rustix::fs::memfd_create("runc", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("runc", flags))?;
    let mut copy = std::fs::File::from(copy);
    copy.write_all(&bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The message of the last error in a log of JSON lines.
fn last_error(log: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs_err::File::open(log).ok()?.take(LOG_LEN_MAX).read_to_string(&mut text).ok()?;
    text.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = line.get("level")?.as_str()?;
        let message = line.get("msg")?.as_str()?;
        matches!(level, "error" | "fatal").then(|| message.to_owned())
    })
}

/// The container whose first process has its id in this file.
fn watch(pid_file: &Path) -> io::Result<Container> {
    let text = fs_err::read_to_string(pid_file)?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other(format!("not a pid: {text:?}")))?;
    // A child's pid is not used again before it is waited for, so this is the one.
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    Container::new(pid, pidfd)
}
