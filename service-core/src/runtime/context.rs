//! [`Context`]: the access of a service to the runtime, in `configure`, `update` and `cleanup`.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::log::warn;
use crate::race::unless;
use crate::runtime::blocking;
use crate::runtime::metrics::Metrics;
use crate::runtime::requests::{PausedBy, StopHook, StopRequest};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::{Error, Result};

/// The access of a service to the runtime. Cheap to clone, and `'static`, so that the service's own tasks may hold it.
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
    /// The registry of the service. The runtime only keeps it alive.
    pub(crate) registry: Arc<dyn Any + Send + Sync>,
    /// The incarnation that the context belongs to. Requests to a later one do not concern it.
    pub(crate) incarnation: u32,
    /// The instance that the context belongs to, as the number of those that ended before in this incarnation.
    pub(crate) instance: u32,
    pub(crate) run: u64,
    /// It belongs to that run, and not to the instance.
    pub(crate) in_run: bool,
    pub(crate) nominal: Nominal,
    /// The takeover by which this replica runs the service, if one replica at a time does.
    pub(crate) epoch: Option<u64>,
}

/// The moment of the schedule that a run serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nominal {
    None,
    /// A point of the interval, or the end of the delay.
    At(Instant),
    /// A fire of the cron schedule.
    Fire(SystemTime),
    /// The same, in a run that follows a successful one because there was more to do.
    Continued(SystemTime),
}

impl Nominal {
    pub(crate) fn fire(fire: Option<SystemTime>) -> Self {
        fire.map_or(Self::None, Self::Fire)
    }

    /// Of the run that follows because this one has more to do.
    pub(crate) fn continued(self) -> Self {
        match self {
            Self::Fire(fire) => Self::Continued(fire),
            other => other,
        }
    }
}

impl Context {
    /// The context of the first instance of an incarnation. `run` is the number of the last run.
    pub(crate) fn new(
        service: Arc<ServiceInner>,
        registry: Arc<dyn Any + Send + Sync>,
        incarnation: u32,
        run: u64,
    ) -> Self {
        Self { service, registry, incarnation, instance: 0, run, in_run: false, nominal: Nominal::None, epoch: None }
    }

    /// Returns the id of this service.
    pub fn service_id(&self) -> &str {
        &self.service.id
    }

    /// Returns the number of this service, from 1, among those that `instances` has made of one registration, and how
    /// many there are: `(2, 4)` for `packer_2` of four. `(1, 1)` without `instances`.
    pub fn instance(&self) -> (u32, u32) {
        self.service.instance
    }

    /// Returns the requester id, which names on whose behalf the service acts: from its options, else from the builder,
    /// else from the environment variable `SYSTEM_ID`, else `system`.
    pub fn requester_id(&self) -> &str {
        self.service.requester_id()
    }

    /// Returns the number of this run, from 1. In the `configure` of the first instance it is 0.
    pub fn run_number(&self) -> u64 {
        self.run
    }

    /// Reads the service's own settings as `T`, which may have only some of them as fields. Each call reads the values
    /// that apply now: after a reload, or a change in the tables of the database, they can be newer than those with
    /// which the instance was built. A key that is similar to a field of `T` that is not set is logged as a warning,
    /// once: it is probably misspelt.
    ///
    /// ```
    /// use service_core::prelude::*;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Limits {
    ///     batch_size: u64,
    /// }
    ///
    /// async fn update(cx: &Context) -> Result<Outcome> {
    ///     let limits: Limits = cx.config()?;
    ///     Ok(Outcome::processed(limits.batch_size))
    /// }
    /// ```
    ///
    /// # Errors
    /// A setting is missing or wrong, or a field of `T` has the name of a key of `#[service]`: the error names the
    /// setting, its layer, the value found and the value expected. It is fatal: a service that returns it is `Failed`
    /// at once.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let resolved = self.service.lock().requests.resolved.clone();
        let id = &self.service.id;
        resolved.settings.misspelt::<T>(id).iter().for_each(|warning| warn!(service.id = %id, "{warning}"));
        resolved.settings.get::<T>(id).map_err(Error::fatal)
    }

    /// Reads all settings as the type that `configure` takes.
    pub(crate) fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        let resolved = self.service.lock().requests.resolved.clone();
        resolved.settings.get_all::<T>(&self.service.id).map_err(Error::fatal)
    }

    /// Returns the shared value of type `T` that was passed to the builder's [`state`](crate::RegistryBuilder::state).
    /// `T` is exactly the type of that value: an `Arc<Mailer>` is found as `Arc<Mailer>`, not as `Mailer`.
    ///
    /// ```
    /// use service_core::prelude::*;
    ///
    /// struct Mailer {
    ///     host: String,
    /// }
    ///
    /// async fn update(cx: &Context) -> Result<()> {
    ///     println!("sending by {}", cx.state::<Mailer>()?.host);
    ///     Ok(())
    /// }
    ///
    /// let builder = ServiceRegistry::builder().state(Mailer { host: "localhost".into() });
    /// # let _ = builder;
    /// ```
    ///
    /// # Errors
    /// There is no such value: the error names the type, the service, and the types that are present. It is fatal: a
    /// service that returns it is `Failed` at once.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T> {
        self.service.shared.states.get(&self.service.id)
    }

    /// Returns the service's own counters and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.service.metrics
    }

    /// Reports that the service works with restrictions: its health is `degraded`, with this reason, until the next run
    /// begins. For a service with `run` it ends with [`ready`](Self::ready), too.
    pub fn degraded(&self, reason: impl Into<String>) {
        let reason = reason.into().into_boxed_str();
        let mut state = self.service.lock();
        if !self.is_past(&state) {
            state.requests.degraded = Some(reason);
        }
    }

    /// Reports that a `run` does its work: it is connected, or accepts connections. With `readiness = "explicit"` the
    /// service is running from the first call on, and services that depend on it start. Ends what
    /// [`degraded`](Self::degraded) reported. Counts as progress for `idle_timeout`. In a service with `update`, it
    /// only ends what `degraded` reported.
    pub fn ready(&self) {
        let mut state = self.service.lock();
        if self.is_past(&state) {
            return;
        }
        state.requests.degraded = None;
        state.requests.progress.last = Some(Instant::now());
        if !std::mem::replace(&mut state.requests.progress.ready, true) {
            state.wake();
        }
    }

    /// Reports that a `run` makes progress: a `run` without a report for `idle_timeout` is cancelled, and that is a
    /// failure. Without `idle_timeout`, and in a service with `update`, the call has no effect.
    pub fn heartbeat(&self) {
        let mut state = self.service.lock();
        if !self.is_past(&state) {
            state.requests.progress.last = Some(Instant::now());
        }
    }

    /// Adds to the items processed, at once. In `update`, they are added to the outcome of the run. Counts as progress
    /// for `idle_timeout`.
    pub fn processed(&self, items: u64) {
        self.report(items, 0);
    }

    /// Adds to the items that failed individually, at once. In `update`, they are added to the outcome of the run.
    /// Counts as progress for `idle_timeout`.
    pub fn failed(&self, items: u64) {
        self.report(0, items);
    }

    fn report(&self, processed: u64, failed: u64) {
        let mut state = self.service.lock();
        let is_past = self.is_past(&state);
        let progress = &mut state.requests.progress;
        progress.processed = progress.processed.saturating_add(processed);
        progress.failed = progress.failed.saturating_add(failed);
        if !is_past {
            progress.last = Some(Instant::now());
        }
    }

    /// Returns whether this run has to end: a stop of the service was requested, or the run was cancelled, or this
    /// replica has lost the lease of the service. For a `run` also: the service was paused, or gets a fresh instance,
    /// or the run is over.
    pub fn is_stopping(&self) -> bool {
        self.is_over(&self.service.lock())
    }

    /// Calls a closure once when [`is_stopping`](Self::is_stopping) becomes `true`, for example to close a socket that
    /// blocking code reads. If `is_stopping` is `true` already, the closure is called at once.
    ///
    /// A closure that is registered in a run is dropped without a call when the run ends; one that is registered in
    /// `configure` is called at the latest before `cleanup`. Closures are called one after the other, and must not
    /// block. A panic is caught and logged.
    ///
    /// ```
    /// use std::net::{Shutdown, TcpStream};
    /// use service_core::prelude::*;
    ///
    /// fn run(cx: &Context, stream: &TcpStream) -> Result<()> {
    ///     let closing = stream.try_clone()?;
    ///     cx.on_stop(move || drop(closing.shutdown(Shutdown::Both)));
    ///     // … read from `stream` until `cx.is_stopping()` …
    ///     Ok(())
    /// }
    /// ```
    pub fn on_stop(&self, call: impl FnOnce() + Send + 'static) {
        {
            let mut state = self.service.lock();
            if !self.is_over(&state) {
                let run = self.in_run.then_some(self.run);
                state.requests.on_stop.push(StopHook { run, call: Box::new(call) });
                return;
            }
        }
        self.service.call_stop_hook(call);
    }

    /// Waits until [`is_stopping`](Self::is_stopping) is `true`. Dropping the future changes nothing.
    pub async fn stopping(&self) {
        self.service.until(|state| self.is_over(state).then_some(())).await;
    }

    /// Sleeps like [`tokio::time::sleep`], but ends early when [`is_stopping`](Self::is_stopping) becomes `true`.
    /// Dropping the future ends the sleep.
    pub async fn sleep(&self, duration: Duration) {
        self.unless_stopping(tokio::time::sleep(duration)).await;
    }

    /// Waits for a permit under the service's `rate_limit`. Returns `true` with a permit, and `false` if
    /// [`is_stopping`](Self::is_stopping) becomes `true` first. Without a `rate_limit`, every call gets a permit at
    /// once.
    ///
    /// Permits are granted in the order of the calls. A future that is dropped while it waits takes no permit. A new
    /// limit holds for the calls that wait, too; it may change their order.
    ///
    /// ```
    /// # async fn update(cx: &service_core::Context) {
    /// while cx.permit().await {
    ///     // one request to the API
    /// #   break;
    /// }
    /// # }
    /// ```
    pub async fn permit(&self) -> bool {
        let service = &self.service;
        let limit = || service.lock().requests.options.rate_limit;
        let permit = async {
            while let Some(known) = limit() {
                let changed = service.until(|state| (state.requests.options.rate_limit != Some(known)).then_some(()));
                if unless(changed, service.rate.permit(known)).await.is_some() {
                    return;
                }
            }
        };
        self.unless_stopping(permit).await.is_some()
    }

    /// Returns the present time: of the system's clock, in tests of the test bed's.
    pub fn now(&self) -> SystemTime {
        self.service.shared.clock.wall_now()
    }

    /// Returns the moment of the schedule that this run serves, without jitter: the fire of a cron schedule (also one
    /// that is made up), the point of the interval for which it was planned, or the end of the delay. A retry has that
    /// of the run that failed. `None` for a run that was woken or requested, and for a `run`.
    pub fn scheduled_for(&self) -> Option<SystemTime> {
        match self.nominal {
            Nominal::None => None,
            Nominal::At(at) => Some(self.service.shared.clock.stable_wall(at)),
            Nominal::Fire(fire) | Nominal::Continued(fire) => Some(fire),
        }
    }

    /// Sleeps in blocking code, like [`std::thread::sleep`], but ends early when [`is_stopping`](Self::is_stopping)
    /// becomes `true`. It may be called on a thread of the service's own, too. Under a
    /// [`TestBed`](crate::testing::TestBed) with a paused clock, it sleeps in virtual time; but not in a
    /// `tokio::task::spawn_blocking` of your own, where it would never end, because tokio's clock stands still
    /// meanwhile.
    ///
    /// # Panics
    /// In async code, where it would block other tasks: use [`sleep`](Self::sleep) there. On a thread without a tokio
    /// runtime, if the registry has started no service ([`TestBed::update`](crate::testing::TestBed::update)).
    pub fn blocking_sleep(&self, duration: Duration) {
        let cx = self.clone();
        blocking::sleep(&self.service.shared, async move { _ = cx.sleep(duration).await });
    }

    /// Requests a stop of this service: the current run is the last, and is aborted after `drain_timeout`. Also
    /// accepted from a run that was cancelled or has to end. Does nothing if this context is out of date: the service
    /// is stopping or failing, has ended, or was started again since; or this replica has lost the lease of the
    /// service.
    pub fn stop(&self) {
        self.service.update(|state| {
            if state.requests.stop.is_none() && !self.is_outdated(state) {
                state.request_stop(StopRequest::by_itself());
                state.notify_waiters();
            }
        });
    }

    /// Pauses this service: the current run continues to its end (a `run` is requested to end), and no scheduled run
    /// follows until `resume`. Also accepted from a run that was cancelled or has to end. Does nothing if the service
    /// is paused already, and where [`stop`](Self::stop) does nothing.
    pub fn pause(&self) {
        self.service.update(|state| {
            if !self.is_outdated(state) {
                // Refused if it is paused already.
                let _ = state.request_pause(&self.service.id, PausedBy::Itself);
            }
        });
    }

    /// Changes the interval at once, including the current wait. A delay stays a delay; a cron schedule and `on_demand`
    /// become an interval. Zero counts as one millisecond. Does nothing for a service with `run`.
    ///
    /// The change lasts until the configuration changes the schedule, or another layer sets it (such as an operator
    /// override, also one with the same value), or until the service is unregistered. It is not stored, so it ends with
    /// the process.
    pub fn set_interval(&self, interval: Duration) {
        self.service.set_interval(interval);
    }

    /// Changes the wait before a retry, from the next failure on. `retry_backoff` and `max_retry_delay` still apply.
    /// The change lasts until the configuration changes `retry_delay`, or another layer sets it, or as long as that of
    /// [`set_interval`](Self::set_interval).
    pub fn set_retry_delay(&self, delay: Duration) {
        self.service.set_retry_delay(delay);
    }

    /// Returns the epoch of the lease under which this context was made: the number of the takeover by which this
    /// replica runs the service. Each takeover has a greater number. `None` for a service that every process runs
    /// (`scope = "process"`).
    ///
    /// Use it as a fencing token for systems outside the database: a system that remembers the greatest epoch it has
    /// seen can refuse requests of a former holder.
    pub fn lease_epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Whether the lease under which this context was made is over.
    pub(crate) fn has_lost_lease(&self) -> bool {
        self.service.lease.as_ref().zip(self.epoch).is_some_and(|(lease, epoch)| lease.epoch() != Some(epoch))
    }

    fn is_over(&self, state: &RuntimeState) -> bool {
        state.requests.stop.is_some()
            || self.is_outdated(state)
            || state.status.ended_instances != self.instance
            || (self.in_run && self.is_run_over(state))
    }

    /// Whether the context is of a start that has ended or is ending, or of a lease that is over: what its code
    /// requests does not concern what follows.
    fn is_outdated(&self, RuntimeState { status, .. }: &RuntimeState) -> bool {
        !status.is_running() || status.is_ending() || status.incarnation != self.incarnation || self.has_lost_lease()
    }

    /// Whether the context is of an earlier start, or of a `run` that has ended: what code that it has left behind
    /// reports says nothing of the present run.
    fn is_past(&self, RuntimeState { status, requests, .. }: &RuntimeState) -> bool {
        let is_current = status.stats.runs == self.run && status.in_run();
        status.incarnation != self.incarnation || (requests.options.long_run().is_some() && self.in_run && !is_current)
    }

    /// Whether the run may not begin any more. Blocking code may have waited long for a thread.
    pub(crate) fn is_cancelled(&self) -> bool {
        let state = self.service.lock();
        self.is_outdated(&state)
            || state.status.ended_instances != self.instance
            || state.status.cancelled_runs.contains(self.run)
    }

    fn is_run_over(&self, RuntimeState { status, requests, .. }: &RuntimeState) -> bool {
        let is_current = status.stats.runs == self.run && status.in_run();
        status.cancelled_runs.contains(self.run)
            || (requests.options.long_run().is_some() && (requests.interrupt.is_some() || !is_current))
    }

    /// Runs `work` until [`is_stopping`](Self::is_stopping) becomes `true`. Returns the output of `work`; or `None` if
    /// `is_stopping` is `true` first, and then drops `work` at its current `.await`. If `is_stopping` is `true`
    /// already, `work` is not polled. Dropping the returned future drops `work`.
    ///
    /// Use it for work that may be dropped at any `.await`: a read that is dropped can lose the bytes that it has
    /// already received.
    ///
    /// ```
    /// use service_core::prelude::*;
    /// use tokio::sync::mpsc::Receiver;
    ///
    /// async fn run(cx: &Context, lines: &mut Receiver<String>) {
    ///     // `None` outside: `is_stopping` is `true`. `None` inside: the channel is closed.
    ///     while let Some(Some(line)) = cx.unless_stopping(lines.recv()).await {
    ///         println!("{line}");
    ///         cx.processed(1);
    ///     }
    /// }
    /// ```
    pub async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        unless(self.stopping(), work).await
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("service_id", &self.service.id).field("run", &self.run).finish_non_exhaustive()
    }
}
