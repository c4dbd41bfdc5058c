//! How often somebody may: a bucket for each key, of a bounded number of keys.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// Keys with a bucket of their own. Where so many are in use at once, further ones share one.
const KEYS_MAX: usize = 4096;

/// A bucket for each key: full at first, emptied one by one, filled again as time goes by.
pub struct Throttle<K: Hash + Eq + Clone> {
    buckets: RateLimiter<Option<K>, HashMapStateStore<Option<K>>, DefaultClock>,
    clock: DefaultClock,
}

impl<K: Hash + Eq + Clone> fmt::Debug for Throttle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone> Throttle<K> {
    /// Buckets that hold `burst`, and get one more every `pause`.
    ///
    /// # Panics
    /// Where `pause` is zero.
    pub fn new(burst: NonZeroU32, pause: Duration) -> Self {
        let quota = Quota::with_period(pause).expect("a pause takes time").allow_burst(burst);
        let clock = DefaultClock::default();
        let buckets = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        Self { buckets, clock }
    }

    /// Takes one of `key`'s; where there is none, tells how long it takes until there is.
    pub fn take(&self, key: K) -> Result<(), Duration> {
        if self.buckets.len() >= KEYS_MAX {
            // Full buckets are as good as none.
            self.buckets.retain_recent();
        }
        let key = (self.buckets.len() < KEYS_MAX).then_some(key);
        self.buckets.check_key(&key).map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test takes.
    const HOUR: Duration = Duration::from_secs(3600);

    fn throttle(burst: u32) -> Throttle<u32> {
        Throttle::new(NonZeroU32::new(burst).unwrap(), HOUR)
    }

    #[test]
    fn each_key_has_its_burst_and_is_told_how_long_to_wait() {
        let throttle = throttle(3);
        for key in [1, 2] {
            for _ in 0..3 {
                assert_eq!(throttle.take(key), Ok(()));
            }
            let wait = throttle.take(key).unwrap_err();
            assert!(wait > Duration::ZERO && wait <= HOUR, "{wait:?}");
        }
    }

    #[test]
    fn any_number_of_keys_takes_a_bounded_number_of_buckets() {
        let throttle = throttle(2);
        for key in 0..3 * u32::try_from(KEYS_MAX).unwrap() {
            let _ = throttle.take(key);
        }
        assert!(throttle.buckets.len() <= KEYS_MAX + 1);
        // Those without one of their own share one, which is empty by now.
        assert!(throttle.take(u32::MAX).is_err());
    }
}
