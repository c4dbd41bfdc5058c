//! Mounts of images: one per manifest, shared by all jobs of the image, kept while it is useful.
//!
//! The kernel's caches belong to the mount, so a mount outlives its jobs: an idle one goes only
//! when there are too many, the one used longest ago first. A worker that was killed leaves
//! mounts behind that answer nothing; [`Mounts::recover`] takes them away at the next start.
//!
//! Where the kernel can't map the owners of a FUSE mount (before Linux 6.12), an image has a
//! further mount for each range of ids that its jobs have had. Those share the tree and all chunks
//! with the first one, not the kernel's caches, and go with it.

mod readahead;
mod recover;
mod usage;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sway_core::blob::Blob;
use sway_core::digest::Digest;
use sway_core::job::JobSpec;
use sway_core::manifest::{Ino, Manifest, ManifestError};
use sway_core::name::UserName;
use sway_core::trace::TraceKey;
use sway_server::tasks::Tasks;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::account::Accounts;
use crate::cache::{Chunks, ChunksConfig, DiskCacheError};
use crate::fetch::{BlobSource, FetchError};
use crate::fuse::{
    Adapter, FuseSession, Mountpoint, READAHEAD_KIB, RequestCounts, RequestHook, SessionError,
    Surroundings,
};
use crate::id_map::IdMaps;
use crate::job::{Overlays, Owners};
use crate::predict::JobAhead;
use crate::rootfs::{Rootfs, RootfsError};
use crate::start::{Board, Traced};
use readahead::Holds;
pub use readahead::ReadaheadHold;
use usage::Usage;
pub use usage::{Aftermath, MountUse};

/// How long sessions may take to end at a shutdown; a busy one ends with the process.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// Starts that are remembered of one mount.
const STARTED_MAX: usize = 1024;

/// Why an image can't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Its manifest can't be had.
    #[error("manifest {digest}: {source}")]
    Fetch {
        /// The manifest.
        digest: Digest,
        /// The reason.
        source: FetchError,
    },
    /// Its manifest is not one.
    #[error("manifest {digest}: {source}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// The reason.
        source: ManifestError,
    },
    /// The mountpoint can't be prepared.
    #[error("mountpoint: {0}")]
    Directory(#[source] io::Error),
    /// The kernel refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The cache of a stand-alone mount can't be used.
    #[error(transparent)]
    Cache(#[from] DiskCacheError),
    /// The worker is stopping.
    #[error("the worker is stopping")]
    Stopping,
}

/// Settings of [`Mounts`].
#[derive(Clone, Debug)]
pub struct MountsConfig {
    /// Where the mountpoints are made: `DATA/mounts`.
    pub dir: PathBuf,
    /// Images that are kept mounted; more only while they are in use.
    pub mounts_max: usize,
    /// Never lets the kernel map owners, as if it could not.
    pub shift_ids: bool,
    /// For tests; none.
    pub hook: Option<RequestHook>,
}

impl MountsConfig {
    /// The usual settings below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), mounts_max: 8, shift_ids: false, hook: None }
    }
}

/// All mounts of a worker.
#[derive(Debug)]
pub struct Mounts {
    config: MountsConfig,
    chunks: Arc<Chunks>,
    accounts: Arc<Accounts>,
    tasks: Tasks,
    slots: Mutex<HashMap<Digest, Arc<Slot>>>,
    stopping: AtomicBool,
}

/// A mount, or one that is being made.
#[derive(Debug)]
struct Slot {
    mount: OnceCell<Arc<ImageMount>>,
    used: Mutex<Instant>,
}

impl Slot {
    fn new() -> Self {
        Self { mount: OnceCell::new(), used: Mutex::new(Instant::now()) }
    }

    fn note_use(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has the mount. Asked under the lock of the map, which is where new users
    /// come from.
    fn is_idle(slot: &Arc<Self>) -> bool {
        let nobody_has_it = |mount: &Arc<ImageMount>| Arc::strong_count(mount) == 1;
        Arc::strong_count(slot) == 1 && slot.mount.get().is_some_and(nobody_has_it)
    }
}

impl Mounts {
    /// No mounts yet. Parked reads are owned by `tasks`.
    pub fn new(
        config: MountsConfig,
        chunks: Arc<Chunks>,
        accounts: Arc<Accounts>,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            chunks,
            accounts,
            tasks,
            slots: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Unmounts all that a worker that was killed left mounted at or below `dir`, newest first,
    /// whatever it is, and removes the mountpoints. Returns how many mounts there were.
    pub fn recover(dir: &Path) -> io::Result<usize> {
        recover::unmount_below(dir)
    }

    /// The mount of the image with this manifest; made if there is none. Concurrent callers
    /// share one.
    pub async fn get(&self, manifest: Digest) -> Result<Arc<ImageMount>, MountError> {
        self.get_by(manifest, None).await
    }

    /// Like [`Mounts::get`], with the manifest's bytes at hand.
    pub async fn get_with(
        &self,
        manifest: Digest,
        blob: Blob,
    ) -> Result<Arc<ImageMount>, MountError> {
        self.get_by(manifest, Some(blob)).await
    }

    /// The mount of this image, if there is one.
    pub fn peek(&self, manifest: Digest) -> Option<Arc<ImageMount>> {
        let slot = self.lock().get(&manifest).cloned()?;
        slot.mount.get().filter(|mount| mount.is_alive()).cloned()
    }

    async fn get_by(
        &self,
        manifest: Digest,
        blob: Option<Blob>,
    ) -> Result<Arc<ImageMount>, MountError> {
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return Err(MountError::Stopping);
            }
            let slot =
                Arc::clone(self.lock().entry(manifest).or_insert_with(|| Arc::new(Slot::new())));
            let mount = slot.mount.get_or_try_init(|| self.make(manifest, blob.clone())).await?;
            if !mount.session.is_alive() {
                // Somebody unmounted it behind our back.
                let mut slots = self.lock();
                if slots.get(&manifest).is_some_and(|current| Arc::ptr_eq(current, &slot)) {
                    slots.remove(&manifest);
                }
                continue;
            }
            slot.note_use();
            let mount = Arc::clone(mount);
            drop(slot);
            self.drop_idle();
            return Ok(mount);
        }
    }

    /// A mount of this image that nobody else gets; dropping it unmounts. For runs that are to be
    /// watched: they read everything through it, and nothing that others have read.
    pub async fn get_private(&self, manifest: Digest) -> Result<Arc<ImageMount>, MountError> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(MountError::Stopping);
        }
        self.make(manifest, None).await
    }

    /// How many images are mounted.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Unmounts everything, in use or not.
    pub async fn shutdown(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let slots: Vec<Arc<Slot>> = self.lock().drain().map(|(_, slot)| slot).collect();
        let ends = slots.iter().filter_map(|slot| slot.mount.get()).map(|mount| async move {
            mount.shut_down().await;
        });
        futures::future::join_all(ends).await;
    }

    async fn make(
        &self,
        digest: Digest,
        blob: Option<Blob>,
    ) -> Result<Arc<ImageMount>, MountError> {
        let started = Instant::now();
        let service = Service {
            accounts: Arc::clone(&self.accounts),
            tasks: self.tasks.clone(),
            hook: self.config.hook.clone(),
            counts: Arc::default(),
            board: Arc::default(),
        };
        let dir = self.config.dir.clone();
        let place = move || Mountpoint::fresh(&dir, &digest.to_hex());
        let chunks = Arc::clone(&self.chunks);
        let blob = match blob {
            Some(blob) => {
                chunks.keep(&blob).await;
                blob
            }
            None => fetch(&chunks, digest, &self.accounts).await?,
        };
        let mut mount = ImageMount::make(blob, place, chunks, service).await?;
        mount.shift_ids |= self.config.shift_ids;
        tracing::info!(
            manifest.digest = %digest,
            path = %mount.path().display(),
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "mounted"
        );
        Ok(Arc::new(mount))
    }

    /// Unmounts what has not been used longest, until there are no more than there may be.
    fn drop_idle(&self) {
        let mut gone = Vec::new();
        let mut slots = self.lock();
        while slots.len() > self.config.mounts_max {
            let idle = slots.iter().filter(|(_, slot)| Slot::is_idle(slot));
            let Some(key) = idle.min_by_key(|(_, slot)| slot.used()).map(|(key, _)| *key) else {
                break;
            };
            gone.extend(slots.remove(&key));
        }
        drop(slots);
        // Unmounting waits for nobody, so it may happen here.
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An image that is mounted. Dropping the last handle unmounts.
#[derive(Debug)]
pub struct ImageMount {
    /// Before the sessions: they lie on their mounts.
    overlays: Overlays,
    digest: Digest,
    rootfs: Arc<Rootfs>,
    owners: Owners,
    service: Service,
    session: FuseSession,
    /// Whether jobs need mounts with their own ids.
    shift_ids: bool,
    /// Those, by the ids. Held while one is made: that takes milliseconds.
    shifted: tokio::sync::Mutex<HashMap<IdMaps, FuseSession>>,
    holds: Holds,
    usage: Usage,
    /// Starts that were made on it.
    started: Mutex<HashSet<(UserName, TraceKey)>>,
}

/// What a mount needs beside its tree to be served.
#[derive(Clone, Debug)]
struct Service {
    accounts: Arc<Accounts>,
    tasks: Tasks,
    hook: Option<RequestHook>,
    counts: Arc<RequestCounts>,
    board: Arc<Board>,
}

impl Service {
    /// Mounts. Blocks.
    fn start(
        self,
        rootfs: &Arc<Rootfs>,
        owners: Option<IdMaps>,
        mountpoint: Mountpoint,
    ) -> Result<FuseSession, SessionError> {
        let Self { accounts, tasks, hook, counts, board } = self;
        let surroundings = Surroundings { counts, board, hook };
        let adapter = Adapter::new(Arc::clone(rootfs), owners, accounts, tasks, surroundings);
        FuseSession::mount(adapter, mountpoint)
    }
}

impl ImageMount {
    async fn make(
        blob: Blob,
        place: impl FnOnce() -> io::Result<Mountpoint> + Send + 'static,
        chunks: Arc<Chunks>,
        service: Service,
    ) -> Result<Self, MountError> {
        let digest = blob.digest();
        on_blocking_thread(move || {
            let manifest = Manifest::decode(blob.as_ref())
                .map_err(|source| MountError::Manifest { digest, source })?;
            let rootfs = Arc::new(Rootfs::new(Arc::new(manifest), chunks));
            let mountpoint = place().map_err(MountError::Directory)?;
            let session = service.clone().start(&rootfs, None, mountpoint)?;
            let shift_ids = !session.can_be_idmapped();
            let shifted = tokio::sync::Mutex::default();
            let (holds, usage) = (Holds::default(), Usage::default());
            let (started, overlays) = (Mutex::default(), Overlays::default());
            Ok(Self {
                overlays,
                digest,
                owners: Owners::of(rootfs.manifest()),
                rootfs,
                service,
                session,
                shift_ids,
                shifted,
                holds,
                usage,
                started,
            })
        })
        .await
    }

    /// Whether the kernel can't map the owners of this mount (or shall not), so that each job
    /// needs [`ImageMount::shifted`].
    pub fn needs_shifted(&self) -> bool {
        self.shift_ids
    }

    /// Where the image is mounted with its owners mapped by `ids`; made if there is none yet.
    /// Stays as long as this mount.
    pub async fn shifted(&self, ids: &IdMaps) -> Result<PathBuf, MountError> {
        let mut shifted = self.shifted.lock().await;
        if let Some(mount) = shifted.get(ids).filter(|mount| mount.is_alive()) {
            return Ok(mount.path().to_owned());
        }
        let dir = self.path().parent().expect("a mountpoint lies in a directory").to_owned();
        let name = format!("ids-{}-{}", ids.uids.base(), self.digest.to_hex());
        let (service, rootfs) = (self.service.clone(), Arc::clone(&self.rootfs));
        let owners = ids.clone();
        let session = on_blocking_thread(move || {
            let mountpoint = Mountpoint::fresh(&dir, &name).map_err(MountError::Directory)?;
            Ok::<_, MountError>(service.start(&rootfs, Some(owners), mountpoint)?)
        });
        let session = session.await?;
        let path = session.path().to_owned();
        tracing::info!(
            manifest.digest = %self.digest,
            path = %path.display(),
            "mounted with shifted owners"
        );
        shifted.insert(ids.clone(), session);
        Ok(path)
    }

    /// Unmounts, in use or not.
    async fn shut_down(&self) {
        self.overlays.clear();
        let mut shifted = self.shifted.lock().await;
        let shifted: Vec<FuseSession> = shifted.drain().map(|(_, session)| session).collect();
        let ends = shifted.iter().chain([&self.session]).map(|session| async move {
            if !session.shut_down(SHUTDOWN_DEADLINE).await {
                tracing::warn!(path = %session.path().display(), "mount is still in use; left behind");
            }
        });
        futures::future::join_all(ends).await;
    }

    /// Whether requests are still answered.
    pub fn is_alive(&self) -> bool {
        self.session.is_alive()
    }

    /// What starts bring to this mount.
    pub fn board(&self) -> &Arc<Board> {
        &self.service.board
    }

    /// Puts bytes of a file into the kernel's page cache; see [`FuseSession::store`].
    pub fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.session.store(ino, offset, bytes)
    }

    /// Notes that a start of this user and key was made on this mount: it is warm for them.
    pub fn note_started(&self, user: UserName, key: TraceKey) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if started.len() >= STARTED_MAX {
            started.clear();
        }
        started.insert((user, key));
    }

    /// Whether such a start was made.
    pub fn is_started(&self, user: &UserName, key: &TraceKey) -> bool {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.contains(&(user.clone(), key.clone()))
    }

    /// The requests that the kernel has sent for it.
    pub fn requests(&self) -> &RequestCounts {
        &self.service.counts
    }

    /// Sets how far the kernel reads ahead on this mount, in KiB. Tells whether it could be set.
    /// [`ImageMount::hold_readahead`] is for those who share it.
    pub fn set_readahead(&self, kib: u32) -> bool {
        let mut shifted_too = true;
        if let Ok(shifted) = self.shifted.try_lock() {
            shifted_too = shifted.values().all(|session| session.set_readahead(kib));
        }
        self.session.set_readahead(kib) && shifted_too
    }

    /// Keeps the kernel from reading ahead on this mount until this and all other holds are gone.
    pub fn hold_readahead(self: &Arc<Self>) -> ReadaheadHold {
        ReadaheadHold::of(Arc::clone(self))
    }

    /// Notes that a job begins to use this mount, for as long as what is returned lives.
    pub fn enter(self: &Arc<Self>) -> MountUse {
        MountUse::of(Arc::clone(self))
    }

    /// Overlays on it that wait for a job.
    pub fn overlays(&self) -> &Overlays {
        &self.overlays
    }

    /// The owners of its files.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// The manifest's digest: the image's name by content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The image's tree with its contents. Keeping it keeps no mount.
    pub fn rootfs(&self) -> &Arc<Rootfs> {
        &self.rootfs
    }

    /// The image's tree and run configuration.
    pub fn manifest(&self) -> &Arc<Manifest> {
        self.rootfs.manifest()
    }

    /// Guesses what a job will read, as long as the answer is held ([`Predictor::of_job`]).
    ///
    /// [`Predictor::of_job`]: crate::predict::Predictor::of_job
    pub fn ahead_of(&self, spec: &JobSpec, traced: Traced) -> Option<JobAhead> {
        Some(self.rootfs.predictor()?.of_job(spec, traced))
    }

    /// Where the image is mounted with its own owners: read-only, nosuid, nodev.
    pub fn path(&self) -> &Path {
        self.session.path()
    }

    /// The first `max` bytes of a file of the image, read without the kernel. Links are followed
    /// within the image.
    pub async fn read_file(&self, path: &[u8], max: usize) -> Result<Vec<u8>, RootfsError> {
        let ino = self.manifest().resolve_following(path).ok_or(RootfsError::NoEntry)?;
        let account = Arc::default();
        Ok(self.rootfs.read(ino, 0, max, &account).await?.as_ref().to_vec())
    }
}

/// Mounts one image at `dir` with a cache of its own, until `shutdown` or until somebody
/// unmounts it: `sway mount`.
pub async fn foreground(
    source: Arc<dyn BlobSource>,
    manifest: Digest,
    dir: &Path,
    cache: ChunksConfig,
    shutdown: CancellationToken,
) -> Result<(), MountError> {
    let tasks = Tasks::new();
    let chunks = Chunks::new(cache, source, tasks.clone())?;
    let accounts = Arc::new(Accounts::default());
    let service = Service {
        accounts,
        tasks: tasks.clone(),
        hook: None,
        counts: Arc::default(),
        board: Arc::default(),
    };
    let dir = fs_err::canonicalize(dir).map_err(MountError::Directory)?;
    let place = move || Ok(Mountpoint::existing(dir));
    let blob = fetch(&chunks, manifest, &service.accounts).await?;
    let mount = ImageMount::make(blob, place, chunks, service).await?;
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = mount.session.ended() => {}
    }
    mount.session.shut_down(SHUTDOWN_DEADLINE).await;
    tasks.shutdown(SHUTDOWN_DEADLINE).await;
    Ok(())
}

/// The bytes of a manifest, from disk or from the fileserver.
async fn fetch(chunks: &Chunks, digest: Digest, accounts: &Accounts) -> Result<Blob, MountError> {
    let fetched = chunks.blob(digest, accounts.unattributed()).await;
    fetched.map_err(|source| MountError::Fetch { digest, source })
}

/// Runs what may block off the runtime's threads.
async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("blocking work is never cancelled: {error}"),
        },
    }
}
