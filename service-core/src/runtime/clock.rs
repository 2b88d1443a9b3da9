//! [`Clock`]: converts tokio's instants to wall-clock time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A source of wall-clock time: by default the system's clock, in tests the one of the test bed.
pub(crate) trait TimeSource: fmt::Debug + Send + Sync {
    fn now(&self) -> SystemTime;

    /// Whether the time is that of a test.
    fn is_virtual(&self) -> bool {
        false
    }

    /// Returns the time since the test bed was made; `None`: the time is real.
    fn elapsed(&self) -> Option<Duration> {
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

#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<dyn TimeSource>);

impl Clock {
    pub(crate) fn new(wall: impl TimeSource + 'static) -> Self {
        Self(Arc::new(wall))
    }

    pub(crate) fn is_virtual(&self) -> bool {
        self.0.is_virtual()
    }

    /// Returns the time since the test bed was made; `None`: the time is real.
    pub(crate) fn virtual_elapsed(&self) -> Option<Duration> {
        self.0.elapsed()
    }

    pub(crate) fn wall_now(&self) -> SystemTime {
        self.0.now()
    }

    /// Returns the wall-clock time of an instant in the past or future.
    pub(crate) fn wall(&self, instant: Instant) -> SystemTime {
        let now = Instant::now();
        let wall = self.wall_now();
        if instant >= now {
            wall.checked_add(instant - now).unwrap_or(wall)
        } else {
            wall.checked_sub(now - instant).unwrap_or(wall)
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemClock)
    }
}
