//! The loop that runs one service: wait → build → run → decide, and at the end clean up.
//!
//! The loop is one task, so two runs never overlap. It alone writes the service's [`Status`](super::status::Status).
//! The tricky part is that a request may arrive at any moment: [`Supervisor::poll_wait`] reads the requests and stores
//! its waker under one lock, so no request is lost. `policy` and `schedule` decide what follows a run, and when.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use crate::humanize;
use crate::log::{debug, error, warn};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::options::Options;
use crate::panic::{self, Caught};
use crate::runtime::context::{Context, Nominal};
use crate::runtime::events::ServiceEventKind;
use crate::runtime::extension::Extension;
use crate::runtime::failure_log::FailureLog;
use crate::runtime::invoker::{InvokeResult, Invoker};
use crate::runtime::lease::Grant;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::policy::RestartBudget;
use crate::runtime::registration::RegisteredService;
use crate::runtime::requests::{Rebuild, StopRequest, Waiters};
use crate::runtime::run_history::{RunRecord, RunResult};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::services::Services;
use crate::runtime::status::{Exit, StartPhase, WaitReason};
use crate::runtime::turn::Turn;
use crate::schedule::cron::{CronTimer, Unrecorded};
use crate::schedule::{Grid, Schedule};
use crate::service::error::Result;
use crate::service::outcome::{Outcome, RunReport};

mod catch_up;
mod ending;
mod failing;
mod long_run;
mod planning;
mod running;
mod standby;
mod waiting;

#[cfg(test)]
mod tests;

/// Runs a service from `Starting` until it has stopped or failed.
pub(crate) async fn supervise(supervisor: &mut Supervisor) -> Exit {
    let ended = panic::catch_future(pin!(supervisor.run_loop())).await;
    let exit = supervisor.exit_of(ended);
    Box::pin(supervisor.end(exit)).await
}

/// The state of the loop of one service. Only the loop reads and writes it.
pub(crate) struct Supervisor {
    cx: Context,
    registered: Arc<RegisteredService>,
    services: Arc<Services>,
    invoker: Invoker,
    /// The options that the loop uses; the options in the requests may be newer.
    options: Arc<Options>,
    instance: Option<Box<dyn Lifecycle>>,
    /// An instance has been built in this incarnation.
    was_built: bool,
    /// What is due at `next_due` of the status.
    due: Due,
    /// A blocking run that timed out or was aborted; it holds the instance.
    unreturned: Option<UnreturnedRun>,
    turn: Turn,
    /// Callers that wait for the report of the current run.
    current_waiters: Waiters,
    /// The run serves a wake-up: the one that is in progress or is retried, or that for which the instance is being
    /// built.
    woken: bool,
    /// By what this replica has the lease.
    grant: Option<Box<Grant>>,
    /// It has taken the lease, and the schedule of the service has not been planned since.
    is_taken_over: bool,
    /// For a cron schedule.
    cron: Option<Box<CronTimer>>,
    /// What the loop has served before it lost the lease, and could not record.
    unrecorded: Option<Box<Unrecorded>>,
    /// The moment of the schedule for which the next regular run is planned, without jitter.
    nominal: Nominal,
    restarts: RestartBudget,
    failure_log: FailureLog,
    /// For jitter.
    rng: fastrand::Rng,
    /// It makes one run, whatever the schedule is, and ends.
    once: bool,
    /// The status already has the result of the loop.
    ended: bool,
}

/// What is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    AtOnce,
    /// The next point of the interval, or the end of the delay.
    Regular,
    /// The next check of the wall clock, which may be the fire itself.
    Cron,
    /// A fire that was missed while the process was down.
    Missed,
    Retry,
    /// Only a wake-up or a requested run.
    Wake,
}

/// What ended a wait.
#[derive(Clone, Copy)]
enum WaitEvent {
    Stop,
    /// Options or settings have changed.
    Changed,
    /// The wall clock was due to be checked, and the fire has not come yet.
    ClockCheck,
    /// A blocking run that timed out has returned, or the runtime shuts down.
    Returned,
    /// This replica may not run the service any more.
    LeaseLost,
    /// Another replica is to run the service.
    HandOver,
    /// A run is due, and there is no instance.
    Build,
    /// A run has begun.
    Run,
}

/// A blocking run that timed out or was aborted, and occupies a thread of the blocking pool until it returns.
struct UnreturnedRun {
    run: Returning,
    /// What it has returned, until the loop takes it.
    returned: Option<Box<Returned>>,
    /// The instance must not be used again.
    discard: bool,
}

/// What a blocking run returns: the instance and the result of the run.
type Returned = (Box<dyn Lifecycle>, Caught<Result<Outcome>>);

/// Receives what a blocking run returns.
type Returning = oneshot::Receiver<Returned>;

/// Start and end of a run.
type Times = (Instant, Instant);

/// A run that ends later than this after its timeout has blocked its thread.
const BLOCKED_GRACE: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(crate) fn new(
        cx: Context,
        registered: Arc<RegisteredService>,
        services: Arc<Services>,
        extension: Arc<dyn Extension>,
    ) -> Self {
        let options = cx.service.lock().requests.options.clone();
        let rng = services.shared.rng(registered.id());
        Self {
            invoker: Invoker { service: cx.service.clone(), extension },
            cx,
            registered,
            services,
            options,
            instance: None,
            was_built: false,
            due: Due::AtOnce,
            unreturned: None,
            turn: Turn::None,
            current_waiters: Waiters::new(),
            woken: false,
            grant: None,
            is_taken_over: false,
            cron: None,
            unrecorded: None,
            nominal: Nominal::None,
            restarts: RestartBudget::default(),
            failure_log: FailureLog::default(),
            rng,
            once: false,
            ended: false,
        }
    }

    /// Makes the loop end after one run, which begins as soon as the instance is built. `waiter` receives its report.
    /// The run does not change since when fires are skipped.
    pub(crate) fn limit_to_one_run(
        &mut self,
        waiter: oneshot::Sender<RunReport>,
        skips_fires_since: Option<SystemTime>,
    ) {
        self.once = true;
        let mut state = self.cx.service.lock();
        (state.status.once, state.status.skips_fires_since) = (true, skips_fires_since);
        state.requests.run = true;
        state.requests.waiters.push(waiter);
    }

    pub(crate) fn registered(&self) -> &RegisteredService {
        &self.registered
    }

    pub(crate) fn incarnation(&self) -> u32 {
        self.cx.incarnation
    }

    /// Why the loop has ended.
    fn exit_of(&self, ended: Caught<Exit>) -> Exit {
        match ended {
            Caught::Returned(exit) => exit,
            Caught::Panicked(message) => {
                let id = self.registered.id();
                error!(service.id = %id, "the loop of this service panicked, the service is now `Failed`; this is a bug in service-core, please report it: {message}");
                Exit::Failed
            }
        }
    }

    // Rare steps are boxed where they are awaited, since a task is as large as its largest await.
    async fn run_loop(&mut self) -> Exit {
        if !self.once && self.cx.service.lease.is_none() {
            self.skip_since_previous_end();
        }
        if !self.once && !self.options.depends_on.is_empty() && !Box::pin(self.wait_for_dependencies()).await {
            return Exit::Stopped;
        }
        if self.cx.service.lease.is_some()
            && let Some(exit) = Box::pin(self.stand_by()).await
        {
            return exit;
        }
        let mut timer = pin!(tokio::time::sleep_until(Instant::now()));
        loop {
            let exit = match poll_fn(|task| self.poll_wait(task, timer.as_mut())).await {
                WaitEvent::Stop => Some(Exit::Stopped),
                WaitEvent::Build => match Box::pin(self.build()).await {
                    None => {
                        // The caller of `start` continues before the first run begins.
                        tokio::task::yield_now().await;
                        None
                    }
                    exit => exit,
                },
                WaitEvent::Run if self.options.long_run().is_some() => Box::pin(self.long_run(timer.as_mut())).await,
                WaitEvent::Run => {
                    let result = match self.cx.epoch {
                        None => self.run(timer.as_mut()).await,
                        Some(_) => Box::pin(self.run_recorded(timer.as_mut())).await,
                    };
                    let Some(failed) = self.take_success(result) else {
                        self.record_end().await;
                        self.after_run().await;
                        if self.once {
                            self.cx.service.request_stop(StopRequest::by_itself());
                        }
                        continue;
                    };
                    Box::pin(self.follow_failure(*failed)).await
                }
                other => Box::pin(self.follow_up(other)).await,
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Handles a run that succeeded. Returns the result of one that did not.
    #[inline]
    fn take_success(&mut self, result: InvokeResult<Result<Outcome>>) -> Option<Box<InvokeResult<Result<Outcome>>>> {
        match result {
            InvokeResult::Done(Ok(outcome)) => {
                self.succeed(outcome);
                None
            }
            failed => Some(Box::new(failed)),
        }
    }

    /// Handles a run that succeeded.
    fn succeed(&mut self, outcome: Outcome) {
        let ended = Instant::now();
        let service = &self.cx.service;
        let (duration, outcome, planned) = service.update(|state| {
            // Options that the run itself has set count from here on.
            adopt_options(&mut self.options, state);
            let outcome = state.take_progress(outcome);
            let (started, duration) = state.status.end_run(outcome, ended);
            if let Some(history) = &mut state.history {
                let Outcome { processed, failed, .. } = outcome;
                let result = RunResult::Succeeded { processed, failed };
                history.push(RunRecord::new(self.cx.run, started, duration, result));
            }
            let planned = Self::plan_after_run(&self.options, &mut self.rng, &mut state.status, started, ended);
            if self.options.long_run().is_some() {
                // What the run has spawned may wait for its end.
                state.notify_waiters();
            }
            (duration, outcome, planned)
        });
        self.woken = false;
        self.warn_if_blocked(self.options.timeout, duration);
        self.failure_log.recovered(service);
        let (run, Outcome { processed, failed, again }) = (self.cx.run, outcome);
        service.emit(|| ServiceEventKind::RunFinished { run, duration, processed, failed, again });
        debug!(service.id = %service.id, service.run = run, processed, failed, ?duration, "run finished");
        if !self.current_waiters.is_empty() {
            self.report(RunReport { outcome, error: None, duration });
        }
        self.follow_plan(planned, ended);
        if outcome.again {
            self.due = Due::AtOnce;
            self.nominal = self.cx.nominal.continued();
        }
        self.serve_fire();
    }

    /// The cron fire of this run counts as served.
    fn serve_fire(&mut self) {
        if let Some(cron) = self.cron.as_mut().filter(|_| self.options.schedule.caught_up().is_some()) {
            cron.done();
        }
    }

    /// A run that has returned long after its timeout has blocked its thread.
    fn warn_if_blocked(&self, timeout: Option<Duration>, duration: Duration) {
        if let Some(timeout) = timeout.filter(|timeout| duration > *timeout + BLOCKED_GRACE) {
            warn!(
                service.id = %self.cx.service.id, service.run = self.cx.run,
                "the run took {}, longer than its `timeout` of {}: it blocked its thread, so it could not be cancelled; write \
                 blocking code as a plain `fn update`",
                humanize::long(duration), humanize::long(timeout)
            );
        }
    }

    /// After every run and every failure that does not end the service: records the fire, settles the rows that the run
    /// left open, and ends the instance if the run requested a fresh one.
    async fn after_run(&mut self) {
        if self.cron.is_some() {
            Box::pin(self.record_pending_fire(false)).await;
        }
        if self.invoker.extension.has_unsettled(&self.cx.service) {
            Box::pin(self.settle(None)).await;
        }
        let (rebuild, is_requested) = {
            let requests = &self.cx.service.lock().requests;
            (requests.rebuild, requests.run || requests.woken)
        };
        if rebuild == Some(Rebuild::Reset) {
            Box::pin(self.rebuild()).await;
        }
        if is_requested || matches!(self.due, Due::AtOnce | Due::Retry) {
            // Back-to-back runs leave room for other tasks. A retry may have no delay, and a run may wake its service.
            tokio::task::yield_now().await;
        }
    }

    /// Sends the report of the run to the callers that wait for it.
    fn report(&mut self, report: RunReport) {
        for waiter in self.current_waiters.drain(..) {
            // The caller may have stopped waiting.
            let _ = waiter.send(report.clone());
        }
    }

    fn cron(&mut self) -> &mut CronTimer {
        self.cron.get_or_insert_default()
    }

    /// Waits until every service that this one depends on is ready. Returns `false` if a stop came first.
    async fn wait_for_dependencies(&mut self) -> bool {
        let service = self.cx.service.clone();
        loop {
            let mut changed = pin!(service.shared.changed.notified());
            let waiting = self.services.not_ready(&self.options.depends_on);
            let ready = waiting.ids.is_empty();
            service.update(|state| {
                if ready {
                    state.status.wait_reason = None;
                    state.status.grid = Grid::new(Instant::now());
                    return;
                }
                state.status.wait_reason = Some(Box::new(WaitReason::Dependencies(waiting.ids.into())));
                if waiting.none_starting && !state.status.is_start_resolved() {
                    // No dependency is starting, so the caller of `start` would wait in vain.
                    state.status.reach(StartPhase::Resolved);
                    service.notify_waiters(state);
                }
            });
            if ready {
                return true;
            }
            let stopped = poll_fn(|task| {
                let mut state = service.lock();
                state.set_waker(task.waker());
                if state.requests.stop.is_some() {
                    return Poll::Ready(true);
                }
                drop(state);
                changed.as_mut().poll(task).map(|()| false)
            });
            if stopped.await {
                return false;
            }
        }
    }
}

/// Takes over the options in effect. Before that, the grid advances to the last run.
#[inline]
fn adopt_options(options: &mut Arc<Options>, state: &mut RuntimeState) {
    if Arc::ptr_eq(options, &state.requests.options) {
        return;
    }
    let (status, new) = (&mut state.status, &state.requests.options);
    let (first, started) = (status.grid.first(), status.stats.last_started);
    match (&options.schedule, &new.schedule) {
        (Schedule::Interval(every), _) => {
            if let Some(started) = started {
                status.grid.advance_to(*every, started);
            }
        }
        // With a delay, the grid has the end of the last run; an interval counts from its start.
        (Schedule::Delay(_), Schedule::Interval(_)) if status.stats.last_ended().max(started) >= Some(first) => {
            status.grid = Grid::new(started.unwrap_or(first));
        }
        _ => {}
    }
    options.clone_from(new);
}
