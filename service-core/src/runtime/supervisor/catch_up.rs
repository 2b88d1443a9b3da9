//! Cron fires that were missed while the process was down: what is owed is found at start, and what was served is kept.
//!
//! The tricky part is that the last fire stands in a database, which may be away. Without it nobody knows what is owed, and
//! a scheduled run that ends well would hide what was missed before; so such a service does not come up before it is read.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use sea_orm::{DbErr, RuntimeErr};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Built, Ending, Supervisor};
use crate::config::options::Options;
use crate::database::{LastRun, last_run, set_last_run};
use crate::runtime::invoker::{Driven, Limit};
use crate::schedule::cron::MOST_MISSED;
use crate::schedule::later;
use crate::schedule::{CatchUp, Schedule};
use crate::service::error::{Error, Result};
use crate::service::failure::FailureKind;

/// How long one question to the database may take.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
#[error("its last fire cannot be read, and so not what it has to catch up")]
struct Unread(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Whether missed fires matter to a service.
pub(super) fn is_wanted(options: &Options) -> bool {
    matches!(&options.schedule, Schedule::Cron(cron) if cron.catch_up != CatchUp::None)
}

impl Supervisor {
    /// Reads the last fire that was served, before the first instance is built.
    pub(super) async fn read_last_fire(&mut self) -> Built {
        let entry = self.cx.entry.clone();
        let (began, now) = (Instant::now(), entry.hub.clock.wall_now());
        let read = async {
            let access = entry.hub.database.as_ref().map(|db| entry.access(db));
            let Some(access) = access else { return Ok(now) };
            let db = entry.hub.presence.registry_pool(access.db());
            access.tables.ensure(db).await?;
            match last_run(db, &entry.id).await?.fire {
                Some(last) => Ok(last.into()),
                None => {
                    // From the first start on there is something to miss.
                    set_last_run(db, &entry.id, LastRun { fire: Some(now.into()), ..LastRun::default() }).await?;
                    Ok(now)
                }
            }
        };
        let cx = self.cx.clone();
        let last: Result<SystemTime> = match cx.unless_stopping(tokio::time::timeout(PATIENCE, read)).await {
            None => return Built::Ended(Ending::Stopped),
            Some(Ok(read)) => read,
            // To be known as what it is: an outage, which uses up no service.
            Some(Err(_)) => {
                let why = format!("no answer within {} s", PATIENCE.as_secs());
                Err(Error::new(DbErr::Conn(RuntimeErr::Internal(why))))
            }
        };
        match last {
            Ok(last) => {
                self.seldom().wall.served_before(last);
                Built::Done
            }
            Err(error) => self.fail_to_build(FailureKind::Error, Error::new(Unread(error.into())), began).await,
        }
    }

    /// What the schedule missed up to now is owed: at the start, and again while it is being made up.
    pub(super) fn look_for_missed(&mut self) {
        let entry = self.cx.entry.clone();
        let options = self.desk.options.clone();
        let Schedule::Cron(cron) = &options.schedule else { return };
        let Some(last) = self.seldom().wall.made_up_to() else { return };
        let most = if cron.catch_up == CatchUp::Latest { 1 } else { MOST_MISSED };
        let missed = crate::schedule::cron::missed(cron, last, entry.hub.clock.wall_now(), most);
        if missed.is_empty() {
            return self.seldom().wall.all_made_up();
        }
        info!(service.id = %entry.id, "catches up {} fire(s) that were missed", missed.len());
        self.seldom().wall.owe(missed);
    }

    /// Whether a fire is to be written down, and the database is there for it as far as is known.
    pub(super) fn can_remember_fire(&self) -> bool {
        self.has_fire_to_remember() && !self.cx.entry.hub.presence.is_down()
    }

    /// Whatever its schedule is by now.
    pub(super) fn has_fire_to_remember(&self) -> bool {
        self.seldom.as_ref().is_some_and(|seldom| seldom.wall.unwritten().is_some())
    }

    /// Writes down the fire whose run ended well, so that it is not caught up after a restart of the process. What cannot
    /// be written is kept, and tried again at the next look at the clock, the next run and the end.
    pub(super) async fn remember_fire(&mut self) {
        let entry = self.cx.entry.clone();
        let (Some(db), Some(fire)) = (entry.hub.database.as_ref(), self.seldom().wall.unwritten()) else { return };
        let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout.min(PATIENCE)));
        let run = entry.lock().stats.last_started.map(|started| entry.hub.clock.wall(started).into());
        let last = LastRun { run, fire: Some(fire.into()) };
        let write = set_last_run(entry.hub.presence.registry_pool(db), &entry.id, last);
        let why = match self.desk.drive(&entry, pin!(write), limit).await {
            Driven::Done(Ok(())) => return self.seldom().wall.written(fire),
            Driven::Done(Err(error)) => format!("{error:#}"),
            _ => "no answer".to_owned(),
        };
        entry.hub.presence.probe_soon();
        if self.seldom().wall.could_not_write() {
            warn!(service.id = %entry.id, "the fire just run is not written down yet, and would be caught up again: {why}");
        }
    }
}
