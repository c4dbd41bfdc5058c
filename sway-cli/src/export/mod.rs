//! From a built image to a ref on the fileserver.
//!
//! `build` makes an image of a project, `read` opens it, `cut` reads its layers and names their
//! chunks, `spool` holds what the fileserver lacks of them, `layer_cache` remembers the layers for
//! the next export, `upload` sends. Here is their order: nothing is sent before the whole image is
//! known to be sound, and the ref moves last, after every blob is stored.

mod build;
mod read;
mod cut;
mod spool;
mod upload;
mod dataset;
mod layer_cache;
mod layout;
mod progress;
mod error;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use sway_client::Client;
use sway_client::refs::Expect;
use sway_core::digest::Digest;
use sway_core::image::Layer;
use sway_core::image::archive::Sha256Hex;
use sway_core::manifest::{ExtentSource, Manifest, Tree};
use sway_core::name::RefName;
use tokio::task::{JoinSet, spawn_blocking};

pub(crate) use build::{BuildRequest, Builder, Built, build, dockerfile_in, has_recipe};
pub(crate) use dataset::{StoredDataset, store_dataset};
pub(crate) use error::ExportError;
pub(crate) use progress::Progress;
pub(crate) use read::{OpenImage, Source};

use crate::config;
use cut::Task;
use layer_cache::LayerCache;
use spool::Spool;

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
    client: Client,
    /// The image.
    image: Arc<OpenImage>,
    /// Whether the image's bytes are a builder's own: those of others are checked against their
    /// digests even where their layers are known.
    trusted: bool,
    /// Where the image goes.
    name: RefName,
    /// Sway's cache directory.
    cache: PathBuf,
    /// What is shown.
    progress: Progress,
    layers: LayerCache,
    /// Layers that are being kept for the next export, off this one's path.
    keeping: JoinSet<()>,
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
        Self {
            client,
            image: Arc::new(image),
            trusted,
            name,
            cache: cache.to_owned(),
            progress,
            layers: LayerCache::new(cache),
            keeping: JoinSet::new(),
            processed: HashSet::new(),
        }
    }

    /// Does it.
    pub(crate) async fn run(mut self) -> Result<Exported, ExportError> {
        let spool = Arc::new(Spool::new(&self.cache).map_err(ExportError::Spool)?);
        let layers = self.read_layers(&spool).await?;
        let Merged { manifest, encoded, page_roots } = self.merge(&layers).await?;
        let digest = Digest::of(&encoded);
        let files = manifest.inodes().filter(|(_, inode)| inode.is_regular()).count();
        self.progress.done(format_args!("Extracted image ({files} files)"));

        let described = page_roots.into_iter().chain([encoded]).map(|raw| (Digest::of(&raw), raw));
        cut::pack(&self.client, &spool, described.collect()).await?;
        cut::ask(&self.client, &spool, manifest.blobs()).await?;
        self.read_lacking(&layers, &manifest, &spool).await?;
        let new_files = count_new_files(&manifest, &spool);
        self.progress.done(format_args!("Synced with fileserver — {new_files} new files"));

        let frames = spool.frames(&manifest.blobs().chain([digest]).collect());
        let bar = self.progress.bytes("Sending", frames.iter().map(|frame| frame.len as u64).sum());
        let sent = upload::send(&self.client, &spool, &frames, |bytes| bar.add(bytes)).await?;
        self.progress.done(format_args!("Uploaded {new_files} files to fileserver"));

        let refs = self.client.refs();
        let unchanged = refs.get(&self.name).await? == Some(digest);
        if !unchanged {
            refs.put(&self.name, digest, Expect::Any).await?;
        }
        while let Some(kept) = self.keeping.join_next().await {
            kept.map_err(ExportError::Internal)?;
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
    async fn read_layers(&mut self, spool: &Arc<Spool>) -> Result<Vec<Arc<Layer>>, ExportError> {
        let image = Arc::clone(&self.image);
        let mut found: HashMap<&Sha256Hex, Arc<Layer>> = HashMap::new();
        let mut work = Vec::new();
        let mut planned = HashSet::new();
        for (index, plan) in image.layers().iter().enumerate() {
            if !planned.insert(&plan.diff_id) {
                continue;
            }
            match self.layers.load(&plan.diff_id) {
                None => work.push((index, Task::Cut)),
                Some(layer) => {
                    found.insert(&plan.diff_id, Arc::new(layer));
                    if !self.trusted {
                        work.push((index, Task::Check));
                    }
                }
            }
        }
        for (index, layer) in self.cut(work, spool).await? {
            let (cache, layer) = (self.layers.clone(), Arc::new(layer));
            let (diff_id, kept) = (&image.layers()[index].diff_id, Arc::clone(&layer));
            found.insert(diff_id, layer);
            let diff_id = diff_id.clone();
            self.keeping.spawn_blocking(move || {
                if let Err(error) = cache.store(&diff_id, &kept) {
                    tracing::warn!(%error, "the layer can't be kept for the next export");
                }
            });
        }
        Ok(image.layers().iter().map(|plan| Arc::clone(&found[&plan.diff_id])).collect())
    }

    /// Reads the known layers that have chunks which the fileserver lacks after all, as one does
    /// that was set up anew.
    async fn read_lacking(
        &mut self,
        layers: &[Arc<Layer>],
        manifest: &Manifest,
        spool: &Arc<Spool>,
    ) -> Result<(), ExportError> {
        let chunks = || manifest.chunks().iter().map(|chunk| chunk.digest);
        let mut lacking: HashSet<Digest> = chunks().filter(|digest| spool.lacks(digest)).collect();
        // The highest layer that has a chunk is read: lower ones are the larger ones.
        let mut work = Vec::new();
        for (index, layer) in layers.iter().enumerate().rev() {
            let count = lacking.len();
            layer.chunks().for_each(|cut| {
                lacking.remove(&cut.chunk.digest);
            });
            if lacking.len() < count {
                work.push((index, Task::Cut));
            }
        }
        self.cut(work, spool).await?;
        if chunks().any(|digest| spool.lacks(&digest)) {
            return Err(ExportError::Changed(self.image.origin().to_owned()));
        }
        Ok(())
    }

    /// Reads some layers.
    async fn cut(
        &mut self,
        work: Vec<(usize, Task)>,
        spool: &Arc<Spool>,
    ) -> Result<Vec<(usize, Layer)>, ExportError> {
        let image = &self.image;
        let lens = work.iter().map(|(index, _)| image.stored_len(&image.layers()[*index]));
        let bar = self.progress.bytes("Reading", lens.sum::<Result<_, _>>()?);
        let layers = cut::read_layers(&self.client, image, spool, work, &bar).await?;
        self.processed.extend(layers.iter().map(|(index, _)| *index));
        Ok(layers)
    }

    /// Lays the layers on one another.
    async fn merge(&self, layers: &[Arc<Layer>]) -> Result<Merged, ExportError> {
        let (image, layers) = (Arc::clone(&self.image), layers.to_vec());
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
            let (manifest, page_roots) = tree.to_manifest(image.config().clone())?;
            let encoded = manifest.encode()?;
            Ok(Merged { manifest, encoded, page_roots })
        });
        merging.await.map_err(ExportError::Internal)?
    }
}

struct Merged {
    manifest: Manifest,
    encoded: Vec<u8>,
    page_roots: Option<Vec<u8>>,
}

/// Files of which the fileserver lacks at least one chunk.
fn count_new_files(manifest: &Manifest, spool: &Spool) -> usize {
    let is_missing = |extent: &sway_core::manifest::Extent| match extent.source {
        ExtentSource::Hole => false,
        ExtentSource::Chunks(first) => manifest.chunks()[first as usize..][..extent.count as usize]
            .iter()
            .any(|chunk| spool.is_missing(&chunk.digest)),
    };
    let files = manifest.inodes().filter(|(_, inode)| inode.is_regular());
    files.filter(|(ino, _)| manifest.extents(*ino).iter().any(is_missing)).count()
}

/// Where layers and buildah's layout are kept between exports.
pub(crate) fn cache_directory() -> anyhow::Result<PathBuf> {
    let given = config::variable("XDG_CACHE_HOME").filter(|value| !value.is_empty());
    let cache = match given {
        Some(cache) => PathBuf::from(cache),
        None => {
            let home = config::variable("HOME").context("set XDG_CACHE_HOME or HOME")?;
            PathBuf::from(home).join(".cache")
        }
    };
    Ok(cache.join("sway"))
}
