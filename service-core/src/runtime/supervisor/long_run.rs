//! Runs that continue until a stop is requested: what ends them, and what follows.
//!
//! A stop, a pause or a fresh instance requests the end of a long run. When it then returns, that is neither an end nor
//! a failure. What follows any other end, `on_end` says.

use std::pin::Pin;

use tokio::time::{Instant, Sleep};

use super::{Due, Exit, Supervisor, adopt_options};
use crate::log::{info, warn};
use crate::runtime::events::ServiceEventKind;
use crate::runtime::invoker::{Cancelled, InvokeResult};
use crate::runtime::requests::StopRequest;
use crate::runtime::run_history::{RunRecord, RunResult};
use crate::schedule::{OnEnd, later};
use crate::service::outcome::Outcome;

impl Supervisor {
    /// Runs `run` until it ends, and decides what follows.
    pub(super) async fn long_run(&mut self, timer: Pin<&mut Sleep>) -> Option<Exit> {
        let result = self.run_recorded(timer).await;
        let service = self.cx.service.clone();
        let is_answer = matches!(result, InvokeResult::Done(_) | InvokeResult::Cancelled(Cancelled::Interrupted))
            && !self.has_lost_lease();
        let (end_requested, stable) = service.update(|state| {
            // What follows the run are the options in effect now.
            adopt_options(&mut self.options, state);
            let long = self.options.long_run().copied().unwrap_or_default();
            // What the run reported just before it ended counts.
            service.follow_long_run(state, &long);
            let end_requested = state.requests.interrupt.is_some() || state.requests.stop.is_some();
            // What the run has spawned sees the request until the run has ended for it, too.
            if !is_answer {
                state.requests.interrupt = None;
            }
            (end_requested, state.status.stable)
        });
        if stable {
            // Failures from now on are not in a row with earlier ones.
            self.failure_log.recovered(&self.cx.service);
        }
        match result {
            result if self.has_lost_lease() => {
                self.invoker.discard("the result of a run", result);
                self.lose_lease().await
            }
            InvokeResult::Cancelled(Cancelled::Interrupted) => {
                warn!(service.id = %self.cx.service.id, "the run did not end within `drain_timeout` and was cancelled");
                self.cx.service.emit(|| ServiceEventKind::Aborted);
                self.end_as_requested(false).await
            }
            InvokeResult::Done(result) if end_requested => {
                let is_success = result.is_ok();
                if let Err(error) = result {
                    let error = self.invoker.printable(error);
                    info!(service.id = %self.cx.service.id, "the run returned an error after its end was requested; the error is not counted as a failure: {error:#}");
                    self.invoker.discard("an error", error);
                }
                self.end_as_requested(is_success).await
            }
            InvokeResult::Done(Ok(outcome)) => self.end_of_work(outcome).await,
            failed => self.follow_failure(failed).await,
        }
    }

    /// The end of the run was requested, and it has ended. The next one follows as soon as nothing prevents it. After a
    /// run that has itself requested the stop and returns without an error (`is_success`), the service is healthy.
    async fn end_as_requested(&mut self, is_success: bool) -> Option<Exit> {
        let ended = Instant::now();
        let outcome = self.cx.service.update(|state| {
            let outcome = state.count_progress();
            state.status.end_as_requested(ended);
            if is_success && state.requests.stop.as_ref().is_some_and(|stop| stop.by_itself) {
                state.status.since_success = 0;
            }
            state.requests.interrupt = None;
            state.notify_waiters();
            if let Some(history) = &mut state.history {
                let (started, duration) =
                    (state.status.stats.last_started.unwrap_or(ended), state.status.stats.last_duration());
                let result = RunResult::Succeeded { processed: outcome.processed, failed: outcome.failed };
                history.push(RunRecord::new(self.cx.run, started, duration, result));
            }
            outcome
        });
        self.emit_run_finished(outcome);
        self.due = Due::AtOnce;
        self.after_run().await;
        None
    }

    /// The run has ended by itself, without an error.
    async fn end_of_work(&mut self, outcome: Outcome) -> Option<Exit> {
        let on_end = self.options.long_run().map(|long| long.on_end).unwrap_or_default();
        self.succeed(outcome);
        self.after_run().await;
        let service = &self.cx.service;
        match on_end {
            OnEnd::Again => {
                self.plan(Due::Regular, later(Instant::now(), self.options.retry_delay));
                None
            }
            OnEnd::Stop => {
                info!(service.id = %service.id, "the work is done, the service stops");
                service.request_stop(StopRequest::by_itself());
                None
            }
            OnEnd::Shutdown => {
                info!(service.id = %service.id, "the work is done, the registry shuts down (`on_end`)");
                service.request_stop(StopRequest::by_itself());
                Some(Exit::Shutdown)
            }
        }
    }

    fn emit_run_finished(&self, outcome: Outcome) {
        let (run, service) = (self.cx.run, &self.cx.service);
        let duration = service.lock().status.stats.last_duration();
        let Outcome { processed, failed, again } = outcome;
        service.emit(|| ServiceEventKind::RunFinished { run, duration, processed, failed, again });
    }
}
