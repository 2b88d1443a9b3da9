//! [`Entry`]: one registered service, shared by its handles, its supervisor and its contexts.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::config::Resolved;
use crate::config::options::{Options, ServiceOptions};
#[cfg(feature = "database")]
use crate::database::ServiceDb;
use crate::humanize;
use crate::registry::builder::Place;
use crate::runtime::context::Context;
#[cfg(feature = "database")]
use crate::runtime::control::Hold;
use crate::runtime::control::{Control, StopBy};
use crate::runtime::events::{ServiceEvent, ServiceEventKind};
use crate::runtime::lifecycle::{BoxFuture, Build, Lifecycle, ServiceDescriptor};
use crate::runtime::metrics::Metrics;
use crate::runtime::rate_limit::Rate;
use crate::runtime::shared::Hub;
use crate::schedule::Schedule;
use crate::service::error::{Error, Result};
use crate::service::state::ServiceState;

/// Where instances come from.
pub(crate) enum Factory {
    /// Handed over; there is no second one.
    ReadyMade(Box<Mutex<Option<Box<dyn Lifecycle>>>>),
    /// A closure of the user's.
    Closure(Arc<dyn Fn() -> Box<dyn Lifecycle> + Send + Sync>),
    /// `configure` or `Default`.
    Build(Build),
}

impl Factory {
    /// Whether another instance can be had.
    pub(crate) fn has_next(&self) -> bool {
        match self {
            Self::ReadyMade(slot) => slot.lock().unwrap_or_else(PoisonError::into_inner).is_some(),
            _ => true,
        }
    }

    pub(crate) fn is_ready_made(&self) -> bool {
        matches!(self, Self::ReadyMade(_))
    }

    /// The next instance.
    pub(crate) fn build(&self, service: &str, cx: Context) -> BoxFuture<'static, Result<Box<dyn Lifecycle>>> {
        let built = match self {
            Self::Build(build) => return build(cx),
            Self::ReadyMade(slot) => {
                slot.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(|| used_up(service))
            }
            Self::Closure(make) => {
                // Called where a panic is seen as one.
                let make = make.clone();
                return Box::pin(async move { Ok(make()) });
            }
        };
        Box::pin(std::future::ready(built))
    }
}

/// A ready-made instance is gone, and there is no other.
pub(crate) fn used_up(service: &str) -> Error {
    Error::fatal(format!(
        "service `{service}` was handed over as a ready-made instance, which has ended; \
         register it with `service_fn` (or `register_fn`) so that a fresh one can be built"
    ))
}

/// The words of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "not a text".to_owned()),
    }
}

/// One registered service.
pub(crate) struct Entry {
    pub(crate) id: Arc<str>,
    pub(crate) descriptor: &'static ServiceDescriptor,
    pub(crate) factory: Factory,
    /// Where code registered it, where the attribute did not.
    called_at: Option<&'static Location<'static>>,
    /// What code set, for resolving anew.
    pub(crate) code: Option<Box<ServiceOptions>>,
    /// Made when the first of it is used.
    extras: OnceLock<Box<Extras>>,
    pub(crate) hub: Arc<Hub>,
    control: Mutex<Control>,
}

/// What many services never use: apart, so that those take no memory for it.
#[derive(Default)]
struct Extras {
    metrics: Metrics,
    rate: Rate,
    #[cfg(feature = "database")]
    access: OnceLock<ServiceDb>,
}

impl Entry {
    pub(crate) fn new(
        id: Arc<str>,
        descriptor: &'static ServiceDescriptor,
        place: Place,
        factory: Factory,
        code: Option<Box<ServiceOptions>>,
        resolved: Arc<Resolved>,
        hub: Arc<Hub>,
    ) -> Self {
        Self {
            id,
            descriptor,
            called_at: match place {
                Place::Attribute(_) => None,
                Place::Call(location) => Some(location),
            },
            factory,
            code,
            extras: OnceLock::new(),
            hub,
            control: Mutex::new(Control::new(resolved)),
        }
    }

    /// The lock is never held across user code, so a poisoned one still guards a whole state.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps into a state and tells everyone who waits.
    pub(crate) fn enter(&self, control: &mut Control, next: ServiceState) {
        let from = control.state();
        if control.enter(next) {
            self.tell_change(control, from, next);
        }
    }

    pub(crate) fn tell_change(&self, control: &mut Control, from: ServiceState, to: ServiceState) {
        self.emit(|| ServiceEventKind::StateChanged { from, to });
        control.tell_changed_state();
        self.hub.changed.notify_waiters();
    }

    #[inline]
    pub(crate) fn emit(&self, kind: impl FnOnce() -> ServiceEventKind) {
        if self.hub.events.wanted() {
            self.send(kind());
        }
    }

    #[cold]
    fn send(&self, kind: ServiceEventKind) {
        let event = ServiceEvent { service_id: self.id.clone(), at: self.hub.clock.wall_now(), kind };
        self.hub.events.send(event);
    }

    /// Tells those who wait for the start that there is nothing more to wait for.
    pub(crate) fn tell_settled(&self, control: &mut Control) {
        control.tell_changed_state();
        self.hub.changed.notify_waiters();
    }

    /// Where it was registered.
    pub(crate) fn place(&self) -> Place {
        self.called_at.map_or(Place::Attribute(self.descriptor), Place::Call)
    }

    /// Who it acts as, where that is not the registry's own.
    pub(crate) fn requester_id(&self) -> Option<&str> {
        self.code.as_ref()?.requester_id.as_deref()
    }

    fn extras(&self) -> &Extras {
        self.extras.get_or_init(Box::default)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.extras().metrics
    }

    pub(crate) fn metrics_so_far(&self) -> BTreeMap<String, f64> {
        self.extras.get().map(|extras| extras.metrics.snapshot()).unwrap_or_default()
    }

    /// The rate limit's memory.
    pub(crate) fn rate(&self) -> &Rate {
        &self.extras().rate
    }

    /// This service's way to the database, made when it is first asked for.
    #[cfg(feature = "database")]
    pub(crate) fn access(&self, db: &sea_orm::DatabaseConnection) -> &ServiceDb {
        self.extras().access.get_or_init(|| {
            let hub = self.hub.clone();
            let clock = crate::database::WallClock::new(move || hub.clock.wall_now().into());
            let tables = self.hub.presence.tables().clone();
            let queue = self.hub.write_queue.clone();
            ServiceDb::new(db.clone(), self.id.clone()).with_clock(clock).with_tables(tables).with_write_lock(queue)
        })
    }

    #[cfg(feature = "database")]
    pub(crate) fn has_used_database(&self) -> bool {
        self.extras.get().is_some_and(|extras| extras.access.get().is_some())
    }

    /// The outage of the database, where this service has used it.
    #[cfg(feature = "database")]
    pub(crate) fn outage(&self) -> Option<crate::database::Outage> {
        if self.has_used_database() { self.hub.presence.outage() } else { None }
    }

    /// It backs off, and whether from a failure that may be the database's, of what `began` then. Where the database has
    /// come back meanwhile, nobody will say so again.
    #[cfg(feature = "database")]
    pub(crate) fn wait_for_database(&self, waits: bool, began: tokio::time::Instant) {
        let mut control = self.lock();
        match control.hold() {
            None if waits => control.set_hold(Hold::Database),
            Some(Hold::Database) if !waits => control.let_go(),
            _ => {}
        }
        if self.hub.presence.recovered_since(began) {
            try_again(&mut control);
        }
    }

    /// The database is back: who waits for it tries again at once, but not before the moment that it has named itself.
    #[cfg(feature = "database")]
    pub(crate) fn database_is_back(&self) {
        try_again(&mut self.lock());
    }

    /// The way to the database, where the run that just ended left something to settle there.
    #[cfg(feature = "database")]
    pub(crate) fn has_unsettled(&self) -> Option<&ServiceDb> {
        self.extras.get()?.access.get().filter(|access| access.has_unsettled())
    }

    /// Whether a database commit of this service's is in flight.
    pub(crate) fn is_committing(&self) -> bool {
        #[cfg(feature = "database")]
        return self
            .extras
            .get()
            .and_then(|extras| extras.access.get())
            .is_some_and(|access| access.commits().in_progress());
        #[cfg(not(feature = "database"))]
        false
    }

    /// Asks it to stop, and says which life that ends.
    pub(crate) fn ask_stop(&self, by: StopBy) -> u32 {
        let mut control = self.lock();
        let from = control.state();
        if from.is_running() {
            if control.ask_stop(by) {
                self.tell_change(&mut control, from, ServiceState::Draining);
            } else {
                control.tell_changed_state();
            }
        }
        control.life
    }

    pub(crate) fn ask_pause(&self, by_itself: bool) -> Result<()> {
        let mut control = self.lock();
        let from = control.state();
        if control.ask_pause(&self.id, by_itself)? {
            let to = control.state();
            self.tell_change(&mut control, from, to);
        }
        Ok(())
    }

    pub(crate) fn ask_resume(&self) -> Result<()> {
        let mut control = self.lock();
        let from = control.state();
        if control.ask_resume(&self.id)? {
            let to = control.state();
            self.tell_change(&mut control, from, to);
        }
        Ok(())
    }

    pub(crate) fn set_interval(&self, interval: Duration) {
        let interval = interval.max(Duration::from_millis(1));
        self.change("interval", interval, |options| {
            options.schedule = match options.schedule {
                Schedule::Delay(_) => Schedule::Delay(interval),
                _ => Schedule::Interval(interval),
            };
        });
    }

    pub(crate) fn set_retry_delay(&self, delay: Duration) {
        self.change("retry_delay", delay, |options| options.retry_delay = delay);
    }

    /// The configuration has been resolved anew. What the service itself changed stays, where no layer speaks of it anew.
    #[cfg(feature = "database")]
    pub(crate) fn reconfigure(&self, resolved: Arc<Resolved>, own_changed: bool) {
        let mut control = self.lock();
        let mut options = (*resolved.options).clone();
        let before = &control.resolved.options;
        if before.schedule == options.schedule {
            options.schedule = control.options.schedule.clone();
        }
        if before.retry_delay == options.retry_delay {
            options.retry_delay = control.options.retry_delay;
        }
        control.options = Arc::new(options);
        control.resolved = resolved;
        control.reconfigure |= own_changed && control.state().is_running();
        control.changed = true;
        control.wake();
    }

    /// An operator's override pauses it, or does so no longer.
    #[cfg(feature = "database")]
    pub(crate) fn pause_by_override(&self, place: Option<String>) {
        let mut control = self.lock();
        let was_held = control.held_by().is_some();
        control.set_held_by(place);
        let from = control.state();
        // What cannot be paused or resumed is as wanted, or will be when it starts.
        let changed = match (was_held, control.held_by().is_some()) {
            (_, true) if !control.paused => {
                control.paused_by_override = true;
                control.ask_pause(&self.id, false)
            }
            // Whoever paused it before the override did wants it paused still.
            (true, false) if std::mem::take(&mut control.paused_by_override) => control.ask_resume(&self.id),
            _ => return,
        };
        if changed.unwrap_or_default() {
            let to = control.state();
            self.tell_change(&mut control, from, to);
        }
    }

    /// Changes an option while running; the supervisor is told.
    fn change(&self, key: &'static str, value: Duration, change: impl FnOnce(&mut Options)) {
        let mut control = self.lock();
        change(Arc::make_mut(&mut control.options));
        control.changed = true;
        control.wake();
        drop(control);
        self.emit(|| ServiceEventKind::OptionChanged { key, value: humanize::short(value) });
    }

    /// Waits until `reached` gives something, looking again at every change of state.
    pub(crate) async fn until<T>(&self, mut reached: impl FnMut(&mut Control) -> Option<T>) -> T {
        loop {
            let changing = {
                let mut control = self.lock();
                if let Some(found) = reached(&mut control) {
                    return found;
                }
                control.changing_state()
            };
            changing.await;
        }
    }

    /// Whether the caller stands inside this service's own code, as far as the thread can tell.
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
        work()
    }
}

/// Ends the wait for the database, where there is one.
#[cfg(feature = "database")]
fn try_again(control: &mut Control) {
    if matches!(control.hold(), Some(Hold::Database)) && control.retrying && !control.in_flight {
        // What the outage counted is forgiven: the first moments after one are no better than it was.
        control.failures = 0;
        control.plan(Some(tokio::time::Instant::now()));
        control.is_due = true;
        control.wake();
    }
}

thread_local! {
    /// The service whose code this thread is in, as an address; 0 is none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("id", &self.id).field("state", &self.lock().state()).finish_non_exhaustive()
    }
}
