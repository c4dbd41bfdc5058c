//! Sends what the spool holds to the fileserver, several requests on their way at once.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use sway_client::Client;
use sway_core::api::blobs::UploadSummary;
use tokio::task::spawn_blocking;

use super::error::ExportError;
use super::spool::{Frame, Spool};

/// Bytes of one request, at which it is closed: what is sent again where the server was out of
/// reach. The server makes what is in one durable at once.
const REQUEST_LEN: usize = 8 << 20;

/// Bytes that are read from the spool at a time, and at which a piece is closed.
const PIECE_LEN: usize = 128 << 10;

/// Most blobs of one request: what the fileserver makes durable at once.
const REQUEST_BLOBS: usize = 4_000;

/// Requests at a time: while the fileserver makes one durable, it verifies another.
const REQUESTS: usize = 4;

/// What went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Blobs that the fileserver did not have.
    pub(crate) new_blobs: u64,
    /// Bytes of all frames.
    pub(crate) bytes: u64,
}

/// Sends `frames` of the spool; returns once all of them are stored. `progress` is told of bytes
/// sent.
pub(crate) async fn send(
    client: &Client,
    spool: &Arc<Spool>,
    frames: &[Frame],
    progress: impl Fn(u64),
) -> Result<Sent, ExportError> {
    stream::iter(parts(frames, REQUEST_LEN, REQUEST_BLOBS))
        .map(|frames| async move {
            let bytes = frames.iter().map(|frame| frame.len as u64).sum();
            let pieces = || pieces(spool, frames);
            let UploadSummary { stored, .. } = client.blobs().upload_frames(pieces).await?;
            Ok(Sent { new_blobs: stored, bytes })
        })
        .buffer_unordered(REQUESTS)
        .try_fold(Sent::default(), |sum, sent| {
            progress(sent.bytes);
            let (new_blobs, bytes) = (sum.new_blobs + sent.new_blobs, sum.bytes + sent.bytes);
            async move { Ok(Sent { new_blobs, bytes }) }
        })
        .await
}

/// What one request sends, read while it is sent.
fn pieces(
    spool: &Arc<Spool>,
    frames: &[Frame],
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let spool = Arc::clone(spool);
    let pieces: Vec<_> = parts(frames, PIECE_LEN, usize::MAX).map(<[Frame]>::to_vec).collect();
    let reading = stream::iter(pieces).map(move |frames| {
        let spool = Arc::clone(&spool);
        async move { spawn_blocking(move || spool.read(&frames)).await.map_err(io::Error::other)? }
    });
    // One more is read while one is sent.
    reading.buffered(2)
}

/// Successive parts of `frames`, each closed once it has `len` bytes or `count` frames.
fn parts(mut frames: &[Frame], len: usize, count: usize) -> impl Iterator<Item = &[Frame]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |frame: &&Frame| {
            let fits = sum < len;
            sum += frame.len;
            fits
        };
        let count = frames.iter().take(count).take_while(fits).count();
        let (part, after) = frames.split_at(count);
        frames = after;
        (count > 0).then_some(part)
    })
}
