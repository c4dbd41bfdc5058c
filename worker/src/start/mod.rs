//! Starts: what the first run of an image on a mount needs, ahead of its asking for it.
//!
//! One request brings the manifest, the trace and its frames in order of first use
//! (`GET /v1/start`). A start begins when a job is submitted ([`Starts::resolve`]): the image is
//! mounted as soon as its manifest is here, and frames go into the kernel's page cache while the
//! container is made. Jobs of one image, user and key share a start; the last one that leaves ends
//! it. Whatever goes wrong with it, reads go on demand as without it.
//!
//! The way of a frame: `stream` receives it, `bring` decodes and checks it (`plan`), the `board`
//! answers the reads that wait for it, `push` stores it in the kernel, `file` keeps it for the next worker.

mod board;
mod bring;
mod file;
mod plan;
mod push;
mod source;
mod stream;
mod used;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sway_client::ClientError;
use sway_client::start::{StartAnswer, StartHead, StartQuery};
use sway_core::api::jobs::TraceUse;
use sway_core::digest::Digest;
use sway_core::manifest::Manifest;
use sway_core::name::{RefName, UserName};
use sway_core::trace::{Trace, TraceKey};
use sway_server::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use board::{Board, Demand, Outlook, PageKey, Parked, Span, StartId, Waiter};
pub use file::StartFiles;
pub use plan::{FrameError, Piece, Plan, Target};
pub use source::StartSource;
pub use used::Pushed;

use crate::mount::{ImageMount, MountError, MountUse, Mounts};

/// Connections of one start: their slow starts add up.
const STRIPES: u8 = sway_core::api::start::STRIPES_MAX;

/// How long a start that nobody has joined yet goes on.
const LINGER: Duration = Duration::from_secs(5);

/// How long a job waits for the mount that its start makes before it makes one itself.
const MOUNT_DEADLINE: Duration = Duration::from_secs(10);

/// How often a question is asked again whose answer was of two states.
const MOVED_TRIES_MAX: usize = 3;

/// Names whose last state is remembered.
const KNOWN_MAX: usize = 4096;

/// What is done with traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TraceMode {
    /// Their frames are pushed into the kernel's page cache.
    Push,
    /// Their frames answer reads, and nothing is pushed.
    Read,
    /// Nothing; none are recorded either.
    Off,
}

/// Whether a trace goes with a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// None.
    Not,
    /// One of other images ([`Donor`]).
    Donated,
    /// One of the image.
    Own,
}

/// Figures of a start, so far. Those that share it see the same ones, but for the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartFigures {
    /// What was done.
    pub mode: TraceUse,
    /// Whether the image has a trace for this run, warm mount or not.
    pub has_trace: bool,
    /// Bytes put into the kernel's page cache; in mode `read`, bytes made ready.
    pub pushed_bytes: u64,
    /// Pages of them.
    pub pushed_pages: u64,
    /// Frames that arrived and were right.
    pub frames: u64,
    /// Frames that came from the fileserver; for the first asker only.
    pub fetched_frames: u64,
    /// Frames that were not the image's and not used.
    pub refused: u64,
    /// Bytes that came from the fileserver, the manifest's too; for the first asker only.
    pub bytes_on_wire: u64,
    /// Bytes that came from the file of an earlier start.
    pub bytes_from_disk: u64,
}

#[derive(Debug, Default)]
struct Counters {
    pushed_bytes: AtomicU64,
    pushed_pages: AtomicU64,
    frames: AtomicU64,
    fetched_frames: AtomicU64,
    refused: AtomicU64,
    bytes_on_wire: AtomicU64,
    bytes_from_disk: AtomicU64,
}

/// Bytes of a page, for counting them.
const PAGE_LEN: usize = sway_core::chunk::PAGE_LEN as usize;

impl Counters {
    fn pushed(&self, bytes: usize) {
        self.pushed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.pushed_pages.fetch_add(bytes.div_ceil(PAGE_LEN) as u64, Ordering::Relaxed);
        metrics::counter!("sway_start_pushed_bytes_total").increment(bytes as u64);
    }

    fn arrived(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    fn fetched(&self) {
        self.fetched_frames.fetch_add(1, Ordering::Relaxed);
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("sway_start_frames_refused_total").increment(1);
    }
}

/// Settings of [`Starts`].
#[derive(Clone, Debug)]
pub struct StartsConfig {
    /// What is done with traces.
    pub mode: TraceMode,
    /// Where the files of starts lie; none for no files.
    pub dir: Option<PathBuf>,
    /// Bytes of them.
    pub disk_bytes: u64,
}

/// A trace of other images that fits this one, for an image that has none.
#[derive(Clone, Debug)]
pub struct Donor {
    /// The trace.
    pub trace: Arc<Trace>,
    /// Its frames, as far as they are worth fetching, in order.
    pub frames: Vec<Digest>,
}

/// Finds donors: what this worker knows of other images' traces.
pub trait Donors: std::fmt::Debug + Send + Sync {
    /// The trace that covers most of this image, of the same key where there is one.
    fn donor(
        &self,
        user: UserName,
        manifest: Arc<Manifest>,
        key: TraceKey,
    ) -> BoxFuture<'_, Option<Donor>>;
}

/// Which start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StartKey {
    manifest: Digest,
    user: UserName,
    key: TraceKey,
}

/// What was asked for by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NameKey {
    images: Vec<RefName>,
    user: UserName,
    key: TraceKey,
}

/// All starts of a worker.
#[derive(Debug)]
pub struct Starts {
    config: StartsConfig,
    source: Arc<dyn StartSource>,
    mounts: Arc<Mounts>,
    files: Option<Arc<StartFiles>>,
    donors: OnceLock<Arc<dyn Donors>>,
    tasks: Tasks,
    open: Mutex<HashMap<StartKey, Weak<Start>>>,
    /// The last states, as the fileserver told them.
    known: Mutex<HashMap<NameKey, StartHead>>,
    /// Names that are being asked for; whoever comes meanwhile asks after that, and gets little.
    asking: Mutex<HashMap<NameKey, watch::Receiver<()>>>,
}

/// One start that is under way, as those see it who take part.
#[derive(Debug)]
struct Start {
    shared: Arc<Shared>,
    /// Ends the lingering once somebody has joined.
    joined: CancellationToken,
    is_charged: AtomicBool,
}

/// What the tasks of a start share with it.
#[derive(Debug)]
struct Shared {
    key: StartKey,
    mode: TraceMode,
    stop: CancellationToken,
    mount: watch::Sender<Mounting>,
    counters: Counters,
    /// What it brings, once that is known.
    plan: OnceLock<Arc<Plan>>,
    bundle: Mutex<Option<Digest>>,
    /// Whether a trace goes with it; none until that is known.
    traced: watch::Sender<Option<Traced>>,
    /// Jobs have mounts of their own, into which nothing is pushed.
    is_only_read: AtomicBool,
}

/// How far the mount of a start is.
#[derive(Clone, Debug)]
enum Mounting {
    Opening,
    Mounted(Arc<ImageMount>),
    Failed,
}

impl Drop for Start {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// A job's part in a start. The start ends when the last one is dropped.
#[derive(Debug)]
pub struct StartGuard {
    starts: Arc<Starts>,
    manifest: Digest,
    /// None where the mount is warm.
    start: Option<Arc<Start>>,
    /// The bytes on the wire are this one's.
    is_first: bool,
    bundle: Option<Digest>,
}

impl StartGuard {
    /// The image's mount: made by the start as soon as it has the manifest.
    pub async fn mount(&self) -> Result<Arc<ImageMount>, MountError> {
        if let Some(start) = &self.start {
            let mut state = start.shared.mount.subscribe();
            let made = state.wait_for(|state| !matches!(state, Mounting::Opening));
            if let Ok(Ok(state)) = tokio::time::timeout(MOUNT_DEADLINE, made).await
                && let Mounting::Mounted(mount) = &*state
                && mount.is_alive()
            {
                return Ok(Arc::clone(mount));
            }
        }
        self.starts.mounts.get(self.manifest).await
    }

    /// The trace that the start goes by, once it is known.
    pub fn trace(&self) -> Option<Arc<Trace>> {
        Some(Arc::clone(self.start.as_ref()?.shared.plan.get()?.trace()))
    }

    /// The bundle of the image's own trace for this run, where it has one.
    pub fn bundle(&self) -> Option<Digest> {
        match &self.start {
            Some(start) => *lock(&start.shared.bundle),
            None => self.bundle,
        }
    }

    /// Whether a trace goes with the start, as soon as that is known.
    pub async fn traced(&self) -> Traced {
        let Some(start) = &self.start else {
            return if self.bundle.is_some() { Traced::Own } else { Traced::Not };
        };
        let mut state = start.shared.traced.subscribe();
        let known = tokio::time::timeout(MOUNT_DEADLINE, state.wait_for(Option::is_some)).await;
        let Ok(Ok(known)) = known else { return Traced::Not };
        known.unwrap_or(Traced::Not)
    }

    /// What was pushed, for a job that has ended and was the only one on its mount.
    pub fn pushed(&self, usage: &MountUse) -> Option<Pushed> {
        let StartFigures { mode, pushed_bytes: bytes, .. } = self.figures();
        let plan = Arc::clone(self.start.as_ref()?.shared.plan.get()?);
        let mount = usage.aftermath()?;
        (mode == TraceUse::Pushed && bytes > 0).then_some(Pushed { mount, plan, bytes })
    }

    /// How it went so far.
    pub fn figures(&self) -> StartFigures {
        let has_trace = self.bundle().is_some();
        let Some(start) = &self.start else {
            return StartFigures { has_trace, ..StartFigures::default() };
        };
        let shared = &start.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let own = |counter: &AtomicU64| if self.is_first { read(counter) } else { 0 };
        let mode = match (shared.plan.get(), shared.mode) {
            (Some(_), TraceMode::Push) if !shared.is_only_read.load(Ordering::Relaxed) => {
                TraceUse::Pushed
            }
            (Some(_), TraceMode::Push | TraceMode::Read) => TraceUse::Read,
            (None, _) | (_, TraceMode::Off) => TraceUse::None,
        };
        StartFigures {
            mode,
            has_trace,
            pushed_bytes: read(&shared.counters.pushed_bytes),
            pushed_pages: read(&shared.counters.pushed_pages),
            frames: read(&shared.counters.frames),
            fetched_frames: own(&shared.counters.fetched_frames),
            refused: read(&shared.counters.refused),
            bytes_on_wire: own(&shared.counters.bytes_on_wire),
            bytes_from_disk: own(&shared.counters.bytes_from_disk),
        }
    }
}

impl Starts {
    /// No starts yet. Their work is owned by `tasks`.
    pub fn new(
        config: StartsConfig,
        source: Arc<dyn StartSource>,
        mounts: Arc<Mounts>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let files = config.dir.as_deref();
        let files = files.map(|dir| Arc::new(StartFiles::new(dir, config.disk_bytes)));
        // The first start after a pause pays no handshake.
        let (warm, stopping) = (source.keep_warm(STRIPES), tasks.stopping().clone());
        tasks.spawn("keep connections", async move {
            let _ = stopping.run_until_cancelled(warm).await;
        });
        Arc::new(Self {
            config,
            source,
            mounts,
            files,
            donors: OnceLock::new(),
            tasks,
            open: Mutex::default(),
            known: Mutex::default(),
            asking: Mutex::default(),
        })
    }

    /// Says where donors come from; once.
    pub fn set_donors(&self, donors: Arc<dyn Donors>) {
        let _ = self.donors.set(donors);
    }

    /// What is done with traces.
    pub fn mode(&self) -> TraceMode {
        self.config.mode
    }

    /// The first of `images` that the fileserver has; none if it has none of them. Begins the
    /// start of it, which [`Starts::begin`] joins within 5 s, unless the mount is warm.
    pub async fn resolve(
        self: &Arc<Self>,
        user: &UserName,
        images: Vec<RefName>,
        key: &TraceKey,
    ) -> Result<Option<StartHead>, ClientError> {
        let name = NameKey { images, user: user.clone(), key: key.clone() };
        let others = lock(&self.asking).get(&name).cloned();
        if let Some(mut others) = others {
            // Ends when the other one does, however it does.
            let _ = others.changed().await;
        }
        let (_asked, asking) = watch::channel(());
        lock(&self.asking).insert(name.clone(), asking);
        let resolved = self.ask(&name).await;
        lock(&self.asking).remove(&name);
        resolved
    }

    /// What [`Starts::resolve`] found last, as long as that is warm: most likely it finds it again.
    pub fn expected(
        &self,
        user: &UserName,
        images: Vec<RefName>,
        key: &TraceKey,
    ) -> Option<Digest> {
        let name = NameKey { images, user: user.clone(), key: key.clone() };
        let manifest = lock(&self.known).get(&name)?.manifest;
        self.is_warm(&name.start(manifest)).then_some(manifest)
    }

    async fn ask(self: &Arc<Self>, name: &NameKey) -> Result<Option<StartHead>, ClientError> {
        let known = lock(&self.known).get(name).cloned();
        let known = known.filter(|head| self.is_warm(&name.start(head.manifest)));
        // A worker that has done this before begins while it asks.
        let early = match &known {
            Some(_) => None,
            None => self.begin_from_file(name).await,
        };
        let etag = known.as_ref().map(|head| head.etag.clone());
        let etag = etag.or_else(|| early.as_ref().map(|early| early.etag.clone()));
        let query = StartQuery {
            images: name.images.clone(),
            manifest: None,
            user: name.user.clone(),
            keys: self.keys(&name.key),
            have: Vec::new(),
            etag,
            changes: early.is_some(),
            stripes: STRIPES,
        };
        let answer = self.ask_again(query).await?;
        let (head, frames) = match answer {
            StartAnswer::NoImage => return Ok(None),
            StartAnswer::Unchanged(head) => (head, None),
            StartAnswer::Stream(head, frames) => (head, Some(frames)),
        };
        let start = name.start(head.manifest);
        match frames {
            // What is warm stays so, however the trace has changed.
            Some(frames) if !self.is_warm(&start) => {
                let is_early = early.as_ref().is_some_and(|early| early.manifest == head.manifest);
                if is_early {
                    // What is on disk does for now; the next start has what is new.
                    stream::refresh(self, &start, head.clone(), frames);
                } else {
                    let origin = stream::Origin::Server { head: head.clone(), frames };
                    self.launch(start, origin);
                }
            }
            Some(_) | None => {}
        }
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(name.clone(), head.clone());
        drop(known);
        if let Some(files) = self.files.clone() {
            let (name, head) = (name.clone(), head.clone());
            self.tasks.spawn_blocking("note start", move || files.note(&name, head.manifest));
        }
        Ok(Some(head))
    }

    async fn ask_again(&self, query: StartQuery) -> Result<StartAnswer, ClientError> {
        let mut tries = 0;
        loop {
            match self.source.start(query.clone()).await {
                Err(error) if error.is_transient() && tries < MOVED_TRIES_MAX => {
                    tracing::debug!(%error, "asking for a start again");
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(20 << (2 * tries))).await;
                }
                answer => return answer,
            }
        }
    }

    fn keys(&self, key: &TraceKey) -> Vec<TraceKey> {
        match self.config.mode {
            TraceMode::Off => Vec::new(),
            TraceMode::Push | TraceMode::Read => {
                let mut keys = vec![key.clone(), TraceKey::any()];
                keys.dedup();
                keys
            }
        }
    }

    /// Takes part in the start of an image, or begins it.
    pub fn begin(
        self: &Arc<Self>,
        manifest: Digest,
        user: &UserName,
        key: &TraceKey,
    ) -> StartGuard {
        let key = StartKey { manifest, user: user.clone(), key: key.clone() };
        let known = lock(&self.known);
        let bundle = known
            .iter()
            .find(|(name, head)| {
                head.manifest == manifest && name.user == key.user && name.key == key.key
            })
            .and_then(|(_, head)| head.bundle);
        drop(known);
        let mut start = lock(&self.open).get(&key).and_then(Weak::upgrade);
        if start.is_none() && !self.is_warm(&key) {
            start = Some(self.launch(key, stream::Origin::Ask));
        }
        let is_first = start.as_ref().is_some_and(|start| {
            start.joined.cancel();
            !start.is_charged.swap(true, Ordering::SeqCst)
        });
        StartGuard { starts: Arc::clone(self), manifest, start, is_first, bundle }
    }

    /// Whether the image is mounted and this start was made on the mount.
    fn is_warm(&self, key: &StartKey) -> bool {
        let mount = self.mounts.peek(key.manifest);
        mount.is_some_and(|mount| mount.is_started(&key.user, &key.key))
    }

    /// Begins from the file of an earlier start, if there is one and nothing else is under way.
    async fn begin_from_file(self: &Arc<Self>, name: &NameKey) -> Option<Early> {
        if self.config.mode == TraceMode::Off {
            return None;
        }
        let files = self.files.clone()?;
        let asked = name.clone();
        let found = tokio::task::spawn_blocking(move || {
            let manifest = files.noted(&asked)?;
            let key = asked.start(manifest);
            let file = files.open(&key)?;
            Some((key, file))
        });
        let (key, file) = found.await.ok().flatten()?;
        let etag = file.etag().to_owned();
        if self.is_warm(&key) {
            return Some(Early { etag, manifest: key.manifest, _start: None });
        }
        let manifest = key.manifest;
        let start = self.launch(key, stream::Origin::File(file));
        Some(Early { etag, manifest, _start: Some(start) })
    }

    /// The start of this key: the one that is open, or a new one from `origin`.
    fn launch(self: &Arc<Self>, key: StartKey, origin: stream::Origin) -> Arc<Start> {
        let mut open = lock(&self.open);
        if let Some(start) = open.get(&key).and_then(Weak::upgrade) {
            return start;
        }
        open.retain(|_, start| start.strong_count() > 0);
        let shared = Arc::new(Shared {
            key: key.clone(),
            mode: self.config.mode,
            stop: self.tasks.stopping().child_token(),
            mount: watch::Sender::new(Mounting::Opening),
            counters: Counters::default(),
            plan: OnceLock::new(),
            bundle: Mutex::default(),
            traced: watch::Sender::new(None),
            is_only_read: AtomicBool::new(false),
        });
        let start = Arc::new(Start {
            shared: Arc::clone(&shared),
            joined: CancellationToken::new(),
            is_charged: AtomicBool::new(false),
        });
        open.insert(key, Arc::downgrade(&start));
        drop(open);
        let starts = Arc::clone(self);
        self.tasks.spawn("start", async move { stream::run(&starts, &shared, origin).await });
        let lingering = Arc::clone(&start);
        self.tasks.spawn("start lingers", async move {
            let joined = lingering.joined.clone();
            let stop = lingering.shared.stop.clone();
            tokio::select! {
                () = joined.cancelled() => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            drop(lingering);
        });
        start
    }

    /// A trace of other images for this one.
    async fn donor(&self, key: &StartKey, manifest: &Arc<Manifest>) -> Option<Donor> {
        let donors = self.donors.get()?;
        donors.donor(key.user.clone(), Arc::clone(manifest), key.key.clone()).boxed().await
    }
}

/// A start that began from a file before the fileserver was asked.
struct Early {
    etag: String,
    manifest: Digest,
    _start: Option<Arc<Start>>,
}

impl NameKey {
    fn start(&self, manifest: Digest) -> StartKey {
        StartKey { manifest, user: self.user.clone(), key: self.key.clone() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
