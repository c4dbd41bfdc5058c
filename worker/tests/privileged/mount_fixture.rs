//! Images made of plain directories, a fileserver that does as it is told, and mounts over both.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use sway_core::blob::{FrameHeader, encode};
use sway_core::chunk::{CutChunk, Piece, cut};
use sway_core::digest::Digest;
use sway_core::manifest::{FileContent, Metadata, NodeId, NodeKind, RunConfig, Timestamp, Tree};
use sway_server::tasks::Tasks;
use sway_worker::account::Accounts;
use sway_worker::cache::{Chunks, ChunksConfig};
use sway_worker::fetch::{BlobSource, FetchConfig, Frames, SourceError, Wanted};
use sway_worker::fuse::RequestHook;
use sway_worker::mount::{ImageMount, Mounts, MountsConfig};
use sway_worker::predict::PredictConfig;
use tokio::sync::watch;

/// A fileserver in this process.
#[derive(Debug, Default)]
pub(crate) struct Store {
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    /// All digests that were asked for, in order.
    asked: Mutex<Vec<Digest>>,
    down: AtomicBool,
    closed: watch::Sender<bool>,
}

impl Store {
    pub(crate) fn put(&self, raw: &[u8]) -> Digest {
        let digest = Digest::of(raw);
        self.blobs.lock().unwrap().insert(digest, raw.to_vec());
        digest
    }

    /// A blob, raw.
    pub(crate) fn raw(&self, digest: Digest) -> Option<Vec<u8>> {
        self.blobs.lock().unwrap().get(&digest).cloned()
    }

    /// All blobs, raw.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        self.blobs.lock().unwrap().values().cloned().collect()
    }

    /// Refuses connections from now on, or no more.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Takes requests and does not answer them, until it is opened again.
    pub(crate) fn set_closed(&self, closed: bool) {
        self.closed.send_replace(closed);
    }

    /// The store as a worker sees it.
    pub(crate) fn source(store: &Arc<Self>) -> Arc<dyn BlobSource> {
        Arc::new(Source(Arc::clone(store)))
    }

    pub(crate) fn asked(&self) -> Vec<Digest> {
        self.asked.lock().unwrap().clone()
    }
}

/// `BlobSource` of a shared store.
#[derive(Debug)]
struct Source(Arc<Store>);

impl BlobSource for Source {
    fn fetch(&self, wanted: Vec<Wanted>, _: Vec<Digest>) -> Frames {
        let digests: Vec<_> = wanted.iter().map(|wanted| wanted.digest).collect();
        let store = Arc::clone(&self.0);
        let answer = async move {
            store.asked.lock().unwrap().extend(&digests);
            if store.down.load(Ordering::SeqCst) {
                return vec![Err(SourceError::Unreachable("connection refused".to_owned()))];
            }
            store.closed.subscribe().wait_for(|closed| !closed).await.unwrap();
            let blobs = store.blobs.lock().unwrap();
            let frame = |digest: &Digest| match blobs.get(digest) {
                Some(raw) => {
                    let encoded = Bytes::from(encode(raw));
                    Ok((FrameHeader::new(*digest, raw.len(), encoded.len()), encoded))
                }
                None => Ok((FrameHeader::missing(*digest), Bytes::new())),
            };
            digests.iter().map(frame).collect()
        };
        futures::stream::once(answer).flat_map(futures::stream::iter).boxed()
    }
}

/// Stores a directory as an image and returns its manifest's digest.
pub(crate) fn export(dir: &Path, store: &Store) -> Digest {
    let mut tree = Tree::new();
    let mut links = HashMap::new();
    *tree.metadata_mut(Tree::ROOT) = metadata(dir);
    fill(&mut tree, Tree::ROOT, dir, store, &mut links);
    store_tree(&tree, store)
}

pub(crate) fn store_tree(tree: &Tree, store: &Store) -> Digest {
    let (manifest, roots) = tree.to_manifest(RunConfig::default()).unwrap();
    if let Some(roots) = roots {
        store.put(&roots);
    }
    store.put(&manifest.encode().unwrap())
}

fn fill(
    tree: &mut Tree,
    parent: NodeId,
    dir: &Path,
    store: &Store,
    links: &mut HashMap<u64, NodeId>,
) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let node = match links.get(&stat.ino()) {
            Some(node) => *node,
            None => {
                let kind = kind(&path, store);
                let node = tree.add(metadata(&path), kind);
                if stat.is_dir() {
                    fill(tree, node, &path, store, links);
                } else {
                    links.insert(stat.ino(), node);
                }
                node
            }
        };
        let name = path.file_name().unwrap().as_bytes().to_vec();
        tree.entries_mut(parent).unwrap().insert(name, node);
    }
}

fn kind(path: &Path, store: &Store) -> NodeKind {
    let stat = fs::symlink_metadata(path).unwrap();
    let file_type = stat.file_type();
    if file_type.is_dir() {
        NodeKind::Directory(BTreeMap::new())
    } else if file_type.is_symlink() {
        NodeKind::Symlink(fs::read_link(path).unwrap().into_os_string().into_vec())
    } else if file_type.is_char_device() {
        NodeKind::CharDevice(stat.rdev())
    } else if file_type.is_block_device() {
        NodeKind::BlockDevice(stat.rdev())
    } else if file_type.is_fifo() {
        NodeKind::Fifo
    } else if file_type.is_socket() {
        NodeKind::Socket
    } else {
        let mut content = FileContent::new();
        for piece in cut(fs::File::open(path).unwrap()) {
            match piece.unwrap() {
                Piece::Data(bytes) => {
                    store.put(&bytes);
                    content.push_chunk(CutChunk::of(&bytes));
                }
                Piece::Hole => content.push_holes(1),
            }
        }
        NodeKind::Regular(content)
    }
}

fn metadata(path: &Path) -> Metadata {
    let stat = fs::symlink_metadata(path).unwrap();
    let xattrs = xattr::list(path).unwrap().map(|name| {
        let value = xattr::get(path, &name).unwrap().unwrap();
        (name.into_vec(), value)
    });
    Metadata {
        permissions: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Timestamp {
            seconds: stat.mtime(),
            nanoseconds: u32::try_from(stat.mtime_nsec()).unwrap(),
        },
        xattrs: xattrs.collect(),
    }
}

/// Mounts over a [`Store`], with everything in a temporary directory.
pub(crate) struct Fixture {
    pub(crate) store: Arc<Store>,
    pub(crate) chunks: Arc<Chunks>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) mounts: Arc<Mounts>,
    pub(crate) tasks: Tasks,
    pub(crate) dir: tempfile::TempDir,
}

/// How a [`Fixture`] differs from the usual one.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) deadline: Duration,
    pub(crate) memory_bytes: u64,
    pub(crate) mounts_max: usize,
    pub(crate) shift_ids: bool,
    pub(crate) hook: Option<RequestHook>,
    pub(crate) predict: Option<PredictConfig>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            memory_bytes: 64 << 20,
            mounts_max: 8,
            shift_ids: false,
            hook: None,
            predict: None,
        }
    }
}

impl Fixture {
    pub(crate) fn new(options: Options) -> Self {
        Self::over(Arc::default(), tempfile::tempdir().unwrap(), options)
    }

    /// A worker over what an earlier one left in `dir`.
    pub(crate) fn over(store: Arc<Store>, dir: tempfile::TempDir, options: Options) -> Self {
        let tasks = Tasks::new();
        let config = ChunksConfig {
            memory_bytes: options.memory_bytes,
            disk_dir: Some(dir.path().join("cache")),
            fetch: FetchConfig { deadline: options.deadline, ..FetchConfig::default() },
            predict: options.predict,
            ..ChunksConfig::default()
        };
        let chunks = Chunks::new(config, Store::source(&store), tasks.clone()).unwrap();
        let accounts = Arc::new(Accounts::default());
        let mut config = MountsConfig::new(dir.path().join("mounts"));
        config.mounts_max = options.mounts_max;
        config.shift_ids = options.shift_ids;
        config.hook = options.hook;
        let mounts = Mounts::new(config, Arc::clone(&chunks), Arc::clone(&accounts), tasks.clone());
        Self { store, chunks, accounts, mounts, tasks, dir }
    }

    /// Mounts a copy of a directory.
    pub(crate) async fn mount(&self, dir: &Path) -> Arc<ImageMount> {
        let manifest = export(dir, &self.store);
        self.mounts.get(manifest).await.unwrap()
    }

    /// Ends everything in order and gives the directory back.
    pub(crate) async fn end(self) -> tempfile::TempDir {
        self.mounts.shutdown().await;
        assert!(self.tasks.shutdown(Duration::from_secs(20)).await);
        assert!(mounted_below(self.dir.path()).is_empty());
        let mountpoints = fs::read_dir(self.dir.path().join("mounts")).into_iter().flatten();
        assert_eq!(mountpoints.count(), 0);
        self.dir
    }
}

/// Runs what blocks on the kernel, and so maybe on this process' own FUSE threads, off the
/// runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Mountpoints below a directory.
pub(crate) fn mounted_below(dir: &Path) -> Vec<String> {
    let dir = format!("{}/", dir.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.starts_with(&dir)).map(str::to_owned).collect()
}

/// One line per entry with all that `lstat`, `readlink` and `listxattr` tell; content is left out.
/// Device and inode numbers are replaced by groups of hard links.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut groups: HashMap<u64, String> = HashMap::new();
    list(root, root, &mut groups, &mut lines);
    lines.sort();
    lines
}

fn list(root: &Path, path: &Path, groups: &mut HashMap<u64, String>, lines: &mut Vec<String>) {
    let stat = fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
    let mut line = format!(
        "{name} {:o} {}:{} {}.{:09} rdev {:x}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.rdev(),
    );
    if stat.is_dir() {
        line += &format!(" nlink {}", stat.nlink());
    } else {
        let first = groups.entry(stat.ino()).or_insert_with(|| name.clone());
        line += &format!(" size {} nlink {} group {first}", stat.size(), stat.nlink());
    }
    if stat.file_type().is_symlink() {
        let target = fs::read_link(path).unwrap();
        line += &format!(" -> {}", target.as_os_str().as_bytes().escape_ascii());
    }
    let mut names: Vec<_> = xattr::list(path).unwrap().collect();
    names.sort();
    for name in names {
        let value = xattr::get(path, &name).unwrap().unwrap();
        line += &format!(" {}={}", name.display(), value.escape_ascii());
    }
    lines.push(line);
    if stat.is_dir() {
        let mut children: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        children.sort();
        let unique: HashSet<_> = children.iter().collect();
        assert_eq!(unique.len(), children.len(), "an entry listed twice in {}", path.display());
        for child in children {
            list(root, &child, groups, lines);
        }
    }
}
