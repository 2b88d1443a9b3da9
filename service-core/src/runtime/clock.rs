//! [`Clock`]: converts tokio's instants to wall-clock time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::sync::Mutex;

/// A source of wall-clock time: by default the system's clock, in tests the one of the test bed.
pub(crate) trait TimeSource: fmt::Debug + Send + Sync {
    fn now(&self) -> SystemTime;

    /// Whether the time is that of a test.
    fn is_virtual(&self) -> bool {
        false
    }

    /// Returns the time of a test by a clock that cannot be set, since 1970; `None`: the time is real.
    fn monotonic(&self) -> Option<Duration> {
        None
    }
}

#[derive(Debug)]
struct SystemClock;

impl TimeSource for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Two readings of both clocks that differ by less than this are the same: no clock was set between them.
const TOLERANCE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub(crate) struct Clock {
    source: Arc<dyn TimeSource>,
    /// A reading of both clocks.
    anchor: Arc<Mutex<Option<(Instant, SystemTime)>>>,
}

impl Clock {
    pub(crate) fn new(wall: impl TimeSource + 'static) -> Self {
        Self { source: Arc::new(wall), anchor: Arc::default() }
    }

    pub(crate) fn is_virtual(&self) -> bool {
        self.source.is_virtual()
    }

    /// Returns the time of a test by a clock that cannot be set, since 1970; `None`: the time is real.
    pub(crate) fn virtual_monotonic(&self) -> Option<Duration> {
        self.source.monotonic()
    }

    pub(crate) fn wall_now(&self) -> SystemTime {
        self.source.now()
    }

    /// Returns the wall-clock time of an instant in the past or future.
    pub(crate) fn wall(&self, instant: Instant) -> SystemTime {
        wall_at(instant, (Instant::now(), self.wall_now()))
    }

    /// As [`wall`](Self::wall), but the same for each call with this instant, unless the clock is set meanwhile. May
    /// differ from the clock by 10 ms.
    pub(crate) fn stable_wall(&self, instant: Instant) -> SystemTime {
        let reading = (Instant::now(), self.wall_now());
        let mut anchor = self.anchor.lock();
        let is_same = |anchor: &(Instant, SystemTime)| {
            let expected = wall_at(reading.0, *anchor);
            let ahead = expected.duration_since(reading.1).unwrap_or_else(|error| error.duration());
            ahead < TOLERANCE
        };
        *anchor = anchor.filter(is_same).or(Some(reading));
        wall_at(instant, anchor.unwrap_or(reading))
    }
}

/// Returns the wall-clock time of an instant, by one reading of both clocks.
fn wall_at(instant: Instant, (now, wall): (Instant, SystemTime)) -> SystemTime {
    if instant >= now {
        wall.checked_add(instant - now).unwrap_or(wall)
    } else {
        wall.checked_sub(now - instant).unwrap_or(wall)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemClock)
    }
}
