//! What a job needs of the kernel without a safe wrapper, and nothing else: user namespaces made
//! by a short-lived process, id-mapped bind mounts, and readiness of a pidfd.
//!
//! runc 1.1 maps ids for bind mounts of a container, not for its rootfs, so the worker does it
//! itself: `open_tree` clones the image's mount, `mount_setattr` gives the clone the ids of a user
//! namespace, `move_mount` puts it in its place.
#![expect(unsafe_code, reason = "these calls have no safe wrapper in our libraries")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::process::{Pid, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process of ours that waits in a new user namespace until it is dropped.
struct NamespaceHolder(Pid);

impl NamespaceHolder {
    /// Forks it. It has no descriptors, so that it can keep no `/dev/fuse` open, and it dies with
    /// the thread that made it.
    fn start() -> io::Result<Self> {
        let parent = rustix::process::getpid();
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        // SAFETY: without CLONE_VM this is fork(2): the child gets its own copy of memory and
        // goes on here on its copy of this stack (a null stack pointer means just that). Other
        // threads do not exist in the child, so it must not touch locks or the heap: it calls
        // nothing but the system calls below and never returns.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: plain system calls on integers, async-signal-safe all of them. The
            // descriptors belong to this process' copy of the table (no CLONE_FILES).
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
                // The parent may have died before the prctl.
                if libc::getppid() != parent.as_raw_nonzero().get() {
                    libc::_exit(1);
                }
                loop {
                    libc::pause();
                }
            }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Ok(Self(pid.expect("clone returns the child's pid, a positive pid_t")))
    }
}

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        // Its pid is ours until we wait for it; neither call can fail in a way to act upon.
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.0), rustix::process::WaitOptions::empty());
    }
}

/// Makes a user namespace with these maps (text of `/proc/<pid>/uid_map`: lines of
/// `inside outside count`). It exists as long as the descriptor. Blocks for some milliseconds.
pub(crate) fn user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let holder = NamespaceHolder::start()?;
    let proc = format!("/proc/{}", holder.0.as_raw_nonzero());
    fs_err::write(format!("{proc}/uid_map"), uid_map)?;
    fs_err::write(format!("{proc}/gid_map"), gid_map)?;
    let namespace = format!("{proc}/ns/user");
    Ok(rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Mounts `source` (one mount, not those below it) at the directory `target`, read-only, nosuid,
/// nodev, with owners mapped by `user_namespace`.
pub(crate) fn bind_idmapped(
    source: &Path,
    target: &Path,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    let raw = u64::try_from(user_namespace.as_raw_fd()).expect("an open descriptor is positive");
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP
            | libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: raw,
    };
    // SAFETY: both descriptors are open for the call; the path is a NUL-terminated static; the
    // kernel reads `size_of::<mount_attr>()` bytes of `attributes`, which lives on this stack.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree.as_fd(), "", CWD, target, flags)?)
}

/// Gives the host name `name` to the UTS namespace of the process `pid`.
pub(crate) fn set_hostname(pid: u32, name: &str) -> io::Result<()> {
    let namespace = fs_err::File::open(format!("/proc/{pid}/ns/uts"))?;
    let setting = || -> io::Result<()> {
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWUTS)?;
        Ok(nix::unistd::sethostname(name)?)
    };
    // A thread that has joined a namespace stays there, so it ends.
    let set = std::thread::scope(|scope| scope.spawn(setting).join());
    set.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Registers a descriptor with the runtime, to learn when it becomes readable.
pub(crate) fn readiness(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: AsyncFd asks that the descriptor stays open and the same until it is dropped. An
    // OwnedFd gives its descriptor to nobody, and AsyncFd owns it from here on.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
