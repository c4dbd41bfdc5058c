//! Chunks on disk, bounded by bytes, at hand again after a restart.
//!
//! One file for each chunk, `v1/ab/<digest>`, with the raw bytes. They are hashed at every read:
//! a file that a crash, a disk or a hand has changed is deleted and counts as a miss, so nothing
//! needs to be synced. Opening looks at nothing but the directory: sizes and ages of what is
//! there are gathered in the background, while reads are served already. When the bound is
//! passed, the tenth that was used longest ago goes; a chunk's modification time remembers its
//! last use across restarts, to within [`TOUCH_AFTER`].

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sway_core::blob::{BLOB_LEN_MAX, Blob};
use sway_core::digest::Digest;

use super::ChunkCache;

/// The version of the layout below the cache's directory. Another version's files are another
/// directory's, and are left alone.
const VERSION_DIR: &str = "v1";

/// How old a chunk's noted use may get before it is noted anew: one `utimensat` an hour.
const TOUCH_AFTER: Duration = Duration::from_secs(3600);

/// What a file costs the disk: whole blocks.
const BLOCK_LEN: u64 = 4096;

/// Why a disk cache can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskCacheError {
    /// The directory can't be made or opened.
    #[error("cache directory: {0}")]
    Directory(#[source] io::Error),
    /// Another process has it.
    #[error("cache directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
}

/// Chunks on disk.
#[derive(Debug)]
pub struct DiskCache {
    dir: PathBuf,
    limit: u64,
    index: Mutex<Index>,
    /// Names temporary files.
    next: AtomicU64,
    /// Whether the last write failed: a full disk is told once, not for every chunk.
    failing: AtomicBool,
    /// Held, and with it the lock, for as long as the cache is open.
    _lock: File,
}

/// What is known of the files.
#[derive(Debug, Default)]
struct Index {
    entries: HashMap<Digest, Entry>,
    /// Sum of the entries' costs.
    size: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    cost: u64,
    used: SystemTime,
}

impl Index {
    fn insert(&mut self, digest: Digest, entry: Entry) {
        self.size += entry.cost;
        if let Some(previous) = self.entries.insert(digest, entry) {
            self.size -= previous.cost;
        }
    }

    fn remove(&mut self, digest: Digest) {
        if let Some(entry) = self.entries.remove(&digest) {
            self.size -= entry.cost;
        }
    }

    /// Takes out what was used longest ago until no more than `target` bytes are left.
    fn shrink(&mut self, target: u64) -> Vec<Digest> {
        let mut by_age: Vec<(SystemTime, Digest)> =
            self.entries.iter().map(|(digest, entry)| (entry.used, *digest)).collect();
        by_age.sort_unstable();
        let mut gone = Vec::new();
        for (_, digest) in by_age {
            if self.size <= target {
                break;
            }
            self.remove(digest);
            gone.push(digest);
        }
        gone
    }
}

impl DiskCache {
    /// Opens the cache in `dir`, and makes it where there is none, for at most `limit` bytes.
    /// [`DiskCache::scan`] should follow on a thread that may block.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, DiskCacheError> {
        let dir = dir.join(VERSION_DIR);
        fs_err::create_dir_all(dir.join("tmp")).map_err(DiskCacheError::Directory)?;
        // Pieces of all users' images: nobody else looks in, whatever the parent's mode.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))
            .map_err(DiskCacheError::Directory)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(DiskCacheError::Directory)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskCacheError::InUse(dir)),
            Err(TryLockError::Error(error)) => return Err(DiskCacheError::Directory(error)),
        }
        Ok(Self {
            dir,
            limit,
            index: Mutex::default(),
            next: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Takes stock of what earlier processes left: sizes and ages, leftovers of a crash. Ends
    /// early when `stop` says so.
    pub fn scan(&self, stop: impl Fn() -> bool) {
        for leftover in read_dir(&self.dir.join("tmp")) {
            // A write that goes on right now has a file there too; it has to be older than us.
            if !leftover.file_name().to_string_lossy().starts_with(&own_prefix()) {
                let _ = fs_err::remove_file(leftover.path());
            }
        }
        for directory in read_dir(&self.dir) {
            if directory.file_name().len() != 2 {
                continue;
            }
            for file in read_dir(&directory.path()) {
                if stop() {
                    return;
                }
                let name = file.file_name();
                let digest = name.to_str().and_then(|name| name.parse::<Digest>().ok());
                let (Some(digest), Ok(metadata)) = (digest, file.metadata()) else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let mut index = self.lock();
                // What was used meanwhile is known better.
                if !index.entries.contains_key(&digest) {
                    index.insert(digest, Entry { cost: cost(metadata.len()), used });
                }
            }
        }
        self.keep_bound();
    }

    /// The bound, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether there is a file of a chunk; it may be a corrupt one.
    pub fn has(&self, digest: Digest) -> bool {
        self.lock().entries.contains_key(&digest) || self.path_of(digest).exists()
    }

    /// The file of a chunk.
    pub fn path_of(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.dir.join(&hex[..2]).join(hex)
    }

    fn read(&self, digest: Digest) -> io::Result<Option<Blob>> {
        let path = self.path_of(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody else removed it: it may be put again.
                self.lock().remove(digest);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let len = file.metadata()?.len();
        if len <= BLOB_LEN_MAX as u64 {
            bytes.reserve_exact(usize::try_from(len).unwrap_or(0) + 1);
            (&mut file).take(BLOB_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
        }
        match Blob::verify(digest, bytes) {
            Ok(blob) => {
                self.note_use(digest, &file, len);
                Ok(Some(blob))
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "removed a corrupt cache entry");
                self.remove(digest);
                Ok(None)
            }
        }
    }

    fn note_use(&self, digest: Digest, file: &File, len: u64) {
        let now = SystemTime::now();
        let mut index = self.lock();
        let noted = index.entries.get(&digest).map(|entry| entry.used);
        index.insert(digest, Entry { cost: cost(len), used: now });
        drop(index);
        let fresh = |noted| now.duration_since(noted).is_ok_and(|age| age < TOUCH_AFTER);
        if !noted.is_some_and(fresh) {
            let _ = file.set_modified(now);
        }
    }

    fn write(&self, blob: &Blob) -> io::Result<()> {
        let path = self.path_of(blob.digest());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join("tmp").join(format!("{}{number}", own_prefix()));
        let write = || {
            let mut file = File::create_new(&temporary)?;
            file.write_all(blob.as_ref())?;
            match std::fs::rename(&temporary, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Some(parent) = path.parent() {
                        std::fs::create_dir_all(parent)?;
                    }
                    std::fs::rename(&temporary, &path)
                }
                done => done,
            }
        };
        write().inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
    }

    fn remove(&self, digest: Digest) {
        let _ = std::fs::remove_file(self.path_of(digest));
        self.lock().remove(digest);
    }

    fn keep_bound(&self) {
        let gone = {
            let mut index = self.lock();
            if index.size <= self.limit {
                return;
            }
            index.shrink(self.limit - self.limit / 10)
        };
        for digest in gone {
            let _ = std::fs::remove_file(self.path_of(digest));
        }
    }

    /// Makes room on a disk that is full for other reasons than this cache's bound.
    fn give_back(&self) {
        let gone = {
            let mut index = self.lock();
            let target = index.size - index.size / 10;
            index.shrink(target)
        };
        for digest in gone {
            let _ = std::fs::remove_file(self.path_of(digest));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkCache for DiskCache {
    fn get(&self, digest: Digest) -> Option<Blob> {
        match self.read(digest) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(blob.digest = %digest, %error, "cannot read a cache entry");
                None
            }
        }
    }

    fn put(&self, blob: &Blob) {
        let digest = blob.digest();
        let cost = cost(blob.bytes().len() as u64);
        if cost > self.limit || self.lock().entries.contains_key(&digest) {
            return;
        }
        match self.write(blob) {
            Ok(()) => {
                self.failing.store(false, Ordering::Relaxed);
                self.lock().insert(digest, Entry { cost, used: SystemTime::now() });
                self.keep_bound();
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        dir = %self.dir.display(),
                        %error,
                        "cannot write to the disk cache; reads go on without it"
                    );
                }
                if error.kind() == io::ErrorKind::StorageFull {
                    self.give_back();
                }
            }
        }
    }

    fn size_bytes(&self) -> u64 {
        self.lock().size
    }
}

/// What a file of `len` bytes costs.
fn cost(len: u64) -> u64 {
    len.next_multiple_of(BLOCK_LEN)
}

/// Marks this process' temporary files.
fn own_prefix() -> String {
    format!("{}-", std::process::id())
}

/// The entries of a directory; none where it can't be read.
fn read_dir(dir: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, blob};
    use super::*;

    fn open(dir: &Path) -> DiskCache {
        DiskCache::open(dir, 1 << 20).unwrap()
    }

    #[test]
    fn the_disk_cache_conforms() {
        let dirs = std::cell::RefCell::new(Vec::new());
        conformance::suite(|limit| {
            let dir = tempfile::tempdir().unwrap();
            let cache = DiskCache::open(dir.path(), limit).unwrap();
            dirs.borrow_mut().push(dir);
            cache
        });
    }

    #[test]
    fn nobody_else_can_look_into_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        let mode = std::fs::metadata(&cache.dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_flipped_byte_is_a_miss_and_heals() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        cache.put(&blob(1));
        let path = cache.path_of(blob(1).digest());
        let mut bytes = std::fs::read(&path).unwrap();
        for at in [0, 500, 999] {
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(cache.get(blob(1).digest()), None);
            assert!(!path.exists());
            cache.put(&blob(1));
            assert_eq!(cache.get(blob(1).digest()), Some(blob(1)));
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn a_truncated_or_grown_entry_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        for len in [0, 999, 1001] {
            cache.put(&blob(1));
            let file = File::options().write(true).open(cache.path_of(blob(1).digest())).unwrap();
            file.set_len(len).unwrap();
            assert_eq!(cache.get(blob(1).digest()), None, "{len}");
        }
    }

    #[test]
    fn chunks_outlive_a_restart_and_are_there_before_the_scan() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        (0..50).for_each(|number| cache.put(&blob(number)));
        let size = cache.size_bytes();
        drop(cache);
        let cache = open(dir.path());
        assert_eq!(cache.get(blob(7).digest()), Some(blob(7)));
        cache.scan(|| false);
        assert_eq!(cache.size_bytes(), size);
    }

    #[test]
    fn a_smaller_bound_after_a_restart_evicts_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        (0..50).for_each(|number| cache.put(&blob(number)));
        for number in 0..50 {
            let hours = if number == 7 { 0 } else { u64::from(number) + 2 };
            let file = File::open(cache.path_of(blob(number).digest())).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
        }
        drop(cache);
        let cache = DiskCache::open(dir.path(), 10 * BLOCK_LEN).unwrap();
        cache.scan(|| false);
        let kept: Vec<u32> =
            (0..50).filter(|&number| cache.get(blob(number).digest()).is_some()).collect();
        assert_eq!(kept, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn an_entry_that_somebody_removed_can_be_put_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        cache.put(&blob(1));
        std::fs::remove_file(cache.path_of(blob(1).digest())).unwrap();
        assert_eq!(cache.get(blob(1).digest()), None);
        assert_eq!(cache.size_bytes(), 0);
        cache.put(&blob(1));
        assert_eq!(cache.get(blob(1).digest()), Some(blob(1)));
    }

    #[test]
    fn leftovers_of_a_crash_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let leftover = dir.path().join("v1/tmp/1-0");
        std::fs::write(&leftover, b"half a chu").unwrap();
        open(dir.path()).scan(|| false);
        assert!(!leftover.exists());
    }

    #[test]
    fn a_cache_that_can_t_be_written_keeps_nothing_and_fails_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        cache.put(&blob(1));
        std::fs::remove_dir(dir.path().join("v1/tmp")).unwrap();
        cache.put(&blob(2));
        assert_eq!(cache.get(blob(2).digest()), None);
        assert_eq!(cache.get(blob(1).digest()), Some(blob(1)));
    }

    #[test]
    fn two_processes_don_t_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        assert!(matches!(DiskCache::open(dir.path(), 1), Err(DiskCacheError::InUse(_))));
        drop(cache);
        open(dir.path());
    }
}
