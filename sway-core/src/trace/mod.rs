//! Start traces: what runs of one entry of an image touched, in order of first use.
//!
//! A [`Trace`] names pages ([`PAGE_LEN`]) of files by content, so that it holds for every image
//! that has these contents. Their bytes lie in **frames**: blobs of at most [`FRAME_LEN_MAX`] raw
//! bytes, each the pages of some successive ranges one after the other, and then what proves that
//! they are their chunks' ([`FramePart`]). A bundle lists what a cold start needs in the order in which it needs it ([`Trace::to_bundle`]),
//! and a ref leads to the bundle ([`trace_ref`]). Holes are in no trace.
//!
//! `format` has the bytes, `frame` what a frame holds, `touches` what is noted during a run.

mod format;
mod frame;
mod key;
pub mod touches;

use std::ops::Range;

use crate::bundle::Bundle;
use crate::chunk::{CHUNK_LEN, PAGE_LEN};
use crate::digest::Digest;

pub use format::TRACE_VERSION;
pub use frame::FramePart;
pub use key::{TraceKey, trace_ref};

/// Most raw bytes of a frame.
pub const FRAME_LEN_MAX: usize = 256 << 10;

/// Most bytes of all pages of a trace.
pub const TRACE_BYTES_MAX: u64 = 512 << 20;

/// Most files of a trace.
pub const FILES_MAX: usize = 1 << 16;

/// Most ranges of a trace, and so most frames.
pub const RANGES_MAX: usize = 1 << 17;

/// Most bytes of all paths of a trace.
pub const PATHS_LEN_MAX: usize = 16 << 20;

/// The longest path of a traced file, in bytes (Linux `PATH_MAX` without its NUL).
pub const PATH_LEN_MAX: usize = 4095;

/// What is not a trace, or not a key of one.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum TraceError {
    /// Something else, cut short, or against a rule of traces.
    #[error("not a trace: {0}")]
    Invalid(String),
    /// From an older Sway, in which frames proved nothing of single pages.
    #[error("trace version {0} is not read any more: the next run records another one")]
    Older(u8),
    /// From a newer Sway.
    #[error("trace version {0} is newer than this program knows ({TRACE_VERSION}): update sway")]
    Newer(u8),
    /// Not a key.
    #[error("not a key of a trace: {0:?} (1 to 64 letters, digits and . _ -, no . at the start)")]
    Key(String),
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, TraceError> {
    Err(TraceError::Invalid(reason.into()))
}

/// A file of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TracedFile {
    /// What names its content (`Manifest::content_id`).
    pub content: Digest,
    /// Its bytes.
    pub size: u64,
    /// Where it was when it was traced, from the root, such as `/usr/bin/python3`. Of several
    /// files of one content this one was touched.
    pub path: Box<[u8]>,
}

/// Successive pages of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceRange {
    /// Index of the file.
    pub file: u32,
    /// The first page.
    pub first: u32,
    /// How many pages, at least one.
    pub count: u32,
    /// Sampled cold starts in a row that did not use it.
    pub idle: u8,
}

/// A blob with the pages of some ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFrame {
    /// The blob.
    pub digest: Digest,
    /// Its raw bytes.
    pub len: u32,
    /// Whose bytes it holds: positions in [`Trace::ranges`].
    pub ranges: Range<usize>,
}

/// A checked trace: every range lies within its file, no page comes twice, each frame is as long
/// as its ranges and their proofs, and the frames hold all ranges in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    chunk_len: u32,
    files: Vec<TracedFile>,
    ranges: Vec<TraceRange>,
    frames: Vec<TraceFrame>,
    raw_len: u64,
}

impl Trace {
    /// A trace of these parts, of files in chunks of [`CHUNK_LEN`], if they keep the rules.
    pub fn new(
        files: Vec<TracedFile>,
        ranges: Vec<TraceRange>,
        frames: Vec<TraceFrame>,
    ) -> Result<Self, TraceError> {
        Self::checked(CHUNK_LEN, files, ranges, frames)
    }

    fn checked(
        chunk_len: u32,
        files: Vec<TracedFile>,
        ranges: Vec<TraceRange>,
        frames: Vec<TraceFrame>,
    ) -> Result<Self, TraceError> {
        let mut trace = Self { chunk_len, files, ranges, frames, raw_len: 0 };
        trace.check_files()?;
        trace.check_ranges()?;
        trace.raw_len = trace.check_frames()?;
        Ok(trace)
    }

    /// Bytes of a chunk of its files. A reader compares it with the manifest's.
    pub fn chunk_len(&self) -> u32 {
        self.chunk_len
    }

    /// The files.
    pub fn files(&self) -> &[TracedFile] {
        &self.files
    }

    /// The ranges, in order of first use.
    pub fn ranges(&self) -> &[TraceRange] {
        &self.ranges
    }

    /// The frames, in order of first use.
    pub fn frames(&self) -> &[TraceFrame] {
        &self.frames
    }

    /// What one of [`Trace::frames`] holds, in order.
    pub fn parts(&self, frame: &TraceFrame) -> Vec<FramePart> {
        frame::parts(self.chunk_len, &self.files, &self.ranges[frame.ranges.clone()])
    }

    /// Bytes of all pages.
    pub fn raw_len(&self) -> u64 {
        self.raw_len
    }

    /// The bytes of its file that one of [`Trace::ranges`] is; a file's last page is short.
    pub fn range_bytes(&self, range: &TraceRange) -> Range<u64> {
        span(self.files[range.file as usize].size, range)
    }

    /// The bundle of an image with the page roots `page_roots`, where `trace` names the encoded
    /// trace: page roots, trace, frames.
    pub fn to_bundle(&self, page_roots: Option<Digest>, trace: Digest) -> Bundle {
        let frames = self.frames.iter().map(|frame| frame.digest);
        Bundle { members: page_roots.into_iter().chain([trace]).chain(frames).collect() }
    }

    fn check_files(&self) -> Result<(), TraceError> {
        if self.files.len() > FILES_MAX {
            return invalid(format!(
                "{} files; at most {FILES_MAX} are possible",
                self.files.len()
            ));
        }
        let paths = self.files.iter().map(|file| file.path.len()).fold(0, usize::saturating_add);
        if paths > PATHS_LEN_MAX {
            return invalid(format!("paths of {paths} bytes"));
        }
        for file in &self.files {
            let path = &*file.path;
            if !path.starts_with(b"/") || path.len() > PATH_LEN_MAX || path.contains(&0) {
                let excerpt = &path[..path.len().min(160)];
                return invalid(format!("the path {:?}", String::from_utf8_lossy(excerpt)));
            }
            if file.size == 0 {
                return invalid("an empty file");
            }
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), TraceError> {
        if self.ranges.len() > RANGES_MAX {
            let count = self.ranges.len();
            return invalid(format!("{count} ranges; at most {RANGES_MAX} are possible"));
        }
        for range in &self.ranges {
            let Some(file) = self.files.get(range.file as usize) else {
                return invalid("a range of an unknown file");
            };
            let pages = file.size.div_ceil(u64::from(PAGE_LEN));
            let end = range.first.checked_add(range.count);
            if range.count == 0 || end.is_none_or(|end| u64::from(end) > pages) {
                return invalid("a range that is empty or beyond its file");
            }
        }
        let mut sorted: Vec<&TraceRange> = self.ranges.iter().collect();
        sorted.sort_unstable_by_key(|range| (range.file, range.first));
        let apart = |a: &&TraceRange, b: &&TraceRange| {
            a.file != b.file || u64::from(a.first) + u64::from(a.count) <= u64::from(b.first)
        };
        if sorted.is_sorted_by(apart) { Ok(()) } else { invalid("a page that comes twice") }
    }

    /// Returns the bytes of all pages.
    fn check_frames(&self) -> Result<u64, TraceError> {
        let (mut next, mut total) = (0, 0u64);
        for frame in &self.frames {
            let Some(ranges) = self.ranges.get(frame.ranges.clone()) else {
                return invalid("a frame beyond the ranges");
            };
            if frame.ranges.start != next || ranges.is_empty() {
                return invalid("frames that share ranges, leave some out, or hold none");
            }
            next = frame.ranges.end;
            let bytes = ranges.iter().fold(0u64, |sum, range| {
                let bytes = self.range_bytes(range);
                sum.saturating_add(bytes.end - bytes.start)
            });
            // Nothing is computed of what is too long anyway.
            let len = match bytes > FRAME_LEN_MAX as u64 {
                true => bytes,
                false => frame::len(&self.parts(frame)),
            };
            if len != u64::from(frame.len) || len > FRAME_LEN_MAX as u64 {
                return invalid(format!("a frame of {} bytes for {len} of ranges", frame.len));
            }
            total += bytes;
        }
        if next != self.ranges.len() {
            return invalid("ranges that no frame holds");
        }
        if total > TRACE_BYTES_MAX {
            return invalid(format!("{total} bytes; at most {TRACE_BYTES_MAX} are possible"));
        }
        Ok(total)
    }
}

fn span(size: u64, range: &TraceRange) -> Range<u64> {
    let start = u64::from(range.first) * u64::from(PAGE_LEN);
    let end = start + u64::from(range.count) * u64::from(PAGE_LEN);
    start.min(size)..end.min(size)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests with small numbers")]
mod tests;
