//! When the next run is due: pure arithmetic on instants, without a clock and without a task.
//!
//! The tricky part is the grid of `interval`. Runs start at points that are a fixed interval apart. Retries and
//! `run_now` do not move these points. Only a run that takes longer than the interval restarts the grid, at its end.

use std::time::Duration;

use tokio::time::Instant;

use super::NEVER;

/// A fixed grid of start times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The latest point at or before the last run's start; before the first run, the first point.
    slot: Instant,
}

impl Grid {
    /// A grid whose first point is `first`.
    pub(crate) fn new(first: Instant) -> Self {
        Self { slot: first }
    }

    /// Returns the point at which the next run is due, after a run from `started` to `ended`.
    #[inline]
    pub(crate) fn after_run(&mut self, every: Duration, started: Instant, ended: Instant) -> Instant {
        if started < self.slot {
            // A requested run before the first point.
            return self.slot;
        }
        let mut next = later(self.slot, every);
        if started >= next {
            // The run that was due at `next`: the usual case, found by one comparison.
            self.slot = next;
            next = later(next, every);
        }
        if ended < next {
            return next;
        }
        if ended.duration_since(started) >= every {
            self.slot = ended;
            return ended;
        }
        self.slot = latest_point(self.slot, every, started);
        later(self.slot, every)
    }

    /// Returns a point of the grid: before the first run, the first point.
    pub(crate) fn first(&self) -> Instant {
        self.slot
    }

    /// Advances to the last point at or before `started`, on the old interval, before the interval changes.
    pub(crate) fn advance_to(&mut self, every: Duration, started: Instant) {
        if started >= self.slot {
            self.slot = latest_point(self.slot, every, started);
        }
    }

    /// Returns the next point if `every` has changed since the last run, which began at `started`.
    pub(crate) fn next(&self, every: Duration, started: Option<Instant>) -> Instant {
        match started {
            Some(started) if started >= self.slot => later(latest_point(self.slot, every, started), every),
            _ => self.slot,
        }
    }
}

/// The last of `slot`, `slot + every`, `slot + 2 * every` … that is not after `at`.
fn latest_point(slot: Instant, every: Duration, at: Instant) -> Instant {
    let passed = at.duration_since(slot).as_nanos();
    let rest = passed % every.as_nanos().max(1);
    at - Duration::from_nanos(u64::try_from(rest).unwrap_or(u64::MAX))
}

/// Returns `at + wait`, with `wait` limited to [`NEVER`].
#[inline]
pub(crate) fn later(at: Instant, wait: Duration) -> Instant {
    at.checked_add(wait.min(NEVER)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_next_start_follows_the_grid() {
        let t0 = Instant::now();
        // (what, grid's slot, interval, started, ended, next, slot after)
        let table = [
            ("a short run keeps the grid", 0, 30, 0, 3, 30, 0),
            ("a late start keeps the grid", 30, 30, 31, 40, 60, 30),
            ("a run as long as the interval restarts the grid", 0, 30, 0, 30, 30, 30),
            ("a run longer than the interval is followed at once, on a new grid", 0, 30, 0, 45, 45, 45),
            ("a requested run between two points does not move the grid", 30, 30, 41, 43, 60, 30),
            ("a requested run during which a point came due is followed at once", 30, 30, 55, 65, 60, 30),
            ("a requested run before the first point does not move it", 100, 30, 10, 12, 100, 100),
            ("points missed during a long backoff are skipped", 0, 30, 95, 96, 120, 90),
            ("a retry on a point counts as that point's run", 0, 30, 60, 60, 90, 60),
        ];
        for (what, slot, every, started, ended, next, slot_after) in table {
            let mut grid = Grid::new(t0 + secs(slot));
            let due = grid.after_run(secs(every), t0 + secs(started), t0 + secs(ended));
            assert_eq!((due - t0, grid.slot - t0), (secs(next), secs(slot_after)), "{what}");
        }
    }

    #[test]
    fn a_changed_interval_counts_from_the_last_run() {
        let t0 = Instant::now();
        let grid = Grid::new(t0);
        assert_eq!(grid.next(secs(10), Some(t0 + secs(1))), t0 + secs(10));
        assert_eq!(grid.next(secs(100), Some(t0 + secs(1))), t0 + secs(100));
        assert_eq!(grid.next(secs(10), None), t0, "before the first run the first point stays");
    }

    #[test]
    fn the_longest_interval_does_not_overflow() {
        let t0 = Instant::now();
        assert!(later(t0, Duration::MAX) > t0);
    }
}
