//! What follows a failure: it is counted, logged, put to `on_failure` and acted upon. The decision itself is `policy`'s.

#[cfg(feature = "database")]
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{Ending, Next, Supervisor, Times, report, settle};
#[cfg(feature = "database")]
use crate::database::SHARED_POLL_TIMEOUT;
use crate::humanize;
use crate::panic::{self, Caught};
use crate::runtime::control::Hold;
use crate::runtime::entry::{Entry, used_up};
use crate::runtime::events::ServiceEventKind;
use crate::runtime::invoker::Driven;
#[cfg(feature = "database")]
use crate::runtime::invoker::Limit;
use crate::runtime::policy::{self, Verdict};
use crate::schedule::later;
use crate::service::error::{Error, Result};
use crate::service::failure::{Failure, FailureKind, Recovery};
use crate::service::outcome::{Outcome, RunReport};
use crate::service::state::ServiceState;

impl Supervisor {
    /// Tells how a run failed from how it ended.
    pub(super) async fn follow_failure(&mut self, driven: Driven<Result<Outcome>>) -> Option<Ending> {
        let ended = Instant::now();
        let times = (self.cx.entry.lock().stats.last_started.unwrap_or(ended), ended);
        let (kind, error) = match driven {
            Driven::Done(Ok(_)) => return None,
            Driven::Done(Err(error)) => (FailureKind::Error, error),
            Driven::Panicked(message) => (FailureKind::Panic, Error::msg(format!("panicked: {message}"))),
            Driven::TimedOut => {
                let timeout = humanize::short(self.desk.options.timeout.unwrap_or_default());
                (FailureKind::Timeout, Error::msg(format!("ran longer than its timeout of {timeout}")))
            }
            Driven::Aborted => {
                self.follow_abort(times).await;
                return Some(Ending::Stopped);
            }
        };
        self.fail(kind, error, times.0, Some(times)).await
    }

    /// The stop would not wait any longer. Nobody is asked: there is nothing left to decide.
    pub(super) async fn follow_abort(&mut self, times: Times) {
        let after = humanize::short(times.1 - times.0);
        let error = Error::msg(format!("aborted by the stop, {after} after its start"));
        #[cfg(feature = "database")]
        self.settle_rows(Some(&error)).await;
        let entry = &self.cx.entry;
        warn!(service.id = %entry.id, service.run = self.cx.run, "the run outlasted the stop: {error:#}");
        entry.emit(|| ServiceEventKind::Aborted);
        let failures = entry.lock().failures;
        let failure = policy::failure(&self.desk.options, failures, FailureKind::Timeout, error);
        self.count(&failure, Recovery::Stop, Some(times));
    }

    /// Settles in the database what the run that just ended left open, for as long as a stop would wait.
    #[cfg(feature = "database")]
    pub(super) async fn settle_rows(&mut self, error: Option<&Error>) {
        let entry = self.cx.entry.clone();
        let Some(access) = entry.has_unsettled() else { return };
        let why = error.map(|error| format!("{error:#}"));
        let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout));
        if let Driven::Done(Err(error)) = self.desk.drive(&entry, pin!(access.settle(why.as_deref())), limit).await {
            warn!(service.id = %entry.id, "could not settle the rows of the run yet, the next run tries again: {error:#}");
        }
    }

    /// The failures before this one, as far as they count: while the registry's database is away, those that come of it
    /// are retried without an end, and the count stays at `max_failures`. So does one that began in an outage and ended
    /// after it.
    #[cfg(feature = "database")]
    async fn without_outage(&mut self, concerned: bool, began: Instant, before: u32) -> u32 {
        let entry = self.cx.entry.clone();
        let presence = &entry.hub.presence;
        if concerned {
            presence.probe_soon();
        }
        let max = self.desk.options.max_failures;
        if before < max || max == 0 || !concerned {
            return before;
        }
        if presence.was_down_since(began) {
            return max - 1;
        }
        let cx = self.cx.clone();
        let look = cx.unless_stopping(crate::database::confirm_down(&cx.registry));
        let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout.max(SHARED_POLL_TIMEOUT)));
        match self.desk.drive(&entry, pin!(look), limit).await {
            Driven::Done(Some(true)) => max - 1,
            // Found out by another look, while this one was waited for.
            _ if presence.was_down_since(began) => max - 1,
            _ => before,
        }
    }

    /// Counts a failure of what `began` then, asks what follows and does it. `times` are missing where no instance could be
    /// built.
    pub(super) async fn fail(
        &mut self,
        kind: FailureKind,
        error: Error,
        began: Instant,
        times: Option<Times>,
    ) -> Option<Ending> {
        #[cfg(not(feature = "database"))]
        let _ = began;
        let entry = self.cx.entry.clone();
        // It is written down more than once below, outside of what catches panics.
        let error = match panic::catch(|| format!("{error:#}")) {
            Caught::Returned(_) => error,
            Caught::Panicked(message) => {
                Error::msg(format!("an error whose text cannot be had: it panicked: {message}"))
            }
        };
        let before = {
            let mut control = entry.lock();
            if control.changed {
                settle(&self.desk.options, &mut control);
                self.desk.options.clone_from(&control.options);
            }
            control.failures
        };
        #[cfg(feature = "database")]
        self.settle_rows(Some(&error)).await;
        #[cfg(feature = "database")]
        // A run that hangs may as well wait for the database, where the service has used it.
        let concerned = crate::database::ErrorKind::in_chain(&error).is_some_and(crate::database::ErrorKind::is_outage)
            || kind == FailureKind::Timeout && entry.has_used_database();
        #[cfg(feature = "database")]
        let (counted, before) = (before, self.without_outage(concerned, began, before).await);
        #[cfg(not(feature = "database"))]
        let counted = before;
        let failure = policy::failure(&self.desk.options, before, kind, error);
        let (recovery, broken) = self.ask(&failure);
        let mut verdict = policy::judge(&failure, recovery);
        let irreplaceable = broken && !entry.factory.has_next();
        if irreplaceable && matches!(verdict, Verdict::Retry(_) | Verdict::Regular) {
            verdict = Verdict::Fail;
        }
        // Where a stop has been asked for nothing follows any more: it is neither retried nor failed.
        let told = if entry.lock().stop.is_some() { Verdict::Stop } else { verdict };
        log_failure(&entry, self.cx.run, &failure, told, before < counted);
        let decided = if verdict == Verdict::Fail { Recovery::Fail } else { recovery };
        self.count(&failure, decided, times);
        // Where the service ends as well, the instance ends with it.
        if broken && matches!(verdict, Verdict::Regular | Verdict::Retry(_)) {
            self.end_instance().await;
        }
        match verdict {
            Verdict::Regular => {
                {
                    let mut control = entry.lock();
                    control.settled = true;
                    control.retrying = false;
                }
                let now = Instant::now();
                let (started, ended) = times.unwrap_or((now, now));
                self.plan_regular(started, ended);
                None
            }
            Verdict::Retry(wait) => {
                {
                    // The fresh instance that was to follow could not be built: an ordinary failure, and an ordinary wait.
                    let mut control = entry.lock();
                    if matches!(control.hold(), Some(Hold::Restart)) {
                        control.let_go();
                    }
                }
                self.back_off(wait);
                #[cfg(feature = "database")]
                entry.wait_for_database(concerned && recovery == Recovery::Retry, began);
                None
            }
            Verdict::Stop => Some(Ending::Stopped),
            Verdict::Fail if irreplaceable => {
                if told == Verdict::Fail {
                    error!(service.id = %entry.id, "{}", used_up(&entry.id));
                }
                Some(Ending::Failed)
            }
            // A `reset` from within the run is honoured: a fresh instance follows in place of the end.
            Verdict::Fail if entry.lock().is_renewed() => None,
            Verdict::Fail => self.restart().await,
        }
    }

    /// Writes a failure down. `Ignore` leaves the count as it was.
    pub(super) fn count(&self, failure: &Failure, recovery: Recovery, times: Option<Times>) {
        let duration = times.map(|(started, ended)| ended - started);
        let entry = &self.cx.entry;
        let waiters = {
            let mut control = entry.lock();
            if recovery != Recovery::Ignore {
                control.failures = failure.count;
            }
            control.end_run_badly(&failure.error, duration)
        };
        entry.emit(|| ServiceEventKind::RunFailed {
            run: self.cx.run,
            failure: failure.kind,
            error: format!("{:#}", failure.error),
            count: failure.count,
            recovery,
        });
        let duration = duration.unwrap_or_default();
        report(waiters, &RunReport { outcome: Outcome::idle(), error: Some(failure.error.clone()), duration });
    }

    /// Asks the instance's `on_failure`, and says whether the instance is broken.
    pub(super) fn ask(&mut self, failure: &Failure) -> (Recovery, bool) {
        let Some(instance) = &mut self.instance else {
            return (failure.recovery(), false);
        };
        let entry = &self.cx.entry;
        let panicked = failure.kind() == FailureKind::Panic;
        match panic::catch(|| entry.as_current(|| instance.__on_failure(failure))) {
            Caught::Returned(recovery) => (recovery, panicked),
            Caught::Panicked(message) => {
                warn!(service.id = %entry.id, "`on_failure` panicked: {message}");
                (failure.recovery(), true)
            }
        }
    }

    /// After a failure for good: a fresh instance later, while the budget lasts.
    pub(super) async fn restart(&mut self) -> Option<Ending> {
        let entry = self.cx.entry.clone();
        if entry.lock().stop.is_some() {
            return Some(Ending::Stopped);
        }
        let restart = self.desk.options.restart.filter(|_| !entry.factory.is_ready_made());
        let Some(wait) = restart.and_then(|restart| self.seldom().budget.grant(restart, Instant::now())) else {
            return Some(Ending::Failed);
        };
        self.replace_instance().await;
        {
            let mut control = entry.lock();
            control.failures = 0;
            control.stats.restarts = control.stats.restarts.saturating_add(1);
            control.set_hold(Hold::Restart);
        }
        entry.emit(|| ServiceEventKind::RestartScheduled { after: wait });
        warn!(service.id = %entry.id, "a fresh instance follows in {}", humanize::short(wait));
        self.back_off(wait);
        None
    }

    pub(super) fn back_off(&mut self, wait: Duration) {
        self.plan(Next::Retry, later(Instant::now(), wait));
        let entry = &self.cx.entry;
        let mut control = entry.lock();
        control.retrying = true;
        control.settled = true;
        if control.stop.is_none() && (!control.paused || control.state() == ServiceState::Starting) {
            entry.enter(&mut control, ServiceState::BackingOff);
            if control.paused {
                entry.enter(&mut control, ServiceState::Paused);
            }
        }
        control.tell_changed_state();
    }

    /// A `reset` from within the run asked for a fresh instance.
    pub(super) async fn renew(&mut self) {
        let entry = self.cx.entry.clone();
        entry.lock().renew = false;
        self.replace_instance().await;
        self.next = Next::AtOnce;
        let mut control = entry.lock();
        control.failures = 0;
        control.retrying = false;
        if control.state() == ServiceState::BackingOff {
            entry.enter(&mut control, ServiceState::Running);
        }
    }
}

fn log_failure(entry: &Entry, run: u64, failure: &Failure, verdict: Verdict, waits: bool) {
    let (id, error) = (&entry.id, &failure.error);
    let (count, max) = (failure.count, failure.max_failures);
    match verdict {
        Verdict::Fail => {
            error!(service.id = %id, service.run = run, failures = count, "failed for good, failure {count}: {error:#}");
        }
        Verdict::Stop => warn!(service.id = %id, service.run = run, failures = count, "failed and stops: {error:#}"),
        Verdict::Regular => warn!(service.id = %id, service.run = run, "failed, which is not counted: {error:#}"),
        Verdict::Retry(wait) if waits => {
            // Its limit is reached, and an outage may last: that it waits was told, and health goes on telling it.
            debug!(service.id = %id, service.run = run, "the database is away, again in {}: {error:#}", humanize::short(wait));
        }
        Verdict::Retry(wait) => {
            let wait = humanize::short(wait);
            warn!(service.id = %id, service.run = run, failures = count, "failed ({count} of {max}), again in {wait}: {error:#}");
        }
    }
}
