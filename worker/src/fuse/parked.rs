//! Reads that have to wait: for what a start brings, for what they ask for themselves, or both.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fuser::{Errno, ReplyData};
use sway_core::chunk::PAGE_LEN;
use sway_core::manifest::Ino;
use tokio_util::sync::CancellationToken;

use super::Adapter;
use super::errno::errno;
use crate::account::RunAccount;
use crate::start::{Board, Outlook, Parked, Waiter};

/// How long a read waits for what a start brings soon before it asks for it itself.
const PATIENCE: Duration = Duration::from_millis(60);

/// How long a read waits for a start to say what it brings, and then for that.
const OPEN_PATIENCE: Duration = Duration::from_millis(500);

/// A read of a file.
pub(super) struct Read {
    pub(super) ino: Ino,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) account: Arc<RunAccount>,
}

/// A read's reply, for whoever has the bytes first.
#[derive(Debug)]
struct Waiting {
    reply: Mutex<Option<ReplyData>>,
    /// What it wants of its page.
    range: Range<usize>,
    account: Arc<RunAccount>,
    answered: CancellationToken,
    /// No start brings it.
    forsaken: CancellationToken,
}

impl Waiting {
    fn take(&self) -> Option<ReplyData> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: Errno) {
        if let Some(reply) = self.take() {
            reply.error(error);
        }
    }
}

impl Waiter for Waiting {
    fn complete(&self, page: &Bytes) {
        if let Some(reply) = self.take() {
            let end = self.range.end.min(page.len());
            let bytes = &page[self.range.start.min(end)..end];
            self.account.memory_hit(bytes.len() as u64);
            reply.data(bytes);
            self.answered.cancel();
        }
    }

    fn give_up(&self) {
        self.forsaken.cancel();
    }
}

impl Adapter {
    /// Waits for a read off the session's thread.
    pub(super) fn park(&self, read: Read, outlook: Outlook, reply: ReplyData) {
        let board = Arc::clone(&self.surroundings.board);
        let start = usize::try_from(read.offset % u64::from(PAGE_LEN)).expect("within a page");
        let waiting = Arc::new(Waiting {
            reply: Mutex::new(Some(reply)),
            range: start..start.saturating_add(read.len),
            account: Arc::clone(&read.account),
            answered: CancellationToken::new(),
            forsaken: CancellationToken::new(),
        });
        let (is_open, mut patience) = match outlook {
            Outlook::Open(_) => (true, OPEN_PATIENCE),
            Outlook::Near(_) => (false, PATIENCE),
            _ => (false, Duration::ZERO),
        };
        let (mut is_coming, mut span) = (false, None);
        match outlook {
            Outlook::Near(key) | Outlook::Far(key) | Outlook::Open(key) => {
                let waiter: Arc<dyn Waiter> = Arc::<Waiting>::clone(&waiting);
                match board.park(key, &waiter) {
                    Parked::Here(page) => return waiting.complete(&page),
                    Parked::Waits => is_coming = true,
                    Parked::Gone => patience = Duration::ZERO,
                }
            }
            Outlook::Spanning(keys) => span = Some(board.span(keys)),
            Outlook::Unknown | Outlook::Here(_) => {}
        }
        let rootfs = Arc::clone(&self.rootfs);
        let stopping = self.tasks.stopping().clone();
        self.tasks.spawn("parked read", async move {
            let Read { ino, offset, len, account } = read;
            // Dropped with the task, after the reply.
            let _span = span;
            let on_demand = async {
                let is_forsaken = wait(&waiting, patience).await;
                if is_open && is_forsaken {
                    account.missed(rootfs.manifest(), len as u64);
                }
                let _demand = Board::demand(&board);
                match is_coming && !is_forsaken {
                    true => rootfs.read_coming(ino, offset, len, &account).await,
                    false => rootfs.read(ino, offset, len, &account).await,
                }
            };
            // A task that is dropped drops its reply, which answers EIO.
            tokio::select! {
                biased;
                () = waiting.answered.cancelled() => {}
                () = account.doomed().cancelled() => waiting.fail(Errno::EIO),
                () = stopping.cancelled() => waiting.fail(Errno::EIO),
                outcome = on_demand => match outcome {
                    Ok(content) => {
                        if let Some(reply) = waiting.take() {
                            reply.data(content.as_ref());
                        }
                    }
                    Err(error) => {
                        // Somebody else may have had the bytes.
                        let Some(reply) = waiting.take() else { return };
                        let path = rootfs.path_of(ino);
                        tracing::warn!(path, %error, "read failed");
                        account.note(format!("read of {path} failed: {error}"));
                        reply.error(errno(&error));
                    }
                },
            }
        });
    }
}

/// Leaves the start `patience`, as long as it may still bring the bytes. Tells whether it will not.
async fn wait(waiting: &Waiting, patience: Duration) -> bool {
    if patience > Duration::ZERO {
        let forsaken = waiting.forsaken.cancelled();
        return tokio::time::timeout(patience, forsaken).await.is_ok();
    }
    false
}
