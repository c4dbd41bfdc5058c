//! Many blobs in one file: `DATA/packs/N`.
//!
//! An image's blobs come by the thousand and are small: a file for each costs more time than
//! checking its bytes. A pack has their frames one after the other, and behind them an index
//! (`docs/format.md`). It is written once, by one batch; the indexes of all packs are held in
//! memory, about 80 bytes for each blob. A blob that is put aside is struck from its pack's index
//! and its bytes stay; where several packs have a blob, the last one's copy counts.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fs_err as fs;
use fs_err::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use sway_core::blob::{FRAME_HEADER_LEN, FrameHeader};
use sway_core::digest::{DIGEST_LEN, Digest};
use tempfile::TempPath;

use super::verify::Verifier;
use super::{Claim, StoreError, StoredBlob, UploadError};
use crate::data::sync_dir;

const MAGIC: &[u8; 8] = b"SWAYPAK\0";
const VERSION: u32 = 1;

/// Bytes of an entry of the index: a digest, a position, a length.
const ENTRY_LEN: usize = DIGEST_LEN + 12;

/// Bytes behind the index: its number of entries, version, magic.
const TRAILER_LEN: usize = 16;

/// The digest of an entry that was struck.
const STRUCK: Digest = Digest::from_bytes([0; DIGEST_LEN]);

/// Bytes that are written at a time.
const BUFFER_LEN: usize = 1 << 20;

/// The packs of a data directory.
#[derive(Debug)]
pub(super) struct Packs {
    directory: PathBuf,
    places: RwLock<HashMap<Digest, Place>>,
    /// The number of the next pack.
    next: AtomicU32,
}

/// What the packs have under a digest.
#[derive(Debug)]
pub(super) enum Found {
    Absent,
    /// A visibly broken frame.
    Broken,
    Blob(StoredBlob),
}

/// Where a blob's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    pack: u32,
    /// The number of its entry in the pack's index.
    entry: u32,
    /// Bytes before the frame.
    position: u64,
    /// Bytes of the frame.
    len: u32,
}

impl Packs {
    /// Reads the indexes of all packs. A pack without a sound one is moved to `corrupt`.
    pub(super) fn open(directory: PathBuf, corrupt: &Path) -> Result<Self, StoreError> {
        let action = || StoreError::io(format!("read the packs in {}", directory.display()));
        let mut numbers = Vec::new();
        for file in fs::read_dir(&directory).map_err(action())? {
            let name = file.map_err(action())?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        // The last one's copy of a blob counts.
        numbers.sort_unstable();
        let next = AtomicU32::new(numbers.last().map_or(0, |last| last + 1));
        let packs = Self { directory, places: RwLock::default(), next };
        for number in numbers {
            let action = || StoreError::io(format!("read pack {number}"));
            match packs.read_index(number).map_err(action())? {
                Some(index) => packs.write().extend(index),
                None => {
                    tracing::error!(pack = number, "a pack has a broken index; put aside");
                    metrics::counter!("sway_fileserver_corrupt_packs_total").increment(1);
                    let aside = corrupt.join(format!("pack-{number}"));
                    fs::rename(packs.path(number), aside).map_err(action())?;
                }
            }
        }
        Ok(packs)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(number.to_string())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Digest, Place>> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Digest, Place>> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pack has; none where its index can't be read.
    fn read_index(&self, pack: u32) -> io::Result<Option<Vec<(Digest, Place)>>> {
        let file = fs::File::open(self.path(pack))?;
        let Some(Bounds { start, count }) = Bounds::of(&file)? else {
            return Ok(None);
        };
        let mut bytes = vec![0; count as usize * ENTRY_LEN];
        file.read_exact_at(&mut bytes, start)?;
        let entries = bytes.chunks_exact(ENTRY_LEN).zip(0..);
        let places = entries.filter_map(|(bytes, entry)| {
            let (digest, rest) = bytes.split_first_chunk()?;
            let (position, len) = rest.split_first_chunk()?;
            let position = u64::from_le_bytes(*position);
            let len = u32::from_le_bytes(len.try_into().ok()?);
            let is_inside = position.checked_add(len.into()).is_some_and(|end| end <= start);
            let digest = Digest::from_bytes(*digest);
            (digest != STRUCK && is_inside)
                .then_some((digest, Place { pack, entry, position, len }))
        });
        Ok(Some(places.collect()))
    }

    /// Whether a pack has the blob.
    pub(super) fn contains(&self, digest: Digest) -> bool {
        self.read().contains_key(&digest)
    }

    /// Opens a blob.
    pub(super) fn find(&self, digest: Digest) -> io::Result<Found> {
        let Some(place) = self.read().get(&digest).copied() else {
            return Ok(Found::Absent);
        };
        let file = fs::File::open(self.path(place.pack))?;
        let mut bytes = [0u8; FRAME_HEADER_LEN];
        file.read_exact_at(&mut bytes, place.position)?;
        let fits = |header: &FrameHeader| {
            header.digest == digest
                && !header.is_missing()
                && FRAME_HEADER_LEN as u64 + u64::from(header.encoded_len) == u64::from(place.len)
        };
        Ok(match FrameHeader::from_bytes(&bytes).ok().filter(fits) {
            None => Found::Broken,
            Some(header) => {
                let start = place.position + FRAME_HEADER_LEN as u64;
                let encoded = Section { file, start, len: header.encoded_len.into(), at: 0 };
                Found::Blob(StoredBlob { header, encoded: Box::new(encoded) })
            }
        })
    }

    /// Strikes a blob from its pack; a copy of its frame goes to `aside`, where one is wanted.
    /// Tells whether a pack had it.
    pub(super) fn strike(&self, digest: Digest, aside: Option<&Path>) -> io::Result<bool> {
        let Some(place) = self.write().remove(&digest) else {
            return Ok(false);
        };
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path(place.pack))?;
        if let Some(aside) = aside {
            let mut frame = vec![0; place.len as usize];
            file.read_exact_at(&mut frame, place.position)?;
            fs::write(aside, frame)?;
        }
        if let Some(Bounds { start, .. }) = Bounds::of(&file)? {
            let entry = start + u64::from(place.entry) * ENTRY_LEN as u64;
            file.write_all_at(STRUCK.as_bytes(), entry)?;
            file.sync_all()?;
        }
        Ok(true)
    }

    /// Gives a pack whose bytes are durable its place; its blobs are there for good once this
    /// returns.
    pub(super) fn publish(&self, pack: DurablePack) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        pack.file.persist(self.path(number)).map_err(|error| error.error)?;
        sync_dir(&self.directory)?;
        let places = pack.entries.into_iter().zip(0..).map(|(found, entry)| {
            let Entry { digest, position, len } = found;
            (digest, Place { pack: number, entry, position, len })
        });
        self.write().extend(places);
        Ok(())
    }
}

/// Where a pack's index is.
struct Bounds {
    /// Bytes before it.
    start: u64,
    /// Entries.
    count: u32,
}

impl Bounds {
    /// None where the trailer is not what it should be.
    fn of(file: &fs::File) -> io::Result<Option<Self>> {
        let len = file.metadata()?.len();
        let Some(end) = len.checked_sub(TRAILER_LEN as u64) else {
            return Ok(None);
        };
        let mut trailer = [0; TRAILER_LEN];
        file.read_exact_at(&mut trailer, end)?;
        let [a, b, c, d, rest @ ..] = trailer;
        let count = u32::from_le_bytes([a, b, c, d]);
        let expected = [&VERSION.to_le_bytes()[..], MAGIC].concat();
        let start = end.checked_sub(u64::from(count) * ENTRY_LEN as u64);
        Ok(start.filter(|_| rest[..] == expected[..]).map(|start| Self { start, count }))
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: Digest,
    position: u64,
    len: u32,
}

/// A pack in the making. Dropped, it leaves nothing.
#[derive(Debug)]
pub(super) struct NewPack {
    out: BufWriter<fs::File>,
    file: TempPath,
    entries: Vec<Entry>,
    len: u64,
}

impl NewPack {
    /// An empty one, in a file that is made.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let out = BufWriter::with_capacity(BUFFER_LEN, file);
        Ok(Self { out, file: TempPath::try_from_path(path)?, entries: Vec::new(), len: 0 })
    }

    /// Appends one blob, verified. Returns the bytes that it takes. One that is refused leaves
    /// nothing behind.
    pub(super) fn add(
        &mut self,
        verifier: &mut Verifier,
        header: FrameHeader,
        encoded: &mut dyn Read,
    ) -> Result<u64, UploadError> {
        let action = || StoreError::io(format!("write blob {}", header.digest));
        self.out.write_all(&header.to_bytes()).map_err(action())?;
        if let Err(error) = verifier.copy(Claim::from(header), encoded, &mut self.out) {
            self.out.seek(SeekFrom::Start(self.len)).map_err(action())?;
            self.out.get_ref().set_len(self.len).map_err(action())?;
            return Err(error);
        }
        let len = FRAME_HEADER_LEN as u64 + u64::from(header.encoded_len);
        let entry_len = u32::try_from(len).expect("a packed blob is not longer than a chunk");
        self.entries.push(Entry { digest: header.digest, position: self.len, len: entry_len });
        self.len += len;
        Ok(len)
    }

    /// How many blobs it has.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Its blobs.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.entries.iter().map(|entry| entry.digest)
    }

    /// Writes the index and makes the file durable.
    pub(super) fn finish(mut self) -> io::Result<DurablePack> {
        let count = u32::try_from(self.entries.len()).expect("a batch has few thousand blobs");
        for Entry { digest, position, len } in &self.entries {
            self.out.write_all(digest.as_bytes())?;
            self.out.write_all(&position.to_le_bytes())?;
            self.out.write_all(&len.to_le_bytes())?;
        }
        self.out.write_all(&count.to_le_bytes())?;
        self.out.write_all(&VERSION.to_le_bytes())?;
        self.out.write_all(MAGIC)?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        Ok(DurablePack { file: self.file, entries: self.entries })
    }
}

/// A whole pack that has no number yet.
#[derive(Debug)]
pub(super) struct DurablePack {
    file: TempPath,
    entries: Vec<Entry>,
}

/// A part of a file, read as a file of its own.
#[derive(Debug)]
struct Section {
    file: fs::File,
    /// Bytes before it.
    start: u64,
    len: u64,
    /// Position within it.
    at: u64,
}

impl Read for Section {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(out.len());
        let n = self.file.read_at(&mut out[..wanted], self.start + self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
