//! User and group ids: every job that runs has a range of host ids of its own.
//!
//! What a range maps is [`crate::id_map`]'s; here, who has which. Whoever gets out of a container
//! is nobody on the host. The lowest free range comes first, because kernels before 6.12 need a
//! mount of the image for each range.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use sway_core::digest::Digest;
use sway_core::manifest::{Inode, Manifest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::RunError;
use super::kernel;
use crate::id_map::{COMMON, IdMap, IdMaps, STRIDE};

/// Ranges of one worker: no more jobs than that run at once.
const RANGES: u32 = 64;

/// First host id that is used: above what distributions give to accounts and `/etc/subuid`.
const FIRST: u32 = 1 << 28;

/// Workers of one machine that get different ranges, by a hash of their ids; FIRST and all of
/// their ranges end below 2^31.
const WORKERS: u32 = 192;

/// User namespaces kept open per range: one for most images, more for those with ids beyond.
const NAMESPACES_MAX: usize = 4;

/// Owners of an image's files that are not among the ids which every map has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl Owners {
    /// Looks at all inodes.
    pub fn of(manifest: &Manifest) -> Self {
        let others = |id: fn(&Inode) -> u32| {
            manifest.inodes().map(|(_, inode)| id(inode)).filter(|&id| id >= COMMON).collect()
        };
        Self { uids: others(|inode| inode.uid), gids: others(|inode| inode.gid) }
    }
}

/// The maps of a job that runs as `uid` and `gids` in an image with these owners, with ids from
/// `base` on.
pub(crate) fn maps(base: u32, owners: &Owners, uid: u32, gids: &[u32]) -> Result<IdMaps, RunError> {
    let (mut uids, mut all_gids) = (owners.uids.clone(), owners.gids.clone());
    uids.insert(uid);
    all_gids.extend(gids);
    let too_many = || {
        RunError::Refused(format!(
            "the image has files of too many owners above {COMMON} for one user namespace"
        ))
    };
    Ok(IdMaps {
        uids: IdMap::new(base, &uids).ok_or_else(too_many)?,
        gids: IdMap::new(base, &all_gids).ok_or_else(too_many)?,
    })
}

/// The ranges of this worker, each of one job at a time.
#[derive(Debug)]
pub(crate) struct IdRanges {
    places: Arc<Semaphore>,
    /// By their first host id.
    free: Mutex<BTreeMap<u32, Namespaces>>,
}

/// User namespaces of a range, by their maps.
type Namespaces = HashMap<IdMaps, Arc<OwnedFd>>;

impl IdRanges {
    pub(crate) fn new(worker_id: &str) -> Arc<Self> {
        let digest = Digest::of(worker_id.as_bytes());
        let place = u32::from_le_bytes(
            *digest.as_bytes().first_chunk().expect("a digest is longer than four bytes"),
        );
        let base = FIRST + (place % WORKERS) * RANGES * STRIDE;
        let range = |n| (base + n * STRIDE, Namespaces::new());
        Arc::new(Self {
            places: Arc::new(Semaphore::new(RANGES as usize)),
            free: Mutex::new((0..RANGES).map(range).collect()),
        })
    }

    /// A range that no other job has, until the value is dropped. Waits for one.
    pub(crate) async fn take(self: &Arc<Self>) -> IdRange {
        let place = Arc::clone(&self.places).acquire_owned().await;
        self.lowest(place.expect("the semaphore is never closed"))
    }

    /// The same without waiting, and only where `left` others stay free.
    pub(crate) fn try_take(self: &Arc<Self>, left: u32) -> Option<IdRange> {
        let all = Arc::clone(&self.places).try_acquire_many_owned(left + 1).ok();
        Some(self.lowest(all?.split(1).expect("one of at least one")))
    }

    fn lowest(self: &Arc<Self>, place: OwnedSemaphorePermit) -> IdRange {
        let range = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        let (base, namespaces) = range.expect("there are as many places as ranges");
        let namespaces = Mutex::new(namespaces);
        IdRange { ranges: Arc::clone(self), base, namespaces, _place: place }
    }
}

/// One job's range.
#[derive(Debug)]
pub(crate) struct IdRange {
    ranges: Arc<IdRanges>,
    base: u32,
    namespaces: Mutex<Namespaces>,
    _place: OwnedSemaphorePermit,
}

impl IdRange {
    /// The host id of 0 inside.
    pub(crate) fn base(&self) -> u32 {
        self.base
    }

    /// A user namespace with these maps, made once and kept. Blocks for some milliseconds the
    /// first time.
    pub(crate) fn user_namespace(&self, maps: &IdMaps) -> std::io::Result<Arc<OwnedFd>> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(namespace) = namespaces.get(maps) {
            return Ok(Arc::clone(namespace));
        }
        let namespace = kernel::user_namespace(&maps.uids.text(), &maps.gids.text())?;
        let namespace = Arc::new(namespace);
        if namespaces.len() >= NAMESPACES_MAX {
            namespaces.clear();
        }
        namespaces.insert(maps.clone(), Arc::clone(&namespace));
        Ok(namespace)
    }
}

impl Drop for IdRange {
    fn drop(&mut self) {
        let namespaces = self.namespaces.get_mut().unwrap_or_else(PoisonError::into_inner);
        let namespaces = std::mem::take(namespaces);
        let mut free = self.ranges.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.insert(self.base, namespaces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test]
    async fn the_lowest_free_range_is_taken_first() {
        let ranges = IdRanges::new("w");
        let (first, second) = (ranges.take().await, ranges.take().await);
        let (lowest, next) = (first.base(), second.base());
        assert_eq!(next, lowest + STRIDE);
        drop(first);
        drop(second);
        assert_eq!(ranges.take().await.base(), lowest);
    }
}
