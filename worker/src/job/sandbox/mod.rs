//! Creates containers without the `runc` command, from the same bundles and as closed.
//!
//! `runc create` is five processes of a Go program, most of whose time is spent on starting itself.
//! Here a small process that is there already (`forker`) forks the container's first one
//! (`inside`), and the worker prepares it from outside. Who does what:
//!
//! ```text
//! worker                           forker                container's first process
//! reads config.json (`config`)
//! compiles the filter (`filter`)
//! makes the cgroups, with limits
//! asks for a process  ───────────► clone3 ─────────────► closes what is not its own, waits
//!                     ◄─── pidfd ─
//! maps its ids, puts it into the
//! cgroups, sets oom and rlimits
//! gives leave         ─────────────────────────────────► mounts, root, user, capabilities
//!                     ◄─────────────────────── ready ───  waits
//! gives leave         ─────────────────────────────────► filter, exec
//!                     ◄──────────────── end of file ───
//! ```
//!
//! What needs a right on the host is done by the worker, to the process and from outside; what the
//! process does itself, it does with rights in its own user namespace only. The reasons of its order
//! are in `inside`. A configuration is carried out as a whole or refused (`config`).
//!
//! Nothing is kept but what lies on the host for runc's containers too (cgroup, mounts, the run's
//! directory), so a run is removed and a killed worker recovered in the same way.

mod config;
mod filter;
mod forker;
mod inside;
mod mounts;
mod sys;

use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

pub use self::forker::enter_if_asked;

use self::config::ConfigError;
use self::filter::{Instruction, Profile};
use super::cgroup::Hierarchies;
use super::container::{Container, ContainerStdio};

/// What creation and start may take, as for runc.
const DEADLINE: Duration = Duration::from_secs(30);

/// What forking one process may take.
const FORK_DEADLINE: Duration = Duration::from_secs(10);

/// How long the end of a killed process is waited for where nobody else will.
const KILLED_DEADLINE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Bytes of a complaint that are read.
const COMPLAINT_LEN_MAX: u64 = 4 << 10;

/// On the control socket: leave to set up, that it is done, leave to start the program. Anything
/// else that comes from the container is a complaint.
const GO: u8 = 1;
const READY: u8 = 2;
const START: u8 = 3;

/// A container that could not be created or started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// What the bundle says can't be carried out.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A step of the worker's.
    #[error("cannot {what}: {source}")]
    Step {
        /// The step.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The container's process said so.
    #[error("the container's first process {0}")]
    Inside(String),
    /// It took too long.
    #[error("the container's first process did not get ready within {} s", DEADLINE.as_secs())]
    Timeout,
}

fn step(what: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::Step { what, source }
}

/// Creates containers.
#[derive(Clone, Debug)]
pub(crate) struct Sandboxes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    program: PathBuf,
    hierarchies: Hierarchies,
    /// Started with the first container, and again where it has ended.
    forker: Mutex<Option<Forker>>,
    /// The last profile that was compiled; all jobs have the same.
    compiled: Mutex<Option<(Profile, Vec<Instruction>)>>,
}

/// The process that forks.
#[derive(Debug)]
struct Forker {
    socket: OwnedFd,
    child: Child,
}

impl Forker {
    fn start(program: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(FORK_DEADLINE))?;
        let mut command = Command::new(program);
        // Nothing of the worker's environment, such as its token, may be in what becomes a
        // container. Interrupts of the worker's terminal are not for it.
        command.arg0(forker::NAME).env_clear().current_dir("/").process_group(0);
        command.stdin(theirs).stdout(Stdio::null());
        let child = command.spawn()?;
        Ok(Self { socket, child })
    }
}

impl Drop for Forker {
    fn drop(&mut self) {
        // It would end by itself when the socket does; what it forked is not its child.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A container's first process that nobody waits for yet.
#[derive(Debug)]
struct Forked {
    pid: Pid,
    pidfd: Option<OwnedFd>,
}

impl Drop for Forked {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else { return };
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        let _ = rustix::event::poll(&mut ended, Some(&KILLED_DEADLINE));
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), flags);
    }
}

impl Sandboxes {
    /// Those of a program whose `main` begins with [`enter_if_asked`].
    pub(crate) fn new(program: PathBuf, hierarchies: Hierarchies) -> Self {
        let (forker, compiled) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { program, hierarchies, forker, compiled }))
    }

    /// Creates the container `id` from the bundle directory: everything is set up, its program is
    /// not started. None where that was cancelled before.
    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        stdio: ContainerStdio,
        cancel: &CancellationToken,
    ) -> Option<Result<Container, SandboxError>> {
        let (shared, id, bundle) = (Arc::clone(&self.0), id.to_owned(), bundle.to_owned());
        // Takes some milliseconds, and is not left half-done: the groups that it makes are removed
        // by the path on which a cancelled run goes on.
        let forking = tokio::task::spawn_blocking(move || shared.fork(&id, &bundle, stdio));
        let forked = forking.await.map_err(io::Error::other).map_err(step("fork"));
        let (forked, control) = match forked.flatten() {
            Ok(forked) => forked,
            Err(error) => return Some(Err(error)),
        };
        cancel.run_until_cancelled(ready(forked, control)).await
    }

    /// Starts the program of a created container, and returns when it has started.
    pub(crate) async fn start(&self, container: &Container) -> Result<(), SandboxError> {
        let what = "start the container's program";
        let Some(control) = &container.control else {
            return Err(step(what)(io::ErrorKind::NotConnected.into()));
        };
        let starting = async {
            control.writable().await?;
            control.try_write(&[START])?;
            let mut complaint = Vec::new();
            loop {
                control.readable().await?;
                let mut buffer = [0; 512];
                match control.try_read(&mut buffer) {
                    // Executed: the kernel has closed its end.
                    Ok(0) => return Ok(complaint),
                    Ok(len) => complaint.extend_from_slice(&buffer[..len]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Killed before that, which whoever waits for it learns.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok(complaint);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let complaint = tokio::time::timeout(DEADLINE, starting).await;
        let complaint = complaint.map_err(|_| SandboxError::Timeout)?.map_err(step(what))?;
        match complaint.is_empty() {
            true => Ok(()),
            false => Err(said(&complaint)),
        }
    }
}

impl Shared {
    /// From the bundle to a process that sets itself up.
    fn fork(
        &self,
        id: &str,
        bundle: &Path,
        stdio: ContainerStdio,
    ) -> Result<(Forked, std::os::unix::net::UnixStream), SandboxError> {
        let text = fs_err::read_to_string(bundle.join("config.json"));
        let mut container = config::read(id, &text.map_err(step("read the bundle"))?)?;
        container.inside.filter = self.filter(&container.seccomp)?;
        let plan = plan(&container.inside).map_err(step("write down what to do"))?;
        let (mut control, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(step("make a control socket"))?;
        let cgroup = self.hierarchies.group(&container.cgroup);
        cgroup.make(&container.resources).map_err(step("make the container's cgroup"))?;

        let ContainerStdio { stdin, stdout, stderr } = stdio;
        let mut descriptors = vec![theirs.as_fd(), plan.as_fd(), stdout.as_fd(), stderr.as_fd()];
        descriptors.extend(stdin.as_ref().map(OwnedFd::as_fd));
        let (pid, pidfd) = {
            let mut forker = self.forker.lock().unwrap_or_else(PoisonError::into_inner);
            if forker.as_mut().is_none_or(|forker| !matches!(forker.child.try_wait(), Ok(None))) {
                *forker = Some(Forker::start(&self.program).map_err(step("start the forker"))?);
            }
            let socket = forker.as_ref().expect("it was started").socket.as_fd();
            forker::ask(socket, &descriptors).map_err(|error| {
                // Requests and replies may be out of step.
                *forker = None;
                step("fork the container's first process")(error)
            })?
        };
        let forked = Forked { pid, pidfd: Some(pidfd) };

        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        fs_err::write(proc.join("gid_map"), &container.gid_map)
            .and_then(|()| fs_err::write(proc.join("uid_map"), &container.uid_map))
            .map_err(step("map the container's ids"))?;
        fs_err::write(proc.join("oom_score_adj"), container.oom_score_adj.to_string())
            .map_err(step("say who goes first without memory"))?;
        for (resource, limit) in container.rlimits {
            rustix::process::prlimit(Some(pid), resource, limit)
                .map_err(|error| step("set a limit of the container's process")(error.into()))?;
        }
        cgroup.admit(pid).map_err(step("put the container into its cgroup"))?;
        control.write_all(&[GO]).map_err(step("have the container set up"))?;
        Ok((forked, control))
    }

    fn filter(&self, profile: &Profile) -> Result<Vec<Instruction>, ConfigError> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, program)) = &*compiled
            && known == profile
        {
            return Ok(program.clone());
        }
        let program = profile.compile()?;
        *compiled = Some((profile.clone(), program.clone()));
        Ok(program)
    }
}

/// What the container's process reads.
fn plan(inside: &config::Inside) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)?;
    let mut memory = std::fs::File::from(memory);
    memory.write_all(&serde_json::to_vec(inside)?)?;
    memory.seek(SeekFrom::Start(0))?;
    Ok(memory.into())
}

/// Waits until the container is set up.
async fn ready(
    mut forked: Forked,
    control: std::os::unix::net::UnixStream,
) -> Result<Container, SandboxError> {
    let what = "watch the container's process";
    control.set_nonblocking(true).map_err(step(what))?;
    let mut control = UnixStream::from_std(control).map_err(step(what))?;
    let mut told = Vec::new();
    let telling = async {
        let first = control.read_u8().await?;
        if first != READY {
            told.push(first);
            (&mut control).take(COMPLAINT_LEN_MAX).read_to_end(&mut told).await?;
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(DEADLINE, telling).await {
        Err(_) => return Err(SandboxError::Timeout),
        Ok(Err(error)) if told.is_empty() => {
            let ended = io::Error::other(format!("it ended before it was ready: {error}"));
            return Err(step("set up the container")(ended));
        }
        Ok(_) => {}
    }
    if !told.is_empty() {
        return Err(said(&told));
    }
    let pidfd = forked.pidfd.take().expect("it is taken once");
    let mut container = Container::new(forked.pid, pidfd).map_err(step(what))?;
    container.control = Some(control);
    Ok(container)
}

fn said(complaint: &[u8]) -> SandboxError {
    SandboxError::Inside(String::from_utf8_lossy(complaint).into_owned())
}
