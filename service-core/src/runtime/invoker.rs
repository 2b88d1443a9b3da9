//! [`Invoker`]: calls user code, catches its panics and enforces its limits.
//!
//! The tricky part is when user code may be cancelled: by its own limit at once, by a stop only after `drain_timeout`,
//! and never while a database commit is in flight. Work is polled before its limit, so a run that ends in time is never
//! cancelled. The limit is polled outside tokio's cooperative budget, so it also applies to work that exhausts that
//! budget.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};
use tracing::Span;

use crate::log::warn;
use crate::panic::{self, Caught};
use crate::runtime::extension::Extension;
use crate::runtime::requests::StopHook;
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::service_inner::ServiceInner;
use crate::schedule::later;
use crate::service::error::Error;

/// How often a commit in flight is checked.
const COMMIT_CHECK: Duration = Duration::from_millis(5);

/// How user code ended.
#[derive(Debug)]
pub(crate) enum InvokeResult<T> {
    Done(T),
    Panicked(String),
    Cancelled(Cancelled),
}

/// Why user code was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// Its own limit was reached.
    TimedOut,
    /// It reported no progress for `idle_timeout`.
    Idle,
    /// The time of a stop was over.
    Aborted,
    /// The time was over in which a long run has to end for a pause or a fresh instance.
    Interrupted,
    /// This replica may not run the service any more.
    LeaseLost,
}

/// When user code is cancelled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// By a stop, after `drain_timeout`.
    Stop,
    /// By the `timeout` in effect, counted from the start of the run, or by a stop.
    Run,
    /// As a run that continues until a stop is requested.
    LongRun,
    /// At this moment, or at the end of the time that a stop has for `cleanup`.
    Cleanup(Instant),
    /// At this moment, or at the end of a shutdown: for the last steps of a loop.
    Last(Instant),
    /// At this moment only: the loop has ended, and a stop may belong to the next one.
    Late(Instant),
}

impl Limit {
    /// Whether the code may run only while this replica has the lease of the service, if the service has one.
    fn needs_lease(self) -> bool {
        matches!(self, Self::Stop | Self::Run | Self::LongRun)
    }
}

/// Calls the code of one service.
#[derive(Clone, Debug)]
pub(crate) struct Invoker {
    pub(crate) service: Arc<ServiceInner>,
    pub(crate) extension: Arc<dyn Extension>,
}

impl Invoker {
    /// Polls a future of user code until it ends, panics or reaches its limit. The future is not dropped here.
    pub(crate) async fn invoke<T>(
        &self,
        mut work: Pin<&mut (dyn Future<Output = T> + Send)>,
        limit: Limit,
    ) -> InvokeResult<T> {
        let mut timer = pin!(tokio::time::sleep_until(Instant::now()));
        poll_fn(|task| self.poll(task, timer.as_mut(), None, limit, |task| work.as_mut().poll(task))).await
    }

    /// Polls user code once, then its limit.
    #[inline]
    pub(crate) fn poll<T>(
        &self,
        task: &mut Task<'_>,
        timer: Pin<&mut Sleep>,
        span: Option<&Span>,
        limit: Limit,
        work: impl FnOnce(&mut Task<'_>) -> Poll<T>,
    ) -> Poll<InvokeResult<T>> {
        if limit.needs_lease() && self.service.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
            // Not polled once more: after a suspend, the time of the lease may be long over.
            return Poll::Ready(InvokeResult::Cancelled(Cancelled::LeaseLost));
        }
        let called = self.call(span, || work(task));
        if let Some(polls) = &self.service.shared.polls {
            polls.count_one(&self.service.id);
        }
        match called {
            Caught::Returned(Poll::Ready(value)) => Poll::Ready(InvokeResult::Done(value)),
            Caught::Panicked(message) => Poll::Ready(InvokeResult::Panicked(message)),
            Caught::Returned(Poll::Pending) => self.poll_limit(task, timer, limit).map(InvokeResult::Cancelled),
        }
    }

    /// Calls user code that does not wait.
    #[inline]
    pub(crate) fn call<T>(&self, span: Option<&Span>, work: impl FnOnce() -> T) -> Caught<T> {
        panic::catch(|| {
            self.service.as_current(|| {
                let _entered = span.map(Span::enter);
                work()
            })
        })
    }

    /// Drops what user code made. A panic of its `Drop` is caught and logged.
    pub(crate) fn discard<T>(&self, what: &str, value: T) {
        if let Caught::Panicked(message) = self.call(None, || drop(value)) {
            warn!(service.id = %self.service.id, "dropping {what} panicked: {message}");
        }
    }

    /// Replaces an error whose `Display` panics: later code prints the error outside of what catches panics.
    pub(crate) fn printable(&self, error: Error) -> Error {
        match self.call(None, || format!("{error:#}")) {
            Caught::Returned(_) => error,
            Caught::Panicked(message) => {
                self.discard("an error", error);
                Error::msg(format!("the error cannot be printed, its `Display` panicked: {message}"))
            }
        }
    }

    /// Returns `Ready` when pending user code has to be cancelled.
    fn poll_limit(&self, task: &mut Task<'_>, mut timer: Pin<&mut Sleep>, limit: Limit) -> Poll<Cancelled> {
        let cancelled = loop {
            let (deadline, hooks) = self.deadline(task, limit);
            self.call_stop_hooks(hooks);
            let Some((at, cancelled)) = deadline else { return Poll::Pending };
            if poll_unconstrained(task, timer.as_mut(), at).is_pending() {
                return Poll::Pending;
            }
            if let Some(cancelled) = cancelled {
                break cancelled;
            }
        };
        if !self.extension.commit_in_progress(&self.service) {
            return Poll::Ready(cancelled);
        }
        // The end of a commit does not wake this task.
        let _ = poll_unconstrained(task, timer, later(Instant::now(), COMMIT_CHECK));
        Poll::Pending
    }

    /// Calls closures that were registered by `cx.on_stop`.
    pub(crate) fn call_stop_hooks(&self, hooks: Vec<StopHook>) {
        for hook in hooks {
            self.service.call_stop_hook(hook.call);
        }
    }

    /// Returns when the limit is reached, and by what, and the closures to call now because a stop was requested. At a
    /// moment without a `Cancelled`, this has to be called again. A stop that is requested later wakes this task.
    fn deadline(&self, task: &mut Task<'_>, limit: Limit) -> (Option<Deadline>, Vec<StopHook>) {
        match limit {
            Limit::Late(at) => (Some((at, Some(Cancelled::TimedOut))), Vec::new()),
            Limit::LongRun => self.service.update(|state| {
                state.set_waker(task.waker());
                let long = state.requests.options.long_run().copied().unwrap_or_default();
                self.service.follow_long_run(state, &long);
                let requests = &state.requests;
                let (idle, stable) = state.long_run_deadlines(&long);
                let deadlines = [
                    requests.stop.as_deref().and_then(|stop| stop.run).map(|at| (at, Some(Cancelled::Aborted))),
                    requests.interrupt.map(|at| (at, Some(Cancelled::Interrupted))),
                    idle.map(|at| (at, Some(Cancelled::Idle))),
                    stable.map(|at| (at, None)),
                ];
                let deadline = deadlines.into_iter().flatten().min_by_key(|(at, _)| *at);
                (deadline, stop_hooks(state))
            }),
            _ => {
                let mut state = self.service.lock();
                state.set_waker(task.waker());
                (Self::own_deadline(&state, limit), stop_hooks(&mut state))
            }
        }
    }

    fn own_deadline(state: &RuntimeState, limit: Limit) -> Option<Deadline> {
        let stop = state.requests.stop.as_deref();
        let by_stop = match limit {
            Limit::Cleanup(_) => stop.and_then(|stop| stop.cleanup),
            Limit::Last(_) => stop.and_then(|stop| stop.end),
            _ => stop.and_then(|stop| stop.run),
        };
        let by_limit = match limit {
            Limit::Stop | Limit::LongRun => None,
            Limit::Run => {
                let timeout = state.requests.options.timeout;
                timeout.zip(state.status.stats.last_started).map(|(timeout, started)| later(started, timeout))
            }
            Limit::Cleanup(at) | Limit::Last(at) | Limit::Late(at) => Some(at),
        };
        match (by_stop, by_limit) {
            (Some(stop), limit) if limit.is_none_or(|limit| stop <= limit) => Some((stop, Some(Cancelled::Aborted))),
            (_, limit) => limit.map(|limit| (limit, Some(Cancelled::TimedOut))),
        }
    }
}

/// When user code is cancelled, and why. Without a reason: when its limits have to be looked at again.
type Deadline = (Instant, Option<Cancelled>);

/// Takes the closures to call now, as a stop, a pause or a fresh instance was requested.
fn stop_hooks(state: &mut RuntimeState) -> Vec<StopHook> {
    let requests = &mut state.requests;
    if requests.on_stop.is_empty() || (requests.stop.is_none() && requests.interrupt.is_none()) {
        return Vec::new();
    }
    requests.take_stop_hooks(requests.stop.is_some() || requests.rebuild.is_some())
}

/// Polls the timer for this moment.
pub(crate) fn poll_at(task: &mut Task<'_>, mut timer: Pin<&mut Sleep>, at: Instant) -> Poll<()> {
    if timer.deadline() != at {
        timer.as_mut().reset(at);
    } else if timer.is_elapsed() {
        // The usual case when the timer has woken the task.
        return Poll::Ready(());
    }
    timer.poll(task)
}

/// The same outside tokio's cooperative budget, which busy work may have exhausted.
fn poll_unconstrained(task: &mut Task<'_>, mut timer: Pin<&mut Sleep>, at: Instant) -> Poll<()> {
    Pin::new(&mut unconstrained(std::future::poll_fn(|task| poll_at(task, timer.as_mut(), at)))).poll(task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::Options;
    use crate::runtime::extension::NoExtension;
    use crate::runtime::fixtures::defaults;
    use crate::runtime::requests::StopRequest;
    use crate::runtime::shared::Shared;

    fn invoker() -> Invoker {
        let service = ServiceInner::new("job".into(), Arc::new(Shared::default()), None, defaults());
        service.update(|state| state.status.begin());
        Invoker { service: Arc::new(service), extension: Arc::new(NoExtension) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_the_stop_and_the_own_limit_counts() {
        use Cancelled::{Aborted, TimedOut};
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        // (limit, `timeout`, seconds until a stop aborts the run and the cleanup (and a second later the last steps),
        // seconds until the limit is reached, by what)
        let table = [
            (Limit::Stop, None, None, None),
            (Limit::Stop, Some(7), Some((8, 9)), Some((8, Aborted))),
            (Limit::Run, None, None, None),
            (Limit::Run, None, Some((5, 9)), Some((5, Aborted))),
            (Limit::Run, Some(7), None, Some((7, TimedOut))),
            (Limit::Run, Some(7), Some((8, 9)), Some((7, TimedOut))),
            (Limit::Run, Some(7), Some((7, 9)), Some((7, Aborted))),
            (Limit::Run, Some(7), Some((5, 9)), Some((5, Aborted))),
            (Limit::Cleanup(after(7)), None, Some((5, 9)), Some((7, TimedOut))),
            (Limit::Cleanup(after(7)), None, Some((5, 6)), Some((6, Aborted))),
            (Limit::Last(after(7)), None, Some((4, 5)), Some((6, Aborted))),
            (Limit::Last(after(7)), None, Some((7, 8)), Some((7, TimedOut))),
            (Limit::Late(after(7)), None, Some((5, 6)), Some((7, TimedOut))),
        ];
        for (limit, timeout, stop, expected) in table {
            let invoker = invoker();
            invoker.service.update(|state| {
                let timeout = timeout.map(Duration::from_secs);
                state.requests.options = Arc::new(Options { timeout, ..Options::default() });
                state.status.begin_run(now);
            });
            if let Some((run, cleanup)) = stop {
                let (run, cleanup, end) = (Some(after(run)), Some(after(cleanup)), Some(after(cleanup + 1)));
                invoker.service.request_stop(StopRequest { run, cleanup, end, ..StopRequest::default() });
            }
            let (deadline, _) = invoker.deadline(&mut Task::from_waker(std::task::Waker::noop()), limit);
            let expected = expected.map(|(seconds, cancelled)| (after(seconds), Some(cancelled)));
            assert_eq!(deadline, expected, "{limit:?}, {stop:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn user_code_that_ends_is_not_cancelled_even_if_its_limit_is_over() {
        let invoker = invoker();
        let over = Limit::Cleanup(Instant::now());
        let result = invoker.invoke(pin!(std::future::ready("done")), over).await;
        assert!(matches!(result, InvokeResult::Done("done")));
        let result = invoker.invoke(pin!(std::future::pending::<()>()), over).await;
        assert!(matches!(result, InvokeResult::Cancelled(Cancelled::TimedOut)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_user_code_is_a_result() {
        let invoker = invoker();
        let result = invoker.invoke(pin!(async { panic!("scripted") }), Limit::Stop).await;
        let InvokeResult::<()>::Panicked(message) = result else { panic!("it panicked") };
        assert!(message.starts_with("scripted"), "{message}");
    }
}
