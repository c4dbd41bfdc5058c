//! Files of every format version that was ever written, kept to show that they still read.

#![expect(clippy::unwrap_used, reason = "tests")]

use sway_core::bundle::Bundle;
use sway_core::chunk::{CHUNK_LEN, CutChunk, PAGE_LEN};
use sway_core::digest::Digest;
use sway_core::manifest::{
    FileContent, Ino, Manifest, Metadata, NodeKind, RunConfig, Timestamp, Tree,
};
use sway_core::trace::{Trace, TraceError, TraceFrame, TraceRange, TracedFile};

const MANIFEST_V1: &[u8] = include_bytes!("fixtures/manifest-v1.bin");
const MANIFEST_V2: &[u8] = include_bytes!("fixtures/manifest-v2.bin");
const TRACE_V1: &[u8] = include_bytes!("fixtures/trace-v1.bin");
const TRACE_V2: &[u8] = include_bytes!("fixtures/trace-v2.bin");
const BUNDLE_V1: &[u8] = include_bytes!("fixtures/bundle-v1.bin");

/// The tree of the fixture: one of each kind of node.
fn tree() -> Tree {
    let mut tree = Tree::new();
    let metadata = Metadata {
        permissions: 0o4755,
        uid: 123_456,
        gid: 7,
        mtime: Timestamp { seconds: -5, nanoseconds: 999_999_999 },
        xattrs: [(b"user.a".to_vec(), b"1".to_vec())].into(),
    };
    let mut content = FileContent::new();
    content.push_chunk(CutChunk::of(&vec![7; CHUNK_LEN as usize]));
    content.push_holes(3);
    content.push_chunk(CutChunk::of(b"tail"));
    let file = tree.add(metadata.clone(), NodeKind::Regular(content));
    let link = tree.add(metadata.clone(), NodeKind::Symlink(b"../file".to_vec()));
    let device = tree.add(metadata.clone(), NodeKind::CharDevice(0x0103));
    let block = tree.add(metadata.clone(), NodeKind::BlockDevice(0x0700));
    let fifo = tree.add(metadata.clone(), NodeKind::Fifo);
    let socket = tree.add(metadata.clone(), NodeKind::Socket);
    let children = [(b"file".to_vec(), file), (b"\xff\xfe".to_vec(), link)].into();
    let directory = tree.add(metadata, NodeKind::Directory(children));
    let root = tree.entries_mut(Tree::ROOT).unwrap();
    for (name, node) in
        [("d", directory), ("hard", file), ("c", device), ("b", block), ("p", fifo), ("s", socket)]
    {
        root.insert(name.as_bytes().to_vec(), node);
    }
    tree
}

fn config() -> RunConfig {
    RunConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        env: vec!["PATH=/bin".to_owned()],
        cmd: vec!["python3".to_owned()],
        ..RunConfig::default()
    }
}

#[test]
fn manifests_of_both_versions_read() {
    for (bytes, has_page_roots) in [(MANIFEST_V1, false), (MANIFEST_V2, true)] {
        let manifest = Manifest::decode(bytes).unwrap();
        assert_eq!(manifest.has_page_roots(), has_page_roots);
        assert_reads(&manifest);
    }
}

fn assert_reads(manifest: &Manifest) {
    let file = manifest.resolve(b"/d/file").unwrap();
    assert_eq!(manifest.resolve(b"/hard"), Some(file));
    assert_eq!(manifest.inode(file).unwrap().size(), u64::from(CHUNK_LEN) * 4 + 4);
    assert_eq!(manifest.entries(Ino::ROOT).unwrap().len(), 6);
    assert_eq!(manifest.config(), &config());
}

#[test]
fn the_same_tree_is_the_same_bytes_for_ever() {
    let (manifest, _) = tree().to_manifest(config()).unwrap();
    let bytes = manifest.encode().unwrap();
    assert_eq!(
        Digest::of(&bytes),
        Digest::of(MANIFEST_V2),
        "the format changed: raise its version"
    );
}

/// Two files in two frames; the second range ends in a short page.
fn trace() -> Trace {
    let file =
        |path: &[u8], size| TracedFile { content: Digest::of(path), size, path: path.into() };
    let range = |file, first, count, idle| TraceRange { file, first, count, idle };
    let frame = |name: &[u8], len, ranges| TraceFrame { digest: Digest::of(name), len, ranges };
    let files = vec![file(b"/usr/lib/\xff.so", 1 << 33), file(b"/app.py", 20_000)];
    let ranges = vec![range(0, 524_001, 3, 0), range(1, 0, 5, 7), range(0, 9, 1, 255)];
    // Three pages of a chunk of 32 need four digests to be proven, one needs five.
    let frames =
        vec![frame(b"one", 3 * PAGE_LEN + 80 + 20_000, 0..2), frame(b"two", PAGE_LEN + 100, 2..3)];
    Trace::new(files, ranges, frames).unwrap()
}

#[test]
fn traces_and_bundles_still_read_and_those_of_version_1_are_refused_by_name() {
    assert_eq!(Trace::decode(TRACE_V2).unwrap(), trace());
    assert_eq!(Trace::decode(TRACE_V1), Err(TraceError::Older(1)));
    assert_eq!(Bundle::decode(BUNDLE_V1).unwrap(), bundle());
}

fn bundle() -> Bundle {
    let frames = trace().frames().iter().map(|frame| frame.digest).collect::<Vec<_>>();
    let head = [Digest::of(b"groups"), Digest::of(TRACE_V1)];
    Bundle { members: head.into_iter().chain(frames).collect() }
}

#[test]
fn the_same_trace_is_the_same_bytes_for_ever() {
    assert_eq!(trace().encode(), TRACE_V2, "the format changed: raise its version");
    assert_eq!(bundle().encode().unwrap(), BUNDLE_V1, "the format changed: raise its version");
}
