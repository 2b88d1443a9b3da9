//! [`TableSql`]: the SQL for one table of work, on one engine.
//!
//! A `TableSql` is built from the types of the entity and is plain data, so that a settlement can be written after the
//! batch was dropped. The SQL has the statuses as constants and not as parameters: otherwise neither engine would use
//! an index of the pending rows only.

use std::fmt::Write;
use std::slice::Chunks;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::extension::postgres::PgFunc;
use sea_orm::sea_query::{
    Alias, Condition, DeleteStatement, DynIden, Expr, ExprTrait, IntoIden, Keyword, LockBehavior, LockType, Query,
    SelectStatement, TableRef, UpdateStatement, ValueTuple,
};
use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, IdenStatic, Iterable, PrimaryKeyToColumn, QuerySelect, QueryTrait, Statement,
    StatementBuilder, Value,
};

use crate::database::work::attempt::{Backoff, RetryDecision, RowRef};
use crate::database::work::key_columns::{array_type, has_formats, key_value, read_as_text};
use crate::database::work::sql_text::{as_integer, clipped, has_triggers_on_postgres, qualified};
use crate::database::work::work_item::{TimeValue, WorkItem};
use crate::schedule::NEVER;

pub(crate) const PENDING: &str = "pending";
pub(crate) const COMPLETED: &str = "completed";
pub(crate) const FAILED: &str = "failed";

/// The number of elements that PostgreSQL assumes in an array that is a parameter. With fewer elements, a plan for
/// these seems cheaper than one for any array, so it would plan each statement anew.
pub(super) const ASSUMED_ELEMENTS: usize = 10;
/// The maximum length of a message in characters, if the column has no limit.
const MESSAGE_LIMIT: usize = 8_000;
/// The maximum number of keys in one statement.
const KEYS_A_STATEMENT: usize = 5_000;
const COMPOSITE_KEYS_A_STATEMENT: usize = 200;
/// The maximum number of rows that one statement changes, if all rows of a table may have to be changed.
const PORTION: u64 = 1_000;

/// The number of keys in a portion of the rows of `E`.
pub(crate) fn keys_a_portion<E: EntityTrait>() -> u64 {
    if E::PrimaryKey::iter().count() == 1 { PORTION } else { COMPOSITE_KEYS_A_STATEMENT as u64 }
}

/// The texts of the statements for rows that commit one by one.
pub(super) struct LeasedTexts {
    pub(super) still_claimed: String,
    pub(super) complete_and_release: String,
    pub(super) complete_if_released: String,
    /// `None` if the keys have no type of arrays.
    pub(super) complete_claimed: Option<String>,
}

type SaveAs = Box<dyn Fn(Value) -> Expr + Send + Sync>;

struct TimeColumn {
    iden: DynIden,
    value: TimeValue,
    nullable: bool,
}

struct ErrorColumn {
    iden: DynIden,
    nullable: bool,
    limit: usize,
}

impl ErrorColumn {
    /// The value of a row without an error.
    fn empty(&self) -> Expr {
        Expr::Constant(if self.nullable { Value::String(None) } else { String::new().into() })
    }
}

pub(crate) struct TableSql {
    pub(crate) backend: DbBackend,
    /// The name in messages and in `service_claim`.
    pub(crate) name: String,
    table: TableRef,
    quoted_name: String,
    keys: Vec<(DynIden, SaveAs)>,
    /// The types of arrays of the keys' values on PostgreSQL, if all keys are numbers, texts or UUIDs.
    pub(super) key_arrays: Option<Vec<&'static str>>,
    /// Equal values of a key column may be stored differently on SQLite, such as times.
    pub(super) keys_have_formats: bool,
    status: DynIden,
    pending: Expr,
    completed: Expr,
    failed: Expr,
    error: Option<ErrorColumn>,
    attempts: Option<DynIden>,
    max_attempts: i64,
    available_at: Option<TimeColumn>,
    updated_at: Option<TimeColumn>,
    backoff: Backoff,
    /// The statements for rows that commit one by one, written when the first of them is needed.
    pub(super) leased: OnceLock<LeasedTexts>,
}

impl std::fmt::Debug for TableSql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableSql").field("table", &self.name).finish_non_exhaustive()
    }
}

impl TableSql {
    pub(crate) fn of<E: WorkItem>(backend: DbBackend, backoff: Backoff) -> Arc<Self> {
        let work = E::__work();
        let entity = E::default();
        let constant = |status: &'static str| status_value(work.status, status);
        let time = |(column, value): (E::Column, TimeValue)| TimeColumn {
            iden: iden(column),
            value,
            nullable: column.def().is_null(),
        };
        Arc::new(Self {
            backend,
            name: match entity.schema_name() {
                Some(schema) => format!("{schema}.{}", entity.table_name()),
                None => entity.table_name().to_owned(),
            },
            table: entity.table_ref(),
            quoted_name: qualified(&entity),
            keys: E::PrimaryKey::iter()
                .map(|key| {
                    let column = key.into_column();
                    let save_as: SaveAs = Box::new(move |value| key_value(column, backend, value));
                    (iden(column), save_as)
                })
                .collect(),
            key_arrays: E::PrimaryKey::iter().map(|key| array_type(key.into_column())).collect(),
            keys_have_formats: backend == DbBackend::Sqlite
                && E::PrimaryKey::iter().any(|key| has_formats(key.into_column())),
            status: iden(work.status),
            pending: constant(PENDING),
            completed: constant(COMPLETED),
            failed: constant(FAILED),
            error: work.error.map(|column| ErrorColumn {
                iden: iden(column),
                nullable: column.def().is_null(),
                limit: text_limit(column),
            }),
            attempts: work.attempts.map(iden),
            max_attempts: work.attempts.map_or(1, |_| i64::from(work.max_attempts)),
            available_at: work.available_at.map(time),
            updated_at: work.updated_at.map(time),
            backoff,
            leased: OnceLock::new(),
        })
    }

    /// Decides what follows a failed attempt. `attempts` is the number of attempts before it; `wait` overrides the
    /// backoff.
    pub(crate) fn retry_decision(&self, attempts: i64, wait: Option<Duration>, now: DateTime<Utc>) -> RetryDecision {
        if self.is_last_attempt(attempts) {
            return RetryDecision::Failed;
        }
        let wait = wait.unwrap_or_else(|| self.backoff.after(attempts.saturating_add(1)));
        RetryDecision::Again(now + wait.min(NEVER))
    }

    /// Whether a row has no attempt left after the next one. `attempts` is the number of attempts before it.
    pub(crate) fn is_last_attempt(&self, attempts: i64) -> bool {
        attempts.saturating_add(1) >= self.max_attempts
    }

    /// The statements that complete rows.
    pub(crate) fn complete(&self, keys: &[ValueTuple], now: DateTime<Utc>) -> Vec<UpdateStatement> {
        self.portions(keys).map(|keys| self.completion(keys, now)).collect()
    }

    /// The same for PostgreSQL: each statement returns how many rows it changed, `completed`, and whether the table
    /// `has_triggers`. It has no claims, so none is `released`.
    pub(crate) fn complete_and_inspect(&self, keys: &[ValueTuple], now: DateTime<Utc>) -> Vec<Statement> {
        let with_counts = |mut update: UpdateStatement| {
            let one = Query::returning().expr(Expr::Constant(1.into()));
            let mut statement = StatementBuilder::build(update.returning(one), &self.backend);
            statement.sql = format!(
                "WITH service_completed AS ({}) SELECT count(*) AS completed, CAST(0 AS bigint) AS released, {} AS has_triggers \
                 FROM service_completed",
                statement.sql,
                has_triggers_on_postgres(&self.quoted_name)
            );
            statement
        };
        self.complete(keys, now).into_iter().map(with_counts).collect()
    }

    /// The keys, in portions that one statement can have.
    fn portions<'k>(&self, keys: &'k [ValueTuple]) -> Chunks<'k, ValueTuple> {
        keys.chunks(if self.keys.len() == 1 { KEYS_A_STATEMENT } else { COMPOSITE_KEYS_A_STATEMENT })
    }

    fn completion(&self, keys: &[ValueTuple], now: DateTime<Utc>) -> UpdateStatement {
        let values = self.completed_values(self.touched(now).map(Expr::val));
        Query::update().table(self.table.clone()).values(values).cond_where(self.any_of(keys)).to_owned()
    }

    /// What a completed row has in its columns. `time` is the time of the update, which only a table with `updated_at`
    /// has.
    pub(super) fn completed_values(&self, time: Option<Expr>) -> Vec<(DynIden, Expr)> {
        let mut values = vec![(self.status.clone(), self.completed.clone())];
        if let Some(column) = &self.attempts {
            values.push((column.clone(), Expr::col(column.clone()).add(Expr::Constant(1.into()))));
        }
        if let Some((column, time)) = self.updated_at.as_ref().zip(time) {
            values.push((column.iden.clone(), time));
        }
        if let Some(error) = &self.error {
            values.push((error.iden.clone(), error.empty()));
        }
        values
    }

    /// The statement that makes rows pending, as if they were new.
    pub(crate) fn retry(&self, keys: &[ValueTuple], now: DateTime<Utc>) -> UpdateStatement {
        let mut update = self.update(self.pending.clone(), now, false);
        if let Some(error) = &self.error {
            update.value(error.iden.clone(), error.empty());
        }
        if let Some(column) = &self.attempts {
            update.value(column.clone(), Expr::Constant(0.into()));
        }
        if let Some(column) = &self.available_at {
            let due = if column.nullable { Expr::Keyword(Keyword::Null) } else { Expr::val((column.value)(now)) };
            update.value(column.iden.clone(), due);
        }
        update.cond_where(self.any_of(keys)).to_owned()
    }

    /// The statement that deletes rows.
    pub(crate) fn delete(&self, keys: &[ValueTuple]) -> DeleteStatement {
        Query::delete().from_table(self.table.clone()).cond_where(self.any_of(keys)).to_owned()
    }

    /// The statement for a row that failed. It changes the row only if it is still pending and its attempts are
    /// unchanged. `message` is `None` if the database has refused every message; then a row that becomes `failed` keeps
    /// its count of attempts, because that column may be at its maximum.
    pub(crate) fn fail(
        &self,
        key: &ValueTuple,
        attempts: i64,
        decision: RetryDecision,
        message: Option<&str>,
        now: DateTime<Utc>,
    ) -> UpdateStatement {
        let status = match decision {
            RetryDecision::Failed => &self.failed,
            RetryDecision::Again(_) => &self.pending,
        };
        let counted = message.is_some() || matches!(decision, RetryDecision::Again(_));
        let mut update = self.update(status.clone(), now, counted);
        if let (Some(column), Some(message)) = (&self.error, message) {
            update.value(column.iden.clone(), clipped(message, column.limit));
        }
        if let (Some(column), RetryDecision::Again(at)) = (&self.available_at, decision) {
            update.value(column.iden.clone(), (column.value)(at));
        }
        if let Some(column) = &self.attempts {
            update.and_where(Expr::col(column.clone()).eq(attempts));
        }
        update.and_where(self.is_pending()).cond_where(self.is_key(key)).to_owned()
    }

    /// The statement for a row that cannot be read: `failed`, whatever its attempts are, if it is still pending.
    pub(crate) fn fail_unreadable(
        &self,
        key: &ValueTuple,
        message: Option<&str>,
        now: DateTime<Utc>,
    ) -> UpdateStatement {
        let mut update = self.update(self.failed.clone(), now, false);
        if let (Some(column), Some(message)) = (&self.error, message) {
            update.value(column.iden.clone(), clipped(message, column.limit));
        }
        update.and_where(self.is_pending()).cond_where(self.is_key(key)).to_owned()
    }

    fn update(&self, status: Expr, now: DateTime<Utc>, counted: bool) -> UpdateStatement {
        let mut update = Query::update().table(self.table.clone()).to_owned();
        update.value(self.status.clone(), status);
        if let Some(column) = self.attempts.as_ref().filter(|_| counted) {
            update.value(column.clone(), Expr::col(column.clone()).add(Expr::Constant(1.into())));
        }
        if let Some((column, time)) = self.updated_at.as_ref().zip(self.touched(now)) {
            update.value(column.iden.clone(), time);
        }
        update
    }

    /// The value of `updated_at`, if the table has it.
    pub(super) fn touched(&self, now: DateTime<Utc>) -> Option<Value> {
        self.updated_at.as_ref().map(|column| (column.value)(now))
    }

    /// The name of the table as SQL has it.
    pub(super) fn quoted_name(&self) -> &str {
        &self.quoted_name
    }

    pub(super) fn key_columns(&self) -> impl ExactSizeIterator<Item = DynIden> {
        self.keys.iter().map(|(column, _)| column.clone())
    }

    /// The parameters for the columns of a key, from this number on. A column may have a cast of its own.
    pub(super) fn key_parameters(&self, first: usize) -> impl Iterator<Item = String> {
        let backend = self.backend;
        self.keys.iter().zip(first..).map(move |((_, save_as), number)| {
            let select = Query::select().expr(save_as(String::new().into())).to_owned();
            let statement = StatementBuilder::build(&select, &backend);
            let parameter = statement.sql.strip_prefix("SELECT ").unwrap_or(&statement.sql);
            let placeholder = if backend == DbBackend::Postgres { "$1" } else { "?" };
            parameter.replacen(placeholder, &format!("${number}"), 1)
        })
    }

    /// The query that finds a row if it is still as it was claimed.
    pub(crate) fn as_claimed(&self, row: &RowRef) -> SelectStatement {
        let mut select = self.pending(&row.key);
        if let Some(column) = &self.attempts {
            select.and_where(Expr::col(column.clone()).eq(row.attempts));
        }
        select
    }

    /// The query that finds a row if it is as [`fail`](Self::fail) leaves it.
    pub(crate) fn as_failed(&self, row: &RowRef, decision: RetryDecision) -> SelectStatement {
        let mut select = match decision {
            RetryDecision::Failed => return self.with_status(&row.key, FAILED),
            RetryDecision::Again(_) => self.pending(&row.key),
        };
        if let Some(column) = &self.attempts {
            select.and_where(Expr::col(column.clone()).eq(row.attempts.saturating_add(1)));
        }
        select
    }

    /// The query that finds a row if it is pending.
    pub(crate) fn pending(&self, key: &ValueTuple) -> SelectStatement {
        self.with_status(key, PENDING)
    }

    fn with_status(&self, key: &ValueTuple, status: &str) -> SelectStatement {
        let mut select = Query::select().expr(Expr::Constant(1.into())).from(self.table.clone()).to_owned();
        select.and_where(self.has_status(status)).cond_where(self.is_key(key)).to_owned()
    }

    /// The queries for those of the keys whose rows exist.
    pub(crate) fn existing_among<E: EntityTrait>(&self, keys: &[ValueTuple]) -> Vec<SelectStatement> {
        let columns = || E::PrimaryKey::iter().map(|key| read_as_text(key.into_column()));
        let select =
            |keys| Query::select().exprs(columns()).from(self.table.clone()).cond_where(self.any_of(keys)).to_owned();
        self.portions(keys).map(select).collect()
    }

    /// The queries for those of the keys whose rows are still pending.
    pub(crate) fn pending_among<E: EntityTrait>(&self, keys: &[ValueTuple]) -> Vec<SelectStatement> {
        let mut selects = self.existing_among::<E>(keys);
        selects.iter_mut().for_each(|select| _ = select.and_where(self.is_pending()));
        selects
    }

    /// The query for the key of one completed row. On PostgreSQL it locks the row, and skips those that are locked.
    pub(crate) fn one_completed<E: EntityTrait>(&self, only: Option<&ValueTuple>) -> SelectStatement {
        let key = E::PrimaryKey::iter().map(|key| read_as_text(key.into_column()));
        let mut select = Query::select().exprs(key).from(self.table.clone()).to_owned();
        if self.backend == DbBackend::Postgres {
            select.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
        }
        if let Some(key) = only {
            select.cond_where(self.is_key(key));
        }
        select.and_where(self.has_status(COMPLETED)).limit(1).to_owned()
    }

    /// The query for some rows of the table, whatever their status is.
    pub(crate) fn any_rows<E: WorkItem>(&self, limit: u64) -> Statement {
        StatementBuilder::build(&E::find().limit(limit).into_query(), &self.backend)
    }

    /// The condition that a row has one of the framework's statuses.
    pub(crate) fn has_status(&self, status: &str) -> Expr {
        let value = match status {
            COMPLETED => &self.completed,
            FAILED => &self.failed,
            _ => &self.pending,
        };
        Expr::col(self.status.clone()).eq(value.clone())
    }

    /// The condition that a row is none of these.
    pub(crate) fn none_of(&self, keys: &[ValueTuple]) -> Condition {
        self.any_of(keys).not()
    }

    /// The condition for one row.
    pub(crate) fn is_key(&self, key: &ValueTuple) -> Condition {
        self.any_of(std::slice::from_ref(key))
    }

    pub(super) fn is_pending(&self) -> Expr {
        self.has_status(PENDING)
    }

    /// Integer keys as one array for PostgreSQL, so that the statement is the same for any number of keys and is
    /// prepared once.
    fn as_array(&self, keys: &[ValueTuple], save_as: &SaveAs) -> Option<Expr> {
        let [ValueTuple::One(first), _, ..] = keys else { return None };
        // A column may have a cast of its own.
        if self.backend != DbBackend::Postgres || !matches!(save_as(first.clone()), Expr::Value(_)) {
            return None;
        }
        let mut list = String::from("{");
        for key in keys {
            let ValueTuple::One(value) = key else { return None };
            let separator = if list.len() > 1 { "," } else { "" };
            write!(list, "{separator}{}", as_integer(value)?).ok()?;
        }
        list.push('}');
        Some(Expr::val(list).cast_as("bigint[]"))
    }

    /// Whether a condition for many keys such as this one has one parameter.
    pub(crate) fn has_arrays_of(&self, key: &ValueTuple) -> bool {
        let two = [key.clone(), key.clone()];
        matches!(self.keys.as_slice(), [(_, save_as)] if self.as_array(&two, save_as).is_some())
    }

    fn any_of(&self, keys: &[ValueTuple]) -> Condition {
        if let [(column, save_as)] = self.keys.as_slice() {
            if let Some(keys) = self.as_array(keys, save_as) {
                return Condition::all().add(Expr::col(column.clone()).eq(PgFunc::any(keys)));
            }
            let values = keys.iter().flat_map(|key| key.clone()).map(save_as);
            return Condition::all().add(Expr::col(column.clone()).is_in(values));
        }
        // SQLite has no `(a, b) IN ((1, 2), …)`.
        keys.iter().fold(Condition::any(), |any, key| {
            any.add(self.keys.iter().zip(key.clone()).fold(Condition::all(), |all, ((column, save_as), value)| {
                all.add(Expr::col(column.clone()).eq(save_as(value)))
            }))
        })
    }
}

/// A status as a constant of the column's type.
pub(crate) fn status_value(column: impl ColumnTrait, status: &'static str) -> Expr {
    column.save_as(Expr::Constant(status.into()))
}

fn iden(column: impl IdenStatic) -> DynIden {
    Alias::new(column.as_str()).into_iden()
}

fn text_limit(column: impl ColumnTrait) -> usize {
    use sea_orm::sea_query::{ColumnType, StringLen};
    match column.def().get_column_type() {
        ColumnType::String(StringLen::N(limit)) | ColumnType::Char(Some(limit)) => {
            usize::try_from(*limit).unwrap_or(MESSAGE_LIMIT).min(MESSAGE_LIMIT)
        }
        _ => MESSAGE_LIMIT,
    }
}
