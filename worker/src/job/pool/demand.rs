//! How many containers of one shape should wait. Pure: it is told what time it is.

use std::time::{Duration, Instant};

/// After so long without a job of the shape, half of its containers go.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// For so long a first job is remembered: one alone makes nothing wait.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Where the last two jobs came so far apart, what waits can be made between jobs.
const LEISURE: Duration = Duration::from_millis(200);

/// How long it is put off for that.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the jobs of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    wanted: usize,
    asked_at: Instant,
    /// Between the last two jobs.
    gap: Duration,
    asks: u32,
    /// Whether one container waits for as long as the pool is there.
    stays: bool,
}

impl Demand {
    pub(super) fn new(now: Instant, stays: bool) -> Self {
        Self { wanted: 0, asked_at: now, gap: Duration::MAX, asks: 0, stays }
    }

    /// A job came, and found one (`met`) or not.
    pub(super) fn ask(&mut self, now: Instant, met: bool) {
        self.wanted = self.wanted(now);
        self.asks = self.asks.saturating_add(1);
        if self.stays || self.asks > 1 {
            let more = if met { self.wanted } else { self.wanted * 2 };
            self.wanted = more.clamp(1, 1 << 10);
        }
        self.gap = now.duration_since(self.asked_at);
        self.asked_at = now;
    }

    /// Whether what is to wait should be made now, beside jobs that run: they pay for it, and where
    /// the next job is not near, nobody gains.
    pub(super) fn presses(&self, now: Instant) -> bool {
        self.gap < LEISURE || now.duration_since(self.asked_at) >= PATIENCE
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
    fn what_is_not_needed_soon_can_wait_until_no_job_runs() {
        let begun = Instant::now();
        let mut demand = Demand::new(begun, false);
        let after = |millis| begun + Duration::from_millis(millis);
        for (asked, presses) in [(1000, false), (1020, true), (1040, true), (3000, false)] {
            demand.ask(after(asked), true);
            assert_eq!(demand.presses(after(asked + 10)), presses, "{asked}");
        }
        assert!(demand.presses(after(3000) + PATIENCE), "not for ever");
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
