//! The loop that runs one service: wait, build where there is no instance, run, decide, and at the end clean up.
//!
//! One task does all of it, so two runs can never overlap. The tricky part is that anything may be asked at any moment:
//! what handles want stands in [`Control`](crate::control::Control), which every wait looks at. What follows an
//! outcome, and when, is decided by `policy` and `schedule`; user code is driven by [`Desk`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::caught::{self, Caught};
use crate::clock::plain;
use crate::context::Context;
use crate::control::{Control, Hold};
#[cfg(feature = "database")]
use crate::cron::MOST_MISSED;
use crate::cron::WallPlan;
use crate::desk::{Desk, Driven, Limit, Returned, RunSpan, clean_up_late, poll_at, spawn_blocking_run};
use crate::entry::{Entry, used_up};
use crate::error::{Error, Result};
use crate::event::ServiceEventKind;
use crate::failure::{Failure, FailureKind, Recovery};
#[cfg(feature = "database")]
use crate::options::CatchUp;
use crate::options::{Options, Schedule};
use crate::outcome::{Outcome, RunReport};
use crate::policy::{self, RestartBudget, Verdict};
use crate::schedule::{Grid, later};
use crate::service::Lifecycle;
use crate::state::ServiceState;

/// Runs a service from `Starting` until it is stopped or failed for good.
pub(crate) async fn supervise(mut cx: Context) {
    let mut guard = Unfinished(Some(cx.entry.clone()));
    let timer = pin!(tokio::time::sleep(Duration::ZERO));
    let options = cx.entry.lock().options.clone();
    let rng = cx.entry.hub.rng(&cx.entry.id);
    let now = Instant::now();
    let mut supervisor = Supervisor {
        desk: Desk { entry: cx.entry.clone(), timer, options, late: false },
        cx: &mut cx,
        instance: Slot::Empty,
        discard: false,
        up: false,
        next: Next::AtOnce,
        due: now,
        grid: Grid::new(now),
        wall: None,
        budget: None,
        rng,
    };
    let ending = supervisor.live().await;
    Box::pin(supervisor.end(ending)).await;
    guard.0 = None;
}

struct Supervisor<'t> {
    /// What runs see; apart from the desk, which drives them.
    cx: &'t mut Context,
    desk: Desk<'t>,
    instance: Slot,
    /// The instance that is on the blocking pool is to be cleaned up when it comes back.
    discard: bool,
    /// The first instance has been built.
    up: bool,
    next: Next,
    /// When `next` is due; not looked at for `AtOnce`.
    due: Instant,
    grid: Grid,
    /// Made with the first wait for a cron schedule.
    wall: Option<Box<WallPlan>>,
    /// Made with the first restart.
    budget: Option<Box<RestartBudget>>,
    rng: fastrand::Rng,
}

/// Where the instance is.
enum Slot {
    Empty,
    Here(Box<dyn Lifecycle>),
    /// On the blocking pool, in a run that timed out or outlasted its stop.
    Away(JoinHandle<Returned>),
}

/// Why a life ends.
enum Ending {
    Stopped,
    Failed,
}

/// What the supervisor waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    AtOnce,
    Regular,
    /// By the clock on the wall.
    Wall,
    /// A run for a cron fire that was missed while the process was down.
    Missed,
    Retry,
}

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cue {
    Due,
    Asked,
    Stop,
}

/// What ended a wait, or what is to be done before it goes on.
enum Woken {
    Go(Cue),
    OptionsChanged,
    /// The service's own settings: the next run is to have a fresh instance.
    SettingsChanged,
    WallNotThere,
    /// A blocking run has returned late, and its instance is not to be used again.
    BackAndDone,
}

/// What came of building.
enum Built {
    Done,
    Broken(FailureKind, Error),
    Aborted,
}

/// Start and end of a run.
type Times = (Instant, Instant);

// Whatever happens seldom is boxed where it is awaited, so that a waiting service takes no memory for it.
impl Supervisor<'_> {
    async fn live(&mut self) -> Ending {
        if !Box::pin(self.desk.dependencies(&self.cx.registry)).await {
            return Ending::Stopped;
        }
        loop {
            let cue = self.wait().await;
            if cue == Cue::Stop {
                return Ending::Stopped;
            }
            if matches!(self.instance, Slot::Empty) {
                match Box::pin(self.build()).await {
                    Built::Done => {}
                    Built::Broken(kind, error) => match Box::pin(self.fail(kind, error, None)).await {
                        Some(ending) => return ending,
                        None => continue,
                    },
                    Built::Aborted => return Ending::Stopped,
                }
            }
            if !self.up {
                self.come_up();
                #[cfg(feature = "database")]
                if catches_up(&self.desk.options) {
                    Box::pin(self.look_for_missed()).await;
                }
                continue;
            }
            if !self.begin(cue) {
                continue;
            }
            let span = RunSpan::new(self.cx);
            let Slot::Here(instance) = &mut self.instance else { unreachable!("a run begins with an instance") };
            let driven = if instance.__shape().blocking_update {
                Box::pin(self.drive_blocking(&span)).await
            } else {
                let mut update = instance.__update(self.cx);
                let driven = self.desk.drive(update.as_mut(), &span, Limit::Run).await;
                match span.in_scope(|| self.cx.entry.as_current(|| caught::quietly(|| drop(update)))) {
                    Caught::Panicked(message) => Driven::Panicked(message),
                    Caught::Returned(()) => driven,
                }
            };
            if let Driven::Done(Ok(outcome)) = driven {
                self.succeed(outcome);
                #[cfg(feature = "database")]
                if catches_up(&self.desk.options) {
                    Box::pin(self.remember_fire()).await;
                }
            } else if let Some(ending) = Box::pin(self.follow_failure(driven)).await {
                return ending;
            }
            #[cfg(feature = "database")]
            if self.cx.entry.in_debt().is_some() {
                Box::pin(self.pay_debts(None)).await;
            }
            if self.cx.entry.lock().renew {
                Box::pin(self.renew()).await;
            }
        }
    }

    // ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Waits until the next run is due or something is asked.
    async fn wait(&mut self) -> Cue {
        if self.next == Next::AtOnce && self.up {
            // Back-to-back runs leave room for everyone else's tasks.
            tokio::task::yield_now().await;
        }
        loop {
            match self.woken().await {
                Woken::Go(cue) => return cue,
                Woken::OptionsChanged => self.plan_again(),
                Woken::WallNotThere => self.look_at_wall(),
                Woken::SettingsChanged => {
                    if !self.cx.entry.factory.is_ready_made() {
                        Box::pin(self.replace_instance()).await;
                    }
                }
                Woken::BackAndDone => Box::pin(self.end_instance()).await,
            }
        }
    }

    fn woken(&mut self) -> impl Future<Output = Woken> {
        let Self { desk, instance, next, due, grid, wall, discard, .. } = self;
        let Desk { entry, timer, options, .. } = desk;
        std::future::poll_fn(move |task| {
            let mut control = entry.lock();
            control.listen(task.waker());
            if control.stop.is_some() {
                return Poll::Ready(Woken::Go(Cue::Stop));
            }
            if control.changed {
                control.changed = false;
                settle(grid, options, &control);
                options.clone_from(&control.options);
                if std::mem::take(&mut control.reconfigure) {
                    // The options are planned with on the next turn.
                    control.changed = true;
                    return Poll::Ready(Woken::SettingsChanged);
                }
                return Poll::Ready(Woken::OptionsChanged);
            }
            control.next_due = (*next != Next::AtOnce).then_some(*due);
            control.grid = *grid;
            let (asked, paused) = (control.run_wanted, control.state() == ServiceState::Paused);
            drop(control);
            if let Slot::Away(run) = instance {
                // Runs never overlap: not before the one that timed out has come back.
                let Poll::Ready(returned) = Pin::new(run).poll(task) else { return Poll::Pending };
                entry.lock().hold = None;
                let panicked;
                (*instance, panicked) = come_back(entry, returned);
                if panicked || std::mem::take(discard) {
                    return Poll::Ready(Woken::BackAndDone);
                }
            }
            if asked {
                return Poll::Ready(Woken::Go(Cue::Asked));
            }
            if paused {
                return Poll::Pending;
            }
            if *next == Next::AtOnce {
                return Poll::Ready(Woken::Go(Cue::Due));
            }
            match (poll_at(timer, *due, task), *next) {
                (Poll::Pending, _) => Poll::Pending,
                (_, Next::Wall) if !wall.as_ref().is_some_and(|wall| wall.is_due(entry.hub.clock.wall_now())) => {
                    Poll::Ready(Woken::WallNotThere)
                }
                _ => Poll::Ready(Woken::Go(Cue::Due)),
            }
        })
    }

    /// The first instance is there: the service is up, and its schedule begins.
    fn come_up(&mut self) {
        self.up = true;
        let now = Instant::now();
        let options = self.desk.options.clone();
        let first = later(now, options.initial_delay);
        self.grid = Grid::new(first);
        match &options.schedule {
            Schedule::Cron(_) => self.plan_wall(),
            _ if options.initial_delay.is_zero() => self.next = Next::AtOnce,
            _ => self.plan_at(first),
        }
        let entry = &self.cx.entry;
        let mut control = entry.lock();
        control.settled = true;
        control.up = true;
        control.retrying = false;
        control.failures = 0;
        control.hold = None;
        if control.state() == ServiceState::Starting || (control.state() == ServiceState::BackingOff && !control.paused)
        {
            entry.enter(&mut control, ServiceState::Running);
        }
        if control.paused && control.state() == ServiceState::Running {
            entry.enter(&mut control, ServiceState::Paused);
        }
    }

    /// Plans the next regular run after one from `started` to `ended`.
    fn plan_regular(&mut self, started: Instant, ended: Instant) {
        let due = match &self.desk.options.schedule {
            Schedule::Interval(every) => self.grid.after_run(*every, started, ended),
            Schedule::Delay(wait) => {
                // A run of this life has ended, be it one by hand during the initial delay.
                self.grid = Grid::new(ended);
                later(ended, *wait)
            }
            Schedule::Cron(_) => return self.plan_wall(),
        };
        self.plan_at(due);
        if self.due <= ended {
            self.next = Next::AtOnce;
        }
    }

    /// Plans again after the options have changed.
    fn plan_again(&mut self) {
        if matches!(self.next, Next::AtOnce | Next::Retry | Next::Missed) {
            return;
        }
        match &self.desk.options.schedule {
            Schedule::Interval(every) => {
                let started = self.cx.entry.lock().stats.last_started;
                let due = self.grid.next(*every, started);
                self.plan_at(due);
            }
            Schedule::Delay(wait) => {
                let ended = self.cx.entry.lock().stats.last_ended();
                // Not in the initial delay, as long as no run of this life has ended.
                if let Some(ended) = ended.filter(|ended| *ended >= self.grid.first()) {
                    let due = later(ended, *wait);
                    self.plan_at(due);
                }
            }
            Schedule::Cron(_) => self.plan_wall(),
        }
    }

    /// The next regular run is due at this moment and up to `jitter` later.
    fn plan_at(&mut self, due: Instant) {
        self.next = Next::Regular;
        self.due = later(due, self.jitter());
    }

    fn jitter(&mut self) -> Duration {
        let most = u64::try_from(self.desk.options.jitter.as_nanos()).unwrap_or(u64::MAX);
        if most == 0 { Duration::ZERO } else { Duration::from_nanos(self.rng.u64(0..=most)) }
    }

    /// Plans the next fire of a cron schedule.
    fn plan_wall(&mut self) {
        let jitter = self.jitter();
        let options = self.desk.options.clone();
        let Schedule::Cron(cron) = &options.schedule else { return };
        let clock = &self.cx.entry.hub.clock;
        // Not before the initial delay is over.
        let from = clock.wall(self.grid.first().max(Instant::now()));
        let wall = self.wall.get_or_insert_default();
        if wall.owes() {
            self.next = Next::Missed;
            self.due = self.grid.first();
            return;
        }
        wall.plan(cron, from, jitter);
        self.next = Next::Wall;
        self.due = later(Instant::now(), wall.until_next_look(clock.wall_now()));
    }

    /// The time of a look at the clock on the wall has come, and not yet the fire.
    fn look_at_wall(&mut self) {
        let clock = &self.cx.entry.hub.clock;
        let from = clock.wall(self.grid.first().max(Instant::now()));
        if let (Some(wall), Schedule::Cron(cron)) = (&self.wall, &self.desk.options.schedule)
            && wall.stands(cron, from)
        {
            self.due = later(Instant::now(), wall.until_next_look(clock.wall_now()));
        } else {
            self.plan_wall();
        }
    }

    /// What a cron schedule with `catch_up` missed while the process was down is owed.
    #[cfg(feature = "database")]
    async fn look_for_missed(&mut self) {
        use crate::database::{LastRun, last_run, set_last_run};
        let entry = self.cx.entry.clone();
        let options = self.desk.options.clone();
        let (Some(db), Schedule::Cron(cron)) = (entry.hub.database.as_ref(), &options.schedule) else { return };
        let now = entry.hub.clock.wall_now();
        let look = async {
            let last = last_run(db, &entry.id).await?.fire;
            if last.is_none() {
                // From the first start on there is something to miss.
                set_last_run(db, &entry.id, LastRun { fire: Some(now.into()), ..LastRun::default() }).await?;
            }
            Ok::<_, Error>(last)
        };
        let limit = Limit::Cleanup(later(Instant::now(), options.drain_timeout));
        let last = match self.desk.drive(pin!(look), &RunSpan::NONE, limit).await {
            Driven::Done(Ok(Some(last))) => last.into(),
            Driven::Done(Ok(None)) => return,
            Driven::Done(Err(error)) => {
                warn!(service.id = %entry.id, "nothing is caught up: its last fire cannot be read: {error:#}");
                return;
            }
            _ => return,
        };
        let most = if cron.catch_up == CatchUp::Latest { 1 } else { MOST_MISSED };
        let missed = crate::cron::missed(cron, last, now, most);
        if !missed.is_empty() {
            info!(service.id = %entry.id, "catches up {} fire(s) missed while it was down", missed.len());
            self.wall.get_or_insert_default().owe(missed);
            self.plan_wall();
        }
    }

    /// Writes down the fire whose run ended well, so that it is not caught up after a restart of the process.
    #[cfg(feature = "database")]
    async fn remember_fire(&mut self) {
        use crate::database::{LastRun, set_last_run};
        let entry = self.cx.entry.clone();
        let fire = self.wall.as_mut().and_then(|wall| wall.done());
        let (Some(db), Some(fire)) = (entry.hub.database.as_ref(), fire) else { return };
        let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout));
        let last = LastRun { fire: Some(fire.into()), ..LastRun::default() };
        let written = self.desk.drive(pin!(set_last_run(db, &entry.id, last)), &RunSpan::NONE, limit).await;
        if let Driven::Done(Err(error)) = written {
            warn!(service.id = %entry.id, "the fire just run is not remembered, and may be caught up again: {error:#}");
        }
    }

    // ── building and running ─────────────────────────────────────────────────────────────────────────────────────

    /// Builds an instance.
    async fn build(&mut self) -> Built {
        let mut building = {
            let cx = &*self.cx;
            cx.entry.as_current(|| cx.entry.factory.build(&cx.entry.id, cx.clone()))
        };
        let driven = self.desk.drive(building.as_mut(), &RunSpan::NONE, Limit::Stop).await;
        let _ = caught::quietly(|| drop(building));
        match driven {
            Driven::Done(Ok(instance)) => {
                self.instance = Slot::Here(instance);
                self.cx.entry.emit(|| ServiceEventKind::InstanceBuilt);
                Built::Done
            }
            Driven::Done(Err(error)) => Built::Broken(FailureKind::Error, error),
            Driven::Panicked(message) => {
                Built::Broken(FailureKind::Panic, Error::msg(format!("building the instance panicked: {message}")))
            }
            Driven::TimedOut | Driven::Aborted => {
                warn!(service.id = %self.cx.entry.id, "`configure` outlasted the stop and was aborted");
                self.cx.entry.emit(|| ServiceEventKind::Aborted);
                Built::Aborted
            }
        }
    }

    /// A run begins; or does not, where a stop or a pause came first.
    fn begin(&mut self, cue: Cue) -> bool {
        let started = Instant::now();
        let entry = &self.cx.entry;
        let run = {
            let mut control = entry.lock();
            if control.stop.is_some() || (control.paused && cue == Cue::Due && !control.run_wanted) {
                return false;
            }
            if control.state() == ServiceState::BackingOff {
                entry.enter(&mut control, ServiceState::Running);
            }
            control.begin_run(started)
        };
        self.cx.run = run;
        match (cue, self.next, &mut self.wall) {
            (Cue::Due, Next::Wall, Some(wall)) => wall.serve(),
            (Cue::Due, Next::Missed, Some(wall)) => wall.serve_missed(),
            _ => {}
        }
        entry.emit(|| ServiceEventKind::RunStarted { run });
        true
    }

    /// Drives `update` on the blocking pool.
    async fn drive_blocking(&mut self, span: &RunSpan) -> Driven<Result<Outcome>> {
        let Slot::Here(instance) = std::mem::replace(&mut self.instance, Slot::Empty) else {
            unreachable!("a run begins with an instance");
        };
        let mut on_pool = spawn_blocking_run(instance, Context::clone(self.cx), span.clone());
        match self.desk.drive(pin!(&mut on_pool), &RunSpan::NONE, Limit::Run).await {
            Driven::Done(Ok((instance, caught))) => {
                self.instance = Slot::Here(instance);
                match caught {
                    Caught::Returned(result) => Driven::Done(result),
                    Caught::Panicked(message) => Driven::Panicked(message),
                }
            }
            Driven::Done(Err(join)) => Driven::Panicked(join.to_string()),
            Driven::Panicked(message) => Driven::Panicked(message),
            cut @ (Driven::TimedOut | Driven::Aborted) => {
                self.cx.entry.lock().hold = Some(Hold::Blocked);
                self.instance = Slot::Away(on_pool);
                if matches!(cut, Driven::TimedOut) { Driven::TimedOut } else { Driven::Aborted }
            }
        }
    }

    // ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn succeed(&mut self, outcome: Outcome) {
        let ended = Instant::now();
        let (entry, run) = (&self.cx.entry, self.cx.run);
        let (started, duration, waiters) = {
            let mut control = entry.lock();
            // What the run itself has set counts from here on.
            if control.changed {
                settle(&mut self.grid, &self.desk.options, &control);
                self.desk.options.clone_from(&control.options);
            }
            control.end_run_well(outcome, ended)
        };
        let Outcome { processed, failed, again } = outcome;
        entry.emit(|| ServiceEventKind::RunFinished { run, duration, processed, failed, again });
        debug!(service.id = %entry.id, service.run = run, processed, failed, ?duration, "run finished");
        if let Some(waiters) = waiters {
            report(*waiters, &RunReport { outcome, error: None, duration });
        }
        self.plan_regular(started, ended);
        if again {
            self.next = Next::AtOnce;
        }
    }

    /// Tells how a run failed from how it ended.
    async fn follow_failure(&mut self, driven: Driven<Result<Outcome>>) -> Option<Ending> {
        let ended = Instant::now();
        let times = (self.cx.entry.lock().stats.last_started.unwrap_or(ended), ended);
        let (kind, error) = match driven {
            Driven::Done(Ok(_)) => return None,
            Driven::Done(Err(error)) => (FailureKind::Error, error),
            Driven::Panicked(message) => (FailureKind::Panic, Error::msg(format!("panicked: {message}"))),
            Driven::TimedOut => {
                let timeout = plain(self.desk.options.timeout.unwrap_or_default());
                (FailureKind::Timeout, Error::msg(format!("ran longer than its timeout of {timeout}")))
            }
            Driven::Aborted => {
                self.follow_abort(times).await;
                return Some(Ending::Stopped);
            }
        };
        self.fail(kind, error, Some(times)).await
    }

    /// The stop would not wait any longer. Nobody is asked: there is nothing left to decide.
    async fn follow_abort(&mut self, times: Times) {
        let after = plain(times.1 - times.0);
        let error = Error::msg(format!("aborted by the stop, {after} after its start"));
        #[cfg(feature = "database")]
        self.pay_debts(Some(&error)).await;
        let entry = &self.cx.entry;
        warn!(service.id = %entry.id, service.run = self.cx.run, "the run outlasted the stop: {error:#}");
        entry.emit(|| ServiceEventKind::Aborted);
        let failures = entry.lock().failures;
        let failure = policy::failure(&self.desk.options, failures, FailureKind::Timeout, error);
        self.count(&failure, Recovery::Stop, Some(times));
    }

    /// Settles in the database what the run that just ended left open, for as long as a stop would wait.
    #[cfg(feature = "database")]
    async fn pay_debts(&mut self, error: Option<&Error>) {
        let entry = self.cx.entry.clone();
        let Some(access) = entry.in_debt() else { return };
        let why = error.map(|error| format!("{error:#}"));
        let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout));
        if let Driven::Done(Err(error)) =
            self.desk.drive(pin!(access.run_ended(why.as_deref())), &RunSpan::NONE, limit).await
        {
            warn!(service.id = %entry.id, "could not settle the rows of the run yet, the next run tries again: {error:#}");
        }
    }

    /// Counts a failure, asks what follows and does it. `times` are missing where no instance could be built.
    async fn fail(&mut self, kind: FailureKind, error: Error, times: Option<Times>) -> Option<Ending> {
        let entry = self.cx.entry.clone();
        // It is written down more than once below, outside of what catches panics.
        let error = match caught::quietly(|| format!("{error:#}")) {
            Caught::Returned(_) => error,
            Caught::Panicked(message) => {
                Error::msg(format!("an error whose text cannot be had: it panicked: {message}"))
            }
        };
        let before = {
            let control = entry.lock();
            if control.changed {
                settle(&mut self.grid, &self.desk.options, &control);
                self.desk.options.clone_from(&control.options);
            }
            control.failures
        };
        #[cfg(feature = "database")]
        self.pay_debts(Some(&error)).await;
        let failure = policy::failure(&self.desk.options, before, kind, error);
        let (recovery, broken) = self.ask(&failure);
        let mut verdict = policy::judge(&failure, recovery);
        let irreplaceable = broken && !entry.factory.has_next();
        if irreplaceable && matches!(verdict, Verdict::Retry(_) | Verdict::Regular) {
            verdict = Verdict::Fail;
        }
        log_failure(&entry, self.cx.run, &failure, verdict);
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
                self.back_off(wait);
                None
            }
            Verdict::Stop => Some(Ending::Stopped),
            Verdict::Fail if irreplaceable => {
                error!(service.id = %entry.id, "{}", used_up(&entry.id));
                Some(Ending::Failed)
            }
            // A `reset` from within the run is honoured: a fresh instance follows in place of the end.
            Verdict::Fail if entry.lock().is_renewed() => None,
            Verdict::Fail => self.restart().await,
        }
    }

    /// Writes a failure down. `Ignore` leaves the count as it was.
    fn count(&self, failure: &Failure, recovery: Recovery, times: Option<Times>) {
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
    fn ask(&mut self, failure: &Failure) -> (Recovery, bool) {
        let Slot::Here(instance) = &mut self.instance else {
            return (failure.recovery(), false);
        };
        let entry = &self.cx.entry;
        let panicked = failure.kind() == FailureKind::Panic;
        match caught::quietly(|| entry.as_current(|| instance.__on_failure(failure))) {
            Caught::Returned(recovery) => (recovery, panicked),
            Caught::Panicked(message) => {
                warn!(service.id = %entry.id, "`on_failure` panicked: {message}");
                (failure.recovery(), true)
            }
        }
    }

    /// After a failure for good: a fresh instance later, while the budget lasts.
    async fn restart(&mut self) -> Option<Ending> {
        let entry = self.cx.entry.clone();
        if entry.lock().stop.is_some() {
            return Some(Ending::Stopped);
        }
        let restart = self.desk.options.restart.filter(|_| !entry.factory.is_ready_made());
        let Some(wait) = restart.and_then(|restart| self.budget.get_or_insert_default().grant(restart, Instant::now()))
        else {
            return Some(Ending::Failed);
        };
        self.replace_instance().await;
        {
            let mut control = entry.lock();
            control.failures = 0;
            control.stats.restarts += 1;
            control.hold = Some(Hold::Restart);
        }
        entry.emit(|| ServiceEventKind::RestartScheduled { after: wait });
        warn!(service.id = %entry.id, "a fresh instance follows in {}", plain(wait));
        self.back_off(wait);
        None
    }

    fn back_off(&mut self, wait: Duration) {
        self.next = Next::Retry;
        self.due = later(Instant::now(), wait);
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
        entry.changed.notify_waiters();
    }

    /// A `reset` from within the run asked for a fresh instance.
    async fn renew(&mut self) {
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

    // ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────

    async fn end(mut self, ending: Ending) {
        let entry = self.cx.entry.clone();
        {
            let mut control = entry.lock();
            control.ending = true;
            control.next_due = None;
            if matches!(ending, Ending::Stopped) {
                entry.enter(&mut control, ServiceState::Draining);
            } else {
                // Tasks of the instance's own wait for its end.
                entry.changed.notify_waiters();
            }
        }
        self.end_instance().await;
        let mut control = entry.lock();
        // Whoever still waits for a run is told by the dropped sender.
        control.forget_waiters();
        control.run_wanted = false;
        control.paused = false;
        control.hold = None;
        control.settled = true;
        let last = if control.state() == ServiceState::Draining { ServiceState::Stopped } else { ServiceState::Failed };
        entry.enter(&mut control, last);
        drop(control);
        if last == ServiceState::Stopped {
            info!(service.id = %entry.id, "stopped");
        } else if self.desk.options.critical {
            self.cx.registry.critical_failure(&entry.id);
        }
    }

    /// Ends the instance because another is to follow; one on the blocking pool when it comes back, as runs never overlap.
    async fn replace_instance(&mut self) {
        if matches!(self.instance, Slot::Away(_)) {
            self.discard = true;
        } else {
            self.end_instance().await;
        }
    }

    /// Cleans up the instance, exactly once, and lets go of it. Waits for one that is still on the blocking pool.
    async fn end_instance(&mut self) {
        match std::mem::replace(&mut self.instance, Slot::Empty) {
            Slot::Empty => {}
            Slot::Here(instance) => self.desk.clean_up(self.cx, instance).await,
            Slot::Away(mut run) => {
                let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout));
                match self.desk.drive(pin!(&mut run), &RunSpan::NONE, limit).await {
                    Driven::Done(Ok((instance, _))) => self.desk.clean_up(self.cx, instance).await,
                    Driven::Done(Err(_)) | Driven::Panicked(_) => {}
                    Driven::TimedOut | Driven::Aborted => {
                        let id = &self.cx.entry.id;
                        warn!(service.id = %id, "a blocking run does not return: its instance is cleaned up when it does");
                        tokio::spawn(clean_up_late(run, Context::clone(self.cx)));
                    }
                }
            }
        }
    }
}

/// The grid comes up to the last run on its old interval, before another holds.
fn settle(grid: &mut Grid, before: &Options, control: &Control) {
    if let (Schedule::Interval(every), Some(started)) = (&before.schedule, control.stats.last_started) {
        grid.settle(*every, started);
    }
}

#[cfg(feature = "database")]
fn catches_up(options: &Options) -> bool {
    matches!(&options.schedule, Schedule::Cron(cron) if cron.catch_up != CatchUp::None)
}

/// A blocking run that had timed out has returned at last, and whether by a panic.
fn come_back(entry: &Entry, returned: Result<Returned, tokio::task::JoinError>) -> (Slot, bool) {
    match returned {
        Ok((instance, Caught::Returned(_))) => (Slot::Here(instance), false),
        Ok((instance, Caught::Panicked(message))) => {
            warn!(service.id = %entry.id, "a blocking run panicked after it had timed out: {message}");
            (Slot::Here(instance), true)
        }
        Err(_) => (Slot::Empty, false),
    }
}

fn report(waiters: Vec<oneshot::Sender<RunReport>>, report: &RunReport) {
    for waiter in waiters {
        // Whoever asked may have stopped waiting.
        let _ = waiter.send(report.clone());
    }
}

fn log_failure(entry: &Entry, run: u64, failure: &Failure, verdict: Verdict) {
    let (id, error) = (&entry.id, &failure.error);
    let (count, max) = (failure.count, failure.max_failures);
    match verdict {
        Verdict::Fail => {
            error!(service.id = %id, service.run = run, failures = count, "failed for good, failure {count}: {error:#}");
        }
        Verdict::Stop => warn!(service.id = %id, service.run = run, failures = count, "failed and stops: {error:#}"),
        Verdict::Regular => warn!(service.id = %id, service.run = run, "failed, which is not counted: {error:#}"),
        Verdict::Retry(wait) => {
            let wait = plain(wait);
            warn!(service.id = %id, service.run = run, failures = count, "failed ({count} of {max}), again in {wait}: {error:#}");
        }
    }
}

/// Where the supervisor itself is dropped half-way (its runtime is shut down, or it has a bug), nobody waits for ever.
struct Unfinished(Option<Arc<Entry>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(entry) = self.0.take() else { return };
        let mut control = entry.lock();
        control.ending = true;
        control.forget_waiters();
        control.settled = true;
        let last = if control.state() == ServiceState::Draining { ServiceState::Stopped } else { ServiceState::Failed };
        entry.enter(&mut control, last);
        if std::thread::panicking() {
            error!(service.id = %entry.id, "its supervisor panicked; please report this as a bug of service-core");
        }
    }
}
