//! The tables that change a service from outside: `service_config`, which other programs write, and `service_override`, what an
//! operator sets.
//!
//! The tricky part: these rows may be written by hand. One that cannot be understood is given back as such, with its key, so that
//! it can be reported and the service goes on with the last good value.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Func, OnConflict, Query};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, QueryResult};
use serde_json::Value;

use crate::database::db_time::DbTime;
use crate::database::wall_clock::{WallClock, format_time, parse_time};
use crate::service::error::Result;

/// The longest value that is read. Resolving a configuration copies it many times.
const LONGEST_VALUE: i32 = 65_536;

/// A value that is not JSON, or too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
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
///
/// ```
/// use chrono::{TimeDelta, Utc};
/// use service_core::database::Override;
///
/// let pause = Override::new("mailer", "paused", true)
///     .by("ann")
///     .why("the provider is down")
///     .until(Utc::now() + TimeDelta::hours(2));
/// assert_eq!(pause.key, "paused");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Override {
    /// The id of the service, or `defaults` for all services.
    pub service_id: String,
    /// The option or setting, or `paused`.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// The operator's name.
    pub by: String,
    /// The reason.
    pub why: String,
    /// When it was set.
    pub at: DateTime<Utc>,
    /// When it expires; `None` if it stays until it is removed.
    pub until: Option<DateTime<Utc>>,
}

impl Override {
    /// An override that was set now and stays until it is removed, without author and reason.
    pub fn new(service_id: impl Into<String>, key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            service_id: service_id.into(),
            key: key.into(),
            value: value.into(),
            by: String::new(),
            why: String::new(),
            at: WallClock::default().now(),
            until: None,
        }
    }

    /// With the operator's name.
    pub fn by(self, name: impl Into<String>) -> Self {
        Self { by: name.into(), ..self }
    }

    /// With a reason.
    pub fn why(self, reason: impl Into<String>) -> Self {
        Self { why: reason.into(), ..self }
    }

    /// With an expiry.
    pub fn until(self, time: DateTime<Utc>) -> Self {
        Self { until: Some(time), ..self }
    }
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

/// Reads `service_config` whole, in the order of its key.
///
/// # Errors
/// The database's. A value that is not JSON is no error: it is in its row.
pub async fn read_config(db: &DatabaseConnection) -> Result<Vec<ConfigRow>> {
    let select = Query::select()
        .columns(["service_id", "key"].map(column))
        .expr_as(value(), column("value"))
        .from(column("service_config"))
        .order_by(column("service_id"), sea_orm::Order::Asc)
        .order_by(column("key"), sea_orm::Order::Asc)
        .to_owned();
    let rows = db.query_all(&select).await?;
    let read = |row: &QueryResult| {
        let text: Option<String> = row.try_get("", "value")?;
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

/// Sets an override, in place of the one there was. It is recorded as set now, by the database's clock.
///
/// # Errors
/// The database's.
pub async fn set_override(db: &impl ConnectionTrait, new: &Override) -> Result<()> {
    let set_at = DbTime::Database.now(db).await?;
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
            format_time(set_at).into(),
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

type ReadOverride = std::result::Result<Override, BadOverride>;

/// Each with the text of its `set_at`.
async fn all_overrides(db: &DatabaseConnection) -> Result<Vec<(String, ReadOverride)>> {
    let select = Query::select()
        .columns(["service_id", "key", "set_by", "why", "set_at", "until"].map(column))
        .expr_as(value(), column("value"))
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
    let optional = |name: &'static str| row.try_get::<Option<String>>("", name);
    let (value, set_at, until) = (optional("value")?, text("set_at")?, optional("until")?);
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

/// A value as JSON. `None` is one that was too long to be read.
fn parse(text: Option<String>) -> std::result::Result<Value, BadValue> {
    let Some(text) = text else {
        let reason = format!("longer than {LONGEST_VALUE} characters");
        return Err(BadValue { text: String::new(), reason });
    };
    serde_json::from_str(&text).map_err(|error| {
        let reason = format!("not JSON ({error}): a text needs quotes, as in '\"text\"'");
        BadValue { text, reason }
    })
}

/// The value, unless it is too long.
fn value() -> Expr {
    // Another program's migration may have made it a JSON column.
    let text = || Expr::col(column("value")).cast_as(Alias::new("text"));
    let length = Func::cust("length").arg(text());
    Expr::case(Expr::expr(length).lte(LONGEST_VALUE), text()).into()
}

fn column(name: &'static str) -> Alias {
    Alias::new(name)
}
