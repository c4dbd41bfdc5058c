//! Keeps chunks near: in memory, then on disk.
//!
//! A [`ChunkCache`] holds verified blobs by digest, within a bound of bytes; [`MemoryCache`] and
//! [`DiskCache`] are two, and pass one suite of tests (`conformance`). [`Chunks`] stacks them over
//! the fileserver and is what readers ask. Caches belong to the worker, never to one job; a cache
//! that fails (a full disk, a flipped bit) is a miss and never an error of a read.

mod disk;
mod memory;
mod tiered;

use std::fmt::Debug;

use sway_core::blob::Blob;
use sway_core::digest::Digest;

pub use disk::{DiskCache, DiskCacheError};
pub use memory::MemoryCache;
pub use tiered::{Chunks, ChunksConfig, Part};

/// Blobs by digest, within a bound of bytes. Calls may block on the disk.
pub trait ChunkCache: Debug + Send + Sync {
    /// The blob, if it is here and its bytes are still right.
    fn get(&self, digest: Digest) -> Option<Blob>;

    /// Keeps a blob for as long as there is room. May keep nothing.
    fn put(&self, blob: &Blob);

    /// Bytes that are kept, as far as they are known.
    fn size_bytes(&self) -> u64;
}

#[cfg(test)]
mod conformance;
