//! [`RuntimeState`]: status and requests of one service behind one lock, and the state that follows from both.
//!
//! The tricky part is that no code writes the [`ServiceState`]: it is derived from the two. So a pause or a stop is visible
//! at once, before the loop has read the request, and no field has two writers.

use std::sync::Arc;
use std::task::Waker;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use crate::config::Resolved;
use crate::config::options::Options;
use crate::runtime::requests::{PausedBy, Rebuild, Requests, StateError, StopRequest};
use crate::runtime::status::{Activity, Exit, Status};
use crate::schedule::later;
use crate::service::error::Result;
use crate::service::state::ServiceState;

pub(crate) struct RuntimeState {
    pub(crate) status: Status,
    pub(crate) requests: Requests,
    /// Wakes the loop when a request arrives.
    waker: Option<Waker>,
    /// The state that was last reported.
    shown: ServiceState,
    /// How often each state was entered, so that a waiter does not miss a short one.
    entered: [u16; 8],
    /// Notified at every change of state. Created by the first waiter.
    changed: Option<Arc<Notify>>,
}

/// A copy of a service's state, to be read outside the lock: printing an error is user code, which never runs under it.
pub(crate) struct Snapshot {
    pub(crate) state: ServiceState,
    pub(crate) is_paused: bool,
    pub(crate) status: Status,
    pub(crate) stop: Option<StopRequest>,
    pub(crate) paused: Option<PausedBy>,
    pub(crate) paused_by_override: Option<Box<str>>,
    pub(crate) degraded: Option<Box<str>>,
    pub(crate) options: Arc<Options>,
    pub(crate) resolved: Arc<Resolved>,
}

impl RuntimeState {
    pub(crate) fn new(resolved: Arc<Resolved>) -> Self {
        Self {
            status: Status::created(),
            requests: Requests::new(resolved),
            waker: None,
            shown: ServiceState::Created,
            entered: [0; 8],
            changed: None,
        }
    }

    /// Derives the state of the service from what its loop does and from the requests.
    pub(crate) fn state(&self) -> ServiceState {
        let (status, requests) = (&self.status, &self.requests);
        match status.activity {
            Activity::Created => ServiceState::Created,
            Activity::Ended(Exit::Stopped) => ServiceState::Stopped,
            Activity::Ended(Exit::Failed) => ServiceState::Failed,
            Activity::Ending(Exit::Stopped) => ServiceState::Draining,
            // A failing service keeps its state until its instance is cleaned up.
            Activity::Ending(Exit::Failed) => self.shown,
            _ if requests.stop.is_some() => ServiceState::Draining,
            Activity::Waiting if !status.ready => ServiceState::Starting,
            _ if requests.is_paused() => ServiceState::Paused,
            Activity::BackingOff => ServiceState::BackingOff,
            Activity::Waiting | Activity::InRun => ServiceState::Running,
        }
    }

    /// Whether the service is paused, or will be as soon as it has started.
    pub(crate) fn is_paused(&self) -> bool {
        self.requests.is_paused() && self.status.is_running()
    }

    pub(crate) fn times_entered(&self, state: ServiceState) -> u16 {
        self.entered[state as usize]
    }

    /// Returns the steps from the last reported state to the present one, which counts as reported from now on. A service
    /// that was paused while it started first enters the state that it would have without the pause.
    pub(super) fn take_steps(&mut self) -> impl Iterator<Item = (ServiceState, ServiceState)> + use<> {
        let (from, to) = (self.shown, self.state());
        let without_pause = if self.status.is_backing_off() { ServiceState::BackingOff } else { ServiceState::Running };
        let between = (from != to && !from.may_become(to)).then_some(without_pause);
        let last = (from != to).then_some((between.unwrap_or(from), to));
        let steps = between.map(|between| (from, between)).into_iter().chain(last);
        for (from, to) in steps.clone() {
            debug_assert!(from.may_become(to), "{from} may not become {to}");
            let entered = &mut self.entered[to as usize];
            *entered = entered.wrapping_add(1);
        }
        self.shown = to;
        steps
    }

    /// Copies the state, to be read outside the lock.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let requests = &self.requests;
        Snapshot {
            state: self.state(),
            is_paused: self.is_paused(),
            status: self.status.clone(),
            stop: requests.stop.as_deref().copied(),
            paused: requests.paused,
            paused_by_override: requests.paused_by_override.clone(),
            degraded: requests.degraded.clone(),
            options: requests.options.clone(),
            resolved: requests.resolved.clone(),
        }
    }

    // ── waking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Stores the loop's waker, which the next request calls.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    pub(crate) fn clear_waker(&mut self) {
        self.waker = None;
    }

    /// Wakes the loop.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether the loop waits only for its next run, and has read every request.
    #[allow(dead_code, reason = "for virtual time")]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.status.at_rest && self.waker.is_some()
    }

    /// Returns a future that ends with the next change of state, even if that comes before the first poll.
    pub(crate) fn changing(&mut self) -> OwnedNotified {
        self.changed.get_or_insert_default().clone().notified_owned()
    }

    /// Wakes the waiters of this service.
    pub(crate) fn notify_waiters(&mut self) {
        if let Some(waiting) = self.changed.take() {
            waiting.notify_waiters();
        }
    }

    // ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn refuse<T>(&self, service: &str, action: &'static str, why: impl Into<String>) -> Result<T> {
        let error = StateError { service: service.to_owned(), action, state: self.state(), why: why.into() };
        Err(error.into())
    }

    /// Why the service cannot take requests.
    pub(crate) fn why_down(&self) -> &'static str {
        match self.state() {
            ServiceState::Created => "it has not been started; `start` it first",
            ServiceState::Stopped => "it is stopped; `start` it first",
            ServiceState::Failed => "it has failed; `reset` starts it with a fresh instance",
            ServiceState::Draining => "it is stopping",
            _ if self.status.is_ending() => "it is failing",
            _ => "it is running",
        }
    }

    /// Whether the loop still serves requests.
    fn serves_requests(&self) -> bool {
        self.status.is_running() && !self.status.is_ending() && self.requests.stop.is_none()
    }

    /// Requests a stop; of two stops, the earlier deadlines count.
    pub(super) fn request_stop(&mut self, stop: StopRequest) {
        if !self.status.is_running() {
            return;
        }
        let drained = later(Instant::now(), self.requests.options.drain_timeout);
        let stop = stop.or_sooner(StopRequest { run: Some(drained), ..StopRequest::default() });
        let earlier = self.requests.stop.as_deref();
        self.requests.stop = Some(Box::new(earlier.map_or(stop, |earlier| earlier.or_sooner(stop))));
        self.wake();
    }

    pub(super) fn request_run(&mut self, service: &str) -> Result<()> {
        match self.state() {
            ServiceState::Starting if self.serves_requests() => self.refuse(service, "run", "it is still starting"),
            _ if !self.serves_requests() => self.refuse(service, "run", self.why_down()),
            _ => {
                self.requests.run = true;
                self.wake();
                Ok(())
            }
        }
    }

    pub(super) fn request_pause(&mut self, service: &str, by: PausedBy) -> Result<()> {
        if !self.serves_requests() {
            return self.refuse(service, "pause", self.why_down());
        }
        if self.requests.is_paused() {
            return self.refuse(service, "pause", "it is paused already");
        }
        self.requests.paused = Some(by);
        self.wake();
        Ok(())
    }

    pub(super) fn request_resume(&mut self, service: &str) -> Result<()> {
        if !self.serves_requests() {
            return self.refuse(service, "resume", self.why_down());
        }
        if let Some(place) = &self.requests.paused_by_override {
            return self.refuse(service, "resume", format!("it is paused by {place}; delete that override"));
        }
        if self.requests.paused.take().is_none() {
            return self.refuse(service, "resume", "it is not paused");
        }
        self.wake();
        Ok(())
    }

    /// Requests a fresh instance in place of the current one, between two runs.
    pub(crate) fn request_rebuild(&mut self, rebuild: Rebuild) {
        self.requests.rebuild = self.requests.rebuild.max(Some(rebuild));
        self.wake();
    }
}
