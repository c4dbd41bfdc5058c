//! Where blobs rest. A blob is stored as its frame (`docs/format.md`): header and encoded bytes,
//! so that a stored blob is sent as it lies.
//!
//! Bytes are verified once, while they come in (`verify`): decompressed as they stream by, hashed
//! with collision detection, held to their declared length. A store makes a batch of verified blobs
//! durable as a whole. Stores are synchronous and are called on blocking threads.

pub mod disk;
mod packs;
pub mod memory;
mod verify;
#[cfg(test)]
mod conformance;

use std::fmt;
use std::io::{self, Read, Seek};

use sway_core::api::blobs::UploadSummary;
use sway_core::blob::{BlobError, FrameHeader};
use sway_core::digest::Digest;

use verify::Verifier;

/// A store that fails.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The medium.
    #[error("can't {action}")]
    Io {
        /// What was tried, on what.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl StoreError {
    /// Wraps an error of the medium.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Whether the medium is full.
    pub fn is_full(&self) -> bool {
        let Self::Io { source, .. } = self;
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Bytes that are not taken into a store.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// They are not the blob that they are said to be.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// They hash right, but were made to collide.
    #[error("blob {0} is part of a known kind of SHA-1 collision")]
    Collision(Digest),
    /// Not as long as said.
    #[error("blob {digest} has {actual} {form} bytes; {declared} were declared")]
    Length {
        /// The blob.
        digest: Digest,
        /// `raw` or `encoded`.
        form: &'static str,
        /// What its frame says.
        declared: u64,
        /// What it has.
        actual: u64,
    },
    /// Compressed to more than it was; only raw bytes are stored then.
    #[error("blob {0} is longer compressed than raw")]
    Inflated(Digest),
    /// The sender went away, or stopped sending.
    #[error("the upload broke off")]
    Broken(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a sender says about a blob.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Its name.
    pub digest: Digest,
    /// Raw bytes and encoded bytes, where the sender has to say.
    pub lens: Option<(u32, u32)>,
}

impl From<FrameHeader> for Claim {
    fn from(header: FrameHeader) -> Self {
        Self { digest: header.digest, lens: Some((header.raw_len, header.encoded_len)) }
    }
}

/// A stored blob, ready to be read.
pub struct StoredBlob {
    /// Its frame's header.
    pub header: FrameHeader,
    /// Its encoded bytes.
    pub encoded: Box<dyn ReadSeek + Send>,
}

/// Bytes of which a part can be left out without reading it.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek + ?Sized> ReadSeek for T {}

impl fmt::Debug for StoredBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredBlob").field("header", &self.header).finish_non_exhaustive()
    }
}

/// A place for blobs.
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Whether the blob is there, by a look at its name.
    fn contains(&self, digest: Digest) -> Result<bool, StoreError>;

    /// Opens a blob for reading; none if it is not there. One whose frame is visibly broken is
    /// put aside and not there.
    fn open(&self, digest: Digest) -> Result<Option<StoredBlob>, StoreError>;

    /// Starts a batch of uploads.
    fn batch(&self) -> Result<Box<dyn Batch + '_>, StoreError>;

    /// Moves a blob out of the way of a good copy.
    fn put_aside(&self, digest: Digest) -> Result<(), StoreError>;

    /// Opens a blob whose stored bytes are good; one that is not is put aside and not there.
    fn open_verified(&self, digest: Digest) -> Result<Option<StoredBlob>, StoreError> {
        let Some(mut stored) = self.open(digest)? else {
            return Ok(None);
        };
        let claim = Claim::from(stored.header);
        match Verifier::default().copy(claim, &mut stored.encoded, &mut io::sink()) {
            Ok(_) => self.open(digest),
            Err(reason) => {
                tracing::error!(blob.digest = %digest, %reason, "stored blob is corrupt; put aside");
                metrics::counter!("sway_fileserver_corrupt_blobs_total").increment(1);
                self.put_aside(digest)?;
                Ok(None)
            }
        }
    }
}

/// Uploads that become durable together. What is not committed leaves nothing behind.
pub trait Batch {
    /// Takes one blob: reads `encoded` to its end and verifies it.
    fn add(&mut self, claim: Claim, encoded: &mut dyn Read) -> Result<(), UploadError>;

    /// Blobs and bytes taken so far.
    fn size(&self) -> (usize, u64);

    /// Stores all of them for good. One that was there is replaced, which heals a copy that
    /// went bad and changes nothing about a good one.
    fn commit(self: Box<Self>) -> Result<UploadSummary, StoreError>;
}
