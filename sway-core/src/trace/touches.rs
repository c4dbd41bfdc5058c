//! What runs touch: pages in order of first use, and how a trace grows by them.
//!
//! A run's READs become [`Touches`]; [`Touches::merge`] adds them to the trace that there is, or
//! starts one, and says which frames have to be made. A trace that has grown by more than a
//! quarter since its frames were planned, or a quarter of which has become useless, is planned
//! again from its first frame.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{
    FILES_MAX, FRAME_LEN_MAX, FramePart, PATH_LEN_MAX, PATHS_LEN_MAX, TRACE_BYTES_MAX, Trace,
    TraceError, TraceFrame, TraceRange, TracedFile, frame, span,
};
use crate::chunk::{CHUNK_LEN, PAGE_LEN};
use crate::digest::{DIGEST_LEN, Digest};
use crate::manifest::{Ino, Manifest, PageSource};
use crate::page_tree::depth;

/// A range that so many sampled cold starts in a row did not use is useless.
pub const IDLE_MAX: u8 = 3;

/// A run that touched no more new bytes than this, and no more than [`ADDED_SHARE`] of them,
/// leaves a trace as it is.
pub const ADDED_BYTES_MIN: u64 = 64 << 10;

/// One part in so many: see [`ADDED_BYTES_MIN`].
pub const ADDED_SHARE: u64 = 100;

/// A trace is planned again when more than one part in so many is useless or was appended.
const WORN_SHARE: u64 = 4;

/// Where an image has a traced file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it has no such content.
    Absent,
    /// Where it was traced.
    Same(Ino),
    /// Under other names only; this is one of them.
    Moved(Ino),
}

impl Place {
    /// An inode with the content.
    pub fn ino(self) -> Option<Ino> {
        match self {
            Self::Absent => None,
            Self::Same(ino) | Self::Moved(ino) => Some(ino),
        }
    }
}

/// All contents of an image: where to find what a trace names.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    manifest: &'a Manifest,
    inodes: HashMap<Digest, Ino>,
}

impl<'a> Contents<'a> {
    /// Of all regular files that are not empty. Hashes the extents of the long ones.
    pub fn of(manifest: &'a Manifest) -> Self {
        let inodes = manifest.inodes();
        let inodes = inodes.filter_map(|(ino, _)| Some((manifest.content_id(ino)?, ino))).collect();
        Self { manifest, inodes }
    }

    /// Where the image has this file.
    pub fn place(&self, file: &TracedFile) -> Place {
        let Some(any) = self.inodes.get(&file.content) else { return Place::Absent };
        match self.manifest.resolve(&file.path) {
            Some(ino) if self.manifest.content_id(ino) == Some(file.content) => Place::Same(ino),
            _ => Place::Moved(*any),
        }
    }

    /// How many bytes of `trace` these contents have.
    pub fn coverage(&self, trace: &Trace) -> u64 {
        let held: Vec<bool> =
            trace.files().iter().map(|file| self.inodes.contains_key(&file.content)).collect();
        let held = trace.ranges().iter().filter(|range| held[range.file as usize]);
        held.map(|range| len(&trace.range_bytes(range))).sum()
    }

    /// What of `trace` is worth streaming for this image: the frames of which it has at least one
    /// byte in `share`. None where there is none.
    pub fn restrict(&self, trace: &Trace, share: u64) -> Option<Trace> {
        if trace.chunk_len() != self.manifest.chunk_len() {
            return None;
        }
        let held: Vec<bool> =
            trace.files().iter().map(|file| self.inodes.contains_key(&file.content)).collect();
        let (mut ranges, mut frames) = (Vec::new(), Vec::new());
        for frame in trace.frames() {
            let its = &trace.ranges()[frame.ranges.clone()];
            let here: u64 = its
                .iter()
                .filter(|range| held[range.file as usize])
                .map(|range| len(&trace.range_bytes(range)))
                .sum();
            if here > 0 && here.saturating_mul(share) >= u64::from(frame.len) {
                let start = ranges.len();
                ranges.extend_from_slice(its);
                frames.push(TraceFrame { ranges: start..ranges.len(), ..frame.clone() });
            }
        }
        if frames.is_empty() {
            return None;
        }
        if frames.len() == trace.frames().len() {
            return Some(trace.clone());
        }
        let plan = Plan { files: trace.files().to_vec(), ranges, frames, kept: 0 };
        let Plan { files, ranges, frames, .. } = plan.without_unused_files();
        Trace::new(files, ranges, frames).ok()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Touch {
    file: u32,
    page: u32,
    idle: u8,
}

/// Pages of files, each once, in order of first use, within the bounds of a trace.
#[derive(Clone, Debug, Default)]
pub struct Touches {
    files: Vec<TracedFile>,
    /// Several files may have one content, and the kernel keeps the pages of each.
    by_content: HashMap<Digest, Vec<u32>>,
    /// Files that are under another name now: any file of their content stands for them.
    moved: HashSet<u32>,
    paths_len: usize,
    order: Vec<Touch>,
    known: HashSet<(u32, u32)>,
    len: u64,
}

impl Touches {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a run on `manifest` touched: inodes and pages in order of first use. What is no
    /// data (holes, pages beyond the end, foreign numbers) is left out.
    pub fn of_run(manifest: &Manifest, noted: &[(Ino, u32)]) -> Self {
        let mut touches = Self::new();
        if manifest.chunk_len() != CHUNK_LEN || !manifest.has_page_roots() {
            return touches;
        }
        let inos: HashSet<Ino> = noted.iter().map(|(ino, _)| *ino).collect();
        let paths = paths_of(manifest, &inos);
        let mut files: HashMap<Ino, Option<u32>> = HashMap::new();
        for &(ino, page) in noted {
            let Some(PageSource::Chunk { .. }) = manifest.page(ino, page) else { continue };
            let file = *files.entry(ino).or_insert_with(|| {
                let file = TracedFile {
                    content: manifest.content_id(ino)?,
                    size: manifest.inode(ino)?.size(),
                    path: paths.get(&ino)?.as_slice().into(),
                };
                touches.add_file(&file)
            });
            if let Some(file) = file {
                touches.add(Touch { file, page, idle: 0 });
            }
        }
        touches
    }

    /// What a trace names. Empty where its chunks have another length.
    pub fn of_trace(trace: &Trace) -> Self {
        let mut touches = Self::new();
        touches.extend_by_trace(trace);
        touches
    }

    /// Adds what `trace` names and these touches lack, at their end. Returns the bytes added.
    pub fn extend_by_trace(&mut self, trace: &Trace) -> u64 {
        let before = self.len;
        if trace.chunk_len() != CHUNK_LEN {
            return 0;
        }
        let files: Vec<_> = trace.files().iter().map(|file| self.add_file(file)).collect();
        for range in trace.ranges() {
            let Some(file) = files[range.file as usize] else { continue };
            for page in range.first..range.first + range.count {
                self.add(Touch { file, page, idle: range.idle });
            }
        }
        self.len - before
    }

    /// Adds what `other` has and these touches lack, at their end, within the bounds of a trace.
    /// Returns the bytes added.
    pub fn extend(&mut self, other: &Self) -> u64 {
        let before = self.len;
        let mut files: Vec<Option<Option<u32>>> = vec![None; other.files.len()];
        for touch in &other.order {
            let at = touch.file as usize;
            let file = *files[at].get_or_insert_with(|| self.add_file(&other.files[at]));
            if let Some(file) = file {
                self.add(Touch { file, ..*touch });
            }
        }
        self.len - before
    }

    /// Bytes of all pages.
    pub fn raw_len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Files and pages, in order.
    pub fn pages(&self) -> impl Iterator<Item = (&TracedFile, u32)> + '_ {
        self.order.iter().map(|touch| (&self.files[touch.file as usize], touch.page))
    }

    /// Frames for all of it.
    pub fn plan(self) -> Plan {
        let (ranges, frames) = self.planned(&self.order);
        Plan { files: self.files, ranges, frames, kept: 0 }.without_unused_files()
    }

    /// The trace that `old` becomes by what was `seen`, if that is worth a change. `place` finds a
    /// file in the image whose trace it is: what that lacks is useless to it.
    pub fn merge(
        old: Option<&Trace>,
        seen: &Self,
        place: impl Fn(&TracedFile) -> Place,
    ) -> Option<Plan> {
        let Some(old) = old.filter(|old| old.chunk_len() == CHUNK_LEN) else {
            return (!seen.is_empty()).then(|| seen.clone().plan());
        };
        let places: Vec<Place> = old.files().iter().map(place).collect();
        let useless = |file: u32, idle: u8| {
            idle >= IDLE_MAX || places.get(file as usize) == Some(&Place::Absent)
        };
        let ranges = old.ranges().iter();
        let stale: u64 = ranges
            .filter(|range| useless(range.file, range.idle))
            .map(|range| len(&old.range_bytes(range)))
            .sum();
        let mut all = Self::of_trace(old);
        if all.files != old.files() {
            // A file that comes twice, which we write nowhere.
            all.extend(seen);
            return Some(all.plan());
        }
        let before = all.order.len();
        all.moved = (0..)
            .zip(&places)
            .filter(|(_, place)| matches!(place, Place::Moved(_)))
            .map(|(file, _)| file)
            .collect();
        let added = all.extend(seen);
        let is_worn = |bytes: u64| bytes * WORN_SHARE > old.raw_len() + added;
        let worth = added > ADDED_BYTES_MIN || added * ADDED_SHARE > old.raw_len();
        if !worth && !is_worn(stale) {
            return None;
        }
        if !is_worn(stale + appended(old) + added) {
            return Some(all.appended_to(old, before));
        }
        all.retain(useless);
        // There may be room now for what had none before.
        all.extend(seen);
        Some(all.plan())
    }

    fn appended_to(self, old: &Trace, before: usize) -> Plan {
        let (more_ranges, more_frames) = self.planned(&self.order[before..]);
        let mut ranges = old.ranges().to_vec();
        let mut frames = old.frames().to_vec();
        let (shift, kept) = (ranges.len(), frames.len());
        ranges.extend(more_ranges);
        frames.extend(more_frames.into_iter().map(|frame| TraceFrame {
            ranges: frame.ranges.start + shift..frame.ranges.end + shift,
            ..frame
        }));
        Plan { files: self.files, ranges, frames, kept }
    }

    fn retain(&mut self, useless: impl Fn(u32, u8) -> bool) {
        let mut kept = Self::new();
        let mut files: Vec<Option<Option<u32>>> = vec![None; self.files.len()];
        for touch in &self.order {
            if useless(touch.file, touch.idle) {
                continue;
            }
            let at = touch.file as usize;
            let file = *files[at].get_or_insert_with(|| kept.add_file(&self.files[at]));
            if let Some(file) = file {
                kept.add(Touch { file, ..*touch });
            }
        }
        *self = kept;
    }

    /// The file's number here; none where there is no room for it.
    fn add_file(&mut self, file: &TracedFile) -> Option<u32> {
        let same = self.by_content.get(&file.content).into_iter().flatten();
        let known = |number: &u32| {
            self.files[*number as usize].path == file.path || self.moved.contains(number)
        };
        if let Some(known) = same.copied().find(known) {
            return Some(known);
        }
        let path_len = file.path.len();
        if self.files.len() >= FILES_MAX
            || self.paths_len + path_len > PATHS_LEN_MAX
            || path_len > PATH_LEN_MAX
        {
            return None;
        }
        let number = u32::try_from(self.files.len()).expect("bounded by FILES_MAX");
        self.paths_len += path_len;
        self.files.push(file.clone());
        self.by_content.entry(file.content).or_default().push(number);
        Some(number)
    }

    fn add(&mut self, touch: Touch) {
        let len = self.page_bytes(touch);
        if len > 0
            && self.len + len <= TRACE_BYTES_MAX
            && self.known.insert((touch.file, touch.page))
        {
            self.len += len;
            self.order.push(touch);
        }
    }

    fn page_bytes(&self, touch: Touch) -> u64 {
        let range = TraceRange { file: touch.file, first: touch.page, count: 1, idle: 0 };
        len(&span(self.files[touch.file as usize].size, &range))
    }

    /// Cuts pages into frames; the frames' digests are yet to be known.
    fn planned(&self, order: &[Touch]) -> (Vec<TraceRange>, Vec<TraceFrame>) {
        let (mut ranges, mut frames) = (Vec::new(), Vec::new());
        let mut rest = order;
        while !rest.is_empty() {
            let (mut count, mut cost) = (0, 0);
            for touch in rest {
                cost += self.cost(*touch);
                if cost > FRAME_LEN_MAX as u64 {
                    break;
                }
                count += 1;
            }
            let (frame, later) = rest.split_at(count);
            rest = later;
            let start = ranges.len();
            ranges.extend(joined(frame));
            let parts = frame::parts(CHUNK_LEN, &self.files, &ranges[start..]);
            frames.push(TraceFrame {
                digest: Digest::from_bytes([0; 20]),
                len: u32::try_from(frame::len(&parts)).expect("its pages cost no more"),
                ranges: start..ranges.len(),
            });
        }
        (ranges, frames)
    }

    fn cost(&self, touch: Touch) -> u64 {
        cost(self.files[touch.file as usize].size, touch.page)
    }
}

/// Most bytes that a page takes in a frame, its share of a proof included.
fn cost(size: u64, page: u32) -> u64 {
    let (_, pages) = frame::chunk_of(CHUNK_LEN, size, page);
    let range = TraceRange { file: 0, first: page, count: 1, idle: 0 };
    len(&span(size, &range)) + u64::from(depth(pages)) * DIGEST_LEN as u64
}

/// The most that any page takes.
const COST_MAX: u64 = PAGE_LEN as u64 + (CHUNK_LEN / PAGE_LEN).ilog2() as u64 * DIGEST_LEN as u64;

/// The pages of a frame as ranges: files in order of first use, the pages of each in their own
/// order, neighbours together.
fn joined(pages: &[Touch]) -> Vec<TraceRange> {
    let mut rank: HashMap<u32, usize> = HashMap::new();
    for touch in pages {
        let next = rank.len();
        rank.entry(touch.file).or_insert(next);
    }
    let mut sorted = pages.to_vec();
    sorted.sort_unstable_by_key(|touch| (rank[&touch.file], touch.page));
    let mut ranges: Vec<TraceRange> = Vec::new();
    for Touch { file, page, idle } in sorted {
        match ranges.last_mut() {
            Some(last) if (last.file, last.first + last.count, last.idle) == (file, page, idle) => {
                last.count += 1;
            }
            _ => ranges.push(TraceRange { file, first: page, count: 1, idle }),
        }
    }
    ranges
}

/// Bytes of the frames that came after the last planning: that one filled all its frames but the
/// last.
fn appended(trace: &Trace) -> u64 {
    let is_full = |frame: &&TraceFrame| {
        let ranges = trace.ranges()[frame.ranges.clone()].iter();
        let costs = ranges.flat_map(|range| {
            let size = trace.files()[range.file as usize].size;
            (range.first..range.first + range.count).map(move |page| cost(size, page))
        });
        costs.sum::<u64>() > FRAME_LEN_MAX as u64 - COST_MAX
    };
    let later = trace.frames().iter().skip_while(is_full).skip(1);
    later.map(|frame| u64::from(frame.len)).sum()
}

/// A trace whose last frames have yet to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    files: Vec<TracedFile>,
    ranges: Vec<TraceRange>,
    frames: Vec<TraceFrame>,
    kept: usize,
}

impl Plan {
    /// What each frame holds that has to be made, in order.
    pub fn to_make(&self) -> impl ExactSizeIterator<Item = Vec<FramePart>> {
        let parts = |frame: &TraceFrame| {
            frame::parts(CHUNK_LEN, &self.files, &self.ranges[frame.ranges.clone()])
        };
        self.frames[self.kept..].iter().map(parts)
    }

    /// A part's file.
    pub fn file(&self, part: &FramePart) -> &TracedFile {
        &self.files[part.file as usize]
    }

    /// Whether all frames have to be made.
    pub fn is_whole(&self) -> bool {
        self.kept == 0
    }

    /// The trace, with the digests of the frames that were made, in order.
    pub fn finish(mut self, made: &[Digest]) -> Result<Trace, TraceError> {
        let open = &mut self.frames[self.kept..];
        if open.len() != made.len() {
            return super::invalid("another number of frames than was planned");
        }
        for (frame, digest) in open.iter_mut().zip(made) {
            frame.digest = *digest;
        }
        Trace::new(self.files, self.ranges, self.frames)
    }

    fn without_unused_files(mut self) -> Self {
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let mut files = Vec::new();
        for range in &mut self.ranges {
            range.file = *numbers.entry(range.file).or_insert_with(|| {
                files.push(self.files[range.file as usize].clone());
                u32::try_from(files.len() - 1).expect("bounded by FILES_MAX")
            });
        }
        Self { files, ..self }
    }
}

/// The same trace after a sampled cold start: `used` tells whether a page of a file (by
/// its position in [`Trace::files`]) was used. Ranges are split where their pages differ; frames
/// stay.
pub fn sampled(trace: &Trace, used: impl Fn(u32, u32) -> bool) -> Result<Trace, TraceError> {
    resplit(
        trace,
        |range, page| {
            if used(range.file, page) { 0 } else { range.idle.saturating_add(1) }
        },
    )
}

/// Gives each page a counter. A trace that has too many ranges for that stays as it is.
fn resplit(trace: &Trace, idle: impl Fn(&TraceRange, u32) -> u8) -> Result<Trace, TraceError> {
    let mut ranges = Vec::with_capacity(trace.ranges().len());
    let mut frames = Vec::with_capacity(trace.frames().len());
    for frame in trace.frames() {
        let start = ranges.len();
        for range in &trace.ranges()[frame.ranges.clone()] {
            let pages = (range.first..range.first + range.count).map(|page| Touch {
                file: range.file,
                page,
                idle: idle(range, page),
            });
            ranges.extend(joined(&pages.collect::<Vec<_>>()));
        }
        frames.push(TraceFrame { ranges: start..ranges.len(), ..frame.clone() });
    }
    if ranges.len() > super::RANGES_MAX {
        return Ok(trace.clone());
    }
    Trace::new(trace.files().to_vec(), ranges, frames)
}

/// `trace` with the idle counters of `known`, where both have a page. Frames stay.
pub fn with_idle_of(trace: &Trace, known: &Trace) -> Result<Trace, TraceError> {
    let mut idle: HashMap<(Digest, &[u8], u32), u8> = HashMap::new();
    for range in known.ranges().iter().filter(|range| range.idle > 0) {
        let file = &known.files()[range.file as usize];
        for page in range.first..range.first + range.count {
            idle.insert((file.content, &file.path, page), range.idle);
        }
    }
    if idle.is_empty() {
        return Ok(trace.clone());
    }
    resplit(trace, |range, page| {
        let file = &trace.files()[range.file as usize];
        idle.get(&(file.content, &*file.path, page)).copied().unwrap_or(range.idle)
    })
}

/// The first path to each of these inodes.
fn paths_of(manifest: &Manifest, inos: &HashSet<Ino>) -> HashMap<Ino, Vec<u8>> {
    let mut paths = HashMap::new();
    let mut directories = vec![(Ino::ROOT, Vec::new())];
    while let Some((directory, path)) = directories.pop() {
        for (name, ino) in manifest.entries(directory).into_iter().flatten() {
            let is_directory = manifest.inode(ino).is_some_and(|inode| inode.is_directory());
            if is_directory || inos.contains(&ino) {
                let path = [&path[..], b"/", name].concat();
                if is_directory {
                    directories.push((ino, path));
                } else {
                    paths.entry(ino).or_insert(path);
                }
            }
        }
    }
    paths
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests with small numbers")]
mod tests;
