//! [`Options`]: the options of one service that are in effect, as plain data. [`ServiceOptions`]: the options that code
//! gives a service. Nothing here is parsed or checked.

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::layers::{Layer, Origin};
use super::secrets::is_secret;
use super::values::{SettingValue, Value, list};
use crate::schedule::{CatchUp, LongRun, OnEnd, RateLimit, Readiness, Schedule};

/// The options of one service that are in effect. The defaults are those of the attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// When it runs. Default: every 60 s.
    pub(crate) schedule: Schedule,
    /// Topics whose notifications make the next run due at once. Default: none.
    pub(crate) wake_on: Vec<String>,
    /// How many services of the type there are. Default: one.
    pub(crate) instances: u32,
    /// Wait before the first run. Default: none.
    pub(crate) initial_delay: Duration,
    /// Up to this much is added at random to each scheduled wait. Default: none.
    pub(crate) jitter: Duration,
    /// Consecutive failures that are retried. Default: 3.
    pub(crate) max_failures: u32,
    /// What follows when more runs fail. Default: it depends on the schedule, see [`Options::exhausted`].
    pub(crate) exhausted: Option<Exhausted>,
    /// Wait after a failure. Default: 5 s.
    pub(crate) retry_delay: Duration,
    /// Factor on the wait for each further consecutive failure. Default: 1.
    pub(crate) retry_backoff: f64,
    /// Cap of the wait after a failure. Default: 300 s.
    pub(crate) max_retry_delay: Duration,
    /// A longer run is cancelled and counts as a failure. Default: none.
    pub(crate) timeout: Option<Duration>,
    /// How long the current run may continue after a stop. Default: 30 s.
    pub(crate) drain_timeout: Duration,
    /// Restarts after `Failed`. Default: none.
    pub(crate) restart: Option<Restart>,
    /// Whether the whole registry shuts down when the service is `Failed` permanently. Default: no.
    pub(crate) critical: bool,
    /// Ids of the services that are started before and stopped after this one. Default: none.
    pub(crate) depends_on: Vec<String>,
    /// Whether the service is stopped after those that are not `stop_last`. Default: no.
    pub(crate) stop_last: bool,
    /// Names of the probes that the service needs. Default: none.
    pub(crate) needs: Vec<String>,
    /// The rate of `cx.permit()`. Default: no limit.
    pub(crate) rate_limit: Option<RateLimit>,
    /// `false`: registered, not started. Default: `true`.
    pub(crate) enabled: bool,
    /// Set if one replica at a time runs the service: how long its lease lasts. Default: every process runs it.
    pub(crate) lease: Option<Duration>,
}

/// The `lease` of a service with `scope = "cluster"`.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(30);

impl Default for Options {
    fn default() -> Self {
        Self {
            schedule: Schedule::Interval(Duration::from_secs(60)),
            wake_on: Vec::new(),
            instances: 1,
            initial_delay: Duration::ZERO,
            jitter: Duration::ZERO,
            max_failures: 3,
            exhausted: None,
            retry_delay: Duration::from_secs(5),
            retry_backoff: 1.0,
            max_retry_delay: Duration::from_secs(300),
            timeout: None,
            drain_timeout: Duration::from_secs(30),
            restart: None,
            critical: false,
            depends_on: Vec::new(),
            stop_last: false,
            needs: Vec::new(),
            rate_limit: None,
            enabled: true,
            lease: None,
        }
    }
}

/// As `max_failures`: any number of failures is retried.
pub(crate) const UNLIMITED: u32 = u32::MAX;

impl Options {
    /// What follows a failure after `max_failures`. By default, a service that waits for its next cron fire or wake-up
    /// does not fail.
    pub(crate) fn exhausted(&self) -> Exhausted {
        self.exhausted.unwrap_or(match self.schedule {
            Schedule::Cron(_) | Schedule::OnDemand => Exhausted::NextRun,
            Schedule::Interval(_) | Schedule::Delay(_) | Schedule::LongRun(_) => Exhausted::Fail,
        })
    }

    /// The options of a service with `run`.
    pub(crate) fn long_run(&self) -> Option<&LongRun> {
        match &self.schedule {
            Schedule::LongRun(long) => Some(long),
            _ => None,
        }
    }

    /// Returns `max_failures`, or `None` if any number is retried.
    pub(crate) fn failure_limit(&self) -> Option<u32> {
        Some(self.max_failures).filter(|max| *max != UNLIMITED)
    }
}

/// What follows a failure after `max_failures`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exhausted {
    /// The service is `Failed`.
    Fail,
    /// The run is given up: no more retries. The service waits for its next regular run, which starts with a count of 0.
    NextRun,
}

impl Exhausted {
    /// The word for it in the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::NextRun => "next_run",
        }
    }
}

/// Which processes run a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceScope {
    /// Every process.
    #[default]
    Process,
    /// One of all replicas on one database; the others stand by. Needs the feature `cluster` and a database.
    Cluster,
}

impl ServiceScope {
    /// The word for it in the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Cluster => "cluster",
        }
    }
}

/// Restarts of a service that is `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// Wait before a restart. Default: 60 s.
    pub(crate) delay: Duration,
    /// Maximum of restarts within `window`. Default: 5.
    pub(crate) max: u32,
    /// The time in which restarts are counted. Default: 600 s.
    pub(crate) window: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self { delay: Duration::from_secs(60), max: 5, window: Duration::from_secs(600) }
    }
}

/// A value that code sets.
#[derive(Clone)]
pub(crate) struct CodeEntry {
    pub(crate) key: Cow<'static, str>,
    pub(crate) value: Value,
    /// The call of `new`: its place, and its number among those for one service. A later one overrides an earlier one.
    pub(crate) location: &'static Location<'static>,
    pub(crate) call: usize,
}

/// Options that code gives a service. They override the attribute, and `services.toml` overrides them. Of two calls of
/// one method, the later one applies.
///
/// A wrong value (a zero interval, two kinds of schedule, `cron` without its feature) is an error of
/// [`build`](crate::RegistryBuilder::build), or of the awaited [`Register`](crate::Register). So are options that do
/// not fit. A service with `run` has no schedule, `wake_on`, `initial_delay`, `jitter`, `exhausted` and `timeout`. One
/// with `update` has no `idle_timeout`, `on_end`, `stable_after` and `readiness`.
///
/// ```
/// use std::time::Duration;
///
/// use service_core::prelude::*;
///
/// let options = ServiceOptions::new().interval(Duration::from_secs(30)).max_failures(5);
/// let builder = ServiceRegistry::builder().options_of("email_sender", options);
/// # let _ = builder;
/// ```
#[derive(Clone)]
#[must_use = "options do nothing before a service is registered with them"]
pub struct ServiceOptions {
    pub(crate) entries: Vec<CodeEntry>,
    pub(crate) requester_id: Option<String>,
    pub(crate) location: &'static Location<'static>,
}

impl ServiceOptions {
    /// Returns options that set nothing.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "explanations name the place of the call")]
    pub fn new() -> Self {
        Self { entries: Vec::new(), requester_id: None, location: Location::caller() }
    }

    /// The place of a value.
    pub(crate) fn origin_at(location: &Location<'_>) -> Arc<Origin> {
        Origin::new(Layer::Code, format!("ServiceOptions at {}:{}", location.file(), location.line()))
    }

    /// Whether this key is set.
    pub(crate) fn sets(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Sets one of the service's own settings. A dot separates a table and its key: `"smtp.host"`.
    pub fn setting(self, key: impl Into<String>, value: impl Into<SettingValue>) -> Self {
        self.with(key.into(), value.into().0)
    }

    fn with(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        let call = self.entries.last().map_or(0, |last| last.call);
        self.entries.push(CodeEntry { key: key.into(), value: value.into(), location: self.location, call });
        self
    }

    /// Sets the time from start to start on a fixed grid, above zero. Default: 60 s.
    pub fn interval(self, time: Duration) -> Self {
        self.with("interval", time)
    }

    /// Sets the time from end to start, above zero, instead of an interval.
    pub fn delay(self, time: Duration) -> Self {
        self.with("delay", time)
    }

    /// Sets a cron schedule instead of an interval, such as `"0 3 * * *"`: minute, hour, day of the month, month and
    /// day of the week, in the time zone UTC by default. Six fields begin with the seconds. Needs the feature `cron`.
    ///
    /// When clocks change, a fixed time that is skipped fires at the end of the gap (several of them fire once), and a
    /// fixed time that occurs twice fires the first time. Expressions with "every" (`*`, `*/15`) follow the clock.
    pub fn cron(self, expression: impl Into<String>) -> Self {
        self.with("cron", expression.into())
    }

    /// Sets the time zone of the cron schedule, by its IANA name. Default: `UTC`. Needs [`cron`](Self::cron).
    pub fn timezone(self, name: impl Into<String>) -> Self {
        self.with("timezone", name.into())
    }

    /// Sets which cron fires are made up that were missed while no process was up. Default: none. Needs
    /// [`cron`](Self::cron), and a database, except [`CatchUp::None`].
    pub fn catch_up(self, catch_up: CatchUp) -> Self {
        self.with("catch_up", catch_up.word())
    }

    /// Sets no schedule: the service runs only when it is woken ([`wake_on`](Self::wake_on),
    /// [`ServiceHandle::wake`](crate::ServiceHandle::wake)) or requested. `false`: an interval, unless another schedule
    /// is set.
    pub fn on_demand(self, on_demand: bool) -> Self {
        self.with("on_demand", on_demand)
    }

    /// Sets the topics whose notifications make the next run due at once, in addition to the schedule. Default: none. A
    /// topic has 1 to 100 letters, digits and `_`, `-`, `.`, `:`, `/`.
    pub fn wake_on<T: AsRef<str>>(self, topics: impl IntoIterator<Item = T>) -> Self {
        self.with("wake_on", list(topics.into_iter().map(|topic| Value::Str(topic.as_ref().to_owned()))))
    }

    /// Sets how many services of this type the builder registers, from 1 to 10,000. More than one have the ids
    /// `packer_1`, `packer_2`, and so on. Default: 1. For [`options_of`](crate::RegistryBuilder::options_of) only.
    pub fn instances(self, count: u32) -> Self {
        self.with("instances", count)
    }

    /// Sets the wait before the first run. Default: none.
    pub fn initial_delay(self, time: Duration) -> Self {
        self.with("initial_delay", time)
    }

    /// Adds up to this much at random to each scheduled wait. Default: none.
    pub fn jitter(self, time: Duration) -> Self {
        self.with("jitter", time)
    }

    /// Sets how many consecutive failures are retried; after one more, [`exhausted`](Self::exhausted) applies. Default: 3.
    pub fn max_failures(self, failures: u32) -> Self {
        self.with("max_failures", failures)
    }

    /// Retries any number of consecutive failures.
    pub fn unlimited_failures(self) -> Self {
        self.with("max_failures", "unlimited")
    }

    /// Sets what follows a failure after `max_failures`. Default: [`Exhausted::Fail`]; with a cron schedule and on
    /// demand [`Exhausted::NextRun`].
    pub fn exhausted(self, exhausted: Exhausted) -> Self {
        self.with("exhausted", exhausted.word())
    }

    /// Sets the wait after a failure, before the retry. Default: 5 s.
    pub fn retry_delay(self, time: Duration) -> Self {
        self.with("retry_delay", time)
    }

    /// Sets the factor, at least 1, on that wait for each further consecutive failure. Default: 1.
    pub fn retry_backoff(self, factor: f64) -> Self {
        self.with("retry_backoff", factor)
    }

    /// Sets the maximum of that wait. Default: 300 s.
    pub fn max_retry_delay(self, time: Duration) -> Self {
        self.with("max_retry_delay", time)
    }

    /// Sets the limit of a run, above zero: a longer run is cancelled and counts as a failure. Default: none.
    pub fn timeout(self, time: Duration) -> Self {
        self.with("timeout", time)
    }

    /// Sets how long the current run may continue after a stop before it is aborted. Default: 30 s.
    pub fn drain_timeout(self, time: Duration) -> Self {
        self.with("drain_timeout", time)
    }

    /// Starts a fresh instance after `Failed`. Default: never.
    pub fn restart_on_failure(self) -> Self {
        self.with("restart", "on_failure")
    }

    /// Starts no instance after `Failed`, whatever the attribute says.
    pub fn never_restart(self) -> Self {
        self.with("restart", "never")
    }

    /// Sets the wait before a restart. Default: 60 s. Needs [`restart_on_failure`](Self::restart_on_failure).
    pub fn restart_delay(self, time: Duration) -> Self {
        self.with("restart_delay", time)
    }

    /// Sets the maximum of restarts in the window. Default: 5. Needs [`restart_on_failure`](Self::restart_on_failure).
    pub fn max_restarts(self, restarts: u32) -> Self {
        self.with("max_restarts", restarts)
    }

    /// Sets the time in which restarts are counted, above zero. Default: 600 s. Needs
    /// [`restart_on_failure`](Self::restart_on_failure).
    pub fn restart_window(self, time: Duration) -> Self {
        self.with("restart_window", time)
    }

    /// Sets whether the whole registry shuts down when the service is `Failed` permanently. Default: `false`.
    pub fn critical(self, critical: bool) -> Self {
        self.with("critical", critical)
    }

    /// Sets the ids of the services that are started before this one and stopped after it, in place of those of the
    /// attribute. Default: none.
    pub fn depends_on<I: AsRef<str>>(self, ids: impl IntoIterator<Item = I>) -> Self {
        self.with("depends_on", list(ids.into_iter().map(|id| Value::Str(id.as_ref().to_owned()))))
    }

    /// Sets whether the service is stopped after every service that is not `stop_last`, with the services that it
    /// depends on. Default: `false`.
    pub fn stop_last(self, last: bool) -> Self {
        self.with("stop_last", last)
    }

    /// Sets the names of the probes that the service needs ([`RegistryBuilder::probe`](crate::RegistryBuilder::probe)):
    /// while one of them fails, failures of the service do not exhaust it. Default: none.
    pub fn needs<N: AsRef<str>>(self, probes: impl IntoIterator<Item = N>) -> Self {
        self.with("needs", list(probes.into_iter().map(|name| Value::Str(name.as_ref().to_owned()))))
    }

    /// Sets how long a `run` may report no progress ([`Context::heartbeat`](crate::Context::heartbeat) and similar
    /// calls), above zero, before it is cancelled as a failure. Default: no limit.
    pub fn idle_timeout(self, time: Duration) -> Self {
        self.with("idle_timeout", time)
    }

    /// Sets what follows a `run` that returns without an error although no stop was requested. Default:
    /// [`OnEnd::Stop`].
    pub fn on_end(self, on_end: OnEnd) -> Self {
        self.with("on_end", on_end.word())
    }

    /// Sets after how long in one `run` earlier failures no longer count. Default: 60 s.
    pub fn stable_after(self, time: Duration) -> Self {
        self.with("stable_after", time)
    }

    /// Sets when a service with `run` is ready. Default: [`Readiness::Built`].
    pub fn readiness(self, readiness: Readiness) -> Self {
        self.with("readiness", readiness.word())
    }

    /// Sets the rate of [`Context::permit`](crate::Context::permit): `"10/s"`, `"600/m"`. Default: no limit.
    pub fn rate_limit(self, limit: impl Into<String>) -> Self {
        self.with("rate_limit", limit.into())
    }

    /// Sets whether the service is started. Default: `true`.
    pub fn enabled(self, enabled: bool) -> Self {
        self.with("enabled", enabled)
    }

    /// Sets whether every process runs the service, or one replica at a time. Default: [`ServiceScope::Process`].
    pub fn scope(self, scope: ServiceScope) -> Self {
        self.with("scope", scope.word())
    }

    /// Sets how long a replica that gets no answer of the database keeps the service, at least 1 s. Default: 30 s.
    /// Needs [`ServiceScope::Cluster`].
    pub fn lease(self, time: Duration) -> Self {
        self.with("lease", time)
    }

    /// Sets the requester id of the service. Default: that of the registry.
    pub fn requester_id(mut self, id: impl Into<String>) -> Self {
        self.requester_id = Some(id.into());
        self
    }
}

impl fmt::Debug for ServiceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Own settings may be secrets.
        f.debug_map()
            .entries(
                self.entries
                    .iter()
                    .map(|CodeEntry { key, value, .. }| (key, value.show(key.split('.').any(is_secret)))),
            )
            .entries(self.requester_id.iter().map(|id| ("requester_id", id)))
            .finish()
    }
}
