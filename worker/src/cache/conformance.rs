//! What every [`ChunkCache`] has to do.

use sway_core::blob::Blob;
use sway_core::digest::Digest;

use super::ChunkCache;

/// Blobs of 1,000 bytes that differ.
pub(super) fn blob(number: u32) -> Blob {
    let mut bytes = vec![0xa5; 1000];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Blob::new(bytes)
}

/// Runs all checks on caches that `make` makes with a bound of so many bytes.
pub(super) fn suite<C: ChunkCache>(make: impl Fn(u64) -> C) {
    what_is_put_is_got(&make(1 << 20));
    what_was_not_put_is_a_miss(&make(1 << 20));
    putting_twice_keeps_one(&make(1 << 20));
    an_empty_blob_is_a_blob(&make(1 << 20));
    the_bound_holds(&make(256 << 10));
    what_is_used_outlives_what_is_not(&make(256 << 10));
    threads_may_share_it(&make(1 << 20));
}

fn what_is_put_is_got(cache: &impl ChunkCache) {
    for number in 0..10 {
        cache.put(&blob(number));
    }
    for number in 0..10 {
        assert_eq!(cache.get(blob(number).digest()), Some(blob(number)));
    }
}

fn what_was_not_put_is_a_miss(cache: &impl ChunkCache) {
    assert_eq!(cache.get(Digest::of(b"never")), None);
}

fn putting_twice_keeps_one(cache: &impl ChunkCache) {
    cache.put(&blob(1));
    let size = cache.size_bytes();
    cache.put(&blob(1));
    assert_eq!(cache.size_bytes(), size);
    assert!((1000..10_000).contains(&size), "{size}");
}

fn an_empty_blob_is_a_blob(cache: &impl ChunkCache) {
    let empty = Blob::new(*b"");
    cache.put(&empty);
    assert_eq!(cache.get(empty.digest()), Some(empty));
}

fn the_bound_holds(cache: &impl ChunkCache) {
    for number in 0..2000 {
        cache.put(&blob(number));
    }
    assert!(cache.size_bytes() <= 256 << 10, "{}", cache.size_bytes());
    let kept = (0..2000).filter(|&number| cache.get(blob(number).digest()).is_some()).count();
    assert!((50..=262).contains(&kept), "{kept}");
}

fn what_is_used_outlives_what_is_not(cache: &impl ChunkCache) {
    let favourite = blob(0);
    cache.put(&favourite);
    for number in 1..2000 {
        assert_eq!(cache.get(favourite.digest()).as_ref(), Some(&favourite), "{number}");
        cache.put(&blob(number));
    }
}

fn threads_may_share_it(cache: &impl ChunkCache) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for number in 0..100 {
                    let blob = blob(number * 4 + thread % 2);
                    cache.put(&blob);
                    assert_eq!(cache.get(blob.digest()), Some(blob));
                }
            });
        }
    });
}
