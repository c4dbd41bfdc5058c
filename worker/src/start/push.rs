//! Puts arrived pages into the kernel's page cache, on a thread of its own.
//!
//! The kernel takes pages only of inodes that it knows, so each file is looked up once before,
//! through the mount itself; the job finds it in the kernel's cache of names then. A push onto a
//! page that a read waits for blocks until that read is answered, which is why nobody else may be
//! kept waiting by this thread: what is pushed was on the board before, and readers had it there.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Counters;
use super::board::PageKey;
use super::plan::{Piece, Plan};
use crate::mount::ImageMount;

/// Most bytes of one notification.
const STORE_LEN_MAX: usize = 256 << 10;

/// A checked frame.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) pieces: Vec<Piece>,
    pub(super) raw: Bytes,
}

/// Pushes frames in order until there are no more, or `stop`.
pub(super) fn push_all(
    mount: &Arc<ImageMount>,
    plan: &Plan,
    mut frames: mpsc::Receiver<Arrived>,
    counters: &Counters,
    stop: &CancellationToken,
) {
    let mut pusher = Pusher { mount, plan, counters, known: HashSet::new() };
    while let Some(frame) = frames.blocking_recv() {
        if !stop.is_cancelled() {
            pusher.push(&frame);
        }
        mount.board().retire(frame.pieces.iter().map(|piece| piece.key));
    }
}

struct Pusher<'a> {
    mount: &'a Arc<ImageMount>,
    plan: &'a Plan,
    counters: &'a Counters,
    /// Files that were looked up.
    known: HashSet<u32>,
}

impl Pusher<'_> {
    fn push(&mut self, frame: &Arrived) {
        let mut run: Option<Piece> = None;
        for piece in &frame.pieces {
            // Its read brings these pages itself, and holds them until then.
            if self.mount.board().is_spanned(piece.key) {
                continue;
            }
            match &mut run {
                Some(run) if follows(run, piece) => run.range.end = piece.range.end,
                run => {
                    if let Some(done) = run.replace(piece.clone()) {
                        self.store(&done, &frame.raw);
                    }
                }
            }
        }
        if let Some(done) = run {
            self.store(&done, &frame.raw);
        }
    }

    fn store(&mut self, run: &Piece, raw: &Bytes) {
        let Some(target) = self.plan.target(run.file) else { return };
        if self.known.insert(run.file) {
            let relative =
                OsStr::from_bytes(target.path.strip_prefix(b"/").unwrap_or(&target.path));
            let path = self.mount.path().join(relative);
            if let Err(error) = std::fs::symlink_metadata(&path) {
                tracing::debug!(path = %path.display(), %error, "a traced file can't be looked up");
            }
        }
        match self.mount.store(target.ino, run.offset, &raw[run.range.clone()]) {
            Ok(()) => self.counters.pushed(run.range.len()),
            Err(error) => {
                tracing::debug!(path = %target.path.escape_ascii(), %error, "pages can't be pushed");
            }
        }
    }
}

/// Whether `piece` goes on where `run` ends, in the file as in the frame.
fn follows(run: &Piece, piece: &Piece) -> bool {
    let len = run.range.len();
    run.file == piece.file
        && run.offset + len as u64 == piece.offset
        && run.range.end == piece.range.start
        && len + piece.range.len() <= STORE_LEN_MAX
}

/// The keys of a frame's pages with their bytes.
pub(super) fn keyed(arrived: &Arrived) -> impl Iterator<Item = (PageKey, Bytes)> + '_ {
    arrived.pieces.iter().map(|piece| (piece.key, arrived.raw.slice(piece.range.clone())))
}
