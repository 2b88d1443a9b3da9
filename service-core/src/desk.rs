//! [`Desk`]: where user code is driven from: polled under `catch_unwind`, with a limit, a stop and a timer beside it.
//!
//! The tricky part is what may cut user code short: its own limit at once, a stop only after `drain_timeout`, and
//! nothing at all while a database commit is in flight.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tracing::{Span, warn};

use crate::caught::{self, Caught};
use crate::context::Context;
use crate::control::Hold;
use crate::entry::Entry;
use crate::error::Result;
use crate::event::ServiceEventKind;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::schedule::later;
use crate::service::{Cleanup, Lifecycle};

/// What the blocking pool gives back: the instance and how the run went.
pub(crate) type Returned = (Box<dyn Lifecycle>, Caught<Result<Outcome>>);

/// The supervisor's tools, apart from the instance so that a run can borrow that.
pub(crate) struct Desk<'t> {
    pub(crate) cx: Context,
    pub(crate) timer: Pin<&'t mut Sleep>,
    /// What the timer is set to.
    pub(crate) armed: Option<Instant>,
    pub(crate) options: Arc<Options>,
}

/// What ends user code that does not end by itself.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// Nothing but a stop, after `drain_timeout`.
    None,
    /// This moment, or a stop.
    At(Instant),
    /// This moment, or the end of a shutdown's time.
    Cleanup(Instant),
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

impl Desk<'_> {
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.cx.entry
    }

    /// Polls user code until it ends, panics or runs out of time. A commit in flight is never cut.
    pub(crate) async fn drive<T>(
        &mut self,
        mut work: Pin<&mut (dyn Future<Output = T> + Send)>,
        span: &Span,
        limit: Limit,
    ) -> Driven<T> {
        let (entry, options) = (&self.cx.entry, &self.options);
        let (timer, armed) = (&mut self.timer, &mut self.armed);
        let mut drain_until: Option<Instant> = None;
        std::future::poll_fn(|task| {
            let polled = caught::quietly(|| entry.as_current(|| span.in_scope(|| work.as_mut().poll(task))));
            match polled {
                Caught::Returned(Poll::Ready(value)) => return Poll::Ready(Driven::Done(value)),
                Caught::Panicked(message) => return Poll::Ready(Driven::Panicked(message)),
                Caught::Returned(Poll::Pending) => {}
            }
            let stop = {
                let mut control = entry.lock();
                control.listen(task.waker());
                control.stop
            };
            let by_stop = stop.map(|stop| match limit {
                Limit::Cleanup(_) => stop.cleanup,
                _ => {
                    let drained = *drain_until.get_or_insert_with(|| later(Instant::now(), options.drain_timeout));
                    Some(stop.run.map_or(drained, |run| run.min(drained)))
                }
            });
            let by_limit = match limit {
                Limit::None => None,
                Limit::At(at) | Limit::Cleanup(at) => Some(at),
            };
            let (deadline, ending) = match (by_stop.flatten(), by_limit) {
                (Some(stop), limit) if limit.is_none_or(|limit| stop <= limit) => (stop, Driven::Aborted),
                (_, Some(limit)) => (limit, Driven::TimedOut),
                (_, None) => return Poll::Pending,
            };
            match poll_at(timer, armed, deadline, task) {
                Poll::Ready(()) if !entry.is_committing() => Poll::Ready(ending),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Runs `cleanup`, as long as a stop may take, and drops the instance.
    pub(crate) async fn clean_up(&mut self, mut instance: Box<dyn Lifecycle>) {
        let entry = self.entry().clone();
        let limit = Limit::Cleanup(later(Instant::now(), self.options.drain_timeout));
        let driven = match instance.__shape().cleanup {
            Cleanup::None => {
                let _ = caught::quietly(|| drop(instance));
                None
            }
            Cleanup::Async => {
                let cx = self.cx.clone();
                let mut cleanup = entry.as_current(|| instance.__cleanup(&cx));
                let driven = self.drive(cleanup.as_mut(), &Span::none(), limit).await;
                let _ = caught::quietly(|| drop(cleanup));
                let _ = caught::quietly(|| drop(instance));
                Some(driven)
            }
            Cleanup::Blocking => {
                let mut on_pool = spawn_blocking_cleanup(instance, self.cx.clone());
                let driven = self.drive(pin!(&mut on_pool), &Span::none(), limit).await;
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
    pub(crate) async fn dependencies(&mut self) -> bool {
        if self.options.depends_on.is_empty() {
            return true;
        }
        let (entry, registry) = (&self.cx.entry, &self.cx.registry);
        loop {
            let mut changed = pin!(entry.hub.changed.notified());
            let waiting = registry.not_up(&self.options.depends_on);
            if waiting.missing.is_empty() {
                return true;
            }
            {
                let mut control = entry.lock();
                control.hold = Some(Hold::Dependencies(waiting.missing.into()));
                if waiting.in_vain && !control.settled {
                    // Whoever waits for the start has nothing to wait for here.
                    control.settled = true;
                    entry.tell_settled();
                }
            }
            let go_on = std::future::poll_fn(|task| {
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

/// Sets the timer where it is not set to `at` already, and polls it.
pub(crate) fn poll_at(
    timer: &mut Pin<&mut Sleep>,
    armed: &mut Option<Instant>,
    at: Instant,
    task: &mut Task<'_>,
) -> Poll<()> {
    if *armed != Some(at) {
        timer.as_mut().reset(at);
        *armed = Some(at);
    }
    timer.as_mut().poll(task)
}

// ── blocking code ────────────────────────────────────────────────────────────────────────────────────────────────────

pub(crate) fn spawn_blocking_run(mut instance: Box<dyn Lifecycle>, cx: Context, span: Span) -> JoinHandle<Returned> {
    tokio::task::spawn_blocking(move || {
        let entry = cx.entry.clone();
        let caught = caught::quietly(|| entry.as_current(|| span.in_scope(|| instance.__update_blocking(&cx))));
        (instance, caught)
    })
}

fn spawn_blocking_cleanup(mut instance: Box<dyn Lifecycle>, cx: Context) -> JoinHandle<Caught<Result<()>>> {
    tokio::task::spawn_blocking(move || {
        let entry = cx.entry.clone();
        let caught = caught::quietly(|| entry.as_current(|| instance.__cleanup_blocking(&cx)));
        let _ = caught::quietly(|| drop(instance));
        caught
    })
}

/// Cleans up an instance whose blocking run outlasted even the end of its service.
pub(crate) async fn clean_up_late(run: JoinHandle<Returned>, cx: Context) {
    if let Ok((instance, _)) = run.await {
        let timer = pin!(tokio::time::sleep(Duration::ZERO));
        let options = cx.entry.lock().options.clone();
        Desk { cx, timer, armed: None, options }.clean_up(instance).await;
    }
}
