//! When a service runs: pure arithmetic on instants and calendar times, without a clock and without a task.

pub(crate) mod cron;
mod interval;

pub(crate) use interval::{Grid, later};

use std::time::Duration;

/// When a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// From the start of a run to the start of the next, on a fixed grid.
    Interval(Duration),
    /// From the end of a run to the start of the next.
    Delay(Duration),
    /// By wall-clock time.
    Cron(CronSchedule),
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
    #[allow(dead_code, reason = "without the feature `cron`, nothing is caught up")]
    pub(crate) fn text(&self) -> String {
        let fields: Vec<&str> = self.expression.split_whitespace().chain([&*self.timezone]).collect();
        fields.join(" ")
    }
}

/// What happens to cron fires that were missed while no process was up. Fires that a manual stop, a pause or another schedule
/// skips are not missed.
///
/// A fire counts as served when its run has succeeded; the database records that. If the process is killed during the
/// run, the next process repeats the fire. Before the first start of a service nothing counts as missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatchUp {
    /// Missed fires are skipped.
    #[default]
    None,
    /// One run makes up for all missed fires: the run of the latest one.
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
