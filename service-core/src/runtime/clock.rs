//! [`Clock`]: converts tokio's instants to wall-clock time.

use std::fmt;
use std::time::SystemTime;

use tokio::time::Instant;

/// A source of wall-clock time: by default the system's clock, in tests the one of the test bed.
pub(crate) trait TimeSource: fmt::Debug + Send + Sync {
    fn now(&self) -> SystemTime;

    /// Whether the time is that of a test.
    fn is_virtual(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct SystemClock;

impl TimeSource for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

#[derive(Debug)]
pub(crate) struct Clock(Box<dyn TimeSource>);

impl Clock {
    pub(crate) fn new(wall: impl TimeSource + 'static) -> Self {
        Self(Box::new(wall))
    }

    pub(crate) fn is_virtual(&self) -> bool {
        self.0.is_virtual()
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
