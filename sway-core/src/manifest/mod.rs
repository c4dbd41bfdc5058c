//! The whole file tree of one image, and how to run it.
//!
//! A [`Tree`] is what the exporter builds, layer by layer. A [`Manifest`] is the same tree laid
//! out flat for reading: numbered inodes, sorted directory entries, a table of unique chunks. Its
//! encoded form is a blob, so its digest names the image. [`Manifest::decode`] checks everything
//! that readers rely on, so none of them checks again.
//!
//! `format` has the bytes, `tree` the builder, `pages` the pages of files.

mod format;
mod pages;
mod tree;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::chunk::ChunkRef;
use crate::digest::Digest;

pub use format::{FORMAT_VERSION, ManifestError};
pub use pages::{PageRoots, PageSource};
pub(crate) use tree::is_file_name;
pub use tree::{FileContent, FilePiece, Metadata, NodeId, NodeKind, Tree, TreeError};

/// The longest name in a directory, in bytes (Linux `NAME_MAX`).
pub const NAME_LEN_MAX: usize = 255;

/// The longest symlink target, in bytes (Linux `PATH_MAX` without its NUL).
pub const SYMLINK_LEN_MAX: usize = 4095;

/// `st_mode`'s file type bits.
pub mod mode {
    /// Mask of the type bits.
    pub const TYPE: u32 = 0o170_000;
    /// Regular file.
    pub const REGULAR: u32 = 0o100_000;
    /// Directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// Symbolic link.
    pub const SYMLINK: u32 = 0o120_000;
    /// Character device.
    pub const CHAR_DEVICE: u32 = 0o020_000;
    /// Block device.
    pub const BLOCK_DEVICE: u32 = 0o060_000;
    /// Named pipe.
    pub const FIFO: u32 = 0o010_000;
    /// Unix domain socket.
    pub const SOCKET: u32 = 0o140_000;
    /// Permissions with setuid, setgid and sticky.
    pub const PERMISSIONS: u32 = 0o7_777;
}

/// How the image wants to be run: the part of the OCI image configuration that a runtime reads
/// (OCI image spec, "Image Configuration", `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    /// CPU architecture in Go's spelling, such as `amd64`.
    pub architecture: String,
    /// Operating system, `linux`.
    pub os: String,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Working directory, `/` where empty.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; root where empty.
    pub user: String,
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999, counted forward from `seconds`.
    pub nanoseconds: u32,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Full name, such as `security.capability`.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// Number of an inode: 1 is the root, as FUSE has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u32);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);

    fn index(self) -> usize {
        self.0 as usize - 1
    }
}

/// One inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links to it; for a directory 2 and one more for each subdirectory.
    pub nlink: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Set of extended attributes, an index; 0 is the empty set.
    pub(crate) xattr_set: u32,
    /// What its type adds.
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Regular { size: u64, extents: Range<usize> },
    Directory { parent: Ino, entries: Range<usize> },
    Symlink { target: Range<usize> },
    Device { rdev: u64 },
    Other,
}

impl Inode {
    /// The type bits of `mode`.
    pub fn file_type(&self) -> u32 {
        self.mode & mode::TYPE
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type() == mode::DIRECTORY
    }

    /// Whether this is a regular file.
    pub fn is_regular(&self) -> bool {
        self.file_type() == mode::REGULAR
    }

    /// `st_size`: bytes of a file, of a link's target, or 0.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Regular { size, .. } => *size,
            Body::Symlink { target } => target.len() as u64,
            Body::Directory { .. } | Body::Device { .. } | Body::Other => 0,
        }
    }

    /// `st_rdev` as `makedev(3)` packs it; 0 but for devices.
    pub fn rdev(&self) -> u64 {
        match self.body {
            Body::Device { rdev } => rdev,
            Body::Regular { .. } | Body::Directory { .. } | Body::Symlink { .. } | Body::Other => 0,
        }
    }

    /// Whether it has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.xattr_set != 0
    }
}

/// A run of equal pieces of a file. `start` and `count` are in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position in the file, in chunks.
    pub start: u32,
    /// How many chunks.
    pub count: u32,
    /// Where the bytes are.
    pub source: ExtentSource,
}

/// Where the bytes of an [`Extent`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentSource {
    /// `count` successive chunks of the chunk table, from this index on.
    Chunks(u32),
    /// Zeros.
    Hole,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Range<usize>,
    pub(crate) ino: Ino,
}

/// An image's tree, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) config: RunConfig,
    pub(crate) chunk_len: u32,
    pub(crate) page_roots: Option<Digest>,
    pub(crate) chunks: Vec<ChunkRef>,
    pub(crate) inodes: Vec<Inode>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) xattr_sets: Vec<Vec<Xattr>>,
    pub(crate) strings: Vec<u8>,
}

impl Manifest {
    /// How to run the image.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Bytes of a chunk, but for a file's last one.
    pub fn chunk_len(&self) -> u32 {
        self.chunk_len
    }

    /// The blob with the page roots of chunks; none where every chunk is one page.
    pub fn page_roots(&self) -> Option<Digest> {
        self.page_roots
    }

    /// All unique chunks, in the order of first appearance.
    pub fn chunks(&self) -> &[ChunkRef] {
        &self.chunks
    }

    /// Every blob that a reader of this manifest may ask for, the manifest itself excepted.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.chunks.iter().map(|chunk| chunk.digest).chain(self.page_roots)
    }

    /// How many inodes there are.
    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// All inodes with their numbers.
    pub fn inodes(&self) -> impl Iterator<Item = (Ino, &Inode)> {
        (1..).map(Ino).zip(&self.inodes)
    }

    /// Sum of the sizes of all regular files, each inode once, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let regular = self.inodes.iter().filter(|inode| inode.is_regular());
        regular.fold(0, |sum: u64, inode| sum.saturating_add(inode.size()))
    }

    /// An inode by number; none for numbers that this manifest does not have.
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get((ino.0 as usize).checked_sub(1)?)
    }

    /// The entry `name` of a directory.
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Option<Ino> {
        let entries = self.entry_slice(directory)?;
        let at = entries.binary_search_by(|entry| self.strings[entry.name.clone()].cmp(name));
        Some(entries[at.ok()?].ino)
    }

    /// The entries of a directory in byte order of their names, `.` and `..` not among them.
    /// None where `directory` is not one.
    pub fn entries(&self, directory: Ino) -> Option<impl ExactSizeIterator<Item = (&[u8], Ino)>> {
        let entries = self.entry_slice(directory)?;
        Some(entries.iter().map(|entry| (&self.strings[entry.name.clone()], entry.ino)))
    }

    /// One entry of a directory by its position, for `readdir` offsets.
    pub fn entry_at(&self, directory: Ino, position: usize) -> Option<(&[u8], Ino)> {
        let entry = self.entry_slice(directory)?.get(position)?;
        Some((&self.strings[entry.name.clone()], entry.ino))
    }

    fn entry_slice(&self, directory: Ino) -> Option<&[Entry]> {
        match &self.inode(directory)?.body {
            Body::Directory { entries, .. } => Some(&self.entries[entries.clone()]),
            Body::Regular { .. } | Body::Symlink { .. } | Body::Device { .. } | Body::Other => None,
        }
    }

    /// The directory that holds `directory`; the root holds itself.
    pub fn parent(&self, directory: Ino) -> Option<Ino> {
        match self.inode(directory)?.body {
            Body::Directory { parent, .. } => Some(parent),
            Body::Regular { .. } | Body::Symlink { .. } | Body::Device { .. } | Body::Other => None,
        }
    }

    /// The bytes of a symlink's target.
    pub fn symlink_target(&self, ino: Ino) -> Option<&[u8]> {
        match &self.inode(ino)?.body {
            Body::Symlink { target } => Some(&self.strings[target.clone()]),
            Body::Regular { .. } | Body::Directory { .. } | Body::Device { .. } | Body::Other => {
                None
            }
        }
    }

    /// The extended attributes of an inode, sorted by name.
    pub fn xattrs(&self, ino: Ino) -> &[Xattr] {
        self.inode(ino).map_or(&[], |inode| &self.xattr_sets[inode.xattr_set as usize])
    }

    /// Whether any inode has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.xattr_sets.len() > 1
    }

    /// The extents of a regular file, in order, without gaps; empty for everything else.
    pub fn extents(&self, ino: Ino) -> &[Extent] {
        match self.inode(ino).map(|inode| &inode.body) {
            Some(Body::Regular { extents, .. }) => &self.extents[extents.clone()],
            _ => &[],
        }
    }

    /// Walks a path of names from the root, following no links. `path` may start with `/`.
    pub fn resolve(&self, path: &[u8]) -> Option<Ino> {
        path.split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .try_fold(Ino::ROOT, |directory, name| self.lookup(directory, name))
    }

    /// Walks a path and follows symbolic links, up to 40 of them (Linux `MAXSYMLINKS`), never
    /// above the root.
    pub fn resolve_following(&self, path: &[u8]) -> Option<Ino> {
        let mut ancestors = vec![Ino::ROOT];
        let mut rest: Vec<Vec<u8>> = Vec::new();
        let push_parts = |rest: &mut Vec<Vec<u8>>, path: &[u8]| {
            rest.extend(path.rsplit(|&byte| byte == b'/').map(<[u8]>::to_vec));
        };
        push_parts(&mut rest, path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => {}
                b".." => {
                    if ancestors.len() > 1 {
                        ancestors.pop();
                    }
                }
                name => {
                    let found = self.lookup(*ancestors.last()?, name)?;
                    let Some(target) = self.symlink_target(found) else {
                        ancestors.push(found);
                        continue;
                    };
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        ancestors.truncate(1);
                    }
                    push_parts(&mut rest, target);
                }
            }
        }
        ancestors.pop()
    }

    /// A path that leads to the inode: for messages. Hard links have several; this is the first
    /// in the order of the tree. Walks all entries once, so it is not for hot paths.
    pub fn path_of(&self, ino: Ino) -> Option<Vec<u8>> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let name_in = |directory: Ino| {
                let mut entries = self.entries(directory)?;
                entries.find(|(_, child)| *child == at).map(|(name, _)| (directory, name))
            };
            // Directories know their parent, so that a deep tree costs no more than a flat one.
            let (directory, name) = match self.parent(at) {
                Some(parent) => name_in(parent)?,
                None => self.inodes().find_map(|(directory, _)| name_in(directory))?,
            };
            parts.push(name);
            at = directory;
        }
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        Some(if path.is_empty() { b"/".to_vec() } else { path })
    }

    /// What names a file's content whatever image it is in: the digest of its only chunk, or,
    /// for longer files, the SHA-1 of its size and extents (`docs/format.md`). Hashing the
    /// extents and not the bytes keeps a sparse file of 2 TiB as cheap as a small one, and
    /// exporting on all cores. None for everything but regular files, and for empty ones.
    pub fn content_id(&self, ino: Ino) -> Option<Digest> {
        let size = self.inode(ino).filter(|inode| inode.is_regular())?.size();
        let extents = self.extents(ino);
        if let [Extent { count: 1, source: ExtentSource::Chunks(chunk), .. }] = extents {
            return Some(self.chunks[*chunk as usize].digest);
        }
        if size == 0 {
            return None;
        }
        let mut hasher = crate::digest::Hasher::new();
        hasher.update(b"sway content 1\0");
        hasher.update(&self.chunk_len.to_le_bytes());
        hasher.update(&size.to_le_bytes());
        for extent in extents {
            match extent.source {
                ExtentSource::Hole => {
                    hasher.update(&[0]);
                    hasher.update(&extent.count.to_le_bytes());
                }
                ExtentSource::Chunks(first) => {
                    for chunk in &self.chunks[first as usize..][..extent.count as usize] {
                        hasher.update(&[1]);
                        hasher.update(chunk.digest.as_bytes());
                    }
                }
            }
        }
        Some(hasher.finish())
    }
}
