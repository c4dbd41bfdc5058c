//! Overlays over an image that jobs use one after the other.
//!
//! A new overlay asks the filesystem below for everything once: a STATFS, a GETXATTR for each file
//! that is looked at. So an overlay is kept when its job has ended, and the next job with the same
//! ids finds what the kernel knows of the image. Its upper layer is on a tmpfs of its own. The
//! worker writes a job's files through the overlay and removes them afterwards; the container gets
//! a read-only bind of it. What jobs must not see of each other goes with [`Overlay::reset`],
//! which checks the upper layer; an overlay that fails the check is not used again.
//!
//! ```text
//! /run/sway/<worker>/overlay-<n>/rootfs        read-only: what the container calls /
//! /run/sway/<worker>/overlay-<n>.own/upper     the skeleton, see there
//!                                   /work      overlayfs' own
//!                                   /rootfs    the overlay: the worker alone walks here
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::ids::IdRange;
use super::kernel;
use super::skeleton::{Names, Skeleton};
use super::stage::{escaped, unmount};
use super::{Lower, RunError};
use crate::id_map::IdMaps;

/// Overlays of one image that wait for a job. Each costs the kernel what it remembers of the files
/// that were used through it.
const IDLE_MAX: usize = 32;

/// Bytes of a tmpfs of job's files; what a request may bring is less.
const UPPER_BYTES: &str = "size=512m,mode=700";

/// Numbers of this process' overlays.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Overlays of one image that wait for a job. They go with the image's mount: this value belongs
/// to it.
#[derive(Debug, Default)]
pub struct Overlays {
    idle: Mutex<Vec<Overlay>>,
}

impl Overlays {
    /// One that an earlier job with these ids left.
    pub(crate) fn take(&self, lower: &Lower, ids: &IdMaps) -> Option<Overlay> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().rposition(|overlay| overlay.lower == *lower && overlay.ids == *ids)?;
        Some(idle.remove(at))
    }

    /// Keeps one that was reset. Where there are too many, the one that waited longest goes.
    pub(crate) fn give_back(&self, overlay: Overlay) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(overlay);
        let gone = (idle.len() > IDLE_MAX).then(|| idle.remove(0));
        drop(idle);
        drop(gone);
    }

    /// Unmounts those that wait.
    pub fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(idle);
    }
}

/// An overlay over an image, of one job at a time. Dropping it unmounts.
#[derive(Debug)]
pub(crate) struct Overlay {
    lower: Lower,
    ids: IdMaps,
    /// For the container's root alone.
    place: PathBuf,
    /// For the worker alone.
    own: PathBuf,
    /// What the upper layer has while no job uses it; the mark is for directories.
    resting: BTreeMap<Names, bool>,
    /// What the job brought, in order.
    brought: Vec<(Names, bool)>,
    /// Directories of the image to which this job or earlier ones gave other owners or permissions.
    changed: BTreeSet<Names>,
}

impl Overlay {
    /// Makes one below `dir`, with all of `skeleton` that does not depend on the job. Blocks.
    pub(crate) fn make(
        dir: &Path,
        lower: &Lower,
        ids: &IdMaps,
        range: &IdRange,
        skeleton: &Skeleton<'_>,
    ) -> Result<Self, RunError> {
        let step = |what: &'static str| move |source| RunError::Stage { what, source };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let overlay = Self {
            lower: lower.clone(),
            ids: ids.clone(),
            place: dir.join(format!("overlay-{number}")),
            own: dir.join(format!("overlay-{number}.own")),
            resting: skeleton.resting(),
            brought: Vec::new(),
            changed: BTreeSet::new(),
        };
        overlay.lay(range, skeleton).map_err(step("mount the job's overlay"))?;
        Ok(overlay)
    }

    fn lay(&self, range: &IdRange, skeleton: &Skeleton<'_>) -> io::Result<()> {
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        private(&self.place)?;
        private(&self.own)?;
        let root = self.ids.uids.outside(0).unwrap_or_else(|| range.base());
        std::os::unix::fs::chown(&self.place, Some(root), None)?;
        fs_err::create_dir(self.rootfs())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let size = std::ffi::CString::new(UPPER_BYTES)?;
        rustix::mount::mount("sway", &self.own, "tmpfs", flags, size.as_c_str())?;
        rustix::mount::mount_change(&self.own, MountPropagationFlags::PRIVATE)?;
        let (upper, work) = (self.own.join("upper"), self.own.join("work"));
        let (image, writable) = (self.own.join("image"), self.writable());
        for path in [&upper, &work, &image, &writable] {
            private(path)?;
        }
        skeleton.write_resting(&upper, &self.ids)?;
        let below = match &self.lower {
            Lower::Mapped(image) => image,
            Lower::ToMap(unmapped) => {
                let namespace = range.user_namespace(&self.ids)?;
                kernel::bind_idmapped(unmapped, &image, namespace.as_fd())?;
                &image
            }
        };
        // xino: one device number for files and directories. The others: nothing in an image may
        // redirect a lookup.
        let options = format!(
            "lowerdir={},upperdir={},workdir={},xino=on,redirect_dir=nofollow,metacopy=off,index=off",
            escaped(below)?,
            escaped(&upper)?,
            escaped(&work)?,
        );
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("overlay", &writable, "overlay", flags, options.as_c_str())?;
        // The overlay has its own reference.
        unmount(&image)?;
        rustix::mount::mount_bind(&writable, self.rootfs())?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        Ok(rustix::mount::mount_remount(self.rootfs(), flags, "")?)
    }

    /// What the container calls `/`.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.place.join("rootfs")
    }

    fn writable(&self) -> PathBuf {
        self.own.join("rootfs")
    }

    /// Writes a job's own files. Blocks.
    pub(crate) fn furnish(&mut self, skeleton: &Skeleton<'_>) -> io::Result<()> {
        let writable = self.writable();
        let Self { ids, resting, brought, changed, .. } = self;
        skeleton.furnish(&writable, ids, resting, brought, changed)
    }

    /// Removes what the job brought. False where something of it, or anything else, is left.
    /// Blocks.
    pub(crate) fn reset(&mut self) -> bool {
        let writable = self.writable();
        for (names, is_directory) in std::mem::take(&mut self.brought).iter().rev() {
            let path = super::skeleton::host_path(&writable, names);
            let removed =
                if *is_directory { fs_err::remove_dir(path) } else { fs_err::remove_file(path) };
            if let Err(error) = removed {
                tracing::error!(%error, "an overlay is not used again");
                return false;
            }
        }
        match found(&self.own.join("upper")) {
            Ok(found) if found == self.resting => true,
            Ok(found) => {
                let odd = found.keys().find(|names| !self.resting.contains_key(*names));
                tracing::error!(?odd, "an overlay holds what it should not, and is not used again");
                false
            }
            Err(error) => {
                tracing::error!(%error, "an overlay can't be checked, and is not used again");
                false
            }
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let unmounted = [self.rootfs(), self.writable(), self.own.join("image"), self.own.clone()];
        for path in &unmounted {
            if let Err(error) = unmount(path) {
                tracing::error!(%error, path = %path.display(), "an overlay stays mounted");
                return;
            }
        }
        for path in [self.rootfs(), self.place.clone(), self.own.clone()] {
            match fs_err::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%error, "an overlay's directory is left");
                }
                _ => {}
            }
        }
    }
}

/// All that lies below a directory; the mark is for directories.
fn found(upper: &Path) -> io::Result<BTreeMap<Names, bool>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut all = BTreeMap::from([(Names::new(), true)]);
    let mut open = vec![(Names::new(), upper.to_owned())];
    while let Some((names, directory)) = open.pop() {
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            let mut names = names.clone();
            names.push(entry.file_name().as_bytes().to_vec());
            let is_directory = entry.file_type()?.is_dir();
            if is_directory {
                open.push((names.clone(), entry.path()));
            }
            all.insert(names, is_directory);
        }
    }
    Ok(all)
}
