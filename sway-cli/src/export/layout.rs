//! The OCI layout that buildah writes into: kept in Sway's cache directory, so that a layer that
//! is there already is not written again, and pruned to what the last exports need.

use std::collections::HashSet;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::File;
use serde_json::Value;

use super::error::ExportError;

/// Images whose layers stay.
const IMAGES_MAX: usize = 4;

/// Another export may be reading the layout: as long as a large image takes.
const LOCK_DEADLINE: Duration = Duration::from_secs(600);
const LOCK_PAUSE: Duration = Duration::from_millis(100);

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The layout, for this process alone.
#[derive(Debug)]
pub(crate) struct Layout {
    directory: PathBuf,
    reference: String,
    _lock: File,
}

impl Layout {
    /// Waits until no other export uses it. `tag` is the image's name in the builder's store.
    pub(crate) async fn lock(cache: &Path, tag: &str) -> Result<Self, ExportError> {
        fs_err::create_dir_all(cache).map_err(ExportError::file(cache))?;
        let path = cache.join("oci.lock");
        let file = File::create(&path).map_err(ExportError::file(&path))?;
        let locking = async {
            loop {
                match file.file().try_lock() {
                    Ok(()) => return Ok(()),
                    Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                    Err(TryLockError::Error(error)) => return Err(error),
                }
            }
        };
        tokio::time::timeout(LOCK_DEADLINE, locking)
            .await
            .unwrap_or_else(|_| Err(io::Error::other("another export has held it for too long")))
            .map_err(ExportError::file(&path))?;
        // What stands before the last part of the tag says nothing.
        let reference = tag.rsplit('/').next().unwrap_or(tag).replace(':', "-");
        Ok(Self { directory: cache.join("oci"), reference, _lock: file })
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The image's name in it.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// As buildah wants it.
    pub(crate) fn destination(&self) -> String {
        format!("oci:{}:{}", self.directory.display(), self.reference)
    }

    /// Takes all of it away: after bytes in it turned out not to be what their names say, since
    /// builders look at the names alone.
    pub(crate) fn discard(&self) {
        // What can't be removed is found damaged, and told, again.
        let _ = fs_err::remove_dir_all(&self.directory);
    }

    /// Removes what only older exports need. A layout that can't be pruned is only too large.
    pub(crate) fn prune(&self) {
        let _ = self.try_prune();
    }

    fn try_prune(&self) -> io::Result<()> {
        let index_path = self.directory.join("index.json");
        let mut index: Value = serde_json::from_slice(&fs_err::read(&index_path)?)?;
        let Some(manifests) = index["manifests"].as_array_mut() else { return Ok(()) };
        // The most recent one stands last.
        let is_this = |manifest: &Value| manifest["annotations"][REF_NAME] == *self.reference;
        manifests.sort_by_key(is_this);
        let excess = manifests.len().saturating_sub(IMAGES_MAX);
        manifests.drain(..excess);
        let mut needed = HashSet::new();
        for manifest in manifests.iter() {
            self.need(manifest, &mut needed, 0);
        }
        let new_index = self.directory.join("index.json.new");
        fs_err::write(&new_index, serde_json::to_vec(&index)?)?;
        fs_err::rename(new_index, index_path)?;
        for entry in fs_err::read_dir(self.directory.join("blobs/sha256"))? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| !needed.contains(name)) {
                fs_err::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Notes the blob of a descriptor and, where it is a manifest or an index, those it names.
    fn need(&self, descriptor: &Value, needed: &mut HashSet<String>, depth: usize) {
        let digest = descriptor["digest"].as_str().and_then(|text| text.strip_prefix("sha256:"));
        let Some(digest) = digest.filter(|digest| digest.bytes().all(|b| b.is_ascii_hexdigit()))
        else {
            return;
        };
        needed.insert(digest.to_owned());
        let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
        if depth > 3 || !(media_type.contains("manifest") || media_type.contains("index")) {
            return;
        }
        let path = self.directory.join("blobs/sha256").join(digest);
        let Ok(bytes) = fs_err::read(path) else { return };
        let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { return };
        let lists = ["layers", "manifests"].iter().filter_map(|key| document[key].as_array());
        for descriptor in lists.flatten().chain([&document["config"]]) {
            self.need(descriptor, needed, depth + 1);
        }
    }
}
