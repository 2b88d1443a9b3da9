//! [`Session`]: the time from a start of the registry to the end of its shutdown.
//!
//! A caller that waits for a shutdown holds its session, so it gets the result even if a new start follows at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::service::error::Result;
use crate::sync::Mutex;

/// Less than the 30 s after which Kubernetes kills a pod.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

#[derive(Debug, Default)]
pub(crate) struct Session {
    /// It follows a shutdown of services that had been started.
    is_reopened: bool,
    state: Mutex<State>,
    /// The number of callers that wait for a shutdown, and so for signals.
    waiting: AtomicUsize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// When the shutdown began.
    closing_since: Option<Instant>,
    start: Start,
    /// The first signal, and when it arrived.
    signalled: Option<(&'static str, Instant)>,
}

/// How far the start of a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Start {
    #[default]
    None,
    /// After a shutdown, one service was started by itself.
    OfOne,
    /// All services are being started.
    OfAll,
    Done,
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
        let mut state = self.state.lock();
        let begins = matches!(state.phase, Phase::Open);
        if begins {
            state.phase = Phase::Closing;
            state.closing_since = Some(Instant::now());
            self.changed.notify_waiters();
        }
        begins
    }

    /// Ends the shutdown with this result.
    pub(crate) fn finish(&self, result: Result<()>) {
        self.state.lock().phase = Phase::Closed(result);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Open)
    }

    /// The session that follows this one.
    pub(crate) fn next(&self) -> Self {
        Self { is_reopened: self.is_reopened || self.is_started(), ..Self::default() }
    }

    /// A start of all services begins.
    pub(crate) fn begin_start(&self) {
        let start = &mut self.state.lock().start;
        if *start != Start::Done {
            *start = Start::OfAll;
        }
    }

    /// The start of all services has failed.
    pub(crate) fn cancel_start(&self) {
        let start = &mut self.state.lock().start;
        if *start == Start::OfAll {
            *start = Start::None;
        }
    }

    /// Records that the start of all services has returned.
    pub(crate) fn mark_started(&self) {
        self.state.lock().start = Start::Done;
    }

    /// Records that one service was started by itself. Returns whether this is what reopens the registry.
    pub(crate) fn mark_one_started(&self) -> bool {
        let mut state = self.state.lock();
        let reopens = self.is_reopened && state.start == Start::None && matches!(state.phase, Phase::Open);
        if reopens {
            state.start = Start::OfOne;
        }
        reopens
    }

    /// Whether the start has returned: that of all services, or, after a shutdown, that of one.
    pub(crate) fn is_started(&self) -> bool {
        matches!(self.state.lock().start, Start::OfOne | Start::Done)
    }

    /// Returns for how long the shutdown has been in progress; `None` if there is none, or if it has finished.
    pub(crate) fn closing_for(&self) -> Option<Duration> {
        let state = self.state.lock();
        if matches!(state.phase, Phase::Closing) { state.closing_since.map(|since| since.elapsed()) } else { None }
    }

    /// Returns how long ago the shutdown began, if it has finished.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        let state = self.state.lock();
        if matches!(state.phase, Phase::Closed(_)) { state.closing_since.map(|since| since.elapsed()) } else { None }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Closed(_))
    }

    /// Records a signal. Returns when the first signal of this session arrived, if this is not the first.
    pub(crate) fn signal(&self, name: &'static str) -> Option<Instant> {
        let mut state = self.state.lock();
        let earlier = state.signalled.map(|(_, at)| at);
        state.signalled.get_or_insert_with(|| (name, Instant::now()));
        self.changed.notify_waiters();
        earlier
    }

    /// Returns the name of the first signal, if one has arrived.
    pub(crate) fn first_signal(&self) -> Option<&'static str> {
        self.state.lock().signalled.map(|(name, _)| name)
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
            if let Some(found) = reached(&self.state.lock()) {
                return found;
            }
            changed.await;
        }
    }
}

/// A caller that waits for the shutdown of a session.
pub(crate) struct WaitGuard<'a>(&'a Session);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::service::error::Error;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn only_the_first_of_several_calls_begins_the_shutdown() {
        let session = Session::default();
        assert!(session.is_open());
        assert!(session.close());
        assert!(!session.close());
        assert!(!session.is_open() && !session.is_closed());
        session.finish(Ok(()));
        assert!(session.is_closed());
        assert!(!session.close());
    }

    #[test]
    fn every_waiter_gets_the_result_whether_it_waits_before_or_after() {
        let session = Session::default();
        let (mut closing, mut before) = (pin!(session.closing()), pin!(session.closed()));
        assert!(poll(closing.as_mut()).is_pending());
        assert!(poll(before.as_mut()).is_pending());
        session.close();
        assert!(poll(closing).is_ready());
        assert!(poll(before.as_mut()).is_pending());
        session.finish(Err(Error::msg("one has failed")));
        let after = pin!(session.closed());
        for result in [poll(before), poll(after)] {
            let Poll::Ready(Err(error)) = result else { panic!("the shutdown has finished") };
            assert_eq!(error.to_string(), "one has failed");
        }
    }

    #[test]
    fn a_change_between_two_polls_is_not_lost() {
        let session = Session::default();
        let mut signalled = pin!(session.signalled());
        assert!(poll(signalled.as_mut()).is_pending());
        // A change that does not concern this waiter.
        session.close();
        assert!(poll(signalled.as_mut()).is_pending());
        assert_eq!(session.signal("SIGTERM"), None);
        assert!(poll(signalled).is_ready());
    }

    #[test]
    fn the_first_signal_stays_and_later_ones_get_its_time() {
        let session = Session::default();
        let before = Instant::now();
        assert_eq!(session.signal("SIGTERM"), None);
        assert!(session.signal("SIGINT").is_some_and(|first| first >= before));
        assert_eq!(session.first_signal(), Some("SIGTERM"));
    }

    #[test]
    fn a_session_is_awaited_until_the_last_guard_is_dropped() {
        let session = Session::default();
        let first = session.wait_guard();
        let second = session.wait_guard();
        drop(first);
        assert!(session.is_awaited());
        drop(second);
        assert!(!session.is_awaited());
    }
}
