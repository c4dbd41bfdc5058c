//! The process that makes containers' first processes: one thread, nothing but a socket.
//!
//! The worker has many threads, and a fork of it could run little more than system calls: some
//! lock or other would be held by a thread that is not in the copy. It is large, too, and its page
//! tables would be copied for every container. So it starts itself once more, as this: a process
//! that waits for requests and forks for each. What it forks is the worker's own child
//! (`CLONE_PARENT`), as what runc leaves behind becomes, and the worker alone waits for it.
//!
//! It ends when the socket does, so it ends with the worker.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::AssertUnwindSafe;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::Pid;

use super::inside;
use super::sys::{self, Cloned};

/// The name under which a program of ours is this forker, and not itself.
pub(super) const NAME: &str = "sway-sandbox";

/// Descriptors of a request: control, plan, stdout, stderr, and stdin where there is one.
pub(super) const DESCRIPTORS_MAX: usize = 5;

/// What a request's bytes are: a version, for whoever replaced the program meanwhile.
const REQUEST: [u8; 1] = [1];

/// Becomes the forker that makes containers, where this process was started as that. To be called
/// first thing in `main`, before there are threads.
pub fn enter_if_asked() {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return;
    }
    let code = match serve(io::stdin().as_fd()) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    sys::exit(code)
}

fn serve(socket: BorrowedFd<'_>) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a forker has one thread"));
    }
    sys::ignore_interrupts();
    while let Some(descriptors) = receive(socket)? {
        let [control, plan, stdout, stderr, rest @ ..] = descriptors.as_slice() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match sys::clone_container() {
            Ok(Cloned::Inside) => {
                let stdio = [rest.first(), Some(stdout), Some(stderr)];
                let stdio = stdio.map(|descriptor| descriptor.map(OwnedFd::as_fd));
                // Nothing of the container may come back here.
                let run = || inside::run(control.as_fd(), plan.as_fd(), stdio);
                let _ = std::panic::catch_unwind(AssertUnwindSafe(run));
                sys::exit(1)
            }
            Ok(Cloned::Outside { pid, pidfd }) => {
                reply(socket, pid.as_raw_nonzero().get(), &[pidfd.as_fd()])?;
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                reply(socket, -errno, &[])?;
            }
        }
    }
    Ok(())
}

/// A request's descriptors; none where the worker has gone.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut bytes = [0; REQUEST.len()];
    let (len, descriptors) = received(socket, &mut bytes)?;
    match len {
        0 => Ok(None),
        _ if bytes == REQUEST => Ok(Some(descriptors)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn reply(socket: BorrowedFd<'_>, number: i32, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send(socket, &number.to_ne_bytes(), descriptors)
}

/// Asks the forker behind `socket` for a process with these descriptors. Returns its pid and what
/// refers to it. Requests and replies alternate.
pub(super) fn ask(
    socket: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<(Pid, OwnedFd)> {
    send(socket, &REQUEST, descriptors)?;
    let mut number = [0; 4];
    let (len, descriptors) = received(socket, &mut number)?;
    if len != number.len() {
        return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the sandbox's forker has ended"));
    }
    let number = i32::from_ne_bytes(number);
    match (Pid::from_raw(number), descriptors.into_iter().next()) {
        (Some(pid), Some(pidfd)) if number > 0 => Ok((pid, pidfd)),
        _ => Err(io::Error::from_raw_os_error(-number)),
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // A forker that is gone is an error here, not a signal to the worker.
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    Ok(())
}

/// One message: its length, and the descriptors that came with it.
fn received(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)
    })?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    Ok((message.bytes, descriptors))
}
