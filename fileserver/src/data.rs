//! The data directory: one server at a time, one version of its layout.
//!
//! ```text
//! DATA/version           the layout's version
//! DATA/id                what passes name the server by
//! DATA/lock              held by the server that uses the directory
//! DATA/blobs/ab/cdef…    stored blobs, each in a file of its own
//! DATA/packs/N           stored blobs, many in one file
//! DATA/refs/…            refs
//! DATA/tmp/              files in the making; emptied at start
//! DATA/corrupt/          blobs that failed a check, put aside for whoever wants to know why
//! ```

use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use sway_server::token::random_hex;

/// The layout's version. Version N reads N and N−1; 1 had no packs.
pub const LAYOUT_VERSION: u32 = 2;

/// A data directory that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The filesystem.
    #[error("can't use the data directory {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server has it.
    #[error("another fileserver uses the data directory {0}")]
    Locked(PathBuf),
    /// From a newer Sway, or none of Sway's.
    #[error(
        "the data directory {path} has layout version {version:?}; this program knows \
         {LAYOUT_VERSION}: update sway"
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// What its version file says.
        version: String,
    },
}

/// An open data directory. Dropping it lets another server have it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: std::fs::File,
}

impl DataDir {
    /// Makes or opens a data directory, locks it, and removes what a crash left unfinished.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = std::fs::File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let data = Self { path: path.to_owned(), _lock: lock };
        for dir in [data.blobs(), data.packs(), data.refs(), data.tmp(), data.corrupt()] {
            fs::create_dir_all(dir).map_err(io)?;
        }
        for unfinished in fs::read_dir(data.tmp()).map_err(io)? {
            fs::remove_file(unfinished.map_err(io)?.path()).map_err(io)?;
        }
        data.check_version()?;
        Ok(data)
    }

    fn check_version(&self) -> Result<(), DataError> {
        let io = |source| DataError::Io { path: self.path.clone(), source };
        let path = self.path.join("version");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == LAYOUT_VERSION.to_string() => return Ok(()),
            // What version 2 adds is not there yet.
            Ok(text) if text.trim() == "1" => {}
            Ok(text) => {
                let version = text.trim().chars().take(16).collect();
                return Err(DataError::Version { path: self.path.clone(), version });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let text = format!("{LAYOUT_VERSION}\n");
        write_durably(&self.tmp(), &path, text.as_bytes()).map_err(io)
    }

    /// What tells the directory's server from others. Made once; nothing secret.
    pub fn id(&self) -> Result<String, DataError> {
        let io = |source| DataError::Io { path: self.path.clone(), source };
        let path = self.path.join("id");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = random_hex::<16>();
                write_durably(&self.tmp(), &path, format!("{id}\n").as_bytes()).map_err(io)?;
                Ok(id)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stored blobs, each in a file of its own.
    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// Stored blobs, many in one file.
    pub fn packs(&self) -> PathBuf {
        self.path.join("packs")
    }

    /// Refs.
    pub fn refs(&self) -> PathBuf {
        self.path.join("refs")
    }

    /// Files in the making.
    pub fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// Blobs that failed a check.
    pub fn corrupt(&self) -> PathBuf {
        self.path.join("corrupt")
    }
}

/// Writes a small file so that it is there whole, for good, or not at all.
pub(crate) fn write_durably(tmp: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(tmp)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(path.parent().expect("a file has a directory"))
}

/// Makes renames into and removals from a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataError::Locked(_))));
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_directory_keeps_its_id_and_no_other_has_it() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let id = |dir: &tempfile::TempDir| DataDir::open(dir.path()).unwrap().id().unwrap();
        assert_eq!(id(&one), id(&one));
        assert_ne!(id(&one), id(&two));
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        fs::write(dir.path().join("version"), "3\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("update sway"), "{error}");
    }

    #[test]
    fn the_first_layout_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("version"), "1\n").unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("version")).unwrap(), "2\n");
    }

    #[test]
    fn what_a_crash_left_unfinished_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        fs::write(dir.path().join("tmp/half"), "half").unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(data.tmp()).unwrap().count(), 0);
    }
}
