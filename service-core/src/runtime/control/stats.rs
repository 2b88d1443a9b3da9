//! [`Stats`]: what a service did so far.

use std::time::Duration;

use tokio::time::Instant;

use crate::schedule::later;

/// What a service did so far.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) runs: u64,
    pub(crate) processed: u64,
    pub(crate) errors: u32,
    pub(crate) restarts: u32,
    pub(crate) last_started: Option<Instant>,
    last_nanos: u64,
}

impl Stats {
    pub(crate) fn last_duration(&self) -> Duration {
        Duration::from_nanos(self.last_nanos)
    }

    pub(super) fn set_last_duration(&mut self, duration: Duration) {
        self.last_nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    }

    pub(crate) fn last_ended(&self) -> Option<Instant> {
        self.last_started.map(|started| later(started, self.last_duration()))
    }
}
