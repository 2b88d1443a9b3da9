//! Waits until everything that is due at a moment of virtual time has happened.

use tokio::time::Instant;

use super::patience::{LOCK_SILENCE, QUIET, real_time_passes};
use crate::runtime::services::Services;
use crate::runtime::shared::Polls;
use crate::service::state::ServiceState;

/// The most turns of the runtime to wait for services that do not come to rest.
const MOST_TURNS: u32 = 10_000;

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
    let mut silence = 0;
    loop {
        until_quiet(services).await;
        if services.shared.holds.longest().is_none() || silence >= LOCK_SILENCE {
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
    let polls = || services.shared.polls.as_ref().map(Polls::all);
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

/// Whether a waiting loop has something to do at this very moment.
fn is_behind(services: &Services) -> bool {
    let now = Instant::now();
    services.all().iter().any(|service| {
        let state = service.inner.lock();
        let is_due = state.state() != ServiceState::Paused && state.status.next_due.is_some_and(|due| due <= now);
        state.status.at_rest && (is_due || !state.is_at_rest())
    })
}
