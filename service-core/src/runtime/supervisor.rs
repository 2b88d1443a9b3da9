//! The loop that runs one service: wait, build where there is no instance, run, decide, and at the end clean up.
//!
//! One future does all of it, so two runs can never overlap; [`Drivers`](crate::runtime::driver::Drivers) see that it is polled. The
//! tricky part is that anything may be asked at any moment: what handles want stands in
//! [`Control`](crate::runtime::control::Control), which every wait looks at. What follows an outcome, and when, is decided by
//! `policy` and `schedule`; user code is driven by [`Desk`].

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::config::options::Options;
use crate::panic::{self, Caught};
use crate::runtime::context::Context;
use crate::runtime::control::{Control, Hold, Waiters};
use crate::runtime::entry::Entry;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::invoker::{Desk, Driven, Limit, Returned, RunSpan, spawn_blocking_run};
use crate::runtime::lifecycle::{BoxFuture, Lifecycle};
use crate::runtime::policy::RestartBudget;
use crate::schedule::Schedule;
use crate::schedule::cron::WallPlan;
use crate::service::error::{Error, Result};
use crate::service::failure::FailureKind;
use crate::service::outcome::{Outcome, RunReport};
use crate::service::state::ServiceState;

#[cfg(feature = "database")]
mod catch_up;
mod ending;
mod failing;
mod planning;

/// Runs a service from `Starting` until it is stopped or failed for good.
#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice, for every waiting service")]
pub(crate) fn supervise(mut supervisor: Supervisor) -> impl Future<Output = ()> + Send {
    async move {
        let ending = supervisor.live().await;
        Box::pin(supervisor.end(ending)).await;
    }
}

pub(crate) struct Supervisor {
    /// What runs see; apart from the desk, which drives them.
    cx: Context,
    desk: Desk,
    instance: Option<Box<dyn Lifecycle>>,
    /// The first instance has been built.
    up: bool,
    /// The service has come to its end as it should.
    ended: bool,
    /// What is due at the control's `next_due`.
    next: Next,
    seldom: Option<Box<Seldom>>,
}

/// What few services need: apart, so that a waiting one takes no memory for it.
struct Seldom {
    /// The instance is on the blocking pool, in a run that timed out or outlasted its stop.
    away: Option<JoinHandle<Returned>>,
    /// Which is to be cleaned up when it comes back.
    discard: bool,
    budget: RestartBudget,
    /// For jitter.
    rng: fastrand::Rng,
    /// The fire that `Next::Wall` is for.
    wall: WallPlan,
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
    /// By the wall clock.
    Wall,
    /// A run for a cron fire that was missed while the process was down.
    Missed,
    Retry,
}

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cue {
    /// A run is due, but there is no instance.
    Build,
    /// A run has begun.
    Run,
    Stop,
}

/// What ended a wait, or what is to be done before it goes on.
enum Woken {
    Go(Cue),
    OptionsChanged,
    /// The service's own settings: the next run is to have a fresh instance.
    SettingsChanged,
    WallNotThere,
    /// A blocking run has returned late, and whether its instance is not to be used again.
    Back {
        done: bool,
    },
}

/// What came of building.
enum Built {
    Done,
    /// Not now: what follows is planned.
    Broken,
    Ended(Ending),
}

/// Start and end of a run.
type Times = (Instant, Instant);

// Whatever happens seldom is boxed where it is awaited, so that a waiting service takes no memory for it.
impl Supervisor {
    pub(crate) fn new(cx: Context, control: &Control) -> Self {
        let desk = Desk::new(control.options.clone());
        Self { cx, desk, instance: None, up: false, ended: false, next: Next::AtOnce, seldom: None }
    }

    #[expect(clippy::manual_async_fn, reason = "as `supervise`")]
    fn live(&mut self) -> impl Future<Output = Ending> + Send {
        async move {
            if !Box::pin(self.desk.dependencies(&self.cx.entry, &self.cx.registry)).await {
                return Ending::Stopped;
            }
            loop {
                match self.wait().await {
                    Cue::Stop => return Ending::Stopped,
                    Cue::Build => match Box::pin(self.build()).await {
                        Built::Done if !self.up => {
                            self.come_up();
                            continue;
                        }
                        Built::Done | Built::Broken => continue,
                        Built::Ended(ending) => return ending,
                    },
                    Cue::Run => {}
                }
                let Some(instance) = &mut self.instance else { unreachable!("a run begins with an instance") };
                let renew = {
                    let driven = if instance.__shape().blocking_update {
                        Box::pin(self.drive_blocking()).await
                    } else {
                        let mut run = Run { update: Some(instance.__update(&self.cx)), span: RunSpan::new(&self.cx) };
                        let driven = poll_fn(|task| run.poll(task, &mut self.desk, &self.cx.entry)).await;
                        match run.drop_cut(&self.cx.entry) {
                            Caught::Panicked(message) => Driven::Panicked(message),
                            Caught::Returned(()) => driven,
                        }
                    };
                    match driven {
                        Driven::Done(Ok(outcome)) => {
                            let renew = self.succeed(outcome);
                            #[cfg(feature = "database")]
                            if catch_up::is_wanted(&self.desk.options) {
                                self.seldom().wall.done();
                                if self.can_remember_fire() {
                                    Box::pin(self.remember_fire()).await;
                                }
                            }
                            renew
                        }
                        driven => match Box::pin(self.follow_failure(driven)).await {
                            Some(ending) => return ending,
                            None => self.cx.entry.lock().renew,
                        },
                    }
                };
                #[cfg(feature = "database")]
                if self.cx.entry.has_unsettled().is_some() {
                    Box::pin(self.settle_rows(None)).await;
                }
                if renew {
                    Box::pin(self.renew()).await;
                }
            }
        }
    }

    // ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Waits until the next run is due, and begins it, or until something is asked.
    async fn wait(&mut self) -> Cue {
        if self.up && (self.next == Next::AtOnce || self.cx.entry.lock().run_wanted) {
            // Back-to-back runs leave room for everyone else's tasks.
            tokio::task::yield_now().await;
        }
        loop {
            match poll_fn(|task| self.poll_woken(task)).await {
                Woken::Go(cue) => return cue,
                Woken::OptionsChanged => self.plan_again(),
                Woken::WallNotThere => {
                    self.look_at_wall();
                    #[cfg(feature = "database")]
                    if self.can_remember_fire() {
                        Box::pin(self.remember_fire()).await;
                    }
                }
                Woken::SettingsChanged => {
                    if !self.cx.entry.factory.is_ready_made() {
                        Box::pin(self.replace_instance()).await;
                    }
                }
                Woken::Back { done: true } => Box::pin(self.end_instance()).await,
                Woken::Back { done: false } => {}
            }
        }
    }

    fn poll_woken(&mut self, task: &mut Task<'_>) -> Poll<Woken> {
        let entry = &self.cx.entry;
        let mut control = entry.lock();
        control.asked = false;
        control.waits = false;
        if control.stop.is_some() {
            return Poll::Ready(Woken::Go(Cue::Stop));
        }
        if control.changed {
            control.changed = false;
            settle(&self.desk.options, &mut control);
            self.desk.options.clone_from(&control.options);
            if std::mem::take(&mut control.reconfigure) {
                // The options are planned with on the next turn.
                control.changed = true;
                return Poll::Ready(Woken::SettingsChanged);
            }
            return Poll::Ready(Woken::OptionsChanged);
        }
        control.listen(task.waker());
        if self.next == Next::AtOnce {
            control.plan(None);
        }
        if let Some(away) = self.seldom.as_mut().and_then(|seldom| seldom.away.as_mut()) {
            // Runs never overlap: not before the one that timed out has come back.
            drop(control);
            let Poll::Ready(returned) = Pin::new(away).poll(task) else { return Poll::Pending };
            entry.lock().let_go();
            let panicked;
            (self.instance, panicked) = come_back(entry, returned);
            let seldom = self.seldom();
            seldom.away = None;
            return Poll::Ready(Woken::Back { done: std::mem::take(&mut seldom.discard) || panicked });
        }
        if !control.run_wanted {
            if control.state() == ServiceState::Paused || (control.next_due.is_some() && !control.is_due) {
                // What it waits for is seen to by the drivers.
                control.waits = true;
                self.desk.timer = None;
                return Poll::Pending;
            }
            if self.next == Next::Wall {
                let there = |seldom: &Seldom| seldom.wall.is_due(entry.hub.clock.wall_now());
                if !self.seldom.as_deref().is_some_and(there) {
                    return Poll::Ready(Woken::WallNotThere);
                }
            }
        }
        if self.instance.is_none() {
            return Poll::Ready(Woken::Go(Cue::Build));
        }
        // Under the same lock, so that no stop or pause comes in between.
        if control.state() == ServiceState::BackingOff {
            entry.enter(&mut control, ServiceState::Running);
        }
        match (control.run_wanted, self.next, &mut self.seldom) {
            (false, Next::Wall, Some(seldom)) => seldom.wall.serve(),
            (false, Next::Missed, Some(seldom)) => seldom.wall.serve_missed(),
            _ => {}
        }
        let run = control.begin_run(Instant::now());
        drop(control);
        self.cx.run = run;
        self.cx.entry.emit(|| ServiceEventKind::RunStarted { run });
        Poll::Ready(Woken::Go(Cue::Run))
    }

    // ── building and running ─────────────────────────────────────────────────────────────────────────────────────

    /// Builds an instance, and follows up where that fails.
    async fn build(&mut self) -> Built {
        #[cfg(feature = "database")]
        if !self.up && catch_up::is_wanted(&self.desk.options) {
            let read = self.read_last_fire().await;
            if !matches!(read, Built::Done) {
                return read;
            }
        }
        let began = Instant::now();
        let mut building = {
            let cx = &self.cx;
            cx.entry.as_current(|| cx.entry.factory.build(&cx.entry.id, cx.clone()))
        };
        let driven = self.desk.drive(&self.cx.entry, building.as_mut(), Limit::Stop).await;
        let _ = panic::catch(|| drop(building));
        match driven {
            Driven::Done(Ok(instance)) => {
                self.instance = Some(instance);
                self.cx.entry.emit(|| ServiceEventKind::InstanceBuilt);
                Built::Done
            }
            Driven::Done(Err(error)) => self.fail_to_build(FailureKind::Error, error, began).await,
            Driven::Panicked(message) => {
                let error = Error::msg(format!("building the instance panicked: {message}"));
                self.fail_to_build(FailureKind::Panic, error, began).await
            }
            Driven::TimedOut | Driven::Aborted => {
                warn!(service.id = %self.cx.entry.id, "`configure` outlasted the stop and was aborted");
                self.cx.entry.emit(|| ServiceEventKind::Aborted);
                Built::Ended(Ending::Stopped)
            }
        }
    }

    async fn fail_to_build(&mut self, kind: FailureKind, error: Error, began: Instant) -> Built {
        self.fail(kind, error, began, None).await.map_or(Built::Broken, Built::Ended)
    }

    /// Drives `update` on the blocking pool.
    async fn drive_blocking(&mut self) -> Driven<Result<Outcome>> {
        let Some(instance) = self.instance.take() else { unreachable!("a run begins with an instance") };
        let mut on_pool = spawn_blocking_run(instance, self.cx.clone(), RunSpan::new(&self.cx));
        match self.desk.drive(&self.cx.entry, pin!(&mut on_pool), Limit::Run).await {
            Driven::Done(Ok((instance, caught))) => {
                self.instance = Some(instance);
                match caught {
                    Caught::Returned(result) => Driven::Done(result),
                    Caught::Panicked(message) => Driven::Panicked(message),
                }
            }
            Driven::Done(Err(join)) => Driven::Panicked(join.to_string()),
            Driven::Panicked(message) => Driven::Panicked(message),
            cut @ (Driven::TimedOut | Driven::Aborted) => {
                self.cx.entry.lock().set_hold(Hold::Blocked);
                self.seldom().away = Some(on_pool);
                if matches!(cut, Driven::TimedOut) { Driven::TimedOut } else { Driven::Aborted }
            }
        }
    }

    // ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Follows up a run that ended well, and says whether it asked for a fresh instance.
    #[inline]
    fn succeed(&mut self, outcome: Outcome) -> bool {
        let ended = Instant::now();
        let (entry, run) = (&self.cx.entry, self.cx.run);
        let (started, duration, waiters, renew) = {
            let mut control = entry.lock();
            // What the run itself has set counts from here on.
            if control.changed {
                settle(&self.desk.options, &mut control);
                self.desk.options.clone_from(&control.options);
            }
            let (started, duration, waiters) = control.end_run_well(outcome, ended);
            (started, duration, waiters, control.renew)
        };
        let Outcome { processed, failed, again } = outcome;
        entry.emit(|| ServiceEventKind::RunFinished { run, duration, processed, failed, again });
        debug!(service.id = %entry.id, service.run = run, processed, failed, ?duration, "run finished");
        if !waiters.is_empty() {
            report(waiters, &RunReport { outcome, error: None, duration });
        }
        self.plan_regular(started, ended);
        if again {
            self.next = Next::AtOnce;
        }
        renew
    }

    fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_with(|| {
            let rng = self.cx.entry.hub.rng(&self.cx.entry.id);
            Box::new(Seldom {
                away: None,
                discard: false,
                budget: RestartBudget::default(),
                rng,
                wall: WallPlan::default(),
            })
        })
    }
}

/// A run of `update` in flight.
struct Run<'a> {
    /// Until it has ended.
    update: Option<BoxFuture<'a, Result<Outcome>>>,
    span: RunSpan,
}

impl Run<'_> {
    #[inline]
    fn poll(&mut self, task: &mut Task<'_>, desk: &mut Desk, entry: &Entry) -> Poll<Driven<Result<Outcome>>> {
        desk.poll(task, entry, &self.span, Limit::Run, |task| {
            let Some(update) = &mut self.update else { unreachable!("a run that has ended is not polled again") };
            let polled = update.as_mut().poll(task);
            if polled.is_ready() {
                // Dropping it is user code, too.
                self.update = None;
            }
            polled
        })
    }

    /// Drops a run that did not end by itself.
    #[inline]
    fn drop_cut(&mut self, entry: &Entry) -> Caught<()> {
        match self.update.take() {
            None => Caught::Returned(()),
            Some(cut) => panic::catch(|| entry.as_current(|| self.span.in_scope(|| drop(cut)))),
        }
    }
}

/// The grid comes up to the last run on its old interval, before another holds.
fn settle(before: &Options, control: &mut Control) {
    if let (Schedule::Interval(every), Some(started)) = (&before.schedule, control.stats.last_started) {
        control.grid.settle(*every, started);
    }
}

/// A blocking run that had timed out has returned at last, and whether by a panic.
fn come_back(entry: &Entry, returned: Result<Returned, tokio::task::JoinError>) -> (Option<Box<dyn Lifecycle>>, bool) {
    match returned {
        Ok((instance, Caught::Returned(_))) => (Some(instance), false),
        Ok((instance, Caught::Panicked(message))) => {
            warn!(service.id = %entry.id, "a blocking run panicked after it had timed out: {message}");
            (Some(instance), true)
        }
        Err(_) => (None, false),
    }
}

fn report(waiters: Waiters, report: &RunReport) {
    for waiter in waiters {
        // Whoever asked may have stopped waiting.
        let _ = waiter.send(report.clone());
    }
}
