//! Looking chunks up near by: in memory, and on disk with its hash.
//!
//! `cargo bench -p sway-worker`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sway_core::blob::Blob;
use sway_core::chunk::CHUNK_LEN;
use sway_worker::cache::{ChunkCache, DiskCache, MemoryCache};

const LIMIT: u64 = 1 << 30;

/// Chunks as an image has them: every tenth full, the others of a small file.
fn blobs() -> Vec<Blob> {
    (0..1_000u32)
        .map(|number| {
            let len = if number % 10 == 0 { CHUNK_LEN as usize } else { 9_000 };
            let mut bytes = vec![number.to_le_bytes()[0]; len];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            Blob::new(bytes)
        })
        .collect()
}

fn lookups(criterion: &mut Criterion, name: &str, cache: &dyn ChunkCache) {
    let blobs = blobs();
    for blob in &blobs {
        cache.put(blob);
    }
    let (full, small) = (&blobs[0], &blobs[1]);
    let absent = Blob::new(*b"never kept").digest();
    let mut group = criterion.benchmark_group(name);
    group.bench_function("absent", |bencher| bencher.iter(|| cache.get(black_box(absent))));
    for (what, blob) in [("full chunk", full), ("small file", small)] {
        group.throughput(Throughput::Bytes(blob.bytes().len() as u64));
        group.bench_function(what, |bencher| {
            bencher.iter(|| cache.get(black_box(blob.digest())).expect("kept"));
        });
    }
    group.bench_function("keep a new one", |bencher| {
        let mut number = 0u64;
        bencher.iter_batched(
            || {
                number += 1;
                let mut bytes = vec![7; 9_000];
                bytes[..8].copy_from_slice(&number.to_le_bytes());
                Blob::new(bytes)
            },
            |blob| cache.put(&blob),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn memory(criterion: &mut Criterion) {
    lookups(criterion, "memory cache", &MemoryCache::new(LIMIT));
}

fn disk(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a directory");
    let cache = DiskCache::open(folder.path(), LIMIT).expect("an empty cache");
    lookups(criterion, "disk cache, in the page cache", &cache);
}

criterion_group!(benches, memory, disk);
criterion_main!(benches);
