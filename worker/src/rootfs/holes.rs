//! The holes of files, laid out so that no question about them walks through a file.
//!
//! A file may have millions of extents, and the kernel asks on threads that serve everybody.

use std::collections::HashMap;
use std::ops::Range;

use sway_core::manifest::{ExtentSource, Ino, Manifest};

/// The holes of all files of an image that have any.
#[derive(Debug)]
pub(super) struct Holes {
    by_ino: HashMap<Ino, FileHoles>,
}

/// The holes of one file.
#[derive(Debug, Default)]
struct FileHoles {
    /// In bytes, in order, none next to another.
    ranges: Vec<Range<u64>>,
    /// The sum of their lengths.
    bytes: u64,
}

impl Holes {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let last = u32::try_from(manifest.inode_count()).unwrap_or(u32::MAX);
        let all = (Ino::ROOT.0..=last).map(Ino);
        let holes = all.map(|ino| (ino, FileHoles::of(manifest, ino)));
        Self { by_ino: holes.filter(|(_, holes)| holes.bytes > 0).collect() }
    }

    /// How many bytes of a file are in holes.
    pub(super) fn bytes(&self, ino: Ino) -> u64 {
        self.by_ino.get(&ino).map_or(0, |holes| holes.bytes)
    }

    /// The first hole of a file that ends behind `offset`.
    pub(super) fn next(&self, ino: Ino, offset: u64) -> Option<&Range<u64>> {
        let ranges = &self.by_ino.get(&ino)?.ranges;
        ranges.get(ranges.partition_point(|hole| hole.end <= offset))
    }
}

impl FileHoles {
    fn of(manifest: &Manifest, ino: Ino) -> Self {
        let size = manifest.inode(ino).map_or(0, |inode| inode.size());
        let chunk_len = u64::from(manifest.chunk_len());
        let mut holes = Self::default();
        for extent in manifest.extents(ino) {
            if extent.source != ExtentSource::Hole {
                continue;
            }
            let start = u64::from(extent.start) * chunk_len;
            let end = (start + u64::from(extent.count) * chunk_len).min(size);
            holes.bytes += end.saturating_sub(start);
            match holes.ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => holes.ranges.push(start..end),
            }
        }
        holes
    }
}
