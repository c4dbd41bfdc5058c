//! Attaches an adapter to the kernel and detaches it.
//!
//! The mount is made here and not by fuser, so that its options are exactly these, no helper
//! program is asked, and unmounting never blocks on a busy mount. `/dev/fuse` is opened with
//! `O_CLOEXEC`, by std as by fuser: a child that held it would keep the mount alive after a
//! crash.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sway_core::manifest::Ino;
use tokio::sync::watch;

use super::{Adapter, Mountpoint};

/// Threads of a session: the first keeps one core busy, more would only fight over it.
const THREADS_MIN: usize = 2;
const THREADS_MAX: usize = 4;

/// What a mount reads ahead, in KiB, as the kernel has it.
pub const READAHEAD_KIB: u32 = 128;

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No FUSE on this machine, or no right to use it.
    #[error("cannot open /dev/fuse: {0} (is the fuse module loaded, and is this root?)")]
    Device(#[source] io::Error),
    /// The kernel refused the mount.
    #[error("cannot mount at {}: {source}", path.display())]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel and the adapter did not come to terms.
    #[error("cannot start serving {}: {source}", path.display())]
    Start {
        /// The mountpoint.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A mount that is being served. Dropping it unmounts.
pub struct FuseSession {
    mountpoint: Mountpoint,
    ended: watch::Receiver<bool>,
    idmapped: bool,
    notifier: Notifier,
    /// Where its read-ahead is set; none where this kernel or machine has no such file.
    readahead: Option<PathBuf>,
}

impl FuseSession {
    /// Mounts `adapter` at a directory and serves it on threads of its own.
    pub fn mount(mut adapter: Adapter, mountpoint: Mountpoint) -> Result<Self, SessionError> {
        let path = mountpoint.path();
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(SessionError::Device)?;
        let options = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions,allow_other",
            device.as_raw_fd(),
            nix::unistd::geteuid(),
            nix::unistd::getegid(),
        );
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("sway"), path, Some("fuse.sway"), flags, Some(options.as_str()))
            .map_err(|errno| SessionError::Mount { path: path.to_owned(), source: errno.into() })?;
        adapter.place(path);
        match serve(adapter, device, path) {
            Ok(Served { ended, idmapped, notifier }) => {
                let readahead = readahead_file(path);
                Ok(Self { mountpoint, ended, idmapped, notifier, readahead })
            }
            Err(source) => {
                detach(path);
                Err(SessionError::Start { path: path.to_owned(), source })
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// Whether the kernel can map the ids of this mount (`mount_setattr(2)`, Linux 6.12).
    pub fn can_be_idmapped(&self) -> bool {
        self.idmapped
    }

    /// Puts bytes of a file into the kernel's page cache, from `offset` on: whole pages, or up to
    /// the file's end. Does nothing for an inode that the kernel does not know, and blocks while a
    /// read of one of these pages is under way. Never call it from a session's thread.
    pub fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.notifier.store(INodeNo(u64::from(ino.0)), offset, bytes)
    }

    /// Sets how far the kernel reads ahead on this mount, in KiB; 0 asks for single pages. Tells
    /// whether it could be set.
    pub fn set_readahead(&self, kib: u32) -> bool {
        let Some(path) = &self.readahead else { return false };
        match std::fs::write(path, kib.to_string()) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot set the read-ahead");
                false
            }
        }
    }

    /// Whether requests are still answered.
    pub fn is_alive(&self) -> bool {
        !*self.ended.borrow()
    }

    /// Waits until the session has ended, because it was unmounted from here or elsewhere.
    pub async fn ended(&self) {
        // An error says that the thread is gone, which is an end as well.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Takes the mount out of the tree at once. Who still uses it keeps it alive.
    pub fn unmount(&self) {
        if self.is_alive() {
            detach(self.path());
        }
    }

    /// Unmounts and waits for the session's threads. Tells whether they ended in time.
    pub async fn shut_down(&self, deadline: Duration) -> bool {
        self.unmount();
        self.mountpoint.remove();
        tokio::time::timeout(deadline, self.ended()).await.is_ok()
    }
}

impl Drop for FuseSession {
    fn drop(&mut self) {
        self.unmount();
    }
}

impl std::fmt::Debug for FuseSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FuseSession").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// What is known of a session once the kernel and the adapter have come to terms.
struct Served {
    ended: watch::Receiver<bool>,
    idmapped: bool,
    notifier: Notifier,
}

/// Serves the kernel on threads of their own.
fn serve(adapter: Adapter, device: File, path: &Path) -> io::Result<Served> {
    let cores = thread::available_parallelism().map_or(THREADS_MIN, usize::from);
    let mut config = fuser::Config::default();
    config.n_threads = Some(cores.clamp(THREADS_MIN, THREADS_MAX));
    config.clone_fd = true;
    let idmapped = Arc::clone(&adapter.idmapped);
    let session = Session::from_fd(adapter, device.into(), SessionACL::All, config)?;
    let notifier = session.notifier();
    let (sender, ended) = watch::channel(false);
    let path = path.to_owned();
    thread::Builder::new().name("fuse-session".to_owned()).spawn(move || {
        if let Err(error) = session.run() {
            tracing::error!(path = %path.display(), %error, "FUSE session ended with an error");
        }
        sender.send_replace(true);
    })?;
    // The handshake is over, so that the adapter has been told.
    Ok(Served { ended, idmapped: idmapped.load(Ordering::SeqCst), notifier })
}

/// The file of the mount's own read-ahead.
fn readahead_file(path: &Path) -> Option<PathBuf> {
    let device = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let file = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    file.exists().then_some(file)
}

/// Unmounts whatever is mounted at `path`, busy or not. Tells whether something was.
pub(crate) fn detach(path: &Path) -> bool {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => true,
        // Nothing is mounted there, or nothing is there.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot unmount");
            false
        }
    }
}
