//! The end of an instance and of the loop: the instance is cleaned up exactly once, and every waiter is notified.

use std::pin::pin;
use std::sync::Arc;

use crate::log::{self, info, warn};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Exit, Returning, Supervisor};
use crate::panic::Caught;
use crate::runtime::blocking;
use crate::runtime::cancelled_runs::CancelledRuns;
use crate::runtime::context::Context;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::invoker::{InvokeResult, Invoker, Limit};
use crate::runtime::lifecycle::{Cleanup, Lifecycle};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::status::{Activity, StartPhase};
use crate::schedule::later;
use crate::service::error::{Error, Result};

impl Supervisor {
    /// Cleans up, and sets the final status. If a stop was requested before a failure, the service counts as stopped.
    pub(super) async fn end(&mut self, exit: Exit) -> Exit {
        let service = self.cx.service.clone();
        let exit = service.update(|state| {
            let exit = if state.requests.stop.is_some() && exit == Exit::Failed { Exit::Stopped } else { exit };
            state.status.activity = Activity::Ending(exit);
            state.status.next_due = None;
            // Wakes tasks of the instance that wait in `cx.stopping`.
            state.notify_waiters();
            exit
        });
        self.end_instance().await;
        // An outage may have prevented it after the last run.
        if !self.invoker.extension.is_down() {
            Box::pin(self.settle(None)).await;
        }
        if self.cron.is_some() || self.unrecorded.is_some() {
            Box::pin(self.record_pending_fire(true)).await;
        }
        if service.lease.is_some() {
            self.pass_on_at_end();
            Box::pin(self.release_lease()).await;
        }
        if exit != Exit::Failed {
            info!(service.id = %service.id, "stopped");
        }
        self.finish(exit);
        exit
    }

    /// The last step of the loop, also when the loop is dropped.
    fn finish(&mut self, exit: Exit) {
        self.ended = true;
        self.current_waiters.clear();
        let service = &self.cx.service;
        if let Some(lease) = &service.lease {
            lease.end();
        }
        let now = self.services.shared.clock.wall_now();
        let owes = self.cron.as_ref().is_none_or(|cron| cron.owes());
        let once = self.once;
        let left = service.update(|state: &mut RuntimeState| {
            // A shutdown of the process makes fires missed, a stop by hand does not.
            let by_hand = exit == Exit::Stopped && state.requests.stop.as_ref().is_some_and(|stop| !stop.is_shutdown());
            if !once {
                let since = state.status.skips_fires_since;
                // Another replica serves the fires of a service with a lease.
                let skips = by_hand && !owes && service.lease.is_none();
                state.status.skips_fires_since = skips.then(|| since.unwrap_or(now));
                state.status.previous_end = Some(now);
            }
            state.status.activity = Activity::Ended(exit);
            state.status.wait_reason = None;
            state.status.reach(StartPhase::Resolved);
            state.status.next_due = None;
            state.status.at_rest = false;
            state.requests.run = false;
            state.clear_waker();
            // Dropping the senders notifies the callers that still wait for a run.
            std::mem::take(&mut state.requests.waiters)
        });
        drop(left);
    }

    /// Ends the instance because another one follows. If a blocking run holds it, it ends when that run has returned.
    pub(super) async fn replace_instance(&mut self) {
        match &mut self.unreturned {
            Some(unreturned) => unreturned.discard = true,
            None => self.end_instance().await,
        }
    }

    /// Ends what belongs to the instance: the contexts that it has cloned, its closures of `on_stop`, and its children.
    /// From now on the context of the loop is that of the next instance; `cleanup` has it, too.
    pub(super) async fn end_belongings(&mut self) {
        let (ended, hooks) = {
            let mut state = self.cx.service.lock();
            state.status.ended_instances += 1;
            state.status.cancelled_runs = CancelledRuns::default();
            state.notify_waiters();
            (state.status.ended_instances, state.requests.take_stop_hooks(true))
        };
        self.cx.instance = ended;
        self.invoker.call_stop_hooks(hooks);
        self.end_children().await;
    }

    /// Cleans up the instance, exactly once, and drops it. If a blocking run holds the instance, waits for that run.
    pub(super) async fn end_instance(&mut self) {
        self.end_belongings().await;
        if let Some(instance) = self.instance.take() {
            return clean_up(&self.invoker, &self.cx, instance, Limit::Cleanup(self.cleanup_deadline())).await;
        }
        let Some(mut unreturned) = self.unreturned.take() else { return };
        match self.invoker.invoke(pin!(&mut unreturned.run), Limit::Cleanup(self.cleanup_deadline())).await {
            InvokeResult::Done(Ok((instance, result))) => {
                self.invoker.discard("the result of a run that had timed out", result);
                clean_up(&self.invoker, &self.cx, instance, Limit::Cleanup(self.cleanup_deadline())).await;
            }
            InvokeResult::Done(Err(_)) | InvokeResult::Panicked(_) => {}
            InvokeResult::Cancelled(_) => {
                let id = &self.cx.service.id;
                warn!(service.id = %id, "a blocking run does not return; `cleanup` follows when it returns");
                let counted = count_code(&self.cx);
                let (invoker, cx) = (self.invoker.clone(), self.cx.clone());
                let late = async move {
                    clean_up_late(unreturned.run, invoker, cx).await;
                    drop(counted);
                };
                match self.cx.service.labels.text() {
                    Some(labels) => tokio::spawn(log::labelled(labels.clone(), late)),
                    None => tokio::spawn(late),
                };
            }
        }
    }

    /// Stops and unregisters the services that belong to the instance.
    pub(super) async fn end_children(&mut self) {
        if self.services.children_of(self.registered.id()).is_some() {
            Box::pin(self.services.end_children(&self.registered)).await;
        }
    }

    fn cleanup_deadline(&self) -> Instant {
        later(Instant::now(), self.options.drain_timeout)
    }
}

/// Runs `cleanup` within the limit, and drops the instance.
async fn clean_up(invoker: &Invoker, cx: &Context, mut instance: Box<dyn Lifecycle>, limit: Limit) {
    let service = &cx.service;
    let form = instance.__shape().cleanup;
    let result = match form {
        Cleanup::None => {
            invoker.discard("the instance", instance);
            InvokeResult::Done(Ok(()))
        }
        Cleanup::Async => {
            let result = match invoker.call(None, || instance.__cleanup(cx)) {
                Caught::Returned(mut cleanup) => {
                    let result = invoker.invoke(cleanup.as_mut(), limit).await;
                    invoker.discard("the future of `cleanup`", cleanup);
                    result
                }
                Caught::Panicked(message) => InvokeResult::Panicked(message),
            };
            invoker.discard("the instance", instance);
            result
        }
        Cleanup::Blocking => clean_up_blocking(invoker, cx, instance, limit).await,
    };
    match result {
        InvokeResult::Done(Ok(())) => {}
        InvokeResult::Done(Err(error)) => {
            let error = invoker.printable(error);
            warn!(service.id = %service.id, "`cleanup` failed: {error:#}");
            invoker.discard("an error", error);
        }
        InvokeResult::Panicked(message) => warn!(service.id = %service.id, "`cleanup` panicked: {message}"),
        InvokeResult::Cancelled(_) => {
            service.emit(|| ServiceEventKind::Aborted);
            match form {
                Cleanup::Blocking => {
                    warn!(service.id = %service.id, "`cleanup` took too long; blocking code cannot be aborted, it continues");
                }
                _ => warn!(service.id = %service.id, "`cleanup` took too long and was aborted"),
            }
        }
    }
    service.emit(|| ServiceEventKind::InstanceEnded);
}

async fn clean_up_blocking(
    invoker: &Invoker,
    cx: &Context,
    mut instance: Box<dyn Lifecycle>,
    limit: Limit,
) -> InvokeResult<Result<()>> {
    let (cx, on_pool, counted) = (cx.clone(), invoker.clone(), count_code(cx));
    let (sender, mut cleanup) = oneshot::channel();
    let work = move || {
        let caught = on_pool.call(None, || instance.__cleanup_blocking(&cx));
        on_pool.discard("the instance", instance);
        // Before the loop continues, which releases the lease.
        drop(counted);
        // It may have taken too long.
        let _ = sender.send(caught);
    };
    if let Err(error) = blocking::spawn(&invoker.service.shared, &invoker.service.id, false, work) {
        return InvokeResult::Done(Err(Error::new(error)));
    }
    match invoker.invoke(pin!(&mut cleanup), limit).await {
        InvokeResult::Done(Ok(Caught::Returned(result))) => InvokeResult::Done(result),
        InvokeResult::Done(Ok(Caught::Panicked(message))) | InvokeResult::Panicked(message) => {
            InvokeResult::Panicked(message)
        }
        InvokeResult::Done(Err(_)) => InvokeResult::Panicked("the runtime shuts down".to_owned()),
        InvokeResult::Cancelled(cancelled) => InvokeResult::Cancelled(cancelled),
    }
}

/// While the code of a service with a lease runs, its replica does not release the lease: until the result is dropped.
fn count_code(cx: &Context) -> Option<Arc<()>> {
    cx.service.lease.as_ref().map(|lease| lease.count_code())
}

/// Cleans up an instance whose blocking run returns after the service has ended.
async fn clean_up_late(run: Returning, invoker: Invoker, cx: Context) {
    if let Ok((instance, result)) = run.await {
        invoker.discard("the result of a run that had timed out", result);
        let limit = cx.service.lock().requests.options.drain_timeout;
        clean_up(&invoker, &cx, instance, Limit::Late(later(Instant::now(), limit))).await;
    }
}

/// The runtime shuts down and drops the loop: callers that wait for the service must see that it has ended.
impl Drop for Supervisor {
    fn drop(&mut self) {
        if !self.ended {
            let exit = {
                let state = self.cx.service.lock();
                match state.status.activity {
                    Activity::Ending(exit) => exit,
                    _ if state.requests.stop.is_some() => Exit::Stopped,
                    _ => Exit::Failed,
                }
            };
            self.finish(exit);
        }
    }
}
