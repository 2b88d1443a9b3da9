//! `GET /metrics`: the state of all services as Prometheus text, followed by what the application's recorder renders.
//!
//! The series are read from the state of the services at each request. So a service that is unregistered leaves no
//! series behind, and a run costs nothing for them but its place in the history.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::admin::alerts::{Alerts, Queue};
use crate::admin::app::{App, AppState};
use crate::admin::error::ApiError;
use crate::log::warn;
use crate::observe::series::{self, SeriesSink};
use crate::panic::{self, Caught};
use crate::runtime::run_history::{DURATIONS, RunHistory};

/// The names of the families that are not of services.
const MORE_FAMILIES: [&str; 3] = [WORK_ROWS, WORK_OLDEST, ALERTS];
const WORK_ROWS: &str = "service_work_rows";
const WORK_OLDEST: &str = "service_work_oldest_due_seconds";
const ALERTS: &str = "service_alerts_total";

/// `GET /metrics`
pub(crate) async fn metrics(State(app): AppState) -> Response {
    app.core.samples.keep_sampling(&app.registry).await;
    let Families(families) = families(&app);
    let families: Vec<_> = families.into_values().collect();
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
            Caught::Returned(more) => {
                more.split_inclusive('\n').filter(|line| !is_ours(line)).for_each(|line| text.push_str(line))
            }
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

fn families(app: &App) -> Families {
    let services = app.registry.health().services;
    let mut families = Families::default();
    for health in &services {
        // Unregistered in the meantime.
        let Some(service) = app.registry.inner.services.get(&health.service_id) else { continue };
        let labels: Vec<_> = series::labels(health).iter().map(|(key, value)| pair(key, value)).collect();
        series::of_service(&service.inner, health, &mut OfService { families: &mut families, labels: &labels });
        let history = service.inner.lock().history.as_deref().cloned().unwrap_or_default();
        families.histogram(series::DURATION.0, series::DURATION.1, &labels, &history);
    }
    let now = app.now();
    for (table, counts) in app.core.samples.recent(now) {
        let rows = [
            ("pending", Some(counts.pending)),
            ("due", Some(counts.due)),
            ("in_flight", Some(counts.in_flight)),
            ("failed", counts.failed),
        ];
        for (state, rows) in rows {
            let Some(rows) = rows else { continue };
            let labels = [pair("table", &table), pair("state", state)];
            families.gauge(WORK_ROWS, "Rows of a table of work by state, counted up to 10,000.", &labels, rows as f64);
        }
        // The age of due rows is unknown if none of them has a time.
        let oldest = counts.oldest_due_seconds.or((counts.due == 0).then_some(0.0));
        if let Some(oldest) = oldest {
            let help = "For how long the oldest due row of a table of work has been due.";
            families.gauge(WORK_OLDEST, help, &[pair("table", &table)], oldest);
        }
    }
    let alerts = &Alerts::of(&app.registry).queues;
    if !alerts.is_empty() {
        let sum = |count: fn(&Queue) -> &AtomicU64| -> u64 {
            alerts.iter().map(|queue| count(queue).load(Ordering::Relaxed)).sum()
        };
        for (result, count) in [("delivered", sum(|queue| &queue.delivered)), ("dropped", sum(|queue| &queue.dropped))]
        {
            let help = "Alerts to webhooks and closures that were delivered, or dropped undelivered.";
            families.counter(ALERTS, help, &[pair("result", result)], count as f64);
        }
    }
    families
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// Whether a line of Prometheus text belongs to a family of this crate. Prometheus accepts each family once, and a
/// recorder of the application also has those of the services if the feature `metrics` is on. Its values may be of
/// services that are unregistered.
fn is_ours(line: &str) -> bool {
    let of_comment = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
    let name = of_comment.unwrap_or(line).split(['{', ' ', '\n']).next().unwrap_or_default();
    let of_durations = name.strip_prefix(series::DURATION.0);
    of_durations.is_some_and(|part| ["_bucket", "_sum", "_count"].contains(&part))
        || series::FAMILIES.contains(&name)
        || MORE_FAMILIES.contains(&name)
}

/// Collects the series of one service.
struct OfService<'a> {
    families: &'a mut Families,
    labels: &'a [LabelPair],
}

impl OfService<'_> {
    fn labels(&self, more: Option<(&'static str, &str)>) -> Vec<LabelPair> {
        self.labels.iter().cloned().chain(more.map(|(key, value)| pair(key, value))).collect()
    }
}

impl SeriesSink for OfService<'_> {
    fn counter(&mut self, name: &'static str, help: &'static str, more: Option<(&'static str, &str)>, value: u64) {
        self.families.counter(name, help, &self.labels(more), value as f64);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, more: Option<(&'static str, &str)>, value: f64) {
        self.families.gauge(name, help, &self.labels(more), value);
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::access::{Access, Exposure};
    use crate::admin::app::Core;
    use crate::{Context, ServiceRegistry, service};

    /// Has series of every family.
    #[derive(Default)]
    struct Counting;

    #[service(crate = crate, interval = 10, discover = false)]
    impl Counting {
        async fn update(&mut self, cx: &Context) {
            cx.metrics().add("items", 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_family_of_services_is_known_by_its_name() {
        let builder = ServiceRegistry::builder().without_discovered().service_of::<Counting>("counting");
        let registry = builder.build().await.unwrap();
        registry.start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(15)).await;
        let app = App::new(registry, Core::new(Vec::new()).into(), Access::new(Exposure::Loopback, None));
        let Families(families) = families(&app);
        let (mut known, shown) = (series::FAMILIES, families.into_keys().collect::<Vec<_>>());
        known.sort_unstable();
        assert_eq!(shown, known);
    }
}
