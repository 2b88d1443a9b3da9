//! [`Session`]: the time from a start of the registry to the end of its shutdown.
//!
//! A caller that waits for a shutdown holds its session, so it gets the result even if a new start follows at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::service::error::Result;

/// Less than the 30 s after which Kubernetes kills a pod.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

#[derive(Debug, Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    /// The number of callers that wait for a shutdown, and so for signals.
    waiting: AtomicUsize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// The first signal, and when it arrived.
    signalled: Option<(&'static str, Instant)>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Open,
    Closing,
    Closed(Result<()>),
}

impl Session {
    /// Begins the shutdown. Returns `false` if it had begun already.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.lock();
        let begins = matches!(state.phase, Phase::Open);
        if begins {
            state.phase = Phase::Closing;
            self.changed.notify_waiters();
        }
        begins
    }

    /// Ends the shutdown with this result.
    pub(crate) fn finish(&self, result: Result<()>) {
        self.lock().phase = Phase::Closed(result);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.lock().phase, Phase::Open)
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.lock().phase, Phase::Closed(_))
    }

    /// Records a signal. Returns when the first signal of this session arrived, if this is not the first.
    pub(crate) fn signal(&self, name: &'static str) -> Option<Instant> {
        let mut state = self.lock();
        let earlier = state.signalled.map(|(_, at)| at);
        state.signalled.get_or_insert_with(|| (name, Instant::now()));
        self.changed.notify_waiters();
        earlier
    }

    /// Returns the name of the first signal, if one has arrived.
    pub(crate) fn first_signal(&self) -> Option<&'static str> {
        self.lock().signalled.map(|(name, _)| name)
    }

    /// Whether a caller waits for the shutdown of this session.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Counts the caller as waiting for the shutdown of this session, until the guard is dropped.
    pub(crate) fn wait_guard(&self) -> WaitGuard<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        WaitGuard(self)
    }

    /// Waits for the first signal.
    pub(crate) async fn signalled(&self) {
        self.until(|state| state.signalled.map(|_| ())).await
    }

    /// Waits until a shutdown begins.
    pub(crate) async fn closing(&self) {
        self.until(|state| (!matches!(state.phase, Phase::Open)).then_some(())).await
    }

    /// Waits until the shutdown has finished.
    pub(crate) async fn closed(&self) -> Result<()> {
        self.until(|state| match &state.phase {
            Phase::Closed(result) => Some(result.clone()),
            Phase::Open | Phase::Closing => None,
        })
        .await
    }

    async fn until<T>(&self, reached: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = reached(&self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits for the shutdown of a session.
pub(crate) struct WaitGuard<'a>(&'a Session);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
