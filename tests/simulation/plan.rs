//! When a run is to begin, reckoned anew from the contract: grid, delay, jitter, waits after failures, restarts.

use crate::cast::{Part, Restart, Schedule};
use crate::fires::Fires;
use crate::trace::Ms;

/// Why a run is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is due already; a changed option does not change that.
    AtOnce,
    Regular,
    Retry,
}

/// A run is to begin in this stretch of time, or as soon after it as nothing stands in the way.
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

/// The schedule of one life.
#[derive(Clone, Debug)]
pub(crate) struct Timetable {
    pub(crate) schedule: Schedule,
    jitter: Ms,
    /// A point of the grid: the first one, or the last one at or before the last regular run's start.
    point: Ms,
    last: Option<(Ms, Ms)>,
    /// The schedule that the grid stands on; another one takes over when no run is in flight.
    stands_on: Schedule,
    /// When the schedule was changed last: of changes at one moment only the last one is seen.
    changed_at: Option<Ms>,
    fires: Fires,
    /// Fires that the next run may be for: two, where jitter hides whether the first of them has been let go.
    waited: Vec<Ms>,
    /// The run that is or was last in flight was for one of them.
    served: bool,
}

impl Timetable {
    /// Of a service that came up at this moment.
    pub(crate) fn new(schedule: Schedule, part: &Part, up: Ms) -> (Self, Window) {
        let first = up + part.initial_delay;
        let mut table = Self {
            schedule,
            jitter: part.jitter,
            point: first,
            last: None,
            stands_on: schedule,
            changed_at: None,
            fires: part.fires.clone(),
            waited: Vec::new(),
            served: false,
        };
        let window = match schedule {
            Schedule::Cron(..) => table.next_fire(first),
            _ if part.initial_delay == 0 => Window::at(first, Kind::AtOnce),
            _ => Window::regular(first, part.jitter),
        };
        (table, window)
    }

    /// A run begins, because it was due or by hand.
    pub(crate) fn begins(&mut self, due: Option<Kind>) {
        self.served |= due == Some(Kind::Regular);
    }

    /// The first fire after this moment. One whose jitter is running is still waited for, unless it was run.
    fn next_fire(&mut self, after: Ms) -> Window {
        let (served, jitter) = (std::mem::take(&mut self.served), self.jitter);
        self.waited.retain(|fire| !served && *fire <= after && after < fire + jitter);
        let next = self.fires.after(after);
        self.waited.push(next);
        Window { from: self.waited[0], ..Window::regular(next, jitter) }
    }

    pub(crate) fn ran(&mut self, started: Ms, ended: Ms) {
        self.last = Some((started, ended));
        self.settle();
    }

    /// Another schedule: the grid comes up to the last run's start first, and goes on from there. While something goes on,
    /// be it a run or a `cleanup`, that has time.
    pub(crate) fn change(&mut self, schedule: Schedule, busy: bool, at: Ms) {
        self.schedule = schedule;
        if !busy && self.changed_at == Some(at) {
            self.stands_on = schedule;
        } else if !busy {
            self.settle();
            self.changed_at = Some(at);
        }
    }

    /// Whether another schedule waits to take over.
    pub(crate) fn is_changed(&self) -> bool {
        self.stands_on != self.schedule
    }

    pub(crate) fn is_by_cron(&self) -> bool {
        matches!(self.stands_on, Schedule::Cron(..))
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

    /// The next regular run after the last one, as it is seen now.
    pub(crate) fn next(&mut self, now: Ms) -> Window {
        let (started, ended) = self.last.expect("something ran");
        let window = match self.stands_on {
            Schedule::Delay(wait) => Window::regular(ended + wait, self.jitter),
            // In the initial delay it does not fire.
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
        if window.to <= ended { Window::at(ended, Kind::AtOnce) } else { window }
    }

    /// The wait in hand, after the schedule has changed at this moment.
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
            // What was due, or may have been, may stay due.
            return Window { from: waiting.from.min(new.from), to: waiting.to.max(new.to), kind: Kind::Regular };
        }
        new
    }
}

/// The wait after so many consecutive failures.
pub(crate) fn retry_wait(part: &Part, retry_delay: Ms, count: u32) -> Ms {
    let mut wait = retry_delay as f64;
    for _ in 1..count.min(64) {
        wait *= part.backoff;
    }
    (wait.min(part.max_retry_delay as f64)).ceil() as Ms
}

/// Whether one more restart is within the budget; counts it if it is.
pub(crate) fn grant(granted: &mut Vec<Ms>, restart: Restart, now: Ms) -> bool {
    let lately = granted.iter().filter(|at| now - **at < restart.window).count();
    if lately < restart.max {
        granted.push(now);
    }
    lately < restart.max
}
