//! Which of the libraries that `PyRunner`'s clients ask about the default image has.

use std::time::{Duration, Instant};

use sway_client::Client;
use sway_core::digest::Digest;
use sway_core::manifest::{Ino, Manifest};
use sway_core::name::{ImageName, UserName};
use sway_core::trace::TraceKey;
use tokio::sync::Mutex;

use crate::queue::Images;

/// Names as they are imported, in the order in which `PyRunner` tells them.
const LIBRARIES: [&str; 6] = ["sympy", "numpy", "pandas", "matplotlib", "scipy", "sklearn"];

/// Where a Python keeps its own, below a prefix of its version.
const PREFIXES: [&str; 3] = ["/usr/local/lib", "/usr/lib", "/opt/venv/lib"];
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];

/// For how long an answer is told before the image is looked at again.
const FRESH_FOR: Duration = Duration::from_secs(60);

/// How long health waits for the fileserver.
const DEADLINE: Duration = Duration::from_secs(2);

/// The libraries of one image, as they were seen last.
#[derive(Debug)]
pub struct Libraries {
    client: Client,
    image: ImageName,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    manifest: Option<Digest>,
    names: Vec<&'static str>,
}

impl Libraries {
    /// Of `image`, on the fileserver behind `client`.
    pub fn new(client: Client, image: ImageName) -> Self {
        Self { client, image, known: Mutex::default() }
    }

    /// Their names; none of an image that is not there. Where the fileserver does not answer, those
    /// that were there before.
    pub(super) async fn names(&self) -> Vec<&'static str> {
        let mut known = self.known.lock().await;
        if known.looked.is_none_or(|looked| looked.elapsed() >= FRESH_FOR) {
            known.looked = Some(Instant::now());
            match tokio::time::timeout(DEADLINE, self.look(known.manifest)).await {
                Ok(Some((manifest, names))) => {
                    (known.manifest, known.names) = (Some(manifest), names);
                }
                Ok(None) => {}
                Err(_) => tracing::debug!(image.name = %self.image, "libraries are not known yet"),
            }
        }
        known.names.clone()
    }

    /// None where nothing has changed, or nothing can be told.
    async fn look(&self, known: Option<Digest>) -> Option<(Digest, Vec<&'static str>)> {
        let (images, key) = (Images::new(self.client.clone()), TraceKey::any());
        let found = images.resolve(&UserName::library(), false, &self.image, &key).await.ok()?;
        if Some(found) == known {
            return None;
        }
        let blob = self.client.blobs().get(found).await.ok()?;
        let names = tokio::task::spawn_blocking(move || {
            Manifest::decode(blob.as_ref()).ok().map(|manifest| of(&manifest))
        });
        Some((found, names.await.ok()??))
    }
}

fn of(manifest: &Manifest) -> Vec<&'static str> {
    let mut directories = Vec::new();
    for prefix in PREFIXES {
        let versions =
            manifest.resolve_following(prefix.as_bytes()).and_then(|ino| manifest.entries(ino));
        let versions =
            versions.into_iter().flatten().filter(|(name, _)| name.starts_with(b"python3"));
        directories.extend(versions.map(|(_, ino)| ino));
    }
    let packages = |&directory: &Ino| {
        PACKAGES.iter().filter_map(move |name| manifest.lookup(directory, name.as_bytes()))
    };
    let packages: Vec<Ino> = directories.iter().flat_map(packages).collect();
    let has =
        |name: &str| packages.iter().any(|&at| manifest.lookup(at, name.as_bytes()).is_some());
    LIBRARIES.into_iter().filter(|name| has(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sway_core::manifest::{Metadata, NodeKind, RunConfig, Tree};

    use super::*;

    #[test]
    fn the_libraries_of_a_python_are_found_by_their_folders() {
        let mut tree = Tree::new();
        let mut inner = BTreeMap::new();
        for name in ["numpy", "sklearn", "requests"] {
            let package = tree.add(Metadata::default(), NodeKind::Directory(BTreeMap::new()));
            inner.insert(name.as_bytes().to_vec(), package);
        }
        for name in ["dist-packages", "python3.11", "lib", "local", "usr"] {
            let directory = tree.add(Metadata::default(), NodeKind::Directory(inner));
            inner = BTreeMap::from([(name.as_bytes().to_vec(), directory)]);
        }
        tree.entries_mut(Tree::ROOT).unwrap().extend(inner);
        let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
        assert_eq!(of(&manifest), ["numpy", "sklearn"]);
    }
}
