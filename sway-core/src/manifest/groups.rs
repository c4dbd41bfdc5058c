//! Page groups: pieces of chunks that have hashes of their own, so that a part of a chunk can be
//! checked without the rest.

use super::{ExtentSource, Ino, Manifest, ManifestError};
use crate::chunk::group_count;
use crate::digest::{DIGEST_LEN, Digest};

/// Where the bytes of a page group of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupSource {
    /// Zeros.
    Hole,
    /// A piece of a chunk.
    Chunk {
        /// Position in [`Manifest::chunks`].
        chunk: u32,
        /// The group within the chunk.
        group: u32,
    },
}

impl Manifest {
    /// Where the bytes of a file's page group `group` are. None beyond the file's end, and for
    /// everything but regular files.
    pub fn group(&self, ino: Ino, group: u32) -> Option<GroupSource> {
        let size = self.inode(ino).filter(|inode| inode.is_regular())?.size();
        if u64::from(group) * u64::from(self.group_len) >= size {
            return None;
        }
        let per_chunk = self.chunk_len / self.group_len;
        let at = group / per_chunk;
        let extents = self.extents(ino);
        let extent = extents.partition_point(|extent| extent.start <= at).checked_sub(1)?;
        let extent = extents.get(extent)?;
        Some(match extent.source {
            ExtentSource::Hole => GroupSource::Hole,
            ExtentSource::Chunks(first) => {
                GroupSource::Chunk { chunk: first + (at - extent.start), group: group % per_chunk }
            }
        })
    }
}

/// The page-group hashes of an image: a blob of its own, named by the manifest.
#[derive(Clone, Debug)]
pub struct PageGroups {
    /// For each chunk, where its hashes start in `hashes`.
    starts: Vec<usize>,
    hashes: Vec<Digest>,
}

impl PageGroups {
    /// Reads the blob: for each chunk of the table that is longer than a group, in order, the
    /// hashes of its groups, 20 bytes each.
    pub fn decode(manifest: &Manifest, bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut starts = Vec::with_capacity(manifest.chunks.len());
        let mut count = 0;
        for chunk in &manifest.chunks {
            starts.push(count);
            count += group_count(chunk.len, manifest.group_len);
        }
        if bytes.len() != count * DIGEST_LEN {
            return Err(ManifestError::Invalid(format!(
                "{} bytes of page-group hashes where {} are due",
                bytes.len(),
                count * DIGEST_LEN
            )));
        }
        let hashes = bytes
            .chunks_exact(DIGEST_LEN)
            .map(|hash| Digest::from_bytes(hash.try_into().expect("chunks_exact yields 20 bytes")))
            .collect();
        Ok(Self { starts, hashes })
    }

    /// The hash that the bytes of group `group` of chunk `chunk` must have.
    pub fn hash(&self, manifest: &Manifest, chunk: u32, group: u32) -> Option<Digest> {
        let chunk_ref = manifest.chunks.get(chunk as usize)?;
        match group_count(chunk_ref.len, manifest.group_len) {
            0 if group == 0 => Some(chunk_ref.digest),
            count if (group as usize) < count => {
                self.hashes.get(self.starts[chunk as usize] + group as usize).copied()
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{CHUNK_LEN, CutChunk, GROUP_LEN};
    use crate::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};

    #[test]
    fn every_group_of_a_file_leads_to_the_hash_of_its_bytes() {
        let long: Vec<u8> = (0..CHUNK_LEN).map(|i| (i >> 12).to_le_bytes()[0]).collect();
        let tail: Vec<u8> = (0..GROUP_LEN * 2 + 9).map(|i| (i >> 9).to_le_bytes()[0]).collect();
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
        let (manifest, groups) = tree.to_manifest(RunConfig::default()).unwrap();
        let groups = PageGroups::decode(&manifest, &groups.unwrap()).unwrap();

        let zeros = vec![0; CHUNK_LEN as usize * 2];
        let bytes = [&long[..], &long, &zeros, &tail].concat();
        let file = manifest.resolve(b"long").unwrap();
        let parts: Vec<&[u8]> = bytes.chunks(GROUP_LEN as usize).collect();
        for (at, part) in (0..).zip(&parts) {
            match manifest.group(file, at).unwrap() {
                GroupSource::Hole => assert!(part.iter().all(|&byte| byte == 0), "group {at}"),
                GroupSource::Chunk { chunk, group } => {
                    let hash = groups.hash(&manifest, chunk, group);
                    assert_eq!(hash, Some(Digest::of(part)), "group {at}");
                }
            }
        }
        let holes = (0..)
            .zip(&parts)
            .filter(|(at, _)| manifest.group(file, *at) == Some(GroupSource::Hole));
        assert_eq!(holes.count(), (CHUNK_LEN * 2 / GROUP_LEN) as usize);
        assert_eq!(manifest.group(file, u32::try_from(parts.len()).unwrap()), None);
        assert_eq!(manifest.group(file, u32::MAX), None);

        let small = manifest.resolve(b"small").unwrap();
        let Some(GroupSource::Chunk { chunk, group: 0 }) = manifest.group(small, 0) else {
            panic!("a small file is one group");
        };
        assert_eq!(groups.hash(&manifest, chunk, 0), Some(Digest::of(b"small")));
        assert_eq!(manifest.group(Ino::ROOT, 0), None);
    }
}
