//! Blobs as files: `DATA/blobs/ab/cdef…`, each one frame, and packs (`packs`) with the many small
//! ones of an image.
//!
//! A blob is written and verified in `DATA/tmp`, synced, renamed into place, and its directory
//! synced, all before its upload is answered; so after a crash at any moment a name leads to a
//! whole blob or to none. A few blobs are synced one by one. Many large ones are synced with
//! their filesystem as a whole, which costs two calls in place of one for each file and directory,
//! at the price of waiting also for what other programs wrote there just now.
//!
//! Where a blob has a file of its own and is in a pack, the pack's copy counts. Whoever stores it
//! as a file strikes it from the pack, and nobody removes the file: two uploads at once can't
//! remove each other's copy.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use sway_core::api::blobs::UploadSummary;
use sway_core::blob::{FRAME_HEADER_LEN, FrameHeader};
use sway_core::chunk::CHUNK_LEN;
use sway_core::digest::Digest;
use tempfile::TempPath;

use super::packs::{Found, NewPack, Packs};
use super::verify::Verifier;
use super::{Batch, BlobStore, Claim, StoreError, StoredBlob, UploadError};
use crate::data::{DataDir, sync_dir};

/// Blobs up to which a batch gives each a file of its own, and syncs each on its own.
const FILES_MAX: usize = 16;

/// An encoded blob of at most so many bytes goes into a pack where it is one of many: whatever a
/// chunk can be.
const PACKED_LEN_MAX: u32 = CHUNK_LEN + 1;

/// Blobs up to so many bytes are written at once.
const WRITE_LEN_MAX: usize = 1 << 20;

/// Blobs in a data directory.
#[derive(Debug)]
pub struct DiskStore {
    blobs: PathBuf,
    tmp: PathBuf,
    corrupt: PathBuf,
    packs: Packs,
    /// Blobs of a batch before packing begins: [`FILES_MAX`].
    files_max: usize,
    /// Numbers of the files in `tmp`.
    next: AtomicU64,
}

impl DiskStore {
    /// The store of a data directory.
    pub fn open(data: &DataDir) -> Result<Self, StoreError> {
        let (blobs, tmp, corrupt) = (data.blobs(), data.tmp(), data.corrupt());
        let packs = Packs::open(data.packs(), &corrupt)?;
        let next = AtomicU64::new(0);
        let store = Self { blobs, tmp, corrupt, packs, files_max: FILES_MAX, next };
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

    /// Where a bad copy goes.
    fn aside(&self, digest: Digest) -> PathBuf {
        self.corrupt.join(digest.to_hex())
    }

    /// A new name in `tmp`.
    fn temporary(&self, kind: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.tmp.join(format!("{kind}-{number}"))
    }
}

impl BlobStore for DiskStore {
    fn contains(&self, digest: Digest) -> Result<bool, StoreError> {
        if self.packs.contains(digest) {
            return Ok(true);
        }
        self.path(digest).try_exists().map_err(StoreError::io(format!("look for blob {digest}")))
    }

    fn open(&self, digest: Digest) -> Result<Option<StoredBlob>, StoreError> {
        let action = || StoreError::io(format!("read blob {digest}"));
        match self.packs.find(digest).map_err(action())? {
            Found::Blob(stored) => return Ok(Some(stored)),
            Found::Broken => {
                report_broken(digest);
                let aside = self.aside(digest);
                self.packs.strike(digest, Some(&aside)).map_err(action())?;
                return Ok(None);
            }
            Found::Absent => {}
        }
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
                report_broken(digest);
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
            pack: None,
            bytes: 0,
        }))
    }

    fn put_aside(&self, digest: Digest) -> Result<(), StoreError> {
        let aside = self.aside(digest);
        let putting = match self.packs.strike(digest, Some(&aside)) {
            Ok(false) => fs::rename(self.path(digest), aside),
            struck => struck.map(drop),
        };
        match putting {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(format!("put blob {digest} aside"))(error))
            }
            _ => Ok(()),
        }
    }
}

fn report_broken(digest: Digest) {
    tracing::error!(blob.digest = %digest, "stored blob has a broken frame; put aside");
    metrics::counter!("sway_fileserver_corrupt_blobs_total").increment(1);
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
    pack: Option<NewPack>,
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
        let path = self.store.temporary("blob");
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
        let Claim { digest, lens } = claim;
        self.bytes += match lens {
            Some((raw_len, encoded_len))
                if encoded_len <= PACKED_LEN_MAX && self.staged.len() >= self.store.files_max =>
            {
                let header = FrameHeader { digest, raw_len, encoded_len };
                let pack = match &mut self.pack {
                    Some(pack) => pack,
                    none => none.insert(
                        NewPack::create(self.store.temporary("pack"))
                            .map_err(StoreError::io("make a pack"))?,
                    ),
                };
                pack.add(&mut self.verifier, header, encoded)?
            }
            _ => {
                let (staged, len) = self.stage(claim, encoded)?;
                self.staged.push(staged);
                len
            }
        };
        Ok(())
    }

    fn size(&self) -> (usize, u64) {
        (self.staged.len() + self.pack.as_ref().map_or(0, NewPack::len), self.bytes)
    }

    fn commit(self: Box<Self>) -> Result<UploadSummary, StoreError> {
        let mut summary = UploadSummary::default();
        let Self { store, sync, staged, pack, .. } = *self;
        let pack = pack.filter(|pack| pack.len() > 0);
        // Two uploads of one blob may both count it as new; both put the same bytes there.
        let mut count = |digest| {
            match store.packs.contains(digest) || store.path(digest).exists() {
                true => summary.known += 1,
                false => summary.stored += 1,
            };
        };
        staged.iter().for_each(|staged| count(staged.digest));
        pack.iter().flat_map(NewPack::digests).for_each(count);

        let pack = pack.map(NewPack::finish).transpose().map_err(StoreError::io("write a pack"))?;
        let files = staged.iter().map(|staged| &*staged.file);
        sync.all(files).map_err(StoreError::io("sync uploaded blobs"))?;
        let mut shards = BTreeSet::new();
        let mut struck = Vec::new();
        for Staged { digest, file } in staged {
            let path = store.path(digest);
            file.persist(&path)
                .map_err(|error| StoreError::io(format!("store blob {digest}"))(error.error))?;
            shards.insert(path.parent().expect("a blob lies in a shard").to_owned());
            struck.push(digest);
        }
        let shards = shards.iter().map(|shard| &**shard);
        sync.all(shards).map_err(StoreError::io("sync blob directories"))?;
        for digest in struck {
            store
                .packs
                .strike(digest, None)
                .map_err(StoreError::io(format!("strike blob {digest} from its pack")))?;
        }
        if let Some(pack) = pack {
            store.packs.publish(pack).map_err(StoreError::io("store a pack"))?;
        }
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
        if paths.len() > FILES_MAX {
            return Ok(rustix::fs::syncfs(&self.directory)?);
        }
        paths.into_iter().try_for_each(|path| fs::File::open(path)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with the directory that it lives in. With `files_max`, blobs of a batch beyond so
    /// many are packed.
    fn disk_store(files_max: usize) -> (tempfile::TempDir, DataDir, DiskStore) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let store = DiskStore { files_max, ..DiskStore::open(&data).unwrap() };
        (dir, data, store)
    }

    /// Every blob in a file of its own, and every one in a pack.
    const ALL_FILES_ALL_PACKED: [usize; 2] = [usize::MAX, 0];

    #[test]
    fn it_conforms() {
        for files_max in [FILES_MAX, 0] {
            let homes = std::cell::RefCell::new(Vec::new());
            super::super::conformance::check(|| {
                let (dir, data, store) = disk_store(files_max);
                homes.borrow_mut().push((dir, data));
                store
            });
            for (_, data) in homes.into_inner() {
                assert_eq!(fs::read_dir(data.tmp()).unwrap().count(), 0, "nothing is left over");
            }
        }
    }

    fn upload(store: &DiskStore, raws: &[&[u8]]) -> UploadSummary {
        let mut batch = store.batch().unwrap();
        for raw in raws {
            let encoded = sway_core::blob::encode(raw);
            let header = FrameHeader::new(Digest::of(raw), raw.len(), encoded.len());
            batch.add(header.into(), &mut &encoded[..]).unwrap();
        }
        batch.commit().unwrap()
    }

    fn is_good(store: &DiskStore, digest: Digest) -> bool {
        store.open_verified(digest).unwrap().is_some()
    }

    #[test]
    fn any_flipped_byte_is_found_put_aside_and_healed_by_an_upload() {
        let raw = b"some bytes, some bytes, some other bytes".repeat(3);
        let digest = Digest::of(&raw);
        let len = FRAME_HEADER_LEN + sway_core::blob::encode(&raw).len();
        for files_max in ALL_FILES_ALL_PACKED {
            let (_dir, data, store) = disk_store(files_max);
            // Every upload makes a pack.
            let path = |uploads: usize| match files_max {
                0 => data.packs().join(uploads.to_string()),
                _ => store.path(digest),
            };
            upload(&store, &[&raw]);
            let good = fs::read(path(0)).unwrap();
            for at in 0..len {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                fs::write(path(at), &bad).unwrap();
                match store.open_verified(digest).unwrap() {
                    // A few bits of a zstd header mean nothing; then the content is still right.
                    Some(stored) => assert_eq!(stored.header.digest, digest),
                    None => {
                        assert!(!store.contains(digest).unwrap());
                        let aside = fs::read(data.corrupt().join(digest.to_hex())).unwrap();
                        assert_eq!(aside, bad[..len]);
                    }
                }
                upload(&store, &[&raw]);
                assert_eq!(fs::read(path(at + 1)).unwrap(), good);
                assert!(is_good(&store, digest));
            }
        }
    }

    #[test]
    fn a_server_that_starts_again_finds_what_was_packed_and_not_what_was_put_aside() {
        let (_dir, data, store) = disk_store(0);
        let raws = [&b"one"[..], b"two", b"three"];
        let digests = raws.map(Digest::of);
        assert_eq!(upload(&store, &raws), UploadSummary { stored: 3, known: 0 });
        store.put_aside(digests[1]).unwrap();
        let store = DiskStore { files_max: 0, ..DiskStore::open(&data).unwrap() };
        assert_eq!(digests.map(|digest| is_good(&store, digest)), [true, false, true]);
        assert_eq!(upload(&store, &raws), UploadSummary { stored: 1, known: 2 });
        let store = DiskStore::open(&data).unwrap();
        assert_eq!(digests.map(|digest| is_good(&store, digest)), [true; 3]);
    }

    #[test]
    fn the_copy_that_came_last_counts_whether_packed_or_not() {
        let digest = Digest::of(b"raw");
        for [before, after] in [[0, usize::MAX], [usize::MAX, 0], [0, 0]] {
            let (_dir, data, store) = disk_store(before);
            upload(&store, &[b"raw"]);
            let path = if before == 0 { data.packs().join("0") } else { store.path(digest) };
            let mut bytes = fs::read(&path).unwrap();
            bytes[FRAME_HEADER_LEN + 1] ^= 1;
            fs::write(&path, bytes).unwrap();
            let store = DiskStore { files_max: after, ..store };
            assert_eq!(upload(&store, &[b"raw"]), UploadSummary { stored: 0, known: 1 });
            assert!(is_good(&store, digest));
            assert!(is_good(&DiskStore::open(&data).unwrap(), digest));
        }
    }

    #[test]
    fn a_pack_whose_index_is_damaged_lies_about_no_blob_and_an_upload_heals_it() {
        let (_dir, data, store) = disk_store(0);
        let raws = [&b"one"[..], b"two", b"three"];
        let digests = raws.map(Digest::of);
        upload(&store, &raws);
        let path = data.packs().join("0");
        let good = fs::read(&path).unwrap();
        let frames_len: usize = raws.iter().map(|raw| FRAME_HEADER_LEN + 1 + raw.len()).sum();
        for at in frames_len..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, bad).unwrap();
            let store = DiskStore { files_max: 0, ..DiskStore::open(&data).unwrap() };
            let found = digests.map(|digest| is_good(&store, digest));
            assert!(found.contains(&false), "byte {at} matters");
            upload(&store, &raws);
            assert_eq!(digests.map(|digest| is_good(&store, digest)), [true; 3], "byte {at}");
            for pack in fs::read_dir(data.packs()).unwrap() {
                fs::remove_file(pack.unwrap().path()).unwrap();
            }
        }
        // Half a pack is none.
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        let store = DiskStore::open(&data).unwrap();
        assert_eq!(digests.map(|digest| store.contains(digest).unwrap()), [false; 3]);
        assert!(data.corrupt().join("pack-0").exists());
    }

    #[test]
    fn a_cut_file_is_not_there() {
        let (_dir, _data, store) = disk_store(FILES_MAX);
        let digest = Digest::of(b"whole");
        for len in [30, 10, 0] {
            upload(&store, &[b"whole"]);
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
