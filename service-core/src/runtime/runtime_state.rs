//! [`RuntimeState`]: status and requests of one service behind one lock, and the state that follows from both.
//!
//! The tricky part is that no code writes the [`ServiceState`]: it is derived from the two. So a pause or a stop is
//! visible at once, before the loop has read the request, and no field has two writers.

use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use crate::config::Resolved;
use crate::config::options::Options;
use crate::runtime::requests::{OverridePause, PausedBy, Progress, Rebuild, Requests, StateError, StopRequest};
use crate::runtime::run_history::RunHistory;
use crate::runtime::status::{Activity, Exit, StartPhase, Status, WaitReason};
use crate::schedule::cron::CronTimer;
use crate::schedule::{LongRun, later};
use crate::service::error::Result;
use crate::service::outcome::Outcome;
use crate::service::state::ServiceState;

pub(crate) struct RuntimeState {
    pub(crate) status: Status,
    pub(crate) requests: Requests,
    /// The last runs, if a feature wants them.
    pub(crate) history: Option<Box<RunHistory>>,
    /// Wakes the loop when a request arrives.
    waker: Option<Waker>,
    /// The state that was last reported.
    shown: ServiceState,
    /// How often each state was entered, so that a waiter does not miss a short one.
    entered: [u16; ServiceState::ALL.len()],
    /// Notified at every change of state. Created by the first waiter.
    changed: Option<Arc<Notify>>,
}

/// Why a service with `run` refuses a call that makes a run due.
const RUNS_LONG: &str =
    "its `run` continues until a stop is requested; `stop` and `start`, or `pause` and `resume`, run it again";

/// A copy of a service's state, to be read outside the lock: printing an error is user code, which never runs under it.
pub(crate) struct Snapshot {
    pub(crate) state: ServiceState,
    pub(crate) is_paused: bool,
    pub(crate) status: Status,
    pub(crate) stop: Option<StopRequest>,
    pub(crate) paused: Option<PausedBy>,
    pub(crate) paused_by_override: Option<Box<OverridePause>>,
    pub(crate) degraded: Option<Box<str>>,
    pub(crate) progress: Progress,
    pub(crate) options: Arc<Options>,
    pub(crate) resolved: Arc<Resolved>,
}

impl RuntimeState {
    pub(crate) fn new(resolved: Arc<Resolved>) -> Self {
        Self {
            status: Status::created(),
            requests: Requests::new(resolved),
            history: None,
            waker: None,
            shown: ServiceState::Created,
            entered: [0; ServiceState::ALL.len()],
            changed: None,
        }
    }

    /// Derives the state of the service from what its loop does and from the requests.
    pub(crate) fn state(&self) -> ServiceState {
        let (status, requests) = (&self.status, &self.requests);
        match status.activity {
            Activity::Created => ServiceState::Created,
            Activity::Ended(Exit::Stopped | Exit::Shutdown) => ServiceState::Stopped,
            Activity::Ended(Exit::Failed) => ServiceState::Failed,
            Activity::Ending(Exit::Stopped | Exit::Shutdown) => ServiceState::Draining,
            // A failing service keeps its state until its instance is cleaned up.
            Activity::Ending(Exit::Failed) => self.shown,
            _ if requests.stop.is_some() => ServiceState::Draining,
            Activity::Standby => ServiceState::Standby,
            _ if !status.is_up() => ServiceState::Starting,
            _ if requests.is_paused() => ServiceState::Paused,
            Activity::BackingOff => ServiceState::BackingOff,
            Activity::Waiting | Activity::InRun | Activity::InBlockingRun => ServiceState::Running,
        }
    }

    /// For `catch_up`: notes whether the service is paused, since what comes due in a pause is not missed.
    pub(crate) fn note_pause(&mut self, cron: &mut CronTimer, now: SystemTime) {
        let is_paused = self.state() == ServiceState::Paused;
        cron.set_paused(is_paused, now);
        // A fire that is still to be made up must not count as skipped.
        let skips = is_paused && !cron.owes();
        let since = self.status.skips_fires_since;
        self.status.skips_fires_since = skips.then(|| since.unwrap_or(now));
    }

    /// Whether the service is paused, or will be as soon as it has started.
    pub(crate) fn is_paused(&self) -> bool {
        self.requests.is_paused() && self.status.is_running()
    }

    pub(crate) fn times_entered(&self, state: ServiceState) -> u16 {
        self.entered[state as usize]
    }

    /// Whether the state is another one than was last reported.
    pub(super) fn has_step(&self) -> bool {
        self.state() != self.shown
    }

    /// Returns the steps from the last reported state to the present one, which counts as reported from now on. A
    /// service that was paused while it started first enters the state that it would have without the pause.
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
            progress: requests.progress,
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

    /// Whether the service may be handed over to another replica, now or when its run has ended. One whose last run has
    /// failed would be healthy there without a success, a pause of this process would end, and one that waits for its
    /// code cannot move.
    pub(crate) fn may_be_handed_over(&self) -> bool {
        let status = &self.status;
        (status.activity == Activity::Waiting || status.in_run())
            && status.since_success == 0
            && !self.is_paused()
            && status.configuring_since.is_none()
            && !matches!(status.wait_reason.as_deref(), Some(WaitReason::BlockingRun(_)))
            && self.requests.options.long_run().is_none()
    }

    /// Whether the loop still serves requests.
    pub(crate) fn serves_requests(&self) -> bool {
        self.status.is_running() && !self.status.is_ending() && self.requests.stop.is_none()
    }

    /// Requests a stop; of two stops, the earlier deadlines count.
    pub(super) fn request_stop(&mut self, stop: StopRequest) {
        if !self.status.is_running() {
            return;
        }
        let now = Instant::now();
        let drained = later(now, self.requests.options.drain_timeout);
        let stop = stop.or_sooner(StopRequest { run: Some(drained), since: Some(now), ..StopRequest::default() });
        match self.requests.stop.as_deref_mut() {
            Some(earlier) => *earlier = earlier.or_sooner(stop),
            None => self.requests.stop = Some(Box::new(stop)),
        }
        self.wake();
    }

    pub(super) fn request_run(&mut self, service: &str) -> Result<()> {
        match self.state() {
            _ if self.serves_requests() && self.requests.options.long_run().is_some() => {
                self.refuse(service, "run", RUNS_LONG)
            }
            ServiceState::Starting if self.serves_requests() => self.refuse(service, "run", "it is still starting"),
            ServiceState::Standby => self.refuse(service, "run", "another replica runs it, and this one stands by"),
            _ if !self.serves_requests() => self.refuse(service, "run", self.why_down()),
            _ => {
                self.requests.run = true;
                self.wake();
                Ok(())
            }
        }
    }

    /// Checks whether a wake-up would be served.
    ///
    /// # Errors
    /// It would be dropped, with the reason.
    pub(crate) fn check_wake(&self, service: &str) -> Result<()> {
        match self.requests.options.long_run() {
            _ if !self.serves_requests() => self.refuse(service, "wake", self.why_down()),
            Some(_) => self.refuse(service, "wake", RUNS_LONG),
            None => Ok(()),
        }
    }

    /// `is_request`: it is not a notification, which other replicas may have received, too. Returns whether there is a
    /// loop that serves it. On standby, the loop forwards it to the holder.
    pub(super) fn request_wake(&mut self, is_request: bool) -> bool {
        self.requests.wake_requested |= is_request;
        let options = &self.requests.options;
        let is_dropped = options.long_run().is_some()
            // The holder has received the notification, too.
            || !is_request && !options.wake_on.is_empty() && self.state() == ServiceState::Standby;
        let serves = self.serves_requests();
        if serves && !is_dropped && !std::mem::replace(&mut self.requests.woken, true) {
            self.wake();
        }
        serves
    }

    pub(super) fn request_pause(&mut self, service: &str, by: PausedBy) -> Result<()> {
        if !self.serves_requests() {
            return self.refuse(service, "pause", self.why_down());
        }
        if self.requests.is_paused() {
            return self.refuse(service, "pause", "it is paused already");
        }
        self.requests.paused = Some(by);
        self.pause_long_run();
        self.wake();
        Ok(())
    }

    /// Adds to the outcome of a run what its code has reported by `cx.processed` and `cx.failed`.
    pub(crate) fn take_progress(&mut self, mut outcome: Outcome) -> Outcome {
        let progress = &mut self.requests.progress;
        outcome.processed = outcome.processed.saturating_add(std::mem::take(&mut progress.processed));
        outcome.failed = outcome.failed.saturating_add(std::mem::take(&mut progress.failed));
        outcome
    }

    /// Adds to the totals what the service's code has reported since the last run that ended. Returns that.
    pub(crate) fn count_progress(&mut self) -> Outcome {
        let reported = self.take_progress(Outcome::idle());
        self.status.stats.add(reported.processed, reported.failed);
        reported
    }

    /// Tells a long run to end within `drain_timeout`. An `update` is left to its end.
    pub(crate) fn interrupt_long_run(&mut self) {
        let options = &self.requests.options;
        if options.long_run().is_some() && self.status.in_run() {
            let drained = later(Instant::now(), options.drain_timeout);
            self.requests.interrupt.get_or_insert(drained);
            self.notify_waiters();
        }
    }

    /// The same because of a pause. Until the service has left `Starting`, it goes on.
    pub(crate) fn pause_long_run(&mut self) {
        if self.status.is_up() {
            self.interrupt_long_run();
        }
    }

    /// Takes over what the current long run has reported: that it is ready, and that it is stable. Returns whether it
    /// has become ready.
    pub(super) fn follow_long_run(&mut self, long: &LongRun) -> bool {
        let becomes_ready = self.requests.progress.ready && !self.status.is_ready();
        if becomes_ready {
            self.status.reach(StartPhase::Ready);
            if self.requests.is_paused() {
                self.interrupt_long_run();
            }
        }
        let now = Instant::now();
        let started = self.status.stats.last_started.filter(|_| !self.status.stable);
        if started.is_some_and(|started| now.duration_since(started) >= long.stable_after) {
            self.status.stable = true;
            self.status.succeeded(now);
        }
        becomes_ready
    }

    /// When the current long run has to be looked after next, if nothing else happens: when it is idle for too long, or
    /// stable.
    pub(crate) fn long_run_deadlines(&self, long: &LongRun) -> (Option<Instant>, Option<Instant>) {
        let started = self.status.stats.last_started;
        let last = self.requests.progress.last.max(started);
        // A run whose end was requested has `drain_timeout` for it.
        let is_end_requested = self.requests.stop.is_some() || self.requests.interrupt.is_some();
        let idle = long.idle_timeout.filter(|_| !is_end_requested).zip(last).map(|(limit, last)| later(last, limit));
        let stable = started.filter(|_| !self.status.stable).map(|started| later(started, long.stable_after));
        (idle, stable)
    }

    pub(super) fn request_resume(&mut self, service: &str) -> Result<()> {
        if !self.serves_requests() {
            return self.refuse(service, "resume", self.why_down());
        }
        if let Some(pause) = &self.requests.paused_by_override {
            let place = &pause.place;
            return self.refuse(service, "resume", format!("it is paused by {place}; delete that override"));
        }
        if self.requests.paused.take().is_none() {
            return self.refuse(service, "resume", "it is not paused");
        }
        self.wake();
        Ok(())
    }

    /// Requests a fresh instance in place of the current one, between two runs. Requests the end of a long run.
    pub(crate) fn request_rebuild(&mut self, rebuild: Rebuild) {
        self.requests.rebuild = self.requests.rebuild.max(Some(rebuild));
        self.interrupt_long_run();
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::fixtures::defaults;

    fn state(activity: Activity, ready: bool) -> RuntimeState {
        let mut state = RuntimeState::new(defaults());
        state.status.begin();
        state.take_steps().for_each(drop);
        state.status.activity = activity;
        state.status.start = match activity {
            _ if ready => StartPhase::Ready,
            Activity::BackingOff => StartPhase::Attempted,
            _ => StartPhase::Pending,
        };
        state.take_steps().for_each(drop);
        state
    }

    fn stop_at(run: Option<Instant>) -> StopRequest {
        StopRequest { run, ..StopRequest::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_state_follows_from_the_activity_and_the_requests() {
        use ServiceState::{BackingOff, Draining, Paused, Running, Starting};
        // (activity, ready, state, state if paused)
        let table = [
            (Activity::Waiting, false, Starting, Starting),
            (Activity::InBlockingRun, false, Starting, Starting),
            (Activity::Waiting, true, Running, Paused),
            (Activity::InRun, true, Running, Paused),
            (Activity::BackingOff, false, BackingOff, Paused),
            (Activity::BackingOff, true, BackingOff, Paused),
        ];
        for (activity, ready, expected, paused) in table {
            let mut state = state(activity, ready);
            assert_eq!(state.state(), expected, "{activity:?}");
            state.request_pause("job", PausedBy::Handle).expect("it runs");
            assert_eq!(state.state(), paused, "{activity:?}, paused");
            state.request_stop(StopRequest::default());
            assert_eq!(state.state(), Draining, "{activity:?}, stopped");
            state.status.activity = Activity::Ended(Exit::Stopped);
            assert_eq!(state.state(), ServiceState::Stopped);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_service_keeps_its_state_until_its_instance_is_cleaned_up() {
        let mut state = state(Activity::BackingOff, true);
        state.status.activity = Activity::Ending(Exit::Failed);
        assert_eq!(state.take_steps().next(), None);
        state.status.activity = Activity::Ended(Exit::Failed);
        assert_eq!(state.take_steps().collect::<Vec<_>>(), [(ServiceState::BackingOff, ServiceState::Failed)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_was_paused_while_it_started_first_enters_the_state_without_the_pause() {
        use ServiceState::{Paused, Running, Starting};
        let mut state = state(Activity::Waiting, false);
        state.request_pause("job", PausedBy::Handle).expect("it runs");
        assert_eq!(state.take_steps().next(), None);
        state.status.reach(StartPhase::Ready);
        assert_eq!(state.take_steps().collect::<Vec<_>>(), [(Starting, Running), (Running, Paused)]);
        assert_eq!((state.times_entered(Running), state.times_entered(Paused)), (1, 1));
        assert_eq!(state.take_steps().next(), None, "each step is reported once");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_of_all_stops_counts() {
        let now = Instant::now();
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        let mut state = state(Activity::InRun, true);
        let deadline = |state: &RuntimeState| state.requests.stop.as_ref().and_then(|stop| stop.run);
        // `drain_timeout` is 30 s.
        state.request_stop(stop_at(after(40)));
        assert_eq!(deadline(&state), after(30));
        state.request_stop(stop_at(after(10)));
        assert_eq!(deadline(&state), after(10));
        state.request_stop(stop_at(None));
        assert_eq!(deadline(&state), after(10));
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_loop_serves_requests_they_are_refused_and_change_nothing() {
        let mut stopping = state(Activity::InRun, true);
        stopping.request_stop(StopRequest::default());
        let ended =
            [Activity::Ending(Exit::Failed), Activity::Ended(Exit::Failed)].map(|activity| state(activity, true));
        for mut state in ended.into_iter().chain([stopping]) {
            let activity = state.status.activity;
            assert!(state.request_run("job").is_err(), "{activity:?}");
            assert!(state.request_pause("job", PausedBy::Handle).is_err(), "{activity:?}");
            assert!(state.request_resume("job").is_err(), "{activity:?}");
            assert!(!state.requests.run && !state.requests.is_paused(), "{activity:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_requested_of_an_earlier_start_is_forgotten_except_an_override() {
        let mut state = state(Activity::InRun, true);
        state.requests.paused_by_override = Some(OverridePause { place: "a table".into(), since: None }.into());
        state.request_rebuild(Rebuild::Reset);
        state.request_run("job").expect("it runs");
        state.request_stop(StopRequest::default());
        state.requests.begin();
        state.status.begin();
        assert!(state.requests.stop.is_none() && state.requests.rebuild.is_none() && !state.requests.run);
        assert!(state.is_paused());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_outweighs_changed_settings() {
        let mut state = state(Activity::InRun, true);
        state.request_rebuild(Rebuild::Reset);
        state.request_rebuild(Rebuild::Settings);
        assert_eq!(state.requests.rebuild, Some(Rebuild::Reset));
    }
}
