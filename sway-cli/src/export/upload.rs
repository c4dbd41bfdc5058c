//! Sends chunks to the fileserver: gathered to batches, compressed on all cores, several batches
//! on their way at once.

use std::num::NonZero;
use std::thread;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sway_client::Client;
use sway_core::api::blobs::UploadSummary;
use sway_core::blob::{self, FRAME_HEADER_LEN, FrameHeader};
use tokio::sync::mpsc::Receiver;
use tokio::task::spawn_blocking;

use super::cut::RawChunk;
use super::error::ExportError;

/// Raw bytes of one batch, at which it is closed. With as many batches under way as there are
/// cores and one more, this bounds the memory of an export.
const BATCH_LEN: usize = 8 << 20;

/// Most chunks of one batch.
const BATCH_CHUNKS: usize = 4_000;

/// What went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Blobs that the fileserver did not have.
    pub(crate) new_blobs: u64,
    /// Bytes of all frames.
    pub(crate) bytes: u64,
}

impl Sent {
    pub(crate) fn add(&mut self, other: Self) {
        self.new_blobs += other.new_blobs;
        self.bytes += other.bytes;
    }
}

/// Sends all that comes; returns once all of it is stored. `progress` is told of bytes sent.
pub(crate) async fn send_all(
    client: &Client,
    chunks: Receiver<RawChunk>,
    progress: impl Fn(u64),
) -> Result<Sent, ExportError> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let batches = stream::unfold(chunks, |mut chunks| async move {
        let batch = next_batch(&mut chunks).await;
        (!batch.is_empty()).then_some((batch, chunks))
    });
    batches
        .map(|batch| send(client, batch))
        .buffer_unordered(cores + 1)
        .try_fold(Sent::default(), |mut sum, sent| {
            progress(sent.bytes);
            sum.add(sent);
            async move { Ok(sum) }
        })
        .await
}

/// Compresses and sends some blobs at once.
pub(crate) async fn send(client: &Client, batch: Vec<RawChunk>) -> Result<Sent, ExportError> {
    let frames = spawn_blocking(move || encode(batch)).await.map_err(ExportError::Internal)?;
    let bytes = frames.iter().map(|(_, encoded)| FRAME_HEADER_LEN + encoded.len()).sum::<usize>();
    let UploadSummary { stored, .. } = client.blobs().upload_batch(&frames).await?;
    Ok(Sent { new_blobs: stored, bytes: bytes as u64 })
}

async fn next_batch(chunks: &mut Receiver<RawChunk>) -> Vec<RawChunk> {
    let mut batch = Vec::new();
    let mut len = 0;
    while len < BATCH_LEN && batch.len() < BATCH_CHUNKS {
        let Some(chunk) = chunks.recv().await else { break };
        len += chunk.1.len();
        batch.push(chunk);
    }
    batch
}

fn encode(batch: Vec<RawChunk>) -> Vec<(FrameHeader, Bytes)> {
    let encode = |(digest, raw): RawChunk| {
        let encoded = Bytes::from(blob::encode(&raw));
        (FrameHeader::new(digest, raw.len(), encoded.len()), encoded)
    };
    batch.into_iter().map(encode).collect()
}
