//! When a service runs: pure arithmetic on instants and calendar times, with no clock and no task.

pub(crate) mod cron;
mod interval;

pub(crate) use interval::{Grid, later};

use std::time::Duration;

/// When a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Start to start, on a fixed grid.
    Interval(Duration),
    /// End to start.
    Delay(Duration),
    /// By the clock on the wall.
    Cron(CronSchedule),
}

/// A cron schedule, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CronSchedule {
    /// The expression, such as `0 3 * * *`.
    pub(crate) expression: String,
    /// The time zone's IANA name. Default: `UTC`.
    pub(crate) timezone: String,
    /// What happens to fires that were missed while the process was down.
    pub(crate) catch_up: CatchUp,
}

/// What happens to cron fires that were missed while the process was down.
///
/// A fire counts as served once its run has ended well, which is remembered in the database: whoever is killed in the
/// middle of a run repeats it. Before the first start nothing was missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatchUp {
    /// Nothing.
    #[default]
    None,
    /// The latest of them stands for all, and runs.
    Latest,
    /// All of them run, one after the other; of more than 1,000 the latest 1,000.
    All,
}

impl CatchUp {
    /// Its word in the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Latest => "latest",
            Self::All => "all",
        }
    }
}

/// So many permits a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// Permits, above zero.
    pub(crate) permits: u32,
    /// The time they are for, above zero.
    pub(crate) per: Duration,
}
