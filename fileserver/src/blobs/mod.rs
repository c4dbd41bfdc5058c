//! Where blobs rest. A blob is stored as its frame (`docs/format.md`): header and encoded bytes,
//! so that a stored blob is sent as it lies.
//!
//! Bytes are verified once, while they come in (`verified_copy`): decompressed as they stream
//! by, hashed with collision detection, held to their declared length. A store makes a batch of
//! verified blobs durable as a whole. Stores are synchronous and are called on blocking threads.

pub mod disk;
pub mod memory;
#[cfg(test)]
mod conformance;

use std::fmt;
use std::io::{self, Read, Seek, Write};

use sha1_checked::{Digest as _, Sha1};
use sway_core::api::blobs::UploadSummary;
use sway_core::blob::{self, BLOB_LEN_MAX, BlobError, FrameHeader};
use sway_core::digest::Digest;

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
        match verified_copy(claim, &mut stored.encoded, &mut io::sink()) {
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

/// Copies an encoded blob from `encoded` to `out` and verifies it on the way, in constant memory.
/// `encoded` must end where the blob does. Returns its header.
pub(crate) fn verified_copy(
    claim: Claim,
    encoded: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<FrameHeader, UploadError> {
    let Claim { digest, lens } = claim;
    let raw_len_max = lens.map_or(BLOB_LEN_MAX, |(raw_len, _)| raw_len as usize);
    // One byte more tells a blob that is too long from one that just fits.
    let mut tee = Tee { from: encoded, to: out, copied: 0, read: None, write: None };
    let mut hasher = Sha1::builder().safe_hash(false).build();
    let copied = (|| {
        let mut raw = blob::decoder(digest, &mut tee)?.take(raw_len_max as u64 + 1);
        let raw_len = io::copy(&mut raw, &mut HashInto(&mut hasher))
            .map_err(|error| BlobError::Malformed { digest, reason: error.to_string() })?;
        if raw_len > raw_len_max as u64 {
            return Err(BlobError::TooLong { digest, limit: raw_len_max });
        }
        Ok(u32::try_from(raw_len).expect("a blob is at most 64 MiB"))
    })();
    if let Some(error) = tee.write {
        return Err(StoreError::io(format!("write blob {digest}"))(error).into());
    }
    if let Some(error) = tee.read {
        return Err(UploadError::Broken(error));
    }
    let encoded_len = tee.copied;
    let raw_len = copied?;
    let result = hasher.try_finalize();
    let mut actual = [0u8; 20];
    actual.copy_from_slice(result.hash());
    let actual = Digest::from_bytes(actual);
    if result.has_collision() {
        return Err(UploadError::Collision(digest));
    }
    if actual != digest {
        return Err(BlobError::Mismatch { expected: digest, actual }.into());
    }
    if let Some((raw_declared, encoded_declared)) = lens {
        for (form, declared, actual) in [
            ("raw", u64::from(raw_declared), u64::from(raw_len)),
            ("encoded", u64::from(encoded_declared), encoded_len),
        ] {
            if declared != actual {
                return Err(UploadError::Length { digest, form, declared, actual });
            }
        }
    }
    match u32::try_from(encoded_len) {
        Ok(encoded_len) if encoded_len <= raw_len + 1 => {
            Ok(FrameHeader { digest, raw_len, encoded_len })
        }
        _ => Err(UploadError::Inflated(digest)),
    }
}

/// Hands on what it reads, with a copy for someone else; remembers whose fault an error was.
struct Tee<'a> {
    from: &'a mut dyn Read,
    to: &'a mut dyn Write,
    copied: u64,
    read: Option<io::Error>,
    write: Option<io::Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = match self.from.read(out) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let again = io::Error::new(error.kind(), error.to_string());
                self.read = Some(error);
                return Err(again);
            }
        };
        if let Err(error) = self.to.write_all(&out[..n]) {
            let again = io::Error::new(error.kind(), error.to_string());
            self.write = Some(error);
            return Err(again);
        }
        self.copied += n as u64;
        Ok(n)
    }
}

struct HashInto<'a>(&'a mut Sha1);

impl Write for HashInto<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
