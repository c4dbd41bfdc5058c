//! The frames of a trace on their way: checked several at a time, delivered in their order.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use sway_core::blob::{self, FrameHeader};
use sway_core::digest::Digest;
use sway_core::trace::FRAME_LEN_MAX;
use tokio::sync::mpsc;

use super::board::{Board, PageKey, StartId};
use super::plan::Plan;
use super::push::{Arrived, keyed};
use super::stream::{Inbox, Work};
use crate::mount::{ImageMount, ReadaheadHold};

/// Frames that are checked at a time.
const CHECKS_MAX: usize = 3;

/// Bytes that wait on the board where nothing is pushed.
const HELD_MAX: usize = 32 << 20;

/// Of these, so many are behind the reader: no two runs read in quite the same order.
const HELD_BEHIND: u64 = 8 << 20;

/// How long the stream waits for the reader before the oldest of what is held goes: less than a
/// server waits for somebody who reads nothing.
const HELD_PATIENCE: Duration = Duration::from_secs(10);

/// A start's place on the board of its mount, as long as this lives.
pub(super) struct OnBoard {
    board: Arc<Board>,
    id: StartId,
}

impl OnBoard {
    fn begin(mount: &Arc<ImageMount>) -> Self {
        let board = Arc::clone(mount.board());
        let id = board.begin();
        Self { board, id }
    }

    /// Says what comes.
    pub(super) fn expect(&self, plan: &Plan) {
        self.board.expect(self.id, plan.expected());
    }

    /// Says that these frames do not come.
    pub(super) fn retire_expected(&self, plan: &Plan, frames: &[usize]) {
        for frame in frames {
            self.board.retire(plan.pieces(*frame).into_iter().map(|piece| piece.key));
        }
    }
}

/// How a mount is read while a start is under way.
pub(super) struct Reading {
    pub(super) board: OnBoard,
    /// A read is of one page, so that a frame can answer it.
    pub(super) hold: ReadaheadHold,
}

impl Reading {
    /// Reads wait from now on until it is known what comes.
    pub(super) fn begin(mount: &Arc<ImageMount>) -> Self {
        Self { board: OnBoard::begin(mount), hold: mount.hold_readahead() }
    }
}

impl Drop for OnBoard {
    fn drop(&mut self) {
        self.board.end(self.id);
    }
}

/// What is on the board and is not pushed, oldest first.
#[derive(Default)]
pub(super) struct Held {
    frames: VecDeque<HeldFrame>,
    len: usize,
}

struct HeldFrame {
    keys: Vec<PageKey>,
    len: usize,
    /// Where it ends in the stream.
    end: u64,
}

/// A trace's frames on their way.
pub(super) struct Bringing<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) board: OnBoard,
    pub(super) plan: &'a Arc<Plan>,
    /// Frames that have not come, in order.
    pub(super) open: Vec<usize>,
    pub(super) pushes: Option<mpsc::Sender<Arrived>>,
    pub(super) held: Held,
}

impl Bringing<'_> {
    /// Takes frames off a stream until it ends; an error tells that it broke.
    pub(super) async fn take_all(&mut self, mut inbox: Inbox) -> Result<(), String> {
        let mut checks = FuturesOrdered::new();
        let mut end = None;
        loop {
            tokio::select! {
                biased;
                Some(checked) = checks.next(), if !checks.is_empty() => {
                    let (frame, checked): (usize, Result<Arrived, String>) = checked;
                    self.deliver(frame, checked).await;
                }
                received = inbox.next(), if end.is_none() && checks.len() < CHECKS_MAX => {
                    match received {
                        Ok(Some((header, encoded))) => {
                            if let Some(check) = self.check(header, encoded) {
                                if !inbox.is_file {
                                    self.work.shared.counters.fetched();
                                }
                                checks.push_back(check);
                            }
                        }
                        Ok(None) => end = Some(Ok(())),
                        Err(reason) => end = Some(Err(reason)),
                    }
                }
                else => break,
            }
            if checks.is_empty() && end.is_some() {
                break;
            }
        }
        match end {
            Some(Err(reason)) => Err(reason),
            _ if inbox.is_file && !self.open.is_empty() => Err("its file is cut short".to_owned()),
            _ => Ok(()),
        }
    }

    /// Asks once for what is left.
    pub(super) async fn take_rest(&mut self) {
        let frames = self.plan.trace().frames();
        let wanted: Vec<Digest> = self.open.iter().map(|at| frames[*at].digest).collect();
        if wanted.is_empty() {
            return;
        }
        let inbox = self.work.receive(self.work.starts.source.blobs(&wanted), None);
        if let Err(reason) = self.take_all(inbox).await {
            tracing::info!(reason, "a start broke again; reads go on demand");
        }
    }

    /// Decodes and checks a frame on a blocking thread; none where it is of no use.
    fn check(
        &mut self,
        header: FrameHeader,
        encoded: Bytes,
    ) -> Option<impl Future<Output = (usize, Result<Arrived, String>)> + use<>> {
        if header.is_missing() {
            return None;
        }
        let is_this = |open: &usize| self.plan.frames(header.digest).contains(open);
        let at = self.open.iter().position(is_this)?;
        let frame = self.open.remove(at);
        let plan = Arc::clone(self.plan);
        let check = move || {
            let raw = decode(header.digest, &encoded).map_err(|error| error.to_string())?;
            let raw = Bytes::from(raw);
            let pieces = plan.check(frame, &raw).map_err(|error| error.to_string())?;
            Ok(Arrived { pieces, raw })
        };
        Some(async move {
            let checked = tokio::task::spawn_blocking(check).await;
            (frame, checked.unwrap_or_else(|error| Err(error.to_string())))
        })
    }

    /// Answers the reads that wait for a frame, then hands it on to be pushed.
    async fn deliver(&mut self, frame: usize, checked: Result<Arrived, String>) {
        let counters = &self.work.shared.counters;
        let arrived = match checked {
            Ok(arrived) => arrived,
            Err(reason) => {
                tracing::warn!(reason, "refused a frame of a start");
                counters.refused();
                self.board.retire_expected(self.plan, &[frame]);
                return;
            }
        };
        counters.arrived();
        let position = self.plan.span(frame).end;
        self.board.board.deliver(self.board.id, keyed(&arrived), position);
        match &self.pushes {
            Some(pushes) => {
                // Its thread ends only after this.
                let _ = pushes.send(arrived).await;
            }
            None => self.hold(&arrived, position).await,
        }
    }

    async fn hold(&mut self, arrived: &Arrived, end: u64) {
        let len = arrived.raw.len();
        self.work.shared.counters.pushed(len);
        let keys = arrived.pieces.iter().map(|piece| piece.key).collect();
        self.held.frames.push_back(HeldFrame { keys, len, end });
        self.held.len += len;
        while self.held.len > HELD_MAX
            && let Some(oldest) = self.held.frames.pop_front()
        {
            let OnBoard { board, id } = &self.board;
            board.read_up_to(*id, oldest.end + HELD_BEHIND, HELD_PATIENCE).await;
            board.retire(oldest.keys);
            self.held.len -= oldest.len;
        }
    }
}

/// The raw bytes of a frame, whose digest is not looked at: the image vouches for its pages.
fn decode(digest: Digest, encoded: &[u8]) -> Result<Vec<u8>, blob::BlobError> {
    let malformed =
        |error: std::io::Error| blob::BlobError::Malformed { digest, reason: error.to_string() };
    let mut raw = Vec::with_capacity(FRAME_LEN_MAX);
    let mut reader = blob::decoder(digest, encoded)?.take(FRAME_LEN_MAX as u64 + 1);
    reader.read_to_end(&mut raw).map_err(malformed)?;
    if raw.len() > FRAME_LEN_MAX {
        return Err(blob::BlobError::TooLong { digest, limit: FRAME_LEN_MAX });
    }
    Ok(raw)
}
