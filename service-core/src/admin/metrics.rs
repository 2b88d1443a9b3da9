//! `GET /metrics`: the state of all services as Prometheus text, followed by what the application's recorder renders.
//!
//! The series are read from the state of the services at each request. So a service that is unregistered leaves no series
//! behind, and a run costs nothing for them but its place in the history.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::admin::alerts::{Alerts, Queue};
use crate::admin::app::{App, AppState};
use crate::admin::error::ApiError;
use crate::log::warn;
use crate::observe::health::{HealthStatus, ServiceHealth};
use crate::panic::{self, Caught};
use crate::runtime::run_history::{DURATIONS, RunHistory};
use crate::schedule::Schedule;
use crate::service::state::ServiceState;

/// Labels of our own. A label of a service with the same key is shown as `label_…`.
const RESERVED: [&str; 6] = ["kind", "le", "name", "service", "state", "status"];

/// `GET /metrics`
pub(crate) async fn metrics(State(app): AppState) -> Response {
    app.core.samples.keep_sampling(&app.registry);
    let families = families(&app);
    let mut text = match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => text,
        Err(error) => {
            let why = format!("the metrics cannot be written: {error}");
            return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, why).into_response();
        }
    };
    for render in &app.core.metrics {
        // The application's code.
        match panic::catch(render) {
            Caught::Returned(more) => text.push_str(&more),
            Caught::Panicked(message) => {
                warn!("the closure of `admin_metrics` panicked, its metrics are left out: {message}")
            }
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

fn families(app: &App) -> Vec<MetricFamily> {
    let services = app.registry.health().services;
    let mut families = Families::default();
    for health in &services {
        let labels = labels(health);
        // Unregistered in the meantime.
        let Some(service) = app.registry.inner.services.get(&health.service_id) else { continue };
        let (snapshot, history) = {
            let state = service.inner.lock();
            (state.snapshot(), state.history.as_deref().cloned().unwrap_or_default())
        };
        of_service(&mut families, health, &labels, &history);
        let given_up = truth(snapshot.status.given_up);
        families.gauge("service_given_up", "1 from a run that was given up to the next success.", &labels, given_up);
        if let Schedule::Interval(time) | Schedule::Delay(time) = &snapshot.options.schedule {
            let help = "The interval or delay that is in effect.";
            families.gauge("service_interval_seconds", help, &labels, time.as_secs_f64());
        }
    }
    for (table, sample) in app.core.samples.current() {
        let Some(counts) = sample.counts else { continue };
        let rows = [
            ("pending", counts.pending),
            ("due", counts.due),
            ("in_flight", counts.in_flight),
            ("failed", counts.failed),
        ];
        for (state, rows) in rows {
            let labels = [pair("table", &table), pair("state", state)];
            families.gauge(
                "service_work_rows",
                "Rows of a table of work by state, counted up to 10,000.",
                &labels,
                rows as f64,
            );
        }
        let oldest = counts.oldest_due_seconds.unwrap_or(0.0);
        let help = "For how long the oldest due row of a table of work has been due.";
        families.gauge("service_work_oldest_due_seconds", help, &[pair("table", &table)], oldest);
    }
    let alerts = &Alerts::of(&app.registry).queues;
    if !alerts.is_empty() {
        let sum = |count: fn(&Queue) -> &AtomicU64| -> u64 {
            alerts.iter().map(|queue| count(queue).load(Ordering::Relaxed)).sum()
        };
        for (result, count) in [("delivered", sum(|queue| &queue.delivered)), ("dropped", sum(|queue| &queue.dropped))]
        {
            let help = "Alerts to webhooks and closures that were delivered, or dropped undelivered.";
            families.counter("service_alerts_total", help, &[pair("result", result)], count as f64);
        }
    }
    families.0.into_values().collect()
}

fn of_service(families: &mut Families, health: &ServiceHealth, labels: &[LabelPair], history: &RunHistory) {
    let with = |key: &str, value: &str| [labels, &[pair(key, value)]].concat();
    families.counter("service_runs_total", "Runs that have begun.", labels, health.runs as f64);
    for (kind, count) in [("error", history.errors), ("panic", history.panics), ("timeout", history.timeouts)] {
        let help = "Failures of runs and of building instances, by kind.";
        families.counter("service_failures_total", help, &with("kind", kind), count as f64);
    }
    families.counter("service_restarts_total", "Restarts after a permanent failure.", labels, health.restarts as f64);
    let (processed, failed) = (health.total_processed as f64, health.total_failed as f64);
    families.counter("service_items_processed_total", "Items that were processed.", labels, processed);
    families.counter("service_items_failed_total", "Items that failed individually.", labels, failed);
    let help = "Failures since the last success.";
    families.gauge("service_consecutive_failures", help, labels, f64::from(health.failures));
    for state in ServiceState::ALL {
        let help = "1 for the state of the service, 0 for the others.";
        families.gauge("service_state", help, &with("state", state.as_str()), truth(state == health.state));
    }
    for status in [HealthStatus::Healthy, HealthStatus::Degraded, HealthStatus::Unhealthy] {
        let help = "1 for the health status of the service, 0 for the others.";
        families.gauge("service_status", help, &with("status", &status.to_string()), truth(status == health.status));
    }
    use ServiceState::{BackingOff, Running, Starting};
    let is_active = matches!(health.state, Starting | Running | BackingOff);
    let help = "1 if the service is expected to do its work: it is starting, running or backing off.";
    families.gauge("service_active", help, labels, truth(is_active));
    families.gauge("service_paused", "1 if the service is paused.", labels, truth(health.paused));
    let times = [
        ("service_last_run_timestamp_seconds", "When the last run began.", health.last_run),
        ("service_last_success_timestamp_seconds", "When the last successful run ended.", health.last_success),
        ("service_next_run_timestamp_seconds", "When the next run is due.", health.next_run),
    ];
    for (name, help, at) in times {
        if let Some(at) = at {
            families.gauge(name, help, labels, unix(at));
        }
    }
    families.histogram("service_run_duration_seconds", "How long runs took.", labels, history);
    for (name, value) in &health.metrics {
        let help = "The services' own counters and gauges.";
        families.gauge("service_custom", help, &with("name", name), *value);
    }
}

fn labels(health: &ServiceHealth) -> Vec<LabelPair> {
    let own = health.labels.iter().map(|(key, value)| match RESERVED.contains(&key.as_str()) {
        true => pair(&format!("label_{key}"), value),
        false => pair(key, value),
    });
    std::iter::once(pair("service", &health.service_id)).chain(own).collect()
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// The families by name, since each is written once.
#[derive(Default)]
struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    fn counter(&mut self, name: &'static str, help: &str, labels: &[LabelPair], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.add(name, help, MetricType::COUNTER, labels, |metric| metric.set_counter(counter));
    }

    fn gauge(&mut self, name: &'static str, help: &str, labels: &[LabelPair], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.add(name, help, MetricType::GAUGE, labels, |metric| metric.set_gauge(gauge));
    }

    fn histogram(&mut self, name: &'static str, help: &str, labels: &[LabelPair], history: &RunHistory) {
        let mut total = 0;
        let counted = DURATIONS.iter().zip(history.durations).map(|(bound, count)| {
            total += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e9);
            bucket.set_cumulative_count(total);
            bucket
        });
        let buckets = counted.collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(history.durations.iter().sum());
        histogram.set_sample_sum(history.total_nanos as f64 / 1e9);
        self.add(name, help, MetricType::HISTOGRAM, labels, |metric| metric.set_histogram(histogram));
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
        labels: &[LabelPair],
        set: impl FnOnce(&mut Metric),
    ) {
        let family = self.0.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        let mut metric = Metric::from_label(labels.to_vec());
        set(&mut metric);
        family.mut_metric().push(metric);
    }
}
