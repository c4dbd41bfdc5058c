//! Touches keep their order and bounds, and a trace grows by what it lacked.

use proptest::prelude::*;

use super::*;

const PAGE: u64 = PAGE_LEN as u64;

fn file(number: u8) -> TracedFile {
    let path = format!("/f{number}").into_bytes();
    // Short last pages of various lengths.
    let size = 64 * PAGE + u64::from(number) * 77 + 1;
    TracedFile { content: Digest::of(&path), size, path: path.into() }
}

fn touches(pages: &[(u8, u32)]) -> Touches {
    let mut touches = Touches::new();
    for (number, page) in pages {
        let file = touches.add_file(&file(*number)).unwrap();
        touches.add(Touch { file, page: *page, idle: 0 });
    }
    touches
}

fn listed(touches: &Touches) -> Vec<(Box<[u8]>, u32)> {
    touches.pages().map(|(file, page)| (file.path.clone(), page)).collect()
}

fn set(touches: &Touches) -> HashSet<(Box<[u8]>, u32)> {
    listed(touches).into_iter().collect()
}

fn finish(plan: Plan) -> Trace {
    let made: Vec<Digest> =
        (0..plan.to_make().len()).map(|frame| Digest::of(&frame.to_le_bytes())).collect();
    plan.finish(&made).unwrap()
}

fn anywhere(_: &TracedFile) -> Place {
    Place::Same(Ino::ROOT)
}

fn pages() -> impl Strategy<Value = Vec<(u8, u32)>> {
    prop::collection::vec((0u8..6, 0u32..70), 0..300)
}

proptest! {
    #[test]
    fn pages_stay_in_order_and_come_once(pages in pages()) {
        let touches = touches(&pages);
        let mut seen = HashSet::new();
        let expected: Vec<_> = pages
            .iter()
            .filter(|(_, page)| *page <= 64)
            .filter(|touch| seen.insert(**touch))
            .map(|(number, page)| (file(*number).path, *page))
            .collect();
        prop_assert_eq!(listed(&touches), expected);
    }

    #[test]
    fn a_plan_covers_exactly_what_was_touched_frame_by_frame(pages in pages()) {
        let touches = touches(&pages);
        let trace = finish(touches.clone().plan());
        prop_assert_eq!(trace.raw_len(), touches.raw_len());
        let mut rest = touches.order.as_slice();
        for frame in trace.frames() {
            // Each frame holds the next pages in order of first use, in whatever order.
            let ranges = &trace.ranges()[frame.ranges.clone()];
            let held: HashSet<_> = ranges
                .iter()
                .flat_map(|range| (range.first..range.first + range.count).map(|g| {
                    (trace.files()[range.file as usize].path.clone(), g)
                }))
                .collect();
            let (these, later) = rest.split_at(held.len());
            let due: HashSet<_> = these
                .iter()
                .map(|t| (touches.files[t.file as usize].path.clone(), t.page))
                .collect();
            prop_assert_eq!(held, due);
            rest = later;
        }
        prop_assert!(rest.is_empty());
        for frame in trace.frames() {
            prop_assert!(frame.len as usize <= FRAME_LEN_MAX);
        }
        prop_assert_eq!(appended(&trace), 0);
    }

    #[test]
    fn what_was_merged_once_changes_nothing_again(a in pages(), b in pages()) {
        let (first, second) = (touches(&a), touches(&b));
        let Some(plan) = Touches::merge(None, &first, anywhere) else {
            prop_assert!(first.is_empty());
            return Ok(());
        };
        let old = finish(plan);
        prop_assert!(Touches::merge(Some(&old), &first, anywhere).is_none());
        let mut union = first.clone();
        let added = union.extend(&second);
        match Touches::merge(Some(&old), &second, anywhere) {
            None => prop_assert!(added <= ADDED_BYTES_MIN && added * 100 <= old.raw_len()),
            Some(plan) => {
                let is_whole = plan.is_whole();
                let merged = finish(plan);
                prop_assert_eq!(set(&Touches::of_trace(&merged)), set(&union));
                prop_assert!(Touches::merge(Some(&merged), &second, anywhere).is_none());
                if !is_whole {
                    prop_assert_eq!(&merged.frames()[..old.frames().len()], old.frames());
                    prop_assert!(appended(&merged) * 4 <= merged.raw_len() + added);
                }
            }
        }
    }

    #[test]
    fn a_sample_keeps_frames_and_pages(pages in pages(), seed in any::<u32>()) {
        let trace = finish(touches(&pages).plan());
        let used = |file: u32, page: u32| (page ^ file ^ seed).count_ones().is_multiple_of(2);
        let after = sampled(&trace, used).unwrap();
        prop_assert_eq!(
            set(&Touches::of_trace(&after)),
            set(&Touches::of_trace(&trace))
        );
        let digests = |trace: &Trace| {
            trace.frames().iter().map(|frame| (frame.digest, frame.len)).collect::<Vec<_>>()
        };
        prop_assert_eq!(digests(&after), digests(&trace));
        for range in after.ranges() {
            for page in range.first..range.first + range.count {
                prop_assert_eq!(range.idle, u8::from(!used(range.file, page)));
            }
        }
    }
}

#[test]
fn what_three_samples_did_not_use_goes_once_it_is_much() {
    let all: Vec<(u8, u32)> = (0..64).map(|page| (1, page)).collect();
    let mut trace = finish(touches(&all).plan());
    for _ in 0..IDLE_MAX {
        assert!(Touches::merge(Some(&trace), &Touches::new(), anywhere).is_none());
        trace = sampled(&trace, |_, page| page < 32).unwrap();
    }
    let plan = Touches::merge(Some(&trace), &Touches::new(), anywhere).unwrap();
    assert!(plan.is_whole());
    assert_eq!(finish(plan).raw_len(), 32 * PAGE);
}

#[test]
fn what_the_image_lacks_goes_once_it_is_much() {
    let pages: Vec<(u8, u32)> = (0..40).map(|page| ((page % 4 == 0).into(), page)).collect();
    let trace = finish(touches(&pages).plan());
    let without = |number: u8| {
        move |other: &TracedFile| match *other == file(number) {
            true => Place::Absent,
            false => Place::Same(Ino::ROOT),
        }
    };
    assert!(Touches::merge(Some(&trace), &Touches::new(), without(1)).is_none(), "a quarter");
    let plan = Touches::merge(Some(&trace), &Touches::new(), without(0)).unwrap();
    let left = finish(plan);
    assert_eq!(left.files(), [file(1)]);
}

#[test]
fn a_file_under_another_name_is_not_traced_twice() {
    let old = finish(touches(&[(1, 0), (1, 1), (2, 0)]).plan());
    let mut seen = Touches::new();
    let renamed = TracedFile { path: (*b"/elsewhere").into(), ..file(1) };
    let number = seen.add_file(&renamed).unwrap();
    for page in [0, 1] {
        seen.add(Touch { file: number, page, idle: 0 });
    }
    let moved = |_: &TracedFile| Place::Moved(Ino::ROOT);
    assert!(Touches::merge(Some(&old), &seen, moved).is_none());
    // A copy beside it has pages of its own.
    let both = finish(Touches::merge(Some(&old), &seen, anywhere).unwrap());
    assert_eq!(both.raw_len(), old.raw_len() + 2 * PAGE);
}

#[test]
fn a_trace_has_an_end() {
    let mut touches = Touches::new();
    let big = TracedFile { size: 1 << 40, ..file(0) };
    let file = touches.add_file(&big).unwrap();
    let pages = TRACE_BYTES_MAX / PAGE + 5;
    for page in 0..pages as u32 {
        touches.add(Touch { file, page, idle: 0 });
    }
    assert_eq!(touches.raw_len(), TRACE_BYTES_MAX);
    finish(touches.plan());
}
