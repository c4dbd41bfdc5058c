//! Directories to mount at: a fresh one for each mount.
//!
//! A mount is taken away by its path. Were that path used again, a mount that ends late would take
//! its successor away; so no two mounts share one, and it goes with its mount.

use std::io;
use std::path::{Path, PathBuf};

/// A directory to mount at. One that was made for it is removed when this is dropped.
#[derive(Debug)]
pub struct Mountpoint {
    path: PathBuf,
    is_own: bool,
}

impl Mountpoint {
    /// A new directory in `dir`, which is made if it is missing. Its name begins with `name`.
    pub fn fresh(dir: &Path, name: &str) -> io::Result<Self> {
        fs_err::create_dir_all(dir)?;
        let made = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(dir)?;
        // Not to be removed with all that is in it: that could be a mount.
        Ok(Self { path: made.keep(), is_own: true })
    }

    /// A directory of somebody else, which stays.
    pub fn existing(path: PathBuf) -> Self {
        Self { path, is_own: false }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory if it was made for its mount, which must be gone.
    pub(super) fn remove(&self) {
        if !self.is_own {
            return;
        }
        match std::fs::remove_dir(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove a mountpoint");
            }
        }
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountpoints_of_one_name_differ_and_go_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = dir.path().join("mounts");
        let first = Mountpoint::fresh(&mounts, "image").unwrap();
        let second = Mountpoint::fresh(&mounts, "image").unwrap();
        assert_ne!(first.path(), second.path());
        drop(first);
        assert!(second.path().is_dir());
        drop(second);
        drop(Mountpoint::existing(mounts.clone()));
        assert_eq!(std::fs::read_dir(mounts).unwrap().count(), 0);
    }
}
