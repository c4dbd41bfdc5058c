//! Starts on real mounts: what is pushed, what is answered, and what happens when it goes wrong.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sway_core::api::jobs::TraceUse;
use sway_core::digest::Digest;
use sway_core::manifest::Manifest;
use sway_core::name::{RefName, UserName};
use sway_core::trace::TraceKey;
use sway_worker::fuse::Operation;
use sway_worker::mount::ImageMount;
use sway_worker::start::{StartGuard, Starts, TraceMode};

use super::mount_fixture::{Fixture, Options, blocking, export};
use super::start_fixture::{Fate, Script, starts, trace_of};

const LONG: usize = 1_000_000;

/// Files of several frames, of a few pages, and one that no trace has.
fn image() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |seed: usize, len: usize| -> Vec<u8> {
        let mixed = |i: usize| (i + seed * 1_000_003).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..len).map(|i| (mixed(i) >> 29).to_le_bytes()[0]).collect()
    };
    fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
    fs::write(dir.path().join("usr/lib/long"), bytes(1, LONG)).unwrap();
    fs::write(dir.path().join("usr/lib/other"), bytes(2, LONG / 2)).unwrap();
    fs::write(dir.path().join("usr/short"), bytes(3, 5000)).unwrap();
    fs::write(dir.path().join("untraced"), bytes(4, 300_000)).unwrap();
    dir
}

const TRACED: [&str; 3] = ["usr/lib/long", "usr/short", "usr/lib/other"];
const TRACED_LEN: u64 = (LONG + LONG / 2 + 5000) as u64;
const UNTRACED: &str = "untraced";
const UNTRACED_LEN: u64 = 300_000;

fn user() -> UserName {
    "ada".parse().unwrap()
}

fn images() -> Vec<RefName> {
    vec!["images/ada/app:latest".parse().unwrap()]
}

struct Setup {
    fixture: Fixture,
    script: Arc<Script>,
    starts: Arc<Starts>,
    manifest: Digest,
    image: tempfile::TempDir,
}

impl Setup {
    fn new(mode: TraceMode) -> Self {
        Self::with(mode, Options::default())
    }

    fn with(mode: TraceMode, options: Options) -> Self {
        Self::of(image(), &TRACED, mode, options)
    }

    fn of(image: tempfile::TempDir, traced: &[&str], mode: TraceMode, options: Options) -> Self {
        let fixture = Fixture::new(options);
        let digest = export(image.path(), &fixture.store);
        let manifest = Manifest::decode(&fixture.store.raw(digest).unwrap()).unwrap();
        let trace = trace_of(&manifest, image.path(), traced);
        let script = Script::new(&fixture.store, digest, &manifest, Some(trace));
        let starts = starts(&fixture, &script, mode);
        Self { fixture, script, starts, manifest: digest, image }
    }

    async fn resolve(&self) -> Digest {
        let head = self.starts.resolve(&user(), images(), &TraceKey::any()).await.unwrap();
        head.unwrap().manifest
    }

    fn begin(&self) -> StartGuard {
        self.starts.begin(self.manifest, &user(), &TraceKey::any())
    }

    /// A start, once all that its first trace names has been pushed.
    async fn start(&self) -> StartGuard {
        self.resolve().await;
        let guard = self.begin();
        guard.mount().await.unwrap();
        pushed(&guard, TRACED_LEN).await;
        guard
    }

    /// The same, until the file of the start has the state that the fileserver has.
    async fn start_and_keep(&self) {
        let guard = self.start().await;
        let dir = self.fixture.dir.path().join("starts/v1");
        let etag = self.script.head.lock().unwrap().etag.clone();
        let is_kept = || {
            let mut files =
                fs::read_dir(&dir).into_iter().flatten().map(|file| file.unwrap().path());
            files.any(|path| {
                path.extension().is_some_and(|end| end == "start")
                    && fs::read(path).unwrap().windows(etag.len()).any(|it| it == etag.as_bytes())
            })
        };
        let begun = Instant::now();
        while !is_kept() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(guard);
    }

    /// Another worker over the same data.
    async fn restarted(self) -> Self {
        let Self { fixture, script, starts: ended, manifest, image } = self;
        drop(ended);
        let store = Arc::clone(&fixture.store);
        let dir = fixture.end().await;
        let fixture = Fixture::over(store, dir, Options::default());
        let starts = starts(&fixture, &script, TraceMode::Push);
        Self { fixture, script, starts, manifest, image }
    }

    async fn end(self) -> tempfile::TempDir {
        drop(self.starts);
        self.fixture.end().await
    }
}

/// Waits until so much has been pushed.
async fn pushed(guard: &StartGuard, due: u64) {
    let begun = Instant::now();
    while guard.figures().pushed_bytes < due {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", guard.figures());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a file of the mount and compares it with the image's.
async fn assert_same(mount: &Arc<ImageMount>, image: &Path, path: &str) {
    let (mounted, original) = (mount.path().join(path), image.join(path));
    blocking(move || {
        assert!(fs::read(&mounted).unwrap() == fs::read(original).unwrap(), "{mounted:?}");
    })
    .await;
}

fn readahead(mount: &ImageMount) -> String {
    let device = fs::metadata(mount.path()).unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_files_are_read_without_a_request() {
    let setup = Setup::new(TraceMode::Push);
    assert_eq!(setup.resolve().await, setup.manifest);
    let guard = setup.begin();
    let mount = guard.mount().await.unwrap();
    pushed(&guard, TRACED_LEN).await;
    for path in TRACED {
        assert_same(&mount, setup.image.path(), path).await;
    }
    assert_eq!(mount.requests().of(Operation::Read), 0, "{}", mount.requests());
    assert_eq!(setup.fixture.store.asked(), []);
    let figures = guard.figures();
    assert_eq!((figures.mode, figures.refused), (TraceUse::Pushed, 0));
    assert!(figures.bytes_on_wire > 0);
    assert_eq!(figures.pushed_pages, 245 + 2 + 123);
    assert_same(&mount, setup.image.path(), "untraced").await;
    assert!(mount.requests().of(Operation::Read) > 0);
    // Another job of the same entry has a warm mount, and is told so in a small answer.
    drop(guard);
    assert_eq!(setup.resolve().await, setup.manifest);
    let again = setup.begin();
    assert_eq!(again.figures().mode, TraceUse::None);
    assert!(again.figures().has_trace);
    assert_eq!(setup.script.streams.load(Ordering::SeqCst), 1);
    drop((again, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_reads_ahead_again_once_all_is_pushed() {
    let setup = Setup::new(TraceMode::Push);
    setup.script.allowed.send_replace(1);
    setup.resolve().await;
    let guard = setup.begin();
    let mount = guard.mount().await.unwrap();
    while guard.figures().frames == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let during = blocking({
        let mount = Arc::clone(&mount);
        move || readahead(&mount)
    });
    assert_eq!(during.await, "0");
    setup.script.allowed.send_replace(usize::MAX);
    pushed(&guard, TRACED_LEN).await;
    let begun = Instant::now();
    loop {
        let mount = Arc::clone(&mount);
        if blocking(move || readahead(&mount)).await == "128" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    drop((guard, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_never_reaches_a_reader() {
    for mode in [TraceMode::Push, TraceMode::Read] {
        let setup = Setup::new(mode);
        *setup.script.fate.lock().unwrap() = Fate::Flipped;
        setup.resolve().await;
        let guard = setup.begin();
        let mount = guard.mount().await.unwrap();
        for path in TRACED {
            assert_same(&mount, setup.image.path(), path).await;
        }
        let begun = Instant::now();
        while guard.figures().refused < 7 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", guard.figures());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(guard.figures().pushed_bytes, 0);
        assert!(setup.fixture.store.asked().len() > 10);
        drop((guard, mount));
        setup.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_asked_for_what_is_left() {
    let setup = Setup::new(TraceMode::Push);
    *setup.script.fate.lock().unwrap() = Fate::BreakAfter(3);
    setup.resolve().await;
    let guard = setup.begin();
    let mount = guard.mount().await.unwrap();
    pushed(&guard, TRACED_LEN).await;
    assert_eq!(setup.script.refetched.load(Ordering::SeqCst), 7 - 3);
    drop((guard, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_server_dies_ends_in_reads_on_demand() {
    let setup = Setup::new(TraceMode::Push);
    *setup.script.fate.lock().unwrap() = Fate::BreakAfter(2);
    *setup.script.is_down.lock().unwrap() = true;
    setup.resolve().await;
    let guard = setup.begin();
    let mount = guard.mount().await.unwrap();
    for path in TRACED {
        assert_same(&mount, setup.image.path(), path).await;
    }
    assert!(mount.board().is_empty() || guard.figures().frames < 3);
    drop((guard, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_answer_reads_where_nothing_is_pushed() {
    let setup = Setup::new(TraceMode::Read);
    setup.resolve().await;
    let guard = setup.begin();
    let mount = guard.mount().await.unwrap();
    pushed(&guard, TRACED_LEN).await;
    for path in TRACED {
        assert_same(&mount, setup.image.path(), path).await;
    }
    assert!(mount.requests().of(Operation::Read) > 0);
    assert_eq!(setup.fixture.store.asked(), []);
    assert_eq!(guard.figures().mode, TraceUse::Read);
    drop((guard, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_waits_for_its_reader_within_a_bound() {
    const PARTS: [&str; 3] = ["a", "b", "c"];
    const PART: usize = 20 << 20;
    let image = tempfile::tempdir().unwrap();
    for (part, fill) in PARTS.iter().zip(1..) {
        let bytes: Vec<u8> = (0..PART / 8).flat_map(|at| (at * fill).to_le_bytes()).collect();
        fs::write(image.path().join(part), bytes).unwrap();
    }
    let setup = Setup::of(image, &PARTS, TraceMode::Read, Options::default());
    setup.resolve().await;
    let guard = setup.begin();
    let mount = guard.mount().await.unwrap();
    pushed(&guard, 32 << 20).await;
    // Nobody reads, and nothing more comes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = guard.figures().pushed_bytes;
    assert!(held <= 33 << 20, "{held}");
    for part in PARTS {
        assert_same(&mount, setup.image.path(), part).await;
    }
    assert_eq!(setup.fixture.store.asked(), [], "nothing had gone before it was read");
    drop((guard, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_share_a_stream_and_the_last_one_ends_it() {
    let setup = Setup::new(TraceMode::Push);
    setup.script.allowed.send_replace(1);
    setup.resolve().await;
    let (first, second) = (setup.begin(), setup.begin());
    let mount = first.mount().await.unwrap();
    assert!(Arc::ptr_eq(&mount, &second.mount().await.unwrap()));
    while first.figures().frames == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(setup.script.streams.load(Ordering::SeqCst), 1);
    // The wire is charged once.
    assert!(first.figures().bytes_on_wire > 0);
    assert_eq!(second.figures().bytes_on_wire, 0);
    drop(first);
    assert!(!mount.board().is_empty());
    drop(second);
    let begun = Instant::now();
    while !mount.board().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(mount);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_page_that_is_about_to_be_pushed_is_answered_first() {
    let setup = Setup::new(TraceMode::Push);
    // On demand gets no answer: only the stream can.
    setup.script.allowed.send_replace(0);
    setup.resolve().await;
    let guard = setup.begin();
    let mount = guard.mount().await.unwrap();
    let begun = Instant::now();
    while mount.board().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    setup.fixture.store.set_closed(true);
    let reads: Vec<_> = TRACED
        .into_iter()
        .map(|path| {
            let (mounted, original) = (mount.path().join(path), setup.image.path().join(path));
            tokio::task::spawn_blocking(move || {
                fs::read(mounted).unwrap() == fs::read(original).unwrap()
            })
        })
        .collect();
    while mount.requests().of(Operation::Read) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    setup.script.allowed.send_replace(usize::MAX);
    for read in reads {
        assert!(read.await.unwrap());
    }
    pushed(&guard, TRACED_LEN).await;
    setup.fixture.store.set_closed(false);
    drop((guard, mount));
    setup.end().await;
}

/// A process of an account that waits for a page of `path` that never comes by itself.
fn reader(mount: &ImageMount, path: &str, is_mapped: bool) -> std::process::Child {
    let path = mount.path().join(path);
    let how =
        if is_mapped { "mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)[0]" } else { "f.read(1)" };
    let program = format!("import mmap\nf=open({path:?},'rb',buffering=0)\n{how}");
    std::process::Command::new("python3").args(["-c", &program]).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_for_the_stream_can_be_killed_during_a_push() {
    for is_mapped in [false, true] {
        let setup = Setup::new(TraceMode::Push);
        setup.script.allowed.send_replace(0);
        setup.resolve().await;
        let guard = setup.begin();
        let mount = guard.mount().await.unwrap();
        let begun = Instant::now();
        while mount.board().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Neither the stream nor the fileserver brings the page that it waits for.
        setup.fixture.store.set_closed(true);
        let before = mount.requests().of(Operation::Read);
        let mut process = reader(&mount, "usr/lib/other", is_mapped);
        while mount.requests().of(Operation::Read) == before {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The push comes up to the frame before its page.
        setup.script.allowed.send_replace(5);
        while guard.figures().frames < 5 {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.kill().unwrap();
        // What a run does when it is killed: its reads are answered.
        setup.fixture.accounts.unattributed().doom();
        let status = blocking(move || process.wait().unwrap());
        assert!(!tokio::time::timeout(Duration::from_secs(20), status).await.unwrap().success());
        setup.fixture.store.set_closed(false);
        setup.script.allowed.send_replace(usize::MAX);
        pushed(&guard, TRACED_LEN).await;
        drop((guard, mount));
        setup.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_starts_from_its_file() {
    let setup = Setup::new(TraceMode::Push);
    setup.start_and_keep().await;
    let setup = setup.restarted().await;
    let guard = setup.start().await;
    assert_eq!(setup.script.streams.load(Ordering::SeqCst), 1);
    assert_eq!(guard.figures().bytes_on_wire, 0);
    assert!(guard.figures().bytes_from_disk > 0);
    let mount = guard.mount().await.unwrap();
    for path in TRACED {
        assert_same(&mount, setup.image.path(), path).await;
    }
    assert_eq!(mount.requests().of(Operation::Read), 0, "{}", mount.requests());
    drop((guard, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_fetches_what_its_trace_has_grown_by_and_nothing_else() {
    let setup = Setup::new(TraceMode::Push);
    setup.start_and_keep().await;
    let setup = setup.restarted().await;
    let before = setup.script.sent.load(Ordering::SeqCst);
    let manifest = Manifest::decode(&setup.fixture.store.raw(setup.manifest).unwrap()).unwrap();
    let paths: Vec<&str> = TRACED.iter().copied().chain([UNTRACED]).collect();
    let (old, _) = trace_of(&manifest, setup.image.path(), &TRACED);
    let grown = trace_of(&manifest, setup.image.path(), &paths);
    let added = grown.0.frames().len() - old.frames().len();
    setup.script.grow(&manifest, grown);
    setup.start_and_keep().await;
    // The trace itself, and its new frames.
    assert_eq!(setup.script.sent.load(Ordering::SeqCst) - before, 1 + added);

    let setup = setup.restarted().await;
    let guard = setup.start().await;
    pushed(&guard, TRACED_LEN + UNTRACED_LEN).await;
    assert_eq!(setup.script.streams.load(Ordering::SeqCst), 2, "nothing is asked for again");
    let mount = guard.mount().await.unwrap();
    for path in paths {
        assert_same(&mount, setup.image.path(), path).await;
    }
    assert_eq!(mount.requests().of(Operation::Read), 0, "{}", mount.requests());
    drop((guard, mount));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_another_image_brings_what_both_have() {
    let setup = Setup::new(TraceMode::Push);
    // The long file is somewhere else, another one is gone, a third is not the same.
    let changed = image();
    let root = changed.path();
    fs::create_dir(root.join("opt")).unwrap();
    fs::rename(root.join("usr/lib/long"), root.join("opt/moved")).unwrap();
    fs::remove_file(root.join("usr/short")).unwrap();
    fs::write(root.join("usr/lib/other"), vec![7; 100_000]).unwrap();
    let digest = export(root, &setup.fixture.store);
    let manifest = Manifest::decode(&setup.fixture.store.raw(digest).unwrap()).unwrap();
    let old = Manifest::decode(&setup.fixture.store.raw(setup.manifest).unwrap()).unwrap();
    let trace = trace_of(&old, setup.image.path(), &TRACED);
    let script = Script::new(&setup.fixture.store, digest, &manifest, Some(trace));
    let starts = starts(&setup.fixture, &script, TraceMode::Push);
    let guard = starts.begin(digest, &user(), &TraceKey::any());
    let mount = guard.mount().await.unwrap();
    let begun = Instant::now();
    while guard.figures().pushed_bytes < LONG as u64 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", guard.figures());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_same(&mount, root, "opt/moved").await;
    assert_eq!(mount.requests().of(Operation::Read), 0);
    assert_same(&mount, root, "usr/lib/other").await;
    assert_eq!(guard.figures().refused, 0);
    drop((guard, mount, starts));
    setup.end().await;
}
