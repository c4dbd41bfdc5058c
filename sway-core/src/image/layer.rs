//! A layer: what it says about the tree below, and how the tree changes by it.
//!
//! Reading ([`read_layer`]) and applying ([`Layer::apply`]) are apart, so that a layer is read
//! once in its life: afterwards its entries, with the names of their chunks, come from a cache
//! (`index` has the bytes) and only the applying is done again.
//!
//! The rules are those of the OCI image spec as `umoci unpack` carries them out, to which every
//! exported image is compared. A whiteout hides only what lower layers brought, wherever in the
//! layer it stands. An entry replaces what is there, but a directory over a directory keeps its
//! content. The way to an entry may lead through symbolic links of the image; it is followed
//! inside the tree. Directories that no layer has an entry for are made with mode 0755, owner 0
//! and time 0. Names with `..` and absolute ones are refused.
//!
//! Attributes that an image must not bring are left out: `trusted.overlay.*`, which would speak to
//! the overlay filesystem above the image, and `security.selinux` and `system.nfs4_acl`, which
//! belong to the host on which the image was built (umoci leaves the latter two out as well).

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufReader, Read};

use super::entries::{ContentPiece, Entries, Entry, EntryError, EntryKind};
use crate::chunk::CutChunk;
use crate::manifest::is_file_name;
use crate::manifest::{FileContent, Metadata, NodeId, NodeKind, SYMLINK_LEN_MAX, Tree};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Symbolic links followed on the way to one entry: as many as umoci follows.
const LINKS_MAX: usize = 255;

/// The longest name of an extended attribute, and its largest value (Linux `XATTR_NAME_MAX`,
/// `XATTR_SIZE_MAX`).
const XATTR_NAME_LEN_MAX: usize = 255;
const XATTR_LEN_MAX: usize = 65_536;

/// A layer that can't be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive itself.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// An entry that leads out of the image.
    #[error("the archive has an entry with {}, out of the image: {}", way_out(.0), .0.escape_ascii())]
    Escapes(Vec<u8>),
    /// An entry with a name that no filesystem has, or that makes no sense.
    #[error("the archive's entry {} can't be applied: {reason}", .path.escape_ascii())]
    Refused {
        /// The entry.
        path: Vec<u8>,
        /// Why.
        reason: String,
    },
    /// The caller of [`read_layer`] wants no more.
    #[error("reading the layer was stopped")]
    Stopped,
}

fn way_out(path: &[u8]) -> &'static str {
    if path.starts_with(b"/") { "an absolute path" } else { "a path that has .." }
}

fn refused<T>(path: &[u8], reason: impl Into<String>) -> Result<T, LayerError> {
    Err(LayerError::Refused { path: path.to_vec(), reason: reason.into() })
}

/// What one layer says, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub(super) changes: Vec<Change<FileContent>>,
}

/// A layer whose chunks are not named yet: [`Draft::finish`] is given their names.
#[derive(Debug)]
pub struct Draft {
    changes: Vec<Change<Vec<DraftPiece>>>,
}

#[derive(Debug)]
enum DraftPiece {
    /// The next one.
    Chunk,
    Holes(u32),
}

/// What a layer says about one path. Paths are relative, without empty parts, `.` and `..`; the
/// empty path is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change<C> {
    pub(super) path: Vec<u8>,
    pub(super) action: Action<C>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action<C> {
    /// A directory is there and has this metadata.
    Directory(Metadata),
    /// A new file is there.
    Regular(Metadata, C),
    /// A new node of another kind is there.
    Special(Metadata, Special),
    /// One more name of the file at this path.
    HardLink(Vec<u8>),
    /// What lower layers have here is gone.
    Whiteout,
    /// What lower layers have in this directory is gone.
    Opaque,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Symlink(Vec<u8>),
    CharDevice(u64),
    BlockDevice(u64),
    Fifo,
}

impl Special {
    fn node_kind(&self) -> NodeKind {
        match self {
            Self::Symlink(target) => NodeKind::Symlink(target.clone()),
            Self::CharDevice(device) => NodeKind::CharDevice(*device),
            Self::BlockDevice(device) => NodeKind::BlockDevice(*device),
            Self::Fifo => NodeKind::Fifo,
        }
    }
}

/// The uncompressed stream of a layer: gzip, zstd or plain, told by its first bytes.
pub fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let mut magic = Vec::with_capacity(4);
    (&mut input).take(4).read_to_end(&mut magic)?;
    let kind = Compression::of(&magic);
    let input = io::Cursor::new(magic).chain(input);
    Ok(match kind {
        // Both formats allow several streams one after the other.
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        Compression::None => Box::new(input),
    })
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Self::Zstd,
            // A skippable frame, with which seekable zstd files may begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Reads an uncompressed layer to its end and beyond (padding counts for its digest). Every
/// chunk's bytes go to `on_chunk` in order; it answers whether to go on.
pub fn read_layer<R: Read>(
    input: R,
    mut on_chunk: impl FnMut(Vec<u8>) -> bool,
) -> Result<Draft, LayerError> {
    let mut entries = Entries::new(input);
    let mut changes = Vec::new();
    while let Some(entry) = entries.next_entry()? {
        let Some(path) = change_path(&entry)? else { continue };
        let action = match whiteout(&path) {
            Some((path, action)) => {
                changes.push(Change { path, action });
                continue;
            }
            None => action(&mut entries, &entry, &mut on_chunk)?,
        };
        changes.push(Change { path, action });
    }
    let mut rest = entries.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(EntryError::from)?;
    Ok(Draft { changes })
}

fn action<R: Read>(
    entries: &mut Entries<R>,
    entry: &Entry,
    on_chunk: &mut impl FnMut(Vec<u8>) -> bool,
) -> Result<Action<Vec<DraftPiece>>, LayerError> {
    let metadata = metadata(entry)?;
    Ok(match entry.kind {
        EntryKind::Directory => Action::Directory(metadata),
        EntryKind::Regular => {
            let mut pieces = Vec::new();
            for piece in entries.pieces(entry) {
                match piece? {
                    ContentPiece::Holes(count) => pieces.push(DraftPiece::Holes(count)),
                    ContentPiece::Data(bytes) => {
                        pieces.push(DraftPiece::Chunk);
                        if !on_chunk(bytes) {
                            return Err(LayerError::Stopped);
                        }
                    }
                }
            }
            Action::Regular(metadata, pieces)
        }
        EntryKind::HardLink => Action::HardLink(link_path(entry)?),
        EntryKind::Symlink => {
            let target = &entry.target;
            if target.is_empty() || target.len() > SYMLINK_LEN_MAX || target.contains(&0) {
                return refused(&entry.path, "the target of the symbolic link is impossible");
            }
            // A symbolic link has no permissions of its own; the kernel shows 0777.
            let metadata = Metadata { permissions: 0o777, ..metadata };
            Action::Special(metadata, Special::Symlink(target.clone()))
        }
        EntryKind::CharDevice => Action::Special(metadata, Special::CharDevice(entry.device)),
        EntryKind::BlockDevice => Action::Special(metadata, Special::BlockDevice(entry.device)),
        EntryKind::Fifo => Action::Special(metadata, Special::Fifo),
    })
}

fn metadata(entry: &Entry) -> Result<Metadata, LayerError> {
    let mut xattrs = BTreeMap::new();
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"trusted.overlay.")
            || [&b"security.selinux"[..], b"system.nfs4_acl"].contains(&name.as_slice())
        {
            continue;
        }
        if name.len() > XATTR_NAME_LEN_MAX || name.contains(&0) || value.len() > XATTR_LEN_MAX {
            return refused(&entry.path, "an extended attribute that no filesystem can hold");
        }
        xattrs.insert(name.clone(), value.clone());
    }
    Ok(Metadata {
        permissions: entry.permissions,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
    })
}

/// The path of an entry as a [`Change`] has it; none for what is to be left aside.
fn change_path(entry: &Entry) -> Result<Option<Vec<u8>>, LayerError> {
    if entry.path.is_empty() {
        return refused(&entry.path, "it has no name");
    }
    // Some builders call the root `/`; every other absolute name is meant for another place.
    if entry.path.starts_with(b"/") && entry.path.iter().any(|&byte| byte != b'/') {
        return Err(LayerError::Escapes(entry.path.clone()));
    }
    let path = relative(&entry.path)?;
    let name = last_part(&path);
    // What aufs kept for itself, apart from its marker of opaque directories.
    if name.starts_with(WHITEOUT_META) && name != OPAQUE {
        return Ok(None);
    }
    if path.is_empty() && entry.kind != EntryKind::Directory {
        return refused(&entry.path, "the root of an image must be a directory");
    }
    Ok(Some(path))
}

/// The target of a hard link: from the root of the image, with or without a slash.
fn link_path(entry: &Entry) -> Result<Vec<u8>, LayerError> {
    let path = relative(&entry.target).map_err(|error| match error {
        LayerError::Escapes(_) => LayerError::Escapes(
            [entry.path.as_slice(), b" (a hard link to ", &entry.target, b")"].concat(),
        ),
        other => other,
    })?;
    if path.is_empty() { refused(&entry.path, "a hard link to the root") } else { Ok(path) }
}

fn relative(path: &[u8]) -> Result<Vec<u8>, LayerError> {
    let mut parts = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(LayerError::Escapes(path.to_vec())),
            part if is_file_name(part) => parts.push(part),
            _ => return refused(path, "a name of more than 255 bytes, or with a NUL"),
        }
    }
    Ok(parts.join(&b'/'))
}

fn whiteout(path: &[u8]) -> Option<(Vec<u8>, Action<Vec<DraftPiece>>)> {
    let name = last_part(path);
    let directory = &path[..path.len() - name.len()];
    if name == OPAQUE {
        let directory = directory.strip_suffix(b"/").unwrap_or(directory);
        return Some((directory.to_vec(), Action::Opaque));
    }
    let hidden = name.strip_prefix(WHITEOUT)?;
    Some(([directory, hidden].concat(), Action::Whiteout))
}

fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

impl Draft {
    /// Names the chunks: one for each call of `on_chunk`, in that order.
    ///
    /// # Panics
    ///
    /// Where `chunks` are fewer.
    pub fn finish(self, chunks: impl IntoIterator<Item = CutChunk>) -> Layer {
        let mut chunks = chunks.into_iter();
        let mut content = |pieces: Vec<DraftPiece>| {
            let mut content = FileContent::new();
            for piece in pieces {
                match piece {
                    DraftPiece::Chunk => content
                        .push_chunk(chunks.next().expect("every chunk that was read is named")),
                    DraftPiece::Holes(count) => content.push_holes(count),
                }
            }
            content
        };
        let changes = self.changes.into_iter().map(|Change { path, action }| {
            let action = match action {
                Action::Regular(metadata, pieces) => Action::Regular(metadata, content(pieces)),
                Action::Directory(metadata) => Action::Directory(metadata),
                Action::Special(metadata, special) => Action::Special(metadata, special),
                Action::HardLink(target) => Action::HardLink(target),
                Action::Whiteout => Action::Whiteout,
                Action::Opaque => Action::Opaque,
            };
            Change { path, action }
        });
        Layer { changes: changes.collect() }
    }
}

impl Layer {
    /// How many entries there are, whiteouts among them.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The chunks of all files, those among them that another layer hides.
    pub fn chunks(&self) -> impl Iterator<Item = &CutChunk> {
        self.changes.iter().flat_map(|change| {
            let content = match &change.action {
                Action::Regular(_, content) => Some(content),
                _ => None,
            };
            content.into_iter().flat_map(FileContent::chunks)
        })
    }

    /// Applies the layer to the tree that the layers below it made.
    pub fn apply(&self, tree: &mut Tree) -> Result<(), LayerError> {
        let mut applying = Applying { tree, touched: HashSet::new() };
        self.changes.iter().try_for_each(|change| applying.apply(change))
    }
}

/// One step on the way to an entry: the name, and the node if there is one.
type Step = (Vec<u8>, Option<NodeId>);

struct Applying<'a> {
    tree: &'a mut Tree,
    /// Names (directory, name) that this layer has set, and all that lie on the way to them: what
    /// its whiteouts leave alone.
    touched: HashSet<(NodeId, Vec<u8>)>,
}

impl Applying<'_> {
    fn apply(&mut self, change: &Change<FileContent>) -> Result<(), LayerError> {
        let path = change.path.as_slice();
        match &change.action {
            Action::Opaque => {
                let steps = self.walk(path, path)?;
                if let Some(directory) = end_of(&steps)
                    && let Some(entries) = self.tree.entries(directory)
                {
                    let names = entries.keys().cloned().collect();
                    self.remove_untouched(directory, names);
                }
                Ok(())
            }
            Action::Whiteout => {
                let (parent, name) = split(path);
                if !is_file_name(name) {
                    return refused(path, "a whiteout of nothing");
                }
                let steps = self.walk(parent, path)?;
                if let Some(directory) = end_of(&steps) {
                    self.remove_untouched(directory, vec![name.to_vec()]);
                }
                Ok(())
            }
            Action::Directory(metadata) if path.is_empty() => {
                *self.tree.metadata_mut(Tree::ROOT) = metadata.clone();
                Ok(())
            }
            Action::Directory(metadata) => {
                let (directory, name) = self.place(path)?;
                match self.tree.lookup(directory, name) {
                    Some(node) if self.tree.entries(node).is_some() => {
                        *self.tree.metadata_mut(node) = metadata.clone();
                    }
                    _ => self.set(directory, name, metadata, NodeKind::Directory(BTreeMap::new())),
                }
                Ok(())
            }
            Action::Regular(metadata, content) => {
                let (directory, name) = self.place(path)?;
                self.set(directory, name, metadata, NodeKind::Regular(content.clone()));
                Ok(())
            }
            Action::Special(metadata, special) => {
                let (directory, name) = self.place(path)?;
                self.set(directory, name, metadata, special.node_kind());
                Ok(())
            }
            Action::HardLink(target) => self.link(path, target),
        }
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        let (directory, name) = self.place(path)?;
        self.entries_mut(directory).remove(name);
        let (target_parent, target_name) = split(target);
        let steps = self.walk(target_parent, path)?;
        let node = end_of(&steps).and_then(|parent| self.tree.lookup(parent, target_name));
        match node {
            Some(node) if self.tree.entries(node).is_none() => {
                self.entries_mut(directory).insert(name.to_vec(), node);
                Ok(())
            }
            Some(_) => {
                refused(path, format!("a hard link to a directory, {}", target.escape_ascii()))
            }
            None => {
                let reason =
                    format!("a hard link to {}, which is not there", target.escape_ascii());
                refused(path, reason)
            }
        }
    }

    fn set(&mut self, directory: NodeId, name: &[u8], metadata: &Metadata, kind: NodeKind) {
        let node = self.tree.add(metadata.clone(), kind);
        self.entries_mut(directory).insert(name.to_vec(), node);
    }

    fn entries_mut(&mut self, directory: NodeId) -> &mut BTreeMap<Vec<u8>, NodeId> {
        self.tree.entries_mut(directory).expect("a place is in a directory")
    }

    /// The directory and name where an entry goes; missing directories are made, and all of the
    /// way counts as touched.
    fn place<'p>(&mut self, path: &'p [u8]) -> Result<(NodeId, &'p [u8]), LayerError> {
        let (parent, name) = split(path);
        let steps = self.walk(parent, path)?;
        let mut directory = Tree::ROOT;
        for (part, node) in steps {
            let next = match node {
                Some(node) if self.tree.entries(node).is_some() => node,
                Some(_) => {
                    let reason = format!("{} is not a directory", part.escape_ascii());
                    return refused(path, reason);
                }
                None => {
                    let metadata = Metadata { permissions: 0o755, ..Metadata::default() };
                    let node = self.tree.add(metadata, NodeKind::Directory(BTreeMap::new()));
                    self.entries_mut(directory).insert(part.clone(), node);
                    node
                }
            };
            self.touched.insert((directory, part));
            directory = next;
        }
        self.touched.insert((directory, name.to_vec()));
        Ok((directory, name))
    }

    /// Walks a path from the root and follows symbolic links, never above the root. Parts that
    /// are not there are kept by name; `entry` is for messages.
    fn walk(&self, path: &[u8], entry: &[u8]) -> Result<Vec<Step>, LayerError> {
        let mut steps: Vec<Step> = Vec::new();
        let mut rest: Vec<Vec<u8>> = reversed_parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    steps.pop();
                    continue;
                }
                _ => {}
            }
            let directory = steps.last().map_or(Some(Tree::ROOT), |(_, node)| *node);
            let node = directory.and_then(|directory| self.tree.lookup(directory, &part));
            let Some(NodeKind::Symlink(target)) = node.map(|node| self.tree.kind(node)) else {
                // Missing inside of a file is caught where something is to be made there.
                let inside_a_file = directory.is_some_and(|node| self.tree.entries(node).is_none());
                if inside_a_file {
                    return refused(entry, "a part of its path is not a directory");
                }
                steps.push((part, node));
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return refused(entry, "its path leads through too many symbolic links");
            }
            if target.starts_with(b"/") {
                steps.clear();
            }
            rest.extend(reversed_parts(target));
        }
        Ok(steps)
    }

    /// Removes names that this layer has not set, and the same below those that it has. Without
    /// recursion: an image may be deeper than a stack.
    fn remove_untouched(&mut self, directory: NodeId, names: Vec<Vec<u8>>) {
        let mut work = vec![(directory, names)];
        while let Some((directory, names)) = work.pop() {
            for name in names {
                let Some(node) = self.tree.lookup(directory, &name) else { continue };
                let key = (directory, name);
                if !self.touched.contains(&key) {
                    self.entries_mut(directory).remove(&key.1);
                } else if let Some(entries) = self.tree.entries(node) {
                    work.push((node, entries.keys().cloned().collect()));
                }
            }
        }
    }
}

/// Where the steps lead; none where something on the way is missing.
fn end_of(steps: &[Step]) -> Option<NodeId> {
    steps.last().map_or(Some(Tree::ROOT), |(_, node)| *node)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let name = last_part(path);
    (&path[..path.len() - name.len()], name)
}

fn reversed_parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|&byte| byte == b'/').map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests;
