//! The tables that change a service from outside: `service_config`, which other programs write, and `service_override`, what an
//! operator sets. And `service_state`: when a service last ran.
//!
//! The tricky part: these rows may be written by hand. One that cannot be understood is given back as such, with its key, so that
//! it can be reported and the service goes on with the last good value.

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, QueryResult};
use serde_json::Value;

use crate::service::error::Result;

/// How far the clocks of two machines may lie apart without one of them being held for wrong.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);

/// A value that is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON ({reason}): a text needs quotes, as in '\"text\"'")]
pub struct BadValue {
    /// What stood there. It may be a secret: show it only where the key's value may be shown.
    pub text: String,
    reason: String,
}

/// One row of `service_config`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConfigRow {
    /// The service, or `defaults`.
    pub service_id: String,
    /// The option or setting.
    pub key: String,
    /// Its value, as far as it is one.
    pub value: std::result::Result<Value, BadValue>,
}

/// What an operator set: one row of `service_override`.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The service.
    pub service_id: String,
    /// The option or setting, or `paused`.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Who set it.
    pub by: String,
    /// Why.
    pub why: String,
    /// When.
    pub at: DateTime<Utc>,
    /// When it ends by itself; `None`: when it is taken back.
    pub until: Option<DateTime<Utc>>,
}

/// A row of `service_override` that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the override of `{key}` of `{service_id}` is ignored: {reason}")]
#[non_exhaustive]
pub struct BadOverride {
    /// The service.
    pub service_id: String,
    /// The option or setting.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// When a service last ran, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastRun {
    /// When its last run began.
    pub run: Option<DateTime<Utc>>,
    /// The time of the schedule that was served last.
    pub fire: Option<DateTime<Utc>>,
}

/// Reads `service_config` whole, in the order of its key.
///
/// # Errors
/// The database's. A value that is not JSON is no error: it is in its row.
pub async fn read_config(db: &DatabaseConnection) -> Result<Vec<ConfigRow>> {
    let select = Query::select()
        .columns(["service_id", "key"].map(column))
        // A migration of somebody else's may have made it a JSON column.
        .expr_as(Expr::col(column("value")).cast_as(Alias::new("text")), column("value"))
        .from(column("service_config"))
        .order_by(column("service_id"), sea_orm::Order::Asc)
        .order_by(column("key"), sea_orm::Order::Asc)
        .to_owned();
    let rows = db.query_all(&select).await?;
    let read = |row: &QueryResult| {
        let text: String = row.try_get("", "value")?;
        Ok(ConfigRow { service_id: row.try_get("", "service_id")?, key: row.try_get("", "key")?, value: parse(text) })
    };
    Ok(rows.iter().map(read).collect::<std::result::Result<_, DbErr>>()?)
}

/// Reads the overrides that have not expired at `now`, in the order of their key, each as it is or as what is wrong with it.
///
/// # Errors
/// The database's.
pub async fn read_overrides(
    db: &DatabaseConnection,
    now: DateTime<Utc>,
) -> Result<Vec<std::result::Result<Override, BadOverride>>> {
    let overrides = all_overrides(db).await?.into_iter().map(|(_, found)| found);
    Ok(overrides.filter(|found| !is_expired(found, now)).collect())
}

/// Sets an override, in place of the one there was.
///
/// # Errors
/// The database's.
pub async fn set_override(db: &impl ConnectionTrait, new: &Override) -> Result<()> {
    let columns = ["service_id", "key", "value", "set_by", "why", "set_at", "until"];
    let insert = Query::insert()
        .into_table(column("service_override"))
        .columns(columns.map(column))
        .values_panic([
            new.service_id.as_str().into(),
            new.key.as_str().into(),
            new.value.to_string().into(),
            new.by.as_str().into(),
            new.why.as_str().into(),
            format_time(new.at).into(),
            new.until.map(format_time).into(),
        ])
        .on_conflict(
            OnConflict::columns(["service_id", "key"].map(column))
                .update_columns(["value", "set_by", "why", "set_at", "until"].map(column))
                .to_owned(),
        )
        .to_owned();
    db.execute(&insert).await?;
    Ok(())
}

/// Takes an override back, and says whether there was one. `paused` may stand there as `pause`, too.
///
/// # Errors
/// The database's.
pub async fn remove_override(db: &impl ConnectionTrait, service_id: &str, key: &str) -> Result<bool> {
    let delete = Query::delete()
        .from_table(column("service_override"))
        .and_where(Expr::col(column("service_id")).eq(service_id))
        .and_where(Expr::col(column("key")).is_in(if key == "paused" { vec![key, "pause"] } else { vec![key] }))
        .to_owned();
    Ok(db.execute(&delete).await?.rows_affected() > 0)
}

/// Removes the overrides that have expired at `now`, and returns them. Each is returned to one replica only.
///
/// # Errors
/// The database's.
pub async fn expire_overrides(db: &DatabaseConnection, now: DateTime<Utc>) -> Result<Vec<Override>> {
    let mut expired = Vec::new();
    for (set_at, found) in all_overrides(db).await?.into_iter().filter(|(_, found)| is_expired(found, now)) {
        let Ok(found) = found else { continue };
        // Only this very one: it may have been set anew meanwhile. By the text that stands there, as people write times otherwise.
        let delete = Query::delete()
            .from_table(column("service_override"))
            .and_where(Expr::col(column("service_id")).eq(found.service_id.as_str()))
            .and_where(Expr::col(column("key")).eq(found.key.as_str()))
            .and_where(Expr::col(column("set_at")).eq(set_at))
            .to_owned();
        if db.execute(&delete).await?.rows_affected() > 0 {
            expired.push(found);
        }
    }
    Ok(expired)
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

type ReadOverride = std::result::Result<Override, BadOverride>;

/// Each with the text of its `set_at`.
async fn all_overrides(db: &DatabaseConnection) -> Result<Vec<(String, ReadOverride)>> {
    let select = Query::select()
        .columns(["service_id", "key", "value", "set_by", "why", "set_at", "until"].map(column))
        .from(column("service_override"))
        .order_by(column("service_id"), sea_orm::Order::Asc)
        .order_by(column("key"), sea_orm::Order::Asc)
        .to_owned();
    let rows = db.query_all(&select).await?;
    Ok(rows.iter().map(read_override).collect::<std::result::Result<_, DbErr>>()?)
}

fn read_override(row: &QueryResult) -> std::result::Result<(String, ReadOverride), DbErr> {
    let text = |name: &'static str| row.try_get::<String>("", name);
    let (service_id, key) = (text("service_id")?, text("key")?);
    let (value, set_at, until) = (text("value")?, text("set_at")?, row.try_get::<Option<String>>("", "until")?);
    let understood = parse(value)
        .map_err(|bad| bad.to_string())
        .and_then(|value| Ok((value, parse_time(&set_at)?, until.as_deref().map(parse_time).transpose()?)));
    let (by, why) = (text("set_by")?, text("why")?);
    let found = match understood {
        Ok((value, at, until)) => Ok(Override { service_id, key, value, by, why, at, until }),
        Err(reason) => Err(BadOverride { service_id, key, reason }),
    };
    Ok((set_at, found))
}

fn is_expired(found: &ReadOverride, now: DateTime<Utc>) -> bool {
    found.as_ref().is_ok_and(|found| found.until.is_some_and(|until| until <= now))
}

fn parse(text: String) -> std::result::Result<Value, BadValue> {
    serde_json::from_str(&text).map_err(|error| BadValue { text, reason: error.to_string() })
}

/// A time as these tables keep it.
pub(crate) fn format_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// RFC 3339, or what `CURRENT_TIMESTAMP` and `now()` leave in a text column: a blank for the `T`, and on SQLite no zone, as
/// it is UTC.
fn parse_time(text: &str) -> std::result::Result<DateTime<Utc>, String> {
    if let Ok(at) = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f") {
        return Ok(at.and_utc());
    }
    let parsed = DateTime::parse_from_rfc3339(text)
        .or_else(|error| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").map_err(|_| error));
    parsed
        .map(|at| at.to_utc())
        .map_err(|error| format!("`{text}` is not a time ({error}): write `2026-01-31T12:00:00Z`"))
}

fn column(name: &'static str) -> Alias {
    Alias::new(name)
}
