//! How a service is, judged against its own schedule while it happens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::clock::plain;
use crate::control::{Control, Hold};
use crate::entry::Entry;
use crate::options::Schedule;
use crate::state::ServiceState;

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
    let (status, reason) = judge(&control, now);
    let stats = &control.stats;
    let waits = matches!(control.state(), ServiceState::Running | ServiceState::BackingOff) && !control.in_flight;
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
        next_run: control.next_due.filter(|_| waits).map(|at| clock.wall(at)),
        last_run_duration_ms: ended.then(|| u64::try_from(stats.last_duration().as_millis()).unwrap_or(u64::MAX)),
        last_error: stats.last_error.as_ref().map(|error| format!("{error:#}")),
        total_processed: stats.processed,
        error_count: u64::from(stats.errors),
        runs: stats.runs,
        restarts: u64::from(stats.restarts),
        metrics,
    }
}

/// A run is never called late or stuck before this, whatever its schedule.
const GRACE: Duration = Duration::from_secs(1);

fn judge(control: &Control, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    let last_error = || control.stats.last_error.as_ref().map_or_else(String::new, |error| format!(": {error:#}"));
    let works = matches!(control.state(), ServiceState::Running | ServiceState::BackingOff);
    if works && matches!(control.hold(), Some(Hold::Blocked)) {
        return (Unhealthy, Some("a blocking run that timed out has not returned".to_owned()));
    }
    match control.state() {
        ServiceState::Created => (Healthy, Some("not started".to_owned())),
        ServiceState::Stopped => (Healthy, Some("stopped".to_owned())),
        ServiceState::Failed => (Unhealthy, Some(format!("failed{}", last_error()))),
        ServiceState::Draining => (Healthy, Some("stopping".to_owned())),
        ServiceState::Starting => match control.hold() {
            Some(Hold::Dependencies(ids)) => (Degraded, Some(format!("waits for {}", ids.join(", ")))),
            _ => (Healthy, Some("starting".to_owned())),
        },
        ServiceState::Paused => {
            let by_itself = matches!(control.hold(), Some(Hold::Pause { by_itself: true }));
            let who = if by_itself { "itself" } else { "an operator" };
            (Degraded, Some(format!("paused by {who}")))
        }
        ServiceState::BackingOff => {
            let wait = control
                .next_due
                .map_or_else(String::new, |due| format!(", again in {}", plain(due.saturating_duration_since(now))));
            match control.hold() {
                Some(Hold::Restart) => (Unhealthy, Some(format!("failed{wait} with a fresh instance{}", last_error()))),
                _ => {
                    let (count, max) = (control.failures, control.options.max_failures);
                    (Degraded, Some(format!("failure {count} of {max}{wait}{}", last_error())))
                }
            }
        }
        ServiceState::Running => judge_running(control, now),
    }
}

fn judge_running(control: &Control, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy};
    if let Some((status, late)) = lateness(control, now) {
        return (status, Some(late));
    }
    if let Some(reason) = control.degraded() {
        return (Degraded, Some(reason.to_string()));
    }
    if control.failures > 0 {
        let error = control.stats.last_error.as_ref().map_or_else(String::new, |error| format!(": {error:#}"));
        return (Degraded, Some(format!("failed {} time(s) in a row{error}", control.failures)));
    }
    (Healthy, None)
}

/// Whether the service is behind its own schedule, in words; a run that goes on far longer than usual is stuck.
fn lateness(control: &Control, now: Instant) -> Option<(HealthStatus, String)> {
    use HealthStatus::{Degraded, Unhealthy};
    if !control.in_flight {
        let late = now.saturating_duration_since(control.next_due?);
        return (late > GRACE).then(|| (Unhealthy, format!("overdue by {}, and nothing runs", plain(late))));
    }
    let stats = &control.stats;
    let going = now.saturating_duration_since(stats.last_started?);
    let usual = Duration::try_from_secs_f32(control.usual).unwrap_or_default();
    let run = stats.runs;
    let known = if usual.is_zero() { String::new() } else { format!(", usually {}", plain(usual)) };
    let goes_on = format!("run {run} has been going for {}{known}", plain(going));
    let stuck = !usual.is_zero() && going > usual * 10 + GRACE * 10;
    let every = match control.options.schedule {
        Schedule::Interval(every) => Some(every),
        _ => None,
    };
    let overdue = every.map(|every| going.saturating_sub(every)).filter(|late| *late > GRACE);
    match overdue {
        Some(late) => {
            let status = if stuck { Unhealthy } else { Degraded };
            Some((status, format!("overdue by {}: {goes_on}", plain(late))))
        }
        None if stuck => Some((Degraded, format!("stuck: {goes_on}"))),
        None => None,
    }
}

pub(crate) fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*at))
}

mod optional_rfc3339 {
    use super::{Deserialize, Deserializer, Serializer, SystemTime};

    pub(super) fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => super::rfc3339(at, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)).transpose()
    }
}
