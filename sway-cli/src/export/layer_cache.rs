//! Layers that were read before, on this machine: their entries with the names of their chunks.
//!
//! One file for each layer, named by the SHA-256 of its uncompressed bytes, in the user's cache
//! directory. Whatever is wrong with one counts as not being there. The least recently used go
//! once there are too many.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sway_core::blob;
use sway_core::digest::Digest;
use sway_core::image::Layer;
use sway_core::image::archive::Sha256Hex;
use sway_core::image::index::INDEX_VERSION;

/// Layers that are kept: a hundred images of ten layers, about a megabyte for a large one.
const LAYERS_MAX: usize = 1_000;

/// The largest file that is read, in raw bytes.
const LEN_MAX: usize = blob::BLOB_LEN_MAX;

/// A directory of layers.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache(PathBuf);

impl LayerCache {
    /// In a directory that need not exist.
    pub(crate) fn new(cache: &Path) -> Self {
        Self(cache.join(format!("layers-v{INDEX_VERSION}")))
    }

    /// A layer that was kept, if it still is.
    pub(crate) fn load(&self, diff_id: &Sha256Hex) -> Option<Layer> {
        let path = self.path(diff_id);
        let encoded = fs_err::read(&path).ok()?;
        // The layer's own digest is inside; the name here is only for messages.
        let bytes = blob::decode(Digest::of(&[]), &encoded, LEN_MAX).ok()?;
        let layer = Layer::decode(&bytes)?;
        // Its time says when it was used last; where it can't be set it merely goes earlier.
        if let Ok(file) = fs_err::File::options().append(true).open(&path) {
            let _ = file.file().set_modified(SystemTime::now());
        }
        Some(layer)
    }

    /// Keeps a layer for the next export.
    pub(crate) fn store(&self, diff_id: &Sha256Hex, layer: &Layer) -> io::Result<()> {
        let bytes = layer.encode();
        if bytes.len() > LEN_MAX {
            return Ok(());
        }
        fs_err::create_dir_all(&self.0)?;
        let file = tempfile::NamedTempFile::new_in(&self.0)?;
        fs_err::write(file.path(), blob::encode(&bytes))?;
        file.persist(self.path(diff_id)).map_err(|error| error.error)?;
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let mut layers = Vec::new();
        for entry in fs_err::read_dir(&self.0)? {
            let entry = entry?;
            // One that another export has just removed is no loss.
            if let Ok(used_at) = entry.metadata().and_then(|metadata| metadata.modified()) {
                layers.push((used_at, entry.path()));
            }
        }
        layers.sort();
        let excess = layers.len().saturating_sub(LAYERS_MAX);
        for (_, path) in &layers[..excess] {
            let _ = fs_err::remove_file(path);
        }
        Ok(())
    }

    fn path(&self, diff_id: &Sha256Hex) -> PathBuf {
        self.0.join(diff_id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_comes_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = LayerCache::new(dir.path());
        let diff_id = Sha256Hex::of(b"layer");
        assert_eq!(cache.load(&diff_id), None);
        let layer = Layer::default();
        cache.store(&diff_id, &layer).unwrap();
        assert_eq!(cache.load(&diff_id), Some(layer));
        let path = cache.path(&diff_id);
        let mut bytes = fs_err::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        assert_eq!(cache.load(&diff_id), None);
    }
}
