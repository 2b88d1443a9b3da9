//! [`LinkedTable`]: the tables of work that are linked into the program, for those who operate it.
//!
//! The derive submits an entry for each entity. The tricky part is large tables: every count ends at a limit, and the
//! queries for pending rows can use the claim index. No index has to have the failed rows, so their queries have a
//! limit of time, too, and a connection of their own, unless it is a count and the last one was quick.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Alias, Asterisk, Condition, Expr, ExprTrait, Func, NullOrdering, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, ColumnType, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IdenStatic,
    Iterable, Order, PrimaryKeyToColumn, QueryResult, TransactionOptions, Value,
};
use tokio::time::Instant;

use crate::database::config::watcher::TableWatcher;
use crate::database::db_time::DbTime;
use crate::database::error_kind::DbResult;
use crate::database::limited::begin_uncancelled;
use crate::database::lossy::lossy;
use crate::database::wake::notifier::Notifier;
use crate::database::wall_clock::parse_time;
use crate::database::work::attempt::Backoff;
use crate::database::work::due::comparable;
use crate::database::work::retry::retry_in_portions;
use crate::database::work::sql::{FAILED, PENDING, TableSql};
use crate::database::work::sql_text::{qualified, quoted};
use crate::database::work::work_item::WorkItem;
use crate::humanize;
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::operator_store::{FailedRow, Retried, WorkCounts, WorkTable};
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// How long a count of pending rows may take: as long as the admin interface waits for all of them.
const PENDING_LIMIT: Duration = Duration::from_secs(15);
/// How long a query for failed rows may take.
const FAILED_LIMIT: Duration = Duration::from_secs(5);
/// How long the connection for it may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// A count within this time is quick.
const QUICK: Duration = Duration::from_millis(200);
/// A count within this time ends before the registry would repeat it beside the services' pool.
const FITS_POOL: Duration = Duration::from_secs(1);
/// After a count that took too long, the next one begins this much later.
const COUNT_AGAIN: Duration = Duration::from_secs(600);

/// An entity that the derive found.
#[doc(hidden)]
pub struct LinkedTable {
    open: fn(Arc<TableWatcher>) -> Arc<dyn WorkTable>,
}

inventory::collect!(LinkedTable);

impl LinkedTable {
    /// The entry of an entity.
    pub const fn of<E: WorkItem>() -> Self {
        Self { open: Table::<E>::open }
    }
}

impl fmt::Debug for LinkedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkedTable").finish_non_exhaustive()
    }
}

/// Returns all tables, sorted by name. Of several entities of one table, one is used.
pub(crate) fn linked_tables(watcher: &Arc<TableWatcher>) -> Vec<Arc<dyn WorkTable>> {
    let mut tables: Vec<_> = inventory::iter::<LinkedTable>().map(|table| (table.open)(watcher.clone())).collect();
    tables.sort_by(|a, b| a.name().cmp(b.name()));
    tables.dedup_by(|a, b| a.name() == b.name());
    tables
}

struct Table<E> {
    watcher: Arc<TableWatcher>,
    sql: Arc<TableSql>,
    /// The last count of the other rows fits into the time that the registry has on the services' pool.
    fits_pool: AtomicBool,
    failed_count: Mutex<FailedCount>,
    entity: PhantomData<fn() -> E>,
}

/// How long the last count of failed rows took.
#[derive(Clone, Copy, Debug, Default)]
enum FailedCount {
    Quick,
    #[default]
    SlowOrUnknown,
    /// It took too long, and is not repeated before this time.
    Skipped(Instant),
}

impl<E> fmt::Debug for Table<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.sql.name).finish()
    }
}

impl<E: WorkItem> WorkTable for Table<E> {
    fn name(&self) -> &str {
        &self.sql.name
    }

    fn count(&self, cap: u64) -> BoxFuture<'_, Result<WorkCounts>> {
        Box::pin(async move {
            let work = move |db| async move {
                let begun = Instant::now();
                let counts = self.count_rows(&db, cap).await?;
                // Without the time to connect, which may be most of it.
                self.fits_pool.store(begun.elapsed() < FITS_POOL, Ordering::Relaxed);
                Ok(counts)
            };
            // A slow count would keep a connection of the services for as long.
            match self.fits_pool.swap(false, Ordering::Relaxed) {
                true => self.watcher.pool.with_db(work).await,
                false => self.watcher.pool.with_own(work).await,
            }
        })
    }

    fn count_failed(&self, cap: u64) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let (begun, last) = (Instant::now(), *self.failed_count.lock());
            if let FailedCount::Skipped(until) = last
                && begun < until
            {
                let again = humanize::short(COUNT_AGAIN);
                return Err(Error::msg(format!(
                    "the failed rows were not counted again: the last count took too long, so the next one is {again} later ({})",
                    self.advice()
                )));
            }
            let work = move |db| async move { Ok(self.count_failed_rows(&db, cap).await?) };
            let counting = async {
                match last {
                    FailedCount::Quick => self.watcher.pool.with_db(work).await,
                    _ => self.watcher.pool.with_own(work).await,
                }
            };
            let counted = tokio::time::timeout(FAILED_LIMIT + CONNECT_LIMIT, counting).await;
            let took_too_long = |count| matches!(count, FailedCount::Skipped(_));
            if took_too_long(*self.failed_count.lock()) && !took_too_long(last) {
                crate::log::warn!(
                    table = self.name(),
                    "the failed rows take too long to count: the last count stays, and the next one follows in {} ({})",
                    humanize::long(COUNT_AGAIN),
                    self.advice()
                );
            }
            counted
                .map_err(Error::new)
                .flatten()
                .map_err(|error| Error::msg(format!("the failed rows are not counted ({}): {error:#}", self.advice())))
        })
    }

    fn failed(&self, offset: u64, limit: u64) -> BoxFuture<'_, Result<Vec<FailedRow>>> {
        Box::pin(async move {
            let begun = Instant::now();
            let listing = self.watcher.pool.with_own(move |db| async move {
                let tx = self.begin_limited(&db, FAILED_LIMIT).await?;
                let rows = tx.query_all(&self.failed_rows(offset, limit)).await?;
                tx.rollback().await?;
                Ok(rows.iter().map(Self::failed_row).collect::<DbResult<_>>()?)
            });
            let listed = tokio::time::timeout(FAILED_LIMIT, listing).await.map_err(Error::new).flatten();
            listed.map_err(|error| match begun.elapsed() < FAILED_LIMIT {
                true => error,
                false => Error::msg(format!("the failed rows are not listed ({}): {error:#}", self.advice())),
            })
        })
    }

    fn key_columns(&self) -> usize {
        E::PrimaryKey::iter().count()
    }

    fn retry<'a>(&'a self, keys: Option<&'a [Vec<String>]>) -> BoxFuture<'a, Retried> {
        Box::pin(async move {
            let condition = match keys {
                None => Condition::all(),
                // Without a condition, every row would be retried.
                Some([]) => return Retried { rows: 0, result: Ok(()) },
                Some(keys) => keys.iter().map(|key| self.has_key(key)).fold(Condition::any(), Condition::add),
            };
            let mut rows = 0;
            let result = retry_in_portions::<E>(&self.watcher.pool.db, condition, &mut rows).await;
            Retried { rows, result }
        })
    }
}

impl<E: WorkItem> Table<E> {
    fn open(watcher: Arc<TableWatcher>) -> Arc<dyn WorkTable> {
        let sql = TableSql::of::<E>(watcher.pool.db.get_database_backend(), Backoff::default());
        Arc::new(Self {
            watcher,
            sql,
            fits_pool: AtomicBool::new(false),
            failed_count: Mutex::default(),
            entity: PhantomData,
        })
    }

    async fn count_rows(&self, db: &DatabaseConnection, cap: u64) -> DbResult<WorkCounts> {
        let tx = self.begin_limited(db, PENDING_LIMIT).await?;
        // The rows and claims of a test have its time.
        let notifier = self.watcher.pool.is_virtual.then(|| Notifier::of_pool(&self.watcher.pool.db)).flatten();
        let now = match notifier {
            Some(notifier) => notifier.now(),
            None => DbTime::Database.now(&tx).await?,
        };
        let pending = self.rows(PENDING);
        let due = match E::__work().available_at {
            Some((column, value)) => {
                let (time, now) = comparable(column, value, self.sql.backend, now);
                let is_due = Condition::any().add(time.clone().lte(now)).add(time.is_null());
                self.rows(PENDING).cond_where(is_due).to_owned()
            }
            None => pending.clone(),
        };
        let claims = Query::select()
            .expr(Expr::Constant(1.into()))
            .from("service_claim")
            .and_where(Expr::col("work_table").eq(self.sql.name.as_str()))
            .and_where(Expr::col("expires_at").gt(now.timestamp_millis()))
            .to_owned();
        let oldest = tx.query_one(&self.oldest_due(now)).await?;
        let oldest = oldest.map(|row| row.try_get::<Option<String>>("", "at")).transpose()?.flatten();
        let counts = WorkCounts {
            pending: count(&tx, pending, cap).await?,
            due: count(&tx, due, cap).await?,
            in_flight: count(&tx, claims, cap).await?,
            failed: None,
            oldest_due_seconds: oldest.and_then(|text| age(&text, now)),
        };
        tx.rollback().await?;
        Ok(counts)
    }

    async fn count_failed_rows(&self, db: &DatabaseConnection, cap: u64) -> DbResult<u64> {
        let tx = self.begin_limited(db, FAILED_LIMIT).await?;
        let begun = Instant::now();
        let failed = tokio::time::timeout(FAILED_LIMIT, count(&tx, self.rows(FAILED), cap)).await;
        let (took, is_counted) = (begun.elapsed(), matches!(failed, Ok(Ok(_))));
        *self.failed_count.lock() = match took {
            _ if took >= FAILED_LIMIT => FailedCount::Skipped(begun + COUNT_AGAIN),
            _ if is_counted && took < QUICK => FailedCount::Quick,
            _ => FailedCount::SlowOrUnknown,
        };
        let failed =
            failed.map_err(|_elapsed| DbErr::Custom("the query took longer than the limit".to_owned())).flatten()?;
        tx.rollback().await?;
        Ok(failed)
    }

    /// Begins a transaction in which no statement takes longer than this.
    async fn begin_limited(&self, db: &DatabaseConnection, limit: Duration) -> DbResult<DatabaseTransaction> {
        let tx = begin_uncancelled(db, TransactionOptions::default()).await?;
        if self.sql.backend == DbBackend::Postgres {
            // A query whose future is dropped goes on at the server.
            tx.execute_unprepared(&format!("SET LOCAL statement_timeout = {}", limit.as_millis())).await?;
        }
        Ok(tx)
    }

    /// The limit of queries for failed rows, and what makes them faster.
    fn advice(&self) -> String {
        let keys: Vec<_> = E::PrimaryKey::iter().map(|key| quoted(key.into_column().as_str())).collect();
        format!(
            "limit: {}; on a large table, this index helps: CREATE INDEX ON {} ({}) WHERE {} = '{FAILED}'",
            humanize::short(FAILED_LIMIT),
            qualified(&E::default()),
            keys.join(", "),
            quoted(E::__work().status.as_str()),
        )
    }

    fn rows(&self, status: &str) -> SelectStatement {
        let entity = E::default();
        let mut select = Query::select().expr(Expr::Constant(1.into())).from(entity.table_ref()).to_owned();
        select.and_where(self.sql.has_status(status)).to_owned()
    }

    /// The query for the time of the row that has been due for the longest time; without `available_at`, of the first
    /// row by key.
    fn oldest_due(&self, now: DateTime<Utc>) -> SelectStatement {
        let (work, entity) = (E::__work(), E::default());
        let text = |column: E::Column| Expr::col(column.as_column_ref()).cast_as("text");
        let mut select =
            Query::select().from(entity.table_ref()).and_where(self.sql.has_status(PENDING)).limit(1).to_owned();
        match (work.available_at, work.updated_at) {
            (Some((column, value)), _) => {
                let (time, now) = comparable(column, value, self.sql.backend, now);
                select.expr_as(text(column), "at");
                select.and_where(time.clone().lte(now));
                match self.sql.backend {
                    // The order of the claim index.
                    DbBackend::Postgres if column.def().is_null() => {
                        select.order_by_expr_with_nulls(time, Order::Asc, NullOrdering::First)
                    }
                    _ => select.order_by_expr(time, Order::Asc),
                };
            }
            (None, Some((column, _))) => {
                select.expr_as(text(column), "at");
                for key in E::PrimaryKey::iter() {
                    select.order_by(key.into_column().as_column_ref(), Order::Asc);
                }
            }
            (None, None) => _ = select.expr_as(Expr::cust("CAST(NULL AS text)"), "at"),
        }
        select
    }

    fn failed_rows(&self, offset: u64, limit: u64) -> SelectStatement {
        let (work, entity) = (E::__work(), E::default());
        let cast = |column: Option<E::Column>, kind: &'static str| match column {
            Some(column) => Expr::col(column.as_column_ref()).cast_as(kind),
            None => Expr::cust(format!("CAST(NULL AS {kind})")),
        };
        let mut select = Query::select().from(entity.table_ref()).and_where(self.sql.has_status(FAILED)).to_owned();
        for (n, key) in self.key_texts().into_iter().enumerate() {
            select.expr_as(key, Alias::new(format!("key_{n}")));
        }
        select
            .expr_as(cast(work.error, "text"), "error")
            .expr_as(cast(work.attempts, "bigint"), "attempts")
            .expr_as(cast(work.updated_at.map(|(column, _)| column), "text"), "updated_at");
        for key in E::PrimaryKey::iter() {
            select.order_by(key.into_column().as_column_ref(), Order::Desc);
        }
        select.offset(offset).limit(limit).to_owned()
    }

    fn failed_row(row: &QueryResult) -> DbResult<FailedRow> {
        let key =
            (0..E::PrimaryKey::iter().count()).map(|n| lossy(row, &format!("key_{n}")).map(Option::unwrap_or_default));
        Ok(FailedRow {
            key: key.collect::<std::result::Result<_, _>>()?,
            error: lossy(row, "error")?,
            attempts: row.try_get("", "attempts")?,
            updated_at: lossy(row, "updated_at")?,
        })
    }

    /// The columns of the key as texts. SQLite keeps a UUID as bytes.
    fn key_texts(&self) -> Vec<Expr> {
        let text = |key: E::PrimaryKey| {
            let column = Expr::col(key.into_column().as_column_ref());
            let text = column.clone().cast_as("text");
            match self.sql.backend {
                DbBackend::Postgres => text,
                _ => {
                    let is_bytes = Expr::expr(Func::cust("typeof").arg(column.clone())).eq("blob");
                    Expr::case(is_bytes, Func::cust("hex").arg(column)).finally(text).into()
                }
            }
        };
        E::PrimaryKey::iter().map(text).collect()
    }

    fn has_key(&self, key: &[String]) -> Condition {
        let parts = self.key_texts().into_iter().zip(key).map(|(column, part)| column.eq(part.as_str()));
        // The same with the values themselves, for the index of the key.
        let values = E::PrimaryKey::iter().zip(key).filter_map(|(column, part)| {
            let column = column.into_column();
            Some(Expr::col(column.as_column_ref()).eq(plain_value(&column, part)?))
        });
        parts.chain(values).fold(Condition::all(), Condition::add)
    }
}

/// The value of a key that is a number or a text.
fn plain_value(column: &impl ColumnTrait, text: &str) -> Option<Value> {
    if !matches!(column.save_as(Expr::val("")), Expr::Value(_)) {
        return None;
    }
    match column.def().get_column_type() {
        ColumnType::SmallInteger => text.parse::<i16>().ok().map(Value::from),
        ColumnType::Integer => text.parse::<i32>().ok().map(Value::from),
        ColumnType::BigInteger => text.parse::<i64>().ok().map(Value::from),
        ColumnType::String(_) | ColumnType::Text => Some(Value::from(text)),
        _ => None,
    }
}

/// Counts the rows of a query, up to `cap`.
async fn count(db: &impl ConnectionTrait, rows: SelectStatement, cap: u64) -> DbResult<u64> {
    let limited = rows.clone().limit(cap).to_owned();
    let select =
        Query::select().expr_as(Func::count(Expr::col(Asterisk)), "rows").from_subquery(limited, "limited").to_owned();
    let found: Option<i64> = db.query_one(&select).await?.map(|row| row.try_get("", "rows")).transpose()?;
    Ok(found.and_then(|rows| u64::try_from(rows).ok()).unwrap_or_default())
}

/// How long ago a time was, in seconds. A number counts seconds or milliseconds since 1970.
fn age(text: &str, now: DateTime<Utc>) -> Option<f64> {
    const MILLISECONDS_FROM: i64 = 100_000_000_000;
    let at = match text.parse::<i64>() {
        Ok(number) if number.abs() >= MILLISECONDS_FROM => DateTime::from_timestamp_millis(number)?,
        Ok(number) => DateTime::from_timestamp(number, 0)?,
        Err(_) => parse_time(text).ok()?,
    };
    // A time that is still ahead has no age.
    Some((now - at).to_std().unwrap_or_default().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_read_from_every_form_of_a_time() {
        let now = parse_time("2026-01-31T12:00:10Z").unwrap();
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31 12:00:00",
            "2026-01-31 13:00:00+01",
            "2026-01-31T12:00:00.000000+00:00",
            "1769860800",
            "1769860800000",
        ] {
            assert_eq!(age(text, now), Some(10.0), "{text}");
        }
        assert_eq!(age("2026-01-31T13:00:00Z", now), Some(0.0));
        assert_eq!(age("soon", now), None);
    }
}
