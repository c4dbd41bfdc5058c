//! Traces read back, and nothing else is one.

use proptest::prelude::*;

use super::*;

fn file(name: &str, size: u64) -> TracedFile {
    TracedFile { content: Digest::of(name.as_bytes()), size, path: name.as_bytes().into() }
}

fn range(file: u32, first: u32, count: u32) -> TraceRange {
    TraceRange { file, first, count, idle: 0 }
}

fn frame(ranges: Range<usize>, len: u32) -> TraceFrame {
    TraceFrame { digest: Digest::of(&len.to_le_bytes()), len, ranges }
}

/// Any trace that keeps the rules: each file's pages are cut into ranges, the ranges shuffled,
/// and packed into frames.
fn traces() -> impl Strategy<Value = Trace> {
    let runs = prop::collection::vec((0u32..3, 1u32..=16, any::<u8>()), 0..6);
    let file = (runs, 1u64..=u64::from(PAGE_LEN), "/[a-z/]{0,20}");
    (prop::collection::vec(file, 0..8), any::<u64>()).prop_map(|(parts, seed)| {
        let (mut files, mut ranges) = (Vec::new(), Vec::new());
        for (index, (runs, tail, path)) in parts.into_iter().enumerate() {
            let mut next = 0;
            for (gap, count, idle) in runs {
                ranges.push(TraceRange { file: index as u32, first: next + gap, count, idle });
                next += gap + count;
            }
            // The last page is short where the last range reaches it.
            let size = u64::from(next.saturating_sub(1)) * u64::from(PAGE_LEN) + tail;
            files.push(TracedFile { size, ..self::file(&path, 1) });
        }
        ranges.sort_by_key(|range| Digest::of(&(seed ^ u64::from(range.first)).to_le_bytes()));
        let frames = packed(&files, &ranges);
        Trace::new(files, ranges, frames).unwrap()
    })
}

fn packed(files: &[TracedFile], ranges: &[TraceRange]) -> Vec<TraceFrame> {
    let len = |ranges: &[TraceRange]| frame::len(&frame::parts(CHUNK_LEN, files, ranges)) as u32;
    let mut frames: Vec<TraceFrame> = Vec::new();
    for at in 0..ranges.len() {
        match frames.last_mut() {
            Some(last) if len(&ranges[last.ranges.start..=at]) as usize <= FRAME_LEN_MAX => {
                last.ranges.end = at + 1;
                last.len = len(&ranges[last.ranges.clone()]);
            }
            _ => frames.push(self::frame(at..at + 1, len(&ranges[at..=at]))),
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
    fn the_parts_of_frames_are_their_pages_and_proofs_without_gaps(trace in traces()) {
        let len = |range| { let bytes = trace.range_bytes(range); bytes.end - bytes.start };
        for frame in trace.frames() {
            let ranges = &trace.ranges()[frame.ranges.clone()];
            let parts = trace.parts(frame);
            let held: Vec<_> = parts.iter().flat_map(FramePart::pages).collect();
            let due: Vec<u32> = ranges.iter().flat_map(|r| r.first..r.first + r.count).collect();
            prop_assert_eq!(held.iter().map(|(page, _)| *page).collect::<Vec<_>>(), due);
            let mut at = 0;
            let places = held.into_iter().map(|(_, bytes)| bytes);
            for place in places.chain(parts.iter().map(|part| part.proof.clone())) {
                prop_assert_eq!(place.start, at);
                at = place.end;
            }
            prop_assert_eq!(at, frame.len as usize);
            let proofs: usize = parts.iter().map(|part| part.pages.proof_len()).sum();
            prop_assert_eq!(ranges.iter().map(len).sum::<u64>() as usize + 20 * proofs, at);
        }
        prop_assert_eq!(trace.ranges().iter().map(len).sum::<u64>(), trace.raw_len());
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Trace::decode(&bytes);
        let mut headed = b"SWAYTRC\0\x02\0\0\0\0\0\x02\0".to_vec();
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
    let page = PAGE_LEN;
    let short = u64::from(page) + 1;
    let one = || vec![file("/a", short)];
    Trace::new(one(), vec![range(0, 0, 2)], vec![frame(0..1, page + 1)]).unwrap();
    let refused = [
        ("a page beyond the file", one(), vec![range(0, 1, 2)], vec![frame(0..1, 1)]),
        (
            "a page beyond all numbers",
            vec![file("/a", u64::MAX)],
            vec![range(0, u32::MAX, 2)],
            vec![frame(0..1, 2 * page)],
        ),
        ("no pages", one(), vec![range(0, 0, 0)], vec![frame(0..1, 0)]),
        ("an unknown file", one(), vec![range(1, 0, 1)], vec![frame(0..1, page + 20)]),
        ("a wrong length", one(), vec![range(0, 1, 1)], vec![frame(0..1, page + 20)]),
        ("a range without a frame", one(), vec![range(0, 0, 1)], vec![]),
        ("a frame without a range", one(), vec![], vec![frame(0..0, 0)]),
        ("a frame beyond the ranges", one(), vec![range(0, 0, 1)], vec![frame(0..2, page + 20)]),
        ("an empty file", vec![file("/a", 0)], vec![], vec![]),
        ("no path from the root", vec![file("a", 1)], vec![], vec![]),
        ("a NUL", vec![file("/a\0", 1)], vec![], vec![]),
        ("a long path", vec![file(&format!("/{}", "a".repeat(4095)), 1)], vec![], vec![]),
        (
            "a page that comes twice",
            one(),
            vec![range(0, 0, 2), range(0, 1, 1)],
            vec![frame(0..2, page + 2 + 20)],
        ),
        (
            "a frame that is too long",
            vec![file("/a", 1 << 30)],
            vec![range(0, 0, 65)],
            vec![frame(0..1, 65 * page)],
        ),
        (
            "a range that two frames hold",
            one(),
            vec![range(0, 0, 1)],
            vec![frame(0..1, page + 20), frame(0..1, page + 20)],
        ),
    ];
    for (what, files, ranges, frames) in refused {
        assert!(Trace::new(files, ranges, frames).is_err(), "{what}");
    }
}

#[test]
fn no_trace_is_longer_than_the_bound() {
    let count = TRACE_BYTES_MAX as u32 / FRAME_LEN_MAX as u32 + 1;
    let pages = FRAME_LEN_MAX as u32 / PAGE_LEN;
    let build = |count: u32| {
        let ranges = (0..count).map(|i| range(0, i * pages, pages)).collect();
        let frames = (0..count as usize).map(|i| frame(i..i + 1, FRAME_LEN_MAX as u32)).collect();
        Trace::new(vec![file("/a", 1 << 40)], ranges, frames)
    };
    assert_eq!(build(count - 1).unwrap().raw_len(), TRACE_BYTES_MAX);
    assert!(build(count).is_err());
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut bytes = Trace::new(vec![], vec![], vec![]).unwrap().encode();
    bytes[8] = 3;
    let error = Trace::decode(&bytes).unwrap_err();
    assert_eq!(error, TraceError::Newer(3));
    assert!(error.to_string().contains("update sway"));
}

#[test]
fn a_bundle_lists_page_roots_trace_and_frames() {
    let [roots, trace] = [b"roots.", b"trace."].map(|name| Digest::of(name));
    let of = Trace::new(vec![file("/a", 5)], vec![range(0, 0, 1)], vec![frame(0..1, 5)]).unwrap();
    let frame = of.frames()[0].digest;
    assert_eq!(of.to_bundle(Some(roots), trace).members, [roots, trace, frame]);
    assert_eq!(of.to_bundle(None, trace).members, [trace, frame]);
}
