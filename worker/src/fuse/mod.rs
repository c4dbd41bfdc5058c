//! The adapter between the kernel and a rootfs: decode, call, reply.
//!
//! Session threads never block: what is in memory is answered on them, and a read that has to
//! wait takes its reply object along into a task. The kernel may keep every name, attribute,
//! symlink and negative lookup, because an image never changes. A handler that panics answers
//! EIO (its reply object does, when it is dropped) and the session goes on.
//!
//! Owners are the image's, for the kernel to map; or already those of the host, where it can't.

mod counts;
mod errno;
mod mountpoint;
mod parked;
mod session;
mod walk;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use sway_core::manifest::{Ino, mode};
use sway_server::tasks::Tasks;

use crate::account::Accounts;
use crate::id_map::IdMaps;
use crate::rootfs::{Attributes, Rootfs, RootfsError, Seek};
use crate::start::{Board, Outlook};
pub use counts::{Operation, RequestCounts};
use errno::errno;
pub use mountpoint::Mountpoint;
use parked::Read;
pub(crate) use session::detach;
pub use session::{FuseSession, READAHEAD_KIB, SessionError};
use walk::Walks;

/// How long the kernel may keep what it was told: ten years stand for ever, because the kernel's
/// sum of now and a lifetime must not overflow.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Requests that may be under way in the background (read-ahead); fuser's default is 16.
const BACKGROUND_MAX: u16 = 64;

/// The longest read that the kernel may ask for, in bytes, where its read-ahead is set that wide.
/// The kernel derives it from the longest write; there are no writes.
const REQUEST_LEN_MAX: u32 = 1 << 20;

/// Block size that `stat` and `statfs` tell.
const BLOCK_LEN: u32 = 4096;

/// Called with the name of each request before it is answered: lets a test break a handler.
#[derive(Clone)]
pub struct RequestHook(pub Arc<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for RequestHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestHook")
    }
}

/// Serves one rootfs to the kernel.
#[derive(Debug)]
pub struct Adapter {
    rootfs: Arc<Rootfs>,
    owners: Option<IdMaps>,
    /// Whether the kernel can map the ids of this mount; known once it is there.
    idmapped: Arc<AtomicBool>,
    accounts: Arc<Accounts>,
    tasks: Tasks,
    surroundings: Surroundings,
    /// None until it is known where it is mounted.
    walks: Option<Arc<Walks>>,
}

/// What sees requests beside the rootfs.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Counts all.
    pub counts: Arc<RequestCounts>,
    /// Answers reads of what a start brings.
    pub board: Arc<Board>,
    /// For tests.
    pub hook: Option<RequestHook>,
}

impl Adapter {
    /// An adapter of `rootfs` that shows its owners mapped by `owners`; parked reads are owned by
    /// `tasks`.
    pub fn new(
        rootfs: Arc<Rootfs>,
        owners: Option<IdMaps>,
        accounts: Arc<Accounts>,
        tasks: Tasks,
        surroundings: Surroundings,
    ) -> Self {
        Self {
            rootfs,
            owners,
            idmapped: Arc::default(),
            accounts,
            tasks,
            surroundings,
            walks: None,
        }
    }

    /// Runs a handler so that its panic stays its own. What the handler shares is behind locks
    /// that survive a panic.
    fn guard(&self, request: Operation, handler: impl FnOnce()) {
        self.surroundings.counts.count(request);
        let run = AssertUnwindSafe(|| {
            if let Some(hook) = &self.surroundings.hook {
                (hook.0)(request.as_str());
            }
            handler();
        });
        if catch_unwind(run).is_err() {
            tracing::error!(
                fuse.request = request.as_str(),
                "request handler panicked; answered EIO"
            );
        }
    }

    /// Says where it is about to be mounted.
    fn place(&mut self, mountpoint: &Path) {
        let manifest = Arc::clone(self.rootfs.manifest());
        self.walks = Some(Walks::new(mountpoint, manifest, self.tasks.clone()));
    }

    fn attributes(&self, ino: INodeNo) -> Result<FileAttr, RootfsError> {
        let ino = self.rootfs.ino(ino.0)?;
        self.rootfs.attributes(ino).map(|attributes| self.file_attr(&attributes))
    }

    /// What the kernel is told of an inode.
    fn file_attr(&self, attributes: &Attributes) -> FileAttr {
        let mut attr = file_attr(attributes);
        if let Some(IdMaps { uids, gids }) = &self.owners {
            attr.uid = uids.outside_or_overflow(attr.uid);
            attr.gid = gids.outside_or_overflow(attr.gid);
        }
        attr
    }

    fn answer_read(&self, read: Read, reply: ReplyData) {
        let Read { ino, offset, len, ref account } = read;
        account.touched(self.rootfs.manifest(), ino, offset, len);
        let outlook = self.surroundings.board.outlook(self.rootfs.manifest(), ino, offset, len);
        if let Outlook::Here(bytes) = &outlook {
            account.memory_hit(bytes.len() as u64);
            return reply.data(bytes);
        }
        if matches!(outlook, Outlook::Unknown) {
            account.missed(self.rootfs.manifest(), len as u64);
        }
        match self.rootfs.read_from_memory(ino, offset, len, account) {
            Ok(Some(content)) => reply.data(content.as_ref()),
            Ok(None) => self.park(read, outlook, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        let wished = [
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Always, and not where the kernel guesses that it pays: it asks so for the start of a
            // directory only, and then for each further name on its own.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        ];
        for flag in wished {
            // A kernel that lacks one is slower; the mount works.
            if kernel.add_capabilities(flag).is_err() {
                tracing::debug!(fuse.flag = ?flag, "this kernel lacks a FUSE capability");
            }
        }
        // Since Linux 6.12. The kernel holds to it for a mount with `default_permissions`, as ours
        // are.
        let idmapped = kernel.add_capabilities(InitFlags::FUSE_ALLOW_IDMAP).is_ok();
        self.idmapped.store(idmapped, Ordering::SeqCst);
        let _ = kernel.set_max_background(BACKGROUND_MAX);
        let _ = kernel.set_max_write(REQUEST_LEN_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guard(Operation::Lookup, || {
            let parent = self.rootfs.ino(parent.0);
            match parent.and_then(|parent| self.rootfs.lookup(parent, name.as_bytes())) {
                Ok(attributes) => {
                    reply.entry(&FOREVER, &self.file_attr(&attributes), Generation(0))
                }
                // An entry without an inode: the kernel remembers that there is none.
                Err(RootfsError::NoEntry) => reply.entry(&FOREVER, &NO_ENTRY, Generation(0)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.guard(Operation::Getattr, || match self.attributes(ino) {
            Ok(attr) => reply.attr(&FOREVER, &attr),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.guard(Operation::Readlink, || {
            let ino = self.rootfs.ino(ino.0);
            match ino.and_then(|ino| self.rootfs.readlink(ino)) {
                Ok(target) => reply.data(target),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    /// ENOSYS once: the kernel opens files by itself from then on, and keeps their pages.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.surroundings.counts.count(Operation::Open);
        reply.error(Errno::ENOSYS);
    }

    /// ENOSYS once, as with files.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.surroundings.counts.count(Operation::Opendir);
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guard(Operation::Read, || {
            let account = self.accounts.of_pid(request.pid());
            match self.rootfs.ino(ino.0) {
                Ok(ino) => {
                    self.answer_read(Read { ino, offset, len: size as usize, account }, reply);
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.guard(Operation::Readdir, || {
            let ino = self.rootfs.ino(ino.0);
            match ino.and_then(|ino| self.rootfs.entries(ino, offset)) {
                Ok(entries) => {
                    for (next, ino, name) in entries {
                        let Ok(attributes) = self.rootfs.attributes(ino) else { continue };
                        let kind = file_type(attributes.mode);
                        if reply.add(inode_no(ino), next, kind, OsStr::from_bytes(name)) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.guard(Operation::Readdirplus, || {
            let ino = self.rootfs.ino(ino.0);
            if let (Some(walks), 0, Ok(ino)) = (&self.walks, offset, &ino) {
                walks.listed(request.pid(), *ino);
            }
            match ino.and_then(|ino| self.rootfs.entries(ino, offset)) {
                Ok(entries) => {
                    for (next, ino, name) in entries {
                        let Ok(attributes) = self.rootfs.attributes(ino) else { continue };
                        let attr = self.file_attr(&attributes);
                        let name = OsStr::from_bytes(name);
                        if reply.add(attr.ino, next, name, &FOREVER, &attr, Generation(0)) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.guard(Operation::Statfs, || {
            let statistics = self.rootfs.statistics();
            let blocks = statistics.size_bytes.div_ceil(u64::from(BLOCK_LEN));
            reply.statfs(blocks, 0, 0, statistics.inodes, 0, BLOCK_LEN, 255, BLOCK_LEN);
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.guard(Operation::Getxattr, || {
            if !self.rootfs.manifest().has_xattrs() {
                // The kernel never asks again; callers see EOPNOTSUPP.
                return reply.error(Errno::ENOSYS);
            }
            let ino = self.rootfs.ino(ino.0);
            match ino.and_then(|ino| self.rootfs.xattr(ino, name.as_bytes())) {
                Ok(value) => reply_xattr(value, size, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    /// Not ENOSYS where there are none: that would read as "not supported", not as "none".
    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.guard(Operation::Listxattr, || {
            match self.rootfs.ino(ino.0).and_then(|ino| self.rootfs.xattr_names(ino)) {
                Ok(names) => reply_xattr(&names, size, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.guard(Operation::Lseek, || {
            let what = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                _ => return reply.error(Errno::EINVAL),
            };
            let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
            let ino = self.rootfs.ino(ino.0);
            match ino.and_then(|ino| self.rootfs.seek(ino, offset, what)) {
                Ok(position) => reply.offset(i64::try_from(position).unwrap_or(i64::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    /// Python asks every file that it opens whether it is a terminal.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.surroundings.counts.count(Operation::Ioctl);
        reply.error(Errno::ENOTTY);
    }

    /// Nothing is ever written; ENOSYS once, and closing a file is no message.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.surroundings.counts.count(Operation::Flush);
        reply.error(Errno::ENOSYS);
    }

    /// The kernel checks permissions itself (`default_permissions`).
    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        self.surroundings.counts.count(Operation::Access);
        reply.error(Errno::ENOSYS);
    }

    /// Inodes are the manifest's and stay.
    fn forget(&self, _: &Request, _: INodeNo, _: u64) {
        self.surroundings.counts.count(Operation::Forget);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.surroundings.counts.count(Operation::Release);
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.surroundings.counts.count(Operation::Releasedir);
        reply.ok();
    }

    /// Nothing is ever written; ENOSYS once, which callers see as success.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.surroundings.counts.count(Operation::Fsync);
        reply.error(Errno::ENOSYS);
    }

    /// As with files.
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.surroundings.counts.count(Operation::Fsyncdir);
        reply.error(Errno::ENOSYS);
    }
}

/// Answers with the value, or with its length where that is asked for.
fn reply_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    let Ok(len) = u32::try_from(value.len()) else { return reply.error(Errno::E2BIG) };
    if size == 0 {
        reply.size(len);
    } else if len <= size {
        reply.data(value);
    } else {
        reply.error(errno(&RootfsError::TooSmall));
    }
}

fn inode_no(ino: Ino) -> INodeNo {
    INodeNo(u64::from(ino.0))
}

/// What the kernel takes for "no such name".
const NO_ENTRY: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
    crtime: SystemTime::UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: BLOCK_LEN,
    flags: 0,
};

/// An image knows one time of each inode; the other two show the same.
fn file_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: inode_no(attributes.ino),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: attributes.mtime,
        mtime: attributes.mtime,
        ctime: attributes.mtime,
        crtime: attributes.mtime,
        kind: file_type(attributes.mode),
        perm: (attributes.mode & mode::PERMISSIONS) as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: device_number(attributes.rdev),
        blksize: BLOCK_LEN,
        flags: 0,
    }
}

/// FUSE carries 12 bits of major and 20 of minor number in the lower half of what `makedev(3)`
/// packs; the kernel has no more either.
#[expect(clippy::cast_possible_truncation, reason = "the upper half is beyond the kernel's range")]
fn device_number(rdev: u64) -> u32 {
    rdev as u32
}

fn file_type(mode: u32) -> FileType {
    match mode & mode::TYPE {
        mode::DIRECTORY => FileType::Directory,
        mode::SYMLINK => FileType::Symlink,
        mode::CHAR_DEVICE => FileType::CharDevice,
        mode::BLOCK_DEVICE => FileType::BlockDevice,
        mode::FIFO => FileType::NamedPipe,
        mode::SOCKET => FileType::Socket,
        _ => FileType::RegularFile,
    }
}
