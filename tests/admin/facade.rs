//! The metrics that the crate `metrics` gets are those of `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use service_core::prelude::*;
use tokio::sync::Semaphore;

use crate::site::{Gated, Site, Steady, builder, eventually};

/// The series and their values, as Prometheus writes them, and what is described.
struct Recorded {
    series: BTreeMap<String, f64>,
    durations: BTreeMap<String, usize>,
    described: BTreeMap<String, (Option<Unit>, String)>,
}

/// Takes what was recorded. The recorder has what was added to a histogram, and to a counter, since the last time;
/// `counters` are the sums.
fn take(recorded: &Snapshotter, counters: &mut BTreeMap<String, f64>) -> Recorded {
    let mut taken = Recorded { series: BTreeMap::new(), durations: BTreeMap::new(), described: BTreeMap::new() };
    for (key, unit, help, value) in recorded.snapshot().into_vec() {
        let key = key.key();
        let label = |label: &metrics::Label| format!("{}=\"{}\"", label.key(), label.value());
        let labels: Vec<String> = key.labels().map(label).collect();
        let series = format!("{}{{{}}}", key.name(), labels.join(","));
        taken.described.insert(key.name().to_owned(), (unit, help.map(|help| help.to_string()).unwrap_or_default()));
        match value {
            DebugValue::Counter(value) => {
                let sum = counters.entry(series.clone()).or_default();
                *sum += value as f64;
                taken.series.insert(series, *sum);
            }
            DebugValue::Gauge(value) => _ = taken.series.insert(series, value.into_inner()),
            DebugValue::Histogram(values) => _ = taken.durations.insert(series, values.len()),
        }
    }
    taken
}

/// The series of `/metrics`, except for the histogram, and the descriptions.
fn shown(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains("service_run_duration_seconds"));
    let series = lines.map(|line| line.rsplit_once(' ').unwrap());
    let help = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    (
        series.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect(),
        help.map(|(name, help)| (name.to_owned(), help.to_owned())).collect(),
    )
}

async fn the_facade_gets_what_is_shown(recorded: Snapshotter) {
    let site = Site::of(builder().admin("127.0.0.1:0")).await;
    let labelled = site.services.register("labelled", Steady).label("region", "north").label("state", "x");
    let labelled = labelled.start().await.unwrap();
    site.runs("labelled", 1).await;
    for _ in 0..4 {
        labelled.run_now().await.unwrap();
    }
    site.runs("broken", 1).await;
    eventually(async || site.services.get("broken").unwrap().health().error_count == 1).await;
    let (mut durations, mut counters) = (0, BTreeMap::new());
    let series = "service_run_duration_seconds{service=\"labelled\",region=\"north\",label_state=\"x\"}";
    let runs = "service_runs_total{service=\"labelled\",region=\"north\",label_state=\"x\"}";
    // Once a second, they are recorded.
    let taken = loop {
        let taken = take(&recorded, &mut counters);
        durations += taken.durations.get(series).copied().unwrap_or_default();
        if taken.series.get(runs) == Some(&5.0) {
            break taken;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(durations, 5);
    let (series, help) = shown(&site.get("/metrics").await.body);
    assert!(series.len() > 60, "{series:?}");
    assert_eq!(taken.series.keys().collect::<Vec<_>>(), series.keys().collect::<Vec<_>>());
    for (series, value) in &series {
        // A time is computed from a monotonic clock at each look.
        let tolerance = if series.contains("_timestamp_seconds") { 1.0 } else { 0.0 };
        assert!((value - taken.series[series]).abs() <= tolerance, "{series} {value} {}", taken.series[series]);
    }
    for (name, (unit, description)) in &taken.described {
        assert_eq!(help.get(name), Some(description), "{name}");
        let expected = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        assert_eq!(*unit, Some(expected), "{name}");
    }
    site.services.shutdown().await.unwrap();
    // The last states are recorded too.
    assert_eq!(take(&recorded, &mut counters).series["service_state{service=\"steady\",state=\"stopped\"}"], 1.0);
}

#[test]
fn the_facade_gets_the_metrics_of_all_services() {
    let recorder = DebuggingRecorder::new();
    let recorded = recorder.snapshotter();
    // The recorder is that of this thread, so the services run on this thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(the_facade_gets_what_is_shown(recorded)));
}

async fn a_gauge_that_is_absent_is_not_a_number(recorded: Snapshotter) {
    let gate = Arc::new(Semaphore::new(1));
    let held = gate.clone();
    let builder = ServiceRegistry::builder().without_discovered().service_fn("gated", move || Gated(held.clone()));
    let services = builder.build().await.unwrap();
    services.start().await.unwrap();
    // The recorder has each value once.
    let values = || {
        let taken = take(&recorded, &mut BTreeMap::new()).series;
        ["next", "last"]
            .map(|which| taken.get(&format!("service_{which}_run_timestamp_seconds{{service=\"gated\"}}")).copied())
    };
    let is_time = |value: Option<f64>| value.is_some_and(|at| at > 0.0);
    eventually(async || is_time(values()[0])).await;
    let gated = services.get("gated").unwrap();
    let run = tokio::spawn(async move { gated.run_now().await });
    // During the run, no run is next.
    eventually(async || matches!(values(), [Some(next), last] if next.is_nan() && is_time(last))).await;
    gate.add_permits(1);
    run.await.unwrap().unwrap();
    eventually(async || is_time(values()[0])).await;
    services.shutdown().await.unwrap();
    assert!(values()[0].is_some_and(f64::is_nan));
}

#[test]
fn the_facade_keeps_no_old_value_of_a_gauge_that_is_absent() {
    let recorder = DebuggingRecorder::new();
    let recorded = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(a_gauge_that_is_absent_is_not_a_number(recorded)));
}

/// Runs only when it is requested.
#[derive(Default)]
struct Requested;

#[service(on_demand = true, discover = false)]
impl Requested {
    async fn update(&mut self) {}
}

/// Takes about a second and a half of real time.
async fn a_service_that_is_unregistered_and_registered_again(recorded: Snapshotter) {
    let services = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    services.start().await.unwrap();
    let runs = async |id: &str, count: u32| {
        let service = services.register_of::<Requested>(id).start().await.unwrap();
        for _ in 0..count {
            service.run_now().await.unwrap();
        }
    };
    runs("again", 5).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    services.unregister("again").await.unwrap();
    runs("again", 2).await;
    // It is registered for less than the second between two records.
    runs("short", 3).await;
    services.unregister("short").await.unwrap();
    services.shutdown().await.unwrap();
    let taken = take(&recorded, &mut BTreeMap::new());
    for (id, count) in [("again", 7), ("short", 3)] {
        assert_eq!(taken.series[&format!("service_runs_total{{service=\"{id}\"}}")], f64::from(count), "{id}");
        assert_eq!(
            taken.durations[&format!("service_run_duration_seconds{{service=\"{id}\"}}")],
            count as usize,
            "{id}"
        );
    }
    assert_eq!(taken.series["service_state{service=\"short\",state=\"stopped\"}"], 1.0);
}

#[test]
fn the_facade_counts_every_run_of_a_service_that_is_unregistered() {
    let recorder = DebuggingRecorder::new();
    let recorded = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = a_service_that_is_unregistered_and_registered_again(recorded);
    metrics::with_local_recorder(&recorder, || runtime.block_on(test));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_of_services_that_only_a_recorder_renders_are_left_out() {
    let rendered = "service_interval_seconds{service=\"a\"} 60\nservice_custom{service=\"a\",name=\"n\"} 1\n\
                    service_next_run_timestamp_seconds{service=\"a\"} 1\nservice_run_duration_seconds_count 1\n\
                    service_work_rows 1\nservice_work_oldest_due_seconds 1\nservice_alerts_total 1\norders_total 3\n";
    let builder = ServiceRegistry::builder().without_discovered().admin("127.0.0.1:0");
    let site = Site::of(builder.admin_metrics(move || rendered.to_owned())).await;
    assert_eq!(site.get("/metrics").await.body, "orders_total 3\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_of_services_that_a_recorder_renders_too_are_shown_once() {
    let rendered = "# HELP service_runs_total Runs.\n# TYPE service_runs_total counter\nservice_runs_total{service=\"a\"} 3\n\
                    service_run_duration_seconds_bucket{service=\"a\",le=\"1\"} 3\nservice_run_duration_seconds_sum 3\n\
                    service_runs_total_by_someone 1\nservice_active_count 2\norders_total 3\n";
    let site = Site::of(builder().admin("127.0.0.1:0").admin_metrics(move || rendered.to_owned())).await;
    let text = site.get("/metrics").await.body;
    assert_eq!(text.matches("# TYPE service_runs_total counter\n").count(), 1, "{text}");
    assert!(text.ends_with("\nservice_runs_total_by_someone 1\nservice_active_count 2\norders_total 3\n"), "{text}");
    assert!(!text.contains("service=\"a\""), "{text}");
    assert_eq!(site.services.get("steady").unwrap().state(), ServiceState::Running);
}
