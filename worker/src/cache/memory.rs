//! Chunks in memory, bounded by bytes.

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sway_core::blob::Blob;
use sway_core::digest::Digest;

use super::ChunkCache;

/// What an entry costs beside its bytes: map slot, digest, reference counts.
const ENTRY_OVERHEAD: u64 = 128;

/// Chunk length by which the number of entries is estimated: small files are many.
const TYPICAL_LEN: u64 = 32 << 10;

/// Chunks in memory. Keeps those that are used again over those that are read once (S3-FIFO).
#[derive(Debug)]
pub struct MemoryCache {
    blobs: Cache<Digest, Blob, ByLen>,
}

#[derive(Clone, Debug)]
struct ByLen;

impl Weighter<Digest, Blob> for ByLen {
    fn weight(&self, _: &Digest, blob: &Blob) -> u64 {
        blob.bytes().len() as u64 + ENTRY_OVERHEAD
    }
}

impl MemoryCache {
    /// A cache of at most `limit` bytes; 0 keeps nothing.
    pub fn new(limit: u64) -> Self {
        let typical_count = usize::try_from(limit / TYPICAL_LEN).unwrap_or(usize::MAX).max(16);
        Self { blobs: Cache::with_weighter(typical_count, limit, ByLen) }
    }
}

impl ChunkCache for MemoryCache {
    fn get(&self, digest: Digest) -> Option<Blob> {
        self.blobs.get(&digest)
    }

    fn put(&self, blob: &Blob) {
        self.blobs.insert(blob.digest(), blob.clone());
    }

    fn size_bytes(&self) -> u64 {
        self.blobs.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn the_memory_cache_conforms() {
        conformance::suite(MemoryCache::new);
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let cache = MemoryCache::new(0);
        let blob = Blob::new(*b"bytes");
        cache.put(&blob);
        assert_eq!(cache.get(blob.digest()), None);
    }
}
