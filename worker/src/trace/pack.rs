//! Frames: their bytes from verified chunks, compressed and sent.

use std::sync::Arc;

use bytes::Bytes;
use sway_core::blob::{Blob, Encoder};
use sway_core::chunk::PAGE_LEN;
use sway_core::digest::Digest;
use sway_core::manifest::{Ino, PageSource};
use sway_core::trace::touches::{Contents, Plan};
use sway_core::trace::{FRAME_LEN_MAX, FramePart};

use super::{RecordError, Traces};
use crate::account::RunAccount;
use crate::cache::Chunks;
use crate::priority::{BACKGROUND, at_nice};
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
            for parts in frames.by_ref().take(BATCH) {
                batch.push(Blob::new(source.frame(plan, contents, &parts).await?));
            }
            made.extend(batch.iter().map(Blob::digest));
            self.send(batch).await?;
        }
        Ok(made)
    }

    async fn send(&self, batch: Vec<Blob>) -> Result<(), RecordError> {
        let digests: Vec<Digest> = batch.iter().map(Blob::digest).collect();
        let missing = self.client.blobs().missing(&digests).await?;
        let (mut encoder, mut encoded) = (Encoder::new(LEVEL), Vec::new());
        for blob in batch.into_iter().filter(|blob| missing.contains(&blob.digest())) {
            self.give_way().await;
            let encoding = tokio::task::spawn_blocking(move || {
                at_nice(BACKGROUND, || {
                    let (header, encoded) = encoder.frame(blob.digest(), blob.as_ref());
                    (encoder, (header, Bytes::from(encoded)))
                })
            });
            let (used, frame) = encoding.await.map_err(|_| RecordError::Stopping)?;
            encoder = used;
            encoded.push(frame);
        }
        if !encoded.is_empty() {
            self.client.blobs().upload_batch(&encoded).await?;
        }
        Ok(())
    }
}

/// The bytes of an image's chunks.
struct Source<'a> {
    rootfs: &'a Rootfs,
    chunks: &'a Arc<Chunks>,
    account: Arc<RunAccount>,
    /// Successive frames often go on with one.
    last: Option<(u32, Blob)>,
}

impl<'a> Source<'a> {
    fn new(rootfs: &'a Rootfs) -> Self {
        Self { rootfs, chunks: rootfs.chunks(), account: Arc::default(), last: None }
    }

    /// The raw bytes of a frame with these parts.
    async fn frame(
        &mut self,
        plan: &Plan,
        contents: &Contents<'_>,
        parts: &[FramePart],
    ) -> Result<Vec<u8>, RecordError> {
        let mut raw = Vec::with_capacity(FRAME_LEN_MAX);
        let mut proofs: Vec<Digest> = Vec::new();
        for part in parts {
            let file = plan.file(part);
            let ino = contents.place(file).ino().ok_or_else(|| {
                RecordError::Content(String::from_utf8_lossy(&file.path).into_owned())
            })?;
            let chunk = self.chunk(ino, part.start).await?;
            for page in part.pages.iter() {
                let start = page as usize * PAGE_LEN as usize;
                let end = chunk.as_ref().len().min(start + PAGE_LEN as usize);
                raw.extend_from_slice(&chunk.as_ref()[start..end]);
            }
            proofs.extend(part.pages.prove(chunk.as_ref()));
        }
        proofs.iter().for_each(|digest| raw.extend_from_slice(digest.as_bytes()));
        Ok(raw)
    }

    /// The chunk that begins at a page of a file.
    async fn chunk(&mut self, ino: Ino, start: u32) -> Result<Blob, RecordError> {
        let manifest = self.rootfs.manifest();
        let Some(PageSource::Chunk { chunk, page: 0 }) = manifest.page(ino, start) else {
            return Err(RecordError::Content(self.rootfs.path_of(ino)));
        };
        if let Some((last, blob)) = &self.last
            && *last == chunk
        {
            return Ok(blob.clone());
        }
        let wanted = manifest.chunks()[chunk as usize];
        let blob = self.chunks.chunk(wanted, &self.account).await?;
        self.last = Some((chunk, blob.clone()));
        Ok(blob)
    }
}
