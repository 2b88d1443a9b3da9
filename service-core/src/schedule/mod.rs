//! When a service runs: pure arithmetic on instants and calendar times, without a clock and without a task.

pub(crate) mod cron;
mod interval;

pub(crate) use interval::{Grid, later};

use std::time::Duration;

/// A wait that never ends: 30 years, so that sums do not overflow.
pub(crate) const NEVER: Duration = Duration::from_secs(86_400 * 365 * 30);

/// When a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// From the start of a run to the start of the next, on a fixed grid.
    Interval(Duration),
    /// From the end of a run to the start of the next.
    Delay(Duration),
    /// By wall-clock time.
    Cron(CronSchedule),
    /// Only when woken or requested.
    OnDemand,
    /// One run that continues until a stop is requested (`run`).
    LongRun(LongRun),
}

/// The options of a service with `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LongRun {
    /// A run that reports no progress for this long is cancelled. Default: no limit.
    pub(crate) idle_timeout: Option<Duration>,
    /// What follows a run that ends without an error and without a stop.
    pub(crate) on_end: OnEnd,
    /// After this long in one run, earlier failures no longer count. Default: 60 s.
    pub(crate) stable_after: Duration,
    pub(crate) readiness: Readiness,
}

impl Default for LongRun {
    fn default() -> Self {
        Self {
            idle_timeout: None,
            on_end: OnEnd::default(),
            stable_after: Duration::from_secs(60),
            readiness: Readiness::default(),
        }
    }
}

/// What follows a `run` that returns without an error although no stop was requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnEnd {
    /// The work is done: the service stops.
    #[default]
    Stop,
    /// It runs again after `retry_delay`.
    Again,
    /// The whole registry shuts down.
    Shutdown,
}

impl OnEnd {
    /// The word for it in the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Again => "again",
            Self::Shutdown => "shutdown",
        }
    }
}

/// When a service with `run` is ready, so that services which depend on it start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// When its instance has been built.
    #[default]
    Built,
    /// At its first call of `cx.ready()`.
    Explicit,
}

impl Readiness {
    /// The word for it in the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Built => "built",
            Self::Explicit => "explicit",
        }
    }
}

impl Schedule {
    /// Returns the cron schedule, if fires that were missed while the process was down are made up.
    pub(crate) fn caught_up(&self) -> Option<&CronSchedule> {
        match self {
            Self::Cron(cron) if cron.catch_up != CatchUp::None => Some(cron),
            _ => None,
        }
    }
}

/// A cron schedule, as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CronSchedule {
    /// The expression, such as `0 3 * * *`.
    pub(crate) expression: String,
    /// The time zone's IANA name. Default: `UTC`.
    pub(crate) timezone: String,
    /// What happens to fires that were missed while the process was down.
    pub(crate) catch_up: CatchUp,
}

impl CronSchedule {
    /// Returns the expression and the time zone. Schedules with different texts have different fires.
    pub(crate) fn text(&self) -> String {
        let fields: Vec<&str> = self.expression.split_whitespace().chain([&*self.timezone]).collect();
        fields.join(" ")
    }
}

/// What happens to cron fires that were missed while no process was up. Four kinds of fires do not count as missed: those
/// during the run of a regular fire or during a suspend, those during a manual stop, those during a pause, and those
/// before the present schedule took effect.
///
/// A fire counts as served when its run has succeeded, or was given up after `max_failures`; the database records that.
/// If the process is killed during the run, the next process repeats the fire. Before the first start of a service
/// nothing counts as missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatchUp {
    /// Missed fires are skipped.
    #[default]
    None,
    /// One run follows for all missed fires. [`Context::scheduled_for`](crate::Context::scheduled_for) returns the
    /// latest fire.
    Latest,
    /// Every missed fire has its run, one after the other, at most the latest 1,000.
    All,
}

impl CatchUp {
    /// The word for it in the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Latest => "latest",
            Self::All => "all",
        }
    }
}

/// The limit of `cx.permit()`: at most `permits` in any period of length `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// The number of permits, above zero.
    pub(crate) permits: u32,
    /// The length of the period, above zero.
    pub(crate) per: Duration,
}
