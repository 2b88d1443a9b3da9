//! `Register::label`: labels in every span and log line of a service, its health and its explanation. `optional`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use service_core::prelude::*;
use service_core::{Explanation, HealthStatus};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::acting::{Configured, Plan, assert_says, soon};
use crate::support::{Log, Scripted, Step, secs};

/// Collects spans and events, each with all of its fields: `span service_run service.id=a …`, `WARN run failed …`.
#[derive(Clone, Default)]
struct Fields(Arc<Mutex<Vec<String>>>);

impl Fields {
    fn of(&self, id: &str) -> Vec<String> {
        let id = format!(" service.id={id} ");
        self.0.lock().unwrap().iter().filter(|line| line.contains(&id)).cloned().collect()
    }
}

impl Subscriber for Fields {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("service_core")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line(format!("span {} ", span.metadata().name()));
        span.record(&mut line);
        self.0.lock().unwrap().push(line.0);
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

fn collect() -> (Fields, tracing::subscriber::DefaultGuard) {
    service_tests::ask_each_thread();
    let fields = Fields::default();
    let guard = tracing::subscriber::set_default(fields.clone());
    (fields, guard)
}

#[tokio::test(start_paused = true)]
async fn every_span_and_log_line_of_a_service_has_its_labels() {
    let (bed, log) = (TestBed::new().set("max_failures", 1).set("drain_timeout", 1), Log::default());
    let services = bed.services().await;
    let (fields, _guard) = collect();
    let scripted = |script: &[Step]| Scripted { cleanup: Step::Hang, ..Scripted::new(&log, script) };
    let labelled = services.register("labelled", scripted(&[Step::Succeed, Step::Panic]));
    let labelled = soon(labelled.label("tenant", "acme").label("region", "eu west").start()).await.unwrap();
    soon(services.register("plain", scripted(&[Step::Fail, Step::Fail])).start()).await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!(labelled.state(), ServiceState::Failed);
    let lines = fields.of("labelled");
    for line in ["span service_run", "run finished", "panicked: it panicked", "`cleanup` took too long"] {
        assert!(lines.iter().any(|found| found.contains(line)), "no `{line}` in {lines:#?}");
    }
    for line in lines {
        assert!(line.contains(r#"service.labels=region="eu west" tenant=acme "#), "{line}");
    }
    let lines = fields.of("plain");
    assert!(lines.iter().any(|line| line.contains("run failed")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("service.labels")), "{lines:?}");
}

/// Logs a line of its own in blocking code, and blocks until the run has timed out.
struct Blocking;

#[service(interval = 60, timeout = 1, discover = false)]
impl Blocking {
    fn update(&mut self, cx: &Context) {
        // Real time: on a busy machine the thread must come to this line before the timeout.
        cx.on_stop(|| panic!("it is busy"));
        while !cx.is_stopping() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[tokio::test]
async fn the_lines_about_blocking_code_have_the_labels() {
    let services = TestBed::new().services().await;
    let (fields, _guard) = collect();
    let blocking = services.register("blocking", Blocking).label("tenant", "acme").start().await.unwrap();
    blocking.wait_for(ServiceState::BackingOff).await.unwrap();
    blocking.stop().await.unwrap();
    let lines = fields.of("blocking");
    assert!(lines.iter().any(|line| line.contains("a closure of `on_stop` panicked")), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("service.labels=tenant=acme ")), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn lines_that_others_log_about_a_service_have_its_labels_and_not_theirs() {
    let log = Log::default();
    let services = TestBed::new().state(Plan::new(&log, &[Step::Hang])).services().await;
    let (fields, _guard) = collect();
    let slow = services.register_of::<Configured>("slow").label("tenant", "acme");
    soon(slow.start()).await.unwrap();
    let lines = fields.of("slow");
    assert!(lines.iter().any(|line| line.contains("still starting after 30 s")), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("service.labels=tenant=acme ")), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn health_and_explain_show_the_labels() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let register = services.register("a", Scripted::new(&log, &[])).label("tenant", "acme").label("tenant", "a b");
    let service = register.optional().await.unwrap();
    let labels = BTreeMap::from([("tenant".to_owned(), "a b".to_owned())]);
    assert_eq!(service.health().labels, labels);
    let explanation = service.explain();
    assert_eq!((&explanation.labels, explanation.optional), (&labels, true));
    let text = explanation.to_string();
    assert!(text.contains("\n  labels    tenant=\"a b\"\n"), "{text}");
    assert!(text.contains("\n  optional  its failures do not lower"), "{text}");
    // What an older version wrote has no labels.
    let mut health = serde_json::to_value(service.health()).unwrap();
    for key in ["labels", "optional"] {
        health.as_object_mut().unwrap().remove(key);
    }
    let health: ServiceHealth = serde_json::from_value(health).unwrap();
    assert_eq!((health.labels.len(), health.optional), (0, false));
}

#[tokio::test(start_paused = true)]
async fn wrong_labels_are_errors_that_have_the_rule() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let register = || services.register("a", Scripted::new(&log, &[]));
    assert_says(register().label("Tenant", "x").await, &["service `a`", "labels.rs:", "`Tenant`", "only a-z and `_`"]);
    let many = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let register = many.iter().fold(register(), |register, key| register.label(*key, "x"));
    assert_says(register.await, &["service `a`", "labels.rs:", "8 labels"]);
    assert_eq!(services.list(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_failures_of_an_optional_service_do_not_lower_the_status_of_the_registry() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    soon(services.register("required", Scripted::new(&log, &[])).start()).await.unwrap();
    let broken = services.register("broken", Scripted::new(&log, &[Step::Fatal])).optional();
    let broken = soon(broken.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(broken.state(), ServiceState::Failed);
    let health = services.health();
    assert_eq!(health.status, HealthStatus::Healthy);
    assert_eq!(health.get("broken").map(|broken| broken.status), Some(HealthStatus::Unhealthy));
    soon(services.register("worse", Scripted::new(&log, &[Step::Fatal])).start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(services.health().status, HealthStatus::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn an_explanation_of_an_older_version_can_be_read() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    let mut explanation = serde_json::to_value(service.explain()).unwrap();
    for key in ["labels", "optional", "parent"] {
        explanation.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(serde_json::from_value::<Explanation>(explanation).unwrap(), service.explain());
}
