//! [`HeldClock`]: virtual time with a real database.
//!
//! A paused clock advances to its next timer whenever every task waits. A task that waits for a database waits for real
//! time, so the clock would advance past the timeouts of the pool. So a bed with a database holds the clock, unless a
//! caller waits for services and no statement is in flight.
//!
//! The tricky part is that tokio advances the clock as soon as all tasks wait. So a task of the bed, the keeper, is
//! woken by the task that begins a statement, and does not wait before the statement has ended. If a connection stays
//! in use, PostgreSQL is asked whether it executes a statement. Where the pool is not known, or the database cannot be
//! asked, silence has to do. If nothing is in flight although a connection is in use, the clock moves by small steps.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::clock_gate::{ClockGate, Moving, moving_beside};
use super::patience::{LONG_SILENCE, Patience, QUICK, QUIET, SHORT_SILENCE, real_time_passes};
use super::settle::settle;
use super::stall::{Watched, watch};
use crate::race::either;
use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::runtime::extension::{Extension, RealWork, RealWorkState, VirtualTime};
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::services::Services;
use crate::sync::Mutex;

/// How far the clock moves at most if it is not known whether a statement is in flight.
const STEP: Duration = Duration::from_millis(250);
/// While a run uses the database, changes in the framework's tables are read this often.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3);

/// Holds a paused clock, until it is dropped, unless a caller waits for services and no work in real time goes on.
#[derive(Debug)]
pub(crate) struct HeldClock {
    runtime: Handle,
    gate: Arc<Mutex<ClockGate>>,
    /// The bed has been dropped.
    has_ended: AtomicBool,
    work: OnceLock<Arc<dyn RealWork>>,
    /// Work in real time begins.
    begins: Notify,
    /// How often that of a service began.
    begun: AtomicU64,
    refreshing: AtomicBool,
    refreshed: Mutex<Refreshed>,
    /// The registries on this clock: one, or several replicas.
    registries: Mutex<Vec<Weak<RegistryInner>>>,
}

/// The last time when the framework's tables were read.
#[derive(Clone, Copy, Debug, Default)]
struct Refreshed {
    at: Option<Instant>,
    begun: u64,
}

impl HeldClock {
    /// Holds the clock. Returns `None` if it is not paused.
    pub(super) fn hold_paused() -> Option<Arc<Self>> {
        if !is_paused() {
            return None;
        }
        let clock = Arc::new(Self {
            runtime: Handle::current(),
            gate: ClockGate::of_this_thread(),
            has_ended: AtomicBool::new(false),
            work: OnceLock::new(),
            begins: Notify::new(),
            begun: AtomicU64::new(0),
            refreshing: AtomicBool::new(false),
            refreshed: Mutex::default(),
            registries: Mutex::default(),
        });
        clock.gate.lock().add_bed();
        tokio::spawn(keep(clock.clone()));
        Some(clock)
    }

    /// Adds a registry on this clock.
    pub(super) fn add(&self, registry: &ServiceRegistry) {
        self.registries.lock().push(Arc::downgrade(&registry.inner));
    }

    /// Returns the other replicas on this clock.
    pub(super) fn others(&self, services: &Arc<Services>) -> Vec<Arc<RegistryInner>> {
        let registries = self.registries.lock();
        let others = registries.iter().filter_map(Weak::upgrade);
        others.filter(|registry| !Arc::ptr_eq(&registry.services, services)).collect()
    }

    /// From now on the clock is not held.
    pub(super) fn end(&self) {
        if !self.has_ended.swap(true, Ordering::SeqCst) {
            self.gate.lock().remove_bed();
        }
        self.begins.notify_waiters();
    }

    /// Sets the work that the clock stands still for, once.
    pub(super) fn wait_for(&self, work: Arc<dyn RealWork>) {
        let _ = self.work.set(work);
    }

    /// Work in real time begins: of a service, or the registry's own. Called by the task that begins it.
    pub(super) fn work_begins(&self, is_registrys: bool) {
        if !is_registrys && !self.refreshing.load(Ordering::SeqCst) {
            self.begun.fetch_add(1, Ordering::SeqCst);
        }
        self.begins.notify_waiters();
    }

    /// Awaits `work`, which waits for services, and lets time move.
    pub(super) async fn moving<T>(
        &self,
        services: &Arc<Services>,
        extension: &dyn Extension,
        work: impl Future<Output = T>,
    ) -> T {
        either(work, self.drive(services, extension)).await
    }

    /// The next caller reads the framework's tables first: they may have been changed in any way.
    pub(super) fn expect_changes(&self) {
        self.refreshed.lock().at = None;
    }

    /// Waits until everything that is due at this very moment has happened, also what takes real time.
    pub(super) async fn settle(&self, services: &Arc<Services>, extension: &dyn Extension) {
        let mut patience = Patience::default();
        loop {
            if !self.is_done(&mut patience).await {
                return;
            }
            if self.is_refresh_due(services, extension) && self.refresh(services, extension).await {
                continue;
            }
            let begun = self.begun.load(Ordering::SeqCst);
            settle(services).await;
            for other in self.others(services) {
                settle(&other.services).await;
            }
            if begun == self.begun.load(Ordering::SeqCst) && self.state().active == Some(0) {
                return;
            }
        }
    }

    /// Lets time move while it is polled, and reads the framework's tables when that is due. It never ends.
    async fn drive<T>(&self, services: &Arc<Services>, extension: &dyn Extension) -> T {
        let _moving = Moving::new(self.gate.clone());
        let mut patience = Patience::default();
        loop {
            let begins = self.begins.notified();
            let known = self.is_done(&mut patience).await;
            let may_refresh = known || self.state().active.is_none();
            if may_refresh && self.is_refresh_due(services, extension) && self.refresh(services, extension).await {
                continue;
            }
            let now = Instant::now();
            // What is overdue waits for the end of a transaction.
            let expiry = self.refresh_at(services, extension).map(|at| if at <= now { now + STEP } else { at });
            wait(begins, if known { expiry } else { Some(Instant::now() + STEP) }).await;
        }
    }

    /// Waits until no work in real time goes on, and none begins at this very moment: between two statements of a task
    /// there is none, too. Returns `false` if that is not known, but nothing has happened for a while.
    async fn is_done(&self, patience: &mut Patience) -> bool {
        let (mut reopening, mut idle) = (None, 0);
        loop {
            let state = self.state();
            let is_idle = state.active == Some(0) && state.closed == 0;
            idle = if is_idle { idle + 1 } else { 0 };
            match (state.active, &reopening) {
                _ if idle > QUIET => return true,
                _ if is_idle => {
                    tokio::task::yield_now().await;
                    continue;
                }
                // They cannot be opened: an outage.
                (Some(0), Some(ended)) if JoinHandle::is_finished(ended) => return false,
                (Some(0), None) => {
                    reopening = self.work.get().map(|work| self.runtime.spawn(work.reopen()));
                }
                _ if patience.is_over(state, self.begun.load(Ordering::SeqCst)) => return false,
                _ if patience.may_ask() => match self.executes().await {
                    Some(true) => patience.renew(),
                    Some(false) if self.state() == state => {
                        patience.end();
                        return false;
                    }
                    _ => {}
                },
                _ => {}
            }
            real_time_passes(patience.silence).await;
        }
    }

    /// Whether the database executes a statement. `None`: it cannot be asked, or does not answer. On a busy machine,
    /// the server may get less processor time than this process, so silence alone does not show that nothing is in
    /// flight.
    async fn executes(&self) -> Option<bool> {
        let asked = self.runtime.spawn(self.work.get()?.executes());
        for _ in 0..LONG_SILENCE {
            if asked.is_finished() {
                return asked.await.ok().flatten();
            }
            real_time_passes(QUICK + SHORT_SILENCE).await;
        }
        asked.abort();
        None
    }

    fn state(&self) -> RealWorkState {
        self.work.get().map(|work| work.state()).unwrap_or_default()
    }

    fn refresh_due(&self, services: &Arc<Services>, extension: &dyn Extension) -> Option<SystemTime> {
        let others = self.others(services);
        let others = others.iter().filter_map(|other| other.extension.refresh_due(&other.services));
        extension.refresh_due(services).into_iter().chain(others).min()
    }

    /// When the tables have to be read because something expires. If they were read since then, the database has not
    /// answered.
    fn refresh_at(&self, services: &Arc<Services>, extension: &dyn Extension) -> Option<Instant> {
        let due = instant_of(services, self.refresh_due(services, extension)?);
        match self.refreshed.lock().at {
            Some(at) if due <= at => Some(at + REFRESH_INTERVAL),
            _ => Some(due),
        }
    }

    fn is_refresh_due(&self, services: &Arc<Services>, extension: &dyn Extension) -> bool {
        // A transaction that is open could hold a lock.
        if self.state().waiting > 0 {
            return false;
        }
        let refreshed = *self.refreshed.lock();
        let Some(at) = refreshed.at else { return true };
        let has_expired = self.refresh_at(services, extension).is_some_and(|due| due <= Instant::now());
        let others = self.others(services);
        let in_run = || {
            let all = [services].into_iter().chain(others.iter().map(|other| &other.services));
            all.flat_map(|services| services.all()).any(|service| service.inner.lock().status.in_run())
        };
        let was_used = refreshed.begun != self.begun.load(Ordering::SeqCst);
        let may_be_old = at.elapsed() >= REFRESH_INTERVAL && (was_used || self.state().active.is_none());
        has_expired || may_be_old || was_used && !in_run()
    }

    /// Reads the framework's tables. Returns `false` if that has to wait for virtual time: transactions that sleep may
    /// have taken all connections in the meantime.
    async fn refresh(&self, services: &Arc<Services>, extension: &dyn Extension) -> bool {
        let begun = self.begun.load(Ordering::SeqCst);
        let mut refresh = Box::pin(async {
            extension.refresh(services).await;
            for other in self.others(services) {
                other.extension.refresh(&other.services).await;
            }
        });
        let refreshed = poll_fn(|task| {
            self.refreshing.store(true, Ordering::SeqCst);
            let polled = refresh.as_mut().poll(task);
            self.refreshing.store(false, Ordering::SeqCst);
            polled.map(|()| true)
        });
        let stuck = async {
            let (mut patience, mut idle) = (Patience::default(), 0);
            while idle < QUICK + SHORT_SILENCE && !patience.is_over(self.state(), self.begun.load(Ordering::SeqCst)) {
                idle = if self.state().active == Some(0) { idle + 1 } else { 0 };
                real_time_passes(patience.silence).await;
            }
            false
        };
        let done = either(refreshed, stuck).await;
        if done {
            *self.refreshed.lock() = Refreshed { at: Some(Instant::now()), begun };
        }
        done
    }
}

/// Keeps the clock from advancing while work goes on, until the bed is dropped: it does not wait, or a blocking task
/// sleeps.
async fn keep(clock: Arc<HeldClock>) {
    let mut patience = Patience::default();
    while !clock.has_ended.load(Ordering::SeqCst) {
        let begins = clock.begins.notified();
        let until = match clock.is_done(&mut patience).await {
            true => None,
            false => Some(Instant::now() + STEP),
        };
        wait(begins, until).await;
    }
}

/// Waits until work begins, or until a moment of virtual time.
async fn wait(begins: impl Future<Output = ()>, until: Option<Instant>) {
    match until {
        Some(until) => either(begins, tokio::time::sleep_until(until)).await,
        None => begins.await,
    }
}

/// Lets a held clock move for callers that wait for services.
#[derive(Debug)]
pub(super) struct HeldTime(pub(super) Arc<HeldClock>);

impl VirtualTime for HeldTime {
    fn mover(&self, services: Arc<Services>, extension: Arc<dyn Extension>) -> BoxFuture<'static, ()> {
        let clock = self.0.clone();
        let watched = Watched::all(&clock.gate);
        Box::pin(watch(watched, async move { clock.drive(&services, &*extension).await }))
    }
}

/// Lets the clock of another bed move for callers that wait for services of a bed that does not hold it.
#[derive(Debug)]
pub(super) struct TimeBeside(pub(super) Arc<Mutex<ClockGate>>);

impl VirtualTime for TimeBeside {
    fn mover(&self, _services: Arc<Services>, _extension: Arc<dyn Extension>) -> BoxFuture<'static, ()> {
        Box::pin(watch(Watched::all(&self.0), moving_beside(self.0.clone(), std::future::pending())))
    }

    fn is_held(&self) -> bool {
        false
    }
}

fn is_paused() -> bool {
    let before = Instant::now();
    std::thread::sleep(Duration::from_millis(2));
    Instant::now() == before
}

fn instant_of(services: &Services, wall: SystemTime) -> Instant {
    let ahead = wall.duration_since(services.shared.clock.wall_now()).unwrap_or_default();
    Instant::now() + ahead
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBed;

    /// With a driver of the application's, it cannot be seen whether a statement is in flight.
    #[tokio::test(start_paused = true)]
    async fn without_knowledge_of_the_pool_time_moves_by_steps() {
        let bed = TestBed::new();
        let work_begins = bed.hold_clock().await.expect("the clock is paused");
        let began = Instant::now();
        let sleeping = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            began.elapsed()
        });
        bed.run_for(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!(sleeping.await.expect("it has ended"), Duration::from_millis(700));
        work_begins(false);
        bed.run_for(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }

    /// Work with a state that the test sets. `executes` is how often the database answers that it executes a statement.
    #[derive(Debug, Default)]
    struct Work {
        state: Mutex<RealWorkState>,
        executes: Mutex<u32>,
    }

    impl Work {
        fn set(&self, state: RealWorkState) {
            *self.state.lock() = state;
        }
    }

    impl RealWork for Work {
        fn state(&self) -> RealWorkState {
            *self.state.lock()
        }

        fn reopen(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }

        fn executes(&self) -> BoxFuture<'static, Option<bool>> {
            let mut left = self.executes.lock();
            let executes = *left > 0;
            *left = left.saturating_sub(1);
            Box::pin(std::future::ready(Some(executes)))
        }
    }

    /// Takes about three seconds of real time.
    #[tokio::test(start_paused = true)]
    async fn time_stands_still_as_long_as_the_database_answers_that_it_executes_a_statement() {
        let bed = TestBed::new();
        let _work_begins = bed.hold_clock().await.expect("the clock is paused");
        let work = Arc::new(Work::default());
        work.set(RealWorkState { active: Some(1), closed: 0, waiting: 0 });
        // The keeper and the driver ask.
        *work.executes.lock() = 4;
        bed.wait_for_work(work.clone());
        let (began, real) = (Instant::now(), std::time::Instant::now());
        bed.run_for(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!(*work.executes.lock(), 0, "time moved although a statement was executed");
        // Far less than the silence that is needed if the database cannot be asked.
        assert!(
            real.elapsed() >= Duration::from_millis(2 * u64::from(crate::testing::patience::ASK_SILENCE)),
            "{:?}",
            real.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_while_work_goes_on() {
        let bed = TestBed::new();
        let work_begins = bed.hold_clock().await.expect("the clock is paused");
        let idle = RealWorkState { active: Some(0), closed: 0, waiting: 0 };
        let work = Arc::new(Work::default());
        work.set(idle);
        bed.wait_for_work(work.clone());
        let began = Instant::now();
        let working = tokio::spawn(async move {
            let mut took = Vec::new();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                work.set(RealWorkState { active: Some(1), ..idle });
                work_begins(false);
                let now = Instant::now();
                let (sender, receiver) = tokio::sync::oneshot::channel();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    sender.send(())
                });
                receiver.await.expect("it is sent");
                took.push(now.elapsed());
                work.set(idle);
            }
            took
        });
        bed.run_for(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!(working.await.expect("it has ended"), [Duration::ZERO; 10]);
    }
}
