//! What a frame holds: pages of chunks, and what proves that they are theirs.

use std::ops::Range;

use super::{TraceRange, TracedFile};
use crate::chunk::PAGE_LEN;
use crate::digest::DIGEST_LEN;
use crate::page_tree::PageSet;

/// What a frame holds of one chunk of a file: first come the pages of all parts, in order, then
/// all proofs, in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramePart {
    /// Index of the file in the trace.
    pub file: u32,
    /// The page of the file at which the chunk begins.
    pub start: u32,
    /// Which pages of the chunk.
    pub pages: PageSet,
    /// Where their bytes are in the frame.
    pub bytes: Range<usize>,
    /// Where their proof is, a digest after the other.
    pub proof: Range<usize>,
}

impl FramePart {
    /// The pages as pages of the file, with their places in the frame.
    pub fn pages(&self) -> impl Iterator<Item = (u32, Range<usize>)> + '_ {
        let mut at = self.bytes.start;
        self.pages.iter().map(move |page| {
            let from = at;
            at = (at + PAGE_LEN as usize).min(self.bytes.end);
            (self.start + page, from..at)
        })
    }
}

/// Pages of the chunk that `page` of a file of `size` bytes lies in, and the first of them.
pub(super) fn chunk_of(chunk_len: u32, size: u64, page: u32) -> (u32, u32) {
    let per_chunk = chunk_len / PAGE_LEN;
    let start = page - page % per_chunk;
    let left = size.div_ceil(u64::from(PAGE_LEN)) - u64::from(start);
    (start, u32::try_from(left).map_or(per_chunk, |left| left.min(per_chunk)))
}

/// The parts of a frame with these ranges, all of which lie within their files.
pub(super) fn parts(chunk_len: u32, files: &[TracedFile], ranges: &[TraceRange]) -> Vec<FramePart> {
    let mut parts: Vec<FramePart> = Vec::new();
    let (mut at, mut last) = (0, None);
    for range in ranges {
        let size = files[range.file as usize].size;
        for page in range.first..range.first + range.count {
            let (start, count) = chunk_of(chunk_len, size, page);
            let rest = size - u64::from(page) * u64::from(PAGE_LEN);
            let end = at
                + usize::try_from(rest)
                    .map_or(PAGE_LEN as usize, |rest| rest.min(PAGE_LEN as usize));
            match parts.last_mut() {
                // Pages of a part are in order, so that their set says where each is.
                Some(part)
                    if (part.file, part.start) == (range.file, start) && last < Some(page) =>
                {
                    part.pages.insert(page - start);
                    part.bytes.end = end;
                }
                _ => {
                    let mut pages = PageSet::none_of(count);
                    pages.insert(page - start);
                    parts.push(FramePart {
                        file: range.file,
                        start,
                        pages,
                        bytes: at..end,
                        proof: 0..0,
                    });
                }
            }
            (at, last) = (end, Some(page));
        }
    }
    for part in &mut parts {
        let end = at + part.pages.proof_len() * DIGEST_LEN;
        part.proof = at..end;
        at = end;
    }
    parts
}

/// Raw bytes of a frame.
pub(super) fn len(parts: &[FramePart]) -> u64 {
    parts.last().map_or(0, |part| part.proof.end as u64)
}
