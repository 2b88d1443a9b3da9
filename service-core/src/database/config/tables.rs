//! The tables that configure services from outside: `service_config`, which other programs write, and
//! `service_override`, which operators write.
//!
//! The tricky part is that rows may be written by hand. A row that cannot be parsed is returned as an error with its
//! key, so that it can be reported while the service continues with the last good value.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, Func, LockBehavior, LockType, OnConflict, Query, SelectStatement};
use sea_orm::{Condition, ConnectionTrait, DbBackend, QueryResult};
use serde_json::Value;

use crate::database::db_time::DbTime;
use crate::database::error_kind::DbResult;
use crate::database::lossy::lossy;
use crate::database::wall_clock::{WallClock, format_time, parse_time};
use crate::log::info;
use crate::service::error::Result;

/// The longest text that is read, in characters. Resolving a configuration copies each row many times.
const LONGEST_TEXT: i32 = 65_536;
/// How much of a longer text is shown, in characters.
const SHOWN: usize = 80;
/// The most overrides that are removed at a time, by a statement each: the others are removed later.
const MOST_EXPIRED: usize = 20;

/// A value that is not JSON, or too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadValue {
    /// The text of the value. It may be a secret: show it only if the value of the key may be shown.
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
    /// Its value, or why it has none.
    pub value: std::result::Result<Value, BadValue>,
}

/// An override by an operator: one row of `service_override`.
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
    /// Returns an override without author, reason and expiry, set now by the clock of this machine.
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

    /// Sets the operator's name.
    pub fn by(self, name: impl Into<String>) -> Self {
        Self { by: name.into(), ..self }
    }

    /// Sets the reason.
    pub fn why(self, reason: impl Into<String>) -> Self {
        Self { why: reason.into(), ..self }
    }

    /// Sets the expiry.
    pub fn until(self, time: DateTime<Utc>) -> Self {
        Self { until: Some(time), ..self }
    }
}

/// A row of `service_override` that cannot be parsed.
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
    /// When it expires, if that can be read.
    pub until: Option<DateTime<Utc>>,
}

/// Reads all rows of `service_config`, in the order of the primary key.
///
/// # Errors
/// Those of the database. What is not text, too long or not JSON is an error of its row only.
pub async fn read_config(db: &impl ConnectionTrait) -> Result<Vec<ConfigRow>> {
    let rows = db.query_all(&select_rows("service_config", &["service_id", "key"], db.get_database_backend())).await?;
    let read = |row: &QueryResult| {
        let [service_id, key, value] = ["service_id", "key", "value"].map(|name| Text::read(row, name));
        let (service_id, key, value) = (service_id?, key?, value?);
        let problem = [&service_id, &key, &value].into_iter().find_map(Text::problem);
        let parsed = match problem {
            Some(reason) => Err(BadValue { text: String::new(), reason }),
            None => parse(value.text),
        };
        Ok(ConfigRow { service_id: service_id.name(), key: key.name(), value: parsed })
    };
    Ok(rows.iter().map(read).collect::<DbResult<_>>()?)
}

/// Reads the overrides that have not expired at `now`, in the order of the primary key: each as an override, or as the
/// error of its row.
///
/// # Errors
/// Those of the database.
pub async fn read_overrides(
    db: &impl ConnectionTrait,
    now: DateTime<Utc>,
) -> Result<Vec<std::result::Result<Override, BadOverride>>> {
    let overrides = all_overrides(db).await?.into_iter().map(|(_, found)| found);
    Ok(overrides.filter(|found| !is_expired(found, now)).collect())
}

/// Sets an override. It replaces an earlier one of the same service and key. It is recorded as set now, by the
/// database's clock; the field `at` is ignored. The key `paused` with the value `true` pauses the service.
///
/// Every replica applies it within seconds; in a transaction, after the commit. The service, the key and the value are
/// not checked here. The replicas report a wrong key or value by a warning, and in `rejected` of
/// [`Explanation`](crate::Explanation). A row of a service that no program has is not reported.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> service_core::Result<()> {
/// use service_core::database::{Override, connect, migrate, remove_override, set_override};
///
/// let db = connect("sqlite::memory:").await?;
/// migrate(&db).await?;
/// set_override(&db, &Override::new("mailer", "interval", "5m").by("ann").why("rate limit")).await?;
/// assert!(remove_override(&db, "mailer", "interval").await?);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
///
/// # Errors
/// Those of the database, for example: the table `service_override` is missing ([`migrate`](crate::database::migrate)
/// creates it).
pub async fn set_override(db: &impl ConnectionTrait, new: &Override) -> Result<()> {
    let set_at = DbTime::Database.now(db).await?;
    let columns = ["service_id", "key", "value", "set_by", "why", "set_at", "until"];
    let insert = Query::insert()
        .into_table("service_override")
        .columns(columns)
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
            OnConflict::columns(["service_id", "key"])
                .update_columns(["value", "set_by", "why", "set_at", "until"])
                .to_owned(),
        )
        .to_owned();
    db.execute(&insert).await?;
    Ok(())
}

/// Removes an override. Returns whether there was one. The key `paused` also removes a row with the key `pause`.
///
/// # Errors
/// Those of the database.
pub async fn remove_override(db: &impl ConnectionTrait, service_id: &str, key: &str) -> Result<bool> {
    let other = if key == "paused" { "pause" } else { key };
    remove_keys(db, service_id, &[key, other]).await
}

/// Removes the overrides of some keys. Returns whether there was one.
///
/// # Errors
/// Those of the database.
pub(crate) async fn remove_keys(db: &impl ConnectionTrait, service_id: &str, keys: &[&str]) -> Result<bool> {
    let delete = Query::delete().from_table("service_override").cond_where(is_of(service_id, keys)).to_owned();
    Ok(db.execute(&delete).await?.rows_affected() > 0)
}

/// Whether there is an override of one of these keys.
///
/// # Errors
/// Those of the database.
pub(crate) async fn has_override(db: &impl ConnectionTrait, service_id: &str, keys: &[&str]) -> Result<bool> {
    let select = Query::select()
        .expr(Expr::Constant(1.into()))
        .from("service_override")
        .cond_where(is_of(service_id, keys))
        .to_owned();
    Ok(db.query_one(&select).await?.is_some())
}

/// The condition of the overrides of some keys.
fn is_of(service_id: &str, keys: &[&str]) -> Condition {
    let [of_service, of_key] = ["service_id", "key"].map(Expr::col);
    Condition::all().add(of_service.eq(service_id)).add(of_key.is_in(keys.iter().copied()))
}

/// Removes the overrides that have expired at `now`, and returns those that could be parsed. Each is returned to one
/// replica only. On PostgreSQL, one that a transaction has locked stays.
///
/// # Errors
/// Those of the database.
pub async fn expire_overrides(db: &impl ConnectionTrait, now: DateTime<Utc>) -> Result<Vec<Override>> {
    let mut expired = Vec::new();
    let all = all_overrides(db).await?.into_iter().filter(|(_, found)| is_expired(found, now));
    // A row that was cut cannot be found by its texts.
    let all = all.filter_map(|(set_at, found)| Some((set_at?, found)));
    for (set_at, found) in all.take(MOST_EXPIRED) {
        let (service_id, of_key) = match &found {
            Ok(found) => (&found.service_id, &found.key),
            Err(bad) => (&bad.service_id, &bad.key),
        };
        // Only this row: another one may have replaced it in the meantime. Compared as text, because rows that people
        // write have times in other formats.
        let is_this = Condition::all()
            .add(Expr::col("service_id").eq(service_id.as_str()))
            .add(Expr::col("key").eq(of_key.as_str()))
            .add(Expr::col("set_at").eq(set_at));
        let unlocked = Query::select()
            .column("key")
            .from("service_override")
            .cond_where(is_this.clone())
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .to_owned();
        let delete = Query::delete()
            .from_table("service_override")
            .cond_where(is_this.add(Expr::col("key").in_subquery(unlocked)))
            .to_owned();
        if db.execute(&delete).await?.rows_affected() > 0 {
            if let Err(bad) = &found {
                info!(
                    service.id = bad.service_id,
                    "the override of `{}` has expired, whose value could not be read", bad.key
                );
            }
            expired.extend(found);
        }
    }
    Ok(expired)
}

pub(crate) type ReadOverride = std::result::Result<Override, BadOverride>;

/// All overrides, each with the text of its `set_at`, unless it is too long or one of its names is.
pub(crate) async fn all_overrides(db: &impl ConnectionTrait) -> Result<Vec<(Option<String>, ReadOverride)>> {
    let columns = ["service_id", "key", "set_by", "why", "set_at", "until"];
    let rows = db.query_all(&select_rows("service_override", &columns, db.get_database_backend())).await?;
    Ok(rows.iter().map(read_override).collect::<DbResult<_>>()?)
}

/// The query for these columns and the value of all rows, in the order of the primary key.
fn select_rows(table: &'static str, columns: &[&'static str], backend: DbBackend) -> SelectStatement {
    let mut select = Query::select().expr_as(value(), "value").from(table).to_owned();
    for column in columns {
        select.expr_as(beginning(column, backend), *column);
    }
    for key in ["service_id", "key"] {
        // Of the table, not of the result.
        select.order_by((table, key), sea_orm::Order::Asc);
    }
    select
}

fn read_override(row: &QueryResult) -> DbResult<(Option<String>, ReadOverride)> {
    let read = |name| Text::read(row, name);
    let (service_id, key, value) = (read("service_id")?, read("key")?, read("value")?);
    let (set_at, until, by, why) = (read("set_at")?, read("until")?, read("set_by")?, read("why")?);
    // Who and why are for people, so a part of them is enough.
    let shown = [&by, &why].into_iter().find_map(Text::not_text);
    let problem = [&service_id, &key, &value, &set_at, &until].into_iter().find_map(Text::problem).or(shown);
    let was_cut = [&service_id, &key, &set_at].into_iter().any(|text| text.is_long);
    // Also of a row whose other columns are wrong: its last valid value must not stay in effect for longer.
    let ends = until.text.as_deref().map(parse_time).transpose();
    let [service_id, key, set_at, by, why] = [service_id, key, set_at, by, why].map(Text::name);
    let understood = problem.map_or(Ok(()), Err).and_then(|()| {
        let value = parse(value.text).map_err(|bad| bad.to_string())?;
        Ok((value, parse_time(&set_at)?, ends.clone()?))
    });
    let found = match understood {
        Ok((value, at, until)) => Ok(Override { service_id, key, value, by, why, at, until }),
        Err(reason) => Err(BadOverride { service_id, key, reason, until: ends.ok().flatten() }),
    };
    Ok(((!was_cut).then_some(set_at), found))
}

/// A column of a row that may have been written by hand. On SQLite any column can have bytes that are not text.
struct Text {
    column: &'static str,
    /// Cut, if it is too long.
    text: Option<String>,
    is_text: bool,
    is_long: bool,
}

impl Text {
    /// # Errors
    /// The database's.
    fn read(row: &QueryResult, column: &'static str) -> DbResult<Self> {
        let is_text = row.try_get::<Option<String>>("", column).is_ok();
        let (mut text, mut is_long) = (lossy(row, column)?, false);
        if let Some(text) = &mut text {
            let longest = usize::try_from(LONGEST_TEXT).unwrap_or(usize::MAX);
            is_long = text.chars().nth(longest).is_some();
            if is_long {
                *text = text.chars().take(SHOWN).chain(['…']).collect();
            }
        }
        Ok(Self { column, text, is_text, is_long })
    }

    fn problem(&self) -> Option<String> {
        let too_long = || format!("`{}` is longer than {LONGEST_TEXT} characters", self.column);
        self.not_text().or_else(|| self.is_long.then(too_long))
    }

    fn not_text(&self) -> Option<String> {
        (!self.is_text).then(|| format!("`{}` is not text: delete the row, and write it again", self.column))
    }

    /// The text. A key that is not text is never equal to one that is.
    fn name(self) -> String {
        let mut text = self.text.unwrap_or_default();
        if !self.is_text && self.column == "key" && !text.contains(char::REPLACEMENT_CHARACTER) {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        text
    }
}

pub(crate) fn is_expired(found: &ReadOverride, now: DateTime<Utc>) -> bool {
    end_of(found).is_some_and(|until| until <= now)
}

/// When it expires.
pub(crate) fn end_of(found: &ReadOverride) -> Option<DateTime<Utc>> {
    match found {
        Ok(found) => found.until,
        Err(bad) => bad.until,
    }
}

/// Parses a value as JSON. `None` is a value that was too long to be read.
fn parse(text: Option<String>) -> std::result::Result<Value, BadValue> {
    let Some(text) = text else {
        let reason = format!("longer than {LONGEST_TEXT} characters");
        return Err(BadValue { text: String::new(), reason });
    };
    serde_json::from_str(&text).map_err(|error| {
        let reason = format!("not JSON ({error}): a text needs quotes, as in '\"text\"'");
        BadValue { text, reason }
    })
}

/// The value, unless it is too long.
fn value() -> Expr {
    // The migration of another program may have made it a JSON column.
    let text = || Expr::col("value").cast_as("text");
    let length = Func::cust("length").arg(text());
    Expr::case(Expr::expr(length).lte(LONGEST_TEXT), text()).into()
}

/// The beginning of another column: one character more than is accepted, so that a text that is too long is known.
fn beginning(column: &'static str, backend: DbBackend) -> Expr {
    let text = Expr::col(column);
    // On SQLite, a cast would make a text of bytes that are none.
    let text = if backend == DbBackend::Postgres { text.cast_as("text") } else { text };
    let literal = |number: i32| Expr::Constant(number.into());
    Func::cust("substr").args([text, literal(1), literal(LONGEST_TEXT + 1)]).into()
}
