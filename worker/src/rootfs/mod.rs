//! The read-only tree that a manifest describes, with no kernel in it.
//!
//! Names and attributes come from the manifest and never wait. Content comes by chunk: a read
//! makes a plan ([`sway_core::read_plan`]), and either all of it is in memory
//! ([`Rootfs::read_from_memory`]) or it is waited for ([`Rootfs::read`]). Sequential readers are
//! read ahead for (`sequence`); what else is fetched that nobody asked for, [`crate::predict`]
//! guesses, which is told of first reads and of misses.

mod holes;
mod sequence;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sway_core::blob::Blob;
use sway_core::manifest::{Ino, Inode, Manifest, NAME_LEN_MAX, Timestamp};
use sway_core::read_plan::{Slice, read_plan};

use crate::account::RunAccount;
use crate::cache::{Chunks, Part};
use crate::fetch::FetchError;
use crate::predict::Predictor;
use holes::Holes;
use sequence::Sequences;

/// The longest path in a message, in bytes.
const PATH_LEN_MAX: usize = 4096;

/// Why a rootfs does not answer as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RootfsError {
    /// No inode of this number.
    #[error("no inode {0}")]
    NoInode(u64),
    /// No such name in a directory.
    #[error("no such entry")]
    NoEntry,
    /// A name that no directory can hold.
    #[error("a name longer than {NAME_LEN_MAX} bytes")]
    NameTooLong,
    /// An inode that has no entries.
    #[error("not a directory")]
    NotADirectory,
    /// A directory, read like a file.
    #[error("a directory has no content")]
    IsADirectory,
    /// An inode that has no target.
    #[error("not a symbolic link")]
    NotALink,
    /// An inode that has no content.
    #[error("not a regular file")]
    NotAFile,
    /// No extended attribute of this name.
    #[error("no such attribute")]
    NoAttribute,
    /// The answer is longer than what was asked for.
    #[error("the buffer is too small")]
    TooSmall,
    /// A position beyond what there is.
    #[error("no data there")]
    NoData,
    /// The content could not be had.
    #[error(transparent)]
    Unreadable(#[from] FetchError),
}

/// What `lstat` shows of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Number.
    pub ino: Ino,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes: holes have none.
    pub blocks: u64,
    /// Device number as `makedev(3)` packs it.
    pub rdev: u64,
    /// Modification time, to the nanosecond.
    pub mtime: SystemTime,
}

/// Figures of the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Bytes that answer a read.
#[derive(Clone, Debug)]
pub enum Content {
    /// A part of one chunk, uncopied.
    Slice(Blob, Range<usize>),
    /// Gathered from several places.
    Gathered(Vec<u8>),
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Slice(blob, range) => &blob.as_ref()[range.clone()],
            Self::Gathered(bytes) => bytes,
        }
    }
}

/// Where the next data or hole of a file is (`lseek(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// One image's tree.
#[derive(Debug)]
pub struct Rootfs {
    manifest: Arc<Manifest>,
    chunks: Arc<Chunks>,
    statistics: Statistics,
    holes: Holes,
    sequences: Sequences,
    predictor: Option<Arc<Predictor>>,
}

impl Rootfs {
    /// The tree of `manifest` over `chunks`.
    pub fn new(manifest: Arc<Manifest>, chunks: Arc<Chunks>) -> Self {
        let statistics =
            Statistics { size_bytes: manifest.size_bytes(), inodes: manifest.inode_count() as u64 };
        let sequences = Sequences::new(u64::from(manifest.chunk_len()));
        let holes = Holes::of(&manifest);
        let predictor = chunks
            .predict()
            .map(|config| Predictor::new(Arc::clone(&manifest), Arc::clone(&chunks), config));
        Self { manifest, chunks, statistics, holes, sequences, predictor }
    }

    /// Who guesses what is read next, if anybody does.
    pub fn predictor(&self) -> Option<&Arc<Predictor>> {
        self.predictor.as_ref()
    }

    /// The manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Where its contents come from.
    pub fn chunks(&self) -> &Arc<Chunks> {
        &self.chunks
    }

    /// Turns a number from outside into an inode's.
    pub fn ino(&self, number: u64) -> Result<Ino, RootfsError> {
        let ino = u32::try_from(number).map(Ino).map_err(|_| RootfsError::NoInode(number))?;
        self.inode(ino).map(|_| ino)
    }

    /// Finds a name in a directory; `.` and `..` too.
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Attributes, RootfsError> {
        if !self.inode(directory)?.is_directory() {
            return Err(RootfsError::NotADirectory);
        }
        if name.len() > NAME_LEN_MAX {
            return Err(RootfsError::NameTooLong);
        }
        let found = match name {
            b"." => Some(directory),
            b".." => self.manifest.parent(directory),
            name => self.manifest.lookup(directory, name),
        };
        self.attributes(found.ok_or(RootfsError::NoEntry)?)
    }

    /// What `lstat` shows.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, RootfsError> {
        let inode = self.inode(ino)?;
        Ok(Attributes {
            ino,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size(),
            blocks: (inode.size() - self.holes.bytes(ino)).div_ceil(512),
            rdev: inode.rdev(),
            mtime: system_time(inode.mtime),
        })
    }

    /// The entries of a directory from `position` on: `.`, `..`, then all names in byte order.
    /// Each comes with the position that follows it.
    pub fn entries(
        &self,
        directory: Ino,
        position: u64,
    ) -> Result<impl Iterator<Item = (u64, Ino, &[u8])>, RootfsError> {
        let entries = self.manifest.entries(directory);
        let entries = match entries {
            Some(entries) => entries,
            None => {
                self.inode(directory)?;
                return Err(RootfsError::NotADirectory);
            }
        };
        let parent = self.manifest.parent(directory).unwrap_or(Ino::ROOT);
        let dots = [(&b"."[..], directory), (b"..", parent)];
        let skip = usize::try_from(position).unwrap_or(usize::MAX);
        let all = dots.into_iter().chain(entries).skip(skip);
        let following = position.saturating_add(1)..;
        Ok(all.zip(following).map(|((name, ino), next)| (next, ino, name)))
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], RootfsError> {
        self.inode(ino)?;
        self.manifest.symlink_target(ino).ok_or(RootfsError::NotALink)
    }

    /// The value of an extended attribute, but of none that would speak to overlayfs.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<&[u8], RootfsError> {
        self.inode(ino)?;
        let mut xattrs = self.manifest.xattrs(ino).iter();
        let found = xattrs.find(|xattr| xattr.name == name && !is_for_overlayfs(name));
        found.map(|xattr| &xattr.value[..]).ok_or(RootfsError::NoAttribute)
    }

    /// The names of all extended attributes that [`Rootfs::xattr`] tells, each with a NUL behind
    /// it.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, RootfsError> {
        self.inode(ino)?;
        let mut names = Vec::new();
        let xattrs = self.manifest.xattrs(ino).iter();
        for xattr in xattrs.filter(|xattr| !is_for_overlayfs(&xattr.name)) {
            names.extend_from_slice(&xattr.name);
            names.push(0);
        }
        Ok(names)
    }

    /// What `statfs` shows.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The next data or hole of a file at or behind `offset`.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, RootfsError> {
        let size = self.regular(ino)?.size();
        if offset >= size {
            return Err(RootfsError::NoData);
        }
        let hole = self.holes.next(ino, offset);
        let is_in_hole = hole.is_some_and(|hole| hole.start <= offset);
        match what {
            Seek::Data => match hole.filter(|_| is_in_hole) {
                Some(hole) if hole.end == size => Err(RootfsError::NoData),
                Some(hole) => Ok(hole.end),
                None => Ok(offset),
            },
            // The end of every file counts as a hole.
            Seek::Hole => Ok(hole.map_or(size, |hole| hole.start.max(offset))),
        }
    }

    /// Answers a read if all of it is in memory; none if it has to be waited for. Counts what it
    /// answers.
    pub fn read_from_memory(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        account: &Arc<RunAccount>,
    ) -> Result<Option<Content>, RootfsError> {
        self.regular(ino)?;
        let plan = read_plan(&self.manifest, ino, offset, len);
        let parts = self.parts(&plan);
        let mut blobs = Vec::with_capacity(parts.len());
        for part in &parts {
            match self.chunks.try_memory(part.chunk) {
                Some(blob) if blob.bytes().len() == part.chunk.len as usize => blobs.push(blob),
                // A chunk of another length than the manifest's is the slow path's to tell.
                _ => return Ok(None),
            }
        }
        parts.iter().for_each(|part| account.memory_hit(part.bytes));
        if let Some(predictor) = &self.predictor {
            predictor.touched(ino);
        }
        self.read_ahead(ino, offset, len, account);
        Ok(Some(gather(&plan, blobs)))
    }

    /// Answers a read, and waits for what is not in memory; ends within the read deadline.
    pub async fn read(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        account: &Arc<RunAccount>,
    ) -> Result<Content, RootfsError> {
        self.regular(ino)?;
        if let Some(predictor) = &self.predictor {
            predictor.missed(ino, offset, len, account);
        }
        self.read_coming(ino, offset, len, account).await
    }

    /// Like [`Rootfs::read`], of what a start brings, but too late for this read: nothing more is
    /// guessed from it.
    pub async fn read_coming(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        account: &Arc<RunAccount>,
    ) -> Result<Content, RootfsError> {
        self.regular(ino)?;
        let plan = read_plan(&self.manifest, ino, offset, len);
        let parts = self.parts(&plan);
        if let Some(predictor) = &self.predictor {
            predictor.touched(ino);
        }
        self.read_ahead(ino, offset, len, account);
        let blobs = self.chunks.read(&parts, account).await?;
        Ok(gather(&plan, blobs))
    }

    /// A path that leads to `ino`, for messages; the end of it where it is longer than any that
    /// a program can use (Linux `PATH_MAX`), as an image's may be.
    pub fn path_of(&self, ino: Ino) -> String {
        let Some(path) = self.manifest.path_of(ino) else { return format!("inode {}", ino.0) };
        let start = path.len().saturating_sub(PATH_LEN_MAX);
        path[start..].escape_ascii().to_string()
    }

    fn inode(&self, ino: Ino) -> Result<&Inode, RootfsError> {
        self.manifest.inode(ino).ok_or(RootfsError::NoInode(u64::from(ino.0)))
    }

    fn regular(&self, ino: Ino) -> Result<&Inode, RootfsError> {
        let inode = self.inode(ino)?;
        if inode.is_directory() {
            Err(RootfsError::IsADirectory)
        } else if inode.is_regular() {
            Ok(inode)
        } else {
            Err(RootfsError::NotAFile)
        }
    }

    fn parts(&self, plan: &[Slice]) -> Vec<Part> {
        let chunks = self.manifest.chunks();
        let part = |slice: &Slice| match slice {
            Slice::Chunk { chunk, range } => {
                Some(Part { chunk: chunks[*chunk as usize], bytes: range.len() as u64 })
            }
            Slice::Zeros(_) => None,
        };
        plan.iter().filter_map(part).collect()
    }

    fn read_ahead(&self, ino: Ino, offset: u64, len: usize, account: &Arc<RunAccount>) {
        let Some(window) = self.sequences.observe(ino, offset, len as u64) else { return };
        let window_len = usize::try_from(window.end - window.start).unwrap_or(0);
        let plan = read_plan(&self.manifest, ino, window.start, window_len);
        let chunks: Vec<_> = self.parts(&plan).into_iter().map(|part| part.chunk).collect();
        self.chunks.prefetch(&chunks, account);
    }
}

/// Carries out a plan. `blobs` are those of its chunk slices, in order, of the planned lengths.
fn gather(plan: &[Slice], blobs: Vec<Blob>) -> Content {
    let mut blobs = blobs.into_iter();
    let mut next = || blobs.next().expect("one blob for each chunk slice of the plan");
    if let [Slice::Chunk { range, .. }] = plan {
        return Content::Slice(next(), range.clone());
    }
    let mut bytes = Vec::with_capacity(plan.iter().map(Slice::len).sum());
    for slice in plan {
        match slice {
            Slice::Zeros(len) => bytes.resize(bytes.len() + len, 0),
            Slice::Chunk { range, .. } => bytes.extend_from_slice(&next().as_ref()[range.clone()]),
        }
    }
    Content::Gathered(bytes)
}

/// Whether overlayfs takes an attribute for its own word about a file. An image is a lower layer
/// of jobs and must have no say there; exports drop them, and a manifest may come from elsewhere.
fn is_for_overlayfs(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Exact also before 1970; times that the clock's type can't hold become 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(u64::from(time.nanoseconds))))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
