//! What the frames of a trace mean in one image: which bytes belong where, and whether they are
//! the image's.
//!
//! Pure. A trace says what some image's files had at some time, and its frames come from a server:
//! neither is believed. Every page is checked against the page roots that the manifest
//! vouches for before anything else sees it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use sway_core::chunk::PAGE_LEN;
use sway_core::digest::Digest;
use sway_core::manifest::{Ino, Manifest, PageRoots, PageSource};
use sway_core::trace::{FramePart, Trace};

use super::board::PageKey;

/// Why a frame is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The trace tells of no such frame.
    #[error("frame {0} belongs to no trace")]
    Unknown(Digest),
    /// It is longer or shorter than its ranges.
    #[error("frame {digest} has {len} bytes where its trace says {due}")]
    Length {
        /// The frame.
        digest: Digest,
        /// Its bytes.
        len: usize,
        /// What the trace says.
        due: u32,
    },
    /// Some of its bytes are not the image's.
    #[error("frame {digest} holds other bytes than the image's in {path}")]
    Foreign {
        /// The frame.
        digest: Digest,
        /// The file.
        path: String,
    },
}

/// A file of a trace in this image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its inode.
    pub ino: Ino,
    /// A path to it, from the root, that passes no symbolic link.
    pub path: Box<[u8]>,
}

/// A page in a frame, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name on the board.
    pub key: PageKey,
    /// Index of the file, for [`Plan::target`].
    pub file: u32,
    /// Where it is in the file, in bytes.
    pub offset: u64,
    /// Where it is in the frame.
    pub range: Range<usize>,
}

/// A trace, laid over an image.
#[derive(Debug)]
pub struct Plan {
    manifest: Arc<Manifest>,
    roots: PageRoots,
    trace: Arc<Trace>,
    /// For each file of the trace; none where the image does not have it.
    targets: Vec<Option<Target>>,
    /// Frames by name; those of the same bytes have the same name.
    frames: HashMap<Digest, Vec<usize>>,
    /// Raw bytes before each frame.
    starts: Vec<u64>,
}

impl Plan {
    /// Lays `trace` over an image. None where their chunks are of different lengths.
    pub fn new(manifest: Arc<Manifest>, roots: PageRoots, trace: Arc<Trace>) -> Option<Self> {
        if trace.chunk_len() != manifest.chunk_len() {
            return None;
        }
        let mut targets: Vec<Option<Target>> = trace
            .files()
            .iter()
            .map(|file| {
                let ino = manifest.resolve(&file.path)?;
                let is_same = manifest.content_id(ino) == Some(file.content)
                    && manifest.inode(ino)?.size() == file.size;
                is_same.then(|| Target { ino, path: file.path.clone() })
            })
            .collect();
        find_moved(&manifest, &trace, &mut targets);
        let mut frames: HashMap<Digest, Vec<usize>> = HashMap::new();
        for (at, frame) in trace.frames().iter().enumerate() {
            frames.entry(frame.digest).or_default().push(at);
        }
        let mut starts = Vec::with_capacity(trace.frames().len());
        let mut at = 0;
        for frame in trace.frames() {
            starts.push(at);
            at += u64::from(frame.len);
        }
        Some(Self { manifest, roots, trace, targets, frames, starts })
    }

    /// The trace.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    /// A file of the trace in the image.
    pub fn target(&self, file: u32) -> Option<&Target> {
        self.targets.get(file as usize)?.as_ref()
    }

    /// The positions of a frame among all.
    pub fn frames(&self, digest: Digest) -> &[usize] {
        self.frames.get(&digest).map_or(&[], Vec::as_slice)
    }

    /// Raw bytes of the frames before this one, and of it.
    pub fn span(&self, frame: usize) -> Range<u64> {
        let start = self.starts[frame];
        start..start + u64::from(self.trace.frames()[frame].len)
    }

    /// Whether a frame holds anything of this image.
    pub fn is_useful(&self, frame: usize) -> bool {
        let ranges = &self.trace.ranges()[self.trace.frames()[frame].ranges.clone()];
        ranges.iter().any(|range| self.target(range.file).is_some())
    }

    /// All pages that the frames bring, with their positions.
    pub fn expected(&self) -> Vec<(PageKey, u64)> {
        let all = 0..self.trace.frames().len();
        all.flat_map(|frame| {
            let at = self.starts[frame];
            self.pieces(frame).into_iter().map(move |piece| (piece.key, at))
        })
        .collect()
    }

    /// The pages of a frame that are this image's, in order.
    pub fn pieces(&self, frame: usize) -> Vec<Piece> {
        let parts = self.trace.parts(&self.trace.frames()[frame]);
        parts.iter().filter_map(|part| self.placed(part)).flatten().collect()
    }

    /// The pages of a part of a frame, where they are this image's.
    fn placed<'a>(&'a self, part: &'a FramePart) -> Option<impl Iterator<Item = Piece> + 'a> {
        let chunk = self.chunk(part)?;
        Some(part.pages().map(move |(page, range)| Piece {
            key: PageKey { chunk, page: page - part.start },
            file: part.file,
            offset: u64::from(page) * u64::from(PAGE_LEN),
            range,
        }))
    }

    /// The image's chunk that a part is of. None where the trace has it of another length: the shape
    /// of a page tree is the manifest's to tell.
    fn chunk(&self, part: &FramePart) -> Option<u32> {
        let PageSource::Chunk { chunk, page: 0 } =
            self.manifest.page(self.target(part.file)?.ino, part.start)?
        else {
            return None;
        };
        let pages = self.manifest.chunks()[chunk as usize].len.div_ceil(PAGE_LEN);
        (part.pages.chunk_pages() == pages).then_some(chunk)
    }

    /// Checks the raw bytes of a frame: all of its pages that this image has must be the image's.
    /// What the frame's own digest says is no matter then, and is not asked.
    pub fn check(&self, frame: usize, raw: &Bytes) -> Result<Vec<Piece>, FrameError> {
        let traced = &self.trace.frames()[frame];
        let digest = traced.digest;
        if raw.len() != traced.len as usize {
            return Err(FrameError::Length { digest, len: raw.len(), due: traced.len });
        }
        let mut pieces = Vec::new();
        for part in self.trace.parts(traced) {
            let (Some(chunk), Some(placed)) = (self.chunk(&part), self.placed(&part)) else {
                continue;
            };
            let root = part.pages.root(&raw[part.bytes.clone()], &raw[part.proof.clone()]);
            if root.is_none() || root != self.roots.root(chunk) {
                let path = &self.trace.files()[part.file as usize].path;
                return Err(FrameError::Foreign { digest, path: path.escape_ascii().to_string() });
            }
            pieces.extend(placed);
        }
        Ok(pieces)
    }
}

/// Finds files that are not where they were traced by their content: the image is another one.
fn find_moved(manifest: &Manifest, trace: &Trace, targets: &mut [Option<Target>]) {
    let lost = targets.iter().enumerate().filter(|(_, target)| target.is_none());
    let lost = lost.map(|(at, _)| (trace.files()[at].content, at));
    // Several files of a trace never have the same content.
    let mut lost: HashMap<Digest, usize> = lost.collect();
    // The contents of all files are not looked at where none is lost.
    let sizes: std::collections::HashSet<u64> =
        lost.values().map(|at| trace.files()[*at].size).collect();
    let mut open = vec![(Ino::ROOT, Vec::new())];
    while let Some((directory, path)) = open.pop() {
        if lost.is_empty() {
            return;
        }
        for (name, ino) in manifest.entries(directory).into_iter().flatten() {
            let Some(inode) = manifest.inode(ino) else { continue };
            let child = || [&path[..], b"/", name].concat();
            if inode.is_directory() {
                open.push((ino, child()));
            } else if inode.is_regular()
                && sizes.contains(&inode.size())
                && let Some(content) = manifest.content_id(ino)
                && let Some(&at) = lost.get(&content)
                && trace.files()[at].size == inode.size()
            {
                lost.remove(&content);
                targets[at] = Some(Target { ino, path: child().into() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sway_core::chunk::CutChunk;
    use sway_core::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};
    use sway_core::trace::{TraceFrame, TraceRange, TracedFile};

    use super::*;

    /// A file of two pages; its page root is the hash of two digests.
    fn image() -> (Arc<Manifest>, PageRoots, Vec<u8>) {
        let bytes: Vec<u8> = (0..2 * PAGE_LEN).map(|at| at.to_le_bytes()[1]).collect();
        let mut content = FileContent::new();
        content.push_chunk(CutChunk::of(&bytes));
        let mut tree = Tree::new();
        let node = tree.add(Metadata::default(), NodeKind::Regular(content));
        tree.entries_mut(Tree::ROOT).unwrap().insert(b"f".to_vec(), node);
        let (manifest, roots) = tree.to_manifest(RunConfig::default()).unwrap();
        let roots = PageRoots::decode(&manifest, &roots.unwrap()).unwrap();
        (Arc::new(manifest), roots, bytes)
    }

    /// A trace of one frame: so many pages of a file of this size with the image's content.
    fn trace(content: Digest, size: u64, pages: u32, path: &[u8], raw: &[u8]) -> Trace {
        let other = TracedFile {
            content: Digest::of(b"other"),
            size: 2 * u64::from(PAGE_LEN),
            path: (*b"/lost").into(),
        };
        let len = u32::try_from(raw.len()).unwrap();
        Trace::new(
            vec![TracedFile { content, size, path: path.into() }, other],
            vec![TraceRange { file: 0, first: 0, count: pages, idle: 0 }],
            vec![TraceFrame { digest: Digest::of(raw), len, ranges: 0..1 }],
        )
        .unwrap()
    }

    #[test]
    fn digests_of_a_page_tree_do_not_pass_for_a_page() {
        let (manifest, roots, bytes) = image();
        let content = Digest::of(&bytes);
        let checked = |size: u64, pages: u32, path: &[u8], raw: Vec<u8>| {
            let trace = Arc::new(trace(content, size, pages, path, &raw));
            let plan = Plan::new(Arc::clone(&manifest), roots.clone(), trace).unwrap();
            assert_eq!(plan.pieces(0).is_empty(), plan.expected().is_empty());
            plan.check(0, &Bytes::from(raw)).map(|pieces| pieces.len())
        };
        for path in [&b"/f"[..], b"/moved"] {
            let size = 2 * u64::from(PAGE_LEN);
            assert_eq!(checked(size, 2, path, bytes.clone()), Ok(2));
            let mut foreign = bytes.clone();
            foreign[5000] ^= 1;
            assert!(matches!(checked(size, 2, path, foreign), Err(FrameError::Foreign { .. })));
            // Were the file of one page, this would hash to its root.
            let (left, right) = bytes.split_at(PAGE_LEN as usize);
            let node = [*Digest::of(left).as_bytes(), *Digest::of(right).as_bytes()].concat();
            assert_eq!(checked(40, 1, path, node), Ok(0));
        }
    }
}
