//! Handles a failure: settles open rows, calls `on_failure`, logs and counts the failure, and does what `policy`
//! decides.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::log::{debug, error, warn};
use tokio::time::Instant;

use super::running::cancelled_error;
use super::{Due, Exit, Supervisor, Times, adopt_options};
use crate::humanize;
use crate::panic::Caught;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::factory::ready_made_has_ended;
use crate::runtime::invoker::{Cancelled, InvokeResult, Limit};
use crate::runtime::policy::{self, Decision};
use crate::runtime::requests::Rebuild;
use crate::runtime::resource::Resource;
use crate::runtime::run_history::{FailedRun, RunRecord, RunResult};
use crate::runtime::status::{Activity, StartPhase, WaitReason};
use crate::schedule::{Schedule, later};
use crate::service::error::{Error, Result};
use crate::service::failure::{Failure, FailureKind, Recovery};
use crate::service::outcome::{Outcome, RunReport};

/// How long the check for an outage may take.
const OUTAGE_CHECK: Duration = Duration::from_secs(15);

impl Supervisor {
    /// Handles a run that did not succeed.
    pub(super) async fn follow_failure(&mut self, result: InvokeResult<Result<Outcome>>) -> Option<Exit> {
        if self.has_lost_lease() {
            self.invoker.discard("the result of a run", result);
            return self.lose_lease().await;
        }
        let ended = Instant::now();
        let started = {
            let mut state = self.cx.service.lock();
            // The limits that the run has reached are those in effect now.
            adopt_options(&mut self.options, &mut state);
            state.status.stats.last_started.unwrap_or(ended)
        };
        let (kind, error) = match result {
            InvokeResult::Done(Ok(_)) => return None,
            InvokeResult::Done(Err(error)) => (FailureKind::Error, error),
            InvokeResult::Panicked(message) => (FailureKind::Panic, Error::msg(format!("panicked: {message}"))),
            InvokeResult::Cancelled(cancelled) => {
                let error = cancelled_error(cancelled, &self.options, ended - started);
                if cancelled == Cancelled::Aborted {
                    self.follow_abort(error, (started, ended)).await;
                    return Some(Exit::Stopped);
                }
                (FailureKind::Timeout, error)
            }
        };
        if kind != FailureKind::Timeout {
            self.warn_if_blocked(self.options.timeout, ended - started);
        }
        self.fail(kind, error, started, Some((started, ended))).await
    }

    /// Handles a run that was aborted because `drain_timeout` was over. The service ends; there is nothing to decide.
    async fn follow_abort(&mut self, error: Error, times: Times) {
        self.record_end().await;
        self.settle(Some(&error)).await;
        let service = &self.cx.service;
        warn!(service.id = %service.id, service.run = self.cx.run, "{error:#}");
        service.emit(|| ServiceEventKind::Aborted);
        let failures = service.lock().status.failures;
        let failure = policy::failure(&self.options, failures, FailureKind::Timeout, error, false);
        self.count(&failure, Recovery::Stop, Some(times), false);
    }

    /// Settles the rows that the run left open, within `drain_timeout`.
    pub(super) async fn settle(&mut self, error: Option<&Error>) {
        let (service, extension) = (&self.cx.service, &self.invoker.extension);
        if !extension.has_unsettled(service) {
            return;
        }
        let limit = Limit::Cleanup(later(Instant::now(), self.options.drain_timeout));
        let settling = extension.settle(service, error);
        let InvokeResult::Done(Err(error)) = self.invoker.invoke(pin!(settling), limit).await else { return };
        // An outage has one warning, not two for each retry.
        if extension.is_down() {
            debug!(service.id = %service.id, "cannot settle the rows of the run, the next run tries again: {error:#}");
        } else {
            warn!(service.id = %service.id, "cannot settle the rows of the run, the next run tries again: {error:#}");
        }
    }

    /// Whether a failure past `max_failures` was during an outage, or its work began during one. Such a failure does
    /// not exhaust the service.
    async fn is_excused(&mut self, suspected: &[Arc<dyn Resource>], began: Instant, before: u32) -> bool {
        if before < self.options.max_failures {
            return false;
        }
        if suspected.iter().any(|resource| resource.was_down_since(began)) {
            return true;
        }
        let cx = self.cx.clone();
        for resource in suspected {
            let check = cx.unless_stopping(resource.confirm(began));
            let limit = Limit::Cleanup(later(Instant::now(), self.options.drain_timeout.max(OUTAGE_CHECK)));
            let down = match self.invoker.invoke(pin!(check), limit).await {
                InvokeResult::Done(Some(down)) => down,
                // The check timed out; another one may have found the outage in the meantime.
                _ => resource.was_down_since(began),
            };
            if down {
                return true;
            }
        }
        false
    }

    /// Handles a failure: counts it, decides what follows, and does it. `began` is when the failed work began. Without
    /// `times`, no instance could be built.
    pub(super) async fn fail(
        &mut self,
        kind: FailureKind,
        error: Error,
        began: Instant,
        times: Option<Times>,
    ) -> Option<Exit> {
        let service = self.cx.service.clone();
        let error = self.invoker.printable(error);
        if times.is_some() {
            self.record_end().await;
        }
        let counted = {
            let mut state = service.lock();
            adopt_options(&mut self.options, &mut state);
            state.status.failures
        };
        self.settle(Some(&error)).await;
        let suspected = self.services.suspects(&service, kind, &error);
        let excused = self.is_excused(&suspected, began, counted).await;
        let failure = policy::failure(&self.options, counted, kind, error, excused);
        let (recovery, broken) = self.call_on_failure(&failure);
        // After a single run nothing follows.
        let recovery = if self.once { Recovery::Stop } else { recovery };
        let mut decision = policy::decide(&self.options, &failure, recovery);
        let ends_instance = broken || matches!(decision, Decision::Rebuild(_));
        let irreplaceable = ends_instance && !self.registered.factory.has_next();
        if irreplaceable && decision != Decision::Stop {
            decision = Decision::Fail;
        }
        // If a stop was requested, the service stops: no retry follows, and the service does not become `Failed`.
        let stopping = service.lock().requests.stop.is_some();
        let logged = if stopping { Decision::Stop } else { decision };
        let given_up = service.lock().status.given_up;
        let run = times.map(|_| self.cx.run);
        self.failure_log.log(&service, run, &failure, logged, excused, given_up);
        let counted_as = if decision == Decision::Fail { Recovery::Fail } else { recovery };
        self.count(&failure, counted_as, times, !suspected.is_empty());
        // A service that ends cleans up its instance anyway.
        if ends_instance && !matches!(decision, Decision::Stop | Decision::Fail) {
            self.replace_instance().await;
        }
        let exit = match decision {
            Decision::Regular => {
                self.ignore(times);
                None
            }
            Decision::GiveUp => {
                self.give_up(&failure, times);
                None
            }
            Decision::Retry(wait) | Decision::Rebuild(wait) => {
                let waits = !suspected.is_empty() && matches!(recovery, Recovery::Retry | Recovery::Rebuild);
                let names = || suspected.iter().map(|resource| resource.name().clone()).collect();
                self.back_off(wait, waits.then(|| WaitReason::Outage(names())));
                for resource in suspected.iter().filter(|resource| resource.recovered_since(began)) {
                    service.end_outage(resource.name());
                }
                None
            }
            Decision::Stop => Some(Exit::Stopped),
            Decision::Fail if irreplaceable => {
                if !stopping {
                    error!(service.id = %service.id, "{}", ready_made_has_ended(&service.id));
                }
                Some(Exit::Failed)
            }
            // A `reset` from within the run: a fresh instance follows, and the service does not end.
            Decision::Fail if !stopping && service.lock().requests.rebuild == Some(Rebuild::Reset) => {
                self.due = Due::AtOnce;
                None
            }
            Decision::Fail => self.restart().await,
        };
        if exit.is_none() {
            self.after_run().await;
        }
        exit
    }

    /// Records a failure. `Ignore` leaves the count as it was. `is_suspected`: it may come from an outage.
    fn count(&mut self, failure: &Failure, recovery: Recovery, times: Option<Times>, is_suspected: bool) {
        let duration = times.map(|(started, ended)| ended - started);
        let service = &self.cx.service;
        let text = service.shared.keeps_runs.load(Ordering::Relaxed).then(|| format!("{:#}", failure.error));
        let (replaced, waiters, outcome) = service.update(|state| {
            let reported = state.count_progress();
            if let Some((history, error)) = state.history.as_mut().zip(text) {
                let (kind, Outcome { processed, failed, .. }) = (failure.kind, reported);
                match times.zip(duration) {
                    Some(((started, _), duration)) => {
                        let result = RunResult::Failed(Arc::new(FailedRun { kind, error, processed, failed }));
                        history.push(RunRecord::new(self.cx.run, started, duration, result));
                    }
                    None => history.count_failure(kind),
                }
            }
            if !state.status.is_up() {
                (state.status.first_failed, state.status.first_suspected) = (true, is_suspected);
            }
            if recovery != Recovery::Ignore {
                state.status.failures = failure.count;
            }
            let replaced = state.status.end_failed(&failure.error, duration);
            // No instance could be built for the run that was requested.
            let unserved = duration.is_none().then(|| {
                state.requests.run = false;
                std::mem::take(&mut state.requests.waiters)
            });
            (replaced, unserved, reported)
        });
        self.invoker.discard("an error", replaced);
        self.current_waiters.extend(waiters.into_iter().flatten());
        service.emit(|| ServiceEventKind::RunFailed {
            run: self.cx.run,
            failure: failure.kind,
            error: format!("{:#}", failure.error),
            count: failure.count,
            recovery,
        });
        let duration = duration.unwrap_or_default();
        self.report(RunReport { outcome, error: Some(failure.error.clone()), duration });
    }

    /// Calls the instance's `on_failure`. Returns its answer, and whether the instance is broken by a panic.
    fn call_on_failure(&mut self, failure: &Failure) -> (Recovery, bool) {
        let Some(instance) = &mut self.instance else {
            return (failure.recovery(), false);
        };
        let panicked = failure.kind() == FailureKind::Panic;
        match self.invoker.call(None, || instance.__on_failure(failure)) {
            Caught::Returned(recovery) => (recovery, panicked),
            Caught::Panicked(message) => {
                warn!(service.id = %self.cx.service.id, "`on_failure` panicked: {message}");
                (failure.recovery(), true)
            }
        }
    }

    /// Handles a permanent failure: with `restart = "on_failure"`, a fresh instance follows after `restart_delay`.
    async fn restart(&mut self) -> Option<Exit> {
        let service = self.cx.service.clone();
        if service.lock().requests.stop.is_some() {
            return Some(Exit::Stopped);
        }
        let Some(wait) = self.options.restart.and_then(|restart| self.restarts.grant(restart, Instant::now())) else {
            return Some(Exit::Failed);
        };
        self.replace_instance().await;
        {
            let status = &mut service.lock().status;
            status.failures = 0;
            status.stats.restarts += 1;
        }
        service.emit(|| ServiceEventKind::RestartScheduled { after: wait });
        warn!(service.id = %service.id, "restarting with a fresh instance in {}", humanize::short(wait));
        self.back_off(wait, Some(WaitReason::Restart));
        None
    }

    /// Leaves the failure without a consequence: the service waits for the next regular run. A cron fire counts as
    /// served.
    fn ignore(&mut self, times: Option<Times>) {
        self.woken = false;
        let service = &self.cx.service;
        service.update(|state| {
            // A start that waits for `ready` has been tried, so it is not healthy because of its length only.
            state.status.reach(StartPhase::Attempted);
            state.status.activity = Activity::Waiting;
            service.notify_waiters(state);
        });
        let now = Instant::now();
        let (started, ended) = times.unwrap_or((now, now));
        self.plan_regular(started, ended);
        self.serve_fire();
    }

    /// Gives the run up: the service waits for the next regular one. A cron fire counts as served.
    fn give_up(&mut self, failure: &Failure, times: Option<Times>) {
        let (service, run, failures) = (self.cx.service.clone(), self.cx.run, failure.count);
        match times {
            Some((started, ended)) => self.plan_regular(started, ended),
            None => self.plan_without_run(),
        }
        self.serve_fire();
        // The attempt has served the wake-up that it was made for.
        self.woken = false;
        service.update(|state| {
            state.status.given_up = true;
            state.status.reach(StartPhase::Attempted);
            state.status.activity = Activity::Waiting;
            state.notify_waiters();
        });
        service.emit(|| ServiceEventKind::RunGivenUp { run, failures });
    }

    /// Begins the wait for a retry.
    fn back_off(&mut self, wait: Duration, reason: Option<WaitReason>) {
        self.plan(Due::Retry, later(Instant::now(), wait));
        let (service, blocked) = (&self.cx.service, self.unreturned.is_some());
        service.update(|state| {
            // An outage that ended before does not end this wait.
            state.requests.outage_over = false;
            state.status.activity = Activity::BackingOff;
            state.status.reach(StartPhase::Attempted);
            let reason = reason.map(Box::new);
            state.status.wait_reason = if blocked { Some(Box::new(WaitReason::BlockingRun(reason))) } else { reason };
            state.notify_waiters();
        });
    }

    /// `reset` was called from within the run: a fresh instance follows, and the count of failures is 0.
    pub(super) async fn rebuild(&mut self) {
        let service = self.cx.service.clone();
        service.lock().requests.rebuild = None;
        self.replace_instance().await;
        // As after a start, unless the run left something to do: a retry, or more of its work.
        match self.options.schedule {
            Schedule::Cron(_) | Schedule::OnDemand if !matches!(self.due, Due::AtOnce | Due::Retry) => {
                self.plan_without_point();
            }
            _ => self.due = Due::AtOnce,
        }
        service.update(|state| {
            state.status.failures = 0;
            state.status.since_success = 0;
            state.status.given_up = false;
            state.status.activity = Activity::Waiting;
        });
    }
}
