//! One start from its first byte to its last: receives, mounts, checks, hands on.
//!
//! Two tasks: one polls the stream and pauses while reads wait for what they asked for themselves,
//! so that those have the line; the other takes frames in their order. Checking is done on
//! blocking threads, several at a time. A stream that breaks or stalls is asked for once more,
//! for what is left; after that reads go on demand.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use sway_client::blobs::FrameStream;
use sway_client::start::{StartAnswer, StartHead, StartQuery};
use sway_core::blob::{BLOB_LEN_MAX, Blob, FRAME_HEADER_LEN, FrameHeader};
use sway_core::digest::Digest;
use sway_core::manifest::PageRoots;
use sway_core::trace::Trace;
use tokio::sync::mpsc;

use super::bring::{Bringing, Held, Reading};
use super::file::{StartFile, StartFiles};
use super::plan::Plan;
use super::push::push_all;
use super::{Mounting, STRIPES, Shared, StartKey, Starts, TraceMode, Traced, lock};
use crate::mount::ImageMount;

/// How long a stream may bring nothing.
const STALL: Duration = Duration::from_secs(5);

/// How long the stream pauses at a time while reads wait for what they asked for.
const YIELD_MAX: Duration = Duration::from_millis(30);

/// Frames, as they came, that wait to be looked at, and to be written to disk.
const RECEIVED_MAX: usize = 64;

/// Checked frames that wait to be pushed: 256 KiB each.
const PUSHES_MAX: usize = 32;

/// Where a start comes from.
pub(super) enum Origin {
    /// The fileserver's answer.
    Server { head: StartHead, frames: FrameStream },
    /// The file of an earlier start.
    File(StartFile),
    /// Nobody has asked yet.
    Ask,
}

/// A frame as it came, or why there are no more.
type Received = Result<(FrameHeader, Bytes), String>;

/// Carries a start out. Ends when it is through, or stopped.
pub(super) async fn run(starts: &Arc<Starts>, shared: &Arc<Shared>, origin: Origin) {
    let work = Work { starts, shared };
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => {}
        () = work.carry_out(origin) => {}
    }
    shared.traced.send_if_modified(|state| state.replace(state.unwrap_or(Traced::Not)).is_none());
    // Whoever waits for the mount makes it then.
    shared.mount.send_if_modified(|state| {
        let opening = matches!(state, Mounting::Opening);
        if opening {
            *state = Mounting::Failed;
        }
        opening
    });
}

/// Brings the file of a start up to date and does nothing else: a start from it is under way.
pub(super) fn refresh(
    starts: &Arc<Starts>,
    key: &StartKey,
    head: StartHead,
    mut frames: FrameStream,
) {
    let (Some(files), true) = (&starts.files, head.bundle.is_some()) else { return };
    let writer = write(starts, files, key.clone(), head);
    let (mounts, manifest) = (Arc::clone(&starts.mounts), key.manifest);
    starts.tasks.spawn("refresh start", async move {
        loop {
            if let Some(mount) = mounts.peek(manifest) {
                mount.board().no_demand(YIELD_MAX).await;
            }
            let written = match tokio::time::timeout(STALL, frames.next()).await {
                Ok(None) => Written::End,
                Ok(Some(Ok((header, encoded)))) if !header.is_missing() => {
                    Written::Frame(header, encoded)
                }
                Ok(Some(_)) | Err(_) => return,
            };
            let is_end = matches!(written, Written::End);
            if writer.send(written).await.is_err() || is_end {
                return;
            }
        }
    });
}

/// Writes the file of a start on a thread of its own.
fn write(starts: &Starts, files: &Arc<StartFiles>, key: StartKey, head: StartHead) -> Writer {
    let (sender, mut written) = mpsc::channel(RECEIVED_MAX);
    let files = Arc::clone(files);
    starts.tasks.spawn_blocking("write start", move || {
        let done = files.create(&key, &head.etag).and_then(|mut writer| {
            while let Some(next) = written.blocking_recv() {
                match next {
                    Written::Frame(header, encoded) => writer.push(&header, &encoded)?,
                    Written::End => {
                        match head.base {
                            Some(base) => files.renew(&key, base, writer)?,
                            None => writer.commit()?,
                        }
                        files.keep_bound();
                        break;
                    }
                }
            }
            Ok(())
        });
        if let Err(error) = done {
            tracing::debug!(%error, "a start is not kept on disk");
        }
    });
    sender
}

pub(super) struct Work<'a> {
    pub(super) starts: &'a Arc<Starts>,
    pub(super) shared: &'a Arc<Shared>,
}

/// What a stream says of itself.
struct Opened {
    inbox: Inbox,
    /// Whether an own trace of the image follows.
    has_trace: bool,
}

/// The frames of a stream, as they are taken.
pub(super) struct Inbox {
    frames: mpsc::Receiver<Received>,
    /// Whether they come from disk.
    pub(super) is_file: bool,
}

impl Inbox {
    /// The next frame; none at the end, and why where that is none.
    pub(super) async fn next(&mut self) -> Result<Option<(FrameHeader, Bytes)>, String> {
        match tokio::time::timeout(STALL, self.frames.recv()).await {
            Ok(received) => received.transpose(),
            Err(_) => Err(format!("nothing came for {} s", STALL.as_secs())),
        }
    }

    /// The next frame, which has to be there.
    async fn take(&mut self) -> Result<(FrameHeader, Bytes), String> {
        self.next().await?.ok_or_else(|| "it ended early".to_owned())
    }
}

impl Work<'_> {
    async fn carry_out(&self, origin: Origin) {
        let Some(mut opened) = self.open(origin).await else { return };
        if opened.has_trace {
            self.shared.traced.send_replace(Some(Traced::Own));
        }
        let Some(mount) = self.mount(&mut opened.inbox).await else { return };
        // The job may read before the trace is here: what it reads comes with it, most likely, and
        // page by page, so that frames can answer it.
        let reading = (self.starts.mode() != TraceMode::Off).then(|| Reading::begin(&mount));
        self.shared.mount.send_replace(Mounting::Mounted(Arc::clone(&mount)));
        let laid = match opened.has_trace {
            true => self.lay(&mount, opened.inbox).await,
            false => self.lay_donor(&mount).await,
        };
        let key = &self.shared.key;
        mount.note_started(key.user.clone(), key.key.clone());
        if let (Some((plan, inbox)), Some(reading)) = (laid, reading) {
            let _ = self.shared.plan.set(Arc::clone(&plan));
            reading.board.expect(&plan);
            if let Some(predictor) = mount.rootfs().predictor() {
                predictor.laid(Arc::clone(&plan));
            }
            self.bring(&mount, plan, inbox, reading).await;
        }
    }

    async fn open(&self, origin: Origin) -> Option<Opened> {
        match origin {
            Origin::File(file) => Some(self.open_file(file)),
            Origin::Server { head, frames } => Some(self.open_stream(&head, frames)),
            Origin::Ask => match self.find_file().await {
                Some(file) => Some(self.open_file(file)),
                None => self.ask(Vec::new()).await,
            },
        }
    }

    async fn find_file(&self) -> Option<StartFile> {
        let files = self.starts.files.clone()?;
        if self.starts.mode() == TraceMode::Off {
            return None;
        }
        let key = self.shared.key.clone();
        tokio::task::spawn_blocking(move || files.open(&key)).await.ok()?
    }

    /// Asks for this very manifest.
    async fn ask(&self, have: Vec<Digest>) -> Option<Opened> {
        let key = &self.shared.key;
        let query = StartQuery {
            images: Vec::new(),
            manifest: Some(key.manifest),
            user: key.user.clone(),
            keys: self.starts.keys(&key.key),
            have,
            etag: None,
            changes: false,
            stripes: STRIPES,
        };
        match self.starts.ask_again(query).await {
            Ok(StartAnswer::Stream(head, frames)) => Some(self.open_stream(&head, frames)),
            Ok(StartAnswer::NoImage | StartAnswer::Unchanged(_)) => None,
            Err(error) => {
                tracing::info!(manifest.digest = %key.manifest, %error, "no start");
                None
            }
        }
    }

    fn open_stream(&self, head: &StartHead, frames: FrameStream) -> Opened {
        *lock(&self.shared.bundle) = head.bundle;
        let has_trace = head.bundle.is_some();
        let files = self.starts.files.as_ref().filter(|_| has_trace);
        let writer =
            files.map(|files| write(self.starts, files, self.shared.key.clone(), head.clone()));
        Opened { inbox: self.receive(frames, writer), has_trace }
    }

    fn open_file(&self, mut file: StartFile) -> Opened {
        *lock(&self.shared.bundle) = file.bundle();
        let (sender, frames) = mpsc::channel(RECEIVED_MAX);
        let shared = Arc::clone(self.shared);
        self.starts.tasks.spawn_blocking("read start", move || {
            while let Some((header, encoded)) = file.next_frame() {
                let len = (FRAME_HEADER_LEN + encoded.len()) as u64;
                shared.counters.bytes_from_disk.fetch_add(len, Ordering::Relaxed);
                // The inbox is gone where the start is over.
                if sender.blocking_send(Ok((header, encoded))).is_err() {
                    return;
                }
            }
        });
        Opened { inbox: Inbox { frames, is_file: true }, has_trace: true }
    }

    /// Polls a stream on a task of its own, and keeps what comes.
    pub(super) fn receive(&self, mut frames: FrameStream, writer: Option<Writer>) -> Inbox {
        let (sender, inbox) = mpsc::channel(RECEIVED_MAX);
        let shared = Arc::clone(self.shared);
        let receiving = async move {
            let mut writer = writer;
            loop {
                shared.yield_to_reads().await;
                let received = match frames.next().await {
                    None => {
                        if let Some(writer) = writer {
                            // Where it has no room it is not kept.
                            let _ = writer.try_send(Written::End);
                        }
                        return;
                    }
                    Some(Ok((header, encoded))) => {
                        let len = (FRAME_HEADER_LEN + encoded.len()) as u64;
                        shared.counters.bytes_on_wire.fetch_add(len, Ordering::Relaxed);
                        let kept = Written::Frame(header, encoded.clone());
                        if header.is_missing()
                            || writer.as_ref().is_some_and(|to| to.try_send(kept).is_err())
                        {
                            writer = None;
                        }
                        Ok((header, encoded))
                    }
                    Some(Err(error)) => Err(error.to_string()),
                };
                let is_end = received.is_err();
                if sender.send(received).await.is_err() || is_end {
                    return;
                }
            }
        };
        let stop = self.shared.stop.clone();
        self.starts.tasks.spawn("start receives", async move {
            let _ = stop.run_until_cancelled(receiving).await;
        });
        Inbox { frames: inbox, is_file: false }
    }

    /// Mounts the image with the manifest that comes first; with one from elsewhere where the
    /// stream does not last that long.
    async fn mount(&self, inbox: &mut Inbox) -> Option<Arc<ImageMount>> {
        let manifest = self.shared.key.manifest;
        let mounts = &self.starts.mounts;
        let first = inbox.take().await;
        let mounted = match first {
            Ok((header, encoded))
                if header.digest == manifest
                    && !header.is_missing()
                    && mounts.peek(manifest).is_none() =>
            {
                let decoded = tokio::task::spawn_blocking(move || {
                    Blob::decode(manifest, &encoded, BLOB_LEN_MAX)
                });
                match decoded.await.ok()? {
                    Ok(blob) => mounts.get_with(manifest, blob).await,
                    Err(error) => {
                        tracing::warn!(%error, "refused the manifest of a start");
                        self.shared.counters.refused();
                        mounts.get(manifest).await
                    }
                }
            }
            Ok(_) => mounts.get(manifest).await,
            Err(reason) => {
                tracing::debug!(manifest.digest = %manifest, reason, "a start broke at once");
                mounts.get(manifest).await
            }
        };
        let told = mounted.inspect_err(|error| tracing::debug!(%error, "a start has no mount"));
        told.ok()
    }

    /// Takes page roots and trace off the stream; asks once more where it breaks before them.
    async fn lay(&self, mount: &Arc<ImageMount>, mut inbox: Inbox) -> Option<(Arc<Plan>, Inbox)> {
        let reason = match self.lay_from(mount, &mut inbox).await {
            Ok(plan) => return Some((plan, inbox)),
            Err(reason) => reason,
        };
        tracing::info!(manifest.digest = %mount.digest(), reason, "a start broke before its trace");
        if inbox.is_file {
            self.drop_file();
        }
        let mut opened = self.ask(vec![mount.digest()]).await.filter(|opened| opened.has_trace)?;
        let plan = self.lay_from(mount, &mut opened.inbox).await.ok()?;
        Some((plan, opened.inbox))
    }

    async fn lay_from(
        &self,
        mount: &Arc<ImageMount>,
        inbox: &mut Inbox,
    ) -> Result<Arc<Plan>, String> {
        let manifest = Arc::clone(mount.manifest());
        let roots = match manifest.page_roots() {
            Some(digest) => Some((digest, inbox.take().await?.1)),
            None => None,
        };
        let (header, encoded) = inbox.take().await?;
        let laid = tokio::task::spawn_blocking(move || {
            let decode = |digest, encoded: &Bytes| {
                Blob::decode(digest, encoded, BLOB_LEN_MAX).map_err(|error| error.to_string())
            };
            let roots = match roots {
                Some((digest, encoded)) => decode(digest, &encoded)?.into_bytes(),
                None => Arc::default(),
            };
            let roots = PageRoots::decode(&manifest, &roots).map_err(|error| error.to_string())?;
            let trace = decode(header.digest, &encoded)?;
            let trace = Trace::decode(trace.as_ref()).map_err(|error| error.to_string())?;
            Plan::new(manifest, roots, Arc::new(trace))
                .ok_or_else(|| "its chunks are of another length".to_owned())
        });
        laid.await.map_err(|error| error.to_string())?.map(Arc::new)
    }

    /// Lays a trace of other images, and asks for its frames.
    async fn lay_donor(&self, mount: &Arc<ImageMount>) -> Option<(Arc<Plan>, Inbox)> {
        if self.starts.mode() == TraceMode::Off {
            return None;
        }
        let donor = self.starts.donor(&self.shared.key, mount.manifest()).await;
        let traced = if donor.is_some() { Traced::Donated } else { Traced::Not };
        self.shared.traced.send_replace(Some(traced));
        let donor = donor?;
        let manifest = Arc::clone(mount.manifest());
        let roots = manifest.page_roots();
        let wanted: Vec<Digest> = roots.into_iter().chain(donor.frames).collect();
        let mut inbox = self.receive(self.starts.source.blobs(&wanted), None);
        let encoded = match roots {
            Some(_) => Some(inbox.take().await.ok()?.1),
            None => None,
        };
        let laid = tokio::task::spawn_blocking(move || {
            let roots = match (roots, encoded) {
                (Some(digest), Some(encoded)) => {
                    Blob::decode(digest, &encoded, BLOB_LEN_MAX).ok()?.into_bytes()
                }
                _ => Arc::default(),
            };
            let roots = PageRoots::decode(&manifest, &roots).ok()?;
            Plan::new(manifest, roots, donor.trace).map(Arc::new)
        });
        let plan = laid.await.ok()??;
        metrics::counter!("sway_start_donors_total").increment(1);
        Some((plan, inbox))
    }

    /// Brings the frames to the board and into the kernel.
    async fn bring(
        &self,
        mount: &Arc<ImageMount>,
        plan: Arc<Plan>,
        inbox: Inbox,
        reading: Reading,
    ) {
        let is_pushed = self.shared.mode == TraceMode::Push && !mount.needs_shifted();
        self.shared.is_only_read.store(!is_pushed, Ordering::Relaxed);
        let mut bringing = Bringing {
            work: self,
            board: reading.board,
            plan: &plan,
            open: (0..plan.trace().frames().len()).filter(|at| plan.is_useful(*at)).collect(),
            pushes: None,
            held: Held::default(),
        };
        let mut hold = Some(reading.hold);
        let (pushed, has_pushed) = tokio::sync::oneshot::channel();
        if is_pushed {
            let (pushes, frames) = mpsc::channel(PUSHES_MAX);
            bringing.pushes = Some(pushes);
            let (mount, plan) = (Arc::clone(mount), Arc::clone(&plan));
            let (shared, hold) = (Arc::clone(self.shared), hold.take());
            self.starts.tasks.spawn_blocking("push", move || {
                push_all(&mount, &plan, frames, &shared.counters, &shared.stop);
                // Until the last page is there, the kernel is not to read ahead.
                drop(hold);
                let _ = pushed.send(());
            });
        }
        let is_file = inbox.is_file;
        if let Err(reason) = bringing.take_all(inbox).await {
            tracing::info!(manifest.digest = %mount.digest(), reason, "a start broke; once more");
            if is_file {
                self.drop_file();
            }
            bringing.take_rest().await;
        }
        bringing.pushes = None;
        bringing.board.retire_expected(&plan, &bringing.open);
        if is_pushed {
            let _ = has_pushed.await;
        } else {
            // What is held answers reads until the last job is gone.
            self.shared.stop.cancelled().await;
        }
        tracing::debug!(
            manifest.digest = %mount.digest(),
            pushed_bytes = self.shared.counters.pushed_bytes.load(Ordering::Relaxed),
            "a start is through"
        );
    }

    /// Forgets the file of this start: it is not right.
    fn drop_file(&self) {
        let Some(files) = self.starts.files.clone() else { return };
        let key = self.shared.key.clone();
        self.starts.tasks.spawn_blocking("remove start", move || files.remove(&key));
    }
}

/// What is sent to be written to disk.
#[derive(Debug)]
pub(super) enum Written {
    Frame(FrameHeader, Bytes),
    End,
}

pub(super) type Writer = mpsc::Sender<Written>;

impl Shared {
    /// Waits a moment while reads wait for what they asked for themselves.
    async fn yield_to_reads(&self) {
        let board = match &*self.mount.borrow() {
            Mounting::Mounted(mount) => Arc::clone(mount.board()),
            Mounting::Opening | Mounting::Failed => return,
        };
        board.no_demand(YIELD_MAX).await;
    }
}
