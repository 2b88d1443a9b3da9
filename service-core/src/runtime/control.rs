//! [`Control`]: what handles ask of a service and what its supervisor answers, behind one lock.
//!
//! The tricky part: both sides change the state, so every change goes through [`Control::enter`], which knows the
//! legal steps. A request only writes what is wanted and wakes the supervisor; what cannot be had is refused here, at
//! once, and changes nothing.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::config::Resolved;
use crate::config::options::Options;
use crate::runtime::driver::Life;
use crate::schedule::Grid;
use crate::service::error::Error;
use crate::service::outcome::{Outcome, RunReport};
use crate::service::state::ServiceState;

mod asking;
mod stats;

pub use asking::StateError;
pub(crate) use asking::StopBy;
use stats::Stats;

/// Why a service is not simply waiting for its next run.
#[derive(Clone, Debug)]
pub(crate) enum Hold {
    /// Starting: waits for these services.
    Dependencies(Box<[Arc<str>]>),
    /// A blocking run that timed out has not returned yet.
    Blocked,
    /// It failed and a fresh instance will follow.
    Restart,
    /// Backing off from a failure that may be the database's: one that comes back ends the wait.
    #[cfg(feature = "database")]
    Database,
}

/// Who waits for a run.
pub(crate) type Waiters = Vec<oneshot::Sender<RunReport>>;

/// What is seldom there: apart, so that a waiting service takes no memory for it.
#[derive(Debug, Default)]
struct Aside {
    /// Who wants the next run.
    waiters: Waiters,
    /// Who waits for the run in flight.
    served: Waiters,
    hold: Option<Hold>,
    last_error: Option<Error>,
    degraded: Option<Box<str>>,
    /// An operator's override pauses it: which.
    held_by: Option<Box<str>>,
}

/// Everything that both sides share.
pub(crate) struct Control {
    state: ServiceState,
    /// How often each state was entered, so that nobody waits for one that came and went.
    entered: [u16; 8],
    /// Starts so far; tells one life from the next.
    pub(crate) life: u32,
    /// The first instance is there, or its building has failed.
    pub(crate) settled: bool,
    pub(crate) stop: Option<Box<StopBy>>,
    pub(crate) paused: bool,
    /// Whether the pause was its own wish.
    pub(crate) paused_by_itself: bool,
    /// The instance is ending for good; nothing more can be asked of it.
    pub(crate) ending: bool,
    /// Its first instance of this life has been built.
    pub(crate) up: bool,
    /// A fresh instance is wanted after the run in flight.
    pub(crate) renew: bool,
    /// The settings of its own have changed: the next run wants a fresh instance.
    pub(crate) reconfigure: bool,
    /// An operator's override pauses it, and nobody else did.
    pub(crate) paused_by_override: bool,
    /// A run is wanted.
    pub(crate) run_wanted: bool,
    pub(crate) in_flight: bool,
    /// Whether what comes next is a retry.
    pub(crate) retrying: bool,
    pub(crate) failures: u32,
    /// The configuration, as it was resolved.
    pub(crate) resolved: Arc<Resolved>,
    /// Its options, with what the service itself changed.
    pub(crate) options: Arc<Options>,
    /// The options were changed since the supervisor last looked.
    pub(crate) changed: bool,
    pub(crate) next_due: Option<Instant>,
    /// That moment has come.
    pub(crate) is_due: bool,
    /// The life waits for nothing but `next_due` and for what may be asked.
    pub(crate) waits: bool,
    /// Something was asked since the life last looked.
    pub(crate) asked: bool,
    /// The life, while it waits.
    pub(crate) parked: Option<Life>,
    /// The grid of its schedule; before it is up, the moment at which its start began.
    pub(crate) grid: Grid,
    aside: Option<Box<Aside>>,
    /// Unregistered.
    pub(crate) forgotten: bool,
    pub(crate) stats: Stats,
    /// Moving average of the durations of runs that ended well, in seconds.
    pub(crate) usual: f32,
    waker: Option<Waker>,
    /// Told at every change of state; made by the first who waits for one.
    changed_state: Option<Arc<Notify>>,
}

impl Control {
    pub(crate) fn new(resolved: Arc<Resolved>) -> Self {
        Self {
            state: ServiceState::Created,
            entered: [0; 8],
            life: 0,
            settled: false,
            stop: None,
            paused: false,
            paused_by_itself: false,
            ending: false,
            up: false,
            renew: false,
            reconfigure: false,
            paused_by_override: false,
            run_wanted: false,
            in_flight: false,
            retrying: false,
            failures: 0,
            options: resolved.options.clone(),
            resolved,
            changed: false,
            next_due: None,
            is_due: false,
            waits: false,
            asked: false,
            parked: None,
            grid: Grid::new(Instant::now()),
            aside: None,
            forgotten: false,
            stats: Stats::default(),
            usual: 0.0,
            waker: None,
            changed_state: None,
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> ServiceState {
        self.state
    }

    pub(crate) fn times_entered(&self, state: ServiceState) -> u16 {
        self.entered[state as usize]
    }

    /// Steps into `next`, and says whether that was a change.
    pub(crate) fn enter(&mut self, next: ServiceState) -> bool {
        if self.state == next {
            return false;
        }
        debug_assert!(self.state.may_become(next), "{} may not become {next}", self.state);
        self.state = next;
        let entered = &mut self.entered[next as usize];
        *entered = entered.wrapping_add(1);
        true
    }

    /// Has the supervisor look again when something is asked.
    #[inline]
    pub(crate) fn listen(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    /// Ends with the next change of state, even if that comes before it is polled.
    pub(crate) fn changing_state(&mut self) -> OwnedNotified {
        self.changed_state.get_or_insert_default().clone().notified_owned()
    }

    /// Has those who wait for a change of state look again.
    pub(crate) fn tell_changed_state(&mut self) {
        if let Some(waiting) = self.changed_state.take() {
            waiting.notify_waiters();
        }
    }

    /// Why it is not simply waiting for its next run.
    pub(crate) fn hold(&self) -> Option<&Hold> {
        self.aside.as_ref()?.hold.as_ref()
    }

    pub(crate) fn set_hold(&mut self, hold: Hold) {
        self.aside.get_or_insert_default().hold = Some(hold);
    }

    pub(crate) fn let_go(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.hold = None;
        }
    }

    /// What failed last, be it long ago.
    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.aside.as_ref()?.last_error.as_ref()
    }

    /// What the last run said that it lacks.
    pub(crate) fn degraded(&self) -> Option<&str> {
        self.aside.as_ref()?.degraded.as_deref()
    }

    /// The operator's override that pauses it.
    pub(crate) fn held_by(&self) -> Option<&str> {
        self.aside.as_ref()?.held_by.as_deref()
    }

    #[cfg(feature = "database")]
    pub(crate) fn set_held_by(&mut self, place: Option<String>) {
        if place.is_some() || self.aside.is_some() {
            self.aside.get_or_insert_default().held_by = place.map(String::into_boxed_str);
        }
    }

    pub(crate) fn set_degraded(&mut self, reason: Box<str>) {
        self.aside.get_or_insert_default().degraded = Some(reason);
    }

    /// Has no waker any more: nobody listens.
    pub(crate) fn deafen(&mut self) {
        self.waker = None;
    }

    /// Plans the next run.
    #[inline]
    pub(crate) fn plan(&mut self, due: Option<Instant>) {
        self.next_due = due;
        self.is_due = false;
    }

    /// Whether a life that waits has something to do.
    #[inline]
    pub(crate) fn is_called(&self) -> bool {
        self.asked || (self.is_due && self.state != ServiceState::Paused)
    }

    /// Whether the life waits for nothing but its next run, and nothing calls it.
    #[cfg(feature = "testing")]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.waits && !self.is_called()
    }

    /// Gives out the parked life where there is something to do, or this is the moment for which its run is due.
    #[inline]
    pub(crate) fn unpark(&mut self, at: Option<Instant>) -> Option<Life> {
        self.is_due |= at.is_some() && at == self.next_due;
        if self.is_called() { self.parked.take() } else { None }
    }

    pub(crate) fn wake(&mut self) {
        self.asked = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether a fresh instance follows the run in flight, however that ends.
    pub(crate) fn is_renewed(&self) -> bool {
        self.renew && self.stop.is_none()
    }

    /// Begins a new life.
    pub(crate) fn begin(&mut self) {
        self.enter(ServiceState::Starting);
        self.life = self.life.wrapping_add(1);
        self.settled = false;
        self.stop = None;
        self.paused = self.held_by().is_some();
        self.paused_by_override = self.paused;
        self.ending = false;
        self.up = false;
        self.renew = false;
        self.reconfigure = false;
        self.run_wanted = false;
        self.retrying = false;
        self.failures = 0;
        self.plan(None);
        self.waits = false;
        self.grid = Grid::new(Instant::now());
        if let Some(aside) = &mut self.aside {
            aside.hold = None;
            aside.degraded = None;
        }
    }

    /// A run begins: its number.
    #[inline]
    pub(crate) fn begin_run(&mut self, now: Instant) -> u64 {
        self.in_flight = true;
        self.retrying = false;
        self.run_wanted = false;
        self.plan(None);
        if let Some(aside) = &mut self.aside {
            aside.degraded = None;
            aside.served = std::mem::take(&mut aside.waiters);
            aside.hold = None;
        }
        self.stats.runs += 1;
        self.stats.last_started = Some(now);
        self.stats.runs
    }

    /// The run in flight ended well. Gives back when it began, how long it took and who waits for it.
    #[inline]
    pub(crate) fn end_run_well(&mut self, outcome: Outcome, ended: Instant) -> (Instant, Duration, Waiters) {
        let started = self.stats.last_started.unwrap_or(ended);
        let duration = ended.duration_since(started);
        self.in_flight = false;
        self.failures = 0;
        self.stats.set_last_duration(duration);
        self.stats.processed += outcome.processed;
        self.learn(duration);
        (started, duration, self.take_served())
    }

    /// The run in flight failed, or an instance could not be built. Gives back who waits for it.
    pub(crate) fn end_run_badly(&mut self, error: &Error, duration: Option<Duration>) -> Waiters {
        self.in_flight = false;
        self.stats.errors = self.stats.errors.saturating_add(1);
        self.aside.get_or_insert_default().last_error = Some(error.clone());
        match duration {
            Some(duration) => {
                self.stats.set_last_duration(duration);
                self.take_served()
            }
            None => {
                // No instance could be built for the run that was asked for.
                self.run_wanted = false;
                self.aside.as_mut().map(|aside| std::mem::take(&mut aside.waiters)).unwrap_or_default()
            }
        }
    }

    /// Somebody waits for the next run.
    pub(crate) fn add_waiter(&mut self, waiter: oneshot::Sender<RunReport>) {
        self.aside.get_or_insert_default().waiters.push(waiter);
    }

    /// Whoever still waits for a run is told by the dropped sender.
    pub(crate) fn forget_waiters(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.waiters.clear();
            aside.served.clear();
        }
        self.run_wanted = false;
    }

    #[inline]
    fn learn(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f32();
        self.usual = if self.usual == 0.0 { seconds } else { self.usual * 0.8 + seconds * 0.2 };
    }

    fn take_served(&mut self) -> Waiters {
        self.aside.as_mut().map(|aside| std::mem::take(&mut aside.served)).unwrap_or_default()
    }
}
