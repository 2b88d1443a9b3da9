//! [`Requests`]: what handles, operators and the service's own code request from its loop. Only they set these fields; the
//! loop clears the requests that are served once.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::Resolved;
use crate::config::options::Options;
use crate::schedule::later;
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;

/// The error of a call that the service's state does not allow. The call changed nothing.
///
/// Methods of [`ServiceHandle`](crate::ServiceHandle) and [`run_once`](crate::ServiceRegistry::run_once) return it
/// inside an [`Error`](crate::Error): `error.find::<StateError>()`. Two cases have another error: the start of a
/// ready-made instance that has ended, and a requested run whose service ends before it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} service `{service}`: {why}")]
#[non_exhaustive]
pub struct StateError {
    /// The id of the service.
    pub service: String,
    /// The call: `start`, `pause`, …
    pub action: &'static str,
    /// The state of the service at the time of the call.
    pub state: ServiceState,
    pub(super) why: String,
}

/// A stop and its deadlines.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StopRequest {
    /// When the current run is aborted at the latest.
    pub(crate) run: Option<Instant>,
    /// When `cleanup` is aborted at the latest. Only a shutdown sets this.
    pub(crate) cleanup: Option<Instant>,
    /// When the service has to have ended: what follows `cleanup` has the time until then.
    pub(crate) end: Option<Instant>,
    /// The service's own code requested the stop first.
    pub(crate) by_itself: bool,
    /// When the stop was requested.
    pub(crate) since: Option<Instant>,
}

impl StopRequest {
    /// The stop that the service's own code requests.
    pub(crate) fn by_itself() -> Self {
        Self { by_itself: true, ..Self::default() }
    }

    /// Whether the registry shuts down: then the process is about to end, too.
    pub(crate) fn is_shutdown(&self) -> bool {
        self.cleanup.is_some()
    }

    /// The stop of services that belong to the instance of one with this stop. In a shutdown, their deadline leaves
    /// time for the `cleanup` of that instance, which follows.
    pub(crate) fn of_children(&self) -> Self {
        let now = Instant::now();
        let left = self.cleanup.map(|cleanup| cleanup.saturating_duration_since(now));
        Self {
            run: left.map(|left| later(now, left.mul_f64(0.8))),
            cleanup: left.map(|left| later(now, left.mul_f64(0.9))),
            end: self.end,
            ..Self::default()
        }
    }

    /// Joins two stops: the earlier deadlines count.
    pub(super) fn or_sooner(self, other: Self) -> Self {
        let sooner = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            run: sooner(self.run, other.run),
            cleanup: sooner(self.cleanup, other.cleanup),
            end: sooner(self.end, other.end),
            by_itself: self.by_itself,
            since: sooner(self.since, other.since),
        }
    }
}

/// Whose call paused the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PausedBy {
    Handle,
    Itself,
}

/// A pause by an operator override, or by a row of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OverridePause {
    /// The row, as text.
    pub(crate) place: Box<str>,
    /// When it was set, if that is recorded.
    pub(crate) since: Option<SystemTime>,
}

/// Why a fresh instance replaces the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rebuild {
    /// The service's own settings have changed.
    Settings,
    /// `reset` was called from within the run.
    Reset,
}

/// Callers that wait for the report of a run.
pub(crate) type Waiters = Vec<oneshot::Sender<RunReport>>;

/// What the service's code has reported by `cx.ready`, `cx.heartbeat`, `cx.processed` and `cx.failed`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) processed: u64,
    /// Items that failed individually.
    pub(crate) failed: u64,
    /// When the code last reported something.
    pub(crate) last: Option<Instant>,
    /// `cx.ready` was called in this incarnation.
    pub(crate) ready: bool,
}

/// A closure of the service's code, to be called once when a stop is requested.
pub(crate) struct StopHook {
    /// The run that registered it; `None`: the instance.
    pub(crate) run: Option<u64>,
    pub(crate) call: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for StopHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHook").field("run", &self.run).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) stop: Option<Box<StopRequest>>,
    pub(crate) paused: Option<PausedBy>,
    /// The operator override that pauses the service.
    pub(crate) paused_by_override: Option<Box<OverridePause>>,
    /// `run_now` was called. The loop clears it.
    pub(crate) run: bool,
    /// The service was woken: the next run is due now. The loop clears it.
    pub(crate) woken: bool,
    /// The service was woken since its start, and not only by the start itself.
    pub(crate) wake_requested: bool,
    /// Callers that wait for that run. The loop clears it.
    pub(crate) waiters: Waiters,
    /// A fresh instance was requested. The loop clears it.
    pub(crate) rebuild: Option<Rebuild>,
    /// The outage that the service waits for is over. The loop clears it.
    pub(crate) outage_over: bool,
    /// Items have failed or were left: the end of an outage makes a run due. The next claim clears it, unless rows are
    /// still left because of an outage.
    pub(crate) continues_after_outage: bool,
    /// The resolved configuration.
    pub(crate) resolved: Arc<Resolved>,
    /// The options in effect: those of the configuration, with the changes of the service itself. The loop detects a
    /// change by the pointer.
    pub(crate) options: Arc<Options>,
    /// What `cx.degraded` reported. `cx.ready` and the next run clear it.
    pub(crate) degraded: Option<Box<str>>,
    /// What the service's code has reported since the last run ended. The loop takes it.
    pub(crate) progress: Progress,
    /// A long run has to end by then, because the service was paused or gets a fresh instance. The loop clears it.
    pub(crate) interrupt: Option<Instant>,
    /// What the service's code registered by `cx.on_stop`. The loop takes it.
    pub(crate) on_stop: Vec<StopHook>,
    pub(crate) unregistered: bool,
}

impl Requests {
    pub(crate) fn new(resolved: Arc<Resolved>) -> Self {
        Self {
            stop: None,
            paused: None,
            paused_by_override: None,
            run: false,
            woken: false,
            wake_requested: false,
            waiters: Waiters::new(),
            rebuild: None,
            outage_over: false,
            continues_after_outage: false,
            options: resolved.options.clone(),
            resolved,
            degraded: None,
            progress: Progress::default(),
            interrupt: None,
            on_stop: Vec::new(),
            unregistered: false,
        }
    }

    /// Clears the requests to an earlier incarnation. A pause by an operator override stays.
    pub(crate) fn begin(&mut self) {
        self.stop = None;
        self.paused = None;
        self.run = false;
        (self.woken, self.wake_requested) = (false, false);
        self.rebuild = None;
        self.degraded = None;
        self.progress = Progress::default();
        self.interrupt = None;
        (self.outage_over, self.continues_after_outage) = (false, false);
    }

    /// Takes the closures that are to be called now: all of them when the instance ends, else those of the run.
    pub(crate) fn take_stop_hooks(&mut self, instance_ends: bool) -> Vec<StopHook> {
        if instance_ends {
            return std::mem::take(&mut self.on_stop);
        }
        self.on_stop.extract_if(.., |hook| hook.run.is_some()).collect()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some() || self.paused_by_override.is_some()
    }
}
