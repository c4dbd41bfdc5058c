//! The place of one run on the host: its directories and mounts, made and removed as one.
//!
//! ```text
//! jobs/<run>/             config.json, runc's pid file and log, files that are bound
//! jobs/<run>/data-<n>     a dataset with the job's owners
//! jobs/<run>/output       what the job calls /output
//! ```
//!
//! and for a job whose files hide more of the image than a file, so that no overlay of
//! [`super::overlay`] will do for it:
//!
//! ```text
//! jobs/<run>/skeleton     upper layer (see `skeleton`)
//! jobs/<run>/image        the image with the job's owners, only until the overlay holds it
//! /run/sway/<worker>/<run>/rootfs  the overlay: what the container calls /
//! ```
//!
//! The overlay lies outside the data directory because the container's root user, a stranger to
//! the host, must be able to walk the path to it; a data directory may be closed to others. The
//! directory above it is that user's own: to others of the host, a job's files are closed.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::bundle::Bundle;
use super::data;
use super::ids::IdRange;
use super::kernel;
use super::overlay::{Overlay, Overlays};
use super::skeleton;
use super::{Lower, RunError};
use crate::id_map::IdMaps;

/// Directories of one run.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// What runc is given as bundle; for the worker alone.
    pub(crate) home: PathBuf,
    /// Above the rootfs; for the container's root alone.
    pub(crate) place: PathBuf,
    /// The mounted rootfs, in there.
    pub(crate) rootfs: PathBuf,
}

impl Stage {
    /// Makes directories and mounts; the overlay is one that was used before where there is one.
    /// What it made before an error stays for [`Stage::remove`]. Blocks.
    pub(crate) fn make(
        &self,
        bundle: &mut Bundle<'_>,
        overlays: &Overlays,
        lower: &Lower,
        data: &data::Plan,
        ids: &IdMaps,
        range: &IdRange,
    ) -> Result<Option<Overlay>, RunError> {
        let step = |what: &'static str| move |source| RunError::Stage { what, source };
        private(&self.home).map_err(step("make the run's directories"))?;
        let overlay = match bundle.skeleton.hiding() {
            Some(hiding) => {
                let dir = self.place.parent().expect("a place lies in the worker's directory");
                let mut overlay = match overlays.take(lower, ids) {
                    Some(overlay) => overlay,
                    None => Overlay::make(dir, lower, ids, range, &bundle.skeleton)?,
                };
                overlay.furnish(&bundle.skeleton).map_err(step("write the job's own files"))?;
                for (number, names) in hiding.iter().enumerate() {
                    let source = self.home.join(format!("file-{number}"));
                    let written = bundle.skeleton.write_file(names, &source, ids);
                    written.map_err(step("write the job's own files"))?;
                    bundle.bind(&source, &skeleton::shown(names), "ro");
                }
                bundle.set_rootfs(&overlay.rootfs());
                Some(overlay)
            }
            None => {
                self.make_own(bundle, lower, ids, range)?;
                bundle.set_rootfs(&self.rootfs);
                None
            }
        };
        data::lay(data, &self.home, ids, range, bundle)?;
        fs_err::write(self.home.join("config.json"), bundle.config.to_string())
            .map_err(step("write the bundle"))?;
        Ok(overlay)
    }

    /// An overlay for this run alone.
    fn make_own(
        &self,
        bundle: &Bundle<'_>,
        lower: &Lower,
        ids: &IdMaps,
        range: &IdRange,
    ) -> Result<(), RunError> {
        let step = |what: &'static str| move |source| RunError::Stage { what, source };
        let (skeleton, mapped) = (self.home.join("skeleton"), self.home.join("image"));
        for path in [&skeleton, &mapped, &self.place] {
            private(path).map_err(step("make the run's directories"))?;
        }
        let root = ids.uids.outside(0).unwrap_or_else(|| range.base());
        std::os::unix::fs::chown(&self.place, Some(root), None)
            .and_then(|()| fs_err::create_dir(&self.rootfs))
            .map_err(step("make the run's mount point"))?;
        bundle.skeleton.write(&skeleton, ids).map_err(step("write the job's own files"))?;
        let image = match lower {
            Lower::Mapped(image) => image,
            Lower::ToMap(image) => {
                let namespace = range.user_namespace(ids).map_err(step("make a user namespace"))?;
                kernel::bind_idmapped(image, &mapped, namespace.as_fd())
                    .map_err(step("map the image's owners"))?;
                &mapped
            }
        };
        overlay(&skeleton, image, &self.rootfs).map_err(step("mount the job's overlay"))?;
        // The overlay has its own reference.
        unmount(&mapped).map_err(step("unmount the image from the run"))
    }

    /// Removes all of it, whatever there is. Blocks.
    pub(crate) fn remove(&self) -> io::Result<()> {
        unmount(&self.rootfs)?;
        unmount(&self.home.join("image"))?;
        data::unmount(&self.home)?;
        for result in [
            fs_err::remove_dir(&self.rootfs),
            fs_err::remove_dir(&self.place),
            fs_err::remove_dir_all(&self.home),
        ] {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// A read-only overlay: no upper directory, so nothing can be written.
fn overlay(skeleton: &Path, image: &Path, target: &Path) -> io::Result<()> {
    // xino: one device number for files and directories. The others: nothing in an image may
    // redirect a lookup.
    let options = format!(
        "lowerdir={}:{},xino=on,redirect_dir=nofollow,metacopy=off",
        escaped(skeleton)?,
        escaped(image)?
    );
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())?)
}

/// A path as overlayfs reads it within its options.
pub(crate) fn escaped(path: &Path) -> io::Result<String> {
    let path = path
        .to_str()
        .ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))?;
    Ok(path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,"))
}

/// Detaches a mount. Where there is none, that is fine.
pub(crate) fn unmount(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
