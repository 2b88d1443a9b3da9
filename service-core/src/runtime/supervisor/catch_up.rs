//! `catch_up`: finds the cron fires that were missed while the process was down, and records each fire whose run
//! succeeded. Fires that the plan has passed over, because they came due during that run, are recorded with it. Nor are
//! those missed that came due while the process was up, but the service was paused or stopped. The extension records
//! them, since the loop of a stopped service has ended:
//! [`Status::skips_fires_since`](crate::runtime::status::Status).
//!
//! The tricky part is that the extension which stores the last fire (the database) may not answer. Without the last
//! fire it is unknown which fires were missed, and the next successful run would overwrite it. So such a service stays
//! `Starting` until the last fire has been read.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use crate::log::{info, warn};
use tokio::time::Instant;

use super::{Due, Exit, Supervisor};
use crate::runtime::invoker::{InvokeResult, Limit};
use crate::schedule::cron::MOST_MISSED;
use crate::schedule::{CatchUp, CronSchedule, Schedule, later};
use crate::service::error::{Error, Result};
use crate::service::failure::FailureKind;

/// How long recording one fire may take.
const RECORD_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
#[error("cannot read the last cron fire, so it is unknown which fires were missed")]
struct Unread(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Supervisor {
    /// Reads the last fire whose run succeeded, before the first instance is built.
    ///
    /// # Errors
    /// It could not be read. The failure has been handled; the value is the end of the loop, if the loop has to end.
    pub(super) async fn read_last_fire(&mut self) -> Result<(), Option<Exit>> {
        let options = self.options.clone();
        let Some(schedule) = options.schedule.caught_up() else { return Ok(()) };
        let (began, now) = (Instant::now(), self.services.shared.clock.wall_now());
        let (extension, cx) = (self.invoker.extension.clone(), self.cx.clone());
        let (is_paused, pause) = {
            let state = cx.service.lock();
            (state.is_paused(), state.requests.paused_by_override.clone())
        };
        // An override skips what came due since it was set, also while no process was up.
        let set_at = pause.as_ref().map(|pause| pause.since.unwrap_or(SystemTime::UNIX_EPOCH));
        self.cron().expect_last_fire(now, is_paused.then(|| set_at.unwrap_or(now)));
        match cx.unless_stopping(extension.last_fire(&cx.service, schedule, now)).await {
            None if self.has_lost_lease() => Err(Box::pin(self.lose_lease()).await),
            None => Err(Some(Exit::Stopped)),
            Some(Ok(last)) => {
                self.resume_unrecorded(schedule);
                let cron = self.cron();
                cron.served_before(cron.unrecorded().map_or(last, |served| served.max(last)));
                // The fire belongs to this schedule. Another one may hold when the instance has been built.
                cron.follow(schedule, now, true);
                if let Some(set_at) = set_at {
                    cron.skip(set_at, now);
                }
                self.record_pending_fire(false).await;
                Ok(())
            }
            Some(Err(error)) => {
                // Tables that are missing may be created later.
                let error = Error::without_advice(Unread(error.into()));
                Err(self.fail_to_build(FailureKind::Error, error, began).await)
            }
        }
    }

    /// Takes over the fire that was served before the lease was lost and that is not recorded yet, unless the schedule
    /// has changed.
    fn resume_unrecorded(&mut self, schedule: &CronSchedule) {
        if let Some(unrecorded) = self.unrecorded.take().filter(|unrecorded| unrecorded.is_of(schedule)) {
            self.cron().resume(*unrecorded);
        }
    }

    /// Fires that came due since the previous incarnation ended in this process are not missed.
    pub(super) fn skip_since_previous_end(&mut self) {
        if self.options.schedule.caught_up().is_none() {
            return;
        }
        let now = self.services.shared.clock.wall_now();
        let previous_end = self.cx.service.lock().status.previous_end;
        if let Some(end) = previous_end {
            self.cron().skip(end, now);
        }
    }

    /// Fires of the schedule that holds now count from now on.
    pub(super) fn follow_schedule(&mut self) {
        let options = self.options.clone();
        let Some(schedule) = options.schedule.caught_up() else { return };
        let now = self.services.shared.clock.wall_now();
        // The first instance is built after the last fire has been read, unless the schedule was another one then.
        let was_read = self.once || !self.was_built || self.is_taken_over || self.cron().has_read();
        self.cron().follow(schedule, now, was_read);
        if self.due == Due::Missed && !self.cron().has_missed() {
            self.due = Due::Cron;
        }
    }

    /// Finds the fires that were missed up to now: at the start, and again while they are made up.
    pub(super) fn backfill(&mut self) {
        let options = self.options.clone();
        let Schedule::Cron(schedule) = &options.schedule else { return };
        let most = if schedule.catch_up == CatchUp::Latest { 1 } else { MOST_MISSED };
        let now = self.services.shared.clock.wall_now();
        let missed = self.cron().find_missed(schedule, now, most);
        if missed.is_empty() {
            return self.cron().all_made_up();
        }
        info!(service.id = %self.cx.service.id, "catching up {} missed cron fire(s)", missed.len());
        self.cron().backfill(missed);
    }

    /// Records the fire whose run succeeded, so that the next process does not repeat it. During an outage this is left
    /// for the next check of the clock or the next run; `at_end` it is tried once anyway.
    pub(super) async fn record_pending_fire(&mut self, at_end: bool) {
        let options = self.options.clone();
        let Some(schedule) = options.schedule.caught_up() else { return };
        self.resume_unrecorded(schedule);
        let Some(fire) = self.cron.as_ref().and_then(|cron| cron.unrecorded()) else { return };
        let extension = self.invoker.extension.clone();
        if !at_end && extension.is_down() {
            return;
        }
        let service = self.cx.service.clone();
        let limit = self.options.drain_timeout.min(RECORD_TIMEOUT);
        let limit = later(Instant::now(), limit);
        let limit = if at_end { Limit::Last(limit) } else { Limit::Cleanup(limit) };
        let started: Option<SystemTime> =
            service.lock().status.stats.last_started.map(|started| service.shared.clock.wall(started));
        let record = extension.record_fire(&service, schedule, fire, started);
        let why = match self.invoker.invoke(pin!(record), limit).await {
            InvokeResult::Done(Ok(())) => return self.cron().recorded(fire),
            InvokeResult::Done(Err(error)) => format!("{error:#}"),
            InvokeResult::Panicked(message) => message,
            InvokeResult::Cancelled(_) => "no answer in time".to_owned(),
        };
        if self.cron().could_not_record() {
            warn!(
                service.id = %service.id,
                "the last cron fire could not be recorded, retrying; if the process ends before the fire is recorded, the next process \
                 repeats it: {why}"
            );
        }
    }
}
