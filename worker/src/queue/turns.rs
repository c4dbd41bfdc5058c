//! How many of an owner's submitted jobs run at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sway_core::name::UserName;
use tokio::sync::Notify;

/// The turns of all owners.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<UserName, Arc<Owner>>>);

#[derive(Debug)]
struct Owner {
    places: Mutex<Places>,
    /// Told to one who waits when a place is free, in the order in which they came.
    freed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Places {
    taken: u32,
    max: u32,
}

/// A submitted job's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Owner>);

impl Turns {
    /// Sets how many of an owner's jobs may run; what runs goes on.
    pub(super) fn set(&self, owner: &UserName, max: u32) {
        let owner = self.owner(owner, max);
        owner.places().max = max;
        owner.freed.notify_waiters();
    }

    /// Waits for a turn. `max` counts where the owner's is not known yet.
    pub(super) async fn take(&self, owner: &UserName, max: u32) -> Turn {
        let owner = self.owner(owner, max);
        loop {
            // Before the look, so that no news is lost after it.
            let freed = owner.freed.notified();
            {
                let mut places = owner.places();
                if places.taken < places.max {
                    places.taken += 1;
                    return Turn(Arc::clone(&owner));
                }
            }
            freed.await;
        }
    }

    fn owner(&self, owner: &UserName, max: u32) -> Arc<Owner> {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let places = Mutex::new(Places { taken: 0, max });
            Arc::new(Owner { places, freed: Notify::new() })
        };
        Arc::clone(owners.entry(owner.clone()).or_insert_with(new))
    }
}

impl Owner {
    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.places().taken -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn no_more_than_an_owners_places_are_taken_and_more_can_be_made() {
        let turns = Turns::default();
        let [alice, bob] = ["alice", "bob"].map(|name| name.parse::<UserName>().unwrap());
        let first = turns.take(&alice, 1).await;
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, turns.take(&alice, 9)).await.is_err());
        let _other = turns.take(&bob, 1).await;
        let (second, ()) = tokio::join!(turns.take(&alice, 1), async { drop(first) });
        let (third, ()) = tokio::join!(turns.take(&alice, 1), async { turns.set(&alice, 2) });
        drop((second, third));
        let _all = (turns.take(&alice, 1).await, turns.take(&alice, 1).await);
    }
}
