//! What of a mount's content is on its way by a start: asked by the FUSE adapter at every read.
//!
//! A page is either expected, or here until it is in the kernel's page cache. A read of a page that
//! is here is answered from it; a read of one that is expected is parked on it, and answered the
//! moment it arrives, before the page is pushed: the kernel blocks a push onto a page that somebody
//! reads until that read is answered. Nothing here ever blocks.
//!
//! Pages are named by chunk and position in it, so that files that share chunks share them too.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sway_core::chunk::PAGE_LEN;
use sway_core::manifest::{Ino, Manifest, PageSource};
use tokio::sync::Notify;

/// A page that comes within so many raw bytes of the stream is worth waiting for: asking for it
/// costs a round trip and takes the line from the stream. About 50 ms at 500 Mbit/s.
const NEAR: u64 = 8 << 20;

/// Reads that tell where a reader is: it is at the least far of them, since a single one may be of
/// something that comes much later.
const LAST_READS: usize = 8;

/// Most pages of one read that are looked at; a longer read goes its own way.
const SPAN_MAX: u32 = 64;

const PAGE_BYTES: u64 = PAGE_LEN as u64;

/// A page of an image's chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey {
    /// Index into [`Manifest::chunks`].
    pub chunk: u32,
    /// The page within the chunk.
    pub page: u32,
}

/// One start on a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StartId(u64);

/// A read that is parked on a page.
pub trait Waiter: Debug + Send + Sync {
    /// The page is here: answers the read, unless it was answered meanwhile.
    fn complete(&self, page: &Bytes);

    /// The page does not come by the stream any more: the read should go its own way at once.
    fn give_up(&self);
}

/// What is known of the bytes of a read.
#[derive(Debug)]
pub enum Outlook {
    /// Nothing: it goes its own way.
    Unknown,
    /// These are the bytes.
    Here(Bytes),
    /// They arrive soon: it should be parked, and go its own way only after a while.
    Near(PageKey),
    /// They arrive, but late: it should be parked and go its own way at the same time.
    Far(PageKey),
    /// A start is under way that has not said yet what it brings: it should be parked until then.
    Open(PageKey),
    /// It goes beyond one page, of which some arrive: it goes its own way and says so.
    Spanning(Vec<PageKey>),
}

/// The board of one mount.
#[derive(Debug, Default)]
pub struct Board {
    /// Starts that are under way: nothing is locked where there are none.
    active: AtomicUsize,
    next_id: AtomicU64,
    state: Mutex<State>,
    /// Reads that wait for what they asked for themselves.
    demands: AtomicUsize,
    no_demand: Notify,
    /// A reader has come to another position.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<PageKey, Page>,
    waiters: HashMap<PageKey, Vec<Arc<dyn Waiter>>>,
    /// Pages under reads of several ones that are parked, and by how many.
    spanned: HashMap<PageKey, usize>,
    /// How far each start has come, in raw bytes.
    positions: HashMap<StartId, u64>,
    /// Where in each start the pages are that were read last.
    readers: HashMap<StartId, VecDeque<u64>>,
    /// Starts that have not said yet what they bring.
    open: HashSet<StartId>,
}

#[derive(Debug)]
enum Page {
    /// On its way, at this position.
    Expected { start: StartId, at: u64 },
    /// These are its bytes.
    Here { start: StartId, at: u64, bytes: Bytes },
}

impl State {
    /// Notes that a start has said what it brings. Returns the reads that nothing comes for, once
    /// all starts have.
    fn close(&mut self, start: StartId) -> Vec<Arc<dyn Waiter>> {
        if !self.open.remove(&start) || !self.open.is_empty() {
            return Vec::new();
        }
        let Self { pages, waiters, .. } = self;
        let lost = waiters.extract_if(|key, _| !pages.contains_key(key));
        lost.flat_map(|(_, waiters)| waiters).collect()
    }
}

impl State {
    fn note_read(&mut self, (start, at): (StartId, u64)) {
        let reads = self.readers.entry(start).or_default();
        if reads.len() == LAST_READS {
            reads.pop_front();
        }
        reads.push_back(at);
    }

    /// Where the readers of a start are.
    fn reader(&self, start: StartId) -> Option<u64> {
        let reads = self.readers.get(&start).filter(|reads| reads.len() == LAST_READS)?;
        reads.iter().min().copied()
    }
}

impl Page {
    fn start(&self) -> StartId {
        self.place().0
    }

    /// Its start, and its position in it.
    fn place(&self) -> (StartId, u64) {
        match self {
            Self::Expected { start, at } | Self::Here { start, at, .. } => (*start, *at),
        }
    }
}

impl Board {
    /// Begins a start, of which [`Board::expect`] tells what it brings. [`Board::end`] ends it.
    pub fn begin(&self) -> StartId {
        let id = StartId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut state = self.lock();
        state.positions.insert(id, 0);
        state.open.insert(id);
        drop(state);
        self.active.fetch_add(1, Ordering::SeqCst);
        id
    }

    /// Notes the pages that a start will bring, all of them, with their positions in it. Reads
    /// that were parked until this is known and are of other pages go their own way.
    pub fn expect(&self, start: StartId, pages: impl IntoIterator<Item = (PageKey, u64)>) {
        let mut state = self.lock();
        for (key, at) in pages {
            state.pages.entry(key).or_insert(Page::Expected { start, at });
        }
        let given_up = state.close(start);
        drop(state);
        given_up.iter().for_each(|waiter| waiter.give_up());
    }

    /// Puts pages here and answers the reads that wait for them; the start has come to
    /// `position`.
    pub fn deliver(
        &self,
        start: StartId,
        pages: impl IntoIterator<Item = (PageKey, Bytes)>,
        position: u64,
    ) {
        let mut served = Vec::new();
        let mut state = self.lock();
        state.positions.insert(start, position);
        for (key, bytes) in pages {
            for waiter in state.waiters.remove(&key).unwrap_or_default() {
                served.push((waiter, bytes.clone()));
            }
            let at = state.pages.get(&key).map_or(position, |page| page.place().1);
            state.pages.insert(key, Page::Here { start, at, bytes });
        }
        drop(state);
        for (waiter, bytes) in served {
            waiter.complete(&bytes);
        }
    }

    /// Forgets pages: they are in the kernel's page cache, or will not come.
    pub fn retire(&self, pages: impl IntoIterator<Item = PageKey>) {
        let mut given_up = Vec::new();
        let mut state = self.lock();
        for key in pages {
            state.pages.remove(&key);
            given_up.extend(state.waiters.remove(&key).unwrap_or_default());
        }
        drop(state);
        given_up.iter().for_each(|waiter| waiter.give_up());
    }

    /// Ends a start: what it has not brought does not come.
    pub fn end(&self, start: StartId) {
        let mut state = self.lock();
        if state.positions.remove(&start).is_none() {
            return;
        }
        state.readers.remove(&start);
        let given_up = state.close(start);
        let own = state.pages.iter().filter(|(_, page)| page.start() == start);
        let gone: Vec<PageKey> = own.map(|(key, _)| *key).collect();
        drop(state);
        given_up.iter().for_each(|waiter| waiter.give_up());
        self.retire(gone);
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// What is known of the bytes of a read.
    pub fn outlook(&self, manifest: &Manifest, ino: Ino, offset: u64, len: usize) -> Outlook {
        if self.active.load(Ordering::SeqCst) == 0 {
            return Outlook::Unknown;
        }
        let Some(pages) = Pages::of(manifest, ino, offset, len) else { return Outlook::Unknown };
        let mut state = self.lock();
        if let Some(place) = pages.keys.last().and_then(|key| Some(state.pages.get(key)?.place())) {
            state.note_read(place);
            self.moved.notify_waiters();
        }
        let mut bytes = Vec::with_capacity(pages.keys.len());
        for key in &pages.keys {
            match state.pages.get(key) {
                Some(Page::Here { bytes: here, .. }) => bytes.push(here.clone()),
                Some(Page::Expected { start, at }) if pages.keys.len() == 1 => {
                    let position = state.positions.get(start).copied().unwrap_or(0);
                    let is_near = at.saturating_sub(position) <= NEAR;
                    return if is_near { Outlook::Near(*key) } else { Outlook::Far(*key) };
                }
                None if pages.keys.len() == 1 && !state.open.is_empty() => {
                    return Outlook::Open(*key);
                }
                Some(Page::Expected { .. }) | None => break,
            }
        }
        if bytes.len() == pages.keys.len() {
            drop(state);
            return Outlook::Here(pages.cut(&bytes));
        }
        if pages.keys.iter().any(|key| state.pages.contains_key(key)) {
            return Outlook::Spanning(pages.keys);
        }
        Outlook::Unknown
    }

    /// Parks a read on a page. Returns the page where it has arrived meanwhile; false where it
    /// does not come any more.
    pub fn park(&self, key: PageKey, waiter: &Arc<dyn Waiter>) -> Parked {
        let mut state = self.lock();
        match state.pages.get(&key) {
            Some(Page::Here { bytes, .. }) => Parked::Here(bytes.clone()),
            None if state.open.is_empty() => Parked::Gone,
            Some(Page::Expected { .. }) | None => {
                state.waiters.entry(key).or_default().push(Arc::clone(waiter));
                Parked::Waits
            }
        }
    }

    /// Notes a read of several pages that is under way.
    pub fn span(self: &Arc<Self>, keys: Vec<PageKey>) -> Span {
        let mut state = self.lock();
        for key in &keys {
            *state.spanned.entry(*key).or_default() += 1;
        }
        Span { board: Arc::clone(self), keys }
    }

    /// Whether a read of several pages is under way that covers this one.
    pub fn is_spanned(&self, key: PageKey) -> bool {
        self.lock().spanned.contains_key(&key)
    }

    /// Notes a read that waits for what it asked for itself.
    pub fn demand(self: &Arc<Self>) -> Demand {
        self.demands.fetch_add(1, Ordering::SeqCst);
        Demand(Arc::clone(self))
    }

    /// Waits until no read waits for what it asked for itself, but no longer than `max`.
    pub async fn no_demand(&self, max: Duration) {
        if self.demands.load(Ordering::SeqCst) == 0 {
            return;
        }
        let none = async {
            loop {
                let told = self.no_demand.notified();
                if self.demands.load(Ordering::SeqCst) == 0 {
                    return;
                }
                told.await;
            }
        };
        let _ = tokio::time::timeout(max, none).await;
    }

    /// Waits until a reader has come to `position` of a start, but no longer than `max`.
    pub async fn read_up_to(&self, start: StartId, position: u64, max: Duration) {
        let is_there = || self.lock().reader(start).is_some_and(|at| at >= position);
        let there = async {
            loop {
                let moved = self.moved.notified();
                if is_there() {
                    return;
                }
                moved.await;
            }
        };
        let _ = tokio::time::timeout(max, there).await;
    }

    /// Pages that are here or expected.
    pub fn len(&self) -> usize {
        self.lock().pages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a read that was to be parked.
#[derive(Debug)]
pub enum Parked {
    /// It waits.
    Waits,
    /// The page has arrived.
    Here(Bytes),
    /// The page does not come.
    Gone,
}

/// A read that waits for what it asked for itself, until this is dropped.
#[derive(Debug)]
pub struct Demand(Arc<Board>);

impl Drop for Demand {
    fn drop(&mut self) {
        if self.0.demands.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.no_demand.notify_waiters();
        }
    }
}

/// A read of several pages that is under way, until this is dropped.
#[derive(Debug)]
pub struct Span {
    board: Arc<Board>,
    keys: Vec<PageKey>,
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        for key in &self.keys {
            if let Some(count) = state.spanned.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.spanned.remove(key);
                }
            }
        }
    }
}

/// The pages that a read touches, and the bytes of them that it wants.
struct Pages {
    keys: Vec<PageKey>,
    /// Within the pages, put one behind the other.
    range: Range<usize>,
}

impl Pages {
    /// None where a read is of holes, nothing or too much.
    fn of(manifest: &Manifest, ino: Ino, offset: u64, len: usize) -> Option<Self> {
        let size = manifest.inode(ino)?.size();
        let end = offset.saturating_add(len as u64).min(size);
        if offset >= end {
            return None;
        }
        let first = u32::try_from(offset / PAGE_BYTES).ok()?;
        let last = u32::try_from((end - 1) / PAGE_BYTES).ok()?;
        if last - first >= SPAN_MAX {
            return None;
        }
        let mut keys = Vec::with_capacity((last - first) as usize + 1);
        for page in first..=last {
            match manifest.page(ino, page)? {
                PageSource::Chunk { chunk, page } => keys.push(PageKey { chunk, page }),
                PageSource::Hole => return None,
            }
        }
        let start = usize::try_from(offset % PAGE_BYTES).ok()?;
        let range = start..start + usize::try_from(end - offset).ok()?;
        Some(Self { keys, range })
    }

    fn cut(&self, bytes: &[Bytes]) -> Bytes {
        if let [only] = bytes {
            return only.slice(self.range.clone());
        }
        Bytes::from(bytes.concat()).slice(self.range.clone())
    }
}

#[cfg(test)]
mod tests {
    use sway_core::chunk::CutChunk;
    use sway_core::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};

    use super::*;

    const PAGE: usize = PAGE_LEN as usize;

    /// A file of three pages and a bit, in one chunk.
    fn image() -> (Manifest, Ino, Vec<u8>) {
        let bytes: Vec<u8> = (0..PAGE * 3 + 100).map(|i| i.to_le_bytes()[1]).collect();
        let mut content = FileContent::new();
        content.push_chunk(CutChunk::of(&bytes));
        let mut tree = Tree::new();
        let node = tree.add(Metadata::default(), NodeKind::Regular(content));
        tree.entries_mut(Tree::ROOT).unwrap().insert(b"f".to_vec(), node);
        let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
        let ino = manifest.resolve(b"f").unwrap();
        (manifest, ino, bytes)
    }

    fn key(page: u32) -> PageKey {
        PageKey { chunk: 0, page }
    }

    fn page(bytes: &[u8], at: usize) -> Bytes {
        Bytes::copy_from_slice(bytes.chunks(PAGE).nth(at).unwrap())
    }

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<Option<Bytes>>>);

    impl Waiter for Noted {
        fn complete(&self, page: &Bytes) {
            self.0.lock().unwrap().push(Some(page.clone()));
        }

        fn give_up(&self) {
            self.0.lock().unwrap().push(None);
        }
    }

    #[test]
    fn a_read_is_answered_from_what_is_here() {
        let (manifest, ino, bytes) = image();
        let board = Board::default();
        assert!(matches!(board.outlook(&manifest, ino, 0, 4096), Outlook::Unknown));
        let start = board.begin();
        board.expect(start, (0..4).map(|at| (key(at), u64::from(at) * (NEAR + 1))));
        assert!(matches!(board.outlook(&manifest, ino, 0, 4096), Outlook::Near(_)));
        let far = board.outlook(&manifest, ino, 2 * PAGE as u64, 4096);
        assert!(matches!(far, Outlook::Far(found) if found == key(2)));
        board.deliver(start, [(key(0), page(&bytes, 0))], 0);
        let Outlook::Here(here) = board.outlook(&manifest, ino, 96, 4000) else { panic!() };
        assert_eq!(here, bytes[96..4096]);
        let across = board.outlook(&manifest, ino, 0, PAGE + 1);
        assert!(matches!(across, Outlook::Spanning(keys) if keys == [key(0), key(1)]));
        board.deliver(start, [(key(1), page(&bytes, 1)), (key(3), page(&bytes, 3))], 0);
        let Outlook::Here(here) = board.outlook(&manifest, ino, 10, PAGE + 1) else { panic!() };
        assert_eq!(here, bytes[10..PAGE + 11]);
        // The end of the file.
        let end = board.outlook(&manifest, ino, 3 * PAGE as u64, 4096);
        assert!(matches!(end, Outlook::Here(end) if end == bytes[3 * PAGE..]));
        board.end(start);
        assert!(board.is_empty());
        assert!(matches!(board.outlook(&manifest, ino, 0, 4096), Outlook::Unknown));
    }

    #[test]
    fn until_a_start_says_what_it_brings_reads_wait_for_it() {
        let (manifest, ino, bytes) = image();
        let board = Board::default();
        let start = board.begin();
        let open = board.outlook(&manifest, ino, 0, 4096);
        assert!(matches!(open, Outlook::Open(found) if found == key(0)));
        let (brought, lost): (Arc<Noted>, Arc<Noted>) = Default::default();
        for (noted, at) in [(&brought, 0), (&lost, 2)] {
            let waiter: Arc<dyn Waiter> = Arc::<Noted>::clone(noted);
            assert!(matches!(board.park(key(at), &waiter), Parked::Waits));
        }
        board.expect(start, [(key(0), 0)]);
        assert_eq!(*lost.0.lock().unwrap(), [None]);
        assert!(brought.0.lock().unwrap().is_empty());
        board.deliver(start, [(key(0), page(&bytes, 0))], 0);
        assert_eq!(*brought.0.lock().unwrap(), [Some(page(&bytes, 0))]);
        assert!(matches!(board.outlook(&manifest, ino, 2 * PAGE as u64, 1), Outlook::Unknown));
        // One that ends without having said anything.
        let broken = board.begin();
        let waiter: Arc<dyn Waiter> = Arc::<Noted>::clone(&lost);
        assert!(matches!(board.park(key(2), &waiter), Parked::Waits));
        board.end(broken);
        assert_eq!(*lost.0.lock().unwrap(), [None, None]);
    }

    #[test]
    fn who_waits_is_served_or_told_that_nothing_comes() {
        let (_, _, bytes) = image();
        let board = Board::default();
        let start = board.begin();
        board.expect(start, [(key(0), 0), (key(1), 0)]);
        let noted: Arc<Noted> = Arc::default();
        let waiter: Arc<dyn Waiter> = Arc::<Noted>::clone(&noted);
        assert!(matches!(board.park(key(0), &waiter), Parked::Waits));
        assert!(matches!(board.park(key(1), &waiter), Parked::Waits));
        assert!(matches!(board.park(key(2), &waiter), Parked::Gone));
        board.deliver(start, [(key(0), page(&bytes, 0))], 0);
        assert!(matches!(board.park(key(0), &waiter), Parked::Here(_)));
        board.end(start);
        assert_eq!(*noted.0.lock().unwrap(), [Some(page(&bytes, 0)), None]);
    }

    #[tokio::test]
    async fn whoever_reads_moves_on_and_is_waited_for() {
        const EVER: Duration = Duration::from_secs(60);
        let (manifest, ino, bytes) = image();
        let board = Board::default();
        let start = board.begin();
        board.expect(start, (0..4).map(|at| (key(at), 100 * u64::from(at))));
        board.deliver(start, [(key(1), page(&bytes, 1))], 200);
        let mut waiting = std::pin::pin!(board.read_up_to(start, 200, EVER));
        let read = |at: u64| drop(board.outlook(&manifest, ino, at * PAGE as u64, 100));
        // One that looks ahead does not count.
        for at in [0, 1, 3].into_iter().chain(std::iter::repeat_n(2, LAST_READS - 2)) {
            read(at);
            assert!(futures::poll!(&mut waiting).is_pending());
        }
        read(2);
        waiting.await;
        board.read_up_to(start, 200, EVER).await;
        board.read_up_to(start, 201, Duration::ZERO).await;
    }

    #[test]
    fn a_span_covers_its_groups_while_it_lives() {
        let board: Arc<Board> = Arc::default();
        let (first, second) = (board.span(vec![key(0), key(1)]), board.span(vec![key(1)]));
        drop(first);
        assert!(!board.is_spanned(key(0)) && board.is_spanned(key(1)));
        drop(second);
        assert!(!board.is_spanned(key(1)));
    }
}
