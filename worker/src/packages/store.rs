//! From the layer that an installation left to an image on the fileserver.
//!
//! Its chunks are named and sent as they are read; what the fileserver has is not sent again. The
//! image's own chunks stay where they are: only its manifest is made anew.

use std::collections::HashSet;
use std::io::{self, BufReader};
use std::mem;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fs_err::File;
use sway_client::{Client, ClientError};
use sway_core::blob::Encoder;
use sway_core::chunk::CutChunk;
use sway_core::digest::Digest;
use sway_core::image::{Draft, LayerError, read_layer};
use sway_core::manifest::{Manifest, ManifestError, PageRoots, RunConfig, Tree, TreeError};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::spawn_blocking;

/// Raw bytes that are sent in one request. A few times as much is in memory.
const BATCH_LEN: usize = 4 << 20;

/// What an image says to its pip: that it asks nobody for a newer one, and looks at what is installed
/// where a distribution would have it refuse that.
const VARIABLES: [&str; 2] = ["PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_BREAK_SYSTEM_PACKAGES=1"];

/// An image that can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The fileserver did not take it, or not give what it is made of.
    #[error("the fileserver failed: {0}")]
    Fileserver(#[from] ClientError),
    /// What was installed can't be read.
    #[error("what was installed can't be read: {0}")]
    Read(#[from] io::Error),
    /// It is no layer of an image.
    #[error("what was installed can't be laid over the image: {0}")]
    Layer(#[from] LayerError),
    /// The image is not one that can be changed.
    #[error("the image {0} was exported by an older Sway: export it again")]
    Old(Digest),
    /// Not an image, or too large for one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The same.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The worker is about to end.
    #[error("the worker is stopping")]
    Stopping,
}

/// Stores `image` with the layer in the tar file `layer` over it, and tells its manifest.
pub(crate) async fn store(
    client: &Client,
    image: Digest,
    layer: PathBuf,
) -> Result<Digest, StoreError> {
    let (sender, batches) = mpsc::channel(1);
    let reading = blocking(move || read(&layer, &sender));
    let (draft, chunks) = tokio::join!(reading, send(client, batches));
    // Where sending failed, the reader only stopped because nobody took its chunks.
    let chunks = chunks?;
    let draft = draft?;
    let blob = client.blobs().get(image).await?;
    let manifest = blocking(move || Ok(Manifest::decode(blob.bytes())?)).await?;
    let roots = match manifest.page_roots() {
        Some(roots) => client.blobs().get(roots).await?.bytes().to_vec(),
        None if manifest.has_page_roots() => Vec::new(),
        None => return Err(StoreError::Old(image)),
    };
    let made = blocking(move || {
        let roots = PageRoots::decode(&manifest, &roots)?;
        let mut tree = Tree::of(&manifest, &roots).ok_or(StoreError::Old(image))?;
        draft.finish(chunks).apply(&mut tree)?;
        let (manifest, roots) = tree.to_manifest(configured(manifest.config()))?;
        Ok((manifest.encode()?, roots))
    });
    let (encoded, roots) = made.await?;
    if let Some(roots) = roots {
        client.blobs().put(&roots).await?;
    }
    Ok(client.blobs().put(&encoded).await?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|_| StoreError::Stopping)?
}

/// Reads the layer, and hands its chunks on.
fn read(layer: &Path, batches: &Sender<Vec<Vec<u8>>>) -> Result<Draft, StoreError> {
    let (mut batch, mut len) = (Vec::new(), 0);
    let draft = read_layer(BufReader::new(File::open(layer)?), |chunk| {
        len += chunk.len();
        batch.push(chunk);
        if len < BATCH_LEN {
            return true;
        }
        len = 0;
        batches.blocking_send(mem::take(&mut batch)).is_ok()
    })?;
    // Where nobody takes it any more, that has its reason.
    let _ = batches.blocking_send(batch);
    Ok(draft)
}

/// Sends what the fileserver lacks, and tells the names of all in their order.
async fn send(
    client: &Client,
    mut batches: Receiver<Vec<Vec<u8>>>,
) -> Result<Vec<CutChunk>, StoreError> {
    let mut all = Vec::new();
    while let Some(batch) = batches.recv().await {
        let naming = blocking(move || {
            let named: Vec<_> = batch.iter().map(|raw| CutChunk::of(raw)).collect();
            Ok((batch, named))
        });
        let (batch, named) = naming.await?;
        let digests: Vec<Digest> = named.iter().map(|cut| cut.chunk.digest).collect();
        let mut missing: HashSet<Digest> =
            client.blobs().missing(&digests).await?.into_iter().collect();
        let encoding = blocking(move || {
            // Each once, however often it is there.
            let lacking = digests.into_iter().zip(batch);
            let lacking = lacking.filter(|(digest, _)| missing.remove(digest));
            let mut encoder = Encoder::for_chunks();
            let frames = lacking.map(|(digest, raw)| {
                let (header, encoded) = encoder.frame(digest, &raw);
                (header, Bytes::from(encoded))
            });
            Ok(frames.collect::<Vec<_>>())
        });
        let frames = encoding.await?;
        if !frames.is_empty() {
            client.blobs().upload_batch(&frames).await?;
        }
        all.extend(named);
    }
    Ok(all)
}

fn configured(config: &RunConfig) -> RunConfig {
    let mut config = config.clone();
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let set: HashSet<String> = config.env.iter().map(|pair| name(pair)).collect();
    let missing = VARIABLES.iter().filter(|pair| !set.contains(&name(pair)));
    config.env.extend(missing.map(|&pair| pair.to_owned()));
    config
}
