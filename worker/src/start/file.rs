//! Starts on disk: the frames of one start as they arrived, in one file that is read in one go.
//!
//! `v1/<name>.start` holds the frames of a start of an image, user and key, behind its etag;
//! `v1/<name>.image` says to which manifest a name led last. What is read is checked like what
//! comes from a server, so nothing needs to be synced. All files together are bounded in bytes;
//! those that were used longest ago go first.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use sway_core::blob::{FRAME_HEADER_LEN, FrameHeader};
use sway_core::digest::Digest;

use super::{NameKey, StartKey};

const VERSION_DIR: &str = "v1";
const MAGIC: &[u8; 8] = b"SWAYSTF\x01";
/// An etag is two digests.
const ETAG_LEN_MAX: usize = 256;
const BUFFER_LEN: usize = 256 << 10;

/// The files of starts.
#[derive(Debug)]
pub struct StartFiles {
    dir: PathBuf,
    limit: u64,
    next: AtomicU64,
}

/// A start on disk, open at its first frame.
#[derive(Debug)]
pub(super) struct StartFile {
    etag: String,
    file: BufReader<File>,
}

/// A start that is being written. Dropped without [`StartWriter::commit`], it is gone.
#[derive(Debug)]
pub(super) struct StartWriter {
    temporary: PathBuf,
    path: PathBuf,
    file: io::BufWriter<File>,
    len: u64,
    limit: u64,
}

impl StartFiles {
    /// Files in `dir`, of at most `limit` bytes in all.
    pub fn new(dir: &Path, limit: u64) -> Self {
        Self { dir: dir.join(VERSION_DIR), limit, next: AtomicU64::new(0) }
    }

    /// Remembers which manifest a name led to. Blocks.
    pub(super) fn note(&self, name: &NameKey, manifest: Digest) {
        let path = self.path_of_name(name);
        let text = manifest.to_hex();
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return;
        }
        let written = self.prepare().and_then(|()| {
            let temporary = self.temporary();
            std::fs::write(&temporary, text)?;
            std::fs::rename(temporary, &path)
        });
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "cannot note a start");
        }
    }

    /// The manifest that a name led to last. Blocks.
    pub(super) fn noted(&self, name: &NameKey) -> Option<Digest> {
        std::fs::read_to_string(self.path_of_name(name)).ok()?.parse().ok()
    }

    /// Opens the file of a start. Blocks.
    pub(super) fn open(&self, key: &StartKey) -> Option<StartFile> {
        let path = self.path_of(key);
        let mut file = File::open(&path).ok()?;
        let read = (|| {
            let mut head = [0u8; MAGIC.len() + 4];
            file.read_exact(&mut head).ok()?;
            let (magic, len) = head.split_at(MAGIC.len());
            let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
            if magic != MAGIC || len > ETAG_LEN_MAX {
                return None;
            }
            let mut etag = vec![0; len];
            file.read_exact(&mut etag).ok()?;
            String::from_utf8(etag).ok()
        })();
        let Some(etag) = read else {
            tracing::warn!(path = %path.display(), "removed a file that is none of a start");
            let _ = std::fs::remove_file(&path);
            return None;
        };
        let _ = file.set_modified(SystemTime::now());
        Some(StartFile { etag, file: BufReader::with_capacity(BUFFER_LEN, file) })
    }

    /// Begins the file of a start. Blocks.
    pub(super) fn create(&self, key: &StartKey, etag: &str) -> io::Result<StartWriter> {
        self.prepare()?;
        let temporary = self.temporary();
        let file = File::create_new(&temporary)?;
        let mut writer = StartWriter {
            temporary,
            path: self.path_of(key),
            file: io::BufWriter::with_capacity(BUFFER_LEN, file),
            len: 0,
            limit: self.limit,
        };
        let len = u32::try_from(etag.len()).map_err(io::Error::other)?;
        writer.append(MAGIC)?;
        writer.append(&len.to_le_bytes())?;
        writer.append(etag.as_bytes())?;
        Ok(writer)
    }

    /// Removes the file of a start whose frames are not right. Blocks.
    pub(super) fn remove(&self, key: &StartKey) {
        let _ = std::fs::remove_file(self.path_of(key));
    }

    /// Removes what was used longest ago until all fits, and what a crash left. Blocks.
    pub(super) fn keep_bound(&self) {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok) {
            let (Ok(metadata), path) = (entry.metadata(), entry.path()) else { continue };
            let own = format!("tmp-{}-", std::process::id());
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("tmp-") {
                if !name.starts_with(&own) {
                    let _ = std::fs::remove_file(path);
                }
                continue;
            }
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.push((used, metadata.len().next_multiple_of(4096), path));
        }
        files.sort();
        let mut size: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if size <= self.limit {
                break;
            }
            let _ = std::fs::remove_file(path);
            size -= len;
        }
    }

    fn prepare(&self) -> io::Result<()> {
        if !self.dir.is_dir() {
            std::fs::create_dir_all(&self.dir)?;
            // Pieces of all users' images.
            std::fs::set_permissions(&self.dir, std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    fn temporary(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("tmp-{}-{number}", std::process::id()))
    }

    fn path_of(&self, key: &StartKey) -> PathBuf {
        let name = format!("{}\0{}\0{}", key.manifest, key.user, key.key);
        self.dir.join(format!("{}.start", Digest::of(name.as_bytes())))
    }

    fn path_of_name(&self, name: &NameKey) -> PathBuf {
        let images: Vec<&str> = name.images.iter().map(AsRef::as_ref).collect();
        let text = format!("{}\0{}\0{}", name.user, name.key, images.join("\0"));
        self.dir.join(format!("{}.image", Digest::of(text.as_bytes())))
    }
}

impl StartFile {
    /// The state that it holds.
    pub(super) fn etag(&self) -> &str {
        &self.etag
    }

    /// The next frame; none at the end, also where that is not between two frames. Blocks.
    pub(super) fn next_frame(&mut self) -> Option<(FrameHeader, Bytes)> {
        let mut header = [0u8; FRAME_HEADER_LEN];
        self.file.read_exact(&mut header).ok()?;
        let header = FrameHeader::from_bytes(&header).ok()?;
        let mut encoded = vec![0; header.encoded_len as usize];
        self.file.read_exact(&mut encoded).ok()?;
        Some((header, Bytes::from(encoded)))
    }
}

impl StartWriter {
    /// Adds a frame as it came. Blocks.
    pub(super) fn push(&mut self, header: &FrameHeader, encoded: &[u8]) -> io::Result<()> {
        self.append(&header.to_bytes())?;
        self.append(encoded)
    }

    /// Puts the file in its place. Blocks.
    pub(super) fn commit(mut self) -> io::Result<()> {
        self.file.flush()?;
        std::fs::rename(&self.temporary, &self.path)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        if self.len > self.limit {
            return Err(io::Error::other("it is longer than all such files may be"));
        }
        self.file.write_all(bytes)
    }

    #[cfg(test)]
    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StartWriter {
    fn drop(&mut self) {
        // Gone where it was committed.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use sway_core::blob::encode;

    use super::*;

    fn key(user: &str) -> StartKey {
        StartKey {
            manifest: Digest::of(b"manifest"),
            user: user.parse().unwrap(),
            key: sway_core::trace::TraceKey::any(),
        }
    }

    fn write(files: &StartFiles, key: &StartKey, len: usize) -> PathBuf {
        let raw: Vec<u8> = (0..len).map(|i| (i * 7919 % 251).to_le_bytes()[0]).collect();
        let encoded = encode(&raw);
        let mut writer = files.create(key, "\"etag\"").unwrap();
        writer.push(&FrameHeader::new(Digest::of(&raw), len, encoded.len()), &encoded).unwrap();
        let path = writer.path().to_owned();
        writer.commit().unwrap();
        path
    }

    #[test]
    fn what_was_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let files = StartFiles::new(dir.path(), 1 << 20);
        assert!(files.open(&key("ada")).is_none());
        write(&files, &key("ada"), 1000);
        let mut file = files.open(&key("ada")).unwrap();
        assert_eq!(file.etag(), "\"etag\"");
        let (header, encoded) = file.next_frame().unwrap();
        assert_eq!((header.raw_len, header.encoded_len as usize), (1000, encoded.len()));
        assert!(file.next_frame().is_none());
        assert!(files.open(&key("bob")).is_none());
    }

    #[test]
    fn a_start_that_was_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = StartFiles::new(dir.path(), 1 << 20);
        drop(files.create(&key("ada"), "e").unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("v1")).unwrap().count(), 0);
        std::fs::write(dir.path().join("v1").join("tmp-0-0"), "of a crash").unwrap();
        files.keep_bound();
        assert_eq!(std::fs::read_dir(dir.path().join("v1")).unwrap().count(), 0);
    }

    #[test]
    fn the_one_used_longest_ago_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let files = StartFiles::new(dir.path(), 10_000);
        let old = write(&files, &key("ada"), 300);
        let minute_ago = SystemTime::now() - std::time::Duration::from_secs(60);
        File::open(&old).unwrap().set_modified(minute_ago).unwrap();
        write(&files, &key("bob"), 300);
        write(&files, &key("eve"), 300);
        files.keep_bound();
        assert!(files.open(&key("ada")).is_none());
        assert!(files.open(&key("bob")).is_some() && files.open(&key("eve")).is_some());
        let mut writer = files.create(&key("eve"), "e").unwrap();
        let long = FrameHeader::new(Digest::of(b""), 20_000, 20_000);
        assert!(writer.push(&long, &vec![0; 20_000]).is_err());
    }
}
