//! The tree while it is being built: what layers are applied to, and what becomes a manifest.

use std::collections::{BTreeMap, HashMap};

use super::{
    Body, Entry, Extent, ExtentSource, Ino, Inode, Manifest, NAME_LEN_MAX, PageRoots, RunConfig,
    SYMLINK_LEN_MAX, Timestamp, Xattr, mode,
};
use crate::chunk::{CHUNK_LEN, ChunkRef, CutChunk};
use crate::digest::Digest;

/// A node's number in a [`Tree`]. Two entries with one node are hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(usize);

/// What every node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permissions with setuid, setgid and sticky; type bits are ignored.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Names and what they lead to.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// Bytes.
    Regular(FileContent),
    /// A target, as it is.
    Symlink(Vec<u8>),
    /// A character device, numbered as `makedev(3)` packs it.
    CharDevice(u64),
    /// A block device.
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// The bytes of a regular file: pieces of one chunk each, the last one shorter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileContent {
    size: u64,
    pieces: Vec<FilePiece>,
}

/// One step of a [`FileContent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePiece {
    /// Bytes.
    Chunk(CutChunk),
    /// A run of full chunks of zeros.
    Hole(u32),
}

impl FileContent {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a chunk; only the last one may be shorter than [`CHUNK_LEN`].
    pub fn push_chunk(&mut self, chunk: CutChunk) {
        debug_assert!(self.size.is_multiple_of(u64::from(CHUNK_LEN)));
        self.size += u64::from(chunk.chunk.len);
        self.pieces.push(FilePiece::Chunk(chunk));
    }

    /// Appends `count` full chunks of zeros.
    pub fn push_holes(&mut self, count: u32) {
        debug_assert!(self.size.is_multiple_of(u64::from(CHUNK_LEN)));
        self.size += u64::from(count) * u64::from(CHUNK_LEN);
        match self.pieces.last_mut() {
            _ if count == 0 => {}
            Some(FilePiece::Hole(run)) => *run += count,
            _ => self.pieces.push(FilePiece::Hole(count)),
        }
    }

    /// All pieces in order.
    pub fn pieces(&self) -> &[FilePiece] {
        &self.pieces
    }

    /// The chunks in order, holes left out.
    pub fn chunks(&self) -> impl Iterator<Item = &CutChunk> {
        self.pieces.iter().filter_map(|piece| match piece {
            FilePiece::Chunk(chunk) => Some(chunk),
            FilePiece::Hole(_) => None,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    metadata: Metadata,
    kind: NodeKind,
}

/// A tree that can't become a manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// A name that no directory can hold.
    #[error("not a file name: {0:?} (1 to 255 bytes without / and NUL, not . or ..)")]
    Name(String),
    /// A symlink target that the kernel would refuse.
    #[error("a symlink target of {0} bytes: 1 to 4095 without NUL are possible")]
    SymlinkTarget(usize),
    /// More of something than the format can count.
    #[error("too many {0} for one image")]
    TooMany(&'static str),
}

/// A file tree under construction. Node 0 is the root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// The root directory's node.
    pub const ROOT: NodeId = NodeId(0);

    /// An empty root: mode 0755, owner 0, time 0.
    pub fn new() -> Self {
        let metadata = Metadata { permissions: 0o755, ..Metadata::default() };
        Self { nodes: vec![Node { metadata, kind: NodeKind::Directory(BTreeMap::new()) }] }
    }

    /// The tree of an image that is to be changed; none where its chunks are cut otherwise than they
    /// are now. `roots` are the image's own.
    pub fn of(manifest: &Manifest, roots: &PageRoots) -> Option<Self> {
        if manifest.chunk_len != CHUNK_LEN {
            return None;
        }
        let chunk = |at: u32| {
            let chunk = manifest.chunks[at as usize];
            let page_root = if chunk.has_page_root() { Some(roots.root(at)?) } else { None };
            Some(CutChunk { chunk, page_root })
        };
        let mut nodes = Vec::with_capacity(manifest.inode_count());
        for (ino, inode) in manifest.inodes() {
            let xattrs = manifest.xattrs(ino).iter();
            let metadata = Metadata {
                permissions: inode.mode & mode::PERMISSIONS,
                uid: inode.uid,
                gid: inode.gid,
                mtime: inode.mtime,
                xattrs: xattrs.map(|it| (it.name.clone(), it.value.clone())).collect(),
            };
            let kind = match inode.file_type() {
                mode::DIRECTORY => {
                    let entries = manifest.entries(ino).into_iter().flatten();
                    let node = |ino: Ino| NodeId(ino.index());
                    NodeKind::Directory(
                        entries.map(|(name, ino)| (name.to_vec(), node(ino))).collect(),
                    )
                }
                mode::REGULAR => {
                    let mut content = FileContent::new();
                    for extent in manifest.extents(ino) {
                        match extent.source {
                            ExtentSource::Hole => content.push_holes(extent.count),
                            ExtentSource::Chunks(first) => {
                                for at in first..first + extent.count {
                                    content.push_chunk(chunk(at)?);
                                }
                            }
                        }
                    }
                    // A last hole may be shorter than a chunk.
                    content.size = inode.size();
                    NodeKind::Regular(content)
                }
                mode::SYMLINK => NodeKind::Symlink(manifest.symlink_target(ino)?.to_vec()),
                mode::CHAR_DEVICE => NodeKind::CharDevice(inode.rdev()),
                mode::BLOCK_DEVICE => NodeKind::BlockDevice(inode.rdev()),
                mode::FIFO => NodeKind::Fifo,
                mode::SOCKET => NodeKind::Socket,
                _ => return None,
            };
            nodes.push(Node { metadata, kind });
        }
        Some(Self { nodes })
    }

    /// Adds a node that no entry leads to yet.
    pub fn add(&mut self, metadata: Metadata, kind: NodeKind) -> NodeId {
        self.nodes.push(Node { metadata, kind });
        NodeId(self.nodes.len() - 1)
    }

    /// What a node is.
    pub fn kind(&self, node: NodeId) -> &NodeKind {
        &self.nodes[node.0].kind
    }

    /// What a node has.
    pub fn metadata(&self, node: NodeId) -> &Metadata {
        &self.nodes[node.0].metadata
    }

    /// What a node has, to change it.
    pub fn metadata_mut(&mut self, node: NodeId) -> &mut Metadata {
        &mut self.nodes[node.0].metadata
    }

    /// The entries of a directory; none where `node` is something else.
    pub fn entries(&self, node: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
        match &self.nodes[node.0].kind {
            NodeKind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entries of a directory, to change them.
    pub fn entries_mut(&mut self, node: NodeId) -> Option<&mut BTreeMap<Vec<u8>, NodeId>> {
        match &mut self.nodes[node.0].kind {
            NodeKind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// One entry.
    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.entries(directory)?.get(name).copied()
    }

    /// Lays the tree out. The second value is the blob of page roots that the manifest names, to be
    /// stored beside it; none where every chunk is one page.
    pub fn to_manifest(&self, config: RunConfig) -> Result<(Manifest, Option<Vec<u8>>), TreeError> {
        let mut layout = Layout::default();
        layout.number(self)?;
        let order = std::mem::take(&mut layout.order);
        for (node, parent) in &order {
            layout.place(self, *node, *parent)?;
        }
        Ok(layout.finish(config))
    }
}

/// A manifest while its tables fill.
#[derive(Default)]
struct Layout {
    /// Nodes in the order of their inode numbers, each with its first parent.
    order: Vec<(NodeId, Ino)>,
    numbers: HashMap<NodeId, Ino>,
    links: HashMap<NodeId, u32>,
    chunk_index: HashMap<Digest, u32>,
    chunks: Vec<ChunkRef>,
    page_roots: Vec<u8>,
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    extents: Vec<Extent>,
    xattr_index: HashMap<Vec<Xattr>, u32>,
    xattr_sets: Vec<Vec<Xattr>>,
    strings: Vec<u8>,
    string_index: HashMap<Vec<u8>, usize>,
}

impl Layout {
    /// Numbers all reachable nodes breadth first, so that a directory's children lie together.
    fn number(&mut self, tree: &Tree) -> Result<(), TreeError> {
        self.order.push((Tree::ROOT, Ino::ROOT));
        self.numbers.insert(Tree::ROOT, Ino::ROOT);
        let mut at = 0;
        while let Some(&(node, _)) = self.order.get(at) {
            let ino = self.numbers[&node];
            at += 1;
            for (name, child) in tree.entries(node).into_iter().flatten() {
                check_name(name)?;
                *self.links.entry(*child).or_default() += 1;
                if self.numbers.contains_key(child) {
                    continue;
                }
                self.order.push((*child, ino));
                let number =
                    u32::try_from(self.order.len()).map_err(|_| TreeError::TooMany("files"))?;
                self.numbers.insert(*child, Ino(number));
            }
        }
        Ok(())
    }

    fn place(&mut self, tree: &Tree, node: NodeId, parent: Ino) -> Result<(), TreeError> {
        let Node { metadata, kind } = &tree.nodes[node.0];
        let (file_type, body) = match kind {
            NodeKind::Directory(children) => {
                let start = self.entries.len();
                for (name, child) in children {
                    let name = self.intern(name)?;
                    let ino = self.numbers[child];
                    self.entries.push(Entry { name, ino });
                }
                let entries = start..self.entries.len();
                (mode::DIRECTORY, Body::Directory { parent, entries })
            }
            NodeKind::Regular(content) => {
                let extents = self.place_content(content)?;
                (mode::REGULAR, Body::Regular { size: content.size, extents })
            }
            NodeKind::Symlink(target) => {
                if target.is_empty() || target.len() > SYMLINK_LEN_MAX || target.contains(&0) {
                    return Err(TreeError::SymlinkTarget(target.len()));
                }
                (mode::SYMLINK, Body::Symlink { target: self.intern(target)? })
            }
            NodeKind::CharDevice(rdev) => (mode::CHAR_DEVICE, Body::Device { rdev: *rdev }),
            NodeKind::BlockDevice(rdev) => (mode::BLOCK_DEVICE, Body::Device { rdev: *rdev }),
            NodeKind::Fifo => (mode::FIFO, Body::Other),
            NodeKind::Socket => (mode::SOCKET, Body::Other),
        };
        let nlink = match kind {
            NodeKind::Directory(children) => subdirectory_links(tree, children),
            _ => self.links.get(&node).copied().unwrap_or(1),
        };
        let xattr_set = self.place_xattrs(&metadata.xattrs)?;
        self.inodes.push(Inode {
            mode: file_type | metadata.permissions & mode::PERMISSIONS,
            uid: metadata.uid,
            gid: metadata.gid,
            nlink,
            mtime: metadata.mtime,
            xattr_set,
            body,
        });
        Ok(())
    }

    fn place_content(
        &mut self,
        content: &FileContent,
    ) -> Result<std::ops::Range<usize>, TreeError> {
        let too_many = || TreeError::TooMany("chunks");
        let first = self.extents.len();
        let mut start = 0u32;
        for piece in &content.pieces {
            let (count, source) = match piece {
                FilePiece::Hole(run) => (*run, ExtentSource::Hole),
                FilePiece::Chunk(chunk) => (1, ExtentSource::Chunks(self.place_chunk(chunk)?)),
            };
            let last = self.extents[first..].last_mut();
            match (last, source) {
                // Successive chunks of the table are one extent.
                (
                    Some(Extent { count: run, source: ExtentSource::Chunks(from), .. }),
                    ExtentSource::Chunks(chunk),
                ) if *from + *run == chunk => *run += 1,
                _ => self.extents.push(Extent { start, count, source }),
            }
            start = start.checked_add(count).ok_or_else(too_many)?;
        }
        Ok(first..self.extents.len())
    }

    fn place_chunk(&mut self, cut: &CutChunk) -> Result<u32, TreeError> {
        if let Some(&index) = self.chunk_index.get(&cut.chunk.digest) {
            return Ok(index);
        }
        let index = u32::try_from(self.chunks.len()).ok().filter(|&index| index < u32::MAX);
        let index = index.ok_or(TreeError::TooMany("chunks"))?;
        self.chunk_index.insert(cut.chunk.digest, index);
        self.chunks.push(cut.chunk);
        if let Some(root) = cut.page_root {
            self.page_roots.extend_from_slice(root.as_bytes());
        }
        Ok(index)
    }

    fn place_xattrs(&mut self, xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<u32, TreeError> {
        if self.xattr_sets.is_empty() {
            self.xattr_sets.push(Vec::new());
            self.xattr_index.insert(Vec::new(), 0);
        }
        let set: Vec<Xattr> = xattrs
            .iter()
            .map(|(name, value)| Xattr { name: name.clone(), value: value.clone() })
            .collect();
        if let Some(&index) = self.xattr_index.get(&set) {
            return Ok(index);
        }
        let index = u32::try_from(self.xattr_sets.len())
            .map_err(|_| TreeError::TooMany("sets of extended attributes"))?;
        self.xattr_index.insert(set.clone(), index);
        self.xattr_sets.push(set);
        Ok(index)
    }

    /// Keeps a text once, however many entries have it.
    fn intern(&mut self, text: &[u8]) -> Result<std::ops::Range<usize>, TreeError> {
        let start = match self.string_index.get(text) {
            Some(&start) => start,
            None => {
                let start = self.strings.len();
                self.strings.extend_from_slice(text);
                self.string_index.insert(text.to_vec(), start);
                start
            }
        };
        let end = start + text.len();
        u32::try_from(end).map_err(|_| TreeError::TooMany("bytes of names"))?;
        Ok(start..end)
    }

    fn finish(self, config: RunConfig) -> (Manifest, Option<Vec<u8>>) {
        let page_roots = (!self.page_roots.is_empty()).then_some(self.page_roots);
        let manifest = Manifest {
            config,
            chunk_len: CHUNK_LEN,
            page_roots: page_roots.as_deref().map(Digest::of),
            chunks: self.chunks,
            inodes: self.inodes,
            entries: self.entries,
            extents: self.extents,
            xattr_sets: self.xattr_sets,
            strings: self.strings,
        };
        (manifest, page_roots)
    }
}

fn subdirectory_links(tree: &Tree, children: &BTreeMap<Vec<u8>, NodeId>) -> u32 {
    let subdirectories =
        children.values().filter(|child| matches!(tree.kind(**child), NodeKind::Directory(_)));
    u32::try_from(subdirectories.count() + 2).unwrap_or(u32::MAX)
}

/// A name that a directory can hold.
pub(crate) fn is_file_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

fn check_name(name: &[u8]) -> Result<(), TreeError> {
    if is_file_name(name) {
        Ok(())
    } else {
        Err(TreeError::Name(String::from_utf8_lossy(name).into_owned()))
    }
}
