//! What runs touch: page groups in order of first use, and how a trace grows by them.
//!
//! A run's READs become [`Touches`]; [`Touches::merge`] adds them to the trace that there is, or
//! starts one, and says which frames have to be made. A trace that has grown by more than a
//! quarter since its frames were planned, or a quarter of which has become useless, is planned
//! again from its first frame.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{
    FILES_MAX, FRAME_LEN_MAX, PATH_LEN_MAX, PATHS_LEN_MAX, TRACE_BYTES_MAX, Trace, TraceError,
    TraceFrame, TraceRange, TracedFile, span,
};
use crate::chunk::GROUP_LEN;
use crate::digest::Digest;
use crate::manifest::{GroupSource, Ino, Manifest};

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

    /// How many raw bytes of `trace` these contents have.
    pub fn coverage(&self, trace: &Trace) -> u64 {
        let held: Vec<bool> =
            trace.files().iter().map(|file| self.inodes.contains_key(&file.content)).collect();
        let held = trace.ranges().iter().filter(|range| held[range.file as usize]);
        held.map(|range| len(&trace.range_bytes(range))).sum()
    }

    /// What of `trace` is worth streaming for this image: the frames of which it has at least one
    /// byte in `share`. None where there is none.
    pub fn restrict(&self, trace: &Trace, share: u64) -> Option<Trace> {
        if trace.group_len() != self.manifest.group_len() {
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
    group: u32,
    idle: u8,
}

/// Page groups of files, each once, in order of first use, within the bounds of a trace.
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

    /// What a run on `manifest` touched: inodes and page groups in order of first use. What is no
    /// data (holes, groups beyond the end, foreign numbers) is left out.
    pub fn of_run(manifest: &Manifest, noted: &[(Ino, u32)]) -> Self {
        let mut touches = Self::new();
        if manifest.group_len() != GROUP_LEN {
            return touches;
        }
        let inos: HashSet<Ino> = noted.iter().map(|(ino, _)| *ino).collect();
        let paths = paths_of(manifest, &inos);
        let mut files: HashMap<Ino, Option<u32>> = HashMap::new();
        for &(ino, group) in noted {
            let Some(GroupSource::Chunk { .. }) = manifest.group(ino, group) else { continue };
            let file = *files.entry(ino).or_insert_with(|| {
                let file = TracedFile {
                    content: manifest.content_id(ino)?,
                    size: manifest.inode(ino)?.size(),
                    path: paths.get(&ino)?.as_slice().into(),
                };
                touches.add_file(&file)
            });
            if let Some(file) = file {
                touches.add(Touch { file, group, idle: 0 });
            }
        }
        touches
    }

    /// What a trace names. Empty where its page groups have another length.
    pub fn of_trace(trace: &Trace) -> Self {
        let mut touches = Self::new();
        touches.extend_by_trace(trace);
        touches
    }

    /// Adds what `trace` names and these touches lack, at their end. Returns the bytes added.
    pub fn extend_by_trace(&mut self, trace: &Trace) -> u64 {
        let before = self.len;
        if trace.group_len() != GROUP_LEN {
            return 0;
        }
        let files: Vec<_> = trace.files().iter().map(|file| self.add_file(file)).collect();
        for range in trace.ranges() {
            let Some(file) = files[range.file as usize] else { continue };
            for group in range.first..range.first + range.count {
                self.add(Touch { file, group, idle: range.idle });
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

    /// Raw bytes of all groups.
    pub fn raw_len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Files and groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = (&TracedFile, u32)> + '_ {
        self.order.iter().map(|touch| (&self.files[touch.file as usize], touch.group))
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
        let Some(old) = old.filter(|old| old.group_len() == GROUP_LEN) else {
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
        let len = self.group_bytes(touch);
        if len > 0
            && self.len + len <= TRACE_BYTES_MAX
            && self.known.insert((touch.file, touch.group))
        {
            self.len += len;
            self.order.push(touch);
        }
    }

    fn group_bytes(&self, touch: Touch) -> u64 {
        let range = TraceRange { file: touch.file, first: touch.group, count: 1, idle: 0 };
        len(&span(GROUP_LEN, self.files[touch.file as usize].size, &range))
    }

    /// Cuts groups into frames; the frames' digests are yet to be known.
    fn planned(&self, order: &[Touch]) -> (Vec<TraceRange>, Vec<TraceFrame>) {
        let (mut ranges, mut frames) = (Vec::new(), Vec::new());
        let mut rest = order;
        while !rest.is_empty() {
            let (mut count, mut frame_len) = (0, 0);
            for touch in rest {
                let len = self.group_bytes(*touch);
                if frame_len + len > FRAME_LEN_MAX as u64 {
                    break;
                }
                frame_len += len;
                count += 1;
            }
            let (frame, later) = rest.split_at(count);
            rest = later;
            let start = ranges.len();
            ranges.extend(joined(frame));
            frames.push(TraceFrame {
                digest: Digest::from_bytes([0; 20]),
                len: u32::try_from(frame_len).expect("bounded by FRAME_LEN_MAX"),
                ranges: start..ranges.len(),
            });
        }
        (ranges, frames)
    }
}

/// The groups of a frame as ranges: files in order of first use, the groups of each in their own
/// order, neighbours together.
fn joined(groups: &[Touch]) -> Vec<TraceRange> {
    let mut rank: HashMap<u32, usize> = HashMap::new();
    for touch in groups {
        let next = rank.len();
        rank.entry(touch.file).or_insert(next);
    }
    let mut sorted = groups.to_vec();
    sorted.sort_unstable_by_key(|touch| (rank[&touch.file], touch.group));
    let mut ranges: Vec<TraceRange> = Vec::new();
    for Touch { file, group, idle } in sorted {
        match ranges.last_mut() {
            Some(last)
                if (last.file, last.first + last.count, last.idle) == (file, group, idle) =>
            {
                last.count += 1;
            }
            _ => ranges.push(TraceRange { file, first: group, count: 1, idle }),
        }
    }
    ranges
}

/// Bytes of the frames that came after the last planning: that one filled all its frames but the
/// last.
fn appended(trace: &Trace) -> u64 {
    let full = FRAME_LEN_MAX - GROUP_LEN as usize;
    let frames = trace.frames().iter();
    let later = frames.skip_while(|frame| frame.len as usize > full).skip(1);
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
    /// The ranges of each frame that has to be made, in order.
    pub fn to_make(&self) -> impl ExactSizeIterator<Item = &[TraceRange]> {
        self.frames[self.kept..].iter().map(|frame| &self.ranges[frame.ranges.clone()])
    }

    /// A range's file.
    pub fn file(&self, range: &TraceRange) -> &TracedFile {
        &self.files[range.file as usize]
    }

    /// The bytes of its file that a range is.
    pub fn range_bytes(&self, range: &TraceRange) -> Range<u64> {
        span(GROUP_LEN, self.file(range).size, range)
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

/// The same trace after a sampled cold start: `used` tells whether a group of a file (by
/// its position in [`Trace::files`]) was used. Ranges are split where their groups differ; frames
/// stay.
pub fn sampled(trace: &Trace, used: impl Fn(u32, u32) -> bool) -> Result<Trace, TraceError> {
    resplit(
        trace,
        |range, group| {
            if used(range.file, group) { 0 } else { range.idle.saturating_add(1) }
        },
    )
}

/// Gives each group a counter. A trace that has too many ranges for that stays as it is.
fn resplit(trace: &Trace, idle: impl Fn(&TraceRange, u32) -> u8) -> Result<Trace, TraceError> {
    let mut ranges = Vec::with_capacity(trace.ranges().len());
    let mut frames = Vec::with_capacity(trace.frames().len());
    for frame in trace.frames() {
        let start = ranges.len();
        for range in &trace.ranges()[frame.ranges.clone()] {
            let groups = (range.first..range.first + range.count).map(|group| Touch {
                file: range.file,
                group,
                idle: idle(range, group),
            });
            ranges.extend(joined(&groups.collect::<Vec<_>>()));
        }
        frames.push(TraceFrame { ranges: start..ranges.len(), ..frame.clone() });
    }
    if ranges.len() > super::RANGES_MAX {
        return Ok(trace.clone());
    }
    Trace::new(trace.files().to_vec(), ranges, frames)
}

/// `trace` with the idle counters of `known`, where both have a group. Frames stay.
pub fn with_idle_of(trace: &Trace, known: &Trace) -> Result<Trace, TraceError> {
    let mut idle: HashMap<(Digest, &[u8], u32), u8> = HashMap::new();
    for range in known.ranges().iter().filter(|range| range.idle > 0) {
        let file = &known.files()[range.file as usize];
        for group in range.first..range.first + range.count {
            idle.insert((file.content, &file.path, group), range.idle);
        }
    }
    if idle.is_empty() {
        return Ok(trace.clone());
    }
    resplit(trace, |range, group| {
        let file = &trace.files()[range.file as usize];
        idle.get(&(file.content, &*file.path, group)).copied().unwrap_or(range.idle)
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
