//! Lists directories ahead of somebody who lists a whole tree.
//!
//! `find` and its like go through a tree in order, and the kernel asks twice for each directory: for
//! its entries, and whether there are more. Once many directories were listed in that order, the next
//! ones are listed through the mount from here, beside the program and not before it: the kernel
//! keeps names, attributes and listings, and the program's own questions never reach us. As with
//! read-ahead of files, windows double, and each leaves one directory in its middle out: who asks for
//! that one tells how far they are.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sway_core::manifest::{Ino, Manifest};
use sway_server::tasks::Tasks;

/// Listings of a mount before anybody looks at their order: programs that start make fewer.
const LISTINGS_MIN: u32 = 128;

/// Directories that have to be listed in order, one after the other.
const STREAK_MIN: u32 = 8;

/// How many directories a walk may leave out: other filesystems, what it was told to skip.
const GAP_MAX: u32 = 4;

/// Directories of the first window, and of the longest.
const WINDOW_MIN: u32 = 16;
const WINDOW_MAX: u32 = 512;

/// How far the program has to be behind a directory that is worth listing for it.
const LEAD: u32 = 2;

/// The walks through one mount.
#[derive(Debug)]
pub(super) struct Walks {
    place: PathBuf,
    manifest: Arc<Manifest>,
    tasks: Tasks,
    listings: AtomicU32,
    order: OnceLock<Order>,
    state: Mutex<State>,
    /// Where the program is.
    passed: AtomicU32,
    /// The thread that lists; its own requests are nobody's walk.
    lister: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    pace: Pace,
    next: Option<Window>,
    is_listing: bool,
}

impl Walks {
    /// Walks through the mount at `place`.
    pub(super) fn new(place: &Path, manifest: Arc<Manifest>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            place: place.to_owned(),
            manifest,
            tasks,
            listings: AtomicU32::new(0),
            order: OnceLock::new(),
            state: Mutex::default(),
            passed: AtomicU32::new(0),
            lister: AtomicU32::new(0),
        })
    }

    /// Notes that a thread begins to list a directory. Waits for nothing.
    pub(super) fn listed(self: &Arc<Self>, thread: u32, directory: Ino) {
        if thread == self.lister.load(Ordering::Relaxed) {
            return;
        }
        let Some(order) = self.order.get() else {
            if self.listings.fetch_add(1, Ordering::Relaxed) == LISTINGS_MIN {
                let walks = Arc::clone(self);
                self.tasks.spawn_blocking("order directories", move || {
                    walks.order.get_or_init(|| Order::of(&walks.manifest));
                });
            }
            return;
        };
        let Some(&rank) = order.ranks.get(&directory) else { return };
        self.passed.store(rank, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = state.pace.listed(rank) else { return };
        state.next = Some(window);
        if !std::mem::replace(&mut state.is_listing, true) {
            let walks = Arc::clone(self);
            self.tasks.spawn_blocking("list ahead", move || walks.list_ahead());
        }
    }

    /// Lists window after window. Blocks, and ends where the program does not follow.
    fn list_ahead(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        self.lister.store(thread, Ordering::Relaxed);
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(window) = state.next.take() else {
                state.is_listing = false;
                self.lister.store(0, Ordering::Relaxed);
                return;
            };
            drop(state);
            self.list(&window);
        }
    }

    fn list(&self, window: &Window) {
        let Some(order) = self.order.get() else { return };
        for rank in window.ranks.clone().filter(|rank| *rank != window.mark) {
            if self.tasks.stopping().is_cancelled() {
                return;
            }
            let Some(path) = order.path(&self.manifest, rank) else { return };
            if rank < self.passed.load(Ordering::Relaxed).saturating_add(LEAD) {
                continue;
            }
            // To its end: only then does the kernel keep it.
            let listed = fs_err::read_dir(self.place.join(path));
            if let Err(error) =
                listed.and_then(|mut entries| entries.try_for_each(|it| it.map(drop)))
            {
                tracing::debug!(%error, "directories are not listed ahead");
                return;
            }
        }
    }
}

/// Directories to list, but for one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    ranks: Range<u32>,
    mark: u32,
}

/// What a sequence of listings looks like.
#[derive(Debug, Default)]
struct Pace {
    last: u32,
    streak: u32,
    /// The last window that was asked for.
    window: Option<Window>,
}

impl Pace {
    /// What to list ahead of who lists this directory now.
    fn listed(&mut self, rank: u32) -> Option<Window> {
        let reached = self.window.as_ref().map_or(self.last, |window| window.ranks.end);
        let goes_on = rank > self.last && rank <= reached.max(self.last).saturating_add(GAP_MAX);
        self.last = rank;
        if !goes_on {
            (self.streak, self.window) = (0, None);
            return None;
        }
        self.streak = self.streak.saturating_add(1);
        if self.streak < STREAK_MIN {
            return None;
        }
        let (start, len) = match &self.window {
            None => (rank + 1, WINDOW_MIN),
            Some(window) if rank < window.mark => return None,
            Some(window) => {
                let len = window.ranks.end - window.ranks.start;
                (window.ranks.end.max(rank + 1), (2 * len).min(WINDOW_MAX))
            }
        };
        let window = Window { ranks: start..start.saturating_add(len), mark: start + len / 2 };
        self.window = Some(window.clone());
        Some(window)
    }
}

/// An image's directories in the order in which a walk meets them: each before those below it.
#[derive(Debug)]
struct Order {
    directories: Vec<Directory>,
    ranks: HashMap<Ino, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Directory {
    ino: Ino,
    /// Rank of the one that it lies in, and its position there.
    parent: u32,
    position: u32,
}

impl Order {
    fn of(manifest: &Manifest) -> Self {
        let mut order = Self { directories: Vec::new(), ranks: HashMap::new() };
        let mut open = vec![Directory { ino: Ino::ROOT, parent: 0, position: 0 }];
        while let Some(directory) = open.pop() {
            let Ok(rank) = u32::try_from(order.directories.len()) else { break };
            order.ranks.insert(directory.ino, rank);
            order.directories.push(directory);
            let entries = (0..).zip(manifest.entries(directory.ino).into_iter().flatten());
            let is_directory = |ino| manifest.inode(ino).is_some_and(|inode| inode.is_directory());
            let below = entries.filter(|(_, (_, ino))| is_directory(*ino));
            let first = open.len();
            open.extend(below.map(|(position, (_, ino))| Directory {
                ino,
                parent: rank,
                position,
            }));
            open[first..].reverse();
        }
        order
    }

    /// The path of a directory, from the root on.
    fn path(&self, manifest: &Manifest, rank: u32) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = rank;
        while at > 0 {
            let Directory { parent, position, .. } = *self.directories.get(at as usize)?;
            let within = self.directories.get(parent as usize)?.ino;
            names.push(manifest.entry_at(within, position as usize)?.0);
            at = parent;
        }
        Some(names.into_iter().rev().map(OsStr::from_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_followed_by_windows_that_double_and_others_by_none() {
        let mut pace = Pace::default();
        let mut windows = (1..=40).filter_map(|rank| Some((rank, pace.listed(rank)?)));
        let first = Window { ranks: 9..25, mark: 17 };
        assert_eq!(windows.next(), Some((8, first)));
        let second = Window { ranks: 25..57, mark: 41 };
        assert_eq!(windows.next(), Some((17, second)));
        assert_eq!(windows.next(), None);
        // The program found the rest listed, up to the one that was left out, and some beyond.
        assert_eq!(pace.listed(41).map(|window| window.ranks), Some(57..121));
        assert_eq!(pace.listed(123).map(|window| window.ranks), Some(124..252));
        // Elsewhere.
        assert_eq!(pace.listed(2000), None);
        for rank in (1..100).rev().chain((0..100).map(|n| n * 5)) {
            assert_eq!(pace.listed(rank), None);
        }
    }
}
