//! What happened, as it happens: [`ServiceEvent`] and the stream of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures_core::Stream;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::service::failure::{FailureKind, Recovery};
use crate::service::state::ServiceState;

/// How many events a slow subscriber may be behind before the oldest are dropped.
const BACKLOG: usize = 4096;

/// Something that happened to a service.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServiceEvent {
    /// The service.
    #[serde(serialize_with = "text")]
    pub service_id: Arc<str>,
    /// When.
    #[serde(serialize_with = "crate::observe::health::rfc3339")]
    pub at: SystemTime,
    /// What.
    #[serde(flatten)]
    pub kind: ServiceEventKind,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServiceEventKind {
    /// It is known to the registry now.
    Registered,
    /// It is not known any more.
    Unregistered,
    /// Its state changed.
    StateChanged {
        /// The state before.
        from: ServiceState,
        /// The state now.
        to: ServiceState,
    },
    /// An instance was built, or taken as it was handed over.
    InstanceBuilt,
    /// An instance ended and its `cleanup` was called, if it has one.
    InstanceEnded,
    /// A run began.
    RunStarted {
        /// Its number, from 1.
        run: u64,
    },
    /// A run ended well.
    RunFinished {
        /// Its number.
        run: u64,
        /// How long it took, in seconds.
        #[serde(serialize_with = "seconds")]
        duration: Duration,
        /// Items worked off.
        processed: u64,
        /// Items that failed by themselves.
        failed: u64,
        /// Whether the next run follows at once.
        again: bool,
    },
    /// A run failed, or an instance could not be built (then `run` is the last run's number).
    RunFailed {
        /// Its number.
        run: u64,
        /// How it failed.
        failure: FailureKind,
        /// The error and its causes.
        error: String,
        /// Consecutive failures, this one included.
        count: u32,
        /// What was decided.
        recovery: Recovery,
    },
    /// The run in flight, or the `cleanup`, outlasted its time at stop and was aborted.
    Aborted,
    /// It failed, and a fresh instance will follow.
    RestartScheduled {
        /// The wait, in seconds.
        #[serde(serialize_with = "seconds")]
        after: Duration,
    },
    /// An option was changed while running.
    OptionChanged {
        /// Its key.
        key: &'static str,
        /// Its value now.
        value: String,
    },
    /// This subscriber was too slow and missed events.
    Lagged {
        /// How many.
        missed: u64,
    },
}

fn text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Where events are sent; costs one atomic load while nobody listens.
#[derive(Debug, Default)]
pub(crate) struct Events {
    listeners: Arc<AtomicUsize>,
    channel: OnceLock<broadcast::Sender<ServiceEvent>>,
}

impl Events {
    #[inline]
    pub(crate) fn wanted(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn send(&self, event: ServiceEvent) {
        if let Some(channel) = self.channel.get() {
            // An error only says that the last listener has gone.
            let _ = channel.send(event);
        }
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        let receiver = self.channel.get_or_init(|| broadcast::channel(BACKLOG).0).subscribe();
        self.listeners.fetch_add(1, Ordering::Relaxed);
        EventStream { next: Box::pin(receive(receiver)), listeners: self.listeners.clone() }
    }
}

type Received = (Result<ServiceEvent, broadcast::error::RecvError>, broadcast::Receiver<ServiceEvent>);

async fn receive(mut receiver: broadcast::Receiver<ServiceEvent>) -> Received {
    let received = receiver.recv().await;
    (received, receiver)
}

/// The stream that `ServiceRegistry::subscribe` returns.
pub(crate) struct EventStream {
    next: Pin<Box<dyn Future<Output = Received> + Send + Sync>>,
    listeners: Arc<AtomicUsize>,
}

impl Stream for EventStream {
    type Item = ServiceEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServiceEvent>> {
        let (received, receiver) = ready!(self.next.as_mut().poll(cx));
        self.next = Box::pin(receive(receiver));
        Poll::Ready(match received {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(ServiceEvent {
                service_id: Arc::from(""),
                at: SystemTime::now(),
                kind: ServiceEventKind::Lagged { missed },
            }),
            Err(broadcast::error::RecvError::Closed) => None,
        })
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}
