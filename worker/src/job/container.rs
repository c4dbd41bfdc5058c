//! A container's first process, whoever created it. It is the worker's own child, so the worker
//! waits for it through a pidfd and learns exactly how it ended.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::kernel;

/// The three ends that a container's process gets.
#[derive(Debug)]
pub(crate) struct ContainerStdio {
    /// None for one that is empty.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// How a container's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signalled(i32),
}

impl Ended {
    /// As shells have it: 128 + signal.
    pub(crate) fn exit_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128 + signal,
        }
    }
}

/// A container's first process, a child of ours.
#[derive(Debug)]
pub(crate) struct Container {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// Where it waits for leave to start its program, if not for runc.
    pub(crate) control: Option<UnixStream>,
}

impl Container {
    /// The container whose first process is `pid`, to which `pidfd` refers.
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pid, pidfd: kernel::readiness(pidfd)?, control: None })
    }

    /// Its process id on the host.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it, and with it everything in its pid namespace.
    pub(crate) fn kill(&self) {
        if let Err(error) = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(pid = self.pid(), error = %error, "a container can't be killed");
        }
    }

    /// Whether it has ended; it is still to be waited for.
    pub(crate) fn has_ended(&self) -> bool {
        use std::os::fd::AsFd as _;
        let id = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(rustix::process::waitid(id, flags), Ok(None))
    }

    /// Waits for its end. May be called again where it was dropped before it was ready.
    pub(crate) async fn wait(&self) -> io::Result<Ended> {
        use std::os::fd::AsFd as _;
        loop {
            let mut ready = self.pidfd.readable().await?;
            let id = WaitId::PidFd(self.pidfd.get_ref().as_fd());
            let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match rustix::process::waitid(id, flags) {
                Ok(Some(status)) => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Ok(Ended::Exited(code)),
                        (None, Some(signal)) => Ok(Ended::Signalled(signal)),
                        (None, None) => Err(io::Error::other("neither exited nor killed")),
                    };
                }
                Ok(None) => ready.clear_ready(),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
