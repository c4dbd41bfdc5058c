//! From a built image to a ref on the fileserver.
//!
//! `build` makes an image of a project, `read` opens it, `cut` reads its layers and names their
//! chunks, `layer_cache` remembers them for the next export, `upload` sends what is missing. Here
//! is their order: nothing is sent before the whole image is known to be sound, and the ref moves
//! last, after every blob is stored.

mod build;
mod cut;
mod error;
mod layer_cache;
mod layout;
mod progress;
mod read;
mod upload;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use sway_client::Client;
use sway_client::refs::Expect;
use sway_core::digest::Digest;
use sway_core::image::archive::Sha256Hex;
use sway_core::image::{Layer, LayerPlan};
use sway_core::manifest::{ExtentSource, Manifest, Tree};
use sway_core::name::RefName;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

pub(crate) use build::{BuildRequest, Builder, Built, build, dockerfile_in};
pub(crate) use error::ExportError;
pub(crate) use progress::Progress;
pub(crate) use read::{OpenImage, Source};

use cut::Position;
use layer_cache::LayerCache;
use upload::Sent;

/// Chunks between the reader of a layer and the batches: at most 8 MiB.
const CHUNKS_WAITING: usize = 64;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exported {
    /// The digest of the image's manifest.
    pub(crate) manifest: Digest,
    /// Regular files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Blobs that the fileserver did not have.
    pub(crate) new_blobs: u64,
    /// Bytes that went over the wire for them.
    pub(crate) bytes_sent: u64,
    /// Layers that were read.
    pub(crate) layers_processed: usize,
    /// Layers that were known from earlier exports.
    pub(crate) layers_cached: usize,
    /// Whether the ref led to this manifest before.
    pub(crate) unchanged: bool,
}

/// One export under way.
pub(crate) struct Export {
    /// The fileserver.
    pub(crate) client: Client,
    /// The image.
    pub(crate) image: OpenImage,
    /// Whether the image's bytes are a builder's own: those of others are checked against their
    /// digests even where their layers are known.
    pub(crate) trusted: bool,
    /// Where the image goes.
    pub(crate) name: RefName,
    /// What is shown.
    pub(crate) progress: Progress,
    layers: LayerCache,
    /// Which layers were read, by index.
    processed: HashSet<usize>,
}

impl Export {
    /// An export that has not begun. `cache` is Sway's cache directory.
    pub(crate) fn new(
        client: Client,
        image: OpenImage,
        trusted: bool,
        name: RefName,
        cache: &Path,
        progress: Progress,
    ) -> Self {
        let layers = LayerCache::new(cache);
        Self { client, image, trusted, name, progress, layers, processed: HashSet::new() }
    }

    /// Does it.
    pub(crate) async fn run(mut self) -> Result<Exported, ExportError> {
        let layers = self.read_layers().await?;
        let Merged { manifest, encoded, groups } = self.merge(&layers).await?;
        let digest = Digest::of(&encoded);
        let files = manifest.inodes().filter(|(_, inode)| inode.is_regular()).count();
        self.progress.done(format_args!("Extracted image ({files} files)"));

        let mut blobs: Vec<Digest> = manifest.blobs().collect();
        blobs.push(digest);
        let missing: HashSet<Digest> =
            self.client.blobs().missing(&blobs).await?.into_iter().collect();
        let new_files = count_files_with(&manifest, &missing);
        self.progress.done(format_args!("Synced with fileserver — {new_files} new files"));

        let mut sent = self.send_chunks(&layers, &manifest, &missing).await?;
        for raw in groups.into_iter().chain([encoded]) {
            let name = Digest::of(&raw);
            if missing.contains(&name) {
                sent.add(upload::send(&self.client, vec![(name, raw)]).await?);
            }
        }
        self.progress.done(format_args!("Uploaded {new_files} files to fileserver"));

        let refs = self.client.refs();
        let unchanged = refs.get(&self.name).await? == Some(digest);
        if !unchanged {
            refs.put(&self.name, digest, Expect::Any).await?;
        }
        Ok(Exported {
            manifest: digest,
            files: files as u64,
            bytes: manifest.size_bytes(),
            new_blobs: sent.new_blobs,
            bytes_sent: sent.bytes,
            layers_processed: self.processed.len(),
            layers_cached: self.image.layers().len() - self.processed.len(),
            unchanged,
        })
    }

    /// All layers, lowest first: those that are known from the cache, the others read.
    async fn read_layers(&mut self) -> Result<Vec<Arc<Layer>>, ExportError> {
        let plans = self.image.layers().to_vec();
        let mut found: HashMap<Sha256Hex, Arc<Layer>> = HashMap::new();
        let mut work = Vec::new();
        let mut planned = HashSet::new();
        for (index, plan) in plans.iter().enumerate() {
            if !planned.insert(plan.diff_id.clone()) {
                continue;
            }
            let known = self.layers.load(&plan.diff_id).map(Arc::new);
            match &known {
                None => {
                    self.processed.insert(index);
                    work.push((index, None));
                }
                Some(_) if !self.trusted => work.push((index, known.clone())),
                Some(_) => {}
            }
            found.extend(known.map(|layer| (plan.diff_id.clone(), layer)));
        }
        let bar = self.progress.bytes("Reading", self.stored_len(work.iter().map(|(at, _)| *at))?);
        let (image, cache) = (self.image.clone(), self.layers.clone());
        let read = spawn_blocking(move || {
            let count = image.layers().len();
            let watch = bar.watch();
            work.into_iter()
                .map(|(index, known)| {
                    let plan = &image.layers()[index];
                    if let Some(layer) = known {
                        image.check_layer(plan, &watch)?;
                        return Ok((plan.diff_id.clone(), layer));
                    }
                    let position = Position { index, count };
                    let layer = cut::name_chunks(&image, plan, position, &watch)?;
                    if let Err(error) = cache.store(&plan.diff_id, &layer) {
                        tracing::warn!(%error, "the layer can't be kept for the next export");
                    }
                    Ok((plan.diff_id.clone(), Arc::new(layer)))
                })
                .collect::<Result<Vec<_>, ExportError>>()
        });
        found.extend(read.await.map_err(ExportError::Internal)??);
        Ok(plans.iter().map(|plan| Arc::clone(&found[&plan.diff_id])).collect())
    }

    /// Lays the layers on one another.
    async fn merge(&self, layers: &[Arc<Layer>]) -> Result<Merged, ExportError> {
        let (image, layers) = (self.image.clone(), layers.to_vec());
        let merging = spawn_blocking(move || {
            let mut tree = Tree::new();
            for (index, layer) in layers.iter().enumerate() {
                layer.apply(&mut tree).map_err(|source| ExportError::Layer {
                    origin: image.origin().to_owned(),
                    number: index + 1,
                    count: layers.len(),
                    source,
                })?;
            }
            let (manifest, groups) = tree.to_manifest(image.config().clone())?;
            let encoded = manifest.encode()?;
            Ok(Merged { manifest, encoded, groups })
        });
        merging.await.map_err(ExportError::Internal)?
    }

    /// Reads the layers that have missing chunks once more and sends those.
    async fn send_chunks(
        &mut self,
        layers: &[Arc<Layer>],
        manifest: &Manifest,
        missing: &HashSet<Digest>,
    ) -> Result<Sent, ExportError> {
        let chunks = manifest.chunks().iter().map(|chunk| chunk.digest);
        let mut wanted: HashSet<Digest> =
            chunks.filter(|digest| missing.contains(digest)).collect();
        if wanted.is_empty() {
            return Ok(Sent::default());
        }
        // The highest layer that has a chunk sends it: lower ones are the larger ones.
        let mut unclaimed = wanted.clone();
        let mut work = Vec::new();
        for (index, layer) in layers.iter().enumerate().rev() {
            let claimed = layer.chunks().filter(|cut| unclaimed.remove(&cut.chunk.digest)).count();
            if claimed > 0 {
                self.processed.insert(index);
                work.push((index, Arc::clone(layer)));
            }
        }
        let reading =
            self.progress.bytes("Sending", self.stored_len(work.iter().map(|(at, _)| *at))?);
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let image = self.image.clone();
        let bar = reading.clone();
        let reader = spawn_blocking(move || {
            let count = image.layers().len();
            let watch = bar.watch();
            for (index, layer) in &work {
                let plan: &LayerPlan = &image.layers()[*index];
                let position = Position { index: *index, count };
                cut::send_chunks(&image, plan, layer, position, &mut wanted, &watch, &sender)?;
            }
            Ok::<_, ExportError>(wanted.is_empty())
        });
        let sending = upload::send_all(&self.client, receiver, |bytes| reading.sent(bytes));
        let (all_read, sent) = tokio::join!(reader, sending);
        // Where sending failed, the reader only stopped because nobody took its chunks.
        let sent = sent?;
        if all_read.map_err(ExportError::Internal)?? {
            Ok(sent)
        } else {
            Err(ExportError::Changed(self.image.origin().to_owned()))
        }
    }

    /// Stored bytes of some layers.
    fn stored_len(&self, indexes: impl Iterator<Item = usize>) -> Result<u64, ExportError> {
        indexes.map(|index| self.image.stored_len(&self.image.layers()[index])).sum()
    }
}

struct Merged {
    manifest: Manifest,
    encoded: Vec<u8>,
    groups: Option<Vec<u8>>,
}

/// Files of which at least one chunk is among `digests`.
fn count_files_with(manifest: &Manifest, digests: &HashSet<Digest>) -> usize {
    let is_among = |extent: &sway_core::manifest::Extent| match extent.source {
        ExtentSource::Hole => false,
        ExtentSource::Chunks(first) => manifest.chunks()[first as usize..][..extent.count as usize]
            .iter()
            .any(|chunk| digests.contains(&chunk.digest)),
    };
    let files = manifest.inodes().filter(|(_, inode)| inode.is_regular());
    files.filter(|(ino, _)| manifest.extents(*ino).iter().any(is_among)).count()
}
