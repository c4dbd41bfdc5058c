//! Traces of test images, and a fileserver's starts that go as they are told.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use sway_client::ClientError;
use sway_client::blobs::FrameStream;
use sway_client::start::{StartAnswer, StartHead, StartQuery};
use sway_core::blob::{FrameHeader, encode};
use sway_core::chunk::PAGE_LEN;
use sway_core::digest::Digest;
use sway_core::manifest::Manifest;
use sway_core::trace::{FRAME_LEN_MAX, Trace, TraceFrame, TraceRange, TracedFile};
use sway_worker::start::{StartSource, Starts, StartsConfig, TraceMode};
use tokio::sync::watch;

use super::mount_fixture::{Fixture, Store};

/// What becomes of the frames of a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They come.
    #[default]
    Whole,
    /// One bit of each pack frame is flipped, below its encoding.
    Flipped,
    /// The connection breaks after so many.
    BreakAfter(usize),
}

/// A fileserver's starts of one image.
#[derive(Debug)]
pub(crate) struct Script {
    store: Arc<Store>,
    pub(crate) head: Mutex<StartHead>,
    members: Mutex<Vec<Digest>>,
    /// The state before the last [`Script::grow`].
    before: Mutex<Option<(StartHead, Vec<Digest>)>>,
    pub(crate) fate: Mutex<Fate>,
    /// Whether asking for single blobs fails.
    pub(crate) is_down: Mutex<bool>,
    /// Pack frames that may be sent; the rest waits.
    pub(crate) allowed: watch::Sender<usize>,
    pub(crate) streams: AtomicUsize,
    /// Members of all streams.
    pub(crate) sent: AtomicUsize,
    pub(crate) asked: AtomicUsize,
    pub(crate) refetched: AtomicUsize,
}

/// A trace of these whole files of an exported directory, and its frames.
pub(crate) fn trace_of(manifest: &Manifest, dir: &Path, paths: &[&str]) -> (Trace, Vec<Vec<u8>>) {
    let (mut files, mut ranges, mut frames, mut packs) = (vec![], vec![], vec![], vec![]);
    for path in paths {
        let bytes = std::fs::read(dir.join(path)).unwrap();
        let ino = manifest.resolve(path.as_bytes()).unwrap();
        let file = u32::try_from(files.len()).unwrap();
        files.push(TracedFile {
            content: manifest.content_id(ino).unwrap(),
            size: bytes.len() as u64,
            path: format!("/{path}").into_bytes().into(),
        });
        for (at, pack) in bytes.chunks(FRAME_LEN_MAX).enumerate() {
            let first = at * FRAME_LEN_MAX / PAGE_LEN as usize;
            let count = pack.len().div_ceil(PAGE_LEN as usize);
            let (first, count) = (u32::try_from(first).unwrap(), u32::try_from(count).unwrap());
            ranges.push(TraceRange { file, first, count, idle: 0 });
            frames.push(TraceFrame {
                digest: Digest::of(pack),
                len: u32::try_from(pack.len()).unwrap(),
                ranges: ranges.len() - 1..ranges.len(),
            });
            packs.push(pack.to_vec());
        }
    }
    (Trace::new(files, ranges, frames).unwrap(), packs)
}

/// A state of an image, and what its start sends.
fn state(
    store: &Store,
    digest: Digest,
    manifest: &Manifest,
    trace: Option<(Trace, Vec<Vec<u8>>)>,
) -> (StartHead, Vec<Digest>) {
    let mut members = vec![digest];
    let bundle = trace.map(|(trace, packs)| {
        members.extend(manifest.page_roots());
        let trace = store.put(&trace.encode());
        members.push(trace);
        members.extend(packs.iter().map(|pack| store.put(pack)));
        Digest::of(trace.as_bytes())
    });
    let etag = sway_core::api::start::start_etag(digest, bundle);
    (StartHead { image: None, manifest: digest, bundle, base: None, etag }, members)
}

impl Script {
    /// Starts of `manifest`, with the trace and its frames in the store.
    pub(crate) fn new(
        store: &Arc<Store>,
        digest: Digest,
        manifest: &Manifest,
        trace: Option<(Trace, Vec<Vec<u8>>)>,
    ) -> Arc<Self> {
        let (head, members) = state(store, digest, manifest, trace);
        Arc::new(Self {
            store: Arc::clone(store),
            head: Mutex::new(head),
            members: Mutex::new(members),
            before: Mutex::default(),
            fate: Mutex::default(),
            is_down: Mutex::default(),
            allowed: watch::Sender::new(usize::MAX),
            streams: AtomicUsize::default(),
            sent: AtomicUsize::default(),
            asked: AtomicUsize::default(),
            refetched: AtomicUsize::default(),
        })
    }

    /// The image gets another trace.
    pub(crate) fn grow(&self, manifest: &Manifest, trace: (Trace, Vec<Vec<u8>>)) {
        let (mut head, mut members) = (self.head.lock().unwrap(), self.members.lock().unwrap());
        let grown = state(&self.store, head.manifest, manifest, Some(trace));
        let before =
            (std::mem::replace(&mut *head, grown.0), std::mem::replace(&mut *members, grown.1));
        *self.before.lock().unwrap() = Some(before);
    }

    fn frame(&self, digest: Digest, flip: bool) -> (FrameHeader, Bytes) {
        match self.store.raw(digest) {
            None => (FrameHeader::missing(digest), Bytes::new()),
            Some(mut raw) => {
                if flip {
                    let middle = raw.len() / 2;
                    raw[middle] ^= 0x10;
                }
                let encoded = encode(&raw);
                (FrameHeader::new(digest, raw.len(), encoded.len()), Bytes::from(encoded))
            }
        }
    }

    fn broken() -> ClientError {
        ClientError::Unreachable { url: "test".to_owned(), source: "broken off".into() }
    }

    /// `heading` members come before the pack frames.
    fn stream(self: &Arc<Self>, digests: Vec<Digest>, heading: usize) -> FrameStream {
        let script = Arc::clone(self);
        Box::pin(async_stream::stream! {
            let fate = *script.fate.lock().unwrap();
            for (at, digest) in digests.into_iter().enumerate() {
                let pack = at.checked_sub(heading);
                if let Some(pack) = pack {
                    let mut allowed = script.allowed.subscribe();
                    allowed.wait_for(|allowed| pack < *allowed).await.unwrap();
                    if fate == Fate::BreakAfter(pack) {
                        yield Err(Self::broken());
                        return;
                    }
                }
                let flip = fate == Fate::Flipped && pack.is_some();
                yield Ok(script.frame(digest, flip));
            }
        })
    }
}

/// A [`Script`] as a source.
#[derive(Debug)]
pub(crate) struct Scripted(pub(crate) Arc<Script>);

impl StartSource for Scripted {
    fn start(&self, query: StartQuery) -> BoxFuture<'_, Result<StartAnswer, ClientError>> {
        let script = Arc::clone(&self.0);
        Box::pin(async move {
            script.asked.fetch_add(1, Ordering::SeqCst);
            let mut head = script.head.lock().unwrap().clone();
            if query.etag.as_deref() == Some(&head.etag) {
                return Ok(StartAnswer::Unchanged(head));
            }
            script.streams.fetch_add(1, Ordering::SeqCst);
            let mut members = script.members.lock().unwrap().clone();
            let heading = members.len() - pack_count(&members, &script);
            let before = members.len();
            members.retain(|digest| !query.have.contains(digest));
            let heading = heading - (before - members.len());
            if let (true, Some((old, have))) = (query.changes, &*script.before.lock().unwrap())
                && query.etag.as_deref() == Some(&old.etag)
            {
                members.retain(|digest| !have.contains(digest));
                head.base = old.bundle;
            }
            script.sent.fetch_add(members.len(), Ordering::SeqCst);
            let stream = script.stream(members, heading);
            Ok(StartAnswer::Stream(head, stream))
        })
    }

    fn blobs(&self, digests: &[Digest]) -> FrameStream {
        if *self.0.is_down.lock().unwrap() {
            return futures::stream::iter([Err(Script::broken())]).boxed();
        }
        self.0.refetched.fetch_add(digests.len(), Ordering::SeqCst);
        let digests = digests.to_vec();
        let script = Arc::clone(&self.0);
        futures::stream::iter(digests).map(move |digest| Ok(script.frame(digest, false))).boxed()
    }
}

/// All members but manifest, page roots and trace.
fn pack_count(members: &[Digest], script: &Script) -> usize {
    let manifest = Manifest::decode(&script.store.raw(members[0]).unwrap()).unwrap();
    let heading = 2 + usize::from(manifest.page_roots().is_some());
    members.len().saturating_sub(heading)
}

/// Starts over a fixture's mounts.
pub(crate) fn starts(fixture: &Fixture, script: &Arc<Script>, mode: TraceMode) -> Arc<Starts> {
    let config =
        StartsConfig { mode, dir: Some(fixture.dir.path().join("starts")), disk_bytes: 64 << 20 };
    let source = Arc::new(Scripted(Arc::clone(script)));
    Starts::new(config, source, Arc::clone(&fixture.mounts), fixture.tasks.clone())
}
