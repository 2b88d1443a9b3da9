//! [`MetricsFacade`]: records the metrics of services with the crate `metrics`, so that they reach the recorder that the application
//! has installed. Once a second a task reads the state of the services; a run only notes its duration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::metrics::{Key, KeyName, Label, Level, Metadata, Unit, with_recorder};
use tokio::task::JoinHandle;

use crate::observe::series::{self, SeriesSink};
use crate::registry::companion::CompanionBuilder;
use crate::registry::service_registry::{Companion, RegistryInner, ServiceRegistry};
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::registration::RegisteredService;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::Result;
use crate::sync::Mutex;

/// How often the metrics are recorded.
const EVERY: Duration = Duration::from_secs(1);

static METADATA: Metadata<'static> = Metadata::new("service_core", Level::INFO, Some("service_core"));

/// Records the metrics of the services of one registry.
#[derive(Default)]
pub(crate) struct MetricsFacade {
    task: Mutex<Option<Task>>,
    recorded: Arc<Mutex<Recorded>>,
}

/// The task that records.
struct Task {
    registry: Weak<RegistryInner>,
    handle: JoinHandle<()>,
}

/// What was recorded so far.
#[derive(Default)]
struct Recorded {
    /// The names that are described already.
    described: BTreeSet<&'static str>,
    /// The gauges with a value that may be absent later, each with the id of its service.
    optional: BTreeSet<(String, &'static str)>,
    /// By the id of a service.
    counts: BTreeMap<String, Counts>,
}

/// The counters of one service, as they were recorded last. A service that is registered again with the same id begins
/// at zero, and its counters are added to those before.
#[derive(Default)]
struct Counts {
    of: Weak<ServiceInner>,
    /// By the name of the counter, and its label.
    values: BTreeMap<(&'static str, Option<String>), u64>,
}

inventory::submit! {
    CompanionBuilder { build: |_, _| Ok(Arc::new(MetricsFacade::default())) }
}

impl Companion for MetricsFacade {
    fn start<'a>(&'a self, registry: &'a ServiceRegistry) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut task = self.task.lock();
            // On virtual time, a task that wakes every second would make a test of a month slow.
            let is_virtual = registry.inner.services.shared.clock.is_virtual();
            if is_virtual || task.as_ref().is_some_and(|task| !task.handle.is_finished()) {
                return Ok(());
            }
            registry.inner.services.keep_durations();
            registry.inner.services.take_removed();
            let weak = Arc::downgrade(&registry.inner);
            let (inner, recorded) = (weak.clone(), self.recorded.clone());
            let handle = registry.inner.home.handle()?.spawn(async move {
                while record(&inner, &recorded) {
                    tokio::time::sleep(EVERY).await;
                }
            });
            *task = Some(Task { registry: weak, handle });
            Ok(())
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(task) = self.task.lock().take() else { return };
            task.handle.abort();
            // What happened since the last time, and the states after the shutdown.
            record(&task.registry, &self.recorded);
            if let Some(inner) = task.registry.upgrade() {
                inner.services.forget_removed();
            }
        })
    }
}

impl fmt::Debug for MetricsFacade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsFacade").finish_non_exhaustive()
    }
}

/// Records the metrics of all services. Returns whether the registry exists.
fn record(registry: &Weak<RegistryInner>, recorded: &Mutex<Recorded>) -> bool {
    let Some(inner) = registry.upgrade() else { return false };
    let registry = ServiceRegistry { inner };
    let mut recorded = recorded.lock();
    // The removed ones first: one of their ids may have been registered again.
    for service in registry.inner.services.take_removed() {
        record_one(&registry, &service, &mut recorded);
        recorded.counts.remove(&**service.id());
    }
    for service in registry.inner.services.all() {
        record_one(&registry, &service, &mut recorded);
    }
    true
}

fn record_one(registry: &ServiceRegistry, service: &RegisteredService, recorded: &mut Recorded) {
    let counts = recorded.counts.entry(service.id().to_string()).or_default();
    if !std::ptr::eq(counts.of.as_ptr(), Arc::as_ptr(&service.inner)) {
        *counts = Counts { of: Arc::downgrade(&service.inner), ..Counts::default() };
    }
    let health = registry.health_of(service);
    let labels = series::labels(&health).into_iter().map(|(key, value)| Label::new(key, value)).collect();
    let mut sink = Sink { service: &health.service_id, labels, recorded };
    series::of_service(&service.inner, &health, &mut sink);
    let durations = service.inner.lock().history.as_mut().map(|history| history.take_durations());
    sink.durations(&durations.unwrap_or_default());
}

/// Records the series of one service.
struct Sink<'a> {
    service: &'a str,
    labels: Vec<Label>,
    recorded: &'a mut Recorded,
}

impl Sink<'_> {
    fn key(&self, name: &'static str, more: Option<(&'static str, &str)>) -> Key {
        let more = more.map(|(key, value)| Label::new(key, value.to_owned()));
        Key::from_parts(name, self.labels.iter().cloned().chain(more).collect::<Vec<_>>())
    }

    fn durations(&mut self, nanos: &[u64]) {
        let (name, help) = series::DURATION;
        if self.recorded.described.insert(name) {
            with_recorder(|recorder| recorder.describe_histogram(KeyName::from(name), unit(name), help.into()));
        }
        let key = self.key(name, None);
        let histogram = with_recorder(|recorder| recorder.register_histogram(&key, &METADATA));
        nanos.iter().for_each(|nanos| histogram.record(*nanos as f64 / 1e9));
    }
}

impl SeriesSink for Sink<'_> {
    fn counter(&mut self, name: &'static str, help: &'static str, more: Option<(&'static str, &str)>, value: u64) {
        if self.recorded.described.insert(name) {
            with_recorder(|recorder| recorder.describe_counter(KeyName::from(name), unit(name), help.into()));
        }
        let key = self.key(name, more);
        let more = more.map(|(_, value)| value.to_owned());
        let last =
            self.recorded.counts.get_mut(self.service).map(|counts| counts.values.entry((name, more)).or_default());
        let added = value.saturating_sub(last.map_or(0, |last| std::mem::replace(last, value)));
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA).increment(added));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, more: Option<(&'static str, &str)>, value: f64) {
        if self.recorded.described.insert(name) {
            with_recorder(|recorder| recorder.describe_gauge(KeyName::from(name), unit(name), help.into()));
        }
        let key = self.key(name, more);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA).set(value));
    }

    /// A recorder keeps the last value of a gauge. One that is absent is not a number, so that no comparison in a rule
    /// is true.
    fn optional_gauge(&mut self, name: &'static str, help: &'static str, value: Option<f64>) {
        let series = (self.service.to_owned(), name);
        match value {
            Some(value) => {
                self.gauge(name, help, None, value);
                self.recorded.optional.insert(series);
            }
            None if self.recorded.optional.contains(&series) => self.gauge(name, help, None, f64::NAN),
            None => {}
        }
    }
}

fn unit(name: &str) -> Option<Unit> {
    Some(if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count })
}
