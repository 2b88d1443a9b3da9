//! The held clock: virtual time beside a real database.
//!
//! A paused clock leaps to its next timer whenever every task waits. A task that waits for a database waits for the real
//! world, so the clock would leap past the pool's own timeouts. While a bed holds the clock it moves only here: to the
//! next moment at which a service is due once all are quiet, or, where a run goes on and nothing real happens any more,
//! by small steps.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::ServiceRegistry;
use crate::service::state::ServiceState;

/// How long nothing real may happen before a run in flight is taken to wait for virtual time.
const SILENCE: Duration = Duration::from_millis(20);

/// How far the clock moves then.
const STEP: Duration = Duration::from_millis(250);

/// Holds the clock until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    _release: mpsc::Sender<()>,
}

impl Hold {
    /// Holds the clock, or does nothing where it is not paused.
    #[cfg(feature = "database")]
    pub(super) async fn new() -> Option<Self> {
        if !is_paused() {
            return None;
        }
        let (release, released) = mpsc::channel::<()>();
        // The clock does not leap while a blocking task is under way.
        tokio::task::spawn_blocking(move || released.recv());
        tokio::task::yield_now().await;
        Some(Self { _release: release })
    }
}

#[cfg(feature = "database")]
fn is_paused() -> bool {
    let before = Instant::now();
    std::thread::sleep(Duration::from_millis(2));
    Instant::now() == before
}

/// Moves the clock by `duration`, from one due moment to the next.
pub(super) async fn run_for(registry: &ServiceRegistry, duration: Duration) {
    let end = Instant::now() + duration;
    #[cfg(feature = "database")]
    if is_quiet(registry) {
        crate::database::poll(registry).await;
    }
    loop {
        let quiet = quiet_soon(registry).await;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            if quiet {
                return;
            }
            // What is due at the very end still has its run, which may need the real world only.
            if !wait_for_quiet(registry, 50).await {
                return;
            }
            continue;
        }
        tokio::time::advance(step(registry, quiet).min(left)).await;
        // What the tables say is noticed within seconds, which is before anything else is due.
        // A run may hold a lock that the look would wait for, while nobody moves the clock.
        #[cfg(feature = "database")]
        if is_quiet(registry) {
            crate::database::poll(registry).await;
        }
    }
}

/// `work`, while the clock moves as far as it needs.
pub(crate) async fn moving<T>(registry: &ServiceRegistry, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut mover = pin!(async {
        loop {
            real_time_passes().await;
            tokio::time::advance(step(registry, is_quiet(registry))).await;
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

fn step(registry: &ServiceRegistry, quiet: bool) -> Duration {
    let now = Instant::now();
    let due = next_due(registry).map_or(STEP, |due| due.saturating_duration_since(now));
    if quiet { due } else { due.min(STEP) }.max(Duration::from_millis(1))
}

/// Whether every service comes to rest before nothing real happens any more.
async fn quiet_soon(registry: &ServiceRegistry) -> bool {
    wait_for_quiet(registry, SILENCE.as_millis()).await
}

async fn wait_for_quiet(registry: &ServiceRegistry, milliseconds: u128) -> bool {
    for _ in 0..milliseconds {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
        if is_quiet(registry) {
            return true;
        }
        // A millisecond of the real world. Where the pool of threads is gone the test is at its end.
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
    }
    false
}

/// Whether no service does anything, or is about to.
fn is_quiet(registry: &ServiceRegistry) -> bool {
    let now = Instant::now();
    registry.entries().iter().all(|entry| {
        let control = entry.lock();
        match control.state() {
            ServiceState::Created | ServiceState::Stopped | ServiceState::Failed => true,
            ServiceState::Starting | ServiceState::Draining => false,
            _ if control.run_wanted || control.stop.is_some() || !control.is_at_rest() => false,
            ServiceState::Paused => true,
            ServiceState::Running | ServiceState::BackingOff => control.next_due.is_some_and(|due| due > now),
        }
    })
}

fn next_due(registry: &ServiceRegistry) -> Option<Instant> {
    let now = Instant::now();
    let due = registry.entries().into_iter().filter_map(|entry| {
        let control = entry.lock();
        let waits = matches!(control.state(), ServiceState::Running | ServiceState::BackingOff) && !control.in_flight;
        control.next_due.filter(|due| waits && *due > now)
    });
    due.min()
}
