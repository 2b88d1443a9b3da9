//! The spans that a tracing subscriber sees, and with it OpenTelemetry: one for each run, around the spans of the
//! user's code.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use service_core::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::secs;

thread_local! {
    /// The spans that are entered.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Debug, Default)]
struct Span {
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
    parent: Option<u64>,
    events: Vec<String>,
    is_closed: bool,
}

impl Visit for Span {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

/// Collects spans with their parents and their events, as a layer for OpenTelemetry does.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<BTreeMap<u64, Span>>>,
    next: Arc<AtomicU64>,
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        ["service_core", "behaviour"].iter().any(|target| metadata.target().starts_with(target))
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        let current = ENTERED.with_borrow(|entered| entered.last().copied());
        let parent = attributes.parent().map(Id::into_u64).or(current.filter(|_| attributes.is_contextual()));
        let mut span = Span { name: attributes.metadata().name(), parent, ..Span::default() };
        attributes.record(&mut span);
        self.spans.lock().unwrap().insert(id, span);
        Id::from_u64(id)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Span::default();
        event.record(&mut fields);
        let message = fields.fields.remove("message").unwrap_or_default();
        if let Some(current) = ENTERED.with_borrow(|entered| entered.last().copied())
            && let Some(span) = self.spans.lock().unwrap().get_mut(&current)
        {
            span.events.push(message);
        }
    }

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        let left = ENTERED.with_borrow_mut(Vec::pop);
        assert_eq!(left, Some(id.into_u64()));
    }

    fn try_close(&self, id: Id) -> bool {
        if let Some(span) = self.spans.lock().unwrap().get_mut(&id.into_u64()) {
            span.is_closed = true;
        }
        true
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
}

#[tracing::instrument]
async fn send(recipient: &str) {
    tokio::time::sleep(secs(1)).await;
    tracing::info!("sent");
}

#[derive(Default)]
struct Mailer;

#[service(interval = 60, discover = false)]
impl Mailer {
    async fn update(&mut self) {
        send("ann").await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_run_is_a_span_around_the_spans_of_the_users_code() {
    service_tests::ask_each_thread();
    let collector = Collector::default();
    let _guard = tracing::subscriber::set_default(collector.clone());
    let bed = TestBed::new();
    let services = bed.services().await;
    let service = services.register("mailer", Mailer).label("region", "eu");
    crate::acting::soon(service.start()).await.unwrap();
    bed.run_for(secs(90)).await;
    let spans = collector.spans.lock().unwrap().clone();
    let named = |name: &'static str| spans.iter().filter(move |(_, span)| span.name == name);
    let runs: Vec<_> = named("service_run").collect();
    assert_eq!(runs.len(), 2, "{spans:#?}");
    for (number, (id, run)) in runs.iter().enumerate() {
        let field = |key: &str| run.fields.get(key).map(String::as_str);
        assert_eq!(field("service.id"), Some("mailer"));
        assert_eq!(field("service.run"), Some((number + 1).to_string().as_str()));
        assert_eq!(field("service.labels"), Some("region=eu"));
        assert!(run.is_closed && run.parent.is_none(), "{run:?}");
        let (_, sent) = named("send").find(|(_, span)| span.parent == Some(**id)).unwrap();
        assert_eq!(sent.fields.get("recipient").map(String::as_str), Some("\"ann\""));
        assert_eq!(sent.events, ["sent"]);
    }
}
