//! [`Requests`]: what handles, operators and the service's own code ask of its loop. Only they fill these slots; the loop
//! empties those that are served once.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::Resolved;
use crate::config::options::Options;
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;

/// A call that the service's state does not allow. It changed nothing.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} service `{service}`: {why}")]
#[non_exhaustive]
pub struct StateError {
    /// The service.
    pub service: String,
    /// The call: `start`, `pause`, …
    pub action: &'static str,
    /// The state the service was in.
    pub state: ServiceState,
    pub(super) why: String,
}

/// A stop, and when it gives up waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StopRequest {
    /// The run in flight is aborted then at the latest.
    pub(crate) run: Option<Instant>,
    /// `cleanup` is aborted then at the latest.
    pub(crate) cleanup: Option<Instant>,
    /// The service's own code was the first to ask.
    pub(crate) by_itself: bool,
}

impl StopRequest {
    /// Both stops: the earlier deadline counts.
    pub(super) fn or_sooner(self, other: Self) -> Self {
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

/// Who paused the service by a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PausedBy {
    Handle,
    Itself,
}

/// Why a fresh instance is to replace the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rebuild {
    /// The service's own settings have changed.
    Settings,
    /// `reset` was called from within the run.
    Reset,
}

/// Those who wait for the report of a run.
pub(crate) type Waiters = Vec<oneshot::Sender<RunReport>>;

#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) stop: Option<Box<StopRequest>>,
    pub(crate) paused: Option<PausedBy>,
    /// The operator override that pauses the service.
    pub(crate) paused_by_override: Option<Box<str>>,
    /// A run that was asked for. The loop empties it.
    pub(crate) run: bool,
    /// Those who wait for that run. The loop empties it.
    pub(crate) waiters: Waiters,
    /// The loop empties it.
    pub(crate) rebuild: Option<Rebuild>,
    /// The outage that the service waits for is over. The loop empties it.
    pub(crate) outage_over: bool,
    /// The configuration, as it was resolved.
    pub(crate) resolved: Arc<Resolved>,
    /// The options in effect: those of the configuration, with what the service itself changed. The loop sees a change by
    /// the pointer.
    pub(crate) options: Arc<Options>,
    /// What `cx.degraded` reported. The loop empties it when the next run begins.
    pub(crate) degraded: Option<Box<str>>,
    pub(crate) unregistered: bool,
}

impl Requests {
    pub(crate) fn new(resolved: Arc<Resolved>) -> Self {
        Self {
            stop: None,
            paused: None,
            paused_by_override: None,
            run: false,
            waiters: Waiters::new(),
            rebuild: None,
            outage_over: false,
            options: resolved.options.clone(),
            resolved,
            degraded: None,
            unregistered: false,
        }
    }

    /// Forgets what was asked of an earlier incarnation. An override outlives it.
    pub(crate) fn begin(&mut self) {
        self.stop = None;
        self.paused = None;
        self.run = false;
        self.rebuild = None;
        self.degraded = None;
        self.outage_over = false;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some() || self.paused_by_override.is_some()
    }
}
