//! What is asked for without being read, of a server that remembers all that it was asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use sway_core::chunk::{CHUNK_LEN, CutChunk};
use sway_core::job::{JobFile, Program};
use sway_core::manifest::{FileContent, Metadata, NodeKind, PageRoots, RunConfig};
use sway_core::trace::{Trace, TraceFrame, TraceRange, TracedFile};
use sway_server::tasks::Tasks;

use super::*;
use crate::cache::ChunksConfig;
use crate::fetch::script::{Script, Scripted};
use crate::rootfs::Rootfs;

/// An image of paths and bytes.
struct Built {
    rootfs: Rootfs,
    roots: PageRoots,
    script: Arc<Script>,
    digests: BTreeMap<String, Vec<Digest>>,
}

fn build(files: &[(&str, Vec<u8>)], background: Background) -> Built {
    let script = Script::of([]);
    let mut tree = sway_core::manifest::Tree::new();
    let mut digests = BTreeMap::new();
    for (path, bytes) in files {
        let mut content = FileContent::new();
        let mut own = Vec::new();
        for piece in bytes.chunks(CHUNK_LEN as usize) {
            own.push(script.put(piece));
            content.push_chunk(CutChunk::of(piece));
        }
        digests.insert((*path).to_owned(), own);
        let metadata = Metadata { permissions: 0o755, ..Metadata::default() };
        let file = tree.add(metadata, NodeKind::Regular(content));
        let mut at = sway_core::manifest::Tree::ROOT;
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in directory.split('/').filter(|part| !part.is_empty()) {
            let found = tree.entries_mut(at).unwrap().get(part.as_bytes()).copied();
            at = found.unwrap_or_else(|| {
                let kind = NodeKind::Directory(BTreeMap::new());
                let made = tree.add(Metadata::default(), kind);
                tree.entries_mut(at).unwrap().insert(part.as_bytes().to_vec(), made);
                made
            });
        }
        tree.entries_mut(at).unwrap().insert(name.as_bytes().to_vec(), file);
    }
    let (manifest, roots) = tree.to_manifest(RunConfig::default()).unwrap();
    let roots = PageRoots::decode(&manifest, &roots.unwrap_or_default()).unwrap();
    let source = Arc::new(Scripted(Arc::clone(&script)));
    let predict = Some(PredictConfig { background });
    let config = ChunksConfig { predict, ..ChunksConfig::default() };
    let chunks = Chunks::new(config, source, Tasks::new()).unwrap();
    Built { rootfs: Rootfs::new(Arc::new(manifest), chunks), roots, script, digests }
}

impl Built {
    fn predictor(&self) -> &Arc<Predictor> {
        self.rootfs.predictor().unwrap()
    }

    fn asked(&self) -> Vec<Digest> {
        self.script.requests().into_iter().flat_map(|request| request.digests).collect()
    }

    fn was_asked(&self, path: &str) -> bool {
        let asked = self.asked();
        self.digests[path].iter().any(|digest| asked.contains(digest))
    }

    /// Waits until no guess is under way.
    async fn settled(&self) {
        for _ in 0..2000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if !self.predictor().pumping.load(Ordering::SeqCst) {
                return;
            }
        }
        panic!("guessing does not end");
    }

    /// A trace that brings a file of one page.
    fn trace_of(&self, path: &str) -> Arc<Plan> {
        let manifest = self.rootfs.manifest();
        let ino = manifest.resolve(path.as_bytes()).unwrap();
        let size = manifest.inode(ino).unwrap().size();
        let content = manifest.content_id(ino).unwrap();
        let len = u32::try_from(size).unwrap();
        let trace = Trace::new(
            vec![TracedFile { content, size, path: format!("/{path}").into_bytes().into() }],
            vec![TraceRange { file: 0, first: 0, count: 1, idle: 0 }],
            vec![TraceFrame { digest: self.digests[path][0], len, ranges: 0..1 }],
        );
        let trace = Arc::new(trace.unwrap());
        Arc::new(Plan::new(Arc::clone(manifest), self.roots.clone(), trace).unwrap())
    }

    async fn read(&self, path: &str, offset: u64) {
        let ino = self.rootfs.manifest().resolve(path.as_bytes()).unwrap();
        self.rootfs.read(ino, offset, 1, &Arc::default()).await.unwrap();
    }
}

fn script(content: &str) -> JobSpec {
    let file = JobFile { path: "app.py".into(), content: content.into(), executable: false };
    let mut spec: JobSpec = serde_json::from_value(serde_json::json!({
        "image": "x", "program": { "kind": "command", "argv": [] },
    }))
    .unwrap();
    spec.program = Program::Script { file };
    spec
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// A Python with a package, whose interpreter needs a library.
fn python() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("usr/bin/python3.11", elf::tests::library(&["libz.so.1", "libc.so.6"], None)),
        ("usr/lib/libc.so.6", elf::tests::library(&[], None)),
        ("usr/lib/libz.so.1", elf::tests::library(&["libc.so.6", "libz.so.1"], Some("/x"))),
        ("usr/lib/libother.so.1", text("another library")),
        ("usr/lib/python3.11/encodings/__init__.py", text("import codecs")),
        ("usr/lib/python3.11/codecs.py", text("codecs")),
        ("usr/lib/python3.11/unused.py", text("unused")),
        (
            "usr/lib/python3.11/site-packages/p/__init__.py",
            text("from . import q\nfrom .r import s"),
        ),
        ("usr/lib/python3.11/site-packages/p/q.py", text("import deep.down\n# q")),
        ("usr/lib/python3.11/site-packages/p/r.py", text("# r")),
        ("usr/lib/python3.11/site-packages/p/t.py", text("# t")),
        ("usr/lib/python3.11/site-packages/deep/__init__.py", text("# deep")),
        ("usr/lib/python3.11/site-packages/deep/down.py", text("# down")),
    ]
}

#[tokio::test]
async fn what_a_script_imports_is_fetched_before_it_runs_and_nothing_else() {
    let built = build(&python(), Background::Off);
    let spec = script("#!/usr/bin/python3.11\nimport p\n");
    let ahead = built.predictor().of_job(&spec, Traced::Not);
    built.settled().await;
    assert_eq!(ahead.figures().fetches, built.asked().len() as u64, "the job is charged");
    for needed in [
        "usr/bin/python3.11",
        "usr/lib/libz.so.1",
        "usr/lib/libc.so.6",
        "usr/lib/python3.11/encodings/__init__.py",
        "usr/lib/python3.11/codecs.py",
        "usr/lib/python3.11/site-packages/p/__init__.py",
        "usr/lib/python3.11/site-packages/p/q.py",
        "usr/lib/python3.11/site-packages/p/r.py",
        "usr/lib/python3.11/site-packages/deep/down.py",
    ] {
        assert!(built.was_asked(needed), "{needed}");
    }
    for other in [
        "usr/lib/libother.so.1",
        "usr/lib/python3.11/unused.py",
        "usr/lib/python3.11/site-packages/p/t.py",
    ] {
        assert!(!built.was_asked(other), "{other}");
    }
}

#[tokio::test]
async fn small_files_next_to_a_missed_one_come_with_it() {
    let files = [("d/a", text("a")), ("d/b", text("b")), ("e/c", text("c"))];
    let built = build(&files, Background::Off);
    let _ahead = built.predictor().of_job(&script("print()"), Traced::Not);
    built.read("d/a", 0).await;
    built.settled().await;
    assert!(built.was_asked("d/b"));
    assert!(!built.was_asked("e/c"));
}

#[tokio::test]
async fn beside_a_trace_only_neighbours_are_guessed_until_it_proves_to_be_another_program_s() {
    let names: Vec<String> = (0..60).map(|number| format!("d{}/f{number}", number % 30)).collect();
    let mut files = python();
    files.extend(names.iter().map(|name| (name.as_str(), text(name))));
    let built = build(&files, Background::Off);
    let _ahead =
        built.predictor().of_job(&script("#!/usr/bin/python3.11\nimport p\n"), Traced::Own);
    let imported = "usr/lib/python3.11/site-packages/p/__init__.py";
    built.read(&names[0], 0).await;
    built.settled().await;
    assert!(built.was_asked(&names[30]), "its neighbour");
    // Their neighbours are guessed, so these are the misses.
    for name in &names[1..30] {
        built.read(name, 0).await;
    }
    built.settled().await;
    assert!(!built.was_asked(imported));
    for file in ["t.py", "q.py"].map(|name| format!("usr/lib/python3.11/site-packages/p/{name}")) {
        built.read(&file, 0).await;
    }
    built.read("usr/lib/python3.11/unused.py", 0).await;
    built.settled().await;
    assert!(built.was_asked("usr/lib/python3.11/site-packages/deep/down.py"));
}

#[tokio::test]
async fn beside_another_image_s_trace_what_it_lacks_is_guessed_from_the_first_moment() {
    let built = build(&python(), Background::Off);
    let spec = script("#!/usr/bin/python3.11\nimport p\n");
    let ahead = built.predictor().of_job(&spec, Traced::Donated);
    built.settled().await;
    assert!(built.asked().is_empty(), "until it is known what comes");
    let brought = "usr/lib/python3.11/codecs.py";
    built.predictor().laid(built.trace_of(brought));
    built.settled().await;
    assert_eq!(ahead.figures().fetches, built.asked().len() as u64, "the job is charged");
    assert!(built.was_asked("usr/lib/python3.11/site-packages/p/__init__.py"));
    assert!(built.was_asked("usr/lib/python3.11/site-packages/deep/down.py"));
    assert!(!built.was_asked(brought));
}

#[tokio::test]
async fn what_a_trace_has_brought_and_the_kernel_lost_comes_alone() {
    let files = [("d/brought", text("a")), ("d/near", text("b"))];
    let built = build(&files, Background::Off);
    let _ahead = built.predictor().of_job(&script("print()"), Traced::Own);
    built.predictor().laid(built.trace_of("d/brought"));
    built.read("d/brought", 0).await;
    built.settled().await;
    assert_eq!(built.asked(), built.digests["d/brought"]);
}

#[tokio::test]
async fn further_misses_in_a_long_file_bring_more_of_it() {
    let long: Vec<u8> = (0..64u8).flat_map(|fill| vec![fill; CHUNK_LEN as usize]).collect();
    let built = build(&[("long", long)], Background::Off);
    let _ahead = built.predictor().of_job(&script("print()"), Traced::Not);
    built.read("long", 0).await;
    built.settled().await;
    assert_eq!(built.asked().len(), 1);
    built.read("long", 20 * u64::from(CHUNK_LEN)).await;
    built.settled().await;
    let after = built.asked().len();
    assert!((3..=8).contains(&after), "{after}");
}

#[tokio::test]
async fn the_background_brings_everything_once_or_nothing() {
    let names: Vec<String> = (0..300).map(|number| format!("d{}/f{number}", number % 7)).collect();
    let files: Vec<(&str, Vec<u8>)> =
        names.iter().map(|name| (name.as_str(), name.as_bytes().repeat(100))).collect();
    for (background, all) in
        [(Background::Full, true), (Background::Idle, false), (Background::Off, false)]
    {
        let built = build(&files, background);
        let ahead = built.predictor().of_job(&script("print()"), Traced::Not);
        built.settled().await;
        drop(ahead);
        let mut asked = built.asked();
        assert_eq!(asked.len(), if all { files.len() } else { 0 }, "{background:?}");
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), if all { files.len() } else { 0 }, "each chunk once");
    }
}

#[tokio::test]
async fn where_guesses_fail_the_background_brings_the_rest() {
    let names: Vec<String> = (0..300).map(|number| format!("d{number}/f")).collect();
    let files: Vec<(&str, Vec<u8>)> =
        names.iter().map(|name| (name.as_str(), name.as_bytes().repeat(100))).collect();
    // A trace counts as another program's after some misses more.
    for (traced, misses) in [(Traced::Not, 20), (Traced::Own, 40)] {
        let built = build(&files, Background::Idle);
        let _ahead = built.predictor().of_job(&script("print()"), traced);
        built.settled().await;
        assert_eq!(built.asked().len(), 0);
        for number in 0..misses {
            built.read(&format!("d{number}/f"), 0).await;
        }
        built.settled().await;
        // A reader who waits long asks anew.
        let asked: std::collections::BTreeSet<Digest> = built.asked().into_iter().collect();
        assert_eq!(asked.len(), files.len());
    }
}

#[tokio::test]
async fn a_guess_that_fails_harms_no_reader() {
    let built = build(&[("d/a", text("a")), ("d/b", text("b"))], Background::Full);
    built.script.hold(true);
    let _ahead = built.predictor().of_job(&script("print()"), Traced::Not);
    tokio::time::sleep(Duration::from_millis(20)).await;
    built.script.hold(false);
    built.read("d/a", 0).await;
    built.read("d/b", 0).await;
}
