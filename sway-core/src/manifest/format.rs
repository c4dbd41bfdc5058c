//! The bytes of a manifest, version 2. `docs/format.md` specifies them; integers are little
//! endian. Decoding copies into tables and checks every promise that [`Manifest`] makes.

use std::collections::HashSet;
use std::ops::Range;

use super::{
    Body, Entry, Extent, ExtentSource, Ino, Inode, Manifest, RunConfig, SYMLINK_LEN_MAX, Timestamp,
    Xattr, mode, tree,
};
use crate::blob::BLOB_LEN_MAX;
use crate::chunk::{ChunkRef, PAGE_LEN};
use crate::digest::{DIGEST_LEN, Digest};

/// The version that is written. Version N reads N and N−1.
pub const FORMAT_VERSION: u8 = 2;

/// Had hashes of pieces of 16 KiB where there are page roots now. Its images are read as ever and
/// have no page roots.
const VERSION_1: u8 = 1;

const MAGIC: &[u8; 8] = b"SWAYMNF\0";
const HOLE: u32 = u32::MAX;
const CHUNK_LEN_MAX: u32 = 16 << 20;

/// Bytes that are not a manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Something else, or cut short.
    #[error("not a manifest: {0}")]
    Invalid(String),
    /// From a newer Sway.
    #[error(
        "manifest version {0} is newer than this program knows ({FORMAT_VERSION}): update sway"
    )]
    Newer(u8),
    /// Longer than a blob may be.
    #[error("the manifest would have {0} bytes; at most {BLOB_LEN_MAX} are possible")]
    TooLong(usize),
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, ManifestError> {
    Err(ManifestError::Invalid(reason.into()))
}

impl Manifest {
    /// The bytes whose digest names the image.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let config = serde_json::to_vec(&self.config).expect("strings always serialise");
        let mut out = Writer(Vec::with_capacity(self.inodes.len() * 96 + 4096));
        out.0.extend_from_slice(MAGIC);
        out.0.extend_from_slice(&[FORMAT_VERSION, 0, 0, 0]);
        out.u32(self.chunk_len);
        out.u32(PAGE_LEN);
        let page_roots = self.page_roots.map_or([0; DIGEST_LEN], |digest| *digest.as_bytes());
        out.0.extend_from_slice(&page_roots);
        for len in [
            config.len(),
            self.chunks.len(),
            self.inodes.len(),
            self.entries.len(),
            self.extents.len(),
            self.xattr_sets.len() - 1,
            self.strings.len(),
        ] {
            out.len(len)?;
        }
        out.0.extend_from_slice(&config);
        for chunk in &self.chunks {
            out.0.extend_from_slice(chunk.digest.as_bytes());
            out.u32(chunk.len);
        }
        for inode in &self.inodes {
            out.inode(inode)?;
        }
        for entry in &self.entries {
            out.range(&entry.name)?;
            out.u32(entry.ino.0);
        }
        for extent in &self.extents {
            out.u32(extent.count);
            out.u32(match extent.source {
                ExtentSource::Chunks(first) => first,
                ExtentSource::Hole => HOLE,
            });
        }
        for set in &self.xattr_sets[1..] {
            out.len(set.len())?;
            for Xattr { name, value } in set {
                out.len(name.len())?;
                out.len(value.len())?;
                out.0.extend_from_slice(name);
                out.0.extend_from_slice(value);
            }
        }
        out.0.extend_from_slice(&self.strings);
        if out.0.len() > BLOB_LEN_MAX {
            return Err(ManifestError::TooLong(out.0.len()));
        }
        Ok(out.0)
    }

    /// Reads and checks a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut input = Reader(bytes);
        if input.take(MAGIC.len())? != MAGIC {
            return invalid("it starts with other bytes");
        }
        let version = match input.take(4)? {
            [version @ (VERSION_1 | FORMAT_VERSION), 0, 0, 0] => *version,
            [version, ..] if *version > FORMAT_VERSION => {
                return Err(ManifestError::Newer(*version));
            }
            other => return invalid(format!("unknown version bytes {other:?}")),
        };
        let chunk_len = input.u32()?;
        let page_len = input.u32()?;
        if !chunk_len.is_power_of_two() || !(4096..=CHUNK_LEN_MAX).contains(&chunk_len) {
            return invalid(format!("chunk length {chunk_len}"));
        }
        if version == FORMAT_VERSION && page_len != PAGE_LEN {
            return invalid(format!("page length {page_len}"));
        }
        let page_roots = input.digest()?;
        let has_roots = version == FORMAT_VERSION && page_roots.as_bytes() != &[0; DIGEST_LEN];
        let page_roots = has_roots.then_some(page_roots);
        let config_len = input.len()?;
        let chunk_count = input.len()?;
        let inode_count = input.len()?;
        let entry_count = input.len()?;
        let extent_count = input.len()?;
        let xattr_set_count = input.len()?;
        let string_len = input.len()?;

        let config: RunConfig = serde_json::from_slice(input.take(config_len)?)
            .or_else(|error| invalid(format!("run configuration: {error}")))?;
        let chunks = input.table(chunk_count, 24, |input| input.chunk(chunk_len))?;
        // Bodies hold positions until the tables that they point into are known.
        let raw_inodes = input.table(inode_count, 56, Reader::inode)?;
        let entries = input.table(entry_count, 12, |input| input.entry(string_len, inode_count))?;
        let mut extents = input.table(extent_count, 8, |input| input.extent(chunk_count))?;
        let mut xattr_sets = vec![Vec::new()];
        xattr_sets.extend(input.table(xattr_set_count, 4, Reader::xattr_set)?);
        let strings = input.take(string_len)?.to_vec();
        if !input.0.is_empty() {
            return invalid(format!("{} bytes follow the last section", input.0.len()));
        }

        let mut check = Check {
            chunk_len,
            chunks: &chunks,
            short_before: short_before(&chunks, chunk_len),
            entries: &entries,
            strings: &strings,
            extents: &mut extents,
            next_entry: 0,
            next_extent: 0,
        };
        let mut inodes = Vec::with_capacity(inode_count);
        for raw in &raw_inodes {
            if raw.xattr_set as usize >= xattr_sets.len() {
                return invalid("an inode with unknown extended attributes");
            }
            inodes.push(check.inode(raw)?);
        }
        if check.next_entry != entry_count || check.next_extent != extent_count {
            return invalid("entries or extents that belong to no inode");
        }
        link(&mut inodes, &entries)?;
        Ok(Self {
            config,
            chunk_len,
            page_roots,
            chunks,
            inodes,
            entries,
            extents,
            xattr_sets,
            strings,
        })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn len(&mut self, len: usize) -> Result<(), ManifestError> {
        self.u32(u32::try_from(len).map_err(|_| ManifestError::TooLong(len))?);
        Ok(())
    }

    fn range(&mut self, range: &Range<usize>) -> Result<(), ManifestError> {
        self.len(range.start)?;
        self.len(range.len())
    }

    /// 56 bytes: mode, uid, gid, xattr set, seconds, nanoseconds, then two positions and a
    /// number whose meaning the type gives.
    fn inode(&mut self, inode: &Inode) -> Result<(), ManifestError> {
        self.u32(inode.mode);
        self.u32(inode.uid);
        self.u32(inode.gid);
        self.u32(inode.xattr_set);
        self.0.extend_from_slice(&inode.mtime.seconds.to_le_bytes());
        self.u32(inode.mtime.nanoseconds);
        self.u32(0);
        let (range, number) = match &inode.body {
            Body::Regular { size, extents } => (extents.clone(), *size),
            Body::Directory { entries, .. } => (entries.clone(), 0),
            Body::Symlink { target } => (target.clone(), 0),
            Body::Device { rdev } => (0..0, *rdev),
            Body::Other => (0..0, 0),
        };
        self.len(range.start)?;
        self.len(range.len())?;
        self.u64(number);
        self.u64(0);
        Ok(())
    }
}

struct RawInode {
    mode: u32,
    uid: u32,
    gid: u32,
    xattr_set: u32,
    mtime: Timestamp,
    start: usize,
    len: usize,
    number: u64,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ManifestError> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return invalid("it is cut short");
        };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as asked"))
    }

    fn u32(&mut self) -> Result<u32, ManifestError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ManifestError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn len(&mut self) -> Result<usize, ManifestError> {
        Ok(self.u32()? as usize)
    }

    fn digest(&mut self) -> Result<Digest, ManifestError> {
        Ok(Digest::from_bytes(self.array()?))
    }

    /// Reads `count` records of at least `record_len` bytes; refuses a count that the input
    /// can't hold before anything is allocated for it.
    fn table<T>(
        &mut self,
        count: usize,
        record_len: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, ManifestError>,
    ) -> Result<Vec<T>, ManifestError> {
        if count.checked_mul(record_len).is_none_or(|len| len > self.0.len()) {
            return invalid("it is cut short");
        }
        (0..count).map(|_| read(self)).collect()
    }

    fn chunk(&mut self, chunk_len: u32) -> Result<ChunkRef, ManifestError> {
        let chunk = ChunkRef { digest: self.digest()?, len: self.u32()? };
        if chunk.len == 0 || chunk.len > chunk_len {
            return invalid(format!("a chunk of {} bytes", chunk.len));
        }
        Ok(chunk)
    }

    fn inode(&mut self) -> Result<RawInode, ManifestError> {
        let raw = RawInode {
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            xattr_set: self.u32()?,
            mtime: Timestamp {
                seconds: i64::from_le_bytes(self.array()?),
                nanoseconds: self.u32()?,
            },
            start: {
                if self.u32()? != 0 {
                    return invalid("reserved bytes of an inode are not zero");
                }
                self.len()?
            },
            len: self.len()?,
            number: self.u64()?,
        };
        if self.u64()? != 0 {
            return invalid("reserved bytes of an inode are not zero");
        }
        if raw.mtime.nanoseconds > 999_999_999 {
            return invalid("a time with more than 999,999,999 nanoseconds");
        }
        if raw.mode & !(mode::TYPE | mode::PERMISSIONS) != 0 {
            return invalid(format!("mode {:o}", raw.mode));
        }
        Ok(raw)
    }

    fn entry(&mut self, string_len: usize, inode_count: usize) -> Result<Entry, ManifestError> {
        let start = self.len()?;
        let end = start + self.len()?;
        let ino = Ino(self.u32()?);
        if end > string_len {
            return invalid("a name beyond the names");
        }
        // The root is nobody's child.
        if ino.0 < 2 || ino.0 as usize > inode_count {
            return invalid(format!("an entry that leads to inode {}", ino.0));
        }
        Ok(Entry { name: start..end, ino })
    }

    /// `start` is filled in when the file that owns the extent is checked.
    fn extent(&mut self, chunk_count: usize) -> Result<Extent, ManifestError> {
        let count = self.u32()?;
        let first = self.u32()?;
        let source = if first == HOLE {
            ExtentSource::Hole
        } else if u64::from(first) + u64::from(count) <= chunk_count as u64 {
            ExtentSource::Chunks(first)
        } else {
            return invalid("an extent beyond the chunks");
        };
        if count == 0 {
            return invalid("an extent of no chunks");
        }
        Ok(Extent { start: 0, count, source })
    }

    fn xattr_set(&mut self) -> Result<Vec<Xattr>, ManifestError> {
        let count = self.len()?;
        let set = self.table(count, 8, |input| {
            let name_len = input.len()?;
            let value_len = input.len()?;
            Ok(Xattr {
                name: input.take(name_len)?.to_vec(),
                value: input.take(value_len)?.to_vec(),
            })
        })?;
        let named = |xattr: &Xattr| !xattr.name.is_empty() && !xattr.name.contains(&0);
        if set.is_empty() || !set.iter().all(named) || !set.is_sorted_by(|a, b| a.name < b.name) {
            return invalid("a malformed set of extended attributes");
        }
        Ok(set)
    }
}

/// Checks inodes one by one against the tables.
struct Check<'a> {
    chunk_len: u32,
    chunks: &'a [ChunkRef],
    /// For each chunk how many before it are short: many extents may cover the same long piece of
    /// the table, and none of them has to look through it again.
    short_before: Vec<u32>,
    entries: &'a [Entry],
    strings: &'a [u8],
    extents: &'a mut [Extent],
    /// Directories and files own successive pieces of the tables, so nothing is shared or lost.
    next_entry: usize,
    next_extent: usize,
}

impl Check<'_> {
    fn inode(&mut self, raw: &RawInode) -> Result<Inode, ManifestError> {
        let range = raw.start..raw.start + raw.len;
        let file_type = raw.mode & mode::TYPE;
        let body = match file_type {
            mode::DIRECTORY => {
                self.directory(&range)?;
                // The parent is known once all entries are linked.
                Body::Directory { parent: Ino::ROOT, entries: range }
            }
            mode::REGULAR => {
                self.regular(&range, raw.number)?;
                Body::Regular { size: raw.number, extents: range }
            }
            mode::SYMLINK => {
                let target = self.strings.get(range.clone());
                match target {
                    Some(target)
                        if !target.is_empty()
                            && target.len() <= SYMLINK_LEN_MAX
                            && !target.contains(&0) => {}
                    _ => return invalid("a malformed symlink target"),
                }
                Body::Symlink { target: range }
            }
            mode::CHAR_DEVICE | mode::BLOCK_DEVICE => Body::Device { rdev: raw.number },
            mode::FIFO | mode::SOCKET => Body::Other,
            other => return invalid(format!("file type {other:o}")),
        };
        let number_is_used =
            matches!(file_type, mode::REGULAR | mode::CHAR_DEVICE | mode::BLOCK_DEVICE);
        if !number_is_used && raw.number != 0 {
            return invalid("a number on an inode whose type has none");
        }
        Ok(Inode {
            mode: raw.mode,
            uid: raw.uid,
            gid: raw.gid,
            nlink: 0,
            mtime: raw.mtime,
            xattr_set: raw.xattr_set,
            body,
        })
    }

    fn directory(&mut self, range: &Range<usize>) -> Result<(), ManifestError> {
        let Some(entries) = self.entries.get(range.clone()) else {
            return invalid("a directory beyond the entries");
        };
        if range.start != self.next_entry {
            return invalid("directories that share entries or leave some out");
        }
        self.next_entry = range.end;
        let name = |entry: &Entry| &self.strings[entry.name.clone()];
        if let Some(bad) = entries.iter().map(name).find(|name| !tree::is_file_name(name)) {
            return invalid(format!("the file name {:?}", String::from_utf8_lossy(bad)));
        }
        if !entries.is_sorted_by(|a, b| name(a) < name(b)) {
            return invalid("a directory whose names are not sorted, or not unique");
        }
        Ok(())
    }

    /// The extents must add up to the size, and only the file's last chunk may be short.
    fn regular(&mut self, range: &Range<usize>, size: u64) -> Result<(), ManifestError> {
        if range.start != self.next_extent || range.end > self.extents.len() {
            return invalid("files that share extents or leave some out");
        }
        self.next_extent = range.end;
        let chunk_len = u64::from(self.chunk_len);
        let due = size.div_ceil(chunk_len);
        let mut start = 0u64;
        for extent in &mut self.extents[range.clone()] {
            extent.start = match u32::try_from(start) {
                Ok(start) => start,
                Err(_) => return invalid("a file with too many chunks"),
            };
            start += u64::from(extent.count);
            if start > due {
                return invalid("a file with more chunks than its size has");
            }
            let covers_the_end = start == due && !size.is_multiple_of(chunk_len);
            match extent.source {
                ExtentSource::Hole if covers_the_end => {
                    return invalid("a hole that is not a full chunk");
                }
                ExtentSource::Hole => {}
                ExtentSource::Chunks(first) => {
                    let (first, last) = (first as usize, (first + extent.count - 1) as usize);
                    let last_len = if covers_the_end { size % chunk_len } else { chunk_len };
                    if u64::from(self.chunks[last].len) != last_len
                        || self.short_before[first] != self.short_before[last]
                    {
                        return invalid("chunks that do not add up to the size of their file");
                    }
                }
            }
        }
        if start != due {
            return invalid("a file with fewer chunks than its size has");
        }
        Ok(())
    }
}

fn short_before(chunks: &[ChunkRef], chunk_len: u32) -> Vec<u32> {
    let before = chunks.iter().scan(0, |short, chunk| {
        let before = *short;
        *short += u32::from(chunk.len != chunk_len);
        Some(before)
    });
    before.collect()
}

/// Counts links, sets parents, and refuses trees with cycles, strays or linked directories.
fn link(inodes: &mut [Inode], entries: &[Entry]) -> Result<(), ManifestError> {
    match inodes.first() {
        Some(root) if root.is_directory() => {}
        _ => return invalid("the first inode is not a directory"),
    }
    let mut seen = HashSet::from([Ino::ROOT]);
    let mut queue = vec![Ino::ROOT];
    inodes[0].nlink = 2;
    while let Some(directory) = queue.pop() {
        let Body::Directory { entries: range, .. } = &inodes[directory.index()].body else {
            unreachable!("only directories are queued");
        };
        for entry in &entries[range.clone()] {
            let child = &mut inodes[entry.ino.index()];
            let first_link = seen.insert(entry.ino);
            if let Body::Directory { parent, .. } = &mut child.body {
                if !first_link {
                    return invalid("a directory with two parents, or in itself");
                }
                *parent = directory;
                child.nlink = 2;
                inodes[directory.index()].nlink += 1;
                queue.push(entry.ino);
            } else {
                child.nlink += 1;
            }
        }
    }
    if seen.len() != inodes.len() {
        return invalid("inodes that no path leads to");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{FileContent, Metadata, NodeKind, PageRoots, Tree};
    use super::*;
    use crate::chunk::{CHUNK_LEN, CutChunk};

    fn small_tree() -> Tree {
        let mut tree = Tree::new();
        let metadata = Metadata {
            permissions: 0o4755,
            uid: 123_456,
            gid: 7,
            mtime: Timestamp { seconds: -5, nanoseconds: 999_999_999 },
            xattrs: BTreeMap::from([(b"user.a".to_vec(), b"1".to_vec())]),
        };
        let mut content = FileContent::new();
        content.push_chunk(CutChunk::of(&vec![7; CHUNK_LEN as usize]));
        content.push_holes(3);
        content.push_chunk(CutChunk::of(b"tail"));
        let file = tree.add(metadata.clone(), NodeKind::Regular(content));
        let link = tree.add(metadata.clone(), NodeKind::Symlink(b"../x".to_vec()));
        let device = tree.add(metadata.clone(), NodeKind::CharDevice(0x0103));
        let fifo = tree.add(metadata.clone(), NodeKind::Fifo);
        let empty = tree.add(metadata.clone(), NodeKind::Regular(FileContent::new()));
        let children = BTreeMap::from([
            (b"file".to_vec(), file),
            (b"same file".to_vec(), file),
            (b"\xff\xfe".to_vec(), link),
        ]);
        let directory = tree.add(metadata, NodeKind::Directory(children));
        let root = tree.entries_mut(Tree::ROOT).unwrap();
        root.insert(b"d".to_vec(), directory);
        root.insert(b"hard".to_vec(), file);
        root.insert(b"dev".to_vec(), device);
        root.insert(b"fifo".to_vec(), fifo);
        root.insert(b"empty".to_vec(), empty);
        tree
    }

    #[test]
    fn a_manifest_reads_back() {
        let (manifest, roots) = small_tree().to_manifest(RunConfig::default()).unwrap();
        let decoded = Manifest::decode(&manifest.encode().unwrap()).unwrap();
        assert_eq!(decoded, manifest);

        let file = decoded.resolve(b"/d/file").unwrap();
        assert_eq!(decoded.resolve(b"hard"), Some(file));
        let inode = decoded.inode(file).unwrap();
        assert_eq!((inode.nlink, inode.uid, inode.mode), (3, 123_456, 0o104_755));
        assert_eq!(inode.size(), u64::from(CHUNK_LEN) * 4 + 4);
        assert_eq!(decoded.extents(file).len(), 3);
        assert_eq!(decoded.xattrs(file)[0].name, b"user.a");
        assert_eq!(decoded.inode(Ino::ROOT).unwrap().nlink, 3);

        let roots = PageRoots::decode(&decoded, &roots.unwrap()).unwrap();
        let long = crate::page_tree::page_root(&vec![7; CHUNK_LEN as usize]);
        assert_eq!(roots.root(0), Some(long));
        assert_eq!(roots.root(1), Some(Digest::of(b"tail")));
        assert_eq!(roots.root(2), None);
    }

    #[test]
    fn links_resolve_and_loops_end() {
        let mut tree = small_tree();
        let up = tree.add(Metadata::default(), NodeKind::Symlink(b"/../d/./file".to_vec()));
        let own = tree.add(Metadata::default(), NodeKind::Symlink(b"loop".to_vec()));
        let root = tree.entries_mut(Tree::ROOT).unwrap();
        root.insert(b"up".to_vec(), up);
        root.insert(b"loop".to_vec(), own);
        let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
        assert_eq!(manifest.resolve_following(b"up"), manifest.resolve(b"d/file"));
        assert_eq!(manifest.resolve_following(b"loop"), None);
        assert_eq!(manifest.path_of(manifest.resolve(b"d/file").unwrap()).unwrap(), b"/hard");
    }

    /// 50,000 files of all 100,000 chunks each: looking at every chunk of every file would take
    /// minutes, from a manifest of 6 MB that anyone may upload.
    #[test]
    fn files_that_share_a_long_piece_of_the_chunk_table_are_checked_quickly() {
        let (mut manifest, _) = small_tree().to_manifest(RunConfig::default()).unwrap();
        let (chunks, files) = (100_000u32, 50_000u32);
        let chunk = ChunkRef { digest: Digest::of(b"any"), len: CHUNK_LEN };
        manifest.chunks = vec![chunk; chunks as usize];
        manifest.page_roots = None;
        manifest.strings.clear();
        let (mut root, mut file) = (manifest.inodes[0].clone(), manifest.inodes[0].clone());
        root.body = Body::Directory { parent: Ino::ROOT, entries: 0..files as usize };
        file.mode = mode::REGULAR;
        let size = u64::from(chunks) * u64::from(CHUNK_LEN);
        manifest.inodes = vec![root];
        manifest.entries.clear();
        manifest.extents.clear();
        for number in 0..files {
            let start = manifest.strings.len();
            manifest.strings.extend_from_slice(format!("{number:05}").as_bytes());
            let name = start..manifest.strings.len();
            manifest.entries.push(super::super::Entry { name, ino: Ino(number + 2) });
            let extents = manifest.extents.len()..manifest.extents.len() + 1;
            manifest.extents.push(Extent {
                start: 0,
                count: chunks,
                source: ExtentSource::Chunks(0),
            });
            file.body = Body::Regular { size, extents };
            manifest.inodes.push(file.clone());
        }
        let mut bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes).unwrap().inode_count(), files as usize + 1);
        // A short chunk in the middle is still found.
        manifest.chunks[7].len = 1;
        bytes = manifest.encode().unwrap();
        assert!(Manifest::decode(&bytes).is_err());
    }

    /// 20,000 directories, one in the other: a walk over all of them for each would take minutes.
    #[test]
    fn the_path_of_a_deep_directory_is_found_quickly() {
        const DEPTH: u32 = 20_000;
        let mut tree = Tree::new();
        let mut inner = tree.add(Metadata::default(), NodeKind::Fifo);
        for _ in 1..DEPTH {
            let children = BTreeMap::from([(b"d".to_vec(), inner)]);
            inner = tree.add(Metadata::default(), NodeKind::Directory(children));
        }
        tree.entries_mut(Tree::ROOT).unwrap().insert(b"d".to_vec(), inner);
        let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
        let manifest = Manifest::decode(&manifest.encode().unwrap()).unwrap();
        let path = manifest.path_of(Ino(DEPTH + 1)).unwrap();
        assert_eq!(path, b"/d".repeat(DEPTH as usize));
    }

    #[test]
    fn equal_content_has_one_id_in_every_image() {
        let (manifest, _) = small_tree().to_manifest(RunConfig::default()).unwrap();
        let mut other = Tree::new();
        let before = other.add(
            Metadata::default(),
            NodeKind::Regular({
                let mut content = FileContent::new();
                content.push_chunk(CutChunk::of(b"other chunks come first"));
                content
            }),
        );
        let mut content = FileContent::new();
        content.push_chunk(CutChunk::of(&vec![7; CHUNK_LEN as usize]));
        content.push_holes(3);
        content.push_chunk(CutChunk::of(b"tail"));
        let file = other.add(Metadata::default(), NodeKind::Regular(content));
        let root = other.entries_mut(Tree::ROOT).unwrap();
        root.insert(b"a".to_vec(), before);
        root.insert(b"b".to_vec(), file);
        let (other, _) = other.to_manifest(RunConfig::default()).unwrap();
        let id = manifest.content_id(manifest.resolve(b"d/file").unwrap());
        assert!(id.is_some());
        assert_eq!(id, other.content_id(other.resolve(b"b").unwrap()));
        assert_eq!(
            other.content_id(other.resolve(b"a").unwrap()),
            Some(Digest::of(b"other chunks come first"))
        );
    }

    #[test]
    fn a_newer_version_is_refused_with_a_hint() {
        let (manifest, _) = small_tree().to_manifest(RunConfig::default()).unwrap();
        let mut bytes = manifest.encode().unwrap();
        bytes[8] = FORMAT_VERSION + 1;
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Newer(FORMAT_VERSION + 1)));
    }

    #[test]
    fn every_truncation_is_refused() {
        let (manifest, _) = small_tree().to_manifest(RunConfig::default()).unwrap();
        let bytes = manifest.encode().unwrap();
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn damaged_bytes_are_refused_or_still_sound(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let (manifest, _) = small_tree().to_manifest(RunConfig::default()).unwrap();
            let mut bytes = manifest.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(manifest) = Manifest::decode(&bytes) {
                // Whatever is accepted can be walked without a panic.
                for (ino, _) in manifest.inodes() {
                    let _ = (manifest.content_id(ino), manifest.xattrs(ino), manifest.symlink_target(ino));
                    for (name, child) in manifest.entries(ino).into_iter().flatten() {
                        prop_assert_eq!(manifest.lookup(ino, name), Some(child));
                    }
                }
            }
        }
    }
}
