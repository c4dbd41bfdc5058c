//! Blobs as files: `DATA/blobs/ab/cdef…`, each one frame.
//!
//! A blob is written and verified in `DATA/tmp`, synced, renamed into place, and its directory
//! synced, all before its upload is answered; so after a crash at any moment a name leads to a
//! whole blob or to none. A few blobs are synced one by one. The many of a batch are synced with
//! their filesystem as a whole, which costs two calls in place of one for each file and directory
//! (an export of 17,700 blobs made 26,000), at the price of waiting also for what other programs
//! wrote there just now.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use sway_core::api::blobs::UploadSummary;
use sway_core::blob::{FRAME_HEADER_LEN, FrameHeader};
use sway_core::digest::Digest;
use tempfile::TempPath;

use super::verify::Verifier;
use super::{Batch, BlobStore, Claim, StoreError, StoredBlob, UploadError};
use crate::data::{DataDir, sync_dir};

/// Blobs up to which a batch syncs each on its own.
const SYNC_EACH_MAX: usize = 16;

/// Blobs up to so many bytes are written at once.
const WRITE_LEN_MAX: usize = 1 << 20;

/// Blobs in a data directory.
#[derive(Debug)]
pub struct DiskStore {
    blobs: PathBuf,
    tmp: PathBuf,
    corrupt: PathBuf,
    /// Numbers of the files in `tmp`.
    next: AtomicU64,
}

impl DiskStore {
    /// The store of a data directory.
    pub fn open(data: &DataDir) -> Result<Self, StoreError> {
        let (blobs, tmp, corrupt) = (data.blobs(), data.tmp(), data.corrupt());
        let store = Self { blobs, tmp, corrupt, next: AtomicU64::new(0) };
        for first in 0..=255u8 {
            let shard = store.blobs.join(format!("{first:02x}"));
            fs::create_dir_all(&shard).map_err(StoreError::io("make a blob directory"))?;
        }
        sync_dir(&store.blobs).map_err(StoreError::io("sync the blob directory"))?;
        Ok(store)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.blobs.join(&hex[..2]).join(&hex[2..])
    }
}

impl BlobStore for DiskStore {
    fn contains(&self, digest: Digest) -> Result<bool, StoreError> {
        self.path(digest).try_exists().map_err(StoreError::io(format!("look for blob {digest}")))
    }

    fn open(&self, digest: Digest) -> Result<Option<StoredBlob>, StoreError> {
        let action = || StoreError::io(format!("read blob {digest}"));
        let mut file = match fs::File::open(self.path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(action()(error)),
        };
        let len = file.metadata().map_err(action())?.len();
        let mut bytes = [0u8; FRAME_HEADER_LEN];
        let header = match file.read_exact(&mut bytes) {
            Ok(()) => FrameHeader::from_bytes(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(action()(error)),
        };
        let fits = |header: &FrameHeader| {
            header.digest == digest
                && !header.is_missing()
                && FRAME_HEADER_LEN as u64 + u64::from(header.encoded_len) == len
        };
        match header.filter(fits) {
            Some(header) => Ok(Some(StoredBlob { header, encoded: Box::new(file) })),
            None => {
                tracing::error!(blob.digest = %digest, "stored blob has a broken frame; put aside");
                metrics::counter!("sway_fileserver_corrupt_blobs_total").increment(1);
                self.put_aside(digest)?;
                Ok(None)
            }
        }
    }

    fn batch(&self) -> Result<Box<dyn Batch + '_>, StoreError> {
        let sync = Sync::open(&self.blobs).map_err(StoreError::io("open the blob directory"))?;
        Ok(Box::new(DiskBatch {
            store: self,
            sync,
            verifier: Verifier::default(),
            staged: Vec::new(),
            bytes: 0,
        }))
    }

    fn put_aside(&self, digest: Digest) -> Result<(), StoreError> {
        match fs::rename(self.path(digest), self.corrupt.join(digest.to_hex())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(format!("put blob {digest} aside"))(error))
            }
            _ => Ok(()),
        }
    }
}

struct Staged {
    digest: Digest,
    /// Removes the file when it is dropped.
    file: TempPath,
}

struct DiskBatch<'a> {
    store: &'a DiskStore,
    sync: Sync,
    verifier: Verifier,
    staged: Vec<Staged>,
    bytes: u64,
}

impl DiskBatch<'_> {
    fn stage(
        &mut self,
        claim: Claim,
        encoded: &mut dyn Read,
    ) -> Result<(Staged, u64), UploadError> {
        let Claim { digest, lens } = claim;
        let action = || StoreError::io(format!("write blob {digest}"));
        let number = self.store.next.fetch_add(1, Ordering::Relaxed);
        let path = self.store.tmp.join(format!("blob-{number}"));
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(action())?;
        let path = TempPath::try_from_path(path).map_err(action())?;
        let claimed =
            lens.map(|(raw_len, encoded_len)| FrameHeader { digest, raw_len, encoded_len });
        let len = claimed.map_or(WRITE_LEN_MAX, |header| {
            FRAME_HEADER_LEN.saturating_add(header.encoded_len as usize)
        });
        let mut out = BufWriter::with_capacity(len.min(WRITE_LEN_MAX), file);
        // Without a claim, the header's place; what goes there is known once the blob is.
        let first = claimed.map_or([0; FRAME_HEADER_LEN], |header| header.to_bytes());
        out.write_all(&first).map_err(action())?;
        let header = self.verifier.copy(claim, encoded, &mut out)?;
        if claimed.is_none() {
            out.seek(io::SeekFrom::Start(0)).map_err(action())?;
            out.write_all(&header.to_bytes()).map_err(action())?;
        }
        out.flush().map_err(action())?;
        let len = FRAME_HEADER_LEN as u64 + u64::from(header.encoded_len);
        Ok((Staged { digest, file: path }, len))
    }
}

impl Batch for DiskBatch<'_> {
    fn add(&mut self, claim: Claim, encoded: &mut dyn Read) -> Result<(), UploadError> {
        let (staged, len) = self.stage(claim, encoded)?;
        self.staged.push(staged);
        self.bytes += len;
        Ok(())
    }

    fn size(&self) -> (usize, u64) {
        (self.staged.len(), self.bytes)
    }

    fn commit(self: Box<Self>) -> Result<UploadSummary, StoreError> {
        let mut summary = UploadSummary::default();
        let Self { store, sync, staged, .. } = *self;
        let files = staged.iter().map(|staged| &*staged.file);
        sync.all(files).map_err(StoreError::io("sync uploaded blobs"))?;
        let mut shards = BTreeSet::new();
        for staged in staged {
            let path = store.path(staged.digest);
            // Two uploads of one blob may both count it as new; both put the same bytes there.
            if path.exists() {
                summary.known += 1;
            } else {
                summary.stored += 1;
            }
            staged.file.persist(&path).map_err(|error| {
                StoreError::io(format!("store blob {}", staged.digest))(error.error)
            })?;
            shards.insert(path.parent().expect("a blob lies in a shard").to_owned());
        }
        let shards = shards.iter().map(|shard| &**shard);
        sync.all(shards).map_err(StoreError::io("sync blob directories"))?;
        Ok(summary)
    }
}

/// Makes what is written durable from the moment when it was made.
struct Sync {
    /// A filesystem tells of failed writes those who opened something of it before.
    #[cfg(target_os = "linux")]
    directory: fs::File,
}

impl Sync {
    #[cfg(target_os = "linux")]
    fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: fs::File::open(directory)? })
    }

    #[cfg(not(target_os = "linux"))]
    fn open(_: &Path) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Makes files or directories of the filesystem durable.
    fn all<'a>(&self, paths: impl ExactSizeIterator<Item = &'a Path>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if paths.len() > SYNC_EACH_MAX {
            return Ok(rustix::fs::syncfs(&self.directory)?);
        }
        paths.into_iter().try_for_each(|path| fs::File::open(path)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with the directory that it lives in.
    fn disk_store() -> (tempfile::TempDir, DataDir, DiskStore) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let store = DiskStore::open(&data).unwrap();
        (dir, data, store)
    }

    #[test]
    fn it_conforms() {
        let homes = std::cell::RefCell::new(Vec::new());
        super::super::conformance::check(|| {
            let (dir, data, store) = disk_store();
            homes.borrow_mut().push((dir, data));
            store
        });
        for (_, data) in homes.into_inner() {
            assert_eq!(fs::read_dir(data.tmp()).unwrap().count(), 0, "nothing is left over");
        }
    }

    fn upload(store: &DiskStore, raw: &[u8]) -> Digest {
        let encoded = sway_core::blob::encode(raw);
        let header = FrameHeader::new(Digest::of(raw), raw.len(), encoded.len());
        let mut batch = store.batch().unwrap();
        batch.add(header.into(), &mut &encoded[..]).unwrap();
        batch.commit().unwrap();
        header.digest
    }

    #[test]
    fn any_flipped_byte_is_found_put_aside_and_healed_by_an_upload() {
        let (_dir, data, store) = disk_store();
        let raw = b"some bytes, some bytes, some other bytes".repeat(3);
        let digest = upload(&store, &raw);
        let path = store.path(digest);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            match store.open_verified(digest).unwrap() {
                // A few bits of a zstd header mean nothing; then the content is still right.
                Some(stored) => assert_eq!(stored.header.digest, digest),
                None => {
                    assert!(!path.exists());
                    assert!(data.corrupt().join(digest.to_hex()).exists());
                }
            }
            upload(&store, &raw);
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }

    #[test]
    fn a_cut_file_is_not_there() {
        let (_dir, _data, store) = disk_store();
        let digest = upload(&store, b"whole");
        for len in [30, 10, 0] {
            upload(&store, b"whole");
            fs::OpenOptions::new()
                .write(true)
                .open(store.path(digest))
                .unwrap()
                .set_len(len)
                .unwrap();
            assert!(store.open(digest).unwrap().is_none());
            assert!(!store.contains(digest).unwrap());
        }
    }
}
