//! What a user may read: the blobs that the user's own refs and the library's lead to.
//!
//! A ref leads to a manifest, and that to its chunks. The manifests of the refs that were moved
//! last are looked at, a bounded number of them; what each leads to is kept, sorted, as long as
//! there is room. Workers and the operator read everything and never come here.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use sway_core::blob::{BLOB_LEN_MAX, Blob};
use sway_core::digest::{DIGEST_LEN, Digest};
use sway_core::manifest::Manifest;
use sway_core::name::{RefName, UserName};

use crate::blobs::{BlobStore, StoreError};
use crate::refs::Refs;

/// Refs of one kind, of the user or the library, whose manifests are looked at.
pub const REFS_SEARCHED_MAX: usize = 100;

/// Bytes of names that are kept: those of a thousand images.
const KEPT_BYTES: u64 = 128 << 20;

/// Kinds of refs that lead to manifests.
const KINDS: [&str; 2] = ["images", "data"];

/// Whether users read this ref: their own images and datasets, and the library's.
pub fn may_read(user: &UserName, name: &RefName) -> bool {
    prefixes(user).any(|prefix| name.as_ref().starts_with(&prefix))
}

/// What the names of refs begin with that are `user`'s own to write.
pub fn own_prefixes(user: &UserName) -> [String; 2] {
    KINDS.map(|kind| format!("{kind}/{}/", user.to_ref_part()))
}

/// What the names of refs begin with that `user` may read, own ones first.
pub fn prefixes(user: &UserName) -> impl Iterator<Item = String> {
    [own_prefixes(user), own_prefixes(&UserName::library())].into_iter().flatten()
}

/// Finds out what refs lead to.
#[derive(Debug)]
pub struct Reach {
    kept: Mutex<Cache<Digest, Arc<[Digest]>, ByBytes>>,
}

impl Default for Reach {
    fn default() -> Self {
        Self { kept: Mutex::new(Cache::with_weighter(1000, KEPT_BYTES, ByBytes)) }
    }
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Digest, Arc<[Digest]>> for ByBytes {
    fn weight(&self, _: &Digest, digests: &Arc<[Digest]>) -> u64 {
        ((digests.len() + 4) * DIGEST_LEN) as u64
    }
}

impl Reach {
    /// Takes those out of `wanted` that refs lead to which `user` may read. Blocks on the disk.
    pub fn strike(
        &self,
        user: &UserName,
        refs: &Refs,
        store: &dyn BlobStore,
        wanted: &mut HashSet<Digest>,
    ) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for prefix in prefixes(user) {
            for manifest in refs.latest(&prefix, REFS_SEARCHED_MAX) {
                if wanted.is_empty() {
                    return Ok(());
                }
                if seen.insert(manifest) {
                    strike(wanted, &self.of(manifest, store)?);
                }
            }
        }
        Ok(())
    }

    /// A manifest's own name and those of its blobs, sorted. One that is not there, or that this
    /// program can't read, leads to nothing but itself.
    fn of(&self, manifest: Digest, store: &dyn BlobStore) -> Result<Arc<[Digest]>, StoreError> {
        let known =
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&manifest).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let decoded = read(store, manifest)?;
        let blobs = decoded.iter().flat_map(Manifest::blobs);
        let mut digests: Vec<Digest> = blobs.chain([manifest]).collect();
        digests.sort_unstable();
        digests.dedup();
        let digests: Arc<[Digest]> = digests.into();
        if decoded.is_some() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(manifest, Arc::clone(&digests));
        }
        Ok(digests)
    }
}

/// A manifest of the store; none where there is none of this name that can be read.
pub fn read(store: &dyn BlobStore, digest: Digest) -> Result<Option<Manifest>, StoreError> {
    let Some(mut stored) = store.open(digest)? else { return Ok(None) };
    let mut encoded = Vec::new();
    stored
        .encoded
        .read_to_end(&mut encoded)
        .map_err(StoreError::io(format!("read blob {digest}")))?;
    let blob = Blob::decode(digest, &encoded, BLOB_LEN_MAX).ok();
    Ok(blob.and_then(|blob| Manifest::decode(blob.as_ref()).ok()))
}

/// Takes those out of `wanted` that are among `sorted`.
fn strike(wanted: &mut HashSet<Digest>, sorted: &[Digest]) {
    if wanted.len() < sorted.len() / 16 {
        wanted.retain(|digest| sorted.binary_search(digest).is_err());
    } else {
        for digest in sorted {
            wanted.remove(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn users_read_their_own_refs_and_the_librarys() {
        let ada = "ada+x@example.org".parse().unwrap();
        for (name, readable) in [
            ("images/ada%2Bx%40example.org/a:1", true),
            ("data/ada%2Bx%40example.org/a", true),
            ("images/library/a:1", true),
            ("data/library/a", true),
            ("images/ada%2Bx%40example.orgs/a:1", false),
            ("images/ada+x@example.org/a:1", false),
            ("images/bob/a:1", false),
            ("images/ada%2Bx%40example.org", false),
            ("traces/ada%2Bx%40example.org/a/b", false),
            ("jobs/1", false),
        ] {
            assert_eq!(may_read(&ada, &name.parse().unwrap()), readable, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_is_not_among_them(
            wanted in prop::collection::hash_set(0u16..500, 0..60),
            reached in prop::collection::btree_set(0u16..500, 0..400),
        ) {
            let of = |number: &u16| Digest::of(&number.to_le_bytes());
            let mut sorted: Vec<Digest> = reached.iter().map(of).collect();
            sorted.sort_unstable();
            let mut left: HashSet<Digest> = wanted.iter().map(of).collect();
            strike(&mut left, &sorted);
            let expected = wanted.iter().filter(|number| !reached.contains(number)).map(of);
            prop_assert_eq!(left, expected.collect::<HashSet<_>>());
        }
    }
}
