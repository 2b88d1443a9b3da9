//! The registry's clock: tokio's for waiting, and the wall's for telling.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::time::Instant;

/// Maps tokio's instants to wall-clock time. Under test the wall moves with tokio's clock.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    base: Option<Mutex<(SystemTime, Instant)>>,
}

impl Clock {
    /// A wall clock that showed `wall` at `at` and moves with tokio's clock.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "only a test sets the wall clock"))]
    pub(crate) fn fixed(wall: SystemTime, at: Instant) -> Self {
        Self { base: Some(Mutex::new((wall, at))) }
    }

    /// Sets the wall clock, where it is a test's.
    #[cfg(feature = "testing")]
    pub(crate) fn set(&self, wall: SystemTime) {
        if let Some(base) = &self.base {
            *base.lock().unwrap_or_else(PoisonError::into_inner) = (wall, Instant::now());
        }
    }

    pub(crate) fn wall_now(&self) -> SystemTime {
        match &self.base {
            Some(base) => {
                let (wall, at) = *base.lock().unwrap_or_else(PoisonError::into_inner);
                wall + Instant::now().saturating_duration_since(at)
            }
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
