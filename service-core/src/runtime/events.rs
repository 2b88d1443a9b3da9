//! [`ServiceEvent`]: what happens to services, as a stream of events.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures_core::Stream;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::rfc3339;
use crate::runtime::clock::Clock;
use crate::service::failure::{FailureKind, Recovery};
use crate::service::state::ServiceState;

/// How many events a slow subscriber may be behind before it loses the oldest.
pub(crate) const BACKLOG: usize = 4096;

/// An event of one service.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServiceEvent {
    /// The id of the service.
    #[serde(serialize_with = "text")]
    pub service_id: Arc<str>,
    /// When it happened.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub at: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub kind: ServiceEventKind,
}

/// The kind of a [`ServiceEvent`].
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServiceEventKind {
    /// The service was registered.
    Registered,
    /// The service was unregistered.
    Unregistered,
    /// The state of the service changed.
    StateChanged {
        /// The state before.
        from: ServiceState,
        /// The state now.
        to: ServiceState,
    },
    /// An instance was built, or the ready-made instance was taken.
    InstanceBuilt,
    /// An instance ended, and its `cleanup` was called if it has one.
    InstanceEnded,
    /// A run began.
    RunStarted {
        /// The number of the run, from 1.
        run: u64,
    },
    /// A run succeeded.
    RunFinished {
        /// The number of the run.
        run: u64,
        /// How long it took, in seconds.
        #[serde(serialize_with = "seconds")]
        duration: Duration,
        /// Items processed.
        processed: u64,
        /// Items that failed individually.
        failed: u64,
        /// Whether the next run follows at once.
        again: bool,
    },
    /// A run failed, or an instance could not be built.
    RunFailed {
        /// The number of the run; if no instance could be built, the number of the last run.
        run: u64,
        /// The kind of the failure.
        failure: FailureKind,
        /// The error and its causes.
        error: String,
        /// Consecutive failures, including this one.
        count: u32,
        /// What follows the failure.
        recovery: Recovery,
    },
    /// A run was given up after `max_failures`: the service waits for its next regular run (`exhausted = "next_run"`).
    RunGivenUp {
        /// The number of the last run.
        run: u64,
        /// Consecutive failures.
        failures: u32,
    },
    /// A run, a `configure` or a `cleanup` did not end in time for a stop, and was aborted. Blocking code cannot be
    /// aborted: it continues.
    Aborted,
    /// The service failed, and `restart = "on_failure"` starts a fresh instance.
    RestartScheduled {
        /// The wait before the restart, in seconds.
        #[serde(serialize_with = "seconds")]
        after: Duration,
    },
    /// This replica runs the service from now on (`scope = "cluster"`).
    LeaseAcquired {
        /// The number of the takeover.
        epoch: u64,
    },
    /// This replica has lost the lease of the service, and stands by.
    LeaseLost {
        /// The number of the takeover by which it had the lease.
        epoch: u64,
    },
    /// This replica has handed the service over to another one, and stands by.
    LeaseHandedOver {
        /// The number of the takeover by which it had the lease.
        epoch: u64,
    },
    /// The service itself changed an option.
    OptionChanged {
        /// The key of the option.
        key: &'static str,
        /// The new value.
        value: String,
    },
    /// This subscriber was too slow and lost events.
    Lagged {
        /// How many events were lost.
        missed: u64,
    },
}

fn text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Sends events to subscribers. Without subscribers, an event costs one atomic load.
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
            // An error means that the last subscriber has been dropped.
            let _ = channel.send(event);
        }
    }

    pub(crate) fn subscribe(&self, clock: &Clock) -> EventStream {
        let receiver = self.channel.get_or_init(|| broadcast::channel(BACKLOG).0).subscribe();
        self.listeners.fetch_add(1, Ordering::Relaxed);
        EventStream { next: Box::pin(receive(receiver)), listeners: self.listeners.clone(), clock: clock.clone() }
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
    clock: Clock,
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
                at: self.clock.wall_now(),
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
