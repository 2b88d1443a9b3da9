//! Virtual time: the wall clock of the test bed, and virtual time with a real database.
//!
//! A paused clock advances to its next timer whenever every task waits. A task that waits for a database waits for real
//! time, so the clock would advance past the timeouts of the pool. While a bed holds the clock, only this file advances it:
//! to the next moment at which a service is due, once all services are quiet; or by small steps, while a run waits and no
//! real event arrives.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::runtime::clock::TimeSource;
use crate::runtime::extension::{Extension, VirtualTime};
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::services::Services;
use crate::service::state::ServiceState;

/// If no real event arrives for this long, a current run is assumed to wait for virtual time.
const SILENCE: Duration = Duration::from_millis(20);

/// How far the clock advances then.
const STEP: Duration = Duration::from_millis(250);

/// A wall clock that can be set, and moves with tokio's clock.
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

impl TimeSource for TestClock {
    fn now(&self) -> SystemTime {
        let (wall, at) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wall + Instant::now().saturating_duration_since(at)
    }
}

/// Holds a paused clock until it is dropped: the clock does not advance while a blocking task runs.
#[derive(Debug)]
pub(super) struct HeldClock {
    _release: mpsc::Sender<()>,
}

impl HeldClock {
    /// Holds the clock. Does nothing if it is not paused.
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

/// Advances a held clock for callers that wait for services.
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

/// Advances a held clock by `duration`, from one due moment to the next.
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
            // A run that is due at the very end may still need real time.
            if !wait_for_quiet(services, 50).await {
                return;
            }
            continue;
        }
        tokio::time::advance(step(services, quiet).min(left)).await;
        // Changes in the tables are read before the next service is due. Not during a run: it may hold a lock that the
        // refresh would wait for, while nothing advances the clock.
        if is_quiet(services) {
            extension.refresh(services).await;
        }
    }
}

/// Waits until everything that is due at this very moment has happened, on a clock that is not held.
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

/// Runs `work` outside any loop. Advances the clock by small steps while no real event arrives.
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

/// Waits so long in real time that work which only waits for real events has probably ended.
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
        // A millisecond of real time. If the blocking pool has shut down, the test is ending.
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
    }
    false
}

/// Whether a waiting loop has something to do at this very moment.
fn is_behind(services: &Services) -> bool {
    let now = Instant::now();
    services.all().iter().any(|service| {
        let state = service.inner.lock();
        let is_due = state.state() != ServiceState::Paused && state.status.next_due.is_some_and(|due| due <= now);
        state.status.at_rest && (is_due || !state.is_at_rest())
    })
}

/// Whether no service does anything or is about to.
fn is_quiet(services: &Services) -> bool {
    let now = Instant::now();
    services.all().iter().all(|service| {
        let state = service.inner.lock();
        match state.state() {
            ServiceState::Created | ServiceState::Stopped | ServiceState::Failed => true,
            ServiceState::Starting | ServiceState::Draining => false,
            _ if state.requests.run || !state.is_at_rest() => false,
            ServiceState::Paused => true,
            ServiceState::Running | ServiceState::BackingOff => state.status.next_due.is_none_or(|due| due > now),
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
