//! Cron fires that were missed while the process was down: what is owed is found at start, and what was served is kept.

use std::pin::pin;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Supervisor;
use crate::cron::MOST_MISSED;
use crate::database::{LastRun, last_run, set_last_run};
use crate::desk::{Driven, Limit};
use crate::error::Error;
use crate::options::{CatchUp, Options, Schedule};
use crate::schedule::later;

/// Whether missed fires matter to a service.
pub(super) fn is_wanted(options: &Options) -> bool {
    matches!(&options.schedule, Schedule::Cron(cron) if cron.catch_up != CatchUp::None)
}

impl Supervisor {
    /// What the schedule missed while the process was down is owed.
    pub(super) async fn look_for_missed(&mut self) {
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
        let last = match self.desk.drive(&entry, pin!(look), limit).await {
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
            self.seldom().wall.owe(missed);
            self.plan_wall();
        }
    }

    /// Writes down the fire whose run ended well, so that it is not caught up after a restart of the process.
    pub(super) async fn remember_fire(&mut self) {
        let entry = self.cx.entry.clone();
        let fire = self.seldom().wall.done();
        let (Some(db), Some(fire)) = (entry.hub.database.as_ref(), fire) else { return };
        let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout));
        let last = LastRun { fire: Some(fire.into()), ..LastRun::default() };
        let written = self.desk.drive(&entry, pin!(set_last_run(db, &entry.id, last)), limit).await;
        if let Driven::Done(Err(error)) = written {
            warn!(service.id = %entry.id, "the fire just run is not remembered, and may be caught up again: {error:#}");
        }
    }
}
