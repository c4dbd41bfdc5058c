//! What users have shown to have: the names of blobs whose bytes they sent, or were told that they
//! need not send.
//!
//! A name of a blob is no right to its bytes, so a user's ref may only lead to what the user has.
//! Held in memory and bounded: what is forgotten, or was before the server started, is sent again.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sway_core::digest::Digest;
use sway_core::name::UserName;

/// Names of blobs held for all users: more than one manifest can have, about 100 MB.
pub const HELD_MAX: usize = 3_000_000;

/// Blobs of uploads that no ref leads to yet.
#[derive(Debug)]
pub struct Holdings {
    table: Mutex<Table>,
    max: usize,
}

#[derive(Debug, Default)]
struct Table {
    users: HashMap<UserName, Held>,
    /// Names of all users.
    len: usize,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug, Default)]
struct Held {
    digests: HashSet<Digest>,
    used_at: u64,
}

impl Default for Holdings {
    fn default() -> Self {
        Self::with_max(HELD_MAX)
    }
}

impl Holdings {
    /// Holds at most `max` names.
    pub fn with_max(max: usize) -> Self {
        Self { table: Mutex::default(), max }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `user` has these. Tells how many of them were not held before.
    pub fn add(&self, user: &UserName, digests: impl IntoIterator<Item = Digest>) -> u64 {
        let mut table = self.table();
        table.clock += 1;
        let clock = table.clock;
        let held = table.users.entry(user.clone()).or_default();
        held.used_at = clock;
        let before = held.digests.len();
        held.digests.extend(digests);
        let new = held.digests.len() - before;
        table.len += new;
        while table.len > self.max {
            table.forget_oldest();
        }
        new as u64
    }

    /// Takes those out of `wanted` that `user` has.
    pub fn strike(&self, user: &UserName, wanted: &mut HashSet<Digest>) {
        if let Some(held) = self.table().users.get(user) {
            wanted.retain(|digest| !held.digests.contains(digest));
        }
    }

    /// A ref of `user` leads to these from now on.
    pub fn release(&self, user: &UserName, digests: &HashSet<Digest>) {
        let mut table = self.table();
        let Some(held) = table.users.get_mut(user) else { return };
        let before = held.digests.len();
        held.digests.retain(|digest| !digests.contains(digest));
        let (after, capacity) = (held.digests.len(), held.digests.capacity());
        if after == 0 {
            table.users.remove(user);
        } else if after < capacity / 4 {
            held.digests.shrink_to_fit();
        }
        table.len -= before - after;
    }
}

impl Table {
    /// Forgets what the user has who was here longest ago.
    fn forget_oldest(&mut self) {
        let oldest = self.users.iter().min_by_key(|(_, held)| held.used_at);
        let Some(user) = oldest.map(|(user, _)| user.clone()) else { return };
        let held = self.users.remove(&user).expect("it was there");
        self.len -= held.digests.len();
        tracing::warn!(%user, blobs = held.digests.len(), "what was uploaded is forgotten");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn digests(texts: &[&str]) -> HashSet<Digest> {
        texts.iter().map(|text| Digest::of(text.as_bytes())).collect()
    }

    fn lacks(holdings: &Holdings, name: &str, texts: &[&str]) -> HashSet<Digest> {
        let mut wanted = digests(texts);
        holdings.strike(&user(name), &mut wanted);
        wanted
    }

    #[test]
    fn each_user_has_what_it_sent_until_a_ref_leads_there() {
        let holdings = Holdings::default();
        assert_eq!(holdings.add(&user("ada"), digests(&["a", "b"])), 2);
        assert_eq!(holdings.add(&user("ada"), digests(&["b", "c"])), 1);
        assert!(lacks(&holdings, "ada", &["a", "b", "c"]).is_empty());
        assert_eq!(lacks(&holdings, "ada", &["a", "d"]), digests(&["d"]));
        assert_eq!(lacks(&holdings, "bob", &["a"]), digests(&["a"]));
        holdings.release(&user("ada"), &digests(&["a", "b", "x"]));
        assert_eq!(lacks(&holdings, "ada", &["a", "b", "c"]), digests(&["a", "b"]));
        holdings.release(&user("bob"), &digests(&["a"]));
        holdings.release(&user("ada"), &digests(&["c"]));
        let table = holdings.table();
        assert_eq!((table.len, table.users.len()), (0, 0));
    }

    #[test]
    fn there_is_a_bound_and_who_was_here_longest_ago_goes_first() {
        let holdings = Holdings::with_max(4);
        holdings.add(&user("ada"), digests(&["a", "b"]));
        holdings.add(&user("bob"), digests(&["a", "b"]));
        holdings.add(&user("ada"), digests(&["a"]));
        holdings.add(&user("eve"), digests(&["a"]));
        assert!(lacks(&holdings, "ada", &["a", "b"]).is_empty());
        assert!(lacks(&holdings, "eve", &["a"]).is_empty());
        assert_eq!(lacks(&holdings, "bob", &["a", "b"]).len(), 2);
        // One that has too many alone has none.
        holdings.add(&user("eve"), digests(&["b", "c", "d", "e"]));
        assert_eq!(lacks(&holdings, "eve", &["a", "e"]).len(), 2);
        assert_eq!(holdings.table().len, 0);
    }
}
