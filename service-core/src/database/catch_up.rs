//! The last run and the last served fire of a service, in `service_state`. The runtime reads them to catch up on missed fires.

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{ConnectionTrait, DbErr};

use crate::database::wall_clock::{format_time, parse_time};
use crate::service::error::Result;

/// A stored time that is ahead of this machine's clock by more than this comes from a clock that was wrong.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);

/// When a service last ran, if that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastRun {
    /// When its last run began.
    pub run: Option<DateTime<Utc>>,
    /// The last fire that was served.
    pub fire: Option<DateTime<Utc>>,
}

/// Reads when a service last ran.
///
/// # Errors
/// The database's.
pub async fn last_run(db: &impl ConnectionTrait, service_id: &str) -> Result<LastRun> {
    let select = Query::select()
        .columns(["last_run", "last_fire"].map(column))
        .from(column("service_state"))
        .and_where(Expr::col(column("service_id")).eq(service_id))
        .to_owned();
    let Some(row) = db.query_one(&select).await? else { return Ok(LastRun::default()) };
    let time = |name| {
        let text: Option<String> = row.try_get("", name)?;
        Ok(text.and_then(|text| parse_time(&text).ok()))
    };
    let (run, fire): (std::result::Result<_, DbErr>, std::result::Result<_, DbErr>) =
        (time("last_run"), time("last_fire"));
    Ok(LastRun { run: run?, fire: fire? })
}

/// Stores when a service last ran. `None` keeps the stored time. An earlier time does not replace a later one: of two
/// processes, the one that was delayed may write last. But a stored time that is ahead of this machine's clock by more than
/// a minute is always replaced: otherwise a clock that was wrong would hide fires until that time.
///
/// # Errors
/// The database's.
pub async fn set_last_run(db: &impl ConnectionTrait, service_id: &str, last: LastRun) -> Result<()> {
    let known = [("last_run", last.run), ("last_fire", last.fire)];
    let known: Vec<(&'static str, DateTime<Utc>)> =
        known.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    if known.is_empty() {
        return Ok(());
    }
    let columns = std::iter::once("service_id").chain(known.iter().map(|(name, _)| *name));
    let values = std::iter::once(service_id.into()).chain(known.iter().map(|(_, at)| format_time(*at).into()));
    let believable = format_time(Utc::now() + CLOCK_TOLERANCE);
    let later = known.iter().map(|(name, _)| (column(name), later_of(name, &believable)));
    let insert = Query::insert()
        .into_table(column("service_state"))
        .columns(columns.map(column))
        .values_panic(values.collect::<Vec<Expr>>())
        .on_conflict(OnConflict::column(column("service_id")).values(later).to_owned())
        .to_owned();
    db.execute(&insert).await?;
    Ok(())
}

/// The later one of a column's stored time and its new time. In the format of these tables, times sort as texts do.
fn later_of(name: &'static str, believable: &str) -> Expr {
    let stands = || Expr::col((column("service_state"), column(name)));
    let new = || Expr::col((column("excluded"), column(name)));
    // A comparison with NULL is not true, so the new time is used.
    let stays = stands().gte(new()).and(stands().lte(believable));
    Expr::case(stays, stands()).finally(new()).into()
}

fn column(name: &'static str) -> Alias {
    Alias::new(name)
}
