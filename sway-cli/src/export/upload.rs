//! Sends what the spool holds to the fileserver, several requests on their way at once.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sway_client::Client;
use sway_core::api::blobs::UploadSummary;
use tokio::task::spawn_blocking;

use super::error::ExportError;
use super::spool::{Frame, Spool};

/// Bytes of one request, at which it is closed: what is sent again where the server was out of
/// reach. With the requests under way, this bounds the memory.
const REQUEST_LEN: usize = 8 << 20;

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
    stream::iter(requests(frames))
        .map(|frames| async move {
            let spool = Arc::clone(spool);
            let reading = spawn_blocking(move || spool.read(&frames).map_err(ExportError::Spool));
            let bytes = reading.await.map_err(ExportError::Internal)??;
            let UploadSummary { stored, .. } = client.blobs().upload_frames(&bytes).await?;
            Ok(Sent { new_blobs: stored, bytes: bytes.len() as u64 })
        })
        .buffer_unordered(REQUESTS)
        .try_fold(Sent::default(), |sum, sent| {
            progress(sent.bytes);
            let (new_blobs, bytes) = (sum.new_blobs + sent.new_blobs, sum.bytes + sent.bytes);
            async move { Ok(Sent { new_blobs, bytes }) }
        })
        .await
}

/// Frames of each request.
fn requests(frames: &[Frame]) -> Vec<Vec<Frame>> {
    let mut requests = Vec::new();
    let mut rest = frames;
    while !rest.is_empty() {
        let mut len = 0;
        let fits = |frame: &&Frame| {
            let fits = len < REQUEST_LEN;
            len += frame.len;
            fits
        };
        let count = rest.iter().take(REQUEST_BLOBS).take_while(fits).count();
        let (request, after) = rest.split_at(count);
        requests.push(request.to_vec());
        rest = after;
    }
    requests
}
