//! A service with `scope = "cluster"`: waits for its lease, and what follows when the lease is lost.
//!
//! A lost lease is no failure. The run is dropped, the instance is cleaned up, and the loop waits for the lease again.
//! Blocking code cannot be dropped: the loop waits for it, so that this replica never runs the service twice at the
//! same time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::{Due, Exit, Supervisor};
use crate::log::{info, warn};
use crate::runtime::context::Nominal;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::extension::Extension;
use crate::runtime::invoker::Limit;
use crate::runtime::lease::Grant;
use crate::runtime::requests::{Rebuild, Requests, StopRequest, Waiters};
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::runtime::status::{Activity, StartPhase, WaitReason};
use crate::runtime::turn::Turn;
use crate::schedule::{Schedule, later};

/// How long the release of a lease may take. If it fails, the lease expires.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a run waits until its point of the schedule is recorded.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Waits until this replica has the lease, if the service needs one. Returns the end of the loop if a stop comes
    /// first.
    pub(super) async fn stand_by(&mut self) -> Option<Exit> {
        let service = self.cx.service.clone();
        let lease = service.lease.as_ref()?;
        lease.set_wanted(true);
        if let Some(leases) = self.invoker.extension.leases() {
            leases.wanted();
        }
        let (once, extension) = (self.once, self.invoker.extension.clone());
        let granted: Option<Grant> = poll_fn(|task| {
            service.update(|state| {
                state.set_waker(task.waker());
                state.status.at_rest = true;
                if state.requests.stop.is_some() {
                    return Poll::Ready(None);
                }
                if let Some(grant) = lease.take_grant() {
                    return Poll::Ready(Some(grant));
                }
                if once && lease.is_decided() {
                    lease.refuse();
                    // Nothing has failed.
                    state.request_stop(StopRequest::by_itself());
                    return Poll::Ready(None);
                }
                if lease.is_decided() && !state.status.is_ready() {
                    state.status.reach(StartPhase::Ready);
                    state.status.activity = Activity::Standby;
                    // The holder has taken the lease before, so a topic may have been notified since.
                    let is_requested = state.requests.wake_requested;
                    pass_on(&*extension, &service, &mut state.requests, is_requested);
                    service.notify_waiters(state);
                }
                // The end of an outage in which this replica has left work, or a wake-up that came just before.
                if state.status.activity == Activity::Standby
                    && std::mem::take(&mut state.requests.woken)
                    && let Some(leases) = extension.leases()
                {
                    leases.forward_wake(&service.id);
                }
                Poll::Pending
            })
        })
        .await;
        let Some(grant) = granted else { return Some(Exit::Stopped) };
        self.cx.epoch = Some(grant.epoch);
        (self.grant, self.is_taken_over) = (Some(Box::new(grant)), true);
        // Those that apply now; an instance with them is built anyway.
        self.options.clone_from(&service.lock().requests.options);
        service.update(|state| {
            state.requests.rebuild.take_if(|rebuild| *rebuild == Rebuild::Settings);
            state.status.at_rest = false;
            state.status.activity = Activity::Waiting;
            state.status.failures = 0;
            // A takeover counts as a notification of each topic, because earlier ones may have reached the replica
            // before.
            state.requests.woken |= !state.requests.options.wake_on.is_empty();
        });
        info!(service.id = %service.id, "this replica runs the service from now on (epoch {})", grant.epoch);
        service.emit(|| ServiceEventKind::LeaseAcquired { epoch: grant.epoch });
        None
    }

    /// Whether this replica had the lease, and may not run the service any more.
    pub(super) fn has_lost_lease(&self) -> bool {
        self.cx.has_lost_lease()
    }

    /// The lease is lost: cleans up the instance, and waits for the lease again. A single run is over.
    pub(super) async fn lose_lease(&mut self) -> Option<Exit> {
        let service = self.cx.service.clone();
        let lease = service.lease.as_ref()?;
        let epoch = self.cx.epoch.unwrap_or_default();
        lease.end();
        // Until the coordinator knows more.
        lease.set_problem("this replica has lost it".to_owned());
        let then = if self.once { "the single run ends" } else { "this replica stands by" };
        warn!(service.id = %service.id, "the lease is lost (epoch {epoch}); {then}");
        service.emit(|| ServiceEventKind::LeaseLost { epoch });
        let now = Instant::now();
        let (blocked, left) = (self.unreturned.is_some(), std::mem::take(&mut self.current_waiters));
        let woken = std::mem::take(&mut self.woken);
        let extension = self.invoker.extension.clone();
        let is_outage = self.services.need_is_down(&service);
        let waiters = service.update(|state| {
            let _ = state.count_progress();
            if state.status.in_run() {
                state.status.end_as_requested(now);
            }
            state.status.stand_by();
            if !blocked {
                state.status.wait_reason = None;
            }
            let requests = &mut state.requests;
            (requests.rebuild, requests.interrupt, requests.outage_over) = (None, None, false);
            requests.degraded = None;
            requests.woken |= woken;
            // At the end of the outage, this replica wakes the holder.
            requests.continues_after_outage &= is_outage;
            let waiters = pass_on(&*extension, &service, requests, false);
            state.notify_waiters();
            waiters
        });
        drop((left, waiters));
        // Their runs may do what the next holder does, too.
        abort_children(&self.services, self.registered.id(), now);
        self.forget_schedule();
        self.abandon_rows().await;
        if self.once {
            lease.end_single_run();
            // A lost lease is no failure.
            service.request_stop(StopRequest::by_itself());
            // The end of the loop cleans up.
            return Some(Exit::Stopped);
        }
        if self.unreturned.is_some() && !self.until_returned().await {
            return Some(Exit::Stopped);
        }
        self.end_instance().await;
        service.lock().status.wait_reason = None;
        self.stand_by().await
    }

    /// Another replica is to run the service, which is idle: cleans up the instance, releases the lease, and waits for
    /// it again.
    pub(super) async fn hand_over(&mut self) -> Option<Exit> {
        let service = self.cx.service.clone();
        let lease = service.lease.as_ref()?;
        // It may have been chosen, and not be any more.
        let target = lease.moves_to()?;
        info!(service.id = %service.id, "this replica hands the service over to another one");
        // From now on requests are for the next holder.
        service.update(|state| state.status.stand_by());
        self.end_instance().await;
        self.record_pending_fire(true).await;
        if self.has_lost_lease() {
            return self.lose_lease().await;
        }
        let epoch = self.cx.epoch.unwrap_or_default();
        let extension = self.invoker.extension.clone();
        lease.hand_over(extension.leases().map(|leases| leases.label()).unwrap_or_default());
        let is_outage = self.services.need_is_down(&service);
        let waiters = service.update(|state| {
            state.status.wait_reason = None;
            state.requests.continues_after_outage &= is_outage;
            let waiters = pass_on(&*extension, &service, &mut state.requests, false);
            state.notify_waiters();
            waiters
        });
        drop(waiters);
        self.forget_schedule();
        if let Some(leases) = self.invoker.extension.leases().filter(|_| !lease.has_left_code()) {
            // As at the end: a shutdown may have begun, and `cleanup` may have used up its time.
            let limit = Limit::Last(later(Instant::now(), RELEASE_TIMEOUT));
            let _ = self.invoker.invoke(pin!(leases.release(&service, epoch, Some(&target))), limit).await;
        }
        service.emit(|| ServiceEventKind::LeaseHandedOver { epoch });
        self.stand_by().await
    }

    /// The next holder plans the next run. If that is this replica again, it must not repeat the fire that it has
    /// served and could not record.
    fn forget_schedule(&mut self) {
        (self.due, self.nominal, self.turn, self.woken) = (Due::AtOnce, Nominal::None, Turn::None, false);
        if let Some(unrecorded) = self.cron.take().and_then(|cron| cron.into_unrecorded()) {
            self.unrecorded = Some(Box::new(unrecorded));
        }
    }

    /// Releases the rows that the run left open, within `drain_timeout`.
    async fn abandon_rows(&mut self) {
        let (service, extension) = (&self.cx.service, &self.invoker.extension);
        if extension.has_unsettled(service) {
            let limit = Limit::Cleanup(later(Instant::now(), self.options.drain_timeout));
            // Claims that are not released expire.
            let _ = self.invoker.invoke(pin!(extension.abandon(service)), limit).await;
        }
    }

    /// Records the point of the schedule that the run which begins now serves, so that a replica which takes over
    /// continues there.
    pub(super) async fn record_point(&mut self, is_over: bool) {
        let service = &self.cx.service;
        let Some((epoch, leases)) = self.cx.epoch.zip(self.invoker.extension.leases()) else { return };
        if self.once || self.cx.has_lost_lease() {
            return;
        }
        let now = Instant::now();
        // No replica has run the service before this one took the lease.
        let is_first = self.grant.as_ref().is_some_and(|grant| grant.last.is_none());
        let age = match &self.options.schedule {
            Schedule::Interval(every) if !is_over => {
                let status = &service.lock().status;
                let started = status.stats.last_started.unwrap_or(now);
                if started < status.grid.first() {
                    // A requested run before the first point.
                    return;
                }
                let next = status.grid.next(*every, Some(started));
                every.saturating_sub(next.saturating_duration_since(now))
            }
            Schedule::Delay(_) => Duration::ZERO,
            // Only whether there has been a run matters.
            Schedule::Cron(_) | Schedule::OnDemand | Schedule::LongRun(_) if !is_over && is_first => Duration::ZERO,
            _ => return,
        };
        let limit = Limit::Last(later(now, RECORD_TIMEOUT));
        let _ = self.invoker.invoke(pin!(leases.record_point(service, epoch, age)), limit).await;
    }

    /// The same when the run has ended.
    pub(super) async fn record_end(&mut self) {
        if self.cx.epoch.is_some() {
            Box::pin(self.record_point(true)).await;
        }
    }

    /// Waits for the blocking run that has not returned. Returns `false` if a stop comes first.
    async fn until_returned(&mut self) -> bool {
        let (service, Some(unreturned)) = (self.cx.service.clone(), &mut self.unreturned) else { return true };
        unreturned.discard = true;
        service.lock().status.wait_reason = Some(Box::new(WaitReason::BlockingRun(None)));
        let returned = poll_fn(|task| {
            {
                let mut state = service.lock();
                state.set_waker(task.waker());
                if state.requests.stop.is_some() {
                    return Poll::Ready(None);
                }
            }
            Pin::new(&mut unreturned.run).poll(task).map(Some)
        })
        .await;
        let Some(returned) = returned else { return false };
        unreturned.returned = returned.ok().map(Box::new);
        // Cleans up.
        self.take_back().await;
        true
    }

    /// The service ends here: another replica serves a wake-up that no run has served.
    pub(super) fn pass_on_at_end(&mut self) {
        let service = self.cx.service.clone();
        let extension = self.invoker.extension.clone();
        let is_outage = !self.once && self.services.need_is_down(&service);
        let waiters = service.update(|state| {
            // A run that was aborted by the stop, or whose retry does not follow, has not served it.
            state.requests.woken |= std::mem::take(&mut self.woken) && state.requests.stop.is_some();
            // This replica does not make the run that is due at the end of the outage.
            state.requests.woken |= state.requests.continues_after_outage && is_outage;
            let is_requested = self.cx.epoch.is_none() && state.requests.wake_requested;
            pass_on(&*extension, &service, &mut state.requests, is_requested)
        });
        drop(waiters);
    }

    /// Releases the lease after the instance has been cleaned up. If blocking code still runs, the lease is left to
    /// expire.
    pub(super) async fn release_lease(&mut self) {
        let service = self.cx.service.clone();
        let Some(lease) = &service.lease else { return };
        let epoch = lease.end();
        let Some((epoch, leases)) = epoch.zip(self.invoker.extension.leases()) else { return };
        if lease.has_left_code() {
            return;
        }
        // Also if `cleanup` has used up its time: otherwise the service would have no holder until the lease expires.
        let limit = Limit::Last(later(Instant::now(), RELEASE_TIMEOUT));
        let _ = self.invoker.invoke(pin!(leases.release(&service, epoch, None)), limit).await;
    }
}

/// Aborts the runs of the services that belong to the instance, and of those that belong to theirs. They are removed
/// later.
fn abort_children(services: &Services, id: &str, now: Instant) {
    for child in services.children_of(id).into_iter().flatten() {
        child.inner.request_stop(StopRequest { run: Some(now), ..StopRequest::default() });
        abort_children(services, child.id(), now);
    }
}

/// This replica does not run the service from now on: the holder serves a wake-up, and callers that wait for a run here
/// get an error. A takeover counts as a notification of each topic, so the wake-up of a service with topics is
/// forwarded only if it was requested while another replica held the lease (`is_requested`).
fn pass_on(extension: &dyn Extension, service: &ServiceInner, requests: &mut Requests, is_requested: bool) -> Waiters {
    requests.run = false;
    let is_woken = std::mem::take(&mut requests.woken) && (requests.options.wake_on.is_empty() || is_requested);
    if let Some(leases) = extension.leases().filter(|_| is_woken) {
        leases.forward_wake(&service.id);
    }
    std::mem::take(&mut requests.waiters)
}
