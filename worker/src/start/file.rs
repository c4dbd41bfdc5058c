//! Starts on disk: the frames of one start as they arrived, in one file that is read in one go.
//!
//! `v1/<name>.start` holds the frames of a start of an image, user and key, behind its etag;
//! `v1/<name>.image` says to which manifest a name led last. What is read is checked like what
//! comes from a server, so nothing needs to be synced. All files together are bounded in bytes;
//! those that were used longest ago go first.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use sway_core::api::start::parse_start_etag;
use sway_core::blob::{BLOB_LEN_MAX, Blob, FRAME_HEADER_LEN, FrameHeader};
use sway_core::digest::Digest;
use sway_core::manifest::Manifest;
use sway_core::trace::Trace;

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

/// The frames of a start on disk, by their digests.
#[derive(Debug)]
struct Frames {
    file: File,
    first: Option<Digest>,
    /// Where what follows each header lies.
    places: HashMap<Digest, (FrameHeader, u64)>,
}

impl Frames {
    fn read(&self, digest: Digest) -> io::Result<(FrameHeader, Vec<u8>)> {
        let (header, at) = *self.places.get(&digest).ok_or(io::ErrorKind::NotFound)?;
        let mut encoded = vec![0; header.encoded_len as usize];
        self.file.read_exact_at(&mut encoded, at)?;
        Ok((header, encoded))
    }
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
        let file = File::open(&path).ok()?;
        let Some(start) = StartFile::new(file) else {
            tracing::warn!(path = %path.display(), "removed a file that is none of a start");
            let _ = std::fs::remove_file(&path);
            return None;
        };
        let _ = start.file.get_ref().set_modified(SystemTime::now());
        Some(start)
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

    /// Replaces the file of a start by one of a later state of the same image: with the frames in
    /// `changes`, of which the first is the trace, and what else that trace needs of the old one,
    /// which has to be of the bundle `base`. Blocks.
    pub(super) fn renew(
        &self,
        key: &StartKey,
        base: Digest,
        changes: StartWriter,
    ) -> io::Result<()> {
        let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let old = self.open(key).filter(|old| old.bundle() == Some(base));
        let old = old.ok_or_else(|| odd("there is no file of the state before"))?.frames()?;
        let changes = changes.into_file()?;
        let etag = changes.etag().to_owned();
        let changes = changes.frames()?;
        let blob = |frames: &Frames, digest| {
            Blob::decode(digest, &frames.read(digest)?.1, BLOB_LEN_MAX).map_err(io::Error::other)
        };
        let manifest = blob(&old, key.manifest)?;
        let manifest = Manifest::decode(manifest.as_ref()).map_err(io::Error::other)?;
        let trace_digest = changes.first.ok_or_else(|| odd("there is no trace"))?;
        let trace = blob(&changes, trace_digest)?;
        let trace = Trace::decode(trace.as_ref()).map_err(io::Error::other)?;
        let mut writer = self.create(key, &etag)?;
        let heading = [key.manifest].into_iter().chain(manifest.page_roots()).chain([trace_digest]);
        for digest in heading.chain(trace.frames().iter().map(|frame| frame.digest)) {
            let (header, encoded) = changes.read(digest).or_else(|_| old.read(digest))?;
            writer.push(&header, &encoded)?;
        }
        writer.commit()
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
    /// Reads as far as the first frame; none where it is no such file.
    fn new(mut file: File) -> Option<Self> {
        let mut head = [0u8; MAGIC.len() + 4];
        file.read_exact(&mut head).ok()?;
        let (magic, len) = head.split_at(MAGIC.len());
        let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
        if magic != MAGIC || len > ETAG_LEN_MAX {
            return None;
        }
        let mut etag = vec![0; len];
        file.read_exact(&mut etag).ok()?;
        let etag = String::from_utf8(etag).ok()?;
        Some(Self { etag, file: BufReader::with_capacity(BUFFER_LEN, file) })
    }

    /// The state that it holds.
    pub(super) fn etag(&self) -> &str {
        &self.etag
    }

    /// The bundle of that state.
    pub(super) fn bundle(&self) -> Option<Digest> {
        parse_start_etag(&self.etag)?.1
    }

    /// Where its frames are. Blocks.
    fn frames(self) -> io::Result<Frames> {
        let mut at = (MAGIC.len() + 4 + self.etag.len()) as u64;
        let file = self.file.into_inner();
        let (len, mut first, mut places) = (file.metadata()?.len(), None, HashMap::new());
        while at < len {
            let mut header = [0u8; FRAME_HEADER_LEN];
            file.read_exact_at(&mut header, at)?;
            let header = FrameHeader::from_bytes(&header).map_err(io::Error::other)?;
            at += FRAME_HEADER_LEN as u64;
            first.get_or_insert(header.digest);
            places.insert(header.digest, (header, at));
            at += u64::from(header.encoded_len);
        }
        Ok(Frames { file, first, places })
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

    /// What was written so far, to be read; the file itself is gone with the answer.
    fn into_file(mut self) -> io::Result<StartFile> {
        self.file.flush()?;
        let file = File::open(&self.temporary)?;
        StartFile::new(file).ok_or_else(|| io::Error::other("it is not what was written"))
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
    use sway_core::api::start::start_etag;
    use sway_core::blob::encode;
    use sway_core::chunk::CutChunk;
    use sway_core::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};
    use sway_core::trace::{TraceFrame, TraceRange, TracedFile};

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
    fn a_file_is_renewed_by_what_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let files = StartFiles::new(dir.path(), 1 << 20);
        let raw = |fill: u8| vec![fill; 8192];
        let mut tree = Tree::new();
        for fill in 1..=3 {
            let mut content = FileContent::new();
            content.push_chunk(CutChunk::of(&raw(fill)));
            let node = tree.add(Metadata::default(), NodeKind::Regular(content));
            tree.entries_mut(Tree::ROOT).unwrap().insert(vec![b'0' + fill], node);
        }
        let (manifest, roots) = tree.to_manifest(RunConfig::default()).unwrap();
        let (manifest, roots) = (manifest.encode().unwrap(), roots.unwrap());
        let key = StartKey { manifest: Digest::of(&manifest), ..key("ada") };
        let traced = |fills: &[u8]| {
            let file = |fill: &u8| TracedFile {
                content: Digest::of(&raw(*fill)),
                size: 8192,
                path: [b'/', b'0' + fill].into(),
            };
            let range = |file| TraceRange { file, first: 0, count: 2, idle: 0 };
            let frame = |(at, fill): (usize, &u8)| TraceFrame {
                digest: Digest::of(&raw(*fill)),
                len: 8192,
                ranges: at..at + 1,
            };
            let files = fills.iter().map(file).collect();
            let ranges = (0..).take(fills.len()).map(range).collect();
            let frames = fills.iter().enumerate().map(frame).collect();
            Trace::new(files, ranges, frames).unwrap().encode()
        };
        let bundles = [b"old", b"new"].map(|name| Digest::of(name));
        let etags = bundles.map(|bundle| start_etag(key.manifest, Some(bundle)));
        let written = |etag: &str, blobs: &[&[u8]]| {
            let mut writer = files.create(&key, etag).unwrap();
            for raw in blobs {
                let encoded = encode(raw);
                let header = FrameHeader::new(Digest::of(raw), raw.len(), encoded.len());
                writer.push(&header, &encoded).unwrap();
            }
            writer
        };
        let read = || {
            let mut file = files.open(&key).unwrap();
            let frames = std::iter::from_fn(|| Some(file.next_frame()?.0.digest));
            (frames.collect::<Vec<_>>(), file.etag)
        };
        let whole = |etag: &str, fills: &[u8]| {
            let heading = [manifest.clone(), roots.clone(), traced(fills)].into_iter();
            let blobs = heading.chain(fills.iter().map(|fill| raw(*fill)));
            (blobs.map(|blob| Digest::of(&blob)).collect::<Vec<_>>(), etag.to_owned())
        };
        let old = [&manifest[..], &roots, &traced(&[1, 2]), &raw(1), &raw(2)];
        written(&etags[0], &old).commit().unwrap();
        assert_eq!(read(), whole(&etags[0], &[1, 2]));

        // Of another state, or with something missing, it stays as it was.
        let changes = || written(&etags[1], &[&traced(&[2, 3]), &raw(3)]);
        assert!(files.renew(&key, bundles[1], changes()).is_err());
        let lacking = written(&etags[1], &[&traced(&[2, 3])]);
        assert!(files.renew(&key, bundles[0], lacking).is_err());
        assert_eq!(read(), whole(&etags[0], &[1, 2]));

        files.renew(&key, bundles[0], changes()).unwrap();
        assert_eq!(read(), whole(&etags[1], &[2, 3]));
        assert_eq!(std::fs::read_dir(dir.path().join("v1")).unwrap().count(), 1);
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
