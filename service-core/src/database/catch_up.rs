//! When a service last ran, in `service_state`: what the runtime reads to catch up on missed fires.
//!
//! The tricky part are fires that are skipped on purpose: those that come due while the process is up, but the service
//! is paused or was stopped. No loop serves them, so the task that polls the tables records them ([`SkippedFires`]). If
//! the process is killed, the next one makes up only what came due afterwards. The same task forgets the fires of
//! services that run under a schedule which is not caught up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Condition, Expr, ExprTrait, InsertStatement, OnConflict, Query};

use crate::database::error_kind::DbResult;
use crate::database::wall_clock::{format_time, parse_time};
use crate::log::warn;
use crate::runtime::registration::RegisteredService;
use crate::runtime::services::Services;
use crate::schedule::{CronSchedule, cron};
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// A stored time that is ahead of this machine's clock by more than this comes from a clock that was wrong.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);
/// In place of the text of a schedule, if the service has run under one that is not caught up.
const NO_SCHEDULE: &str = "";
/// How many services one statement names.
const MOST_IDS: usize = 500;

/// When a service last ran, if that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastRun {
    /// When its last run began.
    pub run: Option<DateTime<Utc>>,
    /// The last fire that was served.
    pub fire: Option<DateTime<Utc>>,
    /// The text of that schedule; empty if the service has since run under a schedule that is not caught up.
    pub schedule: Option<String>,
}

/// Reads when a service last ran.
///
/// # Errors
/// The database's.
pub async fn last_run(db: &impl ConnectionTrait, service_id: &str) -> Result<LastRun> {
    let select = Query::select()
        .columns(["last_run", "last_fire", "schedule"])
        .from("service_state")
        .and_where(Expr::col("service_id").eq(service_id))
        .to_owned();
    let Some(row) = db.query_one(&select).await? else { return Ok(LastRun::default()) };
    let time = |name| -> DbResult<_> {
        let text: Option<String> = row.try_get("", name)?;
        Ok(text.and_then(|text| parse_time(&text).ok()))
    };
    Ok(LastRun { run: time("last_run")?, fire: time("last_fire")?, schedule: row.try_get("", "schedule")? })
}

/// Stores when a service last ran. `None` keeps the stored time. An earlier time does not replace a later one: of two
/// processes, the one that was delayed may write last. But a stored time that is ahead of this machine's clock by more
/// than a minute is always replaced: otherwise a clock that was wrong would hide fires until that time.
///
/// # Errors
/// The database's.
pub async fn set_last_run(db: &impl ConnectionTrait, service_id: &str, last: &LastRun) -> Result<()> {
    set_last_run_by(db, service_id, last, Utc::now()).await
}

/// As [`set_last_run`], by the clock of the registry.
///
/// # Errors
/// The database's.
pub(crate) async fn set_last_run_by(
    db: &impl ConnectionTrait,
    service_id: &str,
    last: &LastRun,
    now: DateTime<Utc>,
) -> Result<()> {
    if let Some(insert) = upsert(service_id, last, false, now) {
        db.execute(&insert).await?;
    }
    Ok(())
}

/// Stores the last fire as [`set_last_run`] does, and marks it. Changes nothing if it is marked already. Returns whether
/// it was not.
///
/// The mark has a column of its own: a pause records the fires that it skips as the last ones, and a run that was due
/// in the pause is made after it.
///
/// # Errors
/// The database's.
pub(crate) async fn mark_fire(
    db: &impl ConnectionTrait,
    service_id: &str,
    last: &LastRun,
    now: DateTime<Utc>,
) -> Result<bool> {
    match upsert(service_id, last, true, now) {
        Some(insert) => Ok(db.execute(&insert).await?.rows_affected() > 0),
        None => Ok(true),
    }
}

/// Forgets the fires of services up to this time: the next start with a schedule that is caught up counts from then on,
/// as with any other schedule than the stored one.
///
/// # Errors
/// The database's.
pub(crate) async fn forget_fires(
    db: &impl ConnectionTrait,
    service_ids: &[Arc<str>],
    until: DateTime<Utc>,
) -> Result<()> {
    let is_stored = Condition::all()
        .add(Expr::col("service_id").is_in(service_ids.iter().map(|id| &**id)))
        .add(Expr::col("last_fire").lte(format_time(until)))
        .add(Expr::col("schedule").is_null().or(Expr::col("schedule").ne(NO_SCHEDULE)));
    let select = Query::select().column("service_id").from("service_state").cond_where(is_stored.clone()).to_owned();
    // Most services have no fires, so that nothing is written.
    if !db.query_all(&select).await?.is_empty() {
        let forget =
            Query::update().table("service_state").value("schedule", NO_SCHEDULE).cond_where(is_stored).to_owned();
        db.execute(&forget).await?;
    }
    Ok(())
}

/// The statement that stores when a service last ran. With `marks` it marks the fire, and changes no row if that fire
/// is marked already.
fn upsert(service_id: &str, last: &LastRun, marks: bool, now: DateTime<Utc>) -> Option<InsertStatement> {
    let known = [("last_run", last.run), ("last_fire", last.fire)];
    let known: Vec<(&'static str, DateTime<Utc>)> =
        known.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    if known.is_empty() {
        return None;
    }
    let marked = last.fire.filter(|_| marks).map(|fire| ("marked_fire", fire));
    let stored = || known.iter().chain(&marked);
    let columns = ["service_id", "schedule"].into_iter().chain(stored().map(|(name, _)| *name));
    let values = [service_id.into(), last.schedule.as_deref().into()].into_iter();
    let values = values.chain(stored().map(|(_, at)| format_time(*at).into()));
    let believable = format_time(now + CLOCK_TOLERANCE);
    let later = known.iter().map(|(name, _)| (*name, later_of(name, name, &believable)));
    // The schedule belongs to the fire.
    let schedule = last.fire.map(|_| ("schedule", later_of("schedule", "last_fire", &believable)));
    let mut on_conflict = OnConflict::column("service_id").values(later.chain(schedule)).to_owned();
    if let Some((name, _)) = marked {
        let old = || Expr::col(("service_state", name));
        let new = Expr::col(("excluded", name));
        on_conflict.update_column(name).action_and_where(old().is_null().or(old().ne(new)));
    }
    let insert = Query::insert()
        .into_table("service_state")
        .columns(columns)
        .values_panic(values.collect::<Vec<Expr>>())
        .on_conflict(on_conflict)
        .to_owned();
    Some(insert)
}

/// Of a column's new value and the old one, the one that belongs to the later time. As these tables write them, times
/// sort as texts do.
fn later_of(name: &'static str, time: &'static str, believable: &str) -> Expr {
    let old = |name| Expr::col(("service_state", name));
    let new = |name| Expr::col(("excluded", name));
    // The comparison with a null is neither true nor false: then there is only the new one.
    let stays = old(time).gte(new(time)).and(old(time).lte(believable));
    Expr::case(stays, old(name)).finally(new(name)).into()
}

/// The fires that services skip, since they are paused, were stopped by hand, or run under another schedule. See
/// [`skips_fires_since`](crate::runtime::status::Status::skips_fires_since).
#[derive(Debug, Default)]
pub(crate) struct SkippedFires {
    /// The last fire of each service that was recorded here.
    recorded: Mutex<BTreeMap<Arc<str>, SystemTime>>,
    /// The services whose fires were forgotten here.
    forgotten: Mutex<BTreeSet<Arc<str>>>,
    /// It was reported that a fire cannot be recorded.
    is_reported: AtomicBool,
}

impl SkippedFires {
    /// Returns the services that have skipped a fire which is not recorded, each with the latest one.
    pub(crate) fn unrecorded(&self, services: &Services) -> Vec<(Arc<str>, LastRun)> {
        let now = services.shared.clock.wall_now();
        let skipping = services.all().into_iter().filter_map(|service| {
            let (schedule, since) = self.skipping(&service)?;
            let fire = cron::missed(&schedule, since, now, 1).pop()?;
            let last = LastRun { run: None, fire: Some(fire.into()), schedule: Some(schedule.text()) };
            Some((service.id().clone(), last))
        });
        skipping.collect()
    }

    /// The fire of this service has been recorded.
    pub(crate) fn recorded(&self, service_id: Arc<str>, last: &LastRun) {
        self.is_reported.store(false, Ordering::Relaxed);
        if let Some(fire) = last.fire {
            self.recorded.lock().insert(service_id, fire.into());
        }
    }

    /// The fire of this service could not be recorded. It is reported once.
    pub(crate) fn could_not_record(&self, service_id: &str, error: &Error) {
        if !self.is_reported.swap(true, Ordering::Relaxed) {
            warn!(
                service.id = service_id,
                "a cron fire that is skipped could not be recorded, retrying; if the process ends before, the next process makes it up: \
                 {error:#}"
            );
        }
    }

    /// Returns services that have run under a schedule which is not caught up, and whose fires are not forgotten yet.
    pub(crate) fn to_forget(&self, services: &Services) -> Vec<Arc<str>> {
        let runs_otherwise = |service: &Arc<RegisteredService>| {
            let state = service.inner.lock();
            state.status.stats.runs > 0 && state.requests.options.schedule.caught_up().is_none()
        };
        let ids = services.all().into_iter().filter(runs_otherwise).map(|service| service.id().clone());
        let mut forgotten = self.forgotten.lock();
        // Without those that are caught up again, or not registered any more.
        let (known, new): (BTreeSet<_>, BTreeSet<_>) = ids.partition(|id| forgotten.contains(id));
        *forgotten = known;
        new.into_iter().take(MOST_IDS).collect()
    }

    /// The fires of these services have been forgotten.
    pub(crate) fn set_forgotten(&self, service_ids: Vec<Arc<str>>) {
        self.forgotten.lock().extend(service_ids);
    }

    /// When the next fire is skipped.
    pub(crate) fn next(&self, services: &Services) -> Option<SystemTime> {
        let next = services.all().into_iter().filter_map(|service| {
            let (schedule, since) = self.skipping(&service)?;
            cron::next(&schedule, since)
        });
        next.min()
    }

    /// The schedule of a service that skips its fires, and up to when they are recorded.
    fn skipping(&self, service: &RegisteredService) -> Option<(CronSchedule, SystemTime)> {
        let (schedule, since) = {
            let state = service.inner.lock();
            (state.requests.options.schedule.caught_up()?.clone(), state.status.skips_fires_since?)
        };
        let recorded = self.recorded.lock().get(service.id()).copied();
        Some((schedule, recorded.map_or(since, |recorded| recorded.max(since))))
    }
}
