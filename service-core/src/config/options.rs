//! [`Options`]: the effective options of one service, plain data, every time a [`Duration`]; and [`ServiceOptions`], by
//! which code sets them for a service that it registers by hand.
//!
//! How the layers become these values is `config`'s business. Nothing here parses or checks.

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::layers::{Layer, Origin};
use super::secrets::is_secret;
use super::values::{SettingValue, Value, list};
use crate::schedule::{CatchUp, RateLimit, Schedule};

/// The effective options of one service. The defaults are those of the attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// When it runs. Default: every 60 s.
    pub(crate) schedule: Schedule,
    /// Wait before the first run. Default: none.
    pub(crate) initial_delay: Duration,
    /// Up to this much is added at random to each scheduled wait. Default: none.
    pub(crate) jitter: Duration,
    /// Consecutive failures that are retried. Default: 3.
    pub(crate) max_failures: u32,
    /// Wait after a failure. Default: 5 s.
    pub(crate) retry_delay: Duration,
    /// Factor on the wait for each further consecutive failure. Default: 1.
    pub(crate) retry_backoff: f64,
    /// Cap of the wait after a failure. Default: 300 s.
    pub(crate) max_retry_delay: Duration,
    /// A longer run is cancelled and counts as a failure. Default: none.
    pub(crate) timeout: Option<Duration>,
    /// How long the run in flight may go on after a stop. Default: 30 s.
    pub(crate) drain_timeout: Duration,
    /// Fresh instances after `failed`. Default: none.
    pub(crate) restart: Option<Restart>,
    /// When it is `failed` for good, the whole registry shuts down. Default: no.
    pub(crate) critical: bool,
    /// Ids of the services that are started before and stopped after this one. Default: none.
    pub(crate) depends_on: Vec<String>,
    /// How many permits a time it may take. Default: no limit.
    pub(crate) rate_limit: Option<RateLimit>,
    /// `false`: registered, not started. Default: `true`.
    pub(crate) enabled: bool,
    /// Who it acts as, where that is not the registry's own. Only code sets it. Default: none.
    pub(crate) requester_id: Option<String>,
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

/// When a `failed` service gets a fresh instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// Wait before the fresh instance. Default: 60 s.
    pub(crate) delay: Duration,
    /// At most this many within `window`. Default: 5.
    pub(crate) max: u32,
    /// The time in which restarts are counted. Default: 600 s.
    pub(crate) window: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self { delay: Duration::from_secs(60), max: 5, window: Duration::from_secs(600) }
    }
}

/// Options that code gives a service, in a layer just above the attribute and below `services.toml`.
///
/// ```
/// use std::time::Duration;
///
/// use service_core::ServiceOptions;
///
/// let options = ServiceOptions::new().interval(Duration::from_secs(30)).restart_on_failure();
/// ```
#[derive(Clone)]
#[must_use = "options do nothing before a service is registered with them"]
pub struct ServiceOptions {
    pub(crate) entries: Vec<(Cow<'static, str>, Value)>,
    pub(crate) requester_id: Option<String>,
    pub(crate) location: &'static Location<'static>,
}

impl ServiceOptions {
    /// Options that set nothing yet.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "explanations name the place of the call")]
    pub fn new() -> Self {
        Self { entries: Vec::new(), requester_id: None, location: Location::caller() }
    }

    /// Where code made them.
    pub(crate) fn origin(&self) -> Arc<Origin> {
        Origin::new(Layer::Code, format!("ServiceOptions at {}:{}", self.location.file(), self.location.line()))
    }

    /// These and others; where both set a key, the others win.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.entries.extend(others.entries);
        self.requester_id = others.requester_id.or(self.requester_id);
        self
    }

    /// One of the service's own settings. A dot leads into a table: `"smtp.host"`.
    pub fn setting(self, key: impl Into<String>, value: impl Into<SettingValue>) -> Self {
        self.with(key.into(), value.into().0)
    }

    fn with(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.entries.push((key.into(), value.into()));
        self
    }

    /// Start-to-start time on a fixed grid, above zero. Default: 60 s.
    pub fn interval(self, time: Duration) -> Self {
        self.with("interval", time)
    }

    /// End-to-start time, above zero, instead of an interval.
    pub fn delay(self, time: Duration) -> Self {
        self.with("delay", time)
    }

    /// A cron schedule instead of an interval: five fields, minutes first, or six with seconds.
    ///
    /// Where clocks are changed, a fixed time that is jumped over fires at the jump's end (several of them once), and one
    /// that comes twice fires the first time. What says "every" (`*`, `*/15`) goes by the clock as it is.
    pub fn cron(self, expression: impl Into<String>) -> Self {
        self.with("cron", expression.into())
    }

    /// The cron schedule's time zone, by its IANA name. Default: `UTC`.
    pub fn timezone(self, name: impl Into<String>) -> Self {
        self.with("timezone", name.into())
    }

    /// What happens to cron fires that were missed while the process was down. Default: nothing.
    pub fn catch_up(self, catch_up: CatchUp) -> Self {
        self.with("catch_up", catch_up.word())
    }

    /// Wait before the first run. Default: none.
    pub fn initial_delay(self, time: Duration) -> Self {
        self.with("initial_delay", time)
    }

    /// Up to this much is added at random to each scheduled wait. Default: none.
    pub fn jitter(self, time: Duration) -> Self {
        self.with("jitter", time)
    }

    /// Consecutive failures that are retried; one more and the service is failed. Default: 3.
    pub fn max_failures(self, failures: u32) -> Self {
        self.with("max_failures", failures)
    }

    /// Wait after a failure, before the retry. Default: 5 s.
    pub fn retry_delay(self, time: Duration) -> Self {
        self.with("retry_delay", time)
    }

    /// Factor, from 1, on the wait for each further consecutive failure. Default: 1.
    pub fn retry_backoff(self, factor: f64) -> Self {
        self.with("retry_backoff", factor)
    }

    /// Cap of the wait after a failure. Default: 300 s.
    pub fn max_retry_delay(self, time: Duration) -> Self {
        self.with("max_retry_delay", time)
    }

    /// A longer run is cancelled and counts as a failure; above zero. Default: none.
    pub fn timeout(self, time: Duration) -> Self {
        self.with("timeout", time)
    }

    /// How long the run in flight may go on after a stop before it is aborted. Default: 30 s.
    pub fn drain_timeout(self, time: Duration) -> Self {
        self.with("drain_timeout", time)
    }

    /// After `failed`, a fresh instance. Default: never.
    pub fn restart_on_failure(self) -> Self {
        self.with("restart", "on_failure")
    }

    /// After `failed`, nothing: takes back the attribute's `restart`.
    pub fn never_restart(self) -> Self {
        self.with("restart", "never")
    }

    /// Wait before a fresh instance. Default: 60 s. Goes with [`restart_on_failure`](Self::restart_on_failure).
    pub fn restart_delay(self, time: Duration) -> Self {
        self.with("restart_delay", time)
    }

    /// At most this many fresh instances in the window. Default: 5.
    pub fn max_restarts(self, restarts: u32) -> Self {
        self.with("max_restarts", restarts)
    }

    /// The time in which fresh instances are counted, above zero. Default: 600 s.
    pub fn restart_window(self, time: Duration) -> Self {
        self.with("restart_window", time)
    }

    /// Whether the whole registry shuts down when this service is failed for good. Default: `false`.
    pub fn critical(self, critical: bool) -> Self {
        self.with("critical", critical)
    }

    /// Ids of services that are started before and stopped after this one; they replace the attribute's. Default: none.
    pub fn depends_on<I: AsRef<str>>(self, ids: impl IntoIterator<Item = I>) -> Self {
        self.with("depends_on", list(ids.into_iter().map(|id| Value::Str(id.as_ref().to_owned()))))
    }

    /// So many permits a time: `"10/s"`, `"600/m"`. Default: no limit.
    pub fn rate_limit(self, limit: impl Into<String>) -> Self {
        self.with("rate_limit", limit.into())
    }

    /// `false`: registered, not started. Default: `true`.
    pub fn enabled(self, enabled: bool) -> Self {
        self.with("enabled", enabled)
    }

    /// Who the service acts as. Default: the registry's.
    pub fn requester_id(mut self, id: impl Into<String>) -> Self {
        self.requester_id = Some(id.into());
        self
    }
}

impl fmt::Debug for ServiceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Own settings may be secrets.
        f.debug_map()
            .entries(self.entries.iter().map(|(key, value)| (key, value.show(is_secret(key)))))
            .entries(self.requester_id.iter().map(|id| ("requester_id", id)))
            .finish()
    }
}
