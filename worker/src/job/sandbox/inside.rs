//! What a container's first process does before it becomes its program. The order matters; each
//! step is possible only before or after another one, or safe only there:
//!
//! 1. It can't be looked into (not dumpable): between here and the exec its memory and its
//!    executable are the forker's. Then all descriptors but its own five are closed.
//! 2. It waits until the worker has put it in its cgroup, mapped its ids, set its limits. So
//!    whatever it makes from here on counts against the job.
//! 3. Bind mounts are cloned while it still has the user id of the host's root (without any
//!    capability of his, but able to walk to his files): the worker's directories are closed to
//!    the container's own ids. The clones are copies of mounts that the kernel locked for this
//!    namespace: what is read-only, nosuid or nodev on the host stays it.
//! 4. Root of the user namespace, and nothing of the host any more: no group, a session and a
//!    keyring of its own, the cgroup as root of a cgroup namespace (now, because it is what the
//!    namespace shows as `/`).
//! 5. All mounts private, then the rootfs, read-only before it is attached, then the others, each
//!    with its flags before it is attached. A target is looked up within the rootfs alone, however
//!    its image leads elsewhere, and mounted on by descriptor, so that it is what was looked up.
//! 6. `pivot_root`, and the host's tree is detached: from here on there is no path to it. What is
//!    open of it is closed before the program starts.
//! 7. No new privileges, empty bounding and ambient set; only then, because they take a capability,
//!    other groups and ids; then the capabilities that are left.
//! 8. It reports that it is ready and waits for leave. Last, the filter: it would refuse most of
//!    the above. Then the program.
//!
//! When the worker's end of the control socket closes, it exits: a worker that dies leaves no
//! process that waits.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Access, Mode};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::config::Inside;
use super::mounts;
use super::sys;
use super::{GO, READY, START};

/// Where descriptors are once they are arranged.
const CONTROL: i32 = 3;
const PLAN: i32 = 4;

/// A step that failed.
pub(super) struct Failed {
    step: String,
    source: io::Error,
}

/// Names the step of an error.
pub(super) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failed> {
        self.map_err(|error| Failed { step: step.to_owned(), source: error.into() })
    }
}

/// Becomes the container's program, or tells why not.
pub(super) fn run(
    control: BorrowedFd<'_>,
    plan: BorrowedFd<'_>,
    stdio: [Option<BorrowedFd<'_>>; 3],
) -> ! {
    let [stdin, stdout, stderr] = stdio;
    let places = [stdin, stdout, stderr, Some(control), Some(plan)];
    let arranged = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(io::Error::from)
        .and_then(|()| sys::arrange(&places));
    if arranged.is_err() {
        // There is nobody to tell: the worker sees its end.
        sys::exit(1);
    }
    let mut control = UnixStream::from(sys::adopt(CONTROL));
    let plan = File::from(sys::adopt(PLAN));
    let Err(Failed { step, source }) = become_program(&mut control, plan, stdin.is_some());
    let _ = control.write_all(format!("cannot {step}: {source}").as_bytes());
    sys::exit(1)
}

fn become_program(
    control: &mut UnixStream,
    mut plan: File,
    has_stdin: bool,
) -> Result<Infallible, Failed> {
    let mut text = Vec::new();
    plan.read_to_end(&mut text).step("read what to do")?;
    drop(plan);
    let plan: Inside =
        serde_json::from_slice(&text).map_err(io::Error::other).step("read what to do")?;
    drop(text);
    sys::reset_signals().step("reset signals")?;
    wait_for(control, GO);

    let binds = mounts::binds(&plan)?;
    become_root()?;
    rustix::process::setsid().step("begin a session")?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).step("make a cgroup namespace")?;
    sys::join_keyring(&plan.keyring).step("make a keyring")?;
    sys::loopback_up().step("bring up the loopback interface")?;
    rustix::process::umask(Mode::empty());
    mounts::enter(&plan, binds)?;
    if !has_stdin {
        mounts::null_as_stdin().step("open /dev/null")?;
    }
    nix::unistd::sethostname(&plan.hostname).step("set the host name")?;
    rustix::process::umask(Mode::from_raw_mode(plan.user.umask));

    // A directory that the program may not walk to is its own to be refused, as in runc; one that
    // only it may walk to is tried again as the user.
    let cwd = rustix::process::chdir(&plan.cwd);
    become_user(&plan)?;
    if cwd.is_err() {
        rustix::process::chdir(&plan.cwd).step("change to the working directory")?;
    }
    let cwd = std::env::current_dir().step("find the working directory")?;
    if !cwd.is_absolute() {
        // It lies outside of the root (CVE-2024-21626).
        return Err(io::Error::from(io::ErrorKind::NotFound)).step("enter the working directory");
    }
    let program = found(&plan).step("find the program")?;
    sys::close_from(CONTROL.unsigned_abs() + 1).step("close descriptors")?;

    control.write_all(&[READY]).step("tell that it is ready")?;
    wait_for(control, START);
    sys::load_filter(&plan.filter).step("load the system call filter")?;
    sys::execute(&program, &plan.args, &plan.env).step("start the program")
}

/// Waits for leave; ends where nobody is left to give it.
fn wait_for(control: &mut UnixStream, leave: u8) {
    let mut byte = [0];
    if control.read_exact(&mut byte).is_err() || byte != [leave] {
        sys::exit(1);
    }
}

/// Root of the user namespace: in its groups and ids the host's are no more.
fn become_root() -> Result<(), Failed> {
    let (uid, gid) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setgroups(&[]).step("leave the host's groups")?;
    nix::unistd::setresgid(gid, gid, gid).step("become root's group of the container")?;
    nix::unistd::setresuid(uid, uid, uid).step("become root of the container")
}

/// The program's user, without capabilities.
fn become_user(plan: &Inside) -> Result<(), Failed> {
    let user = &plan.user;
    for descriptor in [io::stdout().as_fd(), io::stderr().as_fd()] {
        // So that it can open /dev/stdout. Pipes are the worker's, which gave them this owner
        // already; where it may not be changed, that holds.
        let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
        let _ = rustix::fs::fchown(descriptor, Some(uid), Some(gid));
    }
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    sys::empty_bounding_set().step("empty the bounding set")?;
    rustix::thread::clear_ambient_capability_set().step("empty the ambient set")?;
    let (uid, gid) = (nix::unistd::Uid::from_raw(user.uid), nix::unistd::Gid::from_raw(user.gid));
    let groups: Vec<_> =
        user.additional_gids.iter().map(|&gid| nix::unistd::Gid::from_raw(gid)).collect();
    nix::unistd::setgroups(&groups).step("join the user's groups")?;
    nix::unistd::setresgid(gid, gid, gid).step("become the user's group")?;
    nix::unistd::setresuid(uid, uid, uid).step("become the user")?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).step("give up capabilities")
}

/// The program's path: as it is written, or where `PATH` leads.
fn found(plan: &Inside) -> io::Result<String> {
    let name = plan.args.first().ok_or(io::ErrorKind::InvalidInput)?;
    let can_run = |path: &str| rustix::fs::access(path, Access::EXEC_OK);
    if name.contains('/') {
        can_run(name)?;
        return Ok(name.clone());
    }
    let search = plan.env.iter().find_map(|pair| pair.strip_prefix("PATH="));
    let mut places = search.unwrap_or_default().split(':').map(|place| format!("{place}/{name}"));
    let found = places
        .find(|path| can_run(path).is_ok() && std::fs::metadata(path).is_ok_and(|it| it.is_file()));
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}
