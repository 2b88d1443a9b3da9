//! When the supervisor's next run is due: what `schedule` and `cron` say, written down where everyone sees it.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Next, Supervisor};
use crate::schedule::Schedule;
use crate::schedule::{Grid, later};
use crate::service::state::ServiceState;

impl Supervisor {
    /// The first instance is there: the service is up, and its schedule begins.
    pub(super) fn come_up(&mut self) {
        self.up = true;
        let now = Instant::now();
        // What was changed while the instance was being built counts from the start.
        self.desk.options.clone_from(&self.cx.entry.lock().options);
        let options = self.desk.options.clone();
        let first = later(now, options.initial_delay);
        self.cx.entry.lock().grid = Grid::new(first);
        match &options.schedule {
            Schedule::Cron(_) => self.plan_wall(),
            _ if options.initial_delay.is_zero() => self.next = Next::AtOnce,
            _ => _ = self.plan_at(first),
        }
        let entry = &self.cx.entry;
        let mut control = entry.lock();
        control.settled = true;
        control.up = true;
        control.retrying = false;
        control.failures = 0;
        control.let_go();
        if control.state() == ServiceState::Starting || (control.state() == ServiceState::BackingOff && !control.paused)
        {
            entry.enter(&mut control, ServiceState::Running);
        }
        match control.state() {
            ServiceState::Running if control.paused => entry.enter(&mut control, ServiceState::Paused),
            // By a run by hand: no change of state tells those who wait for it that it is up.
            ServiceState::Paused => entry.tell_settled(&mut control),
            _ => {}
        }
    }

    /// Plans the next regular run after one from `started` to `ended`.
    #[inline]
    pub(super) fn plan_regular(&mut self, started: Instant, ended: Instant) {
        let mut control = self.cx.entry.lock();
        let due = match &self.desk.options.schedule {
            Schedule::Interval(every) => control.grid.after_run(*every, started, ended),
            Schedule::Delay(wait) => {
                // A run of this life has ended, be it one by hand during the initial delay.
                control.grid = Grid::new(ended);
                later(ended, *wait)
            }
            Schedule::Cron(_) => {
                drop(control);
                return self.plan_wall();
            }
        };
        if self.desk.options.jitter.is_zero() {
            self.next = if due <= ended { Next::AtOnce } else { Next::Regular };
            control.plan(Some(due));
            return;
        }
        drop(control);
        if self.plan_at(due) <= ended {
            self.next = Next::AtOnce;
        }
    }

    /// Plans again after the options have changed.
    pub(super) fn plan_again(&mut self) {
        if matches!(self.next, Next::AtOnce | Next::Retry | Next::Missed) {
            return;
        }
        match &self.desk.options.schedule {
            Schedule::Interval(every) => {
                let due = {
                    let control = self.cx.entry.lock();
                    control.grid.next(*every, control.stats.last_started)
                };
                self.plan_at(due);
            }
            Schedule::Delay(wait) => {
                let (ended, first) = {
                    let control = self.cx.entry.lock();
                    (control.stats.last_ended(), control.grid.first())
                };
                // Not in the initial delay, as long as no run of this life has ended.
                if let Some(ended) = ended.filter(|ended| *ended >= first) {
                    let due = later(ended, *wait);
                    self.plan_at(due);
                }
            }
            // A fire whose time has come stays due, as a point of the grid does.
            Schedule::Cron(_) if self.next == Next::Wall && self.fire_has_come() => self.look_at_wall(),
            Schedule::Cron(_) => self.plan_wall(),
        }
    }

    /// The next regular run is due at this moment and up to `jitter` later. Gives back when.
    #[inline]
    pub(super) fn plan_at(&mut self, mut due: Instant) -> Instant {
        if !self.desk.options.jitter.is_zero() {
            due = later(due, self.jitter());
        }
        self.plan(Next::Regular, due);
        due
    }

    pub(super) fn plan(&mut self, next: Next, due: Instant) {
        self.next = next;
        self.cx.entry.lock().plan(Some(due));
    }

    /// Plans the next fire of a cron schedule.
    pub(super) fn plan_wall(&mut self) {
        let jitter = self.jitter();
        let options = self.desk.options.clone();
        let Schedule::Cron(cron) = &options.schedule else { return };
        let (from, now) = self.wall_from();
        #[cfg(feature = "database")]
        if !self.seldom().wall.owes() && super::catch_up::is_wanted(&options) {
            self.look_for_missed();
        }
        let wall = &mut self.seldom().wall;
        if wall.owes() {
            let first = self.cx.entry.lock().grid.first();
            self.plan(Next::Missed, first);
            return;
        }
        wall.plan(cron, from, jitter);
        let look = wall.until_next_look(now);
        self.plan(Next::Wall, later(Instant::now(), look));
    }

    /// The time of a look at the clock on the wall has come, and not yet the fire.
    pub(super) fn look_at_wall(&mut self) {
        let options = self.desk.options.clone();
        let (from, now) = self.wall_from();
        let wall = &mut self.seldom().wall;
        match &options.schedule {
            Schedule::Cron(cron) if wall.stands(cron, from) => {
                let look = wall.until_next_look(now);
                self.plan(Next::Wall, later(Instant::now(), look));
            }
            _ => self.plan_wall(),
        }
    }

    fn fire_has_come(&self) -> bool {
        let now = self.cx.entry.hub.clock.wall_now();
        self.seldom.as_ref().is_some_and(|seldom| seldom.wall.has_come(now))
    }

    /// From when on a fire counts, not before the initial delay is over, and what the clock on the wall shows.
    pub(super) fn wall_from(&self) -> (SystemTime, SystemTime) {
        let (clock, first) = (&self.cx.entry.hub.clock, self.cx.entry.lock().grid.first());
        (clock.wall(first.max(Instant::now())), clock.wall_now())
    }

    pub(super) fn jitter(&mut self) -> Duration {
        let most = u64::try_from(self.desk.options.jitter.as_nanos()).unwrap_or(u64::MAX);
        if most == 0 { Duration::ZERO } else { Duration::from_nanos(self.seldom().rng.u64(0..=most)) }
    }
}
