//! The page tree of a chunk: one hash, the page root, that vouches for each of its pages.
//!
//! A Merkle tree over the pages. Its leaves are the SHA-1 of each page, the last one may be short;
//! an inner node is the SHA-1 of both digests below it, and the left side of a node has the most
//! leaves that are a power of two and fewer than all (the shape of RFC 6962, section 2.1). So a few
//! pages are checked without the others: the hashes of the largest subtrees without any of them, the
//! **proof**, stand for those.
//!
//! There are no prefixes that tell a leaf from a node: the number of pages does. Whoever compares
//! roots must know that number from the same source as the root, or two digests pass for a page.

use crate::chunk::PAGE_LEN;
use crate::digest::{DIGEST_LEN, Digest};

/// Most pages of a chunk that part of is proven.
pub const PAGES_MAX: u32 = u64::BITS;

/// Some pages of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSet {
    /// Pages of the chunk.
    count: u32,
    /// Bit n: page n is one of them.
    bits: u64,
}

impl PageSet {
    /// None of a chunk's `count` pages, at most [`PAGES_MAX`].
    pub fn none_of(count: u32) -> Self {
        assert!((1..=PAGES_MAX).contains(&count), "a chunk of {count} pages");
        Self { count, bits: 0 }
    }

    /// Pages of the chunk, whether they are in the set or not.
    pub fn chunk_pages(self) -> u32 {
        self.count
    }

    /// Adds a page of the chunk.
    pub fn insert(&mut self, page: u32) {
        assert!(page < self.count, "page {page} of {}", self.count);
        self.bits |= 1 << page;
    }

    /// Whether a page is one of them.
    pub fn contains(self, page: u32) -> bool {
        page < self.count && self.bits >> page & 1 == 1
    }

    /// Whether a page at or beyond this one is one of them.
    pub fn reaches(self, page: u32) -> bool {
        page < self.count && self.bits >> page != 0
    }

    /// The pages, in order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..self.count).filter(move |page| self.contains(*page))
    }

    /// Digests in the proof of these pages.
    pub fn proof_len(self) -> usize {
        let mut len = 0;
        self.for_each_absent(0, &mut |_, _| len += 1);
        len
    }

    /// The proof of these pages of a chunk: the roots of the largest subtrees with none of them,
    /// from left to right.
    pub fn prove(self, chunk: &[u8]) -> Vec<Digest> {
        let mut proof = Vec::new();
        self.for_each_absent(0, &mut |first, count| {
            let page = PAGE_LEN as usize;
            let (start, len) = (first as usize * page, count as usize * page);
            proof.push(page_root(&chunk[start..chunk.len().min(start + len)]));
        });
        proof
    }

    /// The root that these pages and their proof lead to. `bytes` are the pages, one after the
    /// other, `proof` the digests. None where one of both is of another length.
    pub fn root(self, bytes: &[u8], proof: &[u8]) -> Option<Digest> {
        let mut pages = bytes.chunks(PAGE_LEN as usize);
        let mut proof = proof.chunks(DIGEST_LEN);
        let root = self.climb(&mut pages, &mut proof)?;
        (pages.next().is_none() && proof.next().is_none()).then_some(root)
    }

    fn climb<'a>(
        self,
        pages: &mut impl Iterator<Item = &'a [u8]>,
        proof: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Option<Digest> {
        match (self.bits, self.count) {
            (0, _) => Some(Digest::from_bytes(proof.next()?.try_into().ok()?)),
            (_, 1) => Some(Digest::of(pages.next()?)),
            _ => {
                let (left, right) = self.halves();
                Some(node(left.climb(pages, proof)?, right.climb(pages, proof)?))
            }
        }
    }

    /// Tells of the largest subtrees that have none of these pages: first page and count.
    fn for_each_absent(self, first: u32, tell: &mut impl FnMut(u32, u32)) {
        if self.bits == 0 {
            tell(first, self.count);
        } else if self.count > 1 {
            let (left, right) = self.halves();
            left.for_each_absent(first, tell);
            right.for_each_absent(first + left.count, tell);
        }
    }

    fn halves(self) -> (Self, Self) {
        let count = left_of(self.count);
        let left = Self { count, bits: self.bits & ((1 << count) - 1) };
        (left, Self { count: self.count - count, bits: self.bits >> count })
    }
}

/// The root of the page tree of a chunk, or of a subtree, of these bytes (at least one). That of
/// a single page is its SHA-1.
pub fn page_root(bytes: &[u8]) -> Digest {
    let pages = u32::try_from(bytes.len().div_ceil(PAGE_LEN as usize)).expect("a chunk's pages");
    if pages <= 1 {
        return Digest::of(bytes);
    }
    let (left, right) = bytes.split_at(left_of(pages) as usize * PAGE_LEN as usize);
    node(page_root(left), page_root(right))
}

/// Most digests that one page of so many adds to a proof.
pub fn depth(pages: u32) -> u32 {
    pages.next_power_of_two().trailing_zeros()
}

/// Leaves of the left side of a node with `count`.
fn left_of(count: u32) -> u32 {
    count.next_power_of_two() / 2
}

fn node(left: Digest, right: Digest) -> Digest {
    Digest::of(&[*left.as_bytes(), *right.as_bytes()].concat())
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests with small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i >> 12).to_le_bytes()[0] ^ i.to_le_bytes()[0]).collect()
    }

    fn pages(len: usize) -> u32 {
        len.div_ceil(PAGE_LEN as usize) as u32
    }

    fn bytes_of(set: PageSet, chunk: &[u8]) -> Vec<u8> {
        let all: Vec<&[u8]> = chunk.chunks(PAGE_LEN as usize).collect();
        set.iter().flat_map(|page| all[page as usize].to_vec()).collect()
    }

    fn joined(proof: &[Digest]) -> Vec<u8> {
        proof.iter().flat_map(|digest| *digest.as_bytes()).collect()
    }

    #[test]
    fn the_root_of_three_pages_is_that_of_two_and_one() {
        let bytes = chunk(PAGE_LEN as usize * 2 + 7);
        let [a, b, c] = [0, 1, 2].map(|at| Digest::of(bytes.chunks(4096).nth(at).unwrap()));
        assert_eq!(page_root(&bytes), node(node(a, b), c));
        assert_eq!(page_root(&bytes[..4096]), a);
    }

    proptest! {
        #[test]
        fn any_pages_prove_that_they_are_the_chunks(
            len in 1usize..=PAGES_MAX as usize * PAGE_LEN as usize,
            bits in any::<u64>(),
        ) {
            let chunk = chunk(len);
            let mut set = PageSet::none_of(pages(len));
            (0..pages(len)).filter(|page| bits >> page & 1 == 1).for_each(|page| set.insert(page));
            let (bytes, proof) = (bytes_of(set, &chunk), set.prove(&chunk));
            prop_assert_eq!(proof.len(), set.proof_len());
            let most = set.iter().count().max(1) * depth(pages(len)) as usize;
            prop_assert!(proof.len() <= most.max(1));
            prop_assert_eq!(set.root(&bytes, &joined(&proof)), Some(page_root(&chunk)));
        }

        #[test]
        fn other_bytes_or_another_proof_lead_elsewhere(
            len in 2usize..=200_000,
            bits in 1u64..,
            flip in any::<prop::sample::Index>(),
        ) {
            let chunk = chunk(len);
            let mut set = PageSet::none_of(pages(len));
            (0..pages(len)).filter(|page| bits >> page & 1 == 1).for_each(|page| set.insert(page));
            prop_assume!(set.iter().next().is_some());
            let (bytes, proof) = (bytes_of(set, &chunk), joined(&set.prove(&chunk)));
            let mut all = [&bytes[..], &proof[..]].concat();
            let at = flip.index(all.len());
            all[at] ^= 4;
            let (other, other_proof) = all.split_at(bytes.len());
            prop_assert_ne!(set.root(other, other_proof), Some(page_root(&chunk)));
            prop_assert_eq!(set.root(&bytes, &[&proof[..], &[0; 20]].concat()), None);
        }
    }
}
