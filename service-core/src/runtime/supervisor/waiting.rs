//! The wait for the next run: what ends it, and whether a run is due.
//!
//! All of it happens under the lock of the service, so that a request arrives either before it, and is read, or after
//! it, and wakes the loop.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use tokio::time::{Instant, Sleep};

use super::{Due, Exit, Supervisor, WaitEvent, adopt_options};
use crate::runtime::context::Nominal;
use crate::runtime::invoker::poll_at;
use crate::runtime::requests::Rebuild;
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::status::{Activity, Status, WaitReason};
use crate::service::state::ServiceState;

/// Why a run is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Requested,
    WakeUp,
    /// The schedule, or a retry.
    Time,
    /// No run is due: the wall clock has to be checked.
    ClockCheck,
}

impl Supervisor {
    /// Waits until a run is due and begins it, or until a request arrives.
    pub(super) fn poll_wait(&mut self, task: &mut Task<'_>, timer: Pin<&mut Sleep>) -> Poll<WaitEvent> {
        let service = self.cx.service.clone();
        let event = service.update(|state| {
            state.status.at_rest = false;
            self.pending_request(state).or_else(|| {
                state.set_waker(task.waker());
                self.next_event(state, task, timer)
            })
        });
        if event.is_some_and(|event| !matches!(event, WaitEvent::Run)) {
            // What follows may take long, and others must not wait for it.
            self.leave_queue(&mut service.lock().status);
        }
        match (event, &mut self.unreturned) {
            (Some(event), _) => Poll::Ready(event),
            // Runs never overlap: the next one waits until the one that timed out has returned.
            (None, Some(unreturned)) => Pin::new(&mut unreturned.run).poll(task).map(|returned| {
                unreturned.returned = returned.ok().map(Box::new);
                WaitEvent::Returned
            }),
            (None, None) => Poll::Pending,
        }
    }

    /// A request or a change that comes before any run.
    #[inline]
    fn pending_request(&self, state: &RuntimeState) -> Option<WaitEvent> {
        if state.requests.stop.is_some() {
            return Some(WaitEvent::Stop);
        }
        if self.cx.service.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
            return Some(WaitEvent::LeaseLost);
        }
        let is_changed = !Arc::ptr_eq(&self.options, &state.requests.options);
        (is_changed || state.requests.rebuild == Some(Rebuild::Settings)).then_some(WaitEvent::Changed)
    }

    /// Begins a run that is due, or returns what is to be done before.
    #[inline]
    fn next_event(
        &mut self,
        state: &mut RuntimeState,
        task: &mut Task<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Option<WaitEvent> {
        if let Some(cron) = self.cron.as_mut().filter(|_| self.options.schedule.caught_up().is_some()) {
            state.note_pause(cron, self.cx.service.shared.clock.wall_now());
        }
        if self.unreturned.is_some() {
            return None;
        }
        // A run that waits for its turn is late since it was due.
        if self.due == Due::AtOnce && !self.turn.is_waiting() {
            state.status.next_due = None;
        }
        if std::mem::take(&mut state.requests.outage_over) && state.status.is_backing_off() {
            // When the outage is over, its failures no longer count.
            state.status.failures = 0;
            state.status.next_due = Some(Instant::now());
        }
        let Some(cause) = self.cause(state, task, timer) else {
            if self.is_asked_to_hand_over() && state.may_be_handed_over() {
                return Some(WaitEvent::HandOver);
            }
            // A pause gives its turn to others.
            self.leave_queue(&mut state.status);
            state.status.at_rest = true;
            return None;
        };
        if cause == Cause::ClockCheck {
            return Some(WaitEvent::ClockCheck);
        }
        if state.status.given_up && state.status.activity == Activity::Waiting {
            state.status.failures = 0;
        }
        let is_regular = cause == Cause::Time || self.serves_fire();
        if is_regular {
            self.take_fire();
        }
        if self.instance.is_none() {
            // If the build fails, this is what the retries serve.
            self.take_nominal(is_regular);
            return Some(WaitEvent::Build);
        }
        if let Some(turns) = self.cx.service.shared.turns.as_ref().filter(|_| self.options.long_run().is_none())
            && self.turn.poll(turns, task).is_pending()
        {
            state.status.wait_reason = Some(Box::new(WaitReason::Turn));
            if self.due == Due::AtOnce {
                state.status.next_due.get_or_insert_with(Instant::now);
            }
            return None;
        }
        self.begin_run(state, is_regular);
        Some(WaitEvent::Run)
    }

    /// Why a run is due now.
    #[inline]
    fn cause(&self, state: &RuntimeState, task: &mut Task<'_>, timer: Pin<&mut Sleep>) -> Option<Cause> {
        if state.requests.run {
            return Some(Cause::Requested);
        }
        // A retry is not made earlier.
        let woken = || (state.requests.woken && !state.status.is_backing_off()).then_some(Cause::WakeUp);
        // After a takeover the last fire is read also in a pause: it decides what the pause skips.
        let reads_last_fire = self.is_taken_over
            && state.status.activity == Activity::Waiting
            && self.options.schedule.caught_up().is_some();
        match state.status.next_due {
            None if reads_last_fire => {}
            _ if state.is_paused() && state.state() == ServiceState::Paused => return None,
            Some(at) if poll_at(task, timer, at).is_ready() => {}
            None if self.due != Due::Wake => {}
            _ => return woken(),
        }
        if self.due == Due::Cron && !self.is_fire_due() {
            // A woken run that waits for its turn keeps its place.
            return woken().or(Some(Cause::ClockCheck));
        }
        Some(Cause::Time)
    }

    fn is_fire_due(&self) -> bool {
        self.cron.as_ref().is_some_and(|cron| cron.is_due(self.cx.service.shared.clock.wall_now()))
    }

    fn is_asked_to_hand_over(&self) -> bool {
        self.cx.service.lease.as_ref().is_some_and(|lease| lease.moves_to().is_some())
    }

    /// Whether a requested run that has waited for its turn or its instance serves the fire that came due meanwhile.
    fn serves_fire(&self) -> bool {
        match self.due {
            Due::Cron => self.is_fire_due(),
            Due::AtOnce => matches!(self.nominal, Nominal::Fire(_) | Nominal::Continued(_)),
            _ => false,
        }
    }

    /// Takes the fire that is due, which the run serves.
    #[inline]
    fn take_fire(&mut self) {
        let Some(cron) = &mut self.cron else { return };
        let fire = match self.due {
            Due::Cron => cron.serve(),
            Due::Missed => cron.serve_missed(),
            _ => return,
        };
        self.due = Due::AtOnce;
        self.nominal = Nominal::fire(fire);
    }

    /// The next run, or the build before it, serves the moment of the schedule that was planned, if it is `is_regular`.
    /// A retry serves that of the attempt before.
    #[inline]
    fn take_nominal(&mut self, is_regular: bool) {
        if self.due != Due::Retry {
            self.cx.nominal =
                if is_regular && self.options.long_run().is_none() { self.nominal } else { Nominal::None };
        }
    }

    #[inline]
    fn begin_run(&mut self, state: &mut RuntimeState, is_regular: bool) {
        let requests = &mut state.requests;
        self.woken |= requests.woken;
        (requests.run, requests.woken) = (false, false);
        requests.degraded = None;
        requests.interrupt = None;
        requests.progress.last = None;
        // Those of the run before have their report.
        std::mem::swap(&mut self.current_waiters, &mut requests.waiters);
        self.take_nominal(is_regular);
        if self.cron.as_ref().is_some_and(|cron| cron.is_served()) {
            state.status.next_fire = None;
        }
        self.cx.run = state.status.begin_run(Instant::now());
        self.cx.in_run = true;
    }

    /// Ends the turn of a service that does not run now, or its wait for one.
    #[inline]
    fn leave_queue(&mut self, status: &mut Status) {
        self.turn.end();
        status.wait_reason.take_if(|reason| matches!(**reason, WaitReason::Turn));
    }

    /// Handles an event that ended the wait without a run.
    pub(super) async fn follow_up(&mut self, event: WaitEvent) -> Option<Exit> {
        match event {
            WaitEvent::Changed => self.adopt_changes().await,
            WaitEvent::ClockCheck => {
                self.recheck_clock();
                self.record_pending_fire(false).await;
            }
            WaitEvent::Returned => self.take_back().await,
            WaitEvent::LeaseLost => return self.lose_lease().await,
            WaitEvent::HandOver => return self.hand_over().await,
            WaitEvent::Stop | WaitEvent::Build | WaitEvent::Run => unreachable!("the loop itself handles these"),
        }
        None
    }

    /// Uses the options that are in effect now, and a fresh instance if the service's own settings have changed.
    async fn adopt_changes(&mut self) {
        let rebuild = {
            let mut state = self.cx.service.lock();
            adopt_options(&mut self.options, &mut state);
            state.requests.rebuild.take_if(|rebuild| *rebuild == Rebuild::Settings).is_some()
        };
        if rebuild && !self.registered.factory.is_ready_made() {
            self.replace_instance().await;
        }
        self.follow_schedule();
        self.plan_again();
        self.record_pending_fire(false).await;
    }
}
