//! Virtual time: the test bed's wall clock, and time that moves beside a real database.
//!
//! A paused clock advances to its next timer whenever every task waits. A task that waits for a database waits for the real
//! world, so the clock would advance past the pool's own timeouts. While a bed holds the clock it moves only here: to the
//! next moment at which a service is due once all are quiet, or, where a run goes on and nothing real happens any more,
//! by small steps.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::runtime::clock::WallClock;
use crate::runtime::extension::{Extension, VirtualTime};
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::services::Services;
use crate::service::state::ServiceState;

/// How long nothing real may happen before a run in flight is taken to wait for virtual time.
const SILENCE: Duration = Duration::from_millis(20);

/// How far the clock moves then.
const STEP: Duration = Duration::from_millis(250);

/// A wall clock that shows a chosen time and moves with tokio's clock.
#[derive(Clone, Debug)]
pub(super) struct TestClock(Arc<Mutex<(SystemTime, Instant)>>);

impl TestClock {
    pub(super) fn at(wall: SystemTime) -> Self {
        Self(Arc::new(Mutex::new((wall, Instant::now()))))
    }

    pub(super) fn set(&self, wall: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (wall, Instant::now());
    }
}

impl WallClock for TestClock {
    fn now(&self) -> SystemTime {
        let (wall, at) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wall + Instant::now().saturating_duration_since(at)
    }
}

/// Holds a paused clock until it is dropped: the clock does not advance while a blocking task is under way.
#[derive(Debug)]
pub(super) struct HeldClock {
    _release: mpsc::Sender<()>,
}

impl HeldClock {
    /// Holds the clock, or does nothing where it is not paused.
    pub(super) async fn hold() -> Option<Self> {
        if !is_paused() {
            return None;
        }
        let (release, released) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || released.recv());
        tokio::task::yield_now().await;
        Some(Self { _release: release })
    }
}

fn is_paused() -> bool {
    let before = Instant::now();
    std::thread::sleep(Duration::from_millis(2));
    Instant::now() == before
}

/// Moves a held clock for callers that wait for services.
#[derive(Debug)]
pub(super) struct HeldTime;

impl VirtualTime for HeldTime {
    fn mover(&self, services: Arc<Services>, _extension: Arc<dyn Extension>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                real_time_passes().await;
                tokio::time::advance(step(&services, is_quiet(&services))).await;
            }
        })
    }
}

/// Moves a held clock by `duration`, from one due moment to the next.
pub(super) async fn run_for(services: &Arc<Services>, extension: &dyn Extension, duration: Duration) {
    let end = Instant::now() + duration;
    if is_quiet(services) {
        extension.refresh(services).await;
    }
    loop {
        let quiet = wait_for_quiet(services, SILENCE.as_millis()).await;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            if quiet {
                return;
            }
            // What is due at the very end still has its run, which may need the real world only.
            if !wait_for_quiet(services, 50).await {
                return;
            }
            continue;
        }
        tokio::time::advance(step(services, quiet).min(left)).await;
        // Changes in the tables are noticed before anything else is due. A run may hold a lock that the refresh would wait
        // for, while nothing moves the clock.
        if is_quiet(services) {
            extension.refresh(services).await;
        }
    }
}

/// Lets everything happen that is due at this very moment, on a clock that is not held.
pub(super) async fn settle(services: &Services) {
    for _ in 0..10_000 {
        if !is_behind(services) {
            break;
        }
        tokio::task::yield_now().await;
    }
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// One run outside of any loop, with small steps of the clock wherever nothing real has happened for a while.
pub(super) async fn stepping<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut mover = pin!(async {
        loop {
            real_time_passes().await;
            tokio::time::advance(STEP).await;
        }
    });
    std::future::poll_fn(|task| {
        if let Poll::Ready(done) = work.as_mut().poll(task) {
            return Poll::Ready(done);
        }
        let _: Poll<()> = mover.as_mut().poll(task);
        Poll::Pending
    })
    .await
}

/// So long that whatever waits for the real world only has likely come to its end.
async fn real_time_passes() {
    for _ in 0..SILENCE.as_millis() {
        tokio::task::yield_now().await;
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
    }
}

fn step(services: &Services, quiet: bool) -> Duration {
    let now = Instant::now();
    let due = next_due(services).map_or(STEP, |due| due.saturating_duration_since(now));
    if quiet { due } else { due.min(STEP) }.max(Duration::from_millis(1))
}

async fn wait_for_quiet(services: &Services, milliseconds: u128) -> bool {
    for _ in 0..milliseconds {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
        if is_quiet(services) {
            return true;
        }
        // A millisecond of the real world. Where the pool of threads is gone the test is at its end.
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
    }
    false
}

/// Whether a loop that waits has something to do at this very moment.
fn is_behind(services: &Services) -> bool {
    let now = Instant::now();
    services.all().iter().any(|service| {
        let state = service.inner.lock();
        let is_due = state.state() != ServiceState::Paused && state.status.next_due.is_some_and(|due| due <= now);
        state.status.at_rest && (is_due || !state.is_at_rest())
    })
}

/// Whether no service does anything, or is about to.
fn is_quiet(services: &Services) -> bool {
    let now = Instant::now();
    services.all().iter().all(|service| {
        let state = service.inner.lock();
        match state.state() {
            ServiceState::Created | ServiceState::Stopped | ServiceState::Failed => true,
            ServiceState::Starting | ServiceState::Draining => false,
            _ if state.requests.run || !state.is_at_rest() => false,
            ServiceState::Paused => true,
            ServiceState::Running | ServiceState::BackingOff => state.status.next_due.is_some_and(|due| due > now),
        }
    })
}

fn next_due(services: &Services) -> Option<Instant> {
    let now = Instant::now();
    let due = services.all().into_iter().filter_map(|service| {
        let state = service.inner.lock();
        let waits = matches!(state.state(), ServiceState::Running | ServiceState::BackingOff);
        state.status.next_due.filter(|due| waits && !state.status.in_run() && *due > now)
    });
    due.min()
}
