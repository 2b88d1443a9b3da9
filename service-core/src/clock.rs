//! The registry's clock: tokio's for waiting, and the wall's for telling.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Maps tokio's instants to wall-clock time. Under test the wall moves with tokio's clock.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    base: Option<(SystemTime, Instant)>,
}

impl Clock {
    /// A wall clock that showed `wall` at `at` and moves with tokio's clock.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "only a test sets the wall clock"))]
    pub(crate) fn fixed(wall: SystemTime, at: Instant) -> Self {
        Self { base: Some((wall, at)) }
    }

    pub(crate) fn wall_now(&self) -> SystemTime {
        match self.base {
            Some((wall, at)) => wall + Instant::now().saturating_duration_since(at),
            None => SystemTime::now(),
        }
    }

    /// The wall-clock time of an instant in the past or future.
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

/// A duration as people write it: `1h 30m`, `250ms`.
pub(crate) fn plain(duration: Duration) -> String {
    let rounded = if duration >= Duration::from_secs(10) {
        Duration::from_secs(duration.as_secs_f64().round() as u64)
    } else {
        Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    humantime::format_duration(rounded).to_string()
}
