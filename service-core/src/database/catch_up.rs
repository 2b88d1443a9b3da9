//! When a service last ran, in `service_state`: what the runtime reads to catch up on missed fires.

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{ConnectionTrait, DbErr};

use crate::database::wall_clock::{format_time, parse_time};
use crate::service::error::Result;

/// How far the clocks of two machines may lie apart without one of them being held for wrong.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);

/// When a service last ran, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastRun {
    /// When its last run began.
    pub run: Option<DateTime<Utc>>,
    /// The time of the schedule that was served last.
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

/// Keeps when a service last ran. `None` leaves what is known, and so does a time before the one that is known: of two
/// processes the one that was held up may write last. A known time that lies ahead of this machine's clock by more than a
/// minute is replaced all the same: a clock that was wrong must not hide fires until its time has come.
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

/// Of a column's new time and the one that stands there, what is kept. As these tables write them, times sort as texts do.
fn later_of(name: &'static str, believable: &str) -> Expr {
    let stands = || Expr::col((column("service_state"), column(name)));
    let new = || Expr::col((column("excluded"), column(name)));
    // The comparison with a null is neither true nor false: then there is only the new one.
    let stays = stands().gte(new()).and(stands().lte(believable));
    Expr::case(stays, stands()).finally(new()).into()
}

fn column(name: &'static str) -> Alias {
    Alias::new(name)
}
