//! What every start and every read of a file computes: manifests, read plans, traces, hashes.
//!
//! `cargo bench -p sway-core`

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sway_core::chunk::{CHUNK_LEN, ChunkRef, CutChunk, cut};
use sway_core::digest::Digest;
use sway_core::manifest::{
    FileContent, Ino, Manifest, Metadata, NodeKind, PageRoots, RunConfig, Tree,
};
use sway_core::read_plan::read_plan;
use sway_core::trace::{FRAME_LEN_MAX, Trace, TraceFrame, TraceRange, TracedFile};

/// An image of this many files: 500 directories, and one file in twenty of several chunks.
const FILES: usize = 28_000;
const DIRECTORIES: usize = 500;

fn digest(number: usize) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn chunk(number: usize, len: u32) -> CutChunk {
    let chunk = ChunkRef { digest: digest(number), len };
    CutChunk { chunk, page_root: chunk.has_page_root().then(|| digest(!number)) }
}

fn manifest() -> (Manifest, Vec<u8>) {
    let mut tree = Tree::new();
    for directory in 0..DIRECTORIES {
        let mut entries = BTreeMap::new();
        for file in (directory..FILES).step_by(DIRECTORIES) {
            let mut content = FileContent::new();
            if file % 20 == 0 {
                for part in 0..6 {
                    content.push_chunk(chunk(file * 8 + part, CHUNK_LEN));
                }
            }
            content.push_chunk(chunk(file * 8 + 7, 9_000));
            let node = tree.add(Metadata::default(), NodeKind::Regular(content));
            entries.insert(format!("module_{file}.py").into_bytes(), node);
        }
        let node = tree.add(Metadata::default(), NodeKind::Directory(entries));
        let name = format!("package_{directory}").into_bytes();
        tree.entries_mut(Tree::ROOT).expect("the root is a directory").insert(name, node);
    }
    let (manifest, roots) = tree.to_manifest(RunConfig::default()).expect("a sound tree");
    (manifest, roots.expect("files of several pages"))
}

/// A trace of 2,000 files with four frames' worth of ranges each hundred files.
fn trace() -> Trace {
    let files: Vec<TracedFile> = (0..2_000)
        .map(|number| TracedFile {
            content: digest(number),
            size: 40_000,
            path: format!("/usr/lib/python3/module_{number}.so").into_bytes().into(),
        })
        .collect();
    let ranges: Vec<TraceRange> =
        (0..2_000).map(|file| TraceRange { file, first: 0, count: 10, idle: 0 }).collect();
    let per_frame = FRAME_LEN_MAX / 40_000;
    let frames = (0..ranges.len())
        .step_by(per_frame)
        .map(|first| {
            let ranges = first..(first + per_frame).min(2_000);
            let len = u32::try_from(ranges.len() * 40_000).expect("below a frame's bound");
            TraceFrame { digest: digest(first), len, ranges }
        })
        .collect();
    Trace::new(files, ranges, frames).expect("a sound trace")
}

fn manifests(criterion: &mut Criterion) {
    let (manifest, roots) = manifest();
    let encoded = manifest.encode().expect("a sound manifest");
    let mut group = criterion.benchmark_group("manifest of 28,000 files");
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Manifest::decode(black_box(&encoded)).expect("sound"));
    });
    group.bench_function("decode page roots", |bencher| {
        bencher.iter(|| PageRoots::decode(&manifest, black_box(&roots)).expect("sound"));
    });
    group.finish();
    criterion.bench_function("resolve a path", |bencher| {
        bencher.iter(|| manifest.resolve(black_box(b"/package_250/module_10250.py")));
    });
}

fn read_plans(criterion: &mut Criterion) {
    let (manifest, _) = manifest();
    let large: Ino = manifest.resolve(b"/package_0/module_0.py").expect("there");
    let small: Ino = manifest.resolve(b"/package_1/module_1.py").expect("there");
    let mut group = criterion.benchmark_group("read plan");
    group.bench_function("4 KiB of a small file", |bencher| {
        bencher.iter(|| read_plan(&manifest, black_box(small), 0, 4096));
    });
    group.bench_function("128 KiB across two chunks", |bencher| {
        let offset = u64::from(CHUNK_LEN) - 4096;
        bencher.iter(|| read_plan(&manifest, black_box(large), offset, 128 << 10));
    });
    group.finish();
}

fn hashing(criterion: &mut Criterion) {
    let bytes: Vec<u8> = (0..8 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let mut group = criterion.benchmark_group("8 MiB");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("digest", |bencher| bencher.iter(|| Digest::of(black_box(&bytes))));
    group.bench_function("cut", |bencher| {
        bencher.iter(|| cut(black_box(bytes.as_slice())).count());
    });
    group.bench_function("hash chunks and page trees", |bencher| {
        bencher.iter(|| {
            let chunks = bytes.chunks(CHUNK_LEN as usize);
            chunks.filter_map(|chunk| CutChunk::of(black_box(chunk)).page_root).count()
        });
    });
    group.finish();
}

fn traces(criterion: &mut Criterion) {
    let encoded = trace().encode();
    let mut group = criterion.benchmark_group("trace of 2,000 files");
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Trace::decode(black_box(&encoded)).expect("sound"));
    });
    group.finish();
}

criterion_group!(benches, manifests, read_plans, hashing, traces);
criterion_main!(benches);
