//! From the reads of one run to the fast start of another: real workers, one fileserver.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use sway_client::Client;
use sway_client::refs::Expect;
use sway_core::api::jobs::{RunView, TraceRequest, TraceUse};
use sway_core::bundle::Bundle;
use sway_core::digest::Digest;
use sway_core::job::{JobFile, JobSpec, Program};
use sway_core::manifest::Manifest;
use sway_core::name::UserName;
use sway_core::trace::{Trace, TraceKey, trace_ref};

use crate::mount_fixture::{Store, export};
use crate::worker::{
    FileserverHandle, PATIENCE, client, copy, ended, script, start_fileserver, start_worker,
    terminate,
};

/// A worker of its own data directory; ends with this value.
struct Worker {
    _data: tempfile::TempDir,
    process: Child,
    client: Client,
}

impl Drop for Worker {
    fn drop(&mut self) {
        terminate(&mut self.process);
    }
}

/// One that has never seen anything.
async fn worker(fileserver: &FileserverHandle) -> Worker {
    let data = tempfile::tempdir().unwrap();
    let (process, url) = start_worker(data.path(), fileserver, &[]);
    let client = client(&url);
    let begun = Instant::now();
    while client.health().await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the worker does not come up");
    }
    Worker { _data: data, process, client }
}

/// An image with a shell, `cat`, and two files that are told apart by every byte.
async fn store_image(at: &Client, name: &str, a: u8, b: u8) -> Digest {
    let root = tempfile::tempdir().unwrap();
    for program in ["sh", "cat"] {
        let path = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
        let path = path.iter().find(|path| path.exists()).unwrap();
        copy(path, root.path());
        let listed = std::process::Command::new("ldd").arg(path).output().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(library), root.path());
        }
    }
    for (name, seed) in [("a", a), ("b", b)] {
        let bytes: Vec<u8> = (0..300_000u32).map(|at| at.to_le_bytes()[1] ^ seed).collect();
        fs::write(root.path().join(name), bytes).unwrap();
    }
    for dir in ["tmp", "proc", "dev", "etc"] {
        fs::create_dir(root.path().join(dir)).unwrap();
    }
    let store = Store::default();
    let manifest = export(root.path(), &store);
    for raw in store.all() {
        at.blobs().put(&raw).await.unwrap();
    }
    let name = format!("images/ada/{name}:latest").parse().unwrap();
    at.refs().put(&name, manifest, Expect::Any).await.unwrap();
    manifest
}

fn ada() -> UserName {
    "ada".parse().unwrap()
}

fn reads(image: &str, files: &str) -> JobSpec {
    JobSpec {
        image: Some(image.parse().unwrap()),
        ..script(&format!("cat {files} >/dev/null; echo done"))
    }
}

/// The trace, once it is there and good.
async fn trace_when(
    at: &Client,
    manifest: Digest,
    key: &str,
    good: impl Fn(&Trace) -> bool,
) -> Trace {
    let name = trace_ref(&ada(), manifest, &key.parse().unwrap());
    let begun = Instant::now();
    loop {
        if let Some(bundle) = at.refs().get(&name).await.unwrap() {
            let bundle = Bundle::decode(at.blobs().get(bundle).await.unwrap().as_ref()).unwrap();
            let roots = Manifest::decode(at.blobs().get(manifest).await.unwrap().as_ref());
            let roots = roots.unwrap().page_roots();
            assert_eq!(roots, roots.and(bundle.members.first().copied()), "its own roots first");
            let trace = bundle.members[usize::from(roots.is_some())];
            let trace = Trace::decode(at.blobs().get(trace).await.unwrap().as_ref()).unwrap();
            for frame in trace.frames() {
                let blob = at.blobs().get(frame.digest).await.unwrap();
                assert_eq!(blob.as_ref().len(), frame.len as usize);
            }
            if good(&trace) {
                return trace;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "no such trace under {name}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn traced(trace: &Trace, path: &str) -> u64 {
    let files = trace.files();
    let ranges = trace.ranges().iter();
    let its = ranges.filter(|range| *files[range.file as usize].path == *path.as_bytes());
    its.map(|range| trace.range_bytes(range)).map(|bytes| bytes.end - bytes.start).sum()
}

fn assert_done(run: &RunView) {
    assert_eq!((run.exit_code, run.stdout.as_deref()), (Some(0), Some("done\n")), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_run_read_another_worker_starts_with() {
    let data = tempfile::tempdir().unwrap();
    let fileserver = start_fileserver(data.path(), None).await;
    let at = client(&format!("http://{}", fileserver.addr));
    let manifest = store_image(&at, "demo", 0, 1).await;
    let first = worker(&fileserver).await;
    let run = ended(&first.client, &reads("demo", "/a")).await;
    assert_done(&run);
    assert_eq!(run.trace, TraceUse::None);
    let trace = trace_when(&at, manifest, "app.sh", |_| true).await;
    assert_eq!(traced(&trace, "/a"), 300_000);
    assert_eq!(traced(&trace, "/b"), 0, "only what was read");
    // The first trace of an image is its default one too.
    trace_when(&at, manifest, "_", |_| true).await;
    drop(first);

    let second = worker(&fileserver).await;
    let run = ended(&second.client, &reads("demo", "/a")).await;
    assert_done(&run);
    assert_eq!(run.trace, TraceUse::Pushed);
    assert!(run.trace_pushed_bytes >= 300_000, "{run:?}");
    fileserver.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_how_much_of_what_was_pushed_it_used() {
    let data = tempfile::tempdir().unwrap();
    let fileserver = start_fileserver(data.path(), None).await;
    let at = client(&format!("http://{}", fileserver.addr));
    let manifest = store_image(&at, "demo", 0, 1).await;
    let first = worker(&fileserver).await;
    assert_done(&ended(&first.client, &reads("demo", "/a /b")).await);
    trace_when(&at, manifest, "app.sh", |_| true).await;
    drop(first);

    // What was read first is pushed first: all of /a is there before anything of /b.
    let second = worker(&fileserver).await;
    let run = ended(&second.client, &reads("demo", "/b")).await;
    assert_done(&run);
    assert!(run.trace_pushed_bytes >= 600_000, "{run:?}");
    let begun = Instant::now();
    let used = loop {
        let run = second.client.jobs().run(&run.id.to_string()).await.unwrap();
        if let Some(used) = run.trace_used_bytes {
            break used;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing is known of {run:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!((300_000..=run.trace_pushed_bytes - 290_000).contains(&used), "{used} of {run:?}");
    fileserver.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_grows_by_what_runs_of_two_workers_missed() {
    let data = tempfile::tempdir().unwrap();
    let fileserver = start_fileserver(data.path(), None).await;
    let at = client(&format!("http://{}", fileserver.addr));
    let manifest = store_image(&at, "demo", 0, 1).await;
    let workers = [worker(&fileserver).await, worker(&fileserver).await];
    let specs = [reads("demo", "/a"), reads("demo", "/b")];
    let (one, other) =
        tokio::join!(ended(&workers[0].client, &specs[0]), ended(&workers[1].client, &specs[1]));
    assert_done(&one);
    assert_done(&other);
    let both = |trace: &Trace| traced(trace, "/a") == 300_000 && traced(trace, "/b") == 300_000;
    trace_when(&at, manifest, "app.sh", both).await;
    fileserver.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_inherit_traces_and_get_those_of_others_with_the_same_files() {
    let data = tempfile::tempdir().unwrap();
    let fileserver = start_fileserver(data.path(), None).await;
    let at = client(&format!("http://{}", fileserver.addr));
    let before = store_image(&at, "demo", 0, 1).await;
    let first = worker(&fileserver).await;
    assert_done(&ended(&first.client, &reads("demo", "/a /b")).await);
    trace_when(&at, before, "app.sh", |_| true).await;
    trace_when(&at, before, "_", |_| true).await;

    // A changed file: all else is inherited, before anything of the new image has run.
    let after = store_image(&at, "demo", 0, 2).await;
    let request = TraceRequest {
        image: "demo".parse().unwrap(),
        previous: Some(before),
        program: Some(Program::Command { argv: vec!["sh".into(), "more.sh".into()] }),
        args: vec![],
        file: Some(JobFile {
            path: "more.sh".to_owned(),
            content: b"#!/bin/sh\ncat /b\n".to_vec(),
            executable: true,
        }),
    };
    assert_eq!(first.client.jobs().prepare(&request).await.unwrap().manifest, after);
    let inherited = trace_when(&at, after, "app.sh", |_| true).await;
    assert_eq!(traced(&inherited, "/a"), 300_000);
    // And the recording run adds what it reads itself, under its own key.
    let recorded = trace_when(&at, after, "more.sh", |_| true).await;
    assert_eq!((traced(&recorded, "/a"), traced(&recorded, "/b")), (0, 300_000));
    let runs = first.client.jobs().runs(Default::default()).await.unwrap().runs;
    let marked: Vec<_> = runs.iter().filter(|run| run.records_trace).collect();
    assert!(matches!(marked[..], [run] if run.filename == "more.sh"), "{runs:?}");

    // Another image with the same files, which nobody has prepared.
    store_image(&at, "other", 0, 9).await;
    let run = ended(&first.client, &reads("other", "/a")).await;
    assert_done(&run);
    assert_eq!(run.trace, TraceUse::Pushed, "{run:?}");
    fileserver.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_runs_change_no_trace() {
    let data = tempfile::tempdir().unwrap();
    let fileserver = start_fileserver(data.path(), None).await;
    let at = client(&format!("http://{}", fileserver.addr));
    let manifest = store_image(&at, "demo", 0, 1).await;
    let only = worker(&fileserver).await;
    let spec = reads("demo", "/a");
    assert_done(&ended(&only.client, &spec).await);
    trace_when(&at, manifest, "app.sh", |_| true).await;
    let name = trace_ref(&ada(), manifest, &TraceKey::of_program(&spec.program));
    let before = at.refs().get(&name).await.unwrap();
    for _ in 0..3 {
        let run = ended(&only.client, &spec).await;
        assert_done(&run);
        assert_eq!(run.trace_missed_bytes, 0, "all of it is in the kernel's cache");
    }
    // A run that is recorded later shows that those before it were worked off.
    assert_done(&ended(&only.client, &reads("demo", "/b")).await);
    trace_when(&at, manifest, "app.sh", |trace| traced(trace, "/b") > 0).await;
    let after = at.refs().get(&name).await.unwrap();
    assert_ne!(before, after);
    fileserver.shutdown.cancel();
}
