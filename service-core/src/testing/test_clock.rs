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
    started: Instant,
}

impl TestClock {
    pub(super) fn at(wall: SystemTime) -> Self {
        let now = Instant::now();
        Self { set: Arc::new(Mutex::new((wall, now))), started: now }
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

    fn elapsed(&self) -> Option<Duration> {
        Some(Instant::now().saturating_duration_since(self.started))
    }
}
