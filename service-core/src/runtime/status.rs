//! [`Status`]: what a service does and did. Only its loop writes it, after `start` has set the status that the loop begins
//! with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::runtime::cancelled_runs::CancelledRuns;
use crate::runtime::run_history::nanos;
use crate::schedule::cron::PlannedFire;
use crate::schedule::{Grid, later};
use crate::service::error::Error;
use crate::service::outcome::Outcome;

/// Why a loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Stopped,
    Failed,
    /// The work is done, and the registry shuts down (`on_end = "shutdown"`).
    Shutdown,
}

/// What the service does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Never started.
    Created,
    /// Waits for its dependencies, for its first instance or for its next regular run.
    Waiting,
    /// Another replica may run the service, and this one waits for its lease.
    Standby,
    /// Waits for a retry.
    BackingOff,
    /// Is in a run.
    InRun,
    /// Is in a run that blocks a thread.
    InBlockingRun,
    /// The loop has decided to end; the instance is being cleaned up.
    Ending(Exit),
    /// The loop has ended.
    Ended(Exit),
}

/// How far the start of this incarnation is. A later phase includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StartPhase {
    /// The caller of `start` waits.
    Pending,
    /// The caller of `start` need not wait longer, but the state is still `Starting`.
    Resolved,
    /// The service has left `Starting`, although it is not ready: its first attempt has failed.
    Attempted,
    /// The first instance has been built, or a long run has reported that it is ready.
    Ready,
}

/// What a service waits for, if not only for its next run.
#[derive(Clone, Debug)]
pub(crate) enum WaitReason {
    /// For these services, which are not ready yet.
    Dependencies(Box<[Arc<str>]>),
    /// For a blocking run that timed out and has not returned; and after that for this.
    BlockingRun(Option<Box<WaitReason>>),
    /// For the restart after a permanent failure.
    Restart,
    /// For its turn: as many services as may run at the same time do.
    Turn,
    /// For a retry of a failure that may come from an outage of these resources; the end of the outage ends the wait.
    Outage(Box<[Arc<str>]>),
}

impl WaitReason {
    /// The resources whose outage the service waits out.
    pub(crate) fn resources(&self) -> &[Arc<str>] {
        match self {
            Self::Outage(resources) => resources,
            Self::BlockingRun(Some(then)) => then.resources(),
            _ => &[],
        }
    }
}

/// The status that a service's loop writes and all others read.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// The number of starts so far; it identifies one loop of the service.
    pub(crate) incarnation: u32,
    /// How many instances of this incarnation have ended.
    pub(crate) ended_instances: u32,
    pub(crate) activity: Activity,
    pub(crate) start: StartPhase,
    /// This incarnation makes one run and ends.
    pub(crate) once: bool,
    /// The first attempt of this incarnation has failed.
    pub(crate) first_failed: bool,
    /// That failure may have come from an outage.
    pub(crate) first_suspected: bool,
    /// Consecutive failures that count towards `max_failures`.
    pub(crate) failures: u32,
    /// Consecutive failures, also those that `on_failure` ignored, since the last success.
    pub(crate) since_success: u32,
    /// A run was given up since the last success.
    pub(crate) given_up: bool,
    /// The current or last run has continued for `stable_after`.
    pub(crate) stable: bool,
    /// The code of these runs may still run.
    pub(crate) cancelled_runs: CancelledRuns,
    pub(crate) next_due: Option<Instant>,
    /// With a cron schedule, whose `next_due` is the next check of the wall clock: the fire that is planned, until its
    /// run begins.
    pub(crate) next_fire: Option<PlannedFire>,
    /// The loop waits only for `next_due` or a request.
    pub(crate) at_rest: bool,
    /// The grid of the schedule. Before the service is ready: the moment when its start began.
    pub(crate) grid: Grid,
    pub(crate) wait_reason: Option<Box<WaitReason>>,
    /// Since when an instance is being built.
    pub(crate) configuring_since: Option<Instant>,
    /// For `catch_up`: since when fires that come due are skipped, and not missed. The service is paused or was stopped
    /// by hand.
    pub(crate) skips_fires_since: Option<SystemTime>,
    /// When the loop of the previous incarnation ended, if there was one. By the wall clock, which goes on during a
    /// suspend and may be set.
    pub(crate) previous_end: Option<SystemTime>,
    /// The latest error; it stays after a success.
    pub(crate) last_error: Option<Error>,
    pub(crate) stats: Stats,
}

/// Totals since the service was registered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) runs: u64,
    pub(crate) processed: u64,
    /// Items that failed individually.
    pub(crate) failed: u64,
    pub(crate) errors: u64,
    pub(crate) restarts: u64,
    pub(crate) last_started: Option<Instant>,
    /// When the last successful run ended.
    pub(crate) last_success: Option<Instant>,
    /// How long the last run took.
    last_nanos: u64,
    /// When blocking code that had outlived its run returned.
    pub(crate) last_returned: Option<Instant>,
    /// Moving average of the durations of successful runs; zero before the first.
    mean_nanos: u64,
}

impl Status {
    /// The status of a service that was never started.
    pub(crate) fn created() -> Self {
        Self {
            incarnation: 0,
            ended_instances: 0,
            activity: Activity::Created,
            start: StartPhase::Pending,
            once: false,
            first_failed: false,
            first_suspected: false,
            failures: 0,
            since_success: 0,
            given_up: false,
            stable: false,
            cancelled_runs: CancelledRuns::default(),
            configuring_since: None,
            next_due: None,
            next_fire: None,
            at_rest: false,
            grid: Grid::new(Instant::now()),
            wait_reason: None,
            skips_fires_since: None,
            previous_end: None,
            last_error: None,
            stats: Stats::default(),
        }
    }

    /// Begins the next incarnation. Totals, the last error and the end of the previous incarnation are kept.
    pub(crate) fn begin(&mut self) {
        *self = Self {
            incarnation: self.incarnation.wrapping_add(1),
            activity: Activity::Waiting,
            previous_end: self.previous_end,
            last_error: self.last_error.take(),
            stats: std::mem::take(&mut self.stats),
            ..Self::created()
        };
    }

    /// Whether a loop runs the service.
    pub(crate) fn is_running(&self) -> bool {
        !matches!(self.activity, Activity::Created | Activity::Ended(_))
    }

    /// Records that the start has come at least this far.
    pub(crate) fn reach(&mut self, phase: StartPhase) {
        self.start = self.start.max(phase);
    }

    /// Whether the caller of `start` need not wait longer.
    pub(crate) fn is_start_resolved(&self) -> bool {
        self.start >= StartPhase::Resolved
    }

    /// Whether the service has left `Starting`.
    pub(crate) fn is_up(&self) -> bool {
        self.start >= StartPhase::Attempted
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.start == StartPhase::Ready
    }

    /// Whether the loop has decided to end.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.activity, Activity::Ending(_))
    }

    pub(crate) fn in_run(&self) -> bool {
        matches!(self.activity, Activity::InRun | Activity::InBlockingRun)
    }

    pub(crate) fn is_backing_off(&self) -> bool {
        self.activity == Activity::BackingOff
    }

    /// A run begins. Returns its number.
    #[inline]
    pub(crate) fn begin_run(&mut self, now: Instant) -> u64 {
        self.activity = Activity::InRun;
        self.next_due = None;
        self.wait_reason = None;
        self.stable = false;
        self.stats.runs += 1;
        self.stats.last_started = Some(now);
        self.stats.runs
    }

    /// The current run succeeded. Returns when it began and how long it took.
    #[inline]
    pub(crate) fn end_run(&mut self, outcome: Outcome, ended: Instant) -> (Instant, Duration) {
        let started = self.stats.last_started.unwrap_or(ended);
        let duration = ended.duration_since(started);
        self.activity = Activity::Waiting;
        self.stats.add(outcome.processed, outcome.failed);
        self.stats.learn(duration);
        self.succeeded(ended);
        (started, duration)
    }

    /// A run has succeeded, or a long one is stable: earlier failures no longer count.
    pub(crate) fn succeeded(&mut self, at: Instant) {
        self.failures = 0;
        self.since_success = 0;
        self.given_up = false;
        self.stats.last_success = Some(at);
    }

    /// The end of the current run was requested, and it has ended: neither a success nor a failure.
    pub(crate) fn end_as_requested(&mut self, ended: Instant) {
        self.activity = Activity::Waiting;
        self.stats.last_nanos = self.stats.last_started.map_or(0, |started| nanos(ended - started));
    }

    /// This replica may not run the service any more. The failures belonged to the lease.
    pub(crate) fn stand_by(&mut self) {
        self.activity = Activity::Standby;
        self.reach(StartPhase::Ready);
        (self.failures, self.since_success, self.given_up, self.stable) = (0, 0, false, false);
        self.next_due = None;
        self.skips_fires_since = None;
    }

    /// The current run failed, or (without a duration) an instance could not be built. Returns the previous error,
    /// which must be dropped outside the lock because dropping it is user code.
    #[must_use]
    pub(crate) fn end_failed(&mut self, error: &Error, duration: Option<Duration>) -> Option<Error> {
        if self.in_run() {
            self.activity = Activity::Waiting;
        }
        self.since_success = self.since_success.saturating_add(1);
        self.stats.errors = self.stats.errors.saturating_add(1);
        if let Some(duration) = duration {
            self.stats.last_nanos = nanos(duration);
        }
        self.last_error.replace(error.clone())
    }
}

impl Stats {
    pub(crate) fn add(&mut self, processed: u64, failed: u64) {
        self.processed = self.processed.saturating_add(processed);
        self.failed = self.failed.saturating_add(failed);
    }

    fn learn(&mut self, duration: Duration) {
        self.last_nanos = nanos(duration);
        let mean = self.mean_nanos;
        self.mean_nanos =
            if mean == 0 { self.last_nanos } else { mean.saturating_mul(4).saturating_add(self.last_nanos) / 5 };
    }

    pub(crate) fn last_duration(&self) -> Duration {
        Duration::from_nanos(self.last_nanos)
    }

    pub(crate) fn mean_duration(&self) -> Duration {
        Duration::from_nanos(self.mean_nanos)
    }

    /// When the last run ended, with its blocking code.
    pub(crate) fn last_ended(&self) -> Option<Instant> {
        let started = self.last_started?;
        let returned = self.last_returned.filter(|returned| *returned >= started);
        Some(later(started, self.last_duration())).max(returned)
    }
}
