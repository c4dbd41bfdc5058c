//! How many containers of one shape should wait. Pure: it is told what time it is.

use std::time::{Duration, Instant};

/// After so long without a job of the shape, half of its containers go.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// For so long a first job is remembered: one alone makes nothing wait.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What is known of the jobs of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    wanted: usize,
    asked_at: Instant,
    asks: u32,
    /// Whether one container waits for as long as the pool is there.
    stays: bool,
}

impl Demand {
    pub(super) fn new(now: Instant, stays: bool) -> Self {
        Self { wanted: 0, asked_at: now, asks: 0, stays }
    }

    /// A job came, and found one (`met`) or not.
    pub(super) fn ask(&mut self, now: Instant, met: bool) {
        self.wanted = self.wanted(now);
        self.asks = self.asks.saturating_add(1);
        if self.stays || self.asks > 1 {
            let more = if met { self.wanted } else { self.wanted * 2 };
            self.wanted = more.clamp(1, 1 << 10);
        }
        self.asked_at = now;
    }

    /// How many should wait, if they may.
    pub(super) fn wanted(&self, now: Instant) -> usize {
        let halvings = now.duration_since(self.asked_at).as_secs() / HALF_LIFE.as_secs();
        let left = self.wanted >> halvings.min(31);
        if self.stays && self.wanted > 0 { left.max(1) } else { left }
    }

    /// When the last job came.
    pub(super) fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// Whether the shape may be forgotten.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.wanted(now) == 0 && now.duration_since(self.asked_at) > REMEMBERED
    }

    /// Nothing is to wait until it is asked for again.
    pub(super) fn end(&mut self) {
        (self.wanted, self.asks) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_double_what_waits_and_idleness_halves_it() {
        let begun = Instant::now();
        let mut demand = Demand::new(begun, false);
        demand.ask(begun, false);
        assert_eq!(demand.wanted(begun), 0, "one job alone is no demand");
        for expected in [1, 2, 4] {
            demand.ask(begun, false);
            assert_eq!(demand.wanted(begun), expected);
        }
        demand.ask(begun, true);
        let after = |halves| demand.wanted(begun + HALF_LIFE * halves);
        assert_eq!([after(0), after(1), after(2), after(3)], [4, 2, 1, 0]);
        assert!(!demand.is_over(begun + HALF_LIFE * 3));
        assert!(demand.is_over(begun + REMEMBERED * 2));
    }

    #[test]
    fn the_default_image_keeps_one_from_its_first_job_on() {
        let begun = Instant::now();
        let mut demand = Demand::new(begun, true);
        assert_eq!(demand.wanted(begun), 0);
        demand.ask(begun, false);
        assert_eq!(demand.wanted(begun + REMEMBERED * 100), 1);
        demand.end();
        assert_eq!(demand.wanted(begun), 0);
    }
}
