//! From a file or folder of this machine to a dataset on the fileserver: a manifest like an image's.
//!
//! A dataset holds regular files, folders, and links that stay within it. Whatever leads out of it
//! is refused, so that nothing follows that nobody named; owners and permissions of this machine
//! stay here, so that every job can read it. What the fileserver has is not sent again. Large data
//! goes in rounds: what waits to be sent takes a bounded place on the disk.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::Metadata as FileMetadata;
use std::io::{self, Read};
use std::mem;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err::os::unix::fs::OpenOptionsExt as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rustix::fs::OFlags;
use sway_client::Client;
use sway_client::refs::Expect;
use sway_core::chunk::{CutChunk, Piece, cut};
use sway_core::digest::Digest;
use sway_core::job::DatasetKind;
use sway_core::link::stays_inside;
use sway_core::manifest::{FileContent, Metadata, NodeId, NodeKind, RunConfig, Timestamp, Tree};
use sway_core::name::RefName;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::spawn_blocking;

use super::cut::{self as cutting, BATCH_LEN, Batch};
use super::error::ExportError;
use super::progress::{Bar, Progress};
use super::spool::Spool;
use super::upload::{self, Sent};

/// Batches of one round: their bytes bound what waits on the disk.
const ROUND_BATCHES: usize = (1 << 30) / BATCH_LEN;

/// Batches that are worked on at a time.
const BATCHES: usize = 4;

/// What is in a dataset's folders and can't go along.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatasetError {
    /// Nothing there.
    #[error("there is no {0} on this machine")]
    Missing(PathBuf),
    /// There, and not readable.
    #[error("can't read {path}")]
    Read {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pipe, a socket or a device.
    #[error("{0} is neither a file nor a folder, and can't be part of a dataset")]
    Special(PathBuf),
    /// A link.
    #[error(
        "{0} is a link that may lead out of the dataset: put there what it leads to, or remove it"
    )]
    LeadsOut(PathBuf),
    /// On the way to the fileserver.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// A dataset on the fileserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredDataset {
    /// Its manifest.
    pub(crate) manifest: Digest,
    /// What it is.
    pub(crate) kind: DatasetKind,
    /// Regular files.
    pub(crate) files: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes that went over the wire.
    pub(crate) bytes_sent: u64,
}

/// Stores what is at `path`, and has the ref that `name` makes of its digest lead to it. `cache` is
/// Sway's cache directory.
pub(crate) async fn store_dataset(
    client: &Client,
    path: &Path,
    name: impl FnOnce(Digest) -> RefName,
    cache: &Path,
    progress: &Progress,
) -> Result<StoredDataset, DatasetError> {
    let root = path.to_owned();
    let scan = spawn_blocking(move || Scan::of(&root)).await.map_err(ExportError::Internal)??;
    let (kind, files, bytes) = (scan.kind, scan.files.len(), scan.bytes);
    let bar = progress.bytes("Reading", bytes);
    let (sender, mut batches) = mpsc::channel(1);
    let reading = spawn_blocking(move || scan.read(&sender, &bar));
    let sending = send_all(client, &mut batches, cache);
    let (read, sent) = tokio::join!(reading, sending);
    // Where sending failed, the reader only stopped because nobody took its chunks.
    let (chunks, mut sent) = sent?;
    let tree = read.map_err(ExportError::Internal)??.tree(chunks);
    let encoding = spawn_blocking(move || {
        let (manifest, page_roots) = tree.to_manifest(RunConfig::default())?;
        Ok::<_, ExportError>((manifest.encode()?, page_roots))
    });
    let (encoded, page_roots) = encoding.await.map_err(ExportError::Internal)??;
    let manifest = Digest::of(&encoded);
    let described = page_roots.into_iter().chain([encoded]).map(|raw| (Digest::of(&raw), raw));
    let described: Vec<_> = described.collect();
    let spool = new_spool(cache)?;
    let digests = described.iter().map(|(digest, _)| *digest).collect();
    cutting::pack(client, &spool, described).await?;
    add(&mut sent, upload::send(client, &spool, &spool.frames(&digests), |_| {}).await?);
    let refs = client.refs();
    refs.put(&name(manifest), manifest, Expect::Any).await.map_err(ExportError::Client)?;
    Ok(StoredDataset { manifest, kind, files, bytes, bytes_sent: sent.bytes })
}

fn new_spool(cache: &Path) -> Result<Arc<Spool>, ExportError> {
    Ok(Arc::new(Spool::new(cache).map_err(ExportError::Spool)?))
}

fn add(sum: &mut Sent, sent: Sent) {
    sum.new_blobs += sent.new_blobs;
    sum.bytes += sent.bytes;
}

/// Sends what the fileserver lacks of all batches, and tells the names of their chunks in order.
async fn send_all(
    client: &Client,
    batches: &mut Receiver<Batch>,
    cache: &Path,
) -> Result<(Vec<CutChunk>, Sent), ExportError> {
    let (mut chunks, mut sent) = (Vec::new(), Sent::default());
    loop {
        let spool = new_spool(cache)?;
        let named: Vec<Vec<CutChunk>> = stream::unfold(&mut *batches, |batches| async move {
            batches.recv().await.map(|batch| (batch, batches))
        })
        .take(ROUND_BATCHES)
        .map(|batch| cutting::name_and_pack(client, &spool, batch))
        .buffered(BATCHES)
        .map_ok(|(_, named)| named)
        .try_collect()
        .await?;
        if named.is_empty() {
            return Ok((chunks, sent));
        }
        let digests: HashSet<Digest> =
            named.iter().flatten().map(|named| named.chunk.digest).collect();
        add(&mut sent, upload::send(client, &spool, &spool.frames(&digests), |_| {}).await?);
        chunks.extend(named.into_iter().flatten());
    }
}

/// What there is, before any content is read.
#[derive(Debug)]
struct Scan {
    kind: DatasetKind,
    root: Metadata,
    /// By path; folders before what they hold.
    entries: BTreeMap<PathBuf, Found>,
    /// Where the bytes of the regular files are, in the order of their entries.
    files: Vec<PathBuf>,
    bytes: u64,
}

#[derive(Debug)]
enum Found {
    Folder(Metadata),
    Link(Metadata, Vec<u8>),
    File(Metadata),
}

impl Scan {
    /// Walks. The path itself may be a link: it was named.
    fn of(path: &Path) -> Result<Self, DatasetError> {
        let metadata = match fs_err::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatasetError::Missing(path.to_owned()));
            }
            metadata => metadata.map_err(unreadable(path))?,
        };
        if metadata.is_dir() {
            let mut scan = Self {
                kind: DatasetKind::Folder,
                root: normalised(&metadata),
                entries: BTreeMap::new(),
                files: Vec::new(),
                bytes: 0,
            };
            scan.walk(path)?;
            return Ok(scan);
        }
        if !metadata.is_file() {
            return Err(DatasetError::Special(path.to_owned()));
        }
        let real = fs_err::canonicalize(path).map_err(unreadable(path))?;
        let name = path.file_name().unwrap_or(OsStr::new("data"));
        let root = Metadata { permissions: 0o755, ..normalised(&metadata) };
        let file = Found::File(normalised(&metadata));
        Ok(Self {
            kind: DatasetKind::File,
            root,
            entries: BTreeMap::from([(PathBuf::from(name), file)]),
            files: vec![real],
            bytes: metadata.len(),
        })
    }

    fn walk(&mut self, root: &Path) -> Result<(), DatasetError> {
        let mut open = vec![PathBuf::new()];
        while let Some(folder) = open.pop() {
            let at = root.join(&folder);
            for entry in fs_err::read_dir(&at).map_err(unreadable(&at))? {
                let entry = entry.map_err(unreadable(&at))?;
                let path = folder.join(entry.file_name());
                // Of a link, itself.
                let metadata = entry.metadata().map_err(unreadable(&entry.path()))?;
                let found = if metadata.is_dir() {
                    open.push(path.clone());
                    Found::Folder(normalised(&metadata))
                } else if metadata.is_symlink() {
                    let target = fs_err::read_link(entry.path());
                    let target = target.map_err(unreadable(&entry.path()))?;
                    let target = target.as_os_str().as_bytes();
                    if !stays_inside(folder.components().count(), target) {
                        return Err(DatasetError::LeadsOut(entry.path()));
                    }
                    let metadata = Metadata { permissions: 0o777, ..normalised(&metadata) };
                    Found::Link(metadata, target.to_vec())
                } else if metadata.is_file() {
                    self.bytes += metadata.len();
                    Found::File(normalised(&metadata))
                } else {
                    return Err(DatasetError::Special(entry.path()));
                };
                self.entries.insert(path, found);
            }
        }
        let is_file = |(_, found): &(&PathBuf, &Found)| matches!(found, Found::File(_));
        let files = self.entries.iter().filter(is_file);
        self.files = files.map(|(path, _)| root.join(path)).collect();
        Ok(())
    }

    /// Reads all files, each once, and hands their chunks on. Blocks.
    fn read(self, batches: &Sender<Batch>, bar: &Bar) -> Result<ReadData, DatasetError> {
        let mut batch = Batch::of(0);
        let mut contents = Vec::with_capacity(self.files.len());
        let watch = bar.watch();
        for path in &self.files {
            let mut options = fs_err::OpenOptions::new();
            // Whoever put a link or a pipe there meanwhile gets nothing sent.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            options.read(true).custom_flags(flags.bits().cast_signed());
            let file = options.open(path).map_err(unreadable(path))?;
            if !file.metadata().map_err(unreadable(path))?.is_file() {
                return Err(DatasetError::Special(path.clone()));
            }
            let reader: Box<dyn Read + Send> = Box::new(file);
            let mut pieces = Vec::new();
            for piece in cut(watch(reader)) {
                match piece.map_err(unreadable(path))? {
                    Piece::Hole => pieces.push(Shape::Hole),
                    Piece::Data(bytes) => {
                        pieces.push(Shape::Chunk);
                        batch.push(bytes);
                    }
                }
                if batch.is_full()
                    && batches.blocking_send(mem::replace(&mut batch, Batch::of(0))).is_err()
                {
                    // Nobody takes it any more, and says why.
                    return Ok(ReadData { scan: self, contents });
                }
            }
            contents.push(pieces);
        }
        let _ = batches.blocking_send(batch);
        Ok(ReadData { scan: self, contents })
    }
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Chunk,
    Hole,
}

/// A scan whose files were read.
#[derive(Debug)]
struct ReadData {
    scan: Scan,
    /// Of each file, in the scan's order.
    contents: Vec<Vec<Shape>>,
}

impl ReadData {
    /// Puts it together. `chunks` are those of all files, one after the other.
    fn tree(self, chunks: Vec<CutChunk>) -> Tree {
        let mut tree = Tree::new();
        *tree.metadata_mut(Tree::ROOT) = self.scan.root;
        let (mut chunks, mut contents) = (chunks.into_iter(), self.contents.into_iter());
        let mut folders: BTreeMap<PathBuf, NodeId> = [(PathBuf::new(), Tree::ROOT)].into();
        for (path, found) in self.scan.entries {
            let is_folder = matches!(found, Found::Folder(_));
            let node = match found {
                Found::Folder(metadata) => tree.add(metadata, NodeKind::Directory(BTreeMap::new())),
                Found::Link(metadata, target) => tree.add(metadata, NodeKind::Symlink(target)),
                Found::File(metadata) => {
                    let mut content = FileContent::new();
                    for shape in contents.next().into_iter().flatten() {
                        match shape {
                            Shape::Hole => content.push_holes(1),
                            Shape::Chunk => {
                                content.push_chunk(chunks.next().expect("all were named"));
                            }
                        }
                    }
                    tree.add(metadata, NodeKind::Regular(content))
                }
            };
            let parent = folders[path.parent().unwrap_or(Path::new(""))];
            let name = path.file_name().expect("entries have names").as_bytes().to_vec();
            tree.entries_mut(parent).expect("a folder").insert(name, node);
            if is_folder {
                folders.insert(path, node);
            }
        }
        tree
    }
}

/// What a dataset keeps of a file's attributes: every user may read, nobody owns it.
fn normalised(metadata: &FileMetadata) -> Metadata {
    let is_open = metadata.is_dir() || metadata.mode() & 0o111 != 0;
    Metadata {
        permissions: if is_open { 0o755 } else { 0o644 },
        mtime: Timestamp {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
        ..Metadata::default()
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn scan(path: &Path) -> Result<Scan, String> {
        Scan::of(path).map_err(|error| error.to_string())
    }

    /// The tree without a fileserver.
    async fn tree(path: &Path) -> Tree {
        let scan = Scan::of(path).unwrap();
        let (sender, mut batches) = mpsc::channel(1);
        let bar = Progress::new(crate::output::Output::new(false, true)).bytes("x", 0);
        let reading = spawn_blocking(move || scan.read(&sender, &bar));
        let mut chunks = Vec::new();
        while let Some(batch) = batches.recv().await {
            chunks.extend(batch.chunks().iter().map(|bytes| CutChunk::of(bytes)));
        }
        reading.await.unwrap().unwrap().tree(chunks)
    }

    #[tokio::test]
    async fn a_folder_is_a_tree_that_everybody_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs_err::create_dir_all(at("a/b")).unwrap();
        // Longer than a batch, with a hole, and such that order matters.
        let long: Vec<u8> = (0..6_000_000u32).map(|n| u8::try_from(n / 131_072).unwrap()).collect();
        fs_err::write(at("a/long"), &long).unwrap();
        fs_err::write(at("a.txt"), "short").unwrap();
        fs_err::write(at("a/b/run.sh"), "#!/bin/sh").unwrap();
        symlink("../../a.txt", at("a/b/up")).unwrap();
        for (path, mode) in [("a.txt", 0o600), ("a/b/run.sh", 0o4700), ("a", 0o700)] {
            fs_err::set_permissions(at(path), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let (manifest, _) = tree(dir.path()).await.to_manifest(RunConfig::default()).unwrap();
        let inode = |path: &str| {
            let ino = manifest.resolve(path.as_bytes()).unwrap();
            (ino, manifest.inode(ino).unwrap())
        };
        for (path, mode) in [
            ("/a", 0o040_755),
            ("/a.txt", 0o100_644),
            ("/a/long", 0o100_644),
            ("/a/b/run.sh", 0o100_755),
            ("/a/b/up", 0o120_777),
        ] {
            let (_, inode) = inode(path);
            assert_eq!((inode.mode, inode.uid, inode.gid), (mode, 0, 0), "{path}");
        }
        assert_eq!(manifest.content_id(inode("/a.txt").0), Some(Digest::of(b"short")));
        assert_eq!(inode("/a/long").1.size(), 6_000_000);
        let first = manifest.extents(inode("/a/long").0)[0];
        assert_eq!(first.source, sway_core::manifest::ExtentSource::Hole);
        let nineth = &long[131_072 * 8..131_072 * 9];
        assert!(manifest.chunks().iter().any(|chunk| chunk.digest == Digest::of(nineth)));
    }

    #[tokio::test]
    async fn a_file_is_the_only_entry_under_the_name_it_goes_by() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("real"), "x").unwrap();
        let link = dir.path().join("private_message.txt");
        symlink("real", &link).unwrap();
        assert_eq!(Scan::of(&link).unwrap().kind, DatasetKind::File);
        let (manifest, _) = tree(&link).await.to_manifest(RunConfig::default()).unwrap();
        assert!(manifest.resolve(b"/private_message.txt").is_some());
        assert_eq!(manifest.inode_count(), 2);
    }

    #[test]
    fn what_leads_out_and_what_is_no_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        fs_err::create_dir(&sub).unwrap();
        for target in ["/etc/passwd", "../../x", "d/../../x"] {
            symlink(target, sub.join("link")).unwrap();
            let error = scan(dir.path()).unwrap_err();
            assert!(error.contains("sub/link is a link"), "{error}");
            fs_err::remove_file(sub.join("link")).unwrap();
        }
        let socket = std::os::unix::net::UnixListener::bind(sub.join("socket")).unwrap();
        assert!(scan(dir.path()).unwrap_err().contains("sub/socket is neither"));
        drop(socket);
        fs_err::remove_file(sub.join("socket")).unwrap();
        assert!(scan(dir.path()).is_ok());
        assert!(scan(Path::new("/dev/null")).unwrap_err().contains("/dev/null is neither"));
        assert!(scan(&sub.join("none")).unwrap_err().contains("there is no"));
    }
}
