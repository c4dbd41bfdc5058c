//! User and group ids: every job that runs has a range of host ids of its own.
//!
//! Inside, a job sees the ids of its image. Outside, they lie in a range that no account of the
//! host and no other running job has, so that whoever gets out of a container is nobody. A range
//! maps 0 to 65,535; ids above that are mapped one by one, exactly those that the image uses.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use sway_core::digest::Digest;
use sway_core::manifest::Manifest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::RunError;
use super::kernel;

/// Ranges of one worker: no more jobs than that run at once.
const RANGES: u32 = 64;

/// Ids that every range maps, from 0 on.
const COMMON: u32 = 1 << 16;

/// Host ids of one range: the common ones, and room for the image's others.
const STRIDE: u32 = 1 << 17;

/// First host id that is used: above what distributions give to accounts and `/etc/subuid`.
const FIRST: u32 = 1 << 28;

/// Workers of one machine that get different ranges, by a hash of their ids; FIRST and all of
/// their ranges end below 2^31.
const WORKERS: u32 = 192;

/// Lines of a map that the kernel accepts (`UID_GID_MAP_MAX_EXTENTS`, since Linux 4.15).
const EXTENTS_MAX: usize = 340;

/// User namespaces kept open per range: one for most images, more for those with ids beyond.
const NAMESPACES_MAX: usize = 4;

/// Ids inside, successive, and where they are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

/// How ids inside lead to ids outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap(Vec<Extent>);

impl IdMap {
    /// Maps 0 to 65,535 from `base` on, and each of `others` after them. None where those are too
    /// many for one map.
    fn new(base: u32, others: &BTreeSet<u32>) -> Option<Self> {
        let mut extents = vec![Extent { inside: 0, outside: base, count: COMMON }];
        // The last value is no id: (uid_t)-1.
        for (outside, &inside) in (base + COMMON..).zip(others.range(COMMON..u32::MAX)) {
            if outside == base + STRIDE {
                return None;
            }
            match extents.last_mut() {
                Some(last) if last.inside + last.count == inside => last.count += 1,
                _ => extents.push(Extent { inside, outside, count: 1 }),
            }
        }
        (extents.len() <= EXTENTS_MAX).then_some(Self(extents))
    }

    /// The id outside.
    pub(crate) fn outside(&self, inside: u32) -> Option<u32> {
        let extent = self.0.iter().find(|extent| {
            inside.checked_sub(extent.inside).is_some_and(|offset| offset < extent.count)
        })?;
        Some(extent.outside + (inside - extent.inside))
    }

    /// As the kernel reads it.
    fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, Extent { inside, outside, count }| {
            writeln!(text, "{inside} {outside} {count}").expect("writing to a string");
            text
        })
    }

    /// As the OCI configuration has it.
    pub(crate) fn json(&self) -> Value {
        let extents = self.0.iter().map(|Extent { inside, outside, count }| {
            json!({"containerID": inside, "hostID": outside, "size": count})
        });
        extents.collect()
    }
}

/// Maps of both kinds of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub(crate) uids: IdMap,
    pub(crate) gids: IdMap,
}

impl IdMaps {
    /// For a job that runs as `uid` and `gids` in `manifest`, with ids from `base` on.
    pub(crate) fn new(
        base: u32,
        manifest: &Manifest,
        uid: u32,
        gids: &[u32],
    ) -> Result<Self, RunError> {
        let mut uids = BTreeSet::from([uid]);
        let mut all_gids: BTreeSet<u32> = gids.iter().copied().collect();
        for (_, inode) in manifest.inodes() {
            if inode.uid >= COMMON {
                uids.insert(inode.uid);
            }
            if inode.gid >= COMMON {
                all_gids.insert(inode.gid);
            }
        }
        let too_many = || {
            RunError::Refused(format!(
                "the image has files of too many owners above {COMMON} for one user namespace"
            ))
        };
        Ok(Self {
            uids: IdMap::new(base, &uids).ok_or_else(too_many)?,
            gids: IdMap::new(base, &all_gids).ok_or_else(too_many)?,
        })
    }
}

/// The ranges of this worker, each of one job at a time.
#[derive(Debug)]
pub(crate) struct IdRanges {
    places: Arc<Semaphore>,
    free: Mutex<Vec<Range>>,
}

#[derive(Debug)]
struct Range {
    base: u32,
    namespaces: HashMap<String, Arc<OwnedFd>>,
}

impl IdRanges {
    pub(crate) fn new(worker_id: &str) -> Arc<Self> {
        let digest = Digest::of(worker_id.as_bytes());
        let place = u32::from_le_bytes(
            *digest.as_bytes().first_chunk().expect("a digest is longer than four bytes"),
        );
        let base = FIRST + (place % WORKERS) * RANGES * STRIDE;
        let range = |n| Range { base: base + n * STRIDE, namespaces: HashMap::new() };
        Arc::new(Self {
            places: Arc::new(Semaphore::new(RANGES as usize)),
            free: Mutex::new((0..RANGES).rev().map(range).collect()),
        })
    }

    /// A range that no other job has, until the value is dropped. Waits for one.
    pub(crate) async fn take(self: &Arc<Self>) -> IdRange {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let range = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let range = range.expect("there are as many places as ranges");
        let range = Mutex::new(Some(range));
        IdRange { ranges: Arc::clone(self), range, _place: place }
    }
}

/// One job's range.
#[derive(Debug)]
pub(crate) struct IdRange {
    ranges: Arc<IdRanges>,
    /// None only while it is dropped.
    range: Mutex<Option<Range>>,
    _place: OwnedSemaphorePermit,
}

impl IdRange {
    /// The host id of 0 inside.
    pub(crate) fn base(&self) -> u32 {
        self.with(|range| range.base)
    }

    /// A user namespace with these maps, made once and kept. Blocks for some milliseconds the
    /// first time.
    pub(crate) fn user_namespace(&self, maps: &IdMaps) -> std::io::Result<Arc<OwnedFd>> {
        let (uids, gids) = (maps.uids.text(), maps.gids.text());
        let key = format!("{uids}/{gids}");
        self.with(|Range { namespaces, .. }| {
            if let Some(namespace) = namespaces.get(&key) {
                return Ok(Arc::clone(namespace));
            }
            let namespace = Arc::new(kernel::user_namespace(&uids, &gids)?);
            if namespaces.len() >= NAMESPACES_MAX {
                namespaces.clear();
            }
            namespaces.insert(key, Arc::clone(&namespace));
            Ok(namespace)
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Range) -> T) -> T {
        let mut range = self.range.lock().unwrap_or_else(PoisonError::into_inner);
        look(range.as_mut().expect("present until it is dropped"))
    }
}

impl Drop for IdRange {
    fn drop(&mut self) {
        let range = self.range.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.ranges.free.lock().unwrap_or_else(PoisonError::into_inner).extend(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_the_range_are_mapped_one_by_one() {
        let map = IdMap::new(1 << 28, &BTreeSet::from([5, 70_000, 70_001, 123_456])).unwrap();
        assert_eq!(map.text(), "0 268435456 65536\n70000 268500992 2\n123456 268500994 1\n");
        assert_eq!(map.outside(1000), Some(268_436_456));
        assert_eq!(map.outside(123_456), Some(268_500_994));
        assert_eq!(map.outside(123_457), None);
    }

    #[test]
    fn too_many_owners_are_refused() {
        let scattered: BTreeSet<u32> = (0..400).map(|n| 100_000 + 2 * n).collect();
        assert_eq!(IdMap::new(0, &scattered), None);
        let dense: BTreeSet<u32> = (100_000..100_000 + 70_000).collect();
        assert_eq!(IdMap::new(0, &dense), None);
    }

    #[tokio::test]
    async fn jobs_at_one_time_have_different_ranges() {
        let ranges = IdRanges::new("w");
        let mut taken = Vec::new();
        for _ in 0..RANGES {
            taken.push(ranges.take().await);
        }
        let bases: BTreeSet<u32> = taken.iter().map(IdRange::base).collect();
        assert_eq!(bases.len(), RANGES as usize);
        assert!(bases.iter().all(|base| base.checked_add(STRIDE).is_some_and(|end| end < 1 << 31)));
        let freed = taken.pop().unwrap().base();
        assert_eq!(ranges.take().await.base(), freed);
    }
}
