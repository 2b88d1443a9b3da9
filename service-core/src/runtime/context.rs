//! [`Context`]: what a service sees of the runtime while it is configured, run and cleaned up.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::runtime::metrics::Metrics;
use crate::runtime::requests::{PausedBy, StopRequest};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::{Error, Result};

/// What a service sees of the runtime. Cheap to clone, and `'static`: it may go into tasks of the service's own.
///
/// ```
/// use service_core::prelude::*;
///
/// async fn update(cx: &Context) -> Result<Outcome> {
///     let mut sent = 0;
///     while !cx.is_stopping() && sent < 100 {
///         sent += 1;
///     }
///     cx.metrics().set("queue_depth", 0);
///     Ok(Outcome::processed(sent))
/// }
/// ```
#[derive(Clone)]
pub struct Context {
    pub(crate) service: Arc<ServiceInner>,
    /// The registry of the service. The runtime keeps it alive and knows nothing else about it.
    pub(crate) registry: Arc<dyn Any + Send + Sync>,
    /// The incarnation that it was made for. A request to a later one does not concern it.
    pub(crate) incarnation: u32,
    pub(crate) run: u64,
}

impl Context {
    /// The id of this service.
    pub fn service_id(&self) -> &str {
        &self.service.id
    }

    /// Who this service acts as: its options say, else the builder, else the variable `SYSTEM_ID`, else `system`.
    pub fn requester_id(&self) -> &str {
        self.service.requester_id()
    }

    /// The number of this run, from 1; 0 in the first instance's `configure`.
    pub fn run_number(&self) -> u64 {
        self.run
    }

    /// The service's own settings, as `T`.
    ///
    /// # Errors
    /// Names the setting, the layer it comes from, what stood there and what was expected. It is fatal: a service that
    /// returns it fails at once.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let resolved = self.service.lock().requests.resolved.clone();
        resolved.settings.get::<T>(&self.service.id).map_err(Error::fatal)
    }

    /// The shared value of type `T` that was put into the builder.
    ///
    /// # Errors
    /// Names the type and the service where there is none.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T> {
        self.service.shared.states.get(&self.service.id)
    }

    /// The service's counters and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.service.metrics
    }

    /// Says that the service works, but not well: shown in its health until the next run begins.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.service.lock().requests.degraded = Some(reason.into().into_boxed_str());
    }

    /// Whether this service has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.is_over(&self.service.lock())
    }

    /// Waits until this service is told to stop.
    pub async fn stopping(&self) {
        self.service.until(|state| self.is_over(state).then_some(())).await;
    }

    /// Sleeps as [`tokio::time::sleep`] does, but not longer than until this service is told to stop;
    /// [`is_stopping`](Self::is_stopping) tells which it was.
    pub async fn sleep(&self, duration: Duration) {
        self.unless_stopping(tokio::time::sleep(duration)).await;
    }

    /// Waits its turn under the service's `rate_limit`, but not longer than until the service is told to stop. Says
    /// whether it is its turn. Without a `rate_limit` it always is.
    ///
    /// Turns are given in the order in which they were asked for. One that is dropped is not taken.
    pub async fn permit(&self) -> bool {
        let limit = self.service.lock().requests.options.rate_limit;
        match limit {
            None => !self.is_stopping(),
            Some(limit) => self.unless_stopping(self.service.rate.permit(limit)).await.is_some(),
        }
    }

    /// Tells this service to stop: the run in flight is the last, and is aborted after `drain_timeout`.
    pub fn stop(&self) {
        self.service.request_stop(StopRequest { by_itself: true, ..StopRequest::default() });
    }

    /// Pauses this service: the run in flight goes on to its end. Does nothing where it cannot be paused.
    pub fn pause(&self) {
        if !self.is_stopping() {
            let _ = self.service.request_pause(PausedBy::Itself);
        }
    }

    /// Changes the interval (or delay) from now on, also the wait in hand. It lasts until the service is registered
    /// anew. Zero is taken as one millisecond.
    pub fn set_interval(&self, interval: Duration) {
        self.service.set_interval(interval);
    }

    /// Changes the wait after a failure from the next failure on.
    pub fn set_retry_delay(&self, delay: Duration) {
        self.service.set_retry_delay(delay);
    }

    fn is_over(&self, state: &RuntimeState) -> bool {
        let status = &state.status;
        state.requests.stop.is_some()
            || !status.is_running()
            || status.is_ending()
            || status.incarnation != self.incarnation
    }

    /// The future's output, or `None` where the service is told to stop first; the future is dropped then.
    pub async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut stopping = pin!(self.stopping());
        std::future::poll_fn(|task| {
            if stopping.as_mut().poll(task).is_ready() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(task).map(Some)
        })
        .await
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("service_id", &self.service.id).field("run", &self.run).finish_non_exhaustive()
    }
}
