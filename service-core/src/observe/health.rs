//! How a service is, judged against its own schedule while it happens.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::humanize;
use crate::runtime::clock::Clock;
use crate::runtime::extension::Extension;
use crate::runtime::requests::PausedBy;
use crate::runtime::runtime_state::Snapshot;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::status::WaitReason;
use crate::schedule::Schedule;
use crate::service::state::ServiceState;

/// How well a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
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
    /// Consecutive failures that are retried; `None`: any number.
    pub max_failures: Option<u32>,
    /// Start of the last run.
    #[serde(with = "optional_rfc3339")]
    pub last_run: Option<SystemTime>,
    /// End of the last successful run.
    #[serde(with = "optional_rfc3339")]
    pub last_success: Option<SystemTime>,
    /// When the next run is due, while none is in flight.
    #[serde(with = "optional_rfc3339")]
    pub next_run: Option<SystemTime>,
    /// How long the last run that ended took, in milliseconds.
    pub last_run_duration_ms: Option<u64>,
    /// The latest error with its causes; it stays after a success.
    pub last_error: Option<String>,
    /// Items worked off since it was registered.
    pub total_processed: u64,
    /// Items that failed by themselves since the service was registered.
    pub total_failed: u64,
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
pub(crate) fn of(service: &ServiceInner, extension: &dyn Extension) -> ServiceHealth {
    let now = Instant::now();
    let clock = &service.shared.clock;
    let metrics = service.metrics.snapshot();
    let snapshot = service.lock().snapshot();
    let (health, reason) = assess(service, &snapshot, extension, now);
    let Snapshot { state, is_paused, status, options, .. } = &snapshot;
    let stats = &status.stats;
    let ended = stats.runs > u64::from(status.in_run());
    ServiceHealth {
        service_id: service.id.to_string(),
        state: *state,
        status: health,
        reason,
        running: state.is_running(),
        paused: *is_paused,
        failures: status.failures,
        max_failures: Some(options.max_failures),
        last_run: stats.last_started.map(|at| clock.wall(at)),
        last_success: stats.last_success.map(|at| clock.wall(at)),
        next_run: next_run(&snapshot, clock),
        last_run_duration_ms: ended.then(|| u64::try_from(stats.last_duration.as_millis()).unwrap_or(u64::MAX)),
        last_error: status.last_error.as_ref().map(|error| format!("{error:#}")),
        total_processed: stats.processed,
        total_failed: stats.failed,
        error_count: stats.errors,
        runs: stats.runs,
        restarts: stats.restarts,
        metrics,
    }
}

fn next_run(snapshot: &Snapshot, clock: &Clock) -> Option<SystemTime> {
    let waits = matches!(snapshot.state, ServiceState::Running | ServiceState::BackingOff) && !snapshot.status.in_run();
    let due = snapshot.status.next_due.filter(|_| waits)?;
    match &snapshot.options.schedule {
        // What is due there is the next look at the clock on the wall.
        Schedule::Cron(cron) if !snapshot.status.is_backing_off() => {
            crate::schedule::cron::next(cron, not_before(snapshot, clock))
        }
        _ => Some(clock.wall(due)),
    }
}

/// From when on a cron schedule counts: not in its initial delay.
pub(crate) fn not_before(snapshot: &Snapshot, clock: &Clock) -> SystemTime {
    clock.wall(snapshot.status.grid.first().max(Instant::now()))
}

/// Nothing is called late before this, whatever its schedule.
const GRACE: Duration = Duration::from_secs(1);
/// A start, or a first run of which nobody knows how long it may take, is not called stuck before this.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long `configure` may take before it is told.
const SLOW_START: Duration = Duration::from_secs(30);

/// How well the service is, and why it is not healthy or does not run.
pub(crate) fn assess(
    service: &ServiceInner,
    snapshot: &Snapshot,
    extension: &dyn Extension,
    now: Instant,
) -> (HealthStatus, Option<String>) {
    let (status, reason) = assess_by_schedule(snapshot, &service.shared.clock, now);
    if matches!(snapshot.state, ServiceState::Starting | ServiceState::BackingOff | ServiceState::Running)
        && let Some(outage) = extension.outage(service)
    {
        let reason = match reason {
            Some(reason) => format!("{reason}; {}", outage.what),
            None => format!("{}: {}", outage.what, outage.why),
        };
        return (status.max(HealthStatus::Degraded), Some(reason));
    }
    (status, reason)
}

fn assess_by_schedule(snapshot: &Snapshot, clock: &Clock, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Healthy, Unhealthy};
    let (status, reason) = match snapshot.state {
        ServiceState::Created | ServiceState::Stopped => return assess_down(snapshot),
        ServiceState::Failed => {
            let times = match snapshot.status.failures {
                0 | 1 => String::new(),
                times => format!(" after {times} failures in a row"),
            };
            let critical = if snapshot.options.critical { ", which is critical: everything shuts down" } else { "" };
            (Unhealthy, format!("failed{times}{critical}{}", last_error(snapshot)))
        }
        ServiceState::Draining if snapshot.status.in_run() => {
            (Healthy, format!("stopping: {}", goes_on(snapshot, now)))
        }
        ServiceState::Draining => (Healthy, "stopping".to_owned()),
        ServiceState::Starting => assess_start(snapshot, now),
        ServiceState::Paused => assess_paused(snapshot, now),
        ServiceState::BackingOff | ServiceState::Running => return assess_up(snapshot, clock, now),
    };
    (status, Some(reason))
}

/// It has no task: because nobody wanted it to, or because it gave up.
fn assess_down(snapshot: &Snapshot) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    let (status, reason) = match (snapshot.state, &snapshot.stop) {
        (ServiceState::Stopped, None) => (Unhealthy, format!("stopped itself after a failure{}", last_error(snapshot))),
        (ServiceState::Stopped, Some(stop)) if stop.by_itself => (Healthy, "stopped by itself".to_owned()),
        _ if !snapshot.options.enabled => (Healthy, "disabled".to_owned()),
        (ServiceState::Stopped, _) => (Degraded, "stopped".to_owned()),
        _ => (Degraded, "not started".to_owned()),
    };
    (status, Some(reason))
}

fn assess_start(snapshot: &Snapshot, now: Instant) -> (HealthStatus, String) {
    if let Some(WaitReason::Dependencies(ids)) = snapshot.status.wait_reason.as_deref() {
        return (HealthStatus::Degraded, format!("waits for {}", ids.join(", ")));
    }
    let going = now.saturating_duration_since(snapshot.status.grid.first());
    if going < SLOW_START {
        return (HealthStatus::Healthy, "starting".to_owned());
    }
    let status = if going < PATIENCE { HealthStatus::Degraded } else { HealthStatus::Unhealthy };
    (status, format!("still starting: `configure` has been going for {}", humanize::long(going)))
}

fn assess_paused(snapshot: &Snapshot, now: Instant) -> (HealthStatus, String) {
    let who = match &snapshot.paused_by_override {
        Some(place) => place.to_string(),
        None if snapshot.paused == Some(PausedBy::Itself) => "itself".to_owned(),
        None => "an operator".to_owned(),
    };
    if let Some(blocked) = blocked(snapshot, now) {
        return (HealthStatus::Unhealthy, format!("paused by {who}, and {blocked}"));
    }
    let run = if snapshot.status.in_run() { format!(", and {}", goes_on(snapshot, now)) } else { String::new() };
    (HealthStatus::Degraded, format!("paused by {who}{run}"))
}

fn assess_up(snapshot: &Snapshot, clock: &Clock, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    if let Some(blocked) = blocked(snapshot, now) {
        return (Unhealthy, Some(blocked));
    }
    if let Some((status, late)) = lateness(snapshot, clock, now) {
        return (status, Some(late));
    }
    let (count, max, error) = (snapshot.status.failures, snapshot.options.max_failures, last_error(snapshot));
    if snapshot.state == ServiceState::BackingOff {
        let wait = snapshot.status.next_due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        let wait = humanize::long(wait);
        return match snapshot.status.wait_reason.as_deref() {
            Some(WaitReason::Restart) => {
                (Unhealthy, Some(format!("failed, a fresh instance follows in {wait}{error}")))
            }
            _ => {
                let reason = format!("backing off after failure {count} of {max}, next try in {wait}{error}");
                (Degraded, Some(reason))
            }
        };
    }
    if count > 0 {
        return (Degraded, Some(format!("trying again after failure {count} of {max}{error}")));
    }
    match &snapshot.degraded {
        Some(word) => (Degraded, Some(word.to_string())),
        None => (Healthy, None),
    }
}

/// A blocking run cannot be taken back, and no other begins before it has returned.
fn blocked(snapshot: &Snapshot, now: Instant) -> Option<String> {
    matches!(snapshot.status.wait_reason.as_deref(), Some(WaitReason::BlockingRun)).then(|| {
        let run = snapshot.status.stats.runs;
        let going = snapshot.status.stats.last_started.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let going = humanize::long(going);
        format!("blocking run {run} timed out and has not returned: it has been going for {going}, and none follows")
    })
}

/// Whether the service is behind its own schedule, in words; a run that goes on far longer than usual is stuck.
fn lateness(snapshot: &Snapshot, clock: &Clock, now: Instant) -> Option<(HealthStatus, String)> {
    use HealthStatus::{Degraded, Unhealthy};
    if !snapshot.status.in_run() {
        let late = now.saturating_duration_since(snapshot.status.next_due?);
        return (late > GRACE).then(|| (Unhealthy, format!("overdue by {}, and nothing runs", humanize::long(late))));
    }
    let started = snapshot.status.stats.last_started?;
    let going = now.saturating_duration_since(started);
    // When the run after this one was due.
    let overdue = match &snapshot.options.schedule {
        Schedule::Interval(every) => going.saturating_sub(*every),
        Schedule::Delay(_) => Duration::ZERO,
        Schedule::Cron(cron) => crate::schedule::cron::next(cron, clock.wall(started))
            .and_then(|due| clock.wall(now).duration_since(due).ok())
            .unwrap_or_default(),
    };
    let limit = match (mean_duration(snapshot), &snapshot.options.schedule) {
        (Some(mean), _) => mean * 10 + Duration::from_secs(30),
        (None, Schedule::Interval(time) | Schedule::Delay(time)) => PATIENCE.max(*time),
        (None, Schedule::Cron(_)) => PATIENCE,
    };
    let stuck = going > limit;
    if overdue > GRACE {
        let status = if stuck { Unhealthy } else { Degraded };
        return Some((status, format!("overdue by {}: {}", humanize::long(overdue), goes_on(snapshot, now))));
    }
    stuck.then(|| (Degraded, format!("stuck: {}", goes_on(snapshot, now))))
}

/// How long the run in flight has been going: `run 118 has been going for 72 s, usually 3 s`.
pub(crate) fn goes_on(snapshot: &Snapshot, now: Instant) -> String {
    let going = snapshot.status.stats.last_started.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
    let known = mean_duration(snapshot).map_or_else(String::new, |mean| format!(", usually {}", humanize::long(mean)));
    format!("run {} has been going for {}{known}", snapshot.status.stats.runs, humanize::long(going))
}

/// How long its runs take, where that is known.
pub(crate) fn mean_duration(snapshot: &Snapshot) -> Option<Duration> {
    Some(snapshot.status.stats.mean_duration).filter(|mean| !mean.is_zero())
}

fn last_error(snapshot: &Snapshot) -> String {
    snapshot.status.last_error.as_ref().map_or_else(String::new, |error| format!(": {error:#}"))
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
