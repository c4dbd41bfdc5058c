//! Traces read back, and nothing else is one.

use proptest::prelude::*;

use super::*;
use crate::chunk::GROUP_LEN;

fn file(name: &str, size: u64) -> TracedFile {
    TracedFile { content: Digest::of(name.as_bytes()), size, path: name.as_bytes().into() }
}

fn range(file: u32, first: u32, count: u32) -> TraceRange {
    TraceRange { file, first, count, idle: 0 }
}

fn frame(ranges: Range<usize>, len: u32) -> TraceFrame {
    TraceFrame { digest: Digest::of(&len.to_le_bytes()), len, ranges }
}

/// Any trace that keeps the rules: each file's groups are cut into ranges, the ranges shuffled,
/// and packed into frames.
fn traces() -> impl Strategy<Value = Trace> {
    let runs = prop::collection::vec((0u32..3, 1u32..=16, any::<u8>()), 0..6);
    let file = (runs, 1u64..=u64::from(GROUP_LEN), "/[a-z/]{0,20}");
    (prop::collection::vec(file, 0..8), any::<u64>()).prop_map(|(parts, seed)| {
        let (mut files, mut ranges) = (Vec::new(), Vec::new());
        for (index, (runs, tail, path)) in parts.into_iter().enumerate() {
            let mut next = 0;
            for (gap, count, idle) in runs {
                ranges.push(TraceRange { file: index as u32, first: next + gap, count, idle });
                next += gap + count;
            }
            // The last group is short where the last range reaches it.
            let size = u64::from(next.saturating_sub(1)) * u64::from(GROUP_LEN) + tail;
            files.push(TracedFile { size, ..self::file(&path, 1) });
        }
        ranges.sort_by_key(|range| Digest::of(&(seed ^ u64::from(range.first)).to_le_bytes()));
        let frames = packed(&files, &ranges);
        Trace::new(files, ranges, frames).unwrap()
    })
}

fn packed(files: &[TracedFile], ranges: &[TraceRange]) -> Vec<TraceFrame> {
    let mut frames: Vec<TraceFrame> = Vec::new();
    for (at, range) in ranges.iter().enumerate() {
        let bytes = span(GROUP_LEN, files[range.file as usize].size, range);
        let len = (bytes.end - bytes.start) as u32;
        match frames.last_mut() {
            Some(last) if (last.len + len) as usize <= FRAME_LEN_MAX => {
                last.len += len;
                last.ranges.end = at + 1;
            }
            _ => frames.push(frame(at..at + 1, len)),
        }
    }
    frames
}

proptest! {
    #[test]
    fn a_trace_reads_back_and_nothing_shorter_or_longer_does(trace in traces(), cut in 1usize..40) {
        let mut bytes = trace.encode();
        prop_assert_eq!(&Trace::decode(&bytes).unwrap(), &trace);
        prop_assert!(Trace::decode(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        bytes.resize(bytes.len() + cut, 0);
        prop_assert!(Trace::decode(&bytes).is_err());
    }

    #[test]
    fn frames_are_as_long_as_their_ranges(trace in traces()) {
        let len = |range| { let bytes = trace.range_bytes(range); bytes.end - bytes.start };
        for frame in trace.frames() {
            let ranges = &trace.ranges()[frame.ranges.clone()];
            prop_assert_eq!(ranges.iter().map(len).sum::<u64>(), u64::from(frame.len));
        }
        prop_assert_eq!(trace.ranges().iter().map(len).sum::<u64>(), trace.raw_len());
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Trace::decode(&bytes);
        let mut headed = b"SWAYTRC\0\x01\0\0\0\0\x40\0\0".to_vec();
        headed.extend(bytes);
        let _ = Trace::decode(&headed);
    }

    #[test]
    fn changed_bytes_never_panic_and_what_they_decode_to_keeps_the_rules(
        trace in traces(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = trace.encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(changed) = Trace::decode(&bytes) {
            prop_assert_eq!(changed.encode(), bytes);
            let ranges = changed.ranges().iter().map(|range| changed.range_bytes(range));
            prop_assert_eq!(ranges.map(|bytes| bytes.end - bytes.start).sum::<u64>(), changed.raw_len());
        }
    }
}

#[test]
fn what_breaks_a_rule_is_refused() {
    let group = GROUP_LEN;
    let short = u64::from(group) + 1;
    let one = || vec![file("/a", short)];
    Trace::new(one(), vec![range(0, 0, 2)], vec![frame(0..1, group + 1)]).unwrap();
    let refused = [
        ("a group beyond the file", one(), vec![range(0, 1, 2)], vec![frame(0..1, 1)]),
        ("no groups", one(), vec![range(0, 0, 0)], vec![frame(0..1, 0)]),
        ("an unknown file", one(), vec![range(1, 0, 1)], vec![frame(0..1, group)]),
        ("a wrong length", one(), vec![range(0, 1, 1)], vec![frame(0..1, group)]),
        ("a range without a frame", one(), vec![range(0, 0, 1)], vec![]),
        ("a frame without a range", one(), vec![], vec![frame(0..0, 0)]),
        ("a frame beyond the ranges", one(), vec![range(0, 0, 1)], vec![frame(0..2, group)]),
        ("an empty file", vec![file("/a", 0)], vec![], vec![]),
        ("no path from the root", vec![file("a", 1)], vec![], vec![]),
        ("a NUL", vec![file("/a\0", 1)], vec![], vec![]),
        ("a long path", vec![file(&format!("/{}", "a".repeat(4095)), 1)], vec![], vec![]),
        (
            "a group that comes twice",
            one(),
            vec![range(0, 0, 2), range(0, 1, 1)],
            vec![frame(0..2, group + 2)],
        ),
        (
            "a frame that is too long",
            vec![file("/a", 1 << 30)],
            vec![range(0, 0, 17)],
            vec![frame(0..1, 17 * group)],
        ),
        (
            "a range that two frames hold",
            one(),
            vec![range(0, 0, 1)],
            vec![frame(0..1, group), frame(0..1, group)],
        ),
    ];
    for (what, files, ranges, frames) in refused {
        assert!(Trace::new(files, ranges, frames).is_err(), "{what}");
    }
}

#[test]
fn no_trace_is_longer_than_the_bound() {
    let count = TRACE_BYTES_MAX as u32 / FRAME_LEN_MAX as u32 + 1;
    let groups = FRAME_LEN_MAX as u32 / GROUP_LEN;
    let build = |count: u32| {
        let ranges = (0..count).map(|i| range(0, i * groups, groups)).collect();
        let frames = (0..count as usize).map(|i| frame(i..i + 1, FRAME_LEN_MAX as u32)).collect();
        Trace::new(vec![file("/a", 1 << 40)], ranges, frames)
    };
    assert_eq!(build(count - 1).unwrap().raw_len(), TRACE_BYTES_MAX);
    assert!(build(count).is_err());
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut bytes = Trace::new(vec![], vec![], vec![]).unwrap().encode();
    bytes[8] = 2;
    let error = Trace::decode(&bytes).unwrap_err();
    assert_eq!(error, TraceError::Newer(2));
    assert!(error.to_string().contains("update sway"));
}

#[test]
fn a_bundle_lists_page_groups_trace_and_frames() {
    let [groups, trace] = [b"groups", b"trace."].map(|name| Digest::of(name));
    let of = Trace::new(vec![file("/a", 5)], vec![range(0, 0, 1)], vec![frame(0..1, 5)]).unwrap();
    let frame = of.frames()[0].digest;
    assert_eq!(of.to_bundle(Some(groups), trace).members, [groups, trace, frame]);
    assert_eq!(of.to_bundle(None, trace).members, [trace, frame]);
}
