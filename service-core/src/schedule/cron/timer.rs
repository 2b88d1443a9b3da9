//! How the loop waits for a fire on a wall clock that may be changed, and which fires it has served.
//!
//! The tricky part is that clock.
//! - It is set forward, or the machine was suspended: this is noticed within a minute, and one run makes up for the fires
//!   that were skipped.
//! - It is set back by up to three hours: no fire is repeated. By more: the schedule follows the clock.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::schedule::CronSchedule;
use crate::schedule::cron::{missed, next};

/// How often the wall clock is checked: it may be set, and the machine may be suspended.
const LOOK: Duration = Duration::from_secs(60);
/// If the clock is set back by up to this, fires that were served before are not repeated.
const SET_BACK: Duration = Duration::from_secs(3 * 3600);

/// `catch_up = "all"` makes up at most this many fires, the latest ones.
pub(crate) const MOST_MISSED: usize = 1000;

/// The fire that the loop waits for. It has no clock: each method takes the present time.
#[derive(Debug, Default)]
pub(crate) struct CronTimer {
    fire: Option<SystemTime>,
    /// When `fire` was last computed or confirmed. While the clock only moves forward, `fire` stays the next one.
    found: Option<SystemTime>,
    jitter: Duration,
    /// The latest fire that was run.
    served: Option<SystemTime>,
    /// Fires that were missed while the process was down, oldest first. They are being made up.
    missed: VecDeque<SystemTime>,
    /// The fire of the current run, or of the run that is retried.
    in_run: Option<SystemTime>,
    /// While missed fires are made up: up to which moment.
    made_up_to: Option<SystemTime>,
    /// The latest fire whose run succeeded and that is not recorded yet, and whether a warning was logged.
    unrecorded: Option<(SystemTime, bool)>,
    /// The text of the schedule.
    schedule: Option<Box<str>>,
    /// Periods in which nothing was missed, though nothing ran: pauses, and stops. The earliest first.
    skipped: Vec<(SystemTime, SystemTime)>,
    paused_since: Option<SystemTime>,
}

/// The next fire, by the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedFire {
    pub(crate) at: SystemTime,
    /// When its jitter is over.
    pub(crate) due: SystemTime,
}

impl PlannedFire {
    /// Returns when its run is expected: at the fire, or, if that has come, at the end of its jitter.
    pub(crate) fn expected(self, now: SystemTime) -> SystemTime {
        if self.at > now { self.at } else { self.due }
    }
}

/// A fire that was served and is not recorded yet.
#[derive(Debug)]
pub(crate) struct Unrecorded {
    fire: SystemTime,
    schedule: Box<str>,
}

impl Unrecorded {
    pub(crate) fn is_of(&self, schedule: &CronSchedule) -> bool {
        *self.schedule == *schedule.text()
    }
}

impl CronTimer {
    /// Plans the first fire after `now` and after the last one that was run. A fire that no run has served stays
    /// planned: it waits for its jitter, or it came due while a run that was not for it was in flight.
    pub(crate) fn plan(&mut self, schedule: &CronSchedule, now: SystemTime, jitter: Duration) {
        let pending = self.fire.is_some_and(|fire| self.served != Some(fire) && fire <= now);
        if !pending {
            self.fire = next(schedule, self.after(now));
            self.found = Some(now);
            self.jitter = jitter;
        }
    }

    /// The run of the planned fire has ended, and the next fire is planned. Fires that came due since then, up to
    /// `until`, are passed over: the process was up, so they are not missed. The last of them is recorded in place of the
    /// fire of the run.
    pub(crate) fn pass_over(&mut self, schedule: &CronSchedule, until: SystemTime) {
        if let Some(fire) = self.in_run.filter(|fire| self.fire == Some(*fire)) {
            self.in_run = missed(schedule, fire, until, 1).pop().or(self.in_run);
        }
    }

    /// Another kind of schedule holds from now on. No fire of this time is due or missed when cron holds again.
    pub(crate) fn leave(&mut self) {
        self.fire = None;
        self.count_anew();
    }

    /// Fires are not caught up from now on, and none is owed. If they are caught up again later, they count from then on.
    pub(crate) fn end_catch_up(&mut self) {
        self.in_run = None;
        self.count_anew();
    }

    fn count_anew(&mut self) {
        self.forget_missed();
        // Equal to no schedule.
        self.schedule = Some(Box::default());
    }

    fn forget_missed(&mut self) {
        self.missed.clear();
        self.made_up_to = None;
    }

    /// Returns whether the plan is still right. It is not if the clock was set back to before an earlier fire.
    pub(crate) fn stands(&mut self, schedule: &CronSchedule, now: SystemTime) -> bool {
        let Some(fire) = self.fire else { return false };
        let forward = self.found.is_some_and(|found| found <= now);
        let stands = fire <= now || forward || next(schedule, self.after(now)) == Some(fire);
        if stands {
            self.found = Some(now);
        }
        stands
    }

    /// Returns whether the time of the fire has come. The run may still have to wait for its jitter or for another run.
    pub(crate) fn has_come(&self, now: SystemTime) -> bool {
        self.fire.is_some_and(|fire| fire <= now)
    }

    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        self.planned().is_some_and(|planned| planned.due <= now)
    }

    pub(crate) fn planned(&self) -> Option<PlannedFire> {
        self.fire.map(|fire| PlannedFire { at: fire, due: fire + self.jitter })
    }

    /// Whether a run has begun for the planned fire.
    pub(crate) fn is_served(&self) -> bool {
        self.fire.is_some() && self.fire == self.served
    }

    /// The run of the planned fire begins. Returns the fire.
    pub(crate) fn serve(&mut self) -> Option<SystemTime> {
        self.served = self.fire;
        self.in_run = self.fire;
        self.in_run
    }

    /// Another process, or an earlier incarnation of the service, has served every fire up to this one. It may be ahead
    /// of the present time: the clock of that process may be ahead, or the clock was set back.
    pub(crate) fn served_before(&mut self, last: SystemTime) {
        self.made_up_to = Some(last);
        self.served = self.served.max(Some(last));
    }

    /// Which fire was served last is being read. Until then, the service may owe fires; those of a pause that goes on
    /// are skipped.
    pub(crate) fn expect_last_fire(&mut self, now: SystemTime, paused_since: Option<SystemTime>) {
        self.made_up_to.get_or_insert(now);
        self.paused_since = self.paused_since.or(paused_since);
    }

    /// Whether the last fire has been read, or is being read.
    pub(crate) fn has_read(&self) -> bool {
        self.made_up_to.is_some() || self.served.is_some()
    }

    pub(crate) fn all_made_up(&mut self) {
        self.made_up_to = None;
        // `done` needs the last one.
        self.skipped.drain(..self.skipped.len().saturating_sub(1));
    }

    /// The fires of this schedule count from now on. If there was another one, nothing of it is made up any more, and
    /// the present time is to be recorded: with the fire of the current run, if there is one, because its retries must
    /// find in the database what the run has recorded there. `was_read`: the last fire has been read, or will be.
    pub(crate) fn follow(&mut self, schedule: &CronSchedule, now: SystemTime, was_read: bool) {
        let text = schedule.text();
        let previous = self.schedule.replace(text.as_str().into());
        if previous.map_or(!was_read, |previous| *previous != *text) {
            self.forget_missed();
            match self.in_run {
                Some(_) => self.skip(now, now),
                None => self.unrecorded = Some((now, false)),
            }
        }
    }

    /// Fires in this period were not missed.
    pub(crate) fn skip(&mut self, from: SystemTime, to: SystemTime) {
        self.skipped.push((from, to));
    }

    /// Whether the service is paused now.
    pub(crate) fn set_paused(&mut self, paused: bool, now: SystemTime) {
        if paused {
            self.paused_since.get_or_insert(now);
        } else if let Some(since) = self.paused_since.take() {
            self.skip(since, now);
        }
    }

    /// Whether a fire has not been served: it was missed, or its run has not succeeded.
    pub(crate) fn owes(&self) -> bool {
        self.made_up_to.is_some() || self.in_run.is_some()
    }

    /// Returns the missed fires up to now: at most `most`, the latest ones, oldest first.
    pub(crate) fn find_missed(&self, schedule: &CronSchedule, now: SystemTime, most: usize) -> Vec<SystemTime> {
        let Some(since) = self.made_up_to else { return Vec::new() };
        let mut found = VecDeque::new();
        let mut until = now;
        let mut search = |from: SystemTime, until: SystemTime| {
            if from < until {
                for fire in missed(schedule, from, until, most - found.len()).into_iter().rev() {
                    found.push_front(fire);
                }
            }
        };
        for (from, to) in self.skipped.iter().rev() {
            search(since.max(*to), until);
            until = until.min(*from);
        }
        search(since, until);
        // It was run, or tried and given up.
        found.retain(|fire| self.served != Some(*fire));
        found.into()
    }

    /// Queues fires that were missed.
    pub(crate) fn backfill(&mut self, missed: Vec<SystemTime>) {
        self.made_up_to = missed.last().copied();
        // The schedule must not fire again for it.
        self.served = self.made_up_to;
        self.missed = missed.into();
    }

    pub(crate) fn has_missed(&self) -> bool {
        !self.missed.is_empty()
    }

    /// The run of the oldest missed fire begins. Returns the fire.
    pub(crate) fn serve_missed(&mut self) -> Option<SystemTime> {
        self.in_run = self.missed.pop_front();
        self.in_run
    }

    /// The run of the current fire has succeeded.
    pub(crate) fn done(&mut self) {
        if let Some(fire) = self.in_run.take() {
            // A run that was due before a pause serves what the pause has skipped, unless others are to be made up.
            let skipped = self.skipped.last().map(|(_, to)| *to).filter(|_| self.made_up_to.is_none());
            let fire = skipped.map_or(fire, |skipped| skipped.max(fire));
            let warned = self.unrecorded.is_some_and(|(_, warned)| warned);
            self.unrecorded = Some((fire, warned));
        }
    }

    pub(crate) fn unrecorded(&self) -> Option<SystemTime> {
        self.unrecorded.map(|(fire, _)| fire)
    }

    /// Returns the fire that was served and is not recorded yet, with the text of its schedule. It is all that stays of
    /// a timer whose service has lost its lease.
    pub(crate) fn into_unrecorded(self) -> Option<Unrecorded> {
        let (fire, _) = self.unrecorded?;
        Some(Unrecorded { fire, schedule: self.schedule? })
    }

    /// This process has served a fire before it had lost the lease. It does not serve it again.
    pub(crate) fn resume(&mut self, Unrecorded { fire, schedule }: Unrecorded) {
        self.unrecorded = Some((fire, false));
        self.schedule = Some(schedule);
    }

    /// This fire has been recorded.
    pub(crate) fn recorded(&mut self, fire: SystemTime) {
        self.unrecorded = self.unrecorded.filter(|(later, _)| *later != fire);
    }

    /// Recording the fire failed. Returns whether this is the first time, so that one warning is logged.
    pub(crate) fn could_not_record(&mut self) -> bool {
        self.unrecorded.as_mut().is_some_and(|(_, warned)| !std::mem::replace(warned, true))
    }

    /// Returns how long to wait before the next check of the clock.
    pub(crate) fn until_next_check(&self, now: SystemTime) -> Duration {
        self.planned()
            .map(|planned| planned.due)
            .map_or(LOOK, |at| at.duration_since(now).unwrap_or_default().min(LOOK))
    }

    fn after(&self, now: SystemTime) -> SystemTime {
        let ahead = |served: &SystemTime| served.duration_since(now).is_ok_and(|ahead| ahead <= SET_BACK);
        self.served.filter(ahead).unwrap_or(now)
    }
}

#[cfg(all(test, feature = "cron"))]
mod tests;
