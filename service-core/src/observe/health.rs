//! How a service is, judged against its own schedule while it happens.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::humanize;
use crate::runtime::clock::Clock;
use crate::runtime::control::{Control, Hold};
use crate::runtime::entry::Entry;
use crate::schedule::Schedule;
use crate::service::state::ServiceState;

/// How well a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// As it should be.
    Healthy,
    /// It goes on, but not as it should.
    Degraded,
    /// It does not do its work.
    Unhealthy,
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// How one service is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceHealth {
    /// The service.
    pub service_id: String,
    /// Its state.
    pub state: ServiceState,
    /// How well it is.
    pub status: HealthStatus,
    /// Why it is not healthy, or not running, in plain words.
    pub reason: Option<String>,
    /// Whether a task stands behind it: from `starting` to `draining`.
    pub running: bool,
    /// Whether it is paused, or will be as soon as it has started.
    pub paused: bool,
    /// Consecutive failures.
    pub failures: u32,
    /// Consecutive failures that are retried.
    pub max_failures: u32,
    /// Start of the last run.
    #[serde(with = "optional_rfc3339")]
    pub last_run: Option<SystemTime>,
    /// When the next run is due, while none is in flight.
    #[serde(with = "optional_rfc3339")]
    pub next_run: Option<SystemTime>,
    /// How long the last run that ended took, in milliseconds.
    pub last_run_duration_ms: Option<u64>,
    /// The latest error with its causes; it stays after a success.
    pub last_error: Option<String>,
    /// Items worked off since it was registered.
    pub total_processed: u64,
    /// Failures since it was registered.
    pub error_count: u64,
    /// Runs begun since it was registered.
    pub runs: u64,
    /// Fresh instances by `restart = "on_failure"`.
    pub restarts: u64,
    /// The service's own counters and gauges.
    pub metrics: BTreeMap<String, f64>,
}

/// How all services are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RegistryHealth {
    /// The worst of all.
    pub status: HealthStatus,
    /// Each, by id.
    pub services: Vec<ServiceHealth>,
}

impl RegistryHealth {
    pub(crate) fn new(services: Vec<ServiceHealth>) -> Self {
        let status = services.iter().map(|service| service.status).max().unwrap_or(HealthStatus::Healthy);
        Self { status, services }
    }

    /// The health of one service.
    pub fn get(&self, id: &str) -> Option<&ServiceHealth> {
        self.services.iter().find(|service| service.service_id == id)
    }
}

/// How a service is now.
pub(crate) fn of(entry: &Entry) -> ServiceHealth {
    let now = Instant::now();
    let clock = &entry.hub.clock;
    let metrics = entry.metrics_so_far();
    let control = entry.lock();
    let (status, reason) = judge(entry, &control, now);
    let stats = &control.stats;
    let ended = stats.runs > u64::from(control.in_flight);
    ServiceHealth {
        service_id: entry.id.to_string(),
        state: control.state(),
        status,
        reason,
        running: control.state().is_running(),
        paused: control.paused,
        failures: control.failures,
        max_failures: control.options.max_failures,
        last_run: stats.last_started.map(|at| clock.wall(at)),
        next_run: next_run(&control, clock),
        last_run_duration_ms: ended.then(|| u64::try_from(stats.last_duration().as_millis()).unwrap_or(u64::MAX)),
        last_error: control.last_error().map(|error| format!("{error:#}")),
        total_processed: stats.processed,
        error_count: u64::from(stats.errors),
        runs: stats.runs,
        restarts: u64::from(stats.restarts),
        metrics,
    }
}

fn next_run(control: &Control, clock: &Clock) -> Option<SystemTime> {
    let waits = matches!(control.state(), ServiceState::Running | ServiceState::BackingOff) && !control.in_flight;
    let due = control.next_due.filter(|_| waits)?;
    match &control.options.schedule {
        // What is due there is the next look at the clock on the wall.
        Schedule::Cron(cron) if !control.retrying => crate::schedule::cron::next(cron, not_before(control, clock)),
        _ => Some(clock.wall(due)),
    }
}

/// From when on a cron schedule counts: not in its initial delay.
pub(crate) fn not_before(control: &Control, clock: &Clock) -> SystemTime {
    clock.wall(control.grid.first().max(Instant::now()))
}

/// Nothing is called late before this, whatever its schedule.
const GRACE: Duration = Duration::from_secs(1);
/// A start, or a first run of which nobody knows how long it may take, is not called stuck before this.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long `configure` may take before it is told.
const SLOW_START: Duration = Duration::from_secs(30);

/// How well the service is, and why it is not healthy or does not run.
pub(crate) fn judge(entry: &Entry, control: &Control, now: Instant) -> (HealthStatus, Option<String>) {
    let (status, reason) = judge_by_schedule(control, &entry.hub.clock, now);
    #[cfg(feature = "database")]
    if matches!(control.state(), ServiceState::Starting | ServiceState::BackingOff | ServiceState::Running)
        && let Some(outage) = entry.outage()
    {
        let reason = match reason {
            Some(reason) => format!("{reason}; {}", outage.what),
            None => format!("{}: {}", outage.what, outage.why),
        };
        return (status.max(HealthStatus::Degraded), Some(reason));
    }
    (status, reason)
}

fn judge_by_schedule(control: &Control, clock: &Clock, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Healthy, Unhealthy};
    let (status, reason) = match control.state() {
        ServiceState::Created | ServiceState::Stopped => return judge_down(control),
        ServiceState::Failed => {
            let times = match control.failures {
                0 | 1 => String::new(),
                times => format!(" after {times} failures in a row"),
            };
            let critical = if control.options.critical { ", which is critical: everything shuts down" } else { "" };
            (Unhealthy, format!("failed{times}{critical}{}", last_error(control)))
        }
        ServiceState::Draining if control.in_flight => (Healthy, format!("stopping: {}", goes_on(control, now))),
        ServiceState::Draining => (Healthy, "stopping".to_owned()),
        ServiceState::Starting => judge_start(control, now),
        ServiceState::Paused => judge_paused(control, now),
        ServiceState::BackingOff | ServiceState::Running => return judge_up(control, clock, now),
    };
    (status, Some(reason))
}

/// It has no task: because nobody wanted it to, or because it gave up.
fn judge_down(control: &Control) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    let (status, reason) = match (control.state(), &control.stop) {
        (ServiceState::Stopped, None) => (Unhealthy, format!("stopped itself after a failure{}", last_error(control))),
        (ServiceState::Stopped, Some(stop)) if stop.by_itself => (Healthy, "stopped by itself".to_owned()),
        _ if !control.options.enabled => (Healthy, "disabled".to_owned()),
        (ServiceState::Stopped, _) => (Degraded, "stopped".to_owned()),
        _ => (Degraded, "not started".to_owned()),
    };
    (status, Some(reason))
}

fn judge_start(control: &Control, now: Instant) -> (HealthStatus, String) {
    if let Some(Hold::Dependencies(ids)) = control.hold() {
        return (HealthStatus::Degraded, format!("waits for {}", ids.join(", ")));
    }
    let going = now.saturating_duration_since(control.grid.first());
    if going < SLOW_START {
        return (HealthStatus::Healthy, "starting".to_owned());
    }
    let status = if going < PATIENCE { HealthStatus::Degraded } else { HealthStatus::Unhealthy };
    (status, format!("still starting: `configure` has been going for {}", humanize::long(going)))
}

fn judge_paused(control: &Control, now: Instant) -> (HealthStatus, String) {
    let who = match control.held_by() {
        Some(place) => place.to_owned(),
        None if control.paused_by_itself => "itself".to_owned(),
        None => "an operator".to_owned(),
    };
    if let Some(blocked) = blocked(control, now) {
        return (HealthStatus::Unhealthy, format!("paused by {who}, and {blocked}"));
    }
    let run = if control.in_flight { format!(", and {}", goes_on(control, now)) } else { String::new() };
    (HealthStatus::Degraded, format!("paused by {who}{run}"))
}

fn judge_up(control: &Control, clock: &Clock, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    if let Some(blocked) = blocked(control, now) {
        return (Unhealthy, Some(blocked));
    }
    if let Some((status, late)) = lateness(control, clock, now) {
        return (status, Some(late));
    }
    let (count, max, error) = (control.failures, control.options.max_failures, last_error(control));
    if control.state() == ServiceState::BackingOff {
        let wait = control.next_due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        let wait = humanize::long(wait);
        return match control.hold() {
            Some(Hold::Restart) => (Unhealthy, Some(format!("failed, a fresh instance follows in {wait}{error}"))),
            _ => {
                let reason = format!("backing off after failure {count} of {max}, next try in {wait}{error}");
                (Degraded, Some(reason))
            }
        };
    }
    if count > 0 {
        return (Degraded, Some(format!("trying again after failure {count} of {max}{error}")));
    }
    match control.degraded() {
        Some(word) => (Degraded, Some(word.to_string())),
        None => (Healthy, None),
    }
}

/// A blocking run cannot be taken back, and no other begins before it has returned.
fn blocked(control: &Control, now: Instant) -> Option<String> {
    matches!(control.hold(), Some(Hold::Blocked)).then(|| {
        let run = control.stats.runs;
        let going = control.stats.last_started.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let going = humanize::long(going);
        format!("blocking run {run} timed out and has not returned: it has been going for {going}, and none follows")
    })
}

/// Whether the service is behind its own schedule, in words; a run that goes on far longer than usual is stuck.
fn lateness(control: &Control, clock: &Clock, now: Instant) -> Option<(HealthStatus, String)> {
    use HealthStatus::{Degraded, Unhealthy};
    if !control.in_flight {
        let late = now.saturating_duration_since(control.next_due?);
        return (late > GRACE).then(|| (Unhealthy, format!("overdue by {}, and nothing runs", humanize::long(late))));
    }
    let started = control.stats.last_started?;
    let going = now.saturating_duration_since(started);
    // When the run after this one was due.
    let overdue = match &control.options.schedule {
        Schedule::Interval(every) => going.saturating_sub(*every),
        Schedule::Delay(_) => Duration::ZERO,
        Schedule::Cron(cron) => crate::schedule::cron::next(cron, clock.wall(started))
            .and_then(|due| clock.wall(now).duration_since(due).ok())
            .unwrap_or_default(),
    };
    let limit = match (usual(control), &control.options.schedule) {
        (Some(usual), _) => usual * 10 + Duration::from_secs(30),
        (None, Schedule::Interval(time) | Schedule::Delay(time)) => PATIENCE.max(*time),
        (None, Schedule::Cron(_)) => PATIENCE,
    };
    let stuck = going > limit;
    if overdue > GRACE {
        let status = if stuck { Unhealthy } else { Degraded };
        return Some((status, format!("overdue by {}: {}", humanize::long(overdue), goes_on(control, now))));
    }
    stuck.then(|| (Degraded, format!("stuck: {}", goes_on(control, now))))
}

/// How long the run in flight has been going: `run 118 has been going for 72 s, usually 3 s`.
pub(crate) fn goes_on(control: &Control, now: Instant) -> String {
    let going = control.stats.last_started.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
    let known = usual(control).map_or_else(String::new, |usual| format!(", usually {}", humanize::long(usual)));
    format!("run {} has been going for {}{known}", control.stats.runs, humanize::long(going))
}

/// How long its runs take, where that is known.
pub(crate) fn usual(control: &Control) -> Option<Duration> {
    Duration::try_from_secs_f32(control.usual).ok().filter(|usual| !usual.is_zero())
}

fn last_error(control: &Control) -> String {
    control.last_error().map_or_else(String::new, |error| format!(": {error:#}"))
}

pub(crate) fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    as_rfc3339::serialize(at, serializer)
}

/// Moments as RFC 3339 in UTC, with milliseconds.
pub(crate) mod as_rfc3339 {
    use super::{Deserialize, Deserializer, Serialize, Serializer, SystemTime};

    pub(crate) fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(*at))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }

    /// One of several, or of none.
    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    pub(crate) struct Rfc3339(#[serde(with = "self")] pub(crate) SystemTime);
}

mod optional_rfc3339 {
    use super::as_rfc3339::Rfc3339;
    use super::{Deserialize, Deserializer, Serialize, Serializer, SystemTime};

    pub(super) fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(Rfc3339).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Rfc3339>::deserialize(deserializer)?.map(|Rfc3339(at)| at))
    }
}
