//! Which bytes of which chunks answer a read: the heart of lazy loading, as a pure function.

use std::ops::Range;

use crate::manifest::{ExtentSource, Ino, Manifest};

/// Bytes of the answer that come from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slice {
    /// A part of one chunk.
    Chunk {
        /// Index into [`Manifest::chunks`].
        chunk: u32,
        /// Bytes of the chunk.
        range: Range<usize>,
    },
    /// So many zeros.
    Zeros(usize),
}

impl Slice {
    /// Bytes that this slice adds to the answer.
    pub fn len(&self) -> usize {
        match self {
            Self::Chunk { range, .. } => range.len(),
            Self::Zeros(len) => *len,
        }
    }

    /// Never: a plan holds no empty slices. Here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The slices that answer a read of `len` bytes at `offset`, in order. Shorter than `len` where
/// the file ends, empty behind its end and for everything that is not a regular file.
pub fn read_plan(manifest: &Manifest, ino: Ino, offset: u64, len: usize) -> Vec<Slice> {
    let size = match manifest.inode(ino) {
        Some(inode) if inode.is_regular() => inode.size(),
        _ => return Vec::new(),
    };
    let end = offset.saturating_add(len as u64).min(size);
    let chunk_len = u64::from(manifest.chunk_len());
    let extents = manifest.extents(ino);
    let mut plan = Vec::new();
    let mut at = offset;
    let mut next = extents.partition_point(|extent| {
        (u64::from(extent.start) + u64::from(extent.count)) * chunk_len <= at
    });
    while at < end {
        let extent = &extents[next];
        let extent_end = (u64::from(extent.start) + u64::from(extent.count)) * chunk_len;
        match extent.source {
            ExtentSource::Hole => {
                let stop = extent_end.min(end);
                plan.push(Slice::Zeros(to_usize(stop - at)));
                at = stop;
            }
            ExtentSource::Chunks(first) => {
                let position = at / chunk_len;
                let from = at % chunk_len;
                let stop = ((position + 1) * chunk_len).min(end);
                let chunk = first + to_u32(position - u64::from(extent.start));
                let start = to_usize(from);
                plan.push(Slice::Chunk { chunk, range: start..start + to_usize(stop - at) });
                at = stop;
            }
        }
        if at >= extent_end {
            next += 1;
        }
    }
    plan
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("no longer than the read that was asked for")
}

fn to_u32(position: u64) -> u32 {
    u32::try_from(position).expect("a position within an extent, whose count is a u32")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::{CHUNK_LEN, CutChunk};
    use crate::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};

    const CHUNK: usize = CHUNK_LEN as usize;

    /// A file whose pieces are chunks filled with one byte (0 for holes), and a last short one.
    fn file(pieces: &[u8], tail_len: usize) -> (Manifest, Vec<u8>) {
        let mut content = FileContent::new();
        let mut bytes = Vec::new();
        for &fill in pieces {
            let chunk = vec![fill; CHUNK];
            if fill == 0 {
                content.push_holes(1);
            } else {
                content.push_chunk(CutChunk::of(&chunk));
            }
            bytes.extend(chunk);
        }
        if tail_len > 0 {
            content.push_chunk(CutChunk::of(&vec![255; tail_len]));
            bytes.resize(bytes.len() + tail_len, 255);
        }
        let mut tree = Tree::new();
        let node = tree.add(Metadata::default(), NodeKind::Regular(content));
        tree.entries_mut(Tree::ROOT).unwrap().insert(b"f".to_vec(), node);
        (tree.to_manifest(RunConfig::default()).unwrap().0, bytes)
    }

    fn carry_out(manifest: &Manifest, plan: &[Slice], bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for slice in plan {
            match slice {
                Slice::Zeros(len) => out.resize(out.len() + len, 0),
                Slice::Chunk { chunk, range } => {
                    let chunk = manifest.chunks()[*chunk as usize];
                    let content = bytes
                        .chunks(CHUNK)
                        .find(|piece| CutChunk::of(piece).chunk.digest == chunk.digest)
                        .unwrap();
                    out.extend_from_slice(&content[range.clone()]);
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_plan_yields_the_bytes_of_the_file(
            pieces in prop::collection::vec(0u8..4, 0..6),
            tail_len in 0usize..100,
            offset in 0usize..CHUNK * 7,
            len in 0usize..CHUNK * 3,
        ) {
            let (manifest, bytes) = file(&pieces, tail_len);
            let ino = manifest.resolve(b"f").unwrap();
            let plan = read_plan(&manifest, ino, offset as u64, len);
            prop_assert!(plan.iter().all(|slice| !slice.is_empty()));
            let expected = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len())];
            prop_assert_eq!(carry_out(&manifest, &plan, &bytes), expected);
        }
    }

    #[test]
    fn a_sparse_file_of_2_tib_reads_like_a_small_one() {
        let mut content = FileContent::new();
        content.push_holes(u32::try_from((2u64 << 40) / u64::from(CHUNK_LEN)).unwrap());
        content.push_chunk(CutChunk::of(b"end"));
        let mut tree = Tree::new();
        let node = tree.add(Metadata::default(), NodeKind::Regular(content));
        tree.entries_mut(Tree::ROOT).unwrap().insert(b"f".to_vec(), node);
        let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
        assert!(manifest.encode().unwrap().len() < 500);
        let ino = manifest.resolve(b"f").unwrap();
        assert_eq!(
            read_plan(&manifest, ino, (2 << 40) - 2, 100),
            [Slice::Zeros(2), Slice::Chunk { chunk: 0, range: 0..3 }]
        );
        assert_eq!(read_plan(&manifest, ino, u64::MAX, 100), []);
    }
}
