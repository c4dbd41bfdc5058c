//! The system calls of a sandbox that have no safe wrapper in our libraries, and nothing else.
#![expect(unsafe_code, reason = "these calls have no safe wrapper in our libraries")]

use std::convert::Infallible;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::process::Pid;

use super::filter::Instruction;

/// Who goes on after [`clone_container`].
#[derive(Debug)]
pub(super) enum Cloned {
    /// The first process of a new container.
    Inside,
    /// Whoever asked for it.
    Outside {
        /// As seen from here.
        pid: Pid,
        /// Refers to it as long as it is open.
        pidfd: OwnedFd,
    },
}

/// Forks a process with a user, mount, pid, network, ipc and uts namespace of its own, as a child
/// of this process' parent. To be called by a process with one thread.
pub(super) fn clone_container() -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_PARENT
        | libc::CLONE_PIDFD;
    // SAFETY: `clone_args` is a struct of integers, for which zeros are valid.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = u64::from(flags.unsigned_abs());
    arguments.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: without CLONE_VM and with no stack this is fork(2): the child goes on here with a
    // copy of memory, and as the caller has one thread, no lock of that copy is held by a thread
    // that is not there. The kernel reads `arguments` of the size given and writes one descriptor
    // to `pidfd`; both live on this stack.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    };
    match pid {
        0 => Ok(Cloned::Inside),
        1.. => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let pid = pid.expect("clone3 returns the child's pid, a positive pid_t");
            // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
            Ok(Cloned::Outside { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process at once: nothing is run at its exit.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: it has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Makes `places[n]` the descriptor n, where there is one, and closes all others. The first three
/// outlive an exec.
///
/// Whatever owned a descriptor before must not be used or dropped afterwards: the caller never
/// returns to it.
pub(super) fn arrange(places: &[Option<BorrowedFd<'_>>]) -> io::Result<()> {
    let wanted = libc::c_int::try_from(places.len()).expect("a handful");
    let checked = |result: libc::c_int| match result {
        -1 => Err(io::Error::last_os_error()),
        descriptor => Ok(descriptor),
    };
    let mut moved = Vec::with_capacity(places.len());
    for place in places {
        // Out of the way of those that are still to be placed.
        moved.push(match place {
            // SAFETY: a descriptor that is open is copied; the copy is closed below.
            Some(descriptor) => Some(checked(unsafe {
                libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, wanted)
            })?),
            None => None,
        });
    }
    for (place, moved) in (0..).zip(moved) {
        let flags = if place < 3 { 0 } else { libc::O_CLOEXEC };
        match moved {
            // SAFETY: plain system calls on integers; see above for what had the place before.
            Some(moved) => checked(unsafe { libc::dup3(moved, place, flags) }).map(drop)?,
            // SAFETY: the same.
            None => drop(unsafe { libc::close(place) }),
        }
    }
    close_from(wanted.unsigned_abs())
}

/// Closes all descriptors from `first` on; nothing may use them afterwards.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: plain integers; that nothing uses the descriptors is the caller's to see to.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes over a descriptor that [`arrange`] has put in its place.
pub(super) fn adopt(place: RawFd) -> OwnedFd {
    // SAFETY: `arrange` has just opened it, and it is adopted once.
    unsafe { OwnedFd::from_raw_fd(place) }
}

/// Makes a descriptor standard input, which nothing may use meanwhile.
pub(super) fn become_stdin(descriptor: OwnedFd) -> io::Result<()> {
    let from = descriptor.into_raw_fd();
    // SAFETY: plain system calls on integers; `from` is ours alone and used no more.
    let result = unsafe {
        if from == 0 {
            // It has taken the place already, but would not outlive an exec.
            libc::fcntl(from, libc::F_SETFD, 0)
        } else {
            let result = libc::dup3(from, 0, 0);
            libc::close(from);
            result
        }
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ignores what a terminal or a service supervisor sends to all processes of the worker.
pub(super) fn ignore_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Handles every signal as a new program expects it: by default, and blocks none.
pub(super) fn reset_signals() -> io::Result<()> {
    // The kernel's `struct sigaction`, all zeros: SIG_DFL, no flags, no mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // Not by glibc, which keeps two signals for itself. Those that can't be changed answer with
        // an error.
        // SAFETY: the kernel reads as many bytes, of which 8 are the mask; no handler is installed.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, size_of::<u64>());
        }
    }
    let none = nix::sys::signal::SigSet::empty();
    Ok(nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&none), None)?)
}

/// Joins a new session keyring of this name.
pub(super) fn join_keyring(name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    let join = libc::c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING);
    // SAFETY: the name is a NUL-terminated string that lives for the call.
    match unsafe { libc::syscall(libc::SYS_keyctl, join, name.as_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sets `MOUNT_ATTR_*` of a mount, and with `recursive` of those below it.
pub(super) fn set_mount_attributes(
    tree: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
) -> io::Result<()> {
    let clear = match attributes & libc::MOUNT_ATTR_STRICTATIME {
        0 => 0,
        // One of several values of a field, which has to be cleared to be set.
        _ => libc::MOUNT_ATTR__ATIME,
    };
    let attributes =
        libc::mount_attr { attr_set: attributes, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open for the call; the path is a NUL-terminated static; the kernel
    // reads `size_of::<mount_attr>()` bytes of `attributes`, which lives on this stack.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the interface `lo` of this network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is a struct of integers and unions of such, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("two low bits");
    // SAFETY: the kernel reads an `ifreq` whose name is terminated by a zero.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes every capability of this kernel out of the bounding set.
pub(super) fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: plain integers.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if dropped != 0 {
            let error = io::Error::last_os_error();
            // The first number that the kernel has no capability for.
            let is_end = capability > 0 && error.raw_os_error() == Some(libc::EINVAL);
            return if is_end { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Has the kernel run the program before every further system call.
pub(super) fn load_filter(program: &[Instruction]) -> io::Result<()> {
    let filter =
        |&Instruction(code, jt, jf, k): &Instruction| libc::sock_filter { code, jt, jf, k };
    let mut filters: Vec<libc::sock_filter> = program.iter().map(filter).collect();
    let len = libc::c_ushort::try_from(filters.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: filters.as_mut_ptr() };
    // SAFETY: the kernel reads `len` instructions at `filter`; both live for the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Becomes the program, with these descriptors and nothing else of this process.
pub(super) fn execute(path: &str, args: &[String], env: &[String]) -> io::Result<Infallible> {
    use std::ffi::CString;
    let texts = |all: &[String]| -> io::Result<Vec<CString>> {
        all.iter().map(|text| Ok(CString::new(text.as_str())?)).collect()
    };
    let (path, args, env) = (CString::new(path)?, texts(args)?, texts(env)?);
    Ok(nix::unistd::execve(&path, &args, &env)?)
}
