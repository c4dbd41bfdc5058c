//! How the bytes of a file are cut.
//!
//! Chunks are of one fixed length, the last one shorter: content-defined cutting loses for lazy
//! reading, because a page then needs more bytes around it. A file at or under the chunk length
//! is one blob whose digest is the SHA-1 of the file. A full chunk of zeros is a hole: it is not
//! stored and costs nothing to read, which makes a sparse file of 2 TiB a handful of bytes.
//!
//! Pages of a chunk that go straight into the kernel's page cache are checked without the rest of
//! it, by its page root (`page_tree`).

use std::io::{self, Read};

use crate::digest::Digest;
use crate::page_tree::page_root;

/// Bytes of a chunk, but for a file's last one. 128 KiB is the kernel's default readahead: one
/// read of a sequential reader is one chunk. Larger chunks move more bytes for the same touched
/// pages (for a scipy start 53 MB at 256 KiB against 46 MB here, of 25 MB touched).
pub const CHUNK_LEN: u32 = 128 << 10;

/// Bytes of a page, whatever the machine's own are: the step in which starts are traced.
pub const PAGE_LEN: u32 = 4096;

/// A piece of a file: the name of its bytes and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// The blob.
    pub digest: Digest,
    /// Raw bytes, 1 to the manifest's chunk length.
    pub len: u32,
}

/// A chunk as the exporter sees it: its name, and what vouches for its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutChunk {
    /// Name and length.
    pub chunk: ChunkRef,
    /// Its page root; none where it is one page, whose root is the chunk's digest.
    pub page_root: Option<Digest>,
}

impl CutChunk {
    /// Names the bytes of one chunk.
    pub fn of(bytes: &[u8]) -> Self {
        let len = u32::try_from(bytes.len()).expect("a chunk is at most CHUNK_LEN bytes");
        let chunk = ChunkRef { digest: Digest::of(bytes), len };
        Self { chunk, page_root: chunk.has_page_root().then(|| page_root(bytes)) }
    }
}

impl ChunkRef {
    /// Whether it has a page root beside its digest.
    pub fn has_page_root(&self) -> bool {
        self.len > PAGE_LEN
    }
}

/// One step of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, at most one chunk of them.
    Data(Vec<u8>),
    /// A full chunk of zeros.
    Hole,
}

/// Cuts what `reader` yields. The iterator ends after the last byte or the first error.
pub fn cut<R: Read>(reader: R) -> Cut<R> {
    Cut { reader, ended: false }
}

/// Iterator of [`cut`].
#[derive(Debug)]
pub struct Cut<R> {
    reader: R,
    ended: bool,
}

impl<R: Read> Iterator for Cut<R> {
    type Item = io::Result<Piece>;

    fn next(&mut self) -> Option<io::Result<Piece>> {
        if self.ended {
            return None;
        }
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(u64::from(CHUNK_LEN)).read_to_end(&mut bytes);
        if read.is_err() || bytes.len() < CHUNK_LEN as usize {
            self.ended = true;
        }
        match read {
            Err(error) => Some(Err(error)),
            Ok(_) if bytes.is_empty() => None,
            Ok(_) => Some(Ok(Piece::of(bytes))),
        }
    }
}

impl Piece {
    /// Tells a hole from data.
    pub fn of(bytes: Vec<u8>) -> Self {
        if bytes.len() == CHUNK_LEN as usize && is_zero(&bytes) {
            Self::Hole
        } else {
            Self::Data(bytes)
        }
    }
}

/// Whether all bytes are zero; compares in wide steps.
fn is_zero(bytes: &[u8]) -> bool {
    let steps = bytes.chunks_exact(16);
    steps.remainder().iter().all(|&byte| byte == 0) && steps.into_iter().all(|step| step == [0; 16])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_file_is_one_chunk_named_by_its_sha1() {
        let pieces: Vec<_> = cut(&b"abc"[..]).map(Result::unwrap).collect();
        assert_eq!(pieces, [Piece::Data(b"abc".to_vec())]);
        assert_eq!(CutChunk::of(b"abc").chunk.digest, Digest::of(b"abc"));
        assert_eq!(CutChunk::of(b"abc").page_root, None);
    }

    #[test]
    fn an_empty_file_has_no_chunk() {
        assert_eq!(cut(&b""[..]).count(), 0);
    }

    #[test]
    fn a_full_chunk_of_zeros_is_a_hole_and_a_partial_one_is_not() {
        let zeros = vec![0u8; CHUNK_LEN as usize + 5];
        let pieces: Vec<_> = cut(&zeros[..]).map(Result::unwrap).collect();
        assert_eq!(pieces, [Piece::Hole, Piece::Data(vec![0; 5])]);
    }

    #[test]
    fn a_chunk_of_several_pages_has_a_root_beside_its_digest() {
        let bytes = vec![1u8; PAGE_LEN as usize + 1];
        let cut = CutChunk::of(&bytes);
        assert_eq!(cut.chunk.digest, Digest::of(&bytes));
        assert_eq!(cut.page_root, Some(page_root(&bytes)));
        assert_eq!(CutChunk::of(&bytes[1..]).page_root, None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_pieces_are_the_file(len in 0usize..400_000, seed in any::<u8>()) {
            let file: Vec<u8> = (0..len).map(|i| u8::from(i % 7 == 0).wrapping_mul(seed)).collect();
            let mut whole = Vec::new();
            for piece in cut(&file[..]) {
                match piece.unwrap() {
                    Piece::Data(bytes) => whole.extend(bytes),
                    Piece::Hole => whole.resize(whole.len() + CHUNK_LEN as usize, 0),
                }
            }
            prop_assert_eq!(whole, file);
        }
    }
}
