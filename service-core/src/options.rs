//! [`Options`]: the effective options of one service, plain data, every time a [`Duration`]; and [`ServiceOptions`], by
//! which code sets them for a service that it registers by hand.
//!
//! How the layers become these values is `config`'s business. Nothing here parses or checks.

use std::time::Duration;

/// The effective options of one service. The defaults are those of the attribute.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// When it runs. Default: every 60 s.
    pub schedule: Schedule,
    /// Wait before the first run. Default: none.
    pub initial_delay: Duration,
    /// Up to this much is added at random to each scheduled wait. Default: none.
    pub jitter: Duration,
    /// Consecutive failures that are retried. Default: 3.
    pub max_failures: u32,
    /// Wait after a failure. Default: 5 s.
    pub retry_delay: Duration,
    /// Factor on the wait for each further consecutive failure. Default: 1.
    pub retry_backoff: f64,
    /// Cap of the wait after a failure. Default: 300 s.
    pub max_retry_delay: Duration,
    /// A longer run is cancelled and counts as a failure. Default: none.
    pub timeout: Option<Duration>,
    /// How long the run in flight may go on after a stop. Default: 30 s.
    pub drain_timeout: Duration,
    /// Fresh instances after `failed`. Default: none.
    pub restart: Option<Restart>,
    /// When it is `failed` for good, the whole registry shuts down. Default: no.
    pub critical: bool,
    /// Ids of the services that are started before and stopped after this one. Default: none.
    pub depends_on: Vec<String>,
    /// How many permits a time it may take. Default: no limit.
    pub rate_limit: Option<RateLimit>,
    /// `false`: registered, not started. Default: `true`.
    pub enabled: bool,
    /// Who it acts as, where that is not the registry's own. Only code sets it. Default: none.
    pub requester_id: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schedule: Schedule::Interval(Duration::from_secs(60)),
            initial_delay: Duration::ZERO,
            jitter: Duration::ZERO,
            max_failures: 3,
            retry_delay: Duration::from_secs(5),
            retry_backoff: 1.0,
            max_retry_delay: Duration::from_secs(300),
            timeout: None,
            drain_timeout: Duration::from_secs(30),
            restart: None,
            critical: false,
            depends_on: Vec::new(),
            rate_limit: None,
            enabled: true,
            requester_id: None,
        }
    }
}

/// When a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schedule {
    /// Start to start, on a fixed grid.
    Interval(Duration),
    /// End to start.
    Delay(Duration),
    /// By the clock on the wall.
    Cron(CronSchedule),
}

/// A cron schedule, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CronSchedule {
    /// The expression, such as `0 3 * * *`.
    pub expression: String,
    /// The time zone's IANA name. Default: `UTC`.
    pub timezone: String,
    /// What happens to fires that were missed while the process was down.
    pub catch_up: CatchUp,
}

/// What happens to cron fires that were missed while the process was down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatchUp {
    /// Nothing.
    #[default]
    None,
    /// The latest of them runs.
    Latest,
    /// All of them run.
    All,
}

/// When a `failed` service gets a fresh instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restart {
    /// Wait before the fresh instance. Default: 60 s.
    pub delay: Duration,
    /// At most this many within `window`. Default: 5.
    pub max: u32,
    /// The time in which restarts are counted. Default: 600 s.
    pub window: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self { delay: Duration::from_secs(60), max: 5, window: Duration::from_secs(600) }
    }
}

/// So many permits a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// Permits, above zero.
    pub permits: u32,
    /// The time they are for, above zero.
    pub per: Duration,
}
