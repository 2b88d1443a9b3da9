//! [`Desk`]: where user code is driven from: polled under `catch_unwind`, with a limit, a stop and a timer beside it.
//!
//! The tricky part is what may cut user code short: its own limit at once, a stop only after `drain_timeout`, and
//! nothing at all while a database commit is in flight.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tracing::{Span, warn};

use crate::config::options::Options;
use crate::panic::{self, Caught};
use crate::registry::ServiceRegistry;
use crate::runtime::context::Context;
use crate::runtime::control::Hold;
use crate::runtime::entry::Entry;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::lifecycle::{Cleanup, Lifecycle};
use crate::schedule::{Grid, later};
use crate::service::error::Result;
use crate::service::outcome::Outcome;

/// What the blocking pool gives back: the instance and how the run went.
pub(crate) type Returned = (Box<dyn Lifecycle>, Caught<Result<Outcome>>);

/// The supervisor's tools, apart from the instance and its context so that a run can borrow those.
pub(crate) struct Desk {
    pub(crate) options: Arc<Options>,
    /// Made for user code that has a limit and does not end at once.
    pub(crate) timer: Option<Pin<Box<Sleep>>>,
}

/// What ends user code that does not end by itself.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// Nothing but a stop, after `drain_timeout`.
    Stop,
    /// The service's `timeout`, or a stop.
    Run,
    /// This moment, or the end of a shutdown's time.
    Cleanup(Instant),
    /// This moment alone: the service has ended, and may live again.
    Late(Instant),
}

/// The span of a run; boxed, as most programs have many more services waiting than running.
#[derive(Clone)]
pub(crate) struct RunSpan(Option<Box<Span>>);

impl RunSpan {
    pub(crate) const NONE: Self = Self(None);

    pub(crate) fn new(cx: &Context) -> Self {
        let span = tracing::info_span!("service_run", service.id = %cx.entry.id, service.run = cx.run);
        Self((!span.is_none()).then(|| Box::new(span)))
    }

    #[inline]
    pub(crate) fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(span) => span.in_scope(work),
            None => work(),
        }
    }
}

/// How user code ended.
pub(crate) enum Driven<T> {
    Done(T),
    Panicked(String),
    /// Its own limit was reached.
    TimedOut,
    /// A stop would not wait any longer.
    Aborted,
}

/// What ended user code before it ended by itself.
enum Cut {
    TimedOut,
    Aborted,
}

impl Desk {
    pub(crate) fn new(options: Arc<Options>) -> Self {
        Self { options, timer: None }
    }

    /// Polls user code until it ends, panics or runs out of time.
    pub(crate) async fn drive<T>(
        &mut self,
        entry: &Entry,
        mut work: Pin<&mut (dyn Future<Output = T> + Send)>,
        limit: Limit,
    ) -> Driven<T> {
        poll_fn(|task| self.poll(task, entry, &RunSpan::NONE, limit, |task| work.as_mut().poll(task))).await
    }

    /// One poll of user code, and a look at what ends it before it ends by itself. A commit in flight is never cut.
    #[inline]
    pub(crate) fn poll<T>(
        &mut self,
        task: &mut Task<'_>,
        entry: &Entry,
        span: &RunSpan,
        limit: Limit,
        work: impl FnOnce(&mut Task<'_>) -> Poll<T>,
    ) -> Poll<Driven<T>> {
        match panic::catch(|| entry.as_current(|| span.in_scope(|| work(task)))) {
            Caught::Returned(Poll::Ready(value)) => Poll::Ready(Driven::Done(value)),
            Caught::Panicked(message) => Poll::Ready(Driven::Panicked(message)),
            Caught::Returned(Poll::Pending) => self.poll_limit(task, entry, limit).map(|cut| match cut {
                Cut::TimedOut => Driven::TimedOut,
                Cut::Aborted => Driven::Aborted,
            }),
        }
    }

    /// Whether user code that is pending has to end now.
    fn poll_limit(&mut self, task: &mut Task<'_>, entry: &Entry, limit: Limit) -> Poll<Cut> {
        let (stop, started) = if matches!(limit, Limit::Late(_)) {
            (None, None)
        } else {
            let mut control = entry.lock();
            control.listen(task.waker());
            (control.stop.as_deref().copied(), control.stats.last_started)
        };
        let timeout = match limit {
            Limit::Run => self.options.timeout,
            _ => None,
        };
        let (by_stop, by_limit) = match (stop, limit, timeout) {
            (None, Limit::Stop | Limit::Run, None) => return Poll::Pending,
            (stop, Limit::Cleanup(at) | Limit::Late(at), _) => (stop.and_then(|stop| stop.cleanup), Some(at)),
            (stop, _, timeout) => {
                let at = timeout.zip(started).map(|(timeout, started)| later(started, timeout));
                (stop.and_then(|stop| stop.run), at)
            }
        };
        let (deadline, cut) = match (by_stop, by_limit) {
            (Some(stop), limit) if limit.is_none_or(|limit| stop <= limit) => (stop, Cut::Aborted),
            (_, Some(limit)) => (limit, Cut::TimedOut),
            (_, None) => return Poll::Pending,
        };
        match self.poll_at(deadline, task) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) if !entry.is_committing() => Poll::Ready(cut),
            Poll::Ready(()) => {
                // Whoever commits need not wake this task. A commit is short.
                let soon = later(Instant::now(), Duration::from_millis(5));
                let _: Poll<()> = self.poll_at(soon, task);
                Poll::Pending
            }
        }
    }

    fn poll_at(&mut self, at: Instant, task: &mut Task<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(task)
    }

    /// Runs `cleanup`, as long as a stop may take, and drops the instance.
    pub(crate) async fn clean_up(
        &mut self,
        cx: &Context,
        mut instance: Box<dyn Lifecycle>,
        limit: fn(Instant) -> Limit,
    ) {
        let entry = &*cx.entry;
        let limit = limit(later(Instant::now(), self.options.drain_timeout));
        let driven = match instance.__shape().cleanup {
            Cleanup::None => {
                let_go(entry, instance);
                None
            }
            Cleanup::Async => {
                let mut cleanup = entry.as_current(|| instance.__cleanup(cx));
                let driven = self.drive(entry, cleanup.as_mut(), limit).await;
                let _ = panic::catch(|| drop(cleanup));
                let_go(entry, instance);
                Some(driven)
            }
            Cleanup::Blocking => {
                let mut on_pool = spawn_blocking_cleanup(instance, cx.clone());
                let driven = self.drive(entry, pin!(&mut on_pool), limit).await;
                Some(match driven {
                    Driven::Done(Ok(Caught::Returned(result))) => Driven::Done(result),
                    Driven::Done(Ok(Caught::Panicked(message))) | Driven::Panicked(message) => {
                        Driven::Panicked(message)
                    }
                    Driven::Done(Err(join)) => Driven::Panicked(join.to_string()),
                    Driven::TimedOut => Driven::TimedOut,
                    Driven::Aborted => Driven::Aborted,
                })
            }
        };
        match driven {
            None | Some(Driven::Done(Ok(()))) => {}
            Some(Driven::Done(Err(error))) => warn!(service.id = %entry.id, "`cleanup` failed: {error:#}"),
            Some(Driven::Panicked(message)) => warn!(service.id = %entry.id, "`cleanup` panicked: {message}"),
            Some(Driven::TimedOut | Driven::Aborted) => {
                entry.emit(|| ServiceEventKind::Aborted);
                warn!(service.id = %entry.id, "`cleanup` took too long and was aborted");
            }
        }
        entry.emit(|| ServiceEventKind::InstanceEnded);
    }

    /// Waits until everything this service depends on is up, or until it is told to stop (`false`).
    pub(crate) async fn dependencies(&mut self, entry: &Entry, registry: &ServiceRegistry) -> bool {
        if self.options.depends_on.is_empty() {
            return true;
        }
        loop {
            let mut changed = pin!(entry.hub.changed.notified());
            let waiting = registry.not_up(&self.options.depends_on);
            if waiting.missing.is_empty() {
                let mut control = entry.lock();
                control.let_go();
                control.grid = Grid::new(Instant::now());
                return true;
            }
            {
                let mut control = entry.lock();
                control.set_hold(Hold::Dependencies(waiting.missing.into()));
                if waiting.in_vain && !control.settled {
                    // Whoever waits for the start has nothing to wait for here.
                    control.settled = true;
                    entry.tell_settled(&mut control);
                }
            }
            let go_on = poll_fn(|task| {
                let mut control = entry.lock();
                control.listen(task.waker());
                if control.stop.is_some() {
                    return Poll::Ready(false);
                }
                drop(control);
                changed.as_mut().poll(task).map(|()| true)
            })
            .await;
            if !go_on {
                return false;
            }
        }
    }
}

// ── blocking code ────────────────────────────────────────────────────────────────────────────────────────────────────

pub(crate) fn spawn_blocking_run(mut instance: Box<dyn Lifecycle>, cx: Context, span: RunSpan) -> JoinHandle<Returned> {
    tokio::task::spawn_blocking(move || {
        let entry = cx.entry.clone();
        let _blocking = entry.hub.enter_blocking();
        let caught = panic::catch(|| entry.as_current(|| span.in_scope(|| instance.__update_blocking(&cx))));
        (instance, caught)
    })
}

fn spawn_blocking_cleanup(mut instance: Box<dyn Lifecycle>, cx: Context) -> JoinHandle<Caught<Result<()>>> {
    tokio::task::spawn_blocking(move || {
        let entry = cx.entry.clone();
        let _blocking = entry.hub.enter_blocking();
        let caught = panic::catch(|| entry.as_current(|| instance.__cleanup_blocking(&cx)));
        let_go(&entry, instance);
        caught
    })
}

fn let_go(entry: &Entry, instance: Box<dyn Lifecycle>) {
    if let Caught::Panicked(message) = panic::catch(|| entry.as_current(|| drop(instance))) {
        warn!(service.id = %entry.id, "dropping the instance panicked: {message}");
    }
}

/// Cleans up an instance whose blocking run outlasted even the end of its service.
pub(crate) async fn clean_up_late(run: JoinHandle<Returned>, cx: Context) {
    if let Ok((instance, _)) = run.await {
        let options = cx.entry.lock().options.clone();
        Desk::new(options).clean_up(&cx, instance, Limit::Late).await;
    }
}
