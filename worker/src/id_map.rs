//! How ids inside a job lead to ids of the host.
//!
//! Inside, a job sees the ids of its image. Outside, they lie in a range that no account of the
//! host and no other running job has. A map takes 0 to 65,535 as one piece; ids above that one by
//! one, exactly those that the image uses. Who hands out ranges is [`crate::job`]'s business; who
//! carries a map out is the kernel's, or [`crate::fuse`]'s where the kernel can't.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// Ids that every map has, from 0 on.
pub const COMMON: u32 = 1 << 16;

/// Host ids of one range: the common ones, and room for the image's others.
pub const STRIDE: u32 = 1 << 17;

/// What an id without a place outside shows as, as in the kernel (`/proc/sys/fs/overflowuid`).
const OVERFLOW: u32 = 65_534;

/// Lines of a map that the kernel accepts (`UID_GID_MAP_MAX_EXTENTS`, since Linux 4.15).
const EXTENTS_MAX: usize = 340;

/// Ids inside, successive, and where they are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

/// How ids inside lead to ids outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdMap(Vec<Extent>);

impl IdMap {
    /// Maps 0 to 65,535 from `base` on, and each of `others` after them. None where those are too
    /// many for one map.
    pub fn new(base: u32, others: &BTreeSet<u32>) -> Option<Self> {
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

    /// The host id of 0 inside.
    pub fn base(&self) -> u32 {
        self.0[0].outside
    }

    /// The id outside.
    pub fn outside(&self, inside: u32) -> Option<u32> {
        let extent = self.0.iter().find(|extent| {
            inside.checked_sub(extent.inside).is_some_and(|offset| offset < extent.count)
        })?;
        Some(extent.outside + (inside - extent.inside))
    }

    /// The id outside; nobody's, where there is none.
    pub fn outside_or_overflow(&self, inside: u32) -> u32 {
        self.outside(inside).unwrap_or(OVERFLOW)
    }

    /// As the kernel reads it.
    pub(crate) fn text(&self) -> String {
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdMaps {
    /// Of users.
    pub uids: IdMap,
    /// Of groups.
    pub gids: IdMap,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_the_range_are_mapped_one_by_one() {
        let map = IdMap::new(1 << 28, &BTreeSet::from([5, 70_000, 70_001, 123_456])).unwrap();
        assert_eq!(map.text(), "0 268435456 65536\n70000 268500992 2\n123456 268500994 1\n");
        assert_eq!(map.base(), 1 << 28);
        assert_eq!(map.outside(1000), Some(268_436_456));
        assert_eq!(map.outside(123_456), Some(268_500_994));
        assert_eq!(map.outside(123_457), None);
        assert_eq!(map.outside_or_overflow(123_456), 268_500_994);
        assert_eq!(map.outside_or_overflow(u32::MAX), 65_534);
    }

    #[test]
    fn too_many_owners_are_refused() {
        let scattered: BTreeSet<u32> = (0..400).map(|n| 100_000 + 2 * n).collect();
        assert_eq!(IdMap::new(0, &scattered), None);
        let dense: BTreeSet<u32> = (100_000..100_000 + 70_000).collect();
        assert_eq!(IdMap::new(0, &dense), None);
    }
}
