//! Frames: their bytes from verified chunks, compressed and sent.

use std::sync::Arc;

use bytes::Bytes;
use sway_core::blob::{Blob, Encoder, FrameHeader};
use sway_core::digest::Digest;
use sway_core::manifest::{GroupSource, Ino};
use sway_core::trace::FRAME_LEN_MAX;
use sway_core::trace::touches::{Contents, Plan};

use super::{RecordError, Traces};
use crate::account::RunAccount;
use crate::cache::Chunks;
use crate::rootfs::Rootfs;

/// zstd level of frames: they are made once, off everybody's path, and sent at every cold start.
const LEVEL: i32 = 15;

/// Frames in memory at a time: 4 MiB raw.
const BATCH: usize = (4 << 20) / FRAME_LEN_MAX;

impl Traces {
    /// Makes and stores the frames that `plan` lacks; returns their names in order.
    pub(super) async fn make_frames(
        &self,
        plan: &Plan,
        contents: &Contents<'_>,
        rootfs: &Arc<Rootfs>,
    ) -> Result<Vec<Digest>, RecordError> {
        let mut source = Source::new(rootfs);
        let mut made = Vec::with_capacity(plan.to_make().len());
        let mut frames = plan.to_make().peekable();
        while frames.peek().is_some() {
            let mut batch = Vec::with_capacity(BATCH);
            for ranges in frames.by_ref().take(BATCH) {
                let mut raw = Vec::with_capacity(FRAME_LEN_MAX);
                for range in ranges {
                    let file = plan.file(range);
                    let ino = contents.place(file).ino().ok_or_else(|| {
                        RecordError::Content(String::from_utf8_lossy(&file.path).into_owned())
                    })?;
                    for group in range.first..range.first + range.count {
                        source.append(ino, group, &mut raw).await?;
                    }
                }
                batch.push(Blob::new(raw));
            }
            made.extend(batch.iter().map(Blob::digest));
            self.send(batch).await?;
        }
        Ok(made)
    }

    async fn send(&self, batch: Vec<Blob>) -> Result<(), RecordError> {
        let digests: Vec<Digest> = batch.iter().map(Blob::digest).collect();
        let missing = self.client.blobs().missing(&digests).await?;
        let encoding = tokio::task::spawn_blocking(move || {
            at_low_priority(|| {
                let mut encoder = Encoder::new(LEVEL);
                let missing = batch.iter().filter(|blob| missing.contains(&blob.digest()));
                let encoded = missing.map(|blob| {
                    let mut out = Vec::new();
                    let len = encoder.encode(blob.as_ref(), &mut out);
                    let header = FrameHeader::new(blob.digest(), blob.as_ref().len(), len);
                    (header, Bytes::from(out))
                });
                encoded.collect::<Vec<_>>()
            })
        });
        let encoded = encoding.await.map_err(|_| RecordError::Stopping)?;
        if !encoded.is_empty() {
            self.client.blobs().upload_batch(&encoded).await?;
        }
        Ok(())
    }
}

/// The bytes of an image's page groups.
struct Source<'a> {
    rootfs: &'a Rootfs,
    chunks: &'a Arc<Chunks>,
    account: Arc<RunAccount>,
    /// Groups of one chunk mostly come one after the other.
    last: Option<(u32, Blob)>,
}

impl<'a> Source<'a> {
    fn new(rootfs: &'a Rootfs) -> Self {
        Self { rootfs, chunks: rootfs.chunks(), account: Arc::default(), last: None }
    }

    async fn append(&mut self, ino: Ino, group: u32, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let manifest = self.rootfs.manifest();
        let Some(GroupSource::Chunk { chunk, group }) = manifest.group(ino, group) else {
            return Err(RecordError::Content(self.rootfs.path_of(ino)));
        };
        let blob = match &self.last {
            Some((last, blob)) if *last == chunk => blob,
            _ => {
                let wanted = manifest.chunks()[chunk as usize];
                let blob = self.chunks.chunk(wanted, &self.account).await?;
                &self.last.insert((chunk, blob)).1
            }
        };
        let len = manifest.group_len() as usize;
        let start = group as usize * len;
        let bytes = blob.as_ref();
        out.extend_from_slice(&bytes[start.min(bytes.len())..(start + len).min(bytes.len())]);
        Ok(())
    }
}

/// Runs `work` so that jobs go first. Blocking threads are shared, so the priority is set back.
pub(super) fn at_low_priority<T>(work: impl FnOnce() -> T) -> T {
    // On Linux this is the calling thread's. Only root may raise it again.
    let before = rustix::process::getpriority_process(None).unwrap_or(0);
    let lowered = rustix::process::geteuid().is_root()
        && rustix::process::setpriority_process(None, 19).is_ok();
    let done = work();
    if lowered && let Err(error) = rustix::process::setpriority_process(None, before) {
        tracing::warn!(%error, "a thread stays at low priority");
    }
    done
}
