//! Pages of files: which piece of which chunk each is, and what vouches for it.

use super::{ExtentSource, Ino, Manifest, ManifestError};
use crate::chunk::{ChunkRef, PAGE_LEN};
use crate::digest::{DIGEST_LEN, Digest};

/// Where the bytes of a page of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageSource {
    /// Zeros.
    Hole,
    /// A piece of a chunk.
    Chunk {
        /// Position in [`Manifest::chunks`].
        chunk: u32,
        /// The page within the chunk.
        page: u32,
    },
}

impl Manifest {
    /// Where the bytes of a file's page `page` are. None beyond the file's end, and for everything
    /// but regular files.
    pub fn page(&self, ino: Ino, page: u32) -> Option<PageSource> {
        let size = self.inode(ino).filter(|inode| inode.is_regular())?.size();
        if u64::from(page) * u64::from(PAGE_LEN) >= size {
            return None;
        }
        let per_chunk = self.chunk_len / PAGE_LEN;
        let at = page / per_chunk;
        let extents = self.extents(ino);
        let extent = extents.partition_point(|extent| extent.start <= at).checked_sub(1)?;
        let extent = extents.get(extent)?;
        Some(match extent.source {
            ExtentSource::Hole => PageSource::Hole,
            ExtentSource::Chunks(first) => {
                PageSource::Chunk { chunk: first + (at - extent.start), page: page % per_chunk }
            }
        })
    }

    /// Whether every page of every file is vouched for. Not so in images that were exported before
    /// there were page roots.
    pub fn has_page_roots(&self) -> bool {
        self.page_roots.is_some() || !self.chunks.iter().any(ChunkRef::has_page_root)
    }
}

/// The page roots of an image's chunks: a blob of its own, named by the manifest.
#[derive(Clone, Debug)]
pub struct PageRoots(Vec<Digest>);

impl PageRoots {
    /// Reads the blob: for each chunk of the table that is longer than a page, in order, its page
    /// root, 20 bytes.
    pub fn decode(manifest: &Manifest, bytes: &[u8]) -> Result<Self, ManifestError> {
        let due = manifest.chunks.iter().filter(|chunk| chunk.has_page_root()).count();
        if bytes.len() != due * DIGEST_LEN {
            return Err(ManifestError::Invalid(format!(
                "{} bytes of page roots where {} are due",
                bytes.len(),
                due * DIGEST_LEN
            )));
        }
        let (roots, _) = bytes.as_chunks();
        let mut roots = roots.iter().copied().map(Digest::from_bytes);
        let of = manifest.chunks.iter().map(|chunk| match chunk.has_page_root() {
            true => roots.next().expect("as many as were counted"),
            false => chunk.digest,
        });
        Ok(Self(of.collect()))
    }

    /// The root of the pages of the chunk at `chunk` in [`Manifest::chunks`].
    pub fn root(&self, chunk: u32) -> Option<Digest> {
        self.0.get(chunk as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{CHUNK_LEN, CutChunk};
    use crate::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};
    use crate::page_tree::{PageSet, page_root};

    #[test]
    fn an_image_reads_back_as_the_tree_that_it_was_made_of() {
        let mut content = FileContent::new();
        content.push_chunk(CutChunk::of(&[7; CHUNK_LEN as usize]));
        content.push_holes(3);
        content.push_chunk(CutChunk::of(&[8; PAGE_LEN as usize + 1]));
        let xattrs = [(b"user.x".to_vec(), b"y".to_vec())].into();
        let metadata =
            Metadata { permissions: 0o4750, uid: 3, gid: 4, xattrs, ..Metadata::default() };
        let mut tree = Tree::new();
        let file = tree.add(metadata, NodeKind::Regular(content));
        let link = tree.add(Metadata::default(), NodeKind::Symlink(b"long".to_vec()));
        let device = tree.add(Metadata::default(), NodeKind::CharDevice(259));
        let names = [(b"again".to_vec(), file), (b"link".to_vec(), link)].into();
        let directory = tree.add(Metadata::default(), NodeKind::Directory(names));
        let root = tree.entries_mut(Tree::ROOT).unwrap();
        for (name, node) in [("long", file), ("null", device), ("sub", directory)] {
            root.insert(name.into(), node);
        }
        let (manifest, blob) = tree.to_manifest(RunConfig::default()).unwrap();
        let roots = PageRoots::decode(&manifest, blob.as_deref().unwrap()).unwrap();
        let again = Tree::of(&manifest, &roots).unwrap();
        assert_eq!(again.to_manifest(RunConfig::default()).unwrap(), (manifest, blob));
    }

    #[test]
    fn every_page_of_a_file_is_vouched_for() {
        let long: Vec<u8> = (0..CHUNK_LEN).map(|i| (i >> 12).to_le_bytes()[0]).collect();
        let tail: Vec<u8> = (0..PAGE_LEN * 2 + 9).map(|i| (i >> 9).to_le_bytes()[0]).collect();
        let mut content = FileContent::new();
        for chunk in [&long[..], &long[..]] {
            content.push_chunk(CutChunk::of(chunk));
        }
        content.push_holes(2);
        content.push_chunk(CutChunk::of(&tail));
        let mut small = FileContent::new();
        small.push_chunk(CutChunk::of(b"small"));
        let mut tree = Tree::new();
        let long_node = tree.add(Metadata::default(), NodeKind::Regular(content));
        let small_node = tree.add(Metadata::default(), NodeKind::Regular(small));
        let root = tree.entries_mut(Tree::ROOT).unwrap();
        root.insert(b"long".to_vec(), long_node);
        root.insert(b"small".to_vec(), small_node);
        let (manifest, roots) = tree.to_manifest(RunConfig::default()).unwrap();
        let roots = roots.unwrap();
        assert!(PageRoots::decode(&manifest, &roots[20..]).is_err());
        let roots = PageRoots::decode(&manifest, &roots).unwrap();

        let zeros = vec![0; CHUNK_LEN as usize * 2];
        let bytes = [&long[..], &long, &zeros, &tail].concat();
        let file = manifest.resolve(b"long").unwrap();
        let parts: Vec<&[u8]> = bytes.chunks(PAGE_LEN as usize).collect();
        let mut holes = 0;
        for (at, part) in (0..).zip(&parts) {
            match manifest.page(file, at).unwrap() {
                PageSource::Hole => {
                    holes += 1;
                    assert!(part.iter().all(|&byte| byte == 0), "page {at}");
                }
                PageSource::Chunk { chunk, page } => {
                    let len = manifest.chunks()[chunk as usize].len;
                    let whole = if len == CHUNK_LEN { &long } else { &tail };
                    let mut set = PageSet::none_of(len.div_ceil(PAGE_LEN));
                    set.insert(page);
                    let proof = set.prove(whole);
                    let proof: Vec<u8> = proof.iter().flat_map(|hash| *hash.as_bytes()).collect();
                    assert_eq!(set.root(part, &proof), roots.root(chunk), "page {at}");
                    assert_eq!(roots.root(chunk), Some(page_root(whole)));
                }
            }
        }
        assert_eq!(holes, CHUNK_LEN * 2 / PAGE_LEN);
        assert_eq!(manifest.page(file, u32::try_from(parts.len()).unwrap()), None);
        assert_eq!(manifest.page(file, u32::MAX), None);

        let small = manifest.resolve(b"small").unwrap();
        let Some(PageSource::Chunk { chunk, page: 0 }) = manifest.page(small, 0) else {
            panic!("a small file is one page");
        };
        assert_eq!(roots.root(chunk), Some(Digest::of(b"small")));
        assert_eq!(manifest.page(Ino::ROOT, 0), None);
    }
}
