//! [`ServiceInner`]: the data of one registered service, shared by its handles, its loop and its contexts.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::Resolved;
use crate::config::options::Options;
use crate::panic::{self, Caught};
use crate::race::unless;
use crate::runtime::events::{ServiceEvent, ServiceEventKind};
use crate::runtime::labels::Labels;
use crate::runtime::lease::Lease;
use crate::runtime::metrics::Metrics;
use crate::runtime::rate_limit::Rate;
use crate::runtime::requests::{OverridePause, PausedBy, Rebuild, StopRequest};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::shared::Shared;
use crate::runtime::status::Status;
use crate::schedule::{LongRun, Schedule};
use crate::service::error::{Error, Result};
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;
use crate::sync::Mutex;
use crate::{humanize, log};

/// One registered service.
pub(crate) struct ServiceInner {
    pub(crate) id: Arc<str>,
    pub(crate) shared: Arc<Shared>,
    /// The requester id of this service, where it differs from the registry's.
    pub(crate) requester_id: Option<Box<str>>,
    pub(crate) labels: Labels,
    /// Its failures do not lower the status of the registry.
    pub(crate) optional: bool,
    /// Its number, from 1, and how many services `instances` has made of one registration.
    pub(crate) instance: (u32, u32),
    pub(crate) metrics: Metrics,
    pub(crate) rate: Rate,
    /// Set if one replica at a time runs the service.
    pub(crate) lease: Option<Arc<Lease>>,
    /// Data that an extension keeps for this service.
    pub(crate) extension_data: OnceLock<Box<dyn Any + Send + Sync>>,
    state: Mutex<RuntimeState>,
}

impl ServiceInner {
    pub(crate) fn new(
        id: Arc<str>,
        shared: Arc<Shared>,
        requester_id: Option<Box<str>>,
        resolved: Arc<Resolved>,
    ) -> Self {
        let lease = resolved.options.lease.zip(shared.lease_clock.get());
        let lease = lease.map(|(length, clock)| Arc::new(Lease::new(length, clock.clone())));
        Self {
            id,
            shared,
            requester_id,
            labels: Labels::default(),
            optional: false,
            instance: (1, 1),
            metrics: Metrics::default(),
            rate: Rate::default(),
            lease,
            extension_data: OnceLock::new(),
            state: Mutex::new(RuntimeState::new(resolved)),
        }
    }

    /// Locks the state for reading, and for changes that do not affect the derived `ServiceState`. The lock is never
    /// held while user code runs, so a poisoned lock still guards a consistent state.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, RuntimeState> {
        self.state.lock()
    }

    /// Changes status or requests, and reports the steps of the derived state that follow.
    #[inline]
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut RuntimeState) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        if state.has_step() {
            self.report_steps(&mut state);
        }
        changed
    }

    /// Reports the steps of the derived state. Under the lock, so that the events have the order of the steps.
    fn report_steps(&self, state: &mut RuntimeState) {
        for (from, to) in state.take_steps() {
            self.emit(|| ServiceEventKind::StateChanged { from, to });
        }
        self.notify_waiters(state);
    }

    /// Wakes the waiters of this service and those of any service.
    pub(crate) fn notify_waiters(&self, state: &mut RuntimeState) {
        state.notify_waiters();
        self.shared.changed.notify_waiters();
    }

    /// Takes over what the current long run has reported. Services that depend on this one may wait for it to be ready.
    pub(crate) fn follow_long_run(&self, state: &mut RuntimeState, long: &LongRun) {
        if state.follow_long_run(long) {
            self.notify_waiters(state);
        }
    }

    #[inline]
    pub(crate) fn emit(&self, kind: impl FnOnce() -> ServiceEventKind) {
        if self.shared.events.wanted() {
            let event = ServiceEvent { service_id: self.id.clone(), at: self.shared.clock.wall_now(), kind: kind() };
            self.shared.events.send(event);
        }
    }

    /// Whether another replica runs the service, and this one waits for its lease.
    pub(crate) fn stands_by(&self) -> bool {
        self.lease.is_some() && self.lock().state() == ServiceState::Standby
    }

    /// Whether another replica may run the service, which has ended or is ending here.
    pub(crate) fn has_ended_here(&self) -> bool {
        self.lease.is_some() && {
            let state = self.lock();
            state.status.incarnation > 0 && !state.serves_requests()
        }
    }

    /// Whether this replica holds the lease of the service and carries out what other replicas request, now. While the
    /// service starts, `runs` wait.
    pub(crate) fn serves_other_replicas(&self, runs: bool) -> bool {
        self.serves_others(&self.lock(), runs)
    }

    fn serves_others(&self, state: &RuntimeState, runs: bool) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_held())
            && state.serves_requests()
            && !state.status.once
            && match state.state() {
                // It is being handed over.
                ServiceState::Standby => false,
                ServiceState::Starting => !runs,
                _ => true,
            }
    }

    /// Whether the service has this resource in `needs`.
    pub(crate) fn needs(&self, resource: &str) -> bool {
        self.lock().requests.options.needs.iter().any(|needed| needed == resource)
    }

    pub(crate) fn requester_id(&self) -> &str {
        self.requester_id.as_deref().unwrap_or(&self.shared.requester_id)
    }

    /// Waits until `reached` returns a value. It is called again at every change of state.
    pub(crate) async fn until<T>(&self, mut reached: impl FnMut(&mut RuntimeState) -> Option<T>) -> T {
        loop {
            let changing = {
                let mut state = self.lock();
                if let Some(found) = reached(&mut state) {
                    return found;
                }
                state.changing()
            };
            changing.await;
        }
    }

    /// Returns the future's output, or `None` if a stop is requested first.
    pub(crate) async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        unless(self.until(|state| state.requests.stop.is_some().then_some(())), work).await
    }

    // ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Requests a stop, and returns the incarnation that it ends.
    pub(crate) fn request_stop(&self, stop: StopRequest) -> u32 {
        self.update(|state| {
            state.request_stop(stop);
            // Wakes `cx.stopping`, which may wait in any state, also where the state does not change.
            state.notify_waiters();
            state.status.incarnation
        })
    }

    /// Requests a stop and waits until the service has ended. Called from the service's own code, it does not wait.
    pub(crate) async fn stop(&self, stop: StopRequest) {
        let incarnation = self.request_stop(stop);
        if !self.is_current() {
            self.until_ended(incarnation).await;
        }
    }

    /// Waits until this incarnation has ended.
    pub(crate) async fn until_ended(&self, incarnation: u32) {
        let ended = |status: &Status| status.incarnation != incarnation || !status.is_running();
        self.until(|state| ended(&state.status).then_some(())).await;
    }

    pub(crate) fn request_pause(&self, by: PausedBy) -> Result<()> {
        self.update(|state| state.request_pause(&self.id, by))
    }

    pub(crate) fn request_resume(&self) -> Result<()> {
        self.update(|state| state.request_resume(&self.id))
    }

    pub(crate) fn request_run(&self, waiter: Option<oneshot::Sender<RunReport>>) -> Result<()> {
        self.request_next_run(waiter).map(drop)
    }

    /// As [`request_run`](Self::request_run). Returns how many runs have begun so far: if the waiter is dropped and
    /// there are no more then, the requested run has not begun.
    pub(crate) fn request_next_run(&self, waiter: Option<oneshot::Sender<RunReport>>) -> Result<u64> {
        let mut state = self.lock();
        state.request_run(&self.id)?;
        state.requests.waiters.extend(waiter);
        Ok(state.status.stats.runs)
    }

    /// The error of a requested run whose report will not come.
    pub(crate) fn ended_before_run(&self) -> Error {
        let id = &self.id;
        match self.lock().state() {
            ServiceState::Standby => {
                Error::msg(format!("the lease of service `{id}` was lost before the requested run had ended"))
            }
            _ => Error::msg(format!("service `{id}` ended before the requested run")),
        }
    }

    /// Makes the next run due now, if the service waits for it; else the next run serves this. Any number of calls
    /// before that run are one run. Returns `false`, and does nothing, if the service does not run.
    pub(crate) fn request_wake(&self) -> bool {
        self.lock().request_wake(true)
    }

    /// As [`request_wake`](Self::request_wake), for a topic. A replica on standby has nothing to do: the holder is
    /// notified, too.
    pub(crate) fn notify(&self) {
        let mut state = self.lock();
        if state.state() != ServiceState::Standby {
            state.request_wake(true);
        }
    }

    /// As [`request_wake`](Self::request_wake) for another replica. Returns `false`, and does nothing, if this replica
    /// does not [serve the others](Self::serves_other_replicas).
    pub(crate) fn wake_for_others(&self) -> bool {
        let mut state = self.lock();
        let serves = self.serves_others(&state, false);
        if serves {
            state.request_wake(true);
        }
        serves
    }

    /// As [`request_wake`](Self::request_wake), because notifications may have been missed here. Other replicas have
    /// received them.
    pub(crate) fn wake_in_case(&self) {
        self.lock().request_wake(false);
    }

    /// Calls a closure of `on_stop`. A panic is caught and logged.
    pub(crate) fn call_stop_hook(&self, hook: impl FnOnce()) {
        if let Caught::Panicked(message) = panic::catch(|| self.as_current(hook)) {
            log::warn!(service.id = %self.id, "a closure of `on_stop` panicked: {message}");
        }
    }

    /// Sets or ends the pause by an operator override.
    pub(crate) fn set_override_pause(&self, pause: Option<OverridePause>) {
        self.update(|state| {
            state.requests.paused_by_override = pause.map(Box::new);
            if state.requests.paused_by_override.is_some() {
                state.pause_long_run();
            }
            state.wake();
        });
    }

    pub(crate) fn set_interval(&self, interval: Duration) {
        if self.lock().requests.options.long_run().is_some() {
            return;
        }
        let interval = interval.max(Duration::from_millis(1));
        self.change_option("interval", interval, |options| {
            options.schedule = match options.schedule {
                Schedule::Delay(_) => Schedule::Delay(interval),
                _ => Schedule::Interval(interval),
            };
        });
    }

    pub(crate) fn set_retry_delay(&self, delay: Duration) {
        self.change_option("retry_delay", delay, |options| options.retry_delay = delay);
    }

    fn change_option(&self, key: &'static str, value: Duration, change: impl FnOnce(&mut Options)) {
        {
            let mut state = self.lock();
            let mut options = (*state.requests.options).clone();
            change(&mut options);
            state.requests.options = Arc::new(options);
            state.wake();
        }
        self.emit(|| ServiceEventKind::OptionChanged { key, value: humanize::short(value) });
    }

    /// Takes over a new configuration. A value that the service itself changed stays, unless a layer changed the same
    /// key, or another layer decides about it now: an override counts, also one that sets the value of the file.
    pub(crate) fn reconfigure(&self, resolved: Arc<Resolved>, settings_changed: bool) {
        let mut state = self.lock();
        let mut options = (*resolved.options).clone();
        let before = &state.requests.resolved;
        if before.options.schedule == options.schedule && before.schedule_layer() == resolved.schedule_layer() {
            options.schedule = state.requests.options.schedule.clone();
        }
        let retry_layer = |resolved: &Resolved| resolved.set_by("retry_delay").map(|set| set.layer);
        if before.options.retry_delay == options.retry_delay && retry_layer(before) == retry_layer(&resolved) {
            options.retry_delay = state.requests.options.retry_delay;
        }
        // The loop plans again if these are other options.
        if *state.requests.options != options {
            state.requests.options = Arc::new(options);
            state.wake();
            // `permit` waits under the limit that it knows.
            state.notify_waiters();
        }
        state.requests.resolved = resolved;
        if settings_changed && state.status.is_running() {
            state.request_rebuild(Rebuild::Settings);
        }
    }

    /// An outage is over: a service that backs off because of it retries now, and its failures are no longer counted. A
    /// wait that the service itself chose (`RetryAfter`) is not shortened. For a service that left work because of an
    /// outage, a run is due now.
    pub(crate) fn end_outage(&self, resource: &str) {
        let mut state = self.lock();
        let reason = state.status.wait_reason.as_deref();
        let waits = reason.is_some_and(|reason| reason.resources().iter().any(|waited| **waited == *resource));
        if waits && state.status.is_backing_off() {
            state.requests.outage_over = true;
            state.wake();
        }
        let needs = state.requests.options.needs.iter().any(|needed| needed == resource);
        if needs && std::mem::take(&mut state.requests.continues_after_outage) {
            // On standby, the holder has not left that work, so this is no notification that it has received, too.
            state.request_wake(true);
        }
    }

    // ── the service's own code ───────────────────────────────────────────────────────────────────────────────────────

    /// Whether the calling thread runs this service's own code.
    pub(crate) fn is_current(&self) -> bool {
        CURRENT.get() == std::ptr::from_ref(self) as usize
    }

    /// Runs `work` as this service's own code.
    #[inline]
    pub(crate) fn as_current<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(std::ptr::from_ref(self) as usize));
        match self.labels.text() {
            // The loop has set them, but not on the threads of blocking code.
            Some(labels) => log::with_labels(Some(labels), work),
            None => work(),
        }
    }

    /// Runs `work`, which logs lines about this service outside its loop: the lines have the labels of this service.
    pub(crate) fn log(&self, work: impl FnOnce()) {
        log::with_labels(self.labels.text(), work);
    }
}

thread_local! {
    /// The service whose code this thread runs, as an address; 0 is none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

impl fmt::Debug for ServiceInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceInner")
            .field("id", &self.id)
            .field("state", &self.lock().state())
            .finish_non_exhaustive()
    }
}
