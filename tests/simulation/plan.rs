//! When a run must begin, computed independently from the contract: grid, delay, jitter, waits after failures,
//! restarts.

use crate::cast::{Part, Restart, Schedule};
use crate::fires::Fires;
use crate::trace::Ms;

/// Why a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is due already; changed options do not change that.
    AtOnce,
    Regular,
    Retry,
}

/// The period in which a run must begin; if something prevents it, the run begins as soon after it as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: Ms,
    pub(crate) to: Ms,
    pub(crate) kind: Kind,
}

impl Window {
    pub(crate) fn at(at: Ms, kind: Kind) -> Self {
        Self { from: at, to: at, kind }
    }

    fn regular(at: Ms, jitter: Ms) -> Self {
        Self { from: at, to: at + jitter, kind: Kind::Regular }
    }
}

/// The schedule of one incarnation.
#[derive(Clone, Debug)]
pub(crate) struct Timetable {
    pub(crate) schedule: Schedule,
    /// The wait after a long run that has ended by itself.
    pub(crate) retry_delay: Ms,
    jitter: Ms,
    /// A point of the grid: the first one, or the last one at or before the start of the last regular run.
    point: Ms,
    last: Option<(Ms, Ms)>,
    /// The schedule of the grid; a changed one applies when no run is in progress.
    stands_on: Schedule,
    fires: Fires,
    /// Fires that the next run may be for. There are several if jitter hides whether a requested run was for the first
    /// one.
    waited: Vec<Ms>,
    /// Whether a run since then was for one of them.
    served: Served,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Served {
    #[default]
    No,
    Perhaps,
    Yes,
}

impl Timetable {
    /// The schedule of a service that became ready at this moment.
    /// On demand, nothing is planned.
    pub(crate) fn new(schedule: Schedule, part: &Part, up: Ms) -> (Self, Option<Window>) {
        let first = up + part.initial_delay;
        let mut table = Self {
            schedule,
            retry_delay: part.retry_delay,
            jitter: part.jitter,
            point: first,
            last: None,
            stands_on: schedule,
            fires: part.fires.clone(),
            waited: Vec::new(),
            served: Served::No,
        };
        let window = match schedule {
            Schedule::Cron(..) => table.next_fire(first),
            Schedule::OnDemand => return (table, None),
            Schedule::Long => Window::at(up, Kind::AtOnce),
            _ if part.initial_delay == 0 => Window::at(first, Kind::AtOnce),
            _ => Window::regular(first, part.jitter),
        };
        (table, Some(window))
    }

    /// A run begins at this moment, because it was due or requested. A requested one is for a fire that is due already.
    pub(crate) fn begins(&mut self, planned: Option<Kind>, requested: bool, at: Ms) {
        if planned != Some(Kind::Regular) {
            // An instance may have been built for a fire before.
            self.served = self.served.max(Served::Perhaps);
        } else {
            self.served = match self.waited.first() {
                Some(fire) if requested && *fire > at => Served::No,
                Some(fire) if requested && at < fire + self.jitter || self.waited.len() > 1 => Served::Perhaps,
                _ => Served::Yes,
            };
        }
    }

    /// Returns the first fire that no run was for: one that has come already, else the first one after this moment.
    fn next_fire(&mut self, after: Ms) -> Window {
        let (served, jitter) = (std::mem::take(&mut self.served), self.jitter);
        let is_certain = self.waited.len() == 1 && served == Served::No;
        self.waited.retain(|fire| served != Served::Yes && *fire <= after);
        if !is_certain || self.waited.is_empty() {
            self.waited.push(self.fires.after(after));
        }
        let last = self.waited[self.waited.len() - 1];
        Window { from: self.waited[0], ..Window::regular(last, jitter) }
    }

    pub(crate) fn ran(&mut self, started: Ms, ended: Ms) {
        self.last = Some((started, ended));
        self.settle();
    }

    /// The blocking code of the last run has returned after its end. Returns whether a delay counts from here.
    pub(crate) fn returned(&mut self, at: Ms) -> bool {
        let is_delay = matches!(self.stands_on, Schedule::Delay(_));
        if let Some((_, ended)) = self.last.as_mut().filter(|_| is_delay) {
            *ended = at;
        }
        is_delay && self.last.is_some()
    }

    /// Changes the schedule: the grid first advances to the start of the last run. During a run or a `cleanup` the
    /// change applies later.
    pub(crate) fn change(&mut self, schedule: Schedule, busy: bool) {
        self.schedule = schedule;
        if !busy {
            self.settle();
        }
    }

    /// Whether a changed schedule is not applied yet.
    pub(crate) fn is_changed(&self) -> bool {
        self.stands_on != self.schedule
    }

    pub(crate) fn is_by_cron(&self) -> bool {
        matches!(self.stands_on, Schedule::Cron(..))
    }

    pub(crate) fn begins_without_run(&self) -> bool {
        matches!(self.stands_on, Schedule::Cron(..) | Schedule::OnDemand)
    }

    pub(crate) fn settle(&mut self) {
        if self.stands_on == self.schedule {
            return;
        }
        if let (Schedule::Interval(every), Some((started, _))) = (self.stands_on, self.last)
            && started >= self.point
        {
            self.point += (started - self.point) / every * every;
        }
        self.stands_on = self.schedule;
    }

    /// Returns the next regular run after the last one, computed now.
    pub(crate) fn next(&mut self, now: Ms) -> Option<Window> {
        let (started, ended) = self.last.expect("something ran");
        let window = match self.stands_on {
            Schedule::OnDemand => return None,
            Schedule::Long => Window::at(ended + self.retry_delay, Kind::Regular),
            Schedule::Delay(wait) => Window::regular(ended + wait, self.jitter),
            // It does not fire during the initial delay.
            Schedule::Cron(..) => self.next_fire(now.max(self.point)),
            Schedule::Interval(_) if started < self.point => Window::regular(self.point, self.jitter),
            Schedule::Interval(every) if ended - started >= every => {
                self.point = ended;
                Window::regular(ended, self.jitter)
            }
            Schedule::Interval(every) => {
                self.point += (started - self.point) / every * every;
                Window::regular(self.point + every, self.jitter)
            }
        };
        Some(match self.stands_on {
            Schedule::Cron(..) => Window { to: window.to.max(ended), ..window },
            _ if window.to <= ended => Window::at(ended, Kind::AtOnce),
            _ => window,
        })
    }

    /// Returns the next regular run if the one that was due was given up at this moment, before it began: no instance
    /// could be built. The initial delay continues.
    pub(crate) fn next_without_run(&mut self, now: Ms) -> Option<Window> {
        let due = match self.stands_on {
            Schedule::OnDemand | Schedule::Long => return None,
            Schedule::Cron(..) => {
                // The attempt may have been for a fire.
                self.served = self.served.max(Served::Perhaps);
                return Some(self.next_fire(now.max(self.point)));
            }
            // A run that has ended ends the initial delay.
            Schedule::Delay(wait) if self.last.is_some() => now + wait,
            Schedule::Delay(wait) => self.point.max(now + wait),
            Schedule::Interval(_) if now < self.point => self.point,
            Schedule::Interval(every) => self.point + ((now - self.point) / every + 1) * every,
        };
        (self.point, self.last) = (due, None);
        Some(Window::regular(due, self.jitter))
    }

    /// Returns the current wait, after the schedule has changed at this moment.
    pub(crate) fn changed(&self, waiting: Window, now: Ms) -> Window {
        if waiting.kind != Kind::Regular {
            return waiting;
        }
        let due = match (self.schedule, self.last) {
            (Schedule::Delay(wait), Some((_, ended))) => ended + wait,
            (Schedule::Interval(every), Some((started, _))) if started >= self.point => {
                self.point + ((started - self.point) / every + 1) * every
            }
            (Schedule::Interval(_), _) => self.point,
            _ => return waiting,
        };
        let mut new = Window::regular(due, self.jitter);
        new.to = new.to.max(now);
        if waiting.from <= now {
            // A run that was due, or may have been, may stay due.
            return Window { from: waiting.from.min(new.from), to: waiting.to.max(new.to), kind: Kind::Regular };
        }
        new
    }
}

/// Returns the wait after this many consecutive failures.
pub(crate) fn retry_wait(part: &Part, retry_delay: Ms, count: u32) -> Ms {
    let mut wait = retry_delay as f64;
    for _ in 1..count.min(64) {
        wait *= part.backoff;
    }
    (wait.min(part.max_retry_delay as f64)).ceil() as Ms
}

/// Returns whether one more restart is within `max_restarts`; if so, counts it.
pub(crate) fn grant(granted: &mut Vec<Ms>, restart: Restart, now: Ms) -> bool {
    let lately = granted.iter().filter(|at| now - **at < restart.window).count();
    if lately < restart.max {
        granted.push(now);
    }
    lately < restart.max
}
