//! The bytes of a trace, version 2. `docs/format.md` specifies them; integers are little endian.

use super::{
    FILES_MAX, PATHS_LEN_MAX, RANGES_MAX, Trace, TraceError, TraceFrame, TraceRange, TracedFile,
    invalid,
};
use crate::chunk::PAGE_LEN;
use crate::digest::{DIGEST_LEN, Digest};
use crate::page_tree::PAGES_MAX;

/// The version that is written, and read: what was traced before is recorded anew.
pub const TRACE_VERSION: u8 = 2;

/// Had pieces of 16 KiB where there are pages now.
const VERSION_1: u8 = 1;

const MAGIC: &[u8; 8] = b"SWAYTRC\0";

/// The longest chunk whose pages can be proven.
const CHUNK_LEN_MAX: u32 = PAGES_MAX * PAGE_LEN;

/// Bytes of a file's record: content, size, length of the path.
const FILE_LEN: usize = DIGEST_LEN + 12;
/// Bytes of a range's record: file, first, count, idle with three zeros.
const RANGE_LEN: usize = 16;
/// Bytes of a frame's record: digest, raw length, number of ranges.
const FRAME_LEN: usize = DIGEST_LEN + 8;

impl Trace {
    /// The bytes: the same trace has the same ones.
    pub fn encode(&self) -> Vec<u8> {
        let paths: usize = self.files.iter().map(|file| file.path.len()).sum();
        let records = self.files.len() * FILE_LEN
            + self.ranges.len() * RANGE_LEN
            + self.frames.len() * FRAME_LEN;
        let mut out = Vec::with_capacity(MAGIC.len() + 24 + records + paths);
        let u32 = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_le_bytes());
        let len = |out: &mut Vec<u8>, len: usize| {
            u32(out, u32::try_from(len).expect("a trace's counts are checked"));
        };
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[TRACE_VERSION, 0, 0, 0]);
        u32(&mut out, self.chunk_len);
        for count in [self.files.len(), self.ranges.len(), self.frames.len(), paths] {
            len(&mut out, count);
        }
        for file in &self.files {
            out.extend_from_slice(file.content.as_bytes());
            out.extend_from_slice(&file.size.to_le_bytes());
            len(&mut out, file.path.len());
        }
        for range in &self.ranges {
            u32(&mut out, range.file);
            u32(&mut out, range.first);
            u32(&mut out, range.count);
            out.extend_from_slice(&[range.idle, 0, 0, 0]);
        }
        for frame in &self.frames {
            out.extend_from_slice(frame.digest.as_bytes());
            u32(&mut out, frame.len);
            len(&mut out, frame.ranges.len());
        }
        for file in &self.files {
            out.extend_from_slice(&file.path);
        }
        out
    }

    /// Reads and checks a trace.
    pub fn decode(bytes: &[u8]) -> Result<Self, TraceError> {
        let mut input = Reader(bytes);
        if input.take(MAGIC.len())? != MAGIC {
            return invalid("it starts with other bytes");
        }
        match input.array()? {
            [TRACE_VERSION, 0, 0, 0] => {}
            [version, ..] if version > TRACE_VERSION => return Err(TraceError::Newer(version)),
            [version @ VERSION_1, 0, 0, 0] => return Err(TraceError::Older(version)),
            other => return invalid(format!("unknown version bytes {other:?}")),
        }
        let chunk_len = input.u32()?;
        if !chunk_len.is_power_of_two() || !(PAGE_LEN..=CHUNK_LEN_MAX).contains(&chunk_len) {
            return invalid(format!("chunk length {chunk_len}"));
        }
        let file_count = input.count(FILES_MAX)?;
        let range_count = input.count(RANGES_MAX)?;
        let frame_count = input.count(RANGES_MAX)?;
        let paths_len = input.count(PATHS_LEN_MAX)?;

        let mut files = input.records(file_count, FILE_LEN)?;
        let mut ranges = input.records(range_count, RANGE_LEN)?;
        let mut frames = input.records(frame_count, FRAME_LEN)?;
        let mut paths = Reader(input.take(paths_len)?);
        if !input.0.is_empty() {
            return invalid(format!("{} bytes follow the last section", input.0.len()));
        }
        let files = (0..file_count).map(|_| files.file(&mut paths)).collect::<Result<_, _>>()?;
        if !paths.0.is_empty() {
            return invalid("paths that belong to no file");
        }
        let ranges = (0..range_count).map(|_| ranges.range()).collect::<Result<_, _>>()?;
        let mut next = 0;
        let frames = (0..frame_count).map(|_| frames.frame(&mut next)).collect::<Result<_, _>>()?;
        Self::checked(chunk_len, files, ranges, frames)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], TraceError> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return invalid("it is cut short");
        };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TraceError> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as asked"))
    }

    fn u32(&mut self) -> Result<u32, TraceError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn count(&mut self, max: usize) -> Result<usize, TraceError> {
        match self.u32()? as usize {
            count if count <= max => Ok(count),
            count => invalid(format!("a section of {count} where {max} are possible")),
        }
    }

    /// A reader of `count` records; nothing is allocated for records that are not there.
    fn records(&mut self, count: usize, len: usize) -> Result<Self, TraceError> {
        Ok(Self(self.take(count * len)?))
    }

    fn file(&mut self, paths: &mut Self) -> Result<TracedFile, TraceError> {
        Ok(TracedFile {
            content: Digest::from_bytes(self.array()?),
            size: u64::from_le_bytes(self.array()?),
            path: paths.take(self.u32()? as usize)?.into(),
        })
    }

    fn range(&mut self) -> Result<TraceRange, TraceError> {
        let (file, first, count) = (self.u32()?, self.u32()?, self.u32()?);
        match self.array()? {
            [idle, 0, 0, 0] => Ok(TraceRange { file, first, count, idle }),
            _ => invalid("reserved bytes of a range are not zero"),
        }
    }

    /// `next` is the position of the frame's first range.
    fn frame(&mut self, next: &mut usize) -> Result<TraceFrame, TraceError> {
        let (digest, len) = (Digest::from_bytes(self.array()?), self.u32()?);
        let start = *next;
        *next = start.saturating_add(self.u32()? as usize);
        Ok(TraceFrame { digest, len, ranges: start..*next })
    }
}
