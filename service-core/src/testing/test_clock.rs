//! [`TestClock`]: the wall clock of a test bed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::runtime::clock::TimeSource;
use crate::sync::Mutex;

/// A wall clock that can be set, and moves with tokio's clock.
#[derive(Clone, Debug)]
pub(super) struct TestClock {
    /// The wall clock was set to this time at this moment.
    set: Arc<Mutex<(SystemTime, Instant)>>,
    /// The first of these, as the time since 1970.
    first: (Duration, Instant),
}

impl TestClock {
    pub(super) fn at(wall: SystemTime) -> Self {
        let now = Instant::now();
        let since_1970 = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { set: Arc::new(Mutex::new((wall, now))), first: (since_1970, now) }
    }

    pub(super) fn set(&self, wall: SystemTime) {
        *self.set.lock() = (wall, Instant::now());
    }
}

impl TimeSource for TestClock {
    fn now(&self) -> SystemTime {
        let (wall, at) = *self.set.lock();
        wall + Instant::now().saturating_duration_since(at)
    }

    fn is_virtual(&self) -> bool {
        true
    }

    /// Counts from the wall clock that the bed began with: a database may outlive its bed, and the times that the first
    /// bed has stored are compared with those of the next one.
    fn monotonic(&self) -> Option<Duration> {
        let (since_1970, at) = self.first;
        Some(since_1970 + Instant::now().saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_leases_continues_in_a_later_bed_and_cannot_be_set() {
        let hour = Duration::from_secs(3600);
        let clock = TestClock::at(SystemTime::UNIX_EPOCH + hour);
        tokio::time::advance(hour).await;
        clock.set(SystemTime::UNIX_EPOCH);
        assert_eq!((clock.now(), clock.monotonic()), (SystemTime::UNIX_EPOCH, Some(2 * hour)));
        let later = TestClock::at(SystemTime::UNIX_EPOCH + 2 * hour);
        assert_eq!(later.monotonic(), clock.monotonic());
    }
}
