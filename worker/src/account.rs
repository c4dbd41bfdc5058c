//! Who asked: attributes every read of a mount to the run that caused it.
//!
//! A mount is shared by all jobs of an image, so the kernel's request only tells a process. Each
//! run has a cgroup of its own; `/proc/<pid>/cgroup` leads from the process to it. What can't be
//! attributed (the worker's own reads, a process that is gone) goes to one account of its own, so
//! that the sums stay honest.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sway_core::chunk::PAGE_LEN;
use sway_core::digest::Digest;
use sway_core::manifest::{Ino, Manifest};
use tokio_util::sync::CancellationToken;

/// Messages kept for one run: the first ones tell the story.
const MESSAGES_MAX: usize = 16;

/// Blobs remembered of one run that it waited for in vain.
const GIVEN_UP_MAX: usize = 1024;

/// Pages noted of one run: 1 GiB of files, more than a trace may hold, and at most 8 MiB of memory.
const TOUCHED_MAX: usize = 1 << 18;

/// Remembered processes: bounds memory; the map is emptied when it is full.
const PIDS_MAX: usize = 4096;

/// How long a process is remembered before its cgroup is read again: shorter than a pid takes to
/// come around.
const PID_LIFETIME: Duration = Duration::from_secs(1);

/// What one run did, as the caches and the fetcher saw it.
#[derive(Debug, Default)]
pub struct RunAccount {
    counters: Counters,
    doomed: CancellationToken,
    messages: Mutex<Vec<String>>,
    read_deadline: OnceLock<Duration>,
    /// Blobs that this run waited for in vain, and when.
    given_up: Mutex<HashMap<Digest, Instant>>,
    /// None where traces are off.
    touched: Option<Mutex<Touched>>,
    /// What the run's traces are of; other trees that it reads are datasets.
    image: OnceLock<Arc<Manifest>>,
}

/// Pages that were read, each once, in order.
#[derive(Debug, Default)]
struct Touched {
    order: Vec<(Ino, u32)>,
    known: HashSet<(Ino, u32)>,
}

impl Touched {
    fn note(&mut self, ino: Ino, offset: u64, len: usize) {
        let page_len = u64::from(PAGE_LEN);
        for page in offset / page_len..(offset + len as u64).div_ceil(page_len) {
            let Ok(page) = u32::try_from(page) else { return };
            if self.order.len() < TOUCHED_MAX && self.known.insert((ino, page)) {
                self.order.push((ino, page));
            }
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    memory_hits: AtomicU64,
    memory_bytes: AtomicU64,
    disk_hits: AtomicU64,
    disk_bytes: AtomicU64,
    fetches: AtomicU64,
    fetched_bytes: AtomicU64,
    missed_bytes: AtomicU64,
}

/// Figures of a [`RunAccount`] at one moment. Hits and fetches are chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Chunks answered from memory.
    pub memory_hits: u64,
    /// Bytes of them that were read.
    pub memory_bytes: u64,
    /// Chunks answered from disk.
    pub disk_hits: u64,
    /// Bytes of them that were read.
    pub disk_bytes: u64,
    /// Chunks, and frames of traces, fetched from the fileserver for the run, whether it read
    /// them or not; a fetch that several runs wait for counts for the first asker only.
    pub fetches: u64,
    /// Bytes on the wire (encoded blobs).
    pub fetched_bytes: u64,
    /// Bytes that were asked for and that the run's trace did not bring.
    pub missed_bytes: u64,
}

impl RunAccount {
    /// Counts a chunk that was in memory, and the bytes that were read of it.
    pub fn memory_hit(&self, bytes: u64) {
        self.counters.memory_hits.fetch_add(1, Ordering::Relaxed);
        self.counters.memory_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a chunk that was on disk, and the bytes that were read of it.
    pub fn disk_hit(&self, bytes: u64) {
        self.counters.disk_hits.fetch_add(1, Ordering::Relaxed);
        self.counters.disk_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a chunk that came from the fileserver, and its bytes on the wire.
    pub fn fetch(&self, bytes_on_wire: u64) {
        self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        self.counters.fetched_bytes.fetch_add(bytes_on_wire, Ordering::Relaxed);
    }

    /// Notes that a read of a file arrived: its pages, for the trace of the run's image.
    pub fn touched(&self, manifest: &Arc<Manifest>, ino: Ino, offset: u64, len: usize) {
        if let Some(touched) = &self.touched
            && self.is_image(manifest)
        {
            touched.lock().unwrap_or_else(PoisonError::into_inner).note(ino, offset, len);
        }
    }

    /// Counts bytes of its image that the run asked for and its trace did not bring.
    pub fn missed(&self, manifest: &Arc<Manifest>, bytes: u64) {
        if self.is_image(manifest) {
            self.counters.missed_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Says which of the trees that the run reads is its image; once.
    pub fn of_image(&self, manifest: &Arc<Manifest>) {
        let _ = self.image.set(Arc::clone(manifest));
    }

    fn is_image(&self, manifest: &Arc<Manifest>) -> bool {
        self.image.get().is_none_or(|image| Arc::ptr_eq(image, manifest))
    }

    /// Inodes and pages of all reads so far, each once, in order; taken away. None where
    /// nothing is recorded.
    pub fn take_touched(&self) -> Option<Vec<(Ino, u32)>> {
        let touched = self.touched.as_ref()?;
        let mut touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *touched).order)
    }

    /// The figures so far.
    pub fn figures(&self) -> CacheFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheFigures {
            memory_hits: read(&self.counters.memory_hits),
            memory_bytes: read(&self.counters.memory_bytes),
            disk_hits: read(&self.counters.disk_hits),
            disk_bytes: read(&self.counters.disk_bytes),
            fetches: read(&self.counters.fetches),
            fetched_bytes: read(&self.counters.fetched_bytes),
            missed_bytes: read(&self.counters.missed_bytes),
        }
    }

    /// Bounds how long a read of this run may wait, below the worker's own deadline; once.
    pub fn bound_reads(&self, deadline: Duration) {
        let _ = self.read_deadline.set(deadline);
    }

    /// How long a read may wait where the worker allows `usual`.
    pub fn read_deadline(&self, usual: Duration) -> Duration {
        self.read_deadline.get().map_or(usual, |own| usual.min(*own))
    }

    /// Notes that this run waited for a blob in vain.
    pub fn give_up(&self, blob: Digest) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if given_up.len() >= GIVEN_UP_MAX {
            given_up.clear();
        }
        given_up.insert(blob, Instant::now());
    }

    /// Whether this run waited for a blob in vain within the last `recent`.
    pub fn gave_up(&self, blob: Digest, recent: Duration) -> bool {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.get(&blob).is_some_and(|at| at.elapsed() < recent)
    }

    /// Notes why a read failed, for the job's log: the path and the reason.
    pub fn note(&self, message: String) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.len() < MESSAGES_MAX && !messages.contains(&message) {
            messages.push(message);
        }
    }

    /// What was noted.
    pub fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that the run is being killed: its parked reads must be answered with EIO at once,
    /// because a process in a page fault survives SIGKILL until its read is answered.
    pub fn doom(&self) {
        self.doomed.cancel();
    }

    /// Ends when the run is being killed.
    pub fn doomed(&self) -> &CancellationToken {
        &self.doomed
    }
}

/// All runs that are open, by cgroup.
#[derive(Debug, Default)]
pub struct Accounts {
    by_cgroup: RwLock<HashMap<String, Arc<RunAccount>>>,
    /// Lock order: `pids` is never held while `by_cgroup` is taken.
    pids: Mutex<HashMap<u32, (Instant, Arc<RunAccount>)>>,
    unattributed: Arc<RunAccount>,
    records: bool,
}

impl Accounts {
    /// Whose runs' touches are recorded, if `records` is set.
    pub fn new(records: bool) -> Self {
        Self { records, ..Self::default() }
    }

    /// Opens the account of the run whose processes live in the cgroup `cgroup`, a path such as
    /// `/sway/1f0c/run-7`, the same in every hierarchy.
    pub fn open(&self, cgroup: &str) -> Arc<RunAccount> {
        let touched = self.records.then(Mutex::default);
        let account = Arc::new(RunAccount { touched, ..RunAccount::default() });
        let mut by_cgroup = self.by_cgroup.write().unwrap_or_else(PoisonError::into_inner);
        by_cgroup.insert(cgroup.to_owned(), Arc::clone(&account));
        account
    }

    /// Closes it: later reads of stray processes count as unattributed.
    pub fn close(&self, cgroup: &str) {
        self.by_cgroup.write().unwrap_or_else(PoisonError::into_inner).remove(cgroup);
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Where reads go that no run caused.
    pub fn unattributed(&self) -> &Arc<RunAccount> {
        &self.unattributed
    }

    /// The account of the run that the process or thread `pid` belongs to.
    pub fn of_pid(&self, pid: u32) -> Arc<RunAccount> {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, account)) = pids.get(&pid)
            && seen.elapsed() < PID_LIFETIME
        {
            return Arc::clone(account);
        }
        drop(pids);
        let account = fs_err::read_to_string(format!("/proc/{pid}/cgroup"))
            .ok()
            .and_then(|text| self.of_cgroup_file(&text))
            .unwrap_or_else(|| Arc::clone(&self.unattributed));
        pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        if pids.len() >= PIDS_MAX {
            pids.clear();
        }
        pids.insert(pid, (Instant::now(), Arc::clone(&account)));
        account
    }

    /// Finds the account in the text of a `/proc/<pid>/cgroup` (cgroups(7): lines of
    /// `hierarchy:controllers:path`). A job may make cgroups below its own; any ancestor counts.
    fn of_cgroup_file(&self, text: &str) -> Option<Arc<RunAccount>> {
        let by_cgroup = self.by_cgroup.read().unwrap_or_else(PoisonError::into_inner);
        let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        paths
            .flat_map(|path| {
                std::iter::successors(Some(path), |path| Some(path.rsplit_once('/')?.0))
            })
            .find_map(|path| by_cgroup.get(path).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_attributed_by_any_of_its_cgroups() {
        let accounts = Accounts::default();
        let account = accounts.open("/sway/w/run-7");
        let hybrid = "9:name=systemd:/\n8:pids:/sway/w/run-7\n4:memory:/sway/w/run-7\n0::/\n";
        assert!(Arc::ptr_eq(&accounts.of_cgroup_file(hybrid).unwrap(), &account));
        let nested = "0::/sway/w/run-7/inner/most\n";
        assert!(Arc::ptr_eq(&accounts.of_cgroup_file(nested).unwrap(), &account));
        assert!(accounts.of_cgroup_file("0::/sway/w/run-70\n").is_none());
        accounts.close("/sway/w/run-7");
        assert!(accounts.of_cgroup_file(hybrid).is_none());
    }

    #[test]
    fn touches_are_noted_once_in_order_where_that_is_asked_for() {
        let manifest = Arc::new(sway_core::manifest::Tree::new())
            .to_manifest(Default::default())
            .map(|(manifest, _)| Arc::new(manifest))
            .unwrap();
        let account = Accounts::new(true).open("/sway/w/run-1");
        let page = u64::from(PAGE_LEN);
        for (ino, offset, len) in
            [(7, 0, 1), (7, 1000, 3000), (9, page - 1, 2), (7, 0, 0), (7, 3 * page, 131_072)]
        {
            account.touched(&manifest, Ino(ino), offset, len);
        }
        let mut expected = vec![(Ino(7), 0), (Ino(9), 0), (Ino(9), 1)];
        expected.extend((3..35).map(|page| (Ino(7), page)));
        assert_eq!(account.take_touched(), Some(expected));
        let dataset = Arc::new(Manifest::clone(&manifest));
        account.of_image(&manifest);
        account.touched(&dataset, Ino(7), 0, 1);
        account.missed(&dataset, 1);
        account.touched(&manifest, Ino(8), 0, 1);
        account.missed(&manifest, 2);
        assert_eq!(account.take_touched(), Some(vec![(Ino(8), 0)]), "no dataset is in a trace");
        assert_eq!(account.figures().missed_bytes, 2);
        let silent = Accounts::default().open("/sway/w/run-1");
        silent.touched(&manifest, Ino(7), 0, 1);
        assert_eq!(silent.take_touched(), None);
    }

    #[test]
    fn the_worker_itself_is_unattributed() {
        let accounts = Accounts::default();
        let own = accounts.of_pid(std::process::id());
        assert!(Arc::ptr_eq(&own, accounts.unattributed()));
    }
}
