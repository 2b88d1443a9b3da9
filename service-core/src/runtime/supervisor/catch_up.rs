//! Cron fires that were missed while the process was down: what is missing is found at the start, and what ended well is
//! recorded.
//!
//! The tricky part is that the extension which remembers fires may be down. Without the last fire it is unknown what was
//! missed, and a scheduled run that ends well would hide it; so such a service is not ready before it has been read.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use crate::log::warn;
use tokio::time::Instant;
use tracing::info;

use super::{Exit, Supervisor, catches_up};
use crate::runtime::invoker::{InvokeResult, Limit};
use crate::schedule::cron::{self, MOST_MISSED};
use crate::schedule::{CatchUp, Schedule, later};
use crate::service::error::{Error, Result};
use crate::service::failure::FailureKind;

/// How long recording one fire may take.
const RECORD_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
#[error("its last cron fire cannot be read, and so it is unknown what was missed")]
struct Unread(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Supervisor {
    /// Reads the last fire that ended well, before the first instance is built.
    ///
    /// # Errors
    /// It could not be read; what follows is decided, and may be the end of the loop.
    pub(super) async fn read_last_fire(&mut self) -> Result<(), Option<Exit>> {
        if !catches_up(&self.options) {
            return Ok(());
        }
        let (began, now) = (Instant::now(), self.services.shared.clock.wall_now());
        let (extension, cx) = (self.invoker.extension.clone(), self.cx.clone());
        match cx.unless_stopping(extension.last_fire(&cx.service, now)).await {
            None => Err(Some(Exit::Stopped)),
            Some(Ok(last)) => {
                self.cron().served_before(last);
                Ok(())
            }
            Some(Err(error)) => {
                Err(self.fail_to_build(FailureKind::Error, Error::new(Unread(error.into())), began).await)
            }
        }
    }

    /// Finds what the schedule missed up to now: at the start, and again while it is made up.
    pub(super) fn backfill(&mut self) {
        let options = self.options.clone();
        let Schedule::Cron(schedule) = &options.schedule else { return };
        let Some(last) = self.cron().made_up_to() else { return };
        let most = if schedule.catch_up == CatchUp::Latest { 1 } else { MOST_MISSED };
        let missed = cron::missed(schedule, last, self.services.shared.clock.wall_now(), most);
        if missed.is_empty() {
            return self.cron().all_made_up();
        }
        info!(service.id = %self.cx.service.id, "catches up {} missed cron fire(s)", missed.len());
        self.cron().backfill(missed);
    }

    /// Records the fire whose run ended well, so that it is not caught up after a restart of the process. While there is an
    /// outage this waits for the next look at the clock, the next run or, `at_end`, is tried once all the same.
    pub(super) async fn record_pending_fire(&mut self, at_end: bool) {
        let Some(fire) = self.cron.as_ref().and_then(|cron| cron.unrecorded()) else { return };
        let extension = self.invoker.extension.clone();
        if !at_end && extension.is_down() {
            return;
        }
        let service = self.cx.service.clone();
        let limit = Limit::Cleanup(later(Instant::now(), self.options.drain_timeout.min(RECORD_TIMEOUT)));
        let started: Option<SystemTime> =
            service.lock().status.stats.last_started.map(|started| service.shared.clock.wall(started));
        let record = extension.record_fire(&service, fire, started);
        let why = match self.invoker.invoke(pin!(record), limit).await {
            InvokeResult::Done(Ok(())) => return self.cron().recorded(fire),
            InvokeResult::Done(Err(error)) => format!("{error:#}"),
            InvokeResult::Panicked(message) => message,
            InvokeResult::Cancelled(_) => "no answer".to_owned(),
        };
        if self.cron().could_not_record() {
            warn!(
                service.id = %service.id,
                "the last cron fire is not recorded yet, and would be caught up again after a restart: {why}"
            );
        }
    }
}
