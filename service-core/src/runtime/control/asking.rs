//! What handles, operators and the service itself may ask, and in which state: what cannot be had is refused at once, and
//! changes nothing.

use tokio::time::Instant;

use super::Control;
use crate::schedule::later;
use crate::service::error::Result;
use crate::service::state::ServiceState;

/// What may not be asked of a service in its present state.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} service `{service}`: {why}")]
#[non_exhaustive]
pub struct StateError {
    /// The service.
    pub service: String,
    /// What was asked: `start`, `pause`, …
    pub action: &'static str,
    /// The state in which it was asked.
    pub state: ServiceState,
    why: String,
}

/// When a stop gives up waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StopBy {
    /// The run in flight is aborted then at the latest.
    pub(crate) run: Option<Instant>,
    /// `cleanup` is aborted then at the latest.
    pub(crate) cleanup: Option<Instant>,
    /// The service's own code asked, and was the first to.
    pub(crate) by_itself: bool,
}

impl StopBy {
    fn or_sooner(self, other: Self) -> Self {
        let sooner = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            run: sooner(self.run, other.run),
            cleanup: sooner(self.cleanup, other.cleanup),
            by_itself: self.by_itself,
        }
    }
}

impl Control {
    pub(crate) fn refuse<T>(&self, service: &str, action: &'static str, why: impl Into<String>) -> Result<T> {
        let error = StateError { service: service.to_owned(), action, state: self.state, why: why.into() };
        Err(error.into())
    }

    /// Why it cannot be asked anything, where no task stands behind it.
    pub(crate) fn why_down(&self) -> &'static str {
        match self.state {
            ServiceState::Created => "it has not been started; `start` it first",
            ServiceState::Stopped => "it is stopped; `start` it first",
            ServiceState::Failed => "it has failed; `reset` starts it with a fresh instance",
            ServiceState::Draining => "it is stopping",
            _ if self.ending => "it is failing",
            _ => "it is running",
        }
    }

    /// Asks it to stop, or to hurry where it stops already. Says whether the state changed.
    pub(crate) fn ask_stop(&mut self, by: StopBy) -> bool {
        let drained = later(Instant::now(), self.options.drain_timeout);
        let by = by.or_sooner(StopBy { run: Some(drained), ..StopBy::default() });
        self.stop = Some(Box::new(self.stop.as_deref().map_or(by, |earlier| earlier.or_sooner(by))));
        self.wake();
        !self.ending && self.enter(ServiceState::Draining)
    }

    /// Asks for a run.
    pub(crate) fn ask_run(&mut self, service: &str) -> Result<()> {
        use ServiceState::{BackingOff, Paused, Running, Starting};
        match self.state {
            Running | Paused | BackingOff if !self.ending => {
                self.run_wanted = true;
                self.wake();
                Ok(())
            }
            Starting => self.refuse(service, "run", "it is still starting"),
            _ => self.refuse(service, "run", self.why_down()),
        }
    }

    /// Pauses it. Says whether the state changed.
    pub(crate) fn ask_pause(&mut self, service: &str, by_itself: bool) -> Result<bool> {
        use ServiceState::{BackingOff, Running, Starting};
        if self.paused {
            return self.refuse(service, "pause", "it is paused already");
        }
        match self.state {
            Running | BackingOff | Starting if !self.ending => {
                self.paused = true;
                self.paused_by_itself = by_itself;
                self.wake();
                if self.state == Starting {
                    // It becomes paused as soon as it is up.
                    return Ok(false);
                }
                Ok(self.enter(ServiceState::Paused))
            }
            _ => self.refuse(service, "pause", self.why_down()),
        }
    }

    /// Resumes it. Says whether the state changed.
    pub(crate) fn ask_resume(&mut self, service: &str) -> Result<bool> {
        if !self.paused || self.ending || self.state == ServiceState::Draining {
            let why = if self.state.is_running() && !self.ending && self.state != ServiceState::Draining {
                "it is not paused"
            } else {
                self.why_down()
            };
            return self.refuse(service, "resume", why);
        }
        if let Some(place) = self.held_by() {
            return self.refuse(service, "resume", format!("it is paused by {place}; take that back"));
        }
        self.paused = false;
        self.wake();
        if self.state == ServiceState::Starting {
            return Ok(false);
        }
        let backing_off = self.retrying && !self.in_flight;
        Ok(self.enter(if backing_off { ServiceState::BackingOff } else { ServiceState::Running }))
    }
}
