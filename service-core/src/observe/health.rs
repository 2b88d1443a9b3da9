//! Health: the status of each service, assessed against its own schedule.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;

use crate::humanize;
use crate::rfc3339;
use crate::runtime::clock::Clock;
use crate::runtime::extension::Extension;
use crate::runtime::requests::PausedBy;
use crate::runtime::runtime_state::Snapshot;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::runtime::status::WaitReason;
use crate::schedule::Schedule;
use crate::service::state::ServiceState;

/// The health status of a service or of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthStatus {
    /// The service works, is starting, stands by for a known holder and is not paused in this process, is stopping, has
    /// stopped itself without a failure, or is disabled.
    Healthy,
    /// The service works with restrictions, or it was paused, stopped or never started.
    Degraded,
    /// The service does not do its work: for example it is `Failed`, no run begins although one is due, a run hangs, a
    /// run was given up, or it stopped itself after a failure.
    Unhealthy,
}

impl HealthStatus {
    /// From the best to the worst.
    pub(crate) const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Unhealthy];

    /// A sign, so that no colour is needed.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Healthy => "●",
            Self::Degraded => "▲",
            Self::Unhealthy => "✖",
        }
    }
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

/// A health snapshot of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceHealth {
    /// The id of the service.
    pub service_id: String,
    /// The labels that the service was registered with.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether the service was registered as optional: its failures do not lower the status of the registry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The state of the service.
    pub state: ServiceState,
    /// The health status.
    pub status: HealthStatus,
    /// Why the service is not healthy, or not running, as a sentence.
    pub reason: Option<String>,
    /// Whether the service has a running task: from `starting` to `draining`.
    pub running: bool,
    /// Whether a run is in progress.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_run: bool,
    /// Whether the service is paused, or will be as soon as it has started.
    pub paused: bool,
    /// Consecutive failures that count towards `max_failures`.
    pub failures: u32,
    /// How many consecutive failures are retried. `None`: any number.
    pub max_failures: Option<u32>,
    /// When the last run began.
    #[serde(with = "rfc3339::optional")]
    pub last_run: Option<SystemTime>,
    /// When the last successful run ended.
    #[serde(with = "rfc3339::optional")]
    pub last_success: Option<SystemTime>,
    /// When the next run is due. Absent during a run, during the `configure` of a fresh instance, and while a blocking
    /// run that has timed out has not returned.
    #[serde(with = "rfc3339::optional")]
    pub next_run: Option<SystemTime>,
    /// How long the last run that ended took, in milliseconds.
    pub last_run_duration_ms: Option<u64>,
    /// The latest error with its causes. It is kept after a success.
    pub last_error: Option<String>,
    /// Items processed since the service was registered.
    pub total_processed: u64,
    /// Items that failed individually since the service was registered.
    pub total_failed: u64,
    /// Failures since the service was registered.
    pub error_count: u64,
    /// Runs since the service was registered, including the current one.
    pub runs: u64,
    /// Restarts by `restart = "on_failure"` since the service was registered.
    pub restarts: u64,
    /// The service's own counters and gauges. JSON has `null` for a value that is infinite or not a number.
    #[serde(deserialize_with = "numbers_or_null")]
    pub metrics: BTreeMap<String, f64>,
}

/// Reads `null` as a value that is not a number.
fn numbers_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

/// A health snapshot of all services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RegistryHealth {
    /// The worst status of all services that are not optional.
    pub status: HealthStatus,
    /// All services, sorted by id.
    pub services: Vec<ServiceHealth>,
}

impl RegistryHealth {
    pub(crate) fn new(services: Vec<ServiceHealth>) -> Self {
        let required = services.iter().filter(|service| !service.optional);
        let status = required.map(|service| service.status).max().unwrap_or(HealthStatus::Healthy);
        Self { status, services }
    }

    /// Returns the health of one service.
    pub fn get(&self, id: &str) -> Option<&ServiceHealth> {
        self.services.iter().find(|service| service.service_id == id)
    }
}

/// Returns the health of a service.
pub(crate) fn of(service: &ServiceInner, services: &Services, extension: &dyn Extension) -> ServiceHealth {
    let now = Instant::now();
    let clock = &service.shared.clock;
    let metrics = service.metrics.snapshot();
    let snapshot = service.lock().snapshot();
    let (health, reason) = assess(service, &snapshot, services, extension, now);
    let Snapshot { state, is_paused, status, options, .. } = &snapshot;
    let stats = &status.stats;
    let ended = stats.runs > u64::from(status.in_run());
    ServiceHealth {
        service_id: service.id.to_string(),
        labels: service.labels.by_key(),
        optional: service.optional,
        state: *state,
        status: health,
        reason,
        running: state.is_running(),
        in_run: status.in_run(),
        paused: *is_paused,
        failures: status.failures,
        max_failures: options.failure_limit(),
        last_run: stats.last_started.map(|at| clock.wall(at)),
        last_success: stats.last_success.map(|at| clock.wall(at)),
        next_run: next_run(&snapshot, clock),
        last_run_duration_ms: ended.then(|| u64::try_from(stats.last_duration().as_millis()).unwrap_or(u64::MAX)),
        last_error: status.last_error.as_ref().map(|error| format!("{error:#}")),
        // Those of the current run are added when it ends.
        total_processed: stats.processed.saturating_add(snapshot.progress.processed),
        total_failed: stats.failed.saturating_add(snapshot.progress.failed),
        error_count: stats.errors,
        runs: stats.runs,
        restarts: stats.restarts,
        metrics,
    }
}

fn next_run(snapshot: &Snapshot, clock: &Clock) -> Option<SystemTime> {
    let waits = matches!(snapshot.state, ServiceState::Running | ServiceState::BackingOff) && !snapshot.status.in_run();
    let now = Instant::now();
    // The next run begins after the code that runs now, whenever that ends. Health reports both.
    let is_held_up = configuring(snapshot, now).is_some() || blocked(snapshot, now).is_some();
    let due = snapshot.status.next_due.filter(|_| waits && !is_held_up)?;
    let is_regular = matches!(snapshot.options.schedule, Schedule::Cron(_)) && !snapshot.status.is_backing_off();
    // Then `due` is a check of the wall clock.
    let planned = snapshot.status.next_fire.filter(|_| is_regular);
    Some(planned.map_or_else(|| clock.wall(due), |fire| fire.expected(clock.wall_now())))
}

/// A run that is late by less than this is not reported.
const GRACE: Duration = Duration::from_secs(1);
/// A start, or a first run, whose usual duration is unknown, counts as stuck after this.
const STUCK_AFTER: Duration = Duration::from_secs(600);
/// A run that has been stuck for this long does not end by itself.
const HUNG_AFTER: Duration = Duration::from_secs(600);
/// How long `configure` may take before health reports it.
const SLOW_START: Duration = Duration::from_secs(30);

/// Assesses a service: its status, and why it is not healthy or does not run.
pub(crate) fn assess(
    service: &ServiceInner,
    snapshot: &Snapshot,
    services: &Services,
    extension: &dyn Extension,
    now: Instant,
) -> (HealthStatus, Option<String>) {
    let (status, reason) = assess_by_schedule(service, snapshot, now);
    if matches!(snapshot.state, ServiceState::Starting | ServiceState::BackingOff | ServiceState::Running)
        && let Some(outage) = services.outage(service)
    {
        let reason = match reason {
            Some(reason) if reason.contains(&outage.why) => format!("{reason}; {}", outage.what),
            Some(reason) => format!("{reason}; {}: {}", outage.what, outage.why),
            None => format!("{}: {}", outage.what, outage.why),
        };
        return (status.max(HealthStatus::Degraded), Some(reason));
    }
    // One that stands by, or does not run, claims no rows.
    let claims = matches!(snapshot.state, ServiceState::BackingOff | ServiceState::Running | ServiceState::Paused);
    if let Some(degradation) = extension.degradation(service).filter(|_| claims) {
        let reason = reason.map_or_else(|| degradation.clone(), |reason| format!("{reason}; {degradation}"));
        return (status.max(HealthStatus::Degraded), Some(reason));
    }
    (status, reason)
}

fn assess_by_schedule(service: &ServiceInner, snapshot: &Snapshot, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Healthy, Unhealthy};
    let (status, reason) = match snapshot.state {
        ServiceState::Draining if snapshot.status.in_run() => {
            (Healthy, format!("stopping: {}", current_run(snapshot, now)))
        }
        ServiceState::Draining => (Healthy, "stopping".to_owned()),
        _ if snapshot.status.is_ending() => {
            (Unhealthy, format!("failing: its instance is being cleaned up{}", last_error(snapshot)))
        }
        ServiceState::Created | ServiceState::Stopped => return assess_down(snapshot),
        ServiceState::Failed => {
            let times = match snapshot.status.failures {
                0 | 1 => String::new(),
                times => format!(" after {times} failures in a row"),
            };
            let critical = match (snapshot.options.critical, &service.lease) {
                (true, None) => " (critical: the registry shuts down)",
                (true, Some(_)) => " (critical: the registry shuts down when it has failed on every replica)",
                (false, _) => "",
            };
            (Unhealthy, format!("failed{times}{critical}{}", last_error(snapshot)))
        }
        ServiceState::Starting => assess_start(snapshot, now),
        ServiceState::Standby => assess_standby(service, snapshot, now),
        ServiceState::Paused => assess_paused(snapshot, now),
        ServiceState::BackingOff | ServiceState::Running => return assess_up(snapshot, &service.shared.clock, now),
    };
    (status, Some(reason))
}

/// Assesses a service without a task: never started, or stopped.
fn assess_down(snapshot: &Snapshot) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    let (status, reason) = match (snapshot.state, &snapshot.stop) {
        (ServiceState::Stopped, None) => (Unhealthy, format!("stopped itself after a failure{}", last_error(snapshot))),
        (ServiceState::Stopped, Some(stop)) if stop.by_itself && snapshot.status.since_success == 0 => {
            (Healthy, "stopped itself".to_owned())
        }
        (ServiceState::Stopped, Some(stop)) if stop.by_itself => {
            (Unhealthy, format!("stopped itself after a failure{}", last_error(snapshot)))
        }
        _ if !snapshot.options.enabled => (Healthy, "disabled".to_owned()),
        (ServiceState::Stopped, _) => (Degraded, "stopped".to_owned()),
        _ => (Degraded, "not started".to_owned()),
    };
    (status, Some(reason))
}

fn assess_start(snapshot: &Snapshot, now: Instant) -> (HealthStatus, String) {
    if let Some(WaitReason::Dependencies(ids)) = snapshot.status.wait_reason.as_deref() {
        return (HealthStatus::Degraded, format!("waiting for {}", ids.join(", ")));
    }
    let going = now.saturating_duration_since(snapshot.status.grid.first());
    let Some(status) = assess_building(going) else {
        return (HealthStatus::Healthy, "starting".to_owned());
    };
    let what = match snapshot.status.configuring_since {
        Some(_) => "`configure` has been running",
        None if snapshot.options.long_run().is_some() => "its `run` has not called `ready`",
        None => "it has been waiting",
    };
    (status, format!("still starting: {what} for {}", humanize::long(going)))
}

/// Assesses a service whose `configure`, or whose start, has taken so long. `None`: that is usual.
fn assess_building(going: Duration) -> Option<HealthStatus> {
    match going {
        _ if going < SLOW_START => None,
        _ if going < STUCK_AFTER => Some(HealthStatus::Degraded),
        _ => Some(HealthStatus::Unhealthy),
    }
}

/// Describes the `configure` of a fresh instance, if it runs now.
pub(crate) fn configuring(snapshot: &Snapshot, now: Instant) -> Option<(Duration, String)> {
    let going = now.saturating_duration_since(snapshot.status.configuring_since?);
    Some((going, format!("`configure` of a fresh instance has been running for {}", humanize::long(going))))
}

/// Assesses a service that another replica runs.
fn assess_standby(service: &ServiceInner, snapshot: &Snapshot, now: Instant) -> (HealthStatus, String) {
    let holder = service.lease.as_ref().map_or_else(|| Err(String::new()), |lease| lease.describe_holder());
    let (status, standby) = match holder {
        Ok(holder) => (HealthStatus::Healthy, format!("standby: {holder}")),
        Err(why) => (HealthStatus::Unhealthy, format!("standby: {why}")),
    };
    match (blocked(snapshot, now), snapshot.paused) {
        (Some(blocked), _) => (HealthStatus::Unhealthy, format!("{standby}; {blocked}")),
        // Only in this process: other replicas do not hand the service over to this one.
        (None, Some(by)) => {
            let who = if by == PausedBy::Itself { "itself" } else { "an operator" };
            (status.max(HealthStatus::Degraded), format!("{standby}; paused by {who} on this replica only"))
        }
        (None, None) => (status, standby),
    }
}

fn assess_paused(snapshot: &Snapshot, now: Instant) -> (HealthStatus, String) {
    let who = match &snapshot.paused_by_override {
        Some(pause) => pause.place.to_string(),
        None if snapshot.paused == Some(PausedBy::Itself) => "itself".to_owned(),
        None => "an operator".to_owned(),
    };
    if let Some(blocked) = blocked(snapshot, now) {
        return (HealthStatus::Unhealthy, format!("paused by {who}, and {blocked}"));
    }
    let run = if snapshot.status.in_run() { format!(", and {}", current_run(snapshot, now)) } else { String::new() };
    if snapshot.status.given_up {
        let error = last_error(snapshot);
        return (HealthStatus::Unhealthy, format!("paused by {who}{run}; the last run was given up{error}"));
    }
    (HealthStatus::Degraded, format!("paused by {who}{run}"))
}

fn assess_up(snapshot: &Snapshot, clock: &Clock, now: Instant) -> (HealthStatus, Option<String>) {
    use HealthStatus::{Degraded, Healthy, Unhealthy};
    if let Some(blocked) = blocked(snapshot, now) {
        return (Unhealthy, Some(blocked));
    }
    // After a run that was given up, the service is unhealthy until a run succeeds.
    let failing = if snapshot.status.given_up { Unhealthy } else { Degraded };
    if matches!(snapshot.status.wait_reason.as_deref(), Some(WaitReason::Turn)) {
        let reason = "waiting for its turn: as many services as `max_concurrent_runs` allows are running";
        return (failing, Some(reason.to_owned()));
    }
    // A run that is due follows when the instance is built.
    let late = match configuring(snapshot, now) {
        Some((going, what)) => assess_building(going).map(|status| (status, what)),
        None => lateness(snapshot, clock, now).or_else(|| unready(snapshot, now)),
    };
    if let Some((status, late)) = late {
        return (status.max(failing), Some(late));
    }
    let (count, error) = (snapshot.status.failures, last_error(snapshot));
    let success = || match snapshot.status.stats.last_success {
        Some(at) => format!("last success {} ago", humanize::long(now.saturating_duration_since(at))),
        None => "no success yet".to_owned(),
    };
    let failed = snapshot.status.since_success;
    let since = if failed > 1 { format!("; {}", success()) } else { String::new() };
    let failures = humanize::failures(count, snapshot.options.max_failures);
    if snapshot.state == ServiceState::BackingOff {
        let wait = snapshot.status.next_due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        let wait = humanize::long(wait);
        return match snapshot.status.wait_reason.as_deref() {
            Some(WaitReason::Restart) => {
                (Unhealthy, Some(format!("failed, restarting with a fresh instance in {wait}{error}")))
            }
            _ => (failing, Some(format!("backing off after {failures}, retrying in {wait}{since}{error}"))),
        };
    }
    if snapshot.status.given_up && !snapshot.status.in_run() {
        let reason =
            format!("gave up after {failed} failures in a row, waiting for the next run; {}{error}", success());
        return (Unhealthy, Some(reason));
    }
    if count > 0 {
        return (failing, Some(format!("retrying after {failures}{since}{error}")));
    }
    if failed > 1 || snapshot.status.given_up {
        return (failing, Some(format!("{failed} failures in a row; {}{error}", success())));
    }
    match &snapshot.degraded {
        Some(reason) => (Degraded, Some(reason.to_string())),
        None => (Healthy, None),
    }
}

/// Describes a `run` that has not called `ready` for long, after an earlier one that failed.
fn unready(snapshot: &Snapshot, now: Instant) -> Option<(HealthStatus, String)> {
    let is_unready = snapshot.options.long_run().is_some() && snapshot.status.in_run() && !snapshot.status.is_ready();
    let going = now.saturating_duration_since(snapshot.status.stats.last_started.filter(|_| is_unready)?);
    let status = assess_building(going)?;
    let going = humanize::long(going);
    Some((status, format!("not ready: its `run` has not called `ready` for {going}{}", last_error(snapshot))))
}

/// Describes a blocking run whose time is over and that has not returned. It cannot be cancelled, and no other run
/// begins before.
fn blocked(snapshot: &Snapshot, now: Instant) -> Option<String> {
    matches!(snapshot.status.wait_reason.as_deref(), Some(WaitReason::BlockingRun(_))).then(|| {
        let run = snapshot.status.stats.runs;
        let going = snapshot.status.stats.last_started.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let going = humanize::long(going);
        // A `run` may also have been requested to end by a pause, and any run by the loss of the lease.
        let by_timeout = snapshot.options.long_run().is_none() && snapshot.state != ServiceState::Standby;
        let end = if by_timeout { "timed out" } else { "was requested to end" };
        format!("blocking run {run} {end} and has not returned after {going}; no other run begins before it returns")
    })
}

/// Describes how far the service is behind its own schedule, and whether its run takes far longer than usual (stuck).
fn lateness(snapshot: &Snapshot, clock: &Clock, now: Instant) -> Option<(HealthStatus, String)> {
    use HealthStatus::{Degraded, Unhealthy};
    if !snapshot.status.in_run() {
        let late = now.saturating_duration_since(snapshot.status.next_due?);
        if late <= GRACE {
            return None;
        }
        let late_by = humanize::long(late);
        return Some(match snapshot.status.at_rest {
            true => (Unhealthy, format!("overdue by {late_by}, and no run begins")),
            false => {
                // Each of these steps has a time limit, but code that blocks its thread has none.
                let status = if late < STUCK_AFTER { Degraded } else { Unhealthy };
                (
                    status,
                    format!("overdue by {late_by}: an instance is cleaned up, or the database records what was done"),
                )
            }
        });
    }
    if snapshot.options.long_run().is_some() {
        return None;
    }
    let started = snapshot.status.stats.last_started?;
    let going = now.saturating_duration_since(started);
    // When the run after this one was due.
    let overdue = match &snapshot.options.schedule {
        Schedule::Interval(every) => going.saturating_sub(*every),
        Schedule::Delay(_) | Schedule::OnDemand | Schedule::LongRun(_) => Duration::ZERO,
        Schedule::Cron(cron) => crate::schedule::cron::next(cron, clock.wall(started))
            .and_then(|due| clock.wall(now).duration_since(due).ok())
            .unwrap_or_default(),
    };
    let limit = match (mean_duration(snapshot), &snapshot.options.schedule) {
        (Some(mean), _) => mean * 10 + Duration::from_secs(30),
        (None, Schedule::Interval(time) | Schedule::Delay(time)) => STUCK_AFTER.max(*time),
        (None, Schedule::Cron(_) | Schedule::OnDemand | Schedule::LongRun(_)) => STUCK_AFTER,
    };
    let stuck = going > limit;
    if overdue > GRACE {
        let status = if stuck { Unhealthy } else { Degraded };
        return Some((status, format!("overdue by {}: {}", humanize::long(overdue), current_run(snapshot, now))));
    }
    let status = if going > limit.saturating_add(HUNG_AFTER) { Unhealthy } else { Degraded };
    stuck.then(|| (status, format!("stuck: {}", current_run(snapshot, now))))
}

/// Describes the current run: `run 118 has been running for 72 s, usually 3 s`.
pub(crate) fn current_run(snapshot: &Snapshot, now: Instant) -> String {
    let going = snapshot.status.stats.last_started.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
    let known = mean_duration(snapshot)
        .filter(|_| snapshot.options.long_run().is_none())
        .map_or_else(String::new, |mean| format!(", usually {}", humanize::long(mean)));
    format!("run {} has been running for {}{known}", snapshot.status.stats.runs, humanize::long(going))
}

/// Returns the mean duration of the service's runs, if it is known.
pub(crate) fn mean_duration(snapshot: &Snapshot) -> Option<Duration> {
    Some(snapshot.status.stats.mean_duration()).filter(|mean| !mean.is_zero())
}

fn last_error(snapshot: &Snapshot) -> String {
    snapshot.status.last_error.as_ref().map_or_else(String::new, |error| format!(": {error:#}"))
}
