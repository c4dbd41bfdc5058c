//! The mounts of a container, made from within it: [`super::inside`] says when and why so.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::config::{FileSystem, Inside, Mount, Mounted};
use super::inside::{Failed, Step as _};
use super::sys;

/// Devices that every container has, bound from the host: a user namespace can't make any.
const DEVICES: [&str; 6] = ["null", "random", "full", "tty", "zero", "urandom"];

/// Links in `/dev`, and where they lead.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// `statfs` of files that are the kernel's own (linux/magic.h).
const PROC_MAGIC: u64 = 0x9fa0;

/// What is bound, ahead of everything else: in the order of the mounts that are binds.
pub(super) struct Binds {
    of_mounts: Vec<OwnedFd>,
}

/// Clones what is to be bound, with its flags.
pub(super) fn binds(plan: &Inside) -> Result<Binds, Failed> {
    let mut of_mounts = Vec::new();
    for Mount { target, what, attributes } in &plan.mounts {
        let Mounted::Bind(source) = what else { continue };
        let step = || format!("bind {} to {}", source.display(), target.display());
        let tree = clone_tree(CWD, source, false).step(&step())?;
        sys::set_mount_attributes(tree.as_fd(), *attributes, false).step(&step())?;
        of_mounts.push(tree);
    }
    Ok(Binds { of_mounts })
}

/// Makes all mounts, and the rootfs the root: nothing else is left of the tree that was.
pub(super) fn enter(plan: &Inside, binds: Binds) -> Result<(), Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step("make the mounts private")?;
    let root = clone_tree(CWD, &plan.rootfs, true).step("open the rootfs")?;
    sys::set_mount_attributes(root.as_fd(), libc::MOUNT_ATTR_RDONLY, true)
        .step("make the rootfs read-only")?;
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root.as_fd(), "", CWD, &plan.rootfs, from)
        .step("attach the rootfs")?;

    let mut binds = binds.of_mounts.into_iter();
    for mount in &plan.mounts {
        let step = || format!("mount {}", mount.target.display());
        let tree = match &mount.what {
            Mounted::Bind(_) => binds.next().ok_or(io::ErrorKind::NotFound).step(&step())?,
            Mounted::New(filesystem, settings) => {
                made(*filesystem, settings, mount.attributes).step(&step())?
            }
        };
        let is_directory = is_directory(tree.as_fd()).step(&step())?;
        let target = target(root.as_fd(), &mount.target, is_directory).step(&step())?;
        attach(&tree, &target).step(&step())?;
    }
    devices(root.as_fd())?;
    for path in &plan.readonly_paths {
        read_only(root.as_fd(), path).step(&format!("make {} read-only", path.display()))?;
    }
    for path in &plan.masked_paths {
        masked(root.as_fd(), path).step(&format!("mask {}", path.display()))?;
    }

    rustix::process::fchdir(root.as_fd()).step("enter the rootfs")?;
    rustix::process::pivot_root(".", ".").step("make the rootfs the root")?;
    // The old root lies on the new one; the working directory is in it.
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("detach the host's tree")?;
    rustix::process::chdir("/").step("enter the new root")
}

/// A copy of a mount, attached nowhere.
fn clone_tree(at: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(at, path, flags)?)
}

/// A new file system, attached nowhere.
fn made(
    filesystem: FileSystem,
    settings: &[(String, Option<String>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(filesystem.name(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", filesystem.name())?;
    for (name, value) in settings {
        match value {
            Some(value) => {
                rustix::mount::fsconfig_set_string(context.as_fd(), name.as_str(), value.as_str())?;
            }
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), name.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = u32::try_from(attributes).map_err(io::Error::other)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes);
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(context.as_fd(), flags, attributes)?)
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree.as_fd(), "", target.as_fd(), "", flags)?)
}

fn is_directory(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Directory)
}

/// Opens a path as it is within the rootfs, whatever links say.
fn open_within(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // The kernel's own files, and what stands before them: at their very paths.
    if path.starts_with("proc") || path.starts_with("dev") {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // Lookups that race with renames elsewhere have to be made again.
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// What is to be mounted on; made where it is missing, which is possible on the container's own
/// file systems alone: the rootfs is read-only.
fn target(root: BorrowedFd<'_>, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let target = match open_within(root, path) {
        Err(Errno::NOENT) => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let parent = open_within(root, parent)?;
            if is_directory {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o755))?;
            }
            open_within(root, path)?
        }
        result => result?,
    };
    // Nothing may stand before a file of the kernel, except to hide it.
    let kind = rustix::fs::fstatfs(&target)?.f_type;
    if u64::try_from(kind).is_ok_and(|kind| kind == PROC_MAGIC) {
        return Err(io::Error::other("it leads into /proc"));
    }
    Ok(target)
}

/// What `/dev` has beside mounts of its own.
fn devices(root: BorrowedFd<'_>) -> Result<(), Failed> {
    for name in DEVICES {
        let step = format!("bind the device {name}");
        let path = Path::new("/dev").join(name);
        let tree = clone_tree(CWD, &path, false).step(&step)?;
        let stat = rustix::fs::fstat(&tree).step(&step)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return Err(io::Error::other("the host has something else there")).step(&step);
        }
        let target = target(root, &path, false).step(&step)?;
        attach(&tree, &target).step(&step)?;
    }
    let dev = open_within(root, Path::new("/dev")).step("open /dev")?;
    let core = rustix::fs::stat("/proc/kcore").is_ok().then_some(("core", "/proc/kcore"));
    for (name, target) in LINKS.into_iter().chain(core).chain([("ptmx", "pts/ptmx")]) {
        rustix::fs::symlinkat(target, &dev, name).step(&format!("make the link /dev/{name}"))?;
    }
    Ok(())
}

/// Binds a path on itself, with all that lies below it, to take the right to write away.
fn read_only(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(found) = existing(root, path)? else { return Ok(()) };
    let tree = clone_tree(found.as_fd(), Path::new(""), true)?;
    sys::set_mount_attributes(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, false)?;
    attach(&tree, &found)
}

/// Puts something empty before a path.
fn masked(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(found) = existing(root, path)? else { return Ok(()) };
    let tree = if is_directory(found.as_fd())? {
        made(FileSystem::Tmpfs, &[("ro".to_owned(), None)], libc::MOUNT_ATTR_RDONLY)?
    } else {
        // The container's own, so that it is the device that was checked.
        let null = open_within(root, Path::new("/dev/null"))?;
        clone_tree(null.as_fd(), Path::new(""), false)?
    };
    attach(&tree, &found)
}

/// Where there is such a path at all.
fn existing(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match open_within(root, path) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens the container's `/dev/null` for a program that reads nothing.
pub(super) fn null_as_stdin() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::become_stdin(null)
}
