//! Plans the next run: computes by `schedule` when it is due, and writes that to the status.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Due, Supervisor};
use crate::config::options::Options;
use crate::runtime::context::Nominal;
use crate::runtime::lease::Grant;
use crate::runtime::status::{Activity, StartPhase, Status};
use crate::schedule::{CatchUp, CronSchedule, Grid, Readiness, Schedule, later};

impl Supervisor {
    /// The first instance has been built: the service is ready, and its schedule begins.
    pub(super) fn mark_running(&mut self) {
        let now = Instant::now();
        let service = self.cx.service.clone();
        // A run that was given up before has planned the next one. A single run has no schedule.
        let is_planned = service.lock().status.given_up;
        if !is_planned {
            // Options that were changed while the instance was being built count from the start.
            self.options.clone_from(&service.lock().requests.options);
        }
        let options = self.options.clone();
        if !self.once && !is_planned {
            self.plan_first(now);
        }
        self.is_taken_over = false;
        service.update(|state| {
            state.status.activity = Activity::Waiting;
            if options.long_run().is_none_or(|long| long.readiness == Readiness::Built) {
                state.status.reach(StartPhase::Ready);
            }
            state.status.failures = 0;
            state.status.wait_reason = None;
            // If the service was paused while it started, its state does not change here.
            service.notify_waiters(state);
        });
    }

    /// Plans the first run.
    fn plan_first(&mut self, now: Instant) {
        let (first, point) = self.first_run(now);
        self.cx.service.lock().status.grid = Grid::new(point);
        self.nominal = Nominal::At(point);
        match &self.options.schedule {
            Schedule::Cron(_) => self.plan_cron(),
            // After a failed attempt, the time of the retry is still planned.
            Schedule::OnDemand => self.plan_wake(),
            _ if first <= now => self.due = Due::AtOnce,
            _ => self.plan_at(first),
        }
    }

    /// Returns when the first run is due, and the point of the grid that it belongs to. After a takeover, the schedule
    /// continues where the former holder left it.
    fn first_run(&self, now: Instant) -> (Instant, Instant) {
        let Some((first, last)) = self.grant.as_ref().map(|grant| grant.ages(now)) else {
            let first = later(now, self.options.initial_delay);
            return (first, first);
        };
        let next = match (&self.options.schedule, last) {
            (_, None) => later(now, self.options.initial_delay.saturating_sub(first)),
            (Schedule::Interval(every), Some(age)) if age >= *every => {
                // The run is late, and belongs to the latest point that has passed.
                let late = age.as_nanos() % every.as_nanos().max(1);
                let late = Duration::from_nanos(u64::try_from(late).unwrap_or(u64::MAX));
                return (now, now.checked_sub(late).unwrap_or(now));
            }
            (Schedule::Interval(wait) | Schedule::Delay(wait), Some(age)) => later(now, wait.saturating_sub(age)),
            (Schedule::Cron(_) | Schedule::OnDemand | Schedule::LongRun(_), Some(_)) => now,
        };
        (next, next)
    }

    /// Plans the next regular run after one from `started` to `ended`.
    pub(super) fn plan_regular(&mut self, started: Instant, ended: Instant) {
        let planned =
            Self::plan_after_run(&self.options, &mut self.rng, &mut self.cx.service.lock().status, started, ended);
        self.follow_plan(planned, ended);
    }

    /// Plans the next regular run after one from `started` to `ended`, and writes to the status when it is due. `None`:
    /// the schedule does not depend on the run; the status has no time then.
    #[inline]
    pub(super) fn plan_after_run(
        options: &Options,
        rng: &mut fastrand::Rng,
        status: &mut Status,
        started: Instant,
        ended: Instant,
    ) -> Option<Planned> {
        let point = match &options.schedule {
            Schedule::Interval(every) => Some(status.grid.after_run(*every, started, ended)),
            Schedule::Delay(wait) => {
                // From now on a run of this incarnation has ended; it may have been one during the initial delay.
                status.grid = Grid::new(ended);
                Some(later(ended, *wait))
            }
            // After a failure that was ignored.
            Schedule::LongRun(_) => Some(later(ended, options.retry_delay)),
            Schedule::Cron(_) | Schedule::OnDemand => None,
        };
        let planned = point.map(|point| {
            let due = if options.jitter.is_zero() { point } else { later(point, jitter(options, rng)) };
            Planned { point, due }
        });
        status.next_due = planned.map(|planned| planned.due);
        planned
    }

    /// Takes over what [`plan_after_run`](Self::plan_after_run) has planned after a run that ended at `ended`.
    pub(super) fn follow_plan(&mut self, planned: Option<Planned>, ended: Instant) {
        match planned {
            Some(Planned { point, due }) => {
                self.leave_cron();
                self.nominal = Nominal::At(point);
                self.due = if due <= ended { Due::AtOnce } else { Due::Regular };
            }
            None => self.plan_without_point(),
        }
    }

    /// Plans the next regular run after one that was given up before it began, because no instance could be built. The
    /// initial delay continues.
    pub(super) fn plan_without_run(&mut self) {
        let now = Instant::now();
        let after_takeover = self.is_taken_over.then(|| self.first_run(now).1);
        let first = {
            let status = &mut self.cx.service.lock().status;
            if (!status.is_ready() || after_takeover.is_some()) && !status.given_up {
                // Until now, the grid had the moment when the start began.
                let first = after_takeover.unwrap_or_else(|| later(status.grid.first(), self.options.initial_delay));
                status.grid = Grid::new(first);
            }
            status.grid.first()
        };
        self.plan_regular(now, now);
        if let Nominal::At(due) = self.nominal {
            let due = due.max(first);
            self.cx.service.lock().status.grid = Grid::new(due);
            self.plan_at(due);
        }
    }

    /// Plans again after the options have changed.
    pub(super) fn plan_again(&mut self) {
        if matches!(self.due, Due::AtOnce | Due::Retry) || self.has_missed() {
            return;
        }
        let (grid, last_started, last_ended) = {
            let status = &self.cx.service.lock().status;
            (status.grid, status.stats.last_started, status.stats.last_ended())
        };
        // The schedule still continues where the former holder of the lease left it.
        let continues = |grant: &Grant| last_started.is_none_or(|started| started < grant.at);
        if self.grant.as_deref().is_some_and(continues) {
            return self.plan_first(Instant::now());
        }
        match &self.options.schedule {
            Schedule::Interval(every) => self.plan_at(grid.next(*every, last_started)),
            Schedule::Delay(wait) => match last_ended.filter(|ended| *ended >= grid.first()) {
                Some(ended) => self.plan_at(later(ended, *wait)),
                // Before a run of this incarnation has ended, the initial delay continues.
                None => self.plan_at(grid.first()),
            },
            Schedule::LongRun(_) => {}
            // A fire whose time has come stays due, as a point of the grid does.
            Schedule::Cron(_) if self.due == Due::Cron && self.fire_has_come() => self.recheck_clock(),
            Schedule::Cron(_) | Schedule::OnDemand => self.plan_without_point(),
        }
    }

    /// Plans by a schedule that does not depend on the last run.
    pub(super) fn plan_without_point(&mut self) {
        self.nominal = Nominal::None;
        match self.options.schedule {
            Schedule::OnDemand => self.plan_wake(),
            _ => self.plan_cron(),
        }
    }

    /// Only a wake-up or a requested run is next.
    fn plan_wake(&mut self) {
        self.leave_cron();
        self.due = Due::Wake;
        self.cx.service.lock().status.next_due = None;
    }

    /// The schedule is not cron. If it becomes cron again, no fire of the time before is due.
    fn leave_cron(&mut self) {
        if let Some(cron) = &mut self.cron {
            cron.leave();
        }
    }

    /// Whether fires of the present schedule are being made up.
    fn has_missed(&self) -> bool {
        self.due == Due::Missed && self.options.schedule.caught_up().is_some()
    }

    /// Plans the next regular run at `due` plus up to `jitter`.
    fn plan_at(&mut self, due: Instant) {
        self.leave_cron();
        self.nominal = Nominal::At(due);
        let due = later(due, jitter(&self.options, &mut self.rng));
        self.plan(Due::Regular, due);
    }

    pub(super) fn plan(&mut self, due: Due, at: Instant) {
        self.due = due;
        self.cx.service.lock().status.next_due = Some(at);
    }

    /// Plans the next fire of a cron schedule, or the oldest missed one.
    fn plan_cron(&mut self) {
        let jitter = jitter(&self.options, &mut self.rng);
        let options = self.options.clone();
        let Schedule::Cron(schedule) = &options.schedule else { return };
        let (from, now) = self.cron_from();
        self.follow_schedule();
        match schedule.catch_up {
            CatchUp::None => self.cron().end_catch_up(),
            _ if !self.cron().has_missed() => self.backfill(),
            _ => {}
        }
        if self.cron().has_missed() {
            let first = {
                let status = &mut self.cx.service.lock().status;
                status.next_fire = None;
                status.grid.first()
            };
            return self.plan(Due::Missed, first);
        }
        self.pass_over_fires(schedule, now);
        self.cron().plan(schedule, from, jitter);
        self.plan_check(now);
    }

    /// The plan passes over the fires that came due since the fire which the run has served. From the begin of a shutdown
    /// on, fires are left to the next process, and those that no holder of the lease has served are left to the next
    /// holder.
    fn pass_over_fires(&mut self, schedule: &CronSchedule, now: SystemTime) {
        if schedule.catch_up == CatchUp::None || self.cx.service.lease.is_some() {
            return;
        }
        let shutdown =
            self.cx.service.lock().requests.stop.as_ref().filter(|stop| stop.is_shutdown()).map(|stop| stop.since);
        let until = shutdown.flatten().map_or(now, |stop| now.min(self.services.shared.clock.wall(stop)));
        self.cron().pass_over(schedule, until);
    }

    /// Plans the next check of the wall clock.
    fn plan_check(&mut self, now: SystemTime) {
        let (check, planned) = (self.cron().until_next_check(now), self.cron().planned());
        self.plan(Due::Cron, later(Instant::now(), check));
        self.cx.service.lock().status.next_fire = planned;
    }

    /// Plans the next check of the wall clock, because the fire has not come yet.
    pub(super) fn recheck_clock(&mut self) {
        let options = self.options.clone();
        let (from, now) = self.cron_from();
        match &options.schedule {
            Schedule::Cron(schedule) if self.cron().stands(schedule, from) => self.plan_check(now),
            Schedule::Cron(_) => self.plan_cron(),
            // A check that was planned before the schedule has changed.
            _ => {
                self.due = Due::Wake;
                self.plan_again();
            }
        }
    }

    fn fire_has_come(&self) -> bool {
        let now = self.services.shared.clock.wall_now();
        self.cron.as_ref().is_some_and(|cron| cron.has_come(now))
    }

    /// Returns from when on a fire counts (not before the initial delay is over), and the present wall-clock time.
    fn cron_from(&self) -> (SystemTime, SystemTime) {
        let (clock, first) = (&self.services.shared.clock, self.cx.service.lock().status.grid.first());
        (clock.wall(first.max(Instant::now())), clock.wall_now())
    }
}

/// A regular run that was planned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    /// The point of the schedule.
    point: Instant,
    /// The point and the jitter.
    due: Instant,
}

/// Returns a random part of the option `jitter`.
fn jitter(options: &Options, rng: &mut fastrand::Rng) -> Duration {
    if options.jitter.is_zero() {
        return Duration::ZERO;
    }
    let most = u64::try_from(options.jitter.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(0..=most))
}
