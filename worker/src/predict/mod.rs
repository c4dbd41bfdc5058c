//! What a program without a trace is going to read, guessed and fetched before it asks.
//!
//! On demand alone, every file that a program opens costs a round trip. Four guesses are made
//! instead, each by a pure part: what a job's request names (`program`, `python`, `node`), what a
//! file that arrives or is read names in turn (`pyc`, `elf`), what lies next to a file that was
//! missed (`likely`), and at last everything else. Guesses wait in a queue, the surest and
//! soonest first, and are fetched in small batches side by side: so many that the network is
//! busy, so few that a reader who misses something does not stand behind them for long.
//!
//! A guess is never an error and never believed: it only decides what is asked for. Every chunk is
//! asked for at most once.

mod brought;
mod elf;
mod expand;
mod libraries;
mod likely;
mod node;
mod program;
mod pyc;
mod python;
mod queue;
mod tree;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use sway_core::blob::Blob;
use sway_core::chunk::PAGE_LEN;
use sway_core::digest::Digest;
use sway_core::job::JobSpec;
use sway_core::manifest::{Ino, Inode, Manifest};
use sway_core::read_plan::{Slice, read_plan};
use tokio::sync::Notify;

use crate::account::{CacheFigures, RunAccount};
use crate::cache::Chunks;
use crate::start::{Plan, Traced};
use brought::Brought;
use python::Python;
use queue::{Class, Order, Queue};
use tree::Tree;

/// Raw bytes of one batch: about 200 KiB on the wire.
const BATCH_BYTES: u64 = 512 << 10;

/// Raw bytes of guesses under way at once: what a link of 500 Mbit/s and 20 ms holds, compressed.
const UNDER_WAY_MAX: u64 = 4 << 20;

/// The same for the background, while nobody waits for a read.
const BACKGROUND_MAX: u64 = 2 << 20;

/// A batch of the background while somebody does: 2 ms of such a link.
const BACKGROUND_BUSY: u64 = 256 << 10;

/// A file up to this length is fetched as a whole.
const WHOLE_LEN_MAX: u64 = 1 << 20;

/// The widest window that is fetched behind a miss in a long file, in chunks.
const WINDOW_MAX: u64 = 32;

/// Files and directories whose misses are counted; all are forgotten when there are more.
const COUNTED_MAX: usize = 4096;

/// Directories whose neighbourhood the background begins with.
const TOUCHED_MAX: usize = 1024;

/// Bytes after which the background looks anew where the program is.
const BACKGROUND_STRETCH: u64 = 16 << 20;

/// Raw bytes of the background for the first miss that no guess covered; they grow with the square
/// of the misses: with 20 there are 12 MiB, with 128 the image has arrived.
const CREDIT: u64 = 32 << 10;

/// What is fetched of an image that nobody asked for and no guess covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Background {
    /// Nothing.
    Off,
    /// As much of it as the guesses fail, while a job of the image runs, behind everything else.
    #[default]
    Idle,
    /// All of it, also after the job.
    Full,
}

/// Settings of a [`Predictor`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PredictConfig {
    /// The rest of the image.
    pub background: Background,
}

/// Guesses for one image.
#[derive(Debug)]
pub struct Predictor {
    manifest: Arc<Manifest>,
    chunks: Arc<Chunks>,
    config: PredictConfig,
    tree: OnceLock<Tree>,
    /// One bit for each inode that was read.
    touched: Vec<AtomicU64>,
    /// What was not looked at yet; held for a moment only, since readers wait for it.
    news: Mutex<Vec<News>>,
    /// Held by the task that fetches alone.
    state: Mutex<State>,
    /// Jobs without a trace.
    jobs: AtomicUsize,
    /// Jobs with one.
    traced_jobs: AtomicUsize,
    pumping: AtomicBool,
    wake: Notify,
}

/// What happened, for the task that guesses.
#[derive(Debug)]
enum News {
    /// A job is about to start, and is charged for what is guessed.
    Job(Box<JobSpec>, Arc<RunAccount>),
    /// A job is about to start that a trace is pushed for: one of other images, or the image's.
    Traced { spec: Box<JobSpec>, is_donated: bool, account: Arc<RunAccount> },
    /// A trace was laid over the image, and its pages are on their way.
    Laid(Arc<Plan>),
    /// A file is read for the first time.
    Touched(Ino),
    /// A read has to wait.
    Missed { ino: Ino, offset: u64, len: usize, account: Arc<RunAccount> },
}

/// A file that may name others, how sure it is that it is needed, and when.
#[derive(Clone, Debug)]
struct Lead {
    ino: Ino,
    class: Class,
    order: Order,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Whether there was a job that no trace fits: until then nothing is guessed.
    is_on: bool,
    /// The last job that a trace is pushed for, as long as nothing is guessed for it.
    traced: Option<TracedJob>,
    /// What the last trace brings.
    brought: Option<Brought>,
    /// Whether guesses are made for jobs with a trace too.
    is_beside_trace: bool,
    /// Files that are to be looked into.
    leads: VecDeque<Lead>,
    /// Files that were looked at, and how sure it was that they are needed.
    seen: HashMap<Ino, Class>,
    /// Files that are to be looked into when a chunk arrives.
    waiting: HashMap<u32, Vec<Lead>>,
    python: Option<Python>,
    ld_library_path: String,
    /// The programs of the jobs.
    programs: Vec<Ino>,
    /// Misses by file or directory.
    misses: HashMap<Ino, usize>,
    /// Directories in the order in which they were read from first.
    directories: Vec<Ino>,
    background: Rest,
    /// Who is charged: the job that began last, then the run whose reads came last.
    account: Arc<RunAccount>,
}

/// A job that a trace is pushed for.
#[derive(Debug)]
struct TracedJob {
    spec: Box<JobSpec>,
    is_donated: bool,
    account: Arc<RunAccount>,
}

/// The background's way through the image.
#[derive(Debug, Default)]
struct Rest {
    files: VecDeque<Ino>,
    /// Bytes until the order is made anew.
    stretch: u64,
    /// How many directories the order knows.
    directories: usize,
    /// Bytes taken so far.
    taken: u64,
    /// Misses that no guess covered.
    misses: u64,
    is_done: bool,
}

/// Chunks that are fetched together.
struct Batch {
    chunks: Vec<u32>,
    bytes: u64,
}

/// Guesses are made for a job as long as this is held.
#[derive(Debug)]
pub struct JobAhead {
    predictor: Arc<Predictor>,
    account: Arc<RunAccount>,
    is_traced: bool,
}

impl JobAhead {
    /// What was fetched for the job, beside what its own reads are charged with.
    pub fn figures(&self) -> CacheFigures {
        self.account.figures()
    }
}

impl Drop for JobAhead {
    fn drop(&mut self) {
        self.predictor.count(self.is_traced).fetch_sub(1, Ordering::SeqCst);
        self.predictor.wake.notify_one();
    }
}

/// Misses of a job with a trace after which the trace counts as another program's. A trace of other
/// images misses some twenty for a program that imports half of what theirs did: what the guesses
/// would bring for it is several times what it needs.
const TRACE_MISSES_MAX: u64 = 32;

impl Predictor {
    /// Guesses for the image of `manifest`; nothing is asked for yet.
    pub fn new(manifest: Arc<Manifest>, chunks: Arc<Chunks>, config: PredictConfig) -> Arc<Self> {
        let words = manifest.inode_count() / 64 + 1;
        let queue = Queue::new(manifest.chunks().len());
        Arc::new(Self {
            manifest,
            chunks,
            config,
            tree: OnceLock::new(),
            touched: std::iter::repeat_with(AtomicU64::default).take(words).collect(),
            news: Mutex::default(),
            state: Mutex::new(State {
                queue,
                is_on: false,
                traced: None,
                brought: None,
                is_beside_trace: false,
                leads: VecDeque::new(),
                seen: HashMap::new(),
                waiting: HashMap::new(),
                python: None,
                ld_library_path: String::new(),
                programs: Vec::new(),
                misses: HashMap::new(),
                directories: Vec::new(),
                background: Rest::default(),
                account: Arc::default(),
            }),
            jobs: AtomicUsize::new(0),
            traced_jobs: AtomicUsize::new(0),
            pumping: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// Asks ahead for what a job that is about to start needs, as far as its request tells, and
    /// lets the background run while the answer is held. Where another image's trace is pushed for
    /// it, what that does not bring is guessed; where the image's own is, only what lies near a
    /// miss, until so much is missed that the trace must be another program's.
    pub fn of_job(self: &Arc<Self>, spec: &JobSpec, traced: Traced) -> JobAhead {
        let is_traced = traced != Traced::Not;
        self.count(is_traced).fetch_add(1, Ordering::SeqCst);
        let account: Arc<RunAccount> = Arc::default();
        let (spec, charged) = (Box::new(spec.clone()), Arc::clone(&account));
        self.tell(match traced {
            Traced::Not => News::Job(spec, charged),
            Traced::Donated | Traced::Own => {
                let is_donated = traced == Traced::Donated;
                News::Traced { spec, is_donated, account: charged }
            }
        });
        JobAhead { predictor: Arc::clone(self), account, is_traced }
    }

    /// Takes note of what a trace brings, which is not to be guessed too.
    pub(crate) fn laid(self: &Arc<Self>, plan: Arc<Plan>) {
        self.tell(News::Laid(plan));
    }

    /// Notes that a file is read; looks into it the first time.
    pub(crate) fn touched(self: &Arc<Self>, ino: Ino) {
        let (word, bit) = (ino.0 as usize / 64, 1 << (ino.0 % 64));
        let Some(word) = self.touched.get(word) else { return };
        let is_known = word.load(Ordering::Relaxed) & bit != 0
            || word.fetch_or(bit, Ordering::Relaxed) & bit != 0;
        if !is_known {
            self.tell(News::Touched(ino));
        }
    }

    /// Notes that a read has to wait, and asks for what lies near: the small files of the
    /// directory, or more of a long file.
    pub(crate) fn missed(
        self: &Arc<Self>,
        ino: Ino,
        offset: u64,
        len: usize,
        account: &Arc<RunAccount>,
    ) {
        self.tell(News::Missed { ino, offset, len, account: Arc::clone(account) });
    }

    fn tell(self: &Arc<Self>, news: News) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).push(news);
        self.pump();
    }

    /// Looks at what happened, and into what is to be looked into.
    fn take_note(&self) {
        let news = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
        let mut state = self.lock();
        for news in news {
            match news {
                News::Job(spec, account) => {
                    state.account = account;
                    self.begin(&mut state, &spec);
                }
                News::Traced { spec, is_donated, account } => {
                    state.traced = Some(TracedJob { spec, is_donated, account });
                }
                News::Laid(plan) => state.brought = Some(Brought::by(plan)),
                News::Touched(ino) => self.note_touch(&mut state, ino),
                News::Missed { ino, offset, len, account } => {
                    state.account = account;
                    self.note_miss(&mut state, ino, offset, len);
                }
            }
        }
        if state.brought.is_some() && state.traced.as_ref().is_some_and(|job| job.is_donated) {
            self.begin_beside_trace(&mut state);
        }
        while let Some(lead) = state.leads.pop_front() {
            self.look_into(&mut state, lead, None);
        }
    }

    /// Wants what a job's request names.
    fn begin(&self, state: &mut State, spec: &JobSpec) {
        state.is_on = true;
        let tree = self.tree();
        let start = program::start(tree, spec);
        let order = Order::default();
        state.ld_library_path = start.ld_library_path;
        state.programs = start.files.first().copied().into_iter().collect();
        for (number, &file) in start.files.iter().enumerate() {
            self.want_file(state, file, Class::Needed, &order.then(number));
        }
        if let Some(python) = start.python {
            for (number, import) in start.imports.iter().enumerate() {
                let class = if import.later { Class::Later } else { Class::Needed };
                let order = order.then(start.files.len() + number);
                for (number, file) in python.files(tree, None, import).into_iter().enumerate() {
                    self.want_file(state, file, class, &order.then(number));
                }
            }
            state.python = Some(python);
        }
        if let Some(directory) = start.directory {
            for (number, module) in start.modules.iter().enumerate() {
                for file in node::files(tree, directory, module) {
                    self.want_file(state, file, Class::Needed, &order.then(number));
                }
            }
        }
    }

    /// The same for a job with a trace, but for what the trace brings.
    fn begin_beside_trace(&self, state: &mut State) {
        let Some(job) = state.traced.take() else { return };
        for chunk in state.brought.iter().flat_map(|it| it.chunks(&self.manifest)) {
            state.queue.note_taken(chunk);
        }
        state.is_beside_trace = true;
        state.account = job.account;
        self.begin(state, &job.spec);
    }

    fn note_touch(&self, state: &mut State, ino: Ino) {
        let directory = self.tree().directory_of(ino);
        if state.directories.len() < TOUCHED_MAX && !state.directories.contains(&directory) {
            state.directories.push(directory);
        }
        if state.is_on && self.is_telling(ino) {
            self.want_file(state, ino, Class::Needed, &Order::default());
        }
    }

    fn note_miss(&self, state: &mut State, ino: Ino, offset: u64, len: usize) {
        let tree = self.tree();
        let size = self.size_of(ino);
        let missed = self.chunks_of(ino, offset, len as u64);
        if missed.iter().all(|&chunk| state.queue.was_taken(chunk)) {
            // It was guessed and is on its way.
            return;
        }
        let page = u32::try_from(offset / u64::from(PAGE_LEN)).unwrap_or(u32::MAX);
        if state.brought.as_ref().is_some_and(|it| it.has(&self.manifest, ino, page)) {
            // The kernel has taken it back: that tells nothing of what is needed next.
            return;
        }
        tracing::debug!(path = %tree.path_of(ino), offset, len, "not guessed");
        let whole = size <= WHOLE_LEN_MAX;
        let counted = if whole { tree.directory_of(ino) } else { ino };
        if state.misses.len() >= COUNTED_MAX {
            state.misses.clear();
        }
        state.background.misses += 1;
        if !state.is_on {
            if state.traced.is_none() {
                return;
            }
            if state.background.misses >= TRACE_MISSES_MAX {
                self.begin_beside_trace(state);
            }
        }
        let misses = state.misses.entry(counted).or_insert(0);
        *misses += 1;
        let misses = *misses;
        let first = Order::default();
        if whole {
            for chunk in self.chunks_of(ino, 0, size) {
                state.queue.want(chunk, Class::Needed, &first);
            }
            for (number, near) in likely::siblings(tree, ino, misses).into_iter().enumerate() {
                for chunk in self.chunks_of(near, 0, self.size_of(near)) {
                    state.queue.want(chunk, Class::Near, &first.then(number));
                }
            }
        } else if misses > 1 {
            let chunk_len = u64::from(self.manifest.chunk_len());
            let window = (1 << misses.min(16)).min(WINDOW_MAX) * chunk_len;
            for chunk in self.chunks_of(ino, offset, (len as u64).saturating_add(window)) {
                state.queue.want(chunk, Class::Needed, &first);
            }
        }
    }

    /// Jobs that run, with a trace or without.
    fn count(&self, is_traced: bool) -> &AtomicUsize {
        if is_traced { &self.traced_jobs } else { &self.jobs }
    }

    fn size_of(&self, ino: Ino) -> u64 {
        self.manifest.inode(ino).map_or(0, Inode::size)
    }

    fn tree(&self) -> &Tree {
        self.tree.get_or_init(|| Tree::new(Arc::clone(&self.manifest)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunks of a part of a file, by their index.
    fn chunks_of(&self, ino: Ino, offset: u64, len: u64) -> Vec<u32> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let chunk = |slice: &Slice| match slice {
            Slice::Chunk { chunk, .. } => Some(*chunk),
            Slice::Zeros(_) => None,
        };
        read_plan(&self.manifest, ino, offset, len).iter().filter_map(chunk).collect()
    }

    /// Sends off what waits, in the background.
    fn pump(self: &Arc<Self>) {
        if self.pumping.swap(true, Ordering::SeqCst) {
            self.wake.notify_one();
            return;
        }
        let predictor = Arc::clone(self);
        self.chunks.tasks().spawn("fetch guesses", predictor.carry_out());
    }

    /// Fetches batches until nothing is left to guess.
    async fn carry_out(self: Arc<Self>) {
        let stopping = self.chunks.tasks().stopping().clone();
        let mut under_way = FuturesUnordered::new();
        let mut bytes_under_way = 0;
        loop {
            self.take_note();
            while let Some(batch) = self.next_batch(bytes_under_way) {
                bytes_under_way += batch.bytes;
                under_way.push(self.bring(batch));
            }
            if under_way.is_empty() {
                self.pumping.store(false, Ordering::SeqCst);
                // What was queued since finds nobody pumping, or it finds us here.
                if !self.has_work() || self.pumping.swap(true, Ordering::SeqCst) {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.wake.notified() => {}
                Some(bytes) = under_way.next() => bytes_under_way -= bytes,
            }
        }
    }

    fn has_work(&self) -> bool {
        let has_news = !self.news.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let state = self.lock();
        has_news || !state.queue.is_empty() || self.may_fetch_rest(&state)
    }

    /// What to ask for next, if anything, while so much is under way.
    fn next_batch(&self, under_way: u64) -> Option<Batch> {
        let mut state = self.lock();
        let len = |chunk: u32| u64::from(self.manifest.chunks()[chunk as usize].len);
        if under_way >= UNDER_WAY_MAX {
            return None;
        }
        let mut chunks = state.queue.take(BATCH_BYTES, len);
        if chunks.is_empty() && self.may_fetch_rest(&state) {
            let (batch, limit) = if self.chunks.readers_waiting() == 0 {
                (BATCH_BYTES, BACKGROUND_MAX)
            } else {
                (BACKGROUND_BUSY, 1)
            };
            if under_way < limit {
                chunks = self.rest(&mut state, batch);
            }
        }
        let bytes = chunks.iter().map(|&chunk| len(chunk)).sum();
        (!chunks.is_empty()).then_some(Batch { chunks, bytes })
    }

    /// Whether the background may go on.
    fn may_fetch_rest(&self, state: &State) -> bool {
        let has_jobs = self.count(false).load(Ordering::SeqCst) > 0
            || state.is_beside_trace && self.count(true).load(Ordering::SeqCst) > 0;
        let is_on = match self.config.background {
            Background::Off => false,
            Background::Idle => has_jobs,
            Background::Full => true,
        };
        // A program that the guesses fit has no use for the rest, and would share the machine with
        // it; one that they don't fit soon gets all of it.
        let misses = state.background.misses;
        let credit = match self.config.background {
            Background::Off => 0,
            Background::Idle => misses.saturating_mul(misses).saturating_mul(CREDIT),
            Background::Full => u64::MAX,
        };
        // Where a cache would have to give up other things for it, it is not worth them.
        let bound = credit.min(self.chunks.room() / 4);
        is_on && !state.background.is_done && state.background.taken < bound
    }

    /// The next chunks of the background.
    fn rest(&self, state: &mut State, bytes_max: u64) -> Vec<u32> {
        let tree = self.tree();
        let moved = state.directories.len() > state.background.directories;
        let never = state.background.directories == 0 && state.background.taken == 0;
        if never || moved && state.background.stretch == 0 {
            state.background.files = likely::rest(tree, &state.directories).into();
            state.background.directories = state.directories.len();
            state.background.stretch = BACKGROUND_STRETCH;
        }
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max {
            let Some(&file) = state.background.files.front() else {
                state.background.is_done = true;
                break;
            };
            let size = self.size_of(file);
            let mut is_whole = true;
            for chunk in self.chunks_of(file, 0, size) {
                if state.queue.was_taken(chunk) {
                    continue;
                }
                if bytes >= bytes_max {
                    is_whole = false;
                    break;
                }
                state.queue.note_taken(chunk);
                let chunk_ref = self.manifest.chunks()[chunk as usize];
                if self.chunks.has(chunk_ref) {
                    continue;
                }
                bytes += u64::from(chunk_ref.len);
                chunks.push(chunk);
            }
            if is_whole {
                state.background.files.pop_front();
            }
        }
        state.background.taken += bytes;
        state.background.stretch = state.background.stretch.saturating_sub(bytes);
        chunks
    }

    /// Fetches one batch and looks into what arrives; returns its bytes.
    async fn bring(&self, batch: Batch) -> u64 {
        let account = Arc::clone(&self.lock().account);
        let table = self.manifest.chunks();
        let by_digest: HashMap<Digest, u32> =
            batch.chunks.iter().map(|&chunk| (table[chunk as usize].digest, chunk)).collect();
        let refs: Vec<_> = batch.chunks.iter().map(|&chunk| table[chunk as usize]).collect();
        let mut arrivals = self.chunks.ahead(&refs, &account);
        while let Some(blob) = arrivals.recv().await {
            if let Some(&chunk) = by_digest.get(&blob.digest()) {
                self.arrived(chunk, &blob);
            }
        }
        batch.bytes
    }

    fn arrived(&self, chunk: u32, blob: &Blob) {
        let mut state = self.lock();
        for lead in state.waiting.remove(&chunk).unwrap_or_default() {
            self.look_into(&mut state, lead, Some((chunk, blob)));
        }
        if !state.leads.is_empty() || !state.queue.is_empty() {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
