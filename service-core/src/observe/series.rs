//! The series of a service: the names, labels and values of its metrics, for whatever collects them.

use std::time::SystemTime;

use crate::observe::health::{HealthStatus, ServiceHealth};
use crate::runtime::service_inner::ServiceInner;
use crate::schedule::Schedule;
use crate::service::state::ServiceState;

/// The name and the description of the histogram of durations. Its values are in the histories of runs.
pub(crate) const DURATION: (&str, &str) = ("service_run_duration_seconds", "How long runs took.");

/// The names of all families of services.
pub(crate) const FAMILIES: [&str; 17] = [
    DURATION.0,
    "service_active",
    "service_consecutive_failures",
    "service_custom",
    "service_failures_total",
    "service_given_up",
    "service_interval_seconds",
    "service_items_failed_total",
    "service_items_processed_total",
    "service_last_run_timestamp_seconds",
    "service_last_success_timestamp_seconds",
    "service_next_run_timestamp_seconds",
    "service_paused",
    "service_restarts_total",
    "service_runs_total",
    "service_state",
    "service_status",
];

/// Labels of our own, and those of histograms and summaries.
const RESERVED: [&str; 7] = ["kind", "le", "name", "quantile", "service", "state", "status"];

/// Collects the series of one service. Every series has the service's labels; some have one more.
pub(crate) trait SeriesSink {
    fn counter(&mut self, name: &'static str, help: &'static str, more: Option<(&'static str, &str)>, value: u64);

    fn gauge(&mut self, name: &'static str, help: &'static str, more: Option<(&'static str, &str)>, value: f64);

    /// A gauge that is absent if it has no value.
    fn optional_gauge(&mut self, name: &'static str, help: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.gauge(name, help, None, value);
        }
    }
}

/// Whether a label of a service with this key is shown as `label_…`: it would be one of our own, one of Prometheus
/// itself, or that of another key that is shown so.
fn is_prefixed(key: &str) -> bool {
    RESERVED.contains(&key) || key.starts_with("__") || key.starts_with("label_")
}

/// Returns the labels of a service's series. Their names differ.
pub(crate) fn labels(health: &ServiceHealth) -> Vec<(String, String)> {
    let own = health.labels.iter().map(|(key, value)| match is_prefixed(key) {
        true => (format!("label_{key}"), value.clone()),
        false => (key.clone(), value.clone()),
    });
    std::iter::once(("service".to_owned(), health.service_id.clone())).chain(own).collect()
}

/// Gives all series of a service but the histogram to `sink`.
pub(crate) fn of_service(service: &ServiceInner, health: &ServiceHealth, sink: &mut dyn SeriesSink) {
    let (given_up, interval, failures) = {
        let state = service.lock();
        let interval = match &state.requests.options.schedule {
            Schedule::Interval(time) | Schedule::Delay(time) => Some(*time),
            _ => None,
        };
        let failures = state.history.as_deref().map(|history| (history.errors, history.panics, history.timeouts));
        (state.status.given_up, interval, failures.unwrap_or_default())
    };
    counters(health, failures, sink);
    let help = "Consecutive failures that count towards `max_failures`.";
    sink.gauge("service_consecutive_failures", help, None, f64::from(health.failures));
    for state in ServiceState::ALL {
        let help = "1 for the state of the service, 0 for the others.";
        sink.gauge("service_state", help, Some(("state", state.as_str())), truth(state == health.state));
    }
    for status in HealthStatus::ALL {
        let help = "1 for the health status of the service, 0 for the others.";
        sink.gauge("service_status", help, Some(("status", &status.to_string())), truth(status == health.status));
    }
    use ServiceState::{BackingOff, Running, Starting};
    let is_active = matches!(health.state, Starting | Running | BackingOff);
    let help = "1 if the service is expected to do its work: it is starting, running or backing off.";
    sink.gauge("service_active", help, None, truth(is_active));
    sink.gauge("service_paused", "1 if the service is paused.", None, truth(health.paused));
    let help = "1 after a run was given up, until a run succeeds.";
    sink.gauge("service_given_up", help, None, truth(given_up));
    let help = "The interval or delay that is in effect.";
    sink.optional_gauge("service_interval_seconds", help, interval.map(|interval| interval.as_secs_f64()));
    let times = [
        ("service_last_run_timestamp_seconds", "When the last run began.", health.last_run),
        ("service_last_success_timestamp_seconds", "When the last successful run ended.", health.last_success),
        ("service_next_run_timestamp_seconds", "When the next run is due.", health.next_run),
    ];
    for (name, help, at) in times {
        sink.optional_gauge(name, help, at.map(unix));
    }
    for (name, value) in &health.metrics {
        sink.gauge("service_custom", "The services' own counters and gauges.", Some(("name", name)), *value);
    }
}

fn counters(health: &ServiceHealth, (errors, panics, timeouts): (u64, u64, u64), sink: &mut dyn SeriesSink) {
    sink.counter("service_runs_total", "Runs that have begun.", None, health.runs);
    for (kind, count) in [("error", errors), ("panic", panics), ("timeout", timeouts)] {
        let help = "Failures of runs and of building instances, by kind.";
        sink.counter("service_failures_total", help, Some(("kind", kind)), count);
    }
    sink.counter("service_restarts_total", "Restarts after a permanent failure.", None, health.restarts);
    let help = "Items that were processed.";
    sink.counter("service_items_processed_total", help, None, health.total_processed);
    let help = "Items that failed individually.";
    sink.counter("service_items_failed_total", help, None, health.total_failed);
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
