//! Blobs in memory: for tests of what stands on a store.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sway_core::api::blobs::UploadSummary;
use sway_core::blob::FrameHeader;
use sway_core::digest::Digest;

use super::verify::Verifier;
use super::{Batch, BlobStore, Claim, StoreError, StoredBlob, UploadError};

type Table = HashMap<Digest, (FrameHeader, Arc<[u8]>)>;

/// Forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Table>);

impl MemoryStore {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobStore for MemoryStore {
    fn contains(&self, digest: Digest) -> Result<bool, StoreError> {
        Ok(self.table().contains_key(&digest))
    }

    fn open(&self, digest: Digest) -> Result<Option<StoredBlob>, StoreError> {
        let found = self.table().get(&digest).cloned();
        Ok(found.map(|(header, encoded)| StoredBlob {
            header,
            encoded: Box::new(Cursor::new(encoded)),
        }))
    }

    fn batch(&self) -> Result<Box<dyn Batch + '_>, StoreError> {
        Ok(Box::new(MemoryBatch { store: self, blobs: Vec::new() }))
    }

    fn put_aside(&self, digest: Digest) -> Result<(), StoreError> {
        self.table().remove(&digest);
        Ok(())
    }
}

struct MemoryBatch<'a> {
    store: &'a MemoryStore,
    blobs: Vec<(FrameHeader, Vec<u8>)>,
}

impl Batch for MemoryBatch<'_> {
    fn add(&mut self, claim: Claim, encoded: &mut dyn Read) -> Result<(), UploadError> {
        let mut bytes = Vec::new();
        let header = Verifier::default().copy(claim, encoded, &mut bytes)?;
        self.blobs.push((header, bytes));
        Ok(())
    }

    fn size(&self) -> (usize, u64) {
        (self.blobs.len(), self.blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum())
    }

    fn commit(self: Box<Self>) -> Result<UploadSummary, StoreError> {
        let mut summary = UploadSummary::default();
        let mut table = self.store.table();
        for (header, bytes) in self.blobs {
            match table.insert(header.digest, (header, bytes.into())) {
                None => summary.stored += 1,
                Some(_) => summary.known += 1,
            }
        }
        Ok(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_conforms() {
        super::super::conformance::check(MemoryStore::default);
    }
}
