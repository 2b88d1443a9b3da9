//! Waits until everything that is due at a moment of virtual time has happened.
//!
//! The tricky part is async code that waits for another thread, such as `tokio::fs`: a paused clock does not advance in
//! the meantime, but at the end of `run_for` it does not have to advance.

use std::time::{Duration, Instant as RealInstant};

use tokio::time::Instant;

use super::patience::{LOCK_SILENCE, QUICK, QUIET, SHORT_SILENCE, real_time_passes};
use crate::runtime::services::Services;
use crate::runtime::shared::Polls;
use crate::service::state::ServiceState;

/// The most turns of the runtime to wait for services that do not come to rest.
const MOST_TURNS: u32 = 10_000;
/// For so long in real time, async code that waits for other threads is waited for.
const MOST_REAL_TIME: Duration = Duration::from_secs(5);

/// Waits until everything that is due at this very moment has happened. Blocking code is waited for some seconds of
/// real time.
pub(super) async fn settle(services: &Services) {
    for _ in 0..MOST_TURNS {
        if !is_behind(services) {
            break;
        }
        tokio::task::yield_now().await;
    }
    // Blocking code that waits for virtual time in its own way does not end.
    let (mut silence, began) = (0, RealInstant::now());
    loop {
        until_quiet(services).await;
        if services.shared.holds.longest().is_none() {
            if began.elapsed() < MOST_REAL_TIME && is_woken_by_a_thread(services).await {
                continue;
            }
            break;
        }
        if silence >= LOCK_SILENCE {
            break;
        }
        while services.shared.holds.longest().is_some() && silence < LOCK_SILENCE {
            real_time_passes(silence).await;
            silence += 1;
        }
    }
}

/// Waits until no service's code has been polled for some turns of the runtime. On a clock that moves by itself, a
/// service may run again and again: then not for longer than [`MOST_TURNS`].
async fn until_quiet(services: &Services) {
    let polls = || all_polls(services);
    let (mut seen, mut turns) = (polls(), 0);
    let (began, mut all_turns) = (Instant::now(), 0);
    while turns < QUIET && (all_turns < MOST_TURNS || Instant::now() == began) {
        tokio::task::yield_now().await;
        all_turns += 1;
        turns += 1;
        let now = polls();
        if now != seen {
            (seen, turns) = (now, 0);
        }
    }
}

/// Waits some milliseconds of real time if a run has begun or continued at this very moment, and has not ended: it may
/// wait for another thread. Returns whether a service's code was polled meanwhile.
async fn is_woken_by_a_thread(services: &Services) -> bool {
    let before = all_polls(services);
    if !may_wait_for_a_thread(services) {
        return false;
    }
    for silence in 0..QUICK + SHORT_SILENCE {
        real_time_passes(silence).await;
        if all_polls(services) != before {
            return true;
        }
    }
    false
}

fn may_wait_for_a_thread(services: &Services) -> bool {
    let now = Instant::now();
    let is_polled_now = |id: &str| services.shared.polls.as_ref().and_then(|polls| polls.last(id)) == Some(now);
    services.all().iter().any(|service| is_polled_now(service.id()) && service.inner.lock().status.in_run())
}

fn all_polls(services: &Services) -> Option<u64> {
    services.shared.polls.as_ref().map(Polls::all)
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
