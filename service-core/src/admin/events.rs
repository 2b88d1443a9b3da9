//! [`EventReaders`]: the events of services, as server-sent events for all readers.
//!
//! Services may run thousands of times a second, so their events are coalesced: of each service at most one message a
//! second is sent. One task collects the events for all readers, and only while there are readers. It does not wait for
//! events, it looks for them ten times a second: so an event wakes no thread. A reader that is far behind gets a last
//! message that says so, and is dropped.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use axum::response::sse::Event;
use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use tokio::task::coop;
use tokio::time::Instant;

use crate::observe::health::ServiceHealth;
use crate::race::first;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::events::{self, ServiceEvent, ServiceEventKind};
use crate::sync::Mutex;

/// How often the task looks for events.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The least time between two messages about one service.
const COALESCE: Duration = Duration::from_secs(1);
/// How many frames a reader may be behind. A frame has all messages of one look.
const BACKLOG: usize = 100;
/// How many earlier events a message has at most.
const MAX_EARLIER: usize = 20;

/// The messages of one look.
type Frame = Arc<Vec<Message>>;

#[derive(Clone)]
struct Message {
    service_id: Arc<str>,
    event: Event,
    /// With the health of the service, if a reader wants that.
    with_health: Option<Event>,
}

/// What a message says.
#[derive(Serialize)]
struct Content<'a> {
    #[serde(flatten)]
    event: &'a ServiceEvent,
    /// The events of the service between its last message and this one, the oldest first.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    earlier: &'a [ServiceEvent],
    /// How many more there were.
    #[serde(skip_serializing_if = "is_zero")]
    omitted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<&'a ServiceHealth>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The readers of the events of one registry.
#[derive(Default)]
pub(crate) struct EventReaders {
    /// `None`: the task does not run.
    frames: Mutex<Option<broadcast::Sender<Frame>>>,
    wanting_health: AtomicUsize,
    /// Every stream ends when this changes.
    closed: watch::Sender<()>,
}

/// The query of `GET /events`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EventsQuery {
    /// Only the events of this service.
    service: Option<String>,
    /// Whether each message has the health of its service.
    health: bool,
}

impl EventReaders {
    /// Ends all streams. Later ones are possible.
    pub(crate) fn close(&self) {
        // There may be no reader.
        let _ = self.closed.send(());
    }

    /// Returns the messages for a new reader.
    pub(crate) fn read(
        self: Arc<Self>,
        registry: ServiceRegistry,
        query: EventsQuery,
    ) -> impl Stream<Item = Event> + Send + use<> {
        let frames = self.subscribe(registry);
        let closed = self.closed.subscribe();
        let wants = query.health.then(|| WantsHealth::new(self));
        let reader = StreamReader { frames, closed, query, _wants: wants };
        let frames = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Some(Ok(events)) => Some((stream::iter(events), Some(reader))),
                Some(Err(dropped)) => Some((stream::iter(vec![dropped]), None)),
                None => None,
            }
        });
        frames.flatten()
    }

    fn subscribe(self: &Arc<Self>, registry: ServiceRegistry) -> broadcast::Receiver<Frame> {
        let mut frames = self.frames.lock();
        if let Some(frames) = &*frames {
            return frames.subscribe();
        }
        let (sender, receiver) = broadcast::channel(BACKLOG);
        *frames = Some(sender);
        let running = Running(self.clone());
        // Subscribed before the stream begins, so that no event is missed.
        let mut collector = Collector::new(registry);
        tokio::spawn(async move {
            while running.0.send(collector.look(&running.0)) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        receiver
    }

    /// Sends a frame. Returns `false` if there is no reader any more; then the next reader starts a new task.
    fn send(&self, frame: Vec<Message>) -> bool {
        let mut frames = self.frames.lock();
        let Some(sender) = &*frames else { return false };
        if sender.receiver_count() == 0 {
            *frames = None;
            return false;
        }
        if !frame.is_empty() {
            // A reader that left in the meantime is no error.
            let _ = sender.send(Arc::new(frame));
        }
        true
    }
}

/// Held by the task. If its runtime ends, the next reader starts a new task.
struct Running(Arc<EventReaders>);

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.frames.lock() = None;
    }
}

/// Held by a reader that wants the health of services.
struct WantsHealth(Arc<EventReaders>);

impl WantsHealth {
    fn new(events: Arc<EventReaders>) -> Self {
        events.wanting_health.fetch_add(1, Ordering::Relaxed);
        Self(events)
    }
}

impl Drop for WantsHealth {
    fn drop(&mut self) {
        self.0.wanting_health.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One reader.
struct StreamReader {
    frames: broadcast::Receiver<Frame>,
    closed: watch::Receiver<()>,
    query: EventsQuery,
    _wants: Option<WantsHealth>,
}

impl StreamReader {
    /// Returns the next messages; an error is the last message; `None`: the server stops.
    async fn next(&mut self) -> Option<Result<Vec<Event>, Event>> {
        match first(self.frames.recv(), async { _ = self.closed.changed().await }).await? {
            Ok(frame) => {
                let concerns = |message: &&Message| {
                    self.query
                        .service
                        .as_deref()
                        .is_none_or(|id| *message.service_id == *id || message.service_id.is_empty())
                };
                let chosen = |message: &Message| match &message.with_health {
                    Some(with_health) if self.query.health => with_health.clone(),
                    _ => message.event.clone(),
                };
                Some(Ok(frame.iter().filter(concerns).map(chosen).collect()))
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let why = r#"{"error":"this reader was too slow, and is dropped; connect again"}"#;
                Some(Err(Event::default().event("dropped").data(why)))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Collects the events of services between their messages.
struct Collector<E> {
    registry: ServiceRegistry,
    events: E,
    pending: HashMap<Arc<str>, Pending>,
}

#[derive(Default)]
struct Pending {
    events: Vec<ServiceEvent>,
    omitted: u64,
    /// When the last message was sent.
    sent: Option<Instant>,
}

impl Collector<()> {
    #[allow(clippy::new_ret_no_self, reason = "the type of the stream cannot be written")]
    fn new(registry: ServiceRegistry) -> Collector<impl Stream<Item = ServiceEvent> + Send + Unpin> {
        let events = registry.subscribe();
        Collector { registry, events, pending: HashMap::new() }
    }
}

impl<E: Stream<Item = ServiceEvent> + Unpin> Collector<E> {
    /// Takes the events that are there, and returns the messages that are due.
    fn look(&mut self, readers: &EventReaders) -> Vec<Message> {
        // Not more than there can be at once: services may send them faster than they are taken.
        for _ in 0..events::BACKLOG {
            let Some(event) = self.take() else { break };
            let pending = self.pending.entry(event.service_id.clone()).or_default();
            pending.push(event);
        }
        let now = Instant::now();
        let wants_health = readers.wanting_health.load(Ordering::Relaxed) > 0;
        let registry = &self.registry;
        let is_due = |pending: &Pending| {
            !pending.events.is_empty() && pending.sent.is_none_or(|sent| now.duration_since(sent) >= COALESCE)
        };
        let mut messages = Vec::new();
        for (id, pending) in self.pending.iter_mut().filter(|(_, pending)| is_due(pending)) {
            let health = if wants_health { registry.get(id).map(|service| service.health()) } else { None };
            messages.extend(pending.message(id, health.as_ref()));
            pending.sent = Some(now);
        }
        // A service that has been unregistered is forgotten.
        self.pending.retain(|_, pending| pending.sent.is_none_or(|sent| now.duration_since(sent) < COALESCE * 60));
        messages
    }

    fn take(&mut self) -> Option<ServiceEvent> {
        // In a task, tokio's budget would end after 128 events, as if there were no more.
        let next = pin!(coop::unconstrained(self.events.next()));
        match next.poll(&mut Task::from_waker(Waker::noop())) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }
}

impl Pending {
    fn push(&mut self, event: ServiceEvent) {
        if self.events.len() > MAX_EARLIER {
            // The start and the end of a run say less than a failure or a change of state.
            let is_ordinary = |event: &ServiceEvent| {
                matches!(event.kind, ServiceEventKind::RunStarted { .. } | ServiceEventKind::RunFinished { .. })
            };
            let least = self.events.iter().position(is_ordinary).unwrap_or(0);
            self.events.remove(least);
            self.omitted += 1;
        }
        self.events.push(event);
    }

    fn message(&mut self, id: &Arc<str>, health: Option<&ServiceHealth>) -> Option<Message> {
        let (events, omitted) = (std::mem::take(&mut self.events), std::mem::take(&mut self.omitted));
        let (event, earlier) = events.split_last()?;
        let content = |health| Event::default().json_data(Content { event, earlier, omitted, health });
        let with_health = health.map(|health| content(Some(health)));
        Some(Message {
            service_id: id.clone(),
            // The contents are plain values, which can always be written.
            event: content(None).ok()?,
            with_health: with_health.transpose().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicU64;

    use axum::response::{IntoResponse, Sse};

    use super::*;

    fn event(kind: ServiceEventKind) -> ServiceEvent {
        ServiceEvent { service_id: Arc::from("job"), at: std::time::SystemTime::UNIX_EPOCH, kind }
    }

    /// Events that a test has sent.
    struct Sent(std::vec::IntoIter<ServiceEvent>);

    impl Stream for Sent {
        type Item = ServiceEvent;

        fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut Task<'_>) -> Poll<Option<ServiceEvent>> {
            self.0.next().map_or(Poll::Pending, |event| Poll::Ready(Some(event)))
        }
    }

    async fn collector(events: Vec<ServiceEvent>) -> Collector<Sent> {
        let registry = ServiceRegistry::builder().without_discovered().build().await.expect("there are no services");
        Collector { registry, events: Sent(events.into_iter()), pending: HashMap::new() }
    }

    /// The text that a reader gets.
    async fn text(messages: Vec<Event>) -> String {
        let body = Sse::new(stream::iter(messages.into_iter().map(Ok::<_, Infallible>))).into_response().into_body();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("it is in memory");
        String::from_utf8(bytes.to_vec()).expect("it is JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_has_the_latest_event_and_those_before_it_and_failures_are_not_left_out() {
        let run = |run| event(ServiceEventKind::RunStarted { run });
        let mut events: Vec<_> = (1..=10).map(run).collect();
        events.push(event(ServiceEventKind::Aborted));
        events.extend((11..=50).map(run));
        let mut collector = collector(events).await;
        let messages = collector.look(&EventReaders::default());
        assert_eq!(messages.len(), 1);
        let text = text(messages.into_iter().map(|message| message.event).collect()).await;
        let data: serde_json::Value = serde_json::from_str(text.trim().trim_start_matches("data: ")).expect("JSON");
        assert_eq!((&data["event"], &data["run"]), (&"run_started".into(), &50.into()));
        let earlier = data["earlier"].as_array().expect("a list");
        assert_eq!((earlier.len(), &data["omitted"]), (20, &30.into()));
        assert_eq!((&earlier[0]["event"], &earlier[1]["run"]), (&"aborted".into(), &31.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_has_at_most_one_message_a_second() {
        let registry = ServiceRegistry::builder().without_discovered().build().await.expect("there are no services");
        let mut collector = Collector { registry, events: Sent(Vec::new().into_iter()), pending: HashMap::new() };
        let (readers, mut sent) = (EventReaders::default(), 0);
        for _ in 0..100 {
            collector.events = Sent(vec![event(ServiceEventKind::Aborted)].into_iter());
            sent += collector.look(&readers).len();
            tokio::time::advance(LOOK_EVERY).await;
        }
        assert_eq!(sent, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_of_events_between_two_looks_reach_a_reader() {
        let registry = ServiceRegistry::builder().without_discovered().build().await.expect("there are no services");
        let readers = Arc::new(EventReaders::default());
        let messages = readers.clone().read(registry.clone(), EventsQuery::default());
        let reading = tokio::spawn(messages.collect::<Vec<Event>>());
        for _ in 0..10 {
            for run in 0..3_000 {
                registry.inner.services.shared.events.send(event(ServiceEventKind::RunStarted { run }));
            }
            registry.inner.services.shared.events.send(event(ServiceEventKind::Aborted));
            tokio::time::sleep(COALESCE).await;
        }
        readers.close();
        let text = text(reading.await.expect("the stream ends")).await;
        assert_eq!((text.matches("aborted").count(), text.matches("lagged").count()), (10, 0), "{text}");
        assert_eq!(text.matches("\"omitted\":2980").count(), 10, "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_read_is_told_and_dropped() {
        let registry = ServiceRegistry::builder().without_discovered().build().await.expect("there are no services");
        let readers = Arc::new(EventReaders::default());
        let slow = readers.clone().read(registry.clone(), EventsQuery::default());
        let fast = readers.clone().read(registry.clone(), EventsQuery::default());
        let read = Arc::new(AtomicU64::new(0));
        let counted = read.clone();
        let reading = tokio::spawn(async move {
            let mut fast = std::pin::pin!(fast);
            while fast.next().await.is_some() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        for n in 0..150_u64 {
            let id = Arc::from(format!("job_{n}").as_str());
            let kind = ServiceEventKind::Aborted;
            let at = std::time::SystemTime::UNIX_EPOCH;
            registry.inner.services.shared.events.send(ServiceEvent { service_id: id, at, kind });
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let all: Vec<Event> = slow.collect().await;
        let text = text(all).await;
        assert!(text.trim_end().ends_with("connect again\"}") && text.contains("event: dropped"), "{text}");
        assert_eq!(read.load(Ordering::Relaxed), 150);
        readers.close();
        reading.await.expect("the stream ends");
    }
}
