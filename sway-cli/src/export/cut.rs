//! Reads layers, each once: names their chunks, and packs those that the fileserver lacks.
//!
//! A layer is read by one thread, since gzip can't be read by more, but several layers are read at
//! a time. Readers fill batches of chunks; each batch is hashed, asked for at the fileserver, and
//! what is missing of it is compressed into the spool. Batches are worked on side by side and come
//! out in their order.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::{mem, thread};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sway_client::Client;
use sway_core::chunk::CutChunk;
use sway_core::digest::Digest;
use sway_core::image::{Draft, Layer, read_layer};
use tokio::sync::mpsc::{self, Sender};
use tokio::task::spawn_blocking;

use super::error::ExportError;
use super::progress::Bar;
use super::read::OpenImage;
use super::spool::Spool;

/// Raw bytes of one batch, at which it is closed. With the batches that are worked on and one for
/// each reader, this bounds the memory of an export.
pub(super) const BATCH_LEN: usize = 2 << 20;

/// Batches between readers and workers.
const BATCHES_WAITING: usize = 4;

/// What is to be done with a layer of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Its content is not known.
    Cut,
    /// Its content is known, if the bytes here are that layer's.
    Check,
}

/// Some chunks of a layer, in its order.
#[derive(Debug)]
pub(super) struct Batch {
    layer: usize,
    chunks: Vec<Vec<u8>>,
    len: usize,
}

impl Batch {
    pub(super) fn of(layer: usize) -> Self {
        Self { layer, chunks: Vec::new(), len: 0 }
    }

    pub(super) fn push(&mut self, chunk: Vec<u8>) {
        self.len += chunk.len();
        self.chunks.push(chunk);
    }

    pub(super) fn is_full(&self) -> bool {
        self.len >= BATCH_LEN
    }

    #[cfg(test)]
    pub(super) fn chunks(&self) -> &[Vec<u8>] {
        &self.chunks
    }
}

/// Reads layers of an image, given by their indexes; returns those that were to be cut. All of
/// them are then known to be sound.
pub(crate) async fn read_layers(
    client: &Client,
    image: &Arc<OpenImage>,
    spool: &Arc<Spool>,
    work: Vec<(usize, Task)>,
    bar: &Bar,
) -> Result<Vec<(usize, Layer)>, ExportError> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let (sender, batches) = mpsc::channel(BATCHES_WAITING);
    let readers = work.into_iter().map(move |(index, task)| {
        let (image, bar, sender) = (Arc::clone(image), bar.clone(), sender.clone());
        blocking(move || Ok((index, read(&image, index, task, &bar, &sender)?)))
    });
    let reading = stream::iter(readers).buffer_unordered(cores).try_collect::<Vec<_>>();
    let packing = stream::unfold(batches, |mut batches| async move {
        batches.recv().await.map(|batch| (batch, batches))
    })
    // While the fileserver is asked about one, another is worked on.
    .map(|batch| name_and_pack(client, spool, batch))
    .buffered(3 * cores)
    .try_fold(
        HashMap::<usize, Vec<CutChunk>>::new(),
        |mut named, (layer, chunks)| async move {
            named.entry(layer).or_default().extend(chunks);
            Ok(named)
        },
    );
    let (drafts, named) = tokio::join!(reading, packing);
    // Where packing failed, the readers only stopped because nobody took their chunks.
    let mut named = named?;
    let layers = drafts?.into_iter().filter_map(|(index, draft)| {
        Some((index, draft?.finish(named.remove(&index).unwrap_or_default())))
    });
    Ok(layers.collect())
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    spawn_blocking(work).await.map_err(ExportError::Internal)?
}

/// Reads one layer and hands its chunks on.
fn read(
    image: &OpenImage,
    index: usize,
    task: Task,
    bar: &Bar,
    batches: &Sender<Batch>,
) -> Result<Option<Draft>, ExportError> {
    let plan = &image.layers()[index];
    if let Task::Check = task {
        return image.check_layer(plan, bar.watch()).map(|()| None);
    }
    let mut batch = Batch::of(index);
    let draft = image.read_layer(plan, bar.watch(), |stream| {
        let draft = read_layer(stream, |chunk| {
            batch.push(chunk);
            if !batch.is_full() {
                return true;
            }
            batches.blocking_send(mem::replace(&mut batch, Batch::of(index))).is_ok()
        });
        draft.map_err(|source| ExportError::Layer {
            origin: image.origin().to_owned(),
            number: index + 1,
            count: image.layers().len(),
            source,
        })
    })?;
    // Where nobody takes it any more, that has its reason.
    let _ = batches.blocking_send(batch);
    Ok(Some(draft))
}

/// The names of a batch's chunks; those that the fileserver lacks are in the spool then.
pub(super) async fn name_and_pack(
    client: &Client,
    spool: &Arc<Spool>,
    batch: Batch,
) -> Result<(usize, Vec<CutChunk>), ExportError> {
    let Batch { layer, chunks, .. } = batch;
    let (chunks, named) = blocking(move || {
        let named: Vec<_> = chunks.iter().map(|chunk| CutChunk::of(chunk)).collect();
        Ok((chunks, named))
    })
    .await?;
    let digests = named.iter().map(|cut| cut.chunk.digest);
    pack(client, spool, digests.zip(chunks).collect()).await?;
    Ok((layer, named))
}

/// Asks the fileserver about blobs of which it was not asked.
pub(crate) async fn ask(
    client: &Client,
    spool: &Spool,
    digests: impl IntoIterator<Item = Digest>,
) -> Result<(), ExportError> {
    let unknown = spool.unknown(digests);
    if !unknown.is_empty() {
        spool.learn(&unknown, &client.blobs().missing(&unknown).await?);
    }
    Ok(())
}

/// Packs those blobs that the fileserver lacks.
pub(crate) async fn pack(
    client: &Client,
    spool: &Arc<Spool>,
    blobs: Vec<(Digest, Vec<u8>)>,
) -> Result<(), ExportError> {
    ask(client, spool, blobs.iter().map(|(digest, _)| *digest)).await?;
    if !blobs.iter().any(|(digest, _)| spool.lacks(digest)) {
        return Ok(());
    }
    let spool = Arc::clone(spool);
    blocking(move || {
        let blobs = blobs.iter().map(|(digest, raw)| (*digest, raw.as_slice()));
        spool.pack(blobs).map_err(ExportError::Spool)
    })
    .await
}
