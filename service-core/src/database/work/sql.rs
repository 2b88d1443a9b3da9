//! [`TableSql`]: the SQL for one table of work, on one engine.
//!
//! A `TableSql` is built from the types of the entity and is plain data, so that a settlement can be written after the batch
//! was dropped. The SQL has the statuses as constants and not as parameters: otherwise neither engine would use an index of
//! the pending rows only.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::extension::postgres::PgFunc;
use sea_orm::sea_query::{
    Alias, Condition, DeleteStatement, DynIden, Expr, ExprTrait, Func, IntoIden, Keyword, LockBehavior, LockType,
    Query, SelectStatement, SqliteQueryBuilder, TableRef, UpdateStatement, ValueTuple,
};
use sea_orm::{
    ColumnTrait, DbBackend, EntityName, EntityTrait, IdenStatic, Iterable, PrimaryKeyToColumn, QuerySelect, QueryTrait,
    Statement, StatementBuilder, Value,
};

use crate::database::work::key_columns::{array_type, has_formats, key_value, read_as_text};
use crate::database::work::work_item::{TimeValue, WorkItem};

pub(crate) const PENDING: &str = "pending";
pub(crate) const COMPLETED: &str = "completed";
pub(crate) const FAILED: &str = "failed";

/// The number of elements that PostgreSQL assumes in an array that is a parameter. With fewer elements, a plan for these seems
/// cheaper than one for any array, so it would plan each statement anew.
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

/// How long a failed row waits for its next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(10), longest: Duration::from_secs(3600) }
    }
}

impl Backoff {
    /// Returns the wait after the attempt with this number, from 1. It doubles each time.
    pub(crate) fn after(self, attempt: i64) -> Duration {
        let doublings = u32::try_from(attempt.clamp(1, 32) - 1).unwrap_or(0);
        self.first.saturating_mul(2u32.saturating_pow(doublings)).min(self.longest)
    }
}

/// What follows a failed attempt at a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    Failed,
    /// Pending again, from this time on if the table has `available_at`.
    Again(DateTime<Utc>),
}

/// A failed attempt at a row, as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) decision: RetryDecision,
    pub(crate) message: String,
}

/// A row, and the number of attempts before this one.
#[derive(Clone, Debug)]
pub(crate) struct RowRef {
    pub(crate) key: ValueTuple,
    pub(crate) attempts: i64,
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

    /// Decides what follows a failed attempt. `attempts` is the number of attempts before it; `wait` overrides the backoff.
    pub(crate) fn retry_decision(&self, attempts: i64, wait: Option<Duration>, now: DateTime<Utc>) -> RetryDecision {
        let attempt = attempts.saturating_add(1);
        if attempt >= self.max_attempts {
            return RetryDecision::Failed;
        }
        let wait = wait.unwrap_or_else(|| self.backoff.after(attempt));
        let wait = chrono::Duration::from_std(wait).unwrap_or(chrono::Duration::days(365));
        RetryDecision::Again(now.checked_add_signed(wait).unwrap_or(now))
    }

    /// The statements that complete rows.
    pub(crate) fn complete(&self, keys: &[ValueTuple], now: DateTime<Utc>) -> Vec<UpdateStatement> {
        let chunk = if self.keys.len() == 1 { KEYS_A_STATEMENT } else { COMPOSITE_KEYS_A_STATEMENT };
        keys.chunks(chunk).map(|keys| self.completion(keys, now)).collect()
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

    fn completion(&self, keys: &[ValueTuple], now: DateTime<Utc>) -> UpdateStatement {
        self.to_completed(now).cond_where(self.any_of(keys)).to_owned()
    }

    fn to_completed(&self, now: DateTime<Utc>) -> UpdateStatement {
        let values = self.completed_values(self.touched(now).map(Expr::val));
        Query::update().table(self.table.clone()).values(values).to_owned()
    }

    /// What a completed row has in its columns. `time` is the time of the update, which only a table with `updated_at` has.
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
        self.empty_error(&mut update);
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

    fn empty_error(&self, update: &mut UpdateStatement) {
        if let Some(error) = &self.error {
            update.value(error.iden.clone(), error.empty());
        }
    }

    /// The statement for a row that failed. It changes the row only if it is still pending and its attempts are unchanged.
    /// `message` is `None` if the database has refused every message; then a row that becomes `failed` keeps its count of
    /// attempts, because that column may be at its maximum.
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
        update.and_where(self.is_pending()).cond_where(self.any_of(std::slice::from_ref(key))).to_owned()
    }

    /// The statement for a row that cannot be read: `failed`, whatever its attempts are, if it is still pending.
    pub(crate) fn fail_unreadable(
        &self,
        key: &ValueTuple,
        message: Option<&str>,
        now: DateTime<Utc>,
    ) -> UpdateStatement {
        let mut update = Query::update().table(self.table.clone()).to_owned();
        update.value(self.status.clone(), self.failed.clone());
        self.touch(&mut update, now);
        if let (Some(column), Some(message)) = (&self.error, message) {
            update.value(column.iden.clone(), clipped(message, column.limit));
        }
        update.and_where(self.is_pending()).cond_where(self.any_of(std::slice::from_ref(key))).to_owned()
    }

    fn update(&self, status: Expr, now: DateTime<Utc>, counted: bool) -> UpdateStatement {
        let mut update = Query::update().table(self.table.clone()).to_owned();
        update.value(self.status.clone(), status);
        if let Some(column) = self.attempts.as_ref().filter(|_| counted) {
            update.value(column.clone(), Expr::col(column.clone()).add(Expr::Constant(1.into())));
        }
        self.touch(&mut update, now);
        update
    }

    fn touch(&self, update: &mut UpdateStatement, now: DateTime<Utc>) {
        if let Some((column, time)) = self.updated_at.as_ref().zip(self.touched(now)) {
            update.value(column.iden.clone(), time);
        }
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
        select.and_where(self.has_status(status)).cond_where(self.any_of(std::slice::from_ref(key))).to_owned()
    }

    /// The queries for those of the keys whose rows exist.
    pub(crate) fn existing_among<E: EntityTrait>(&self, keys: &[ValueTuple]) -> Vec<SelectStatement> {
        let chunk = if self.keys.len() == 1 { KEYS_A_STATEMENT } else { COMPOSITE_KEYS_A_STATEMENT };
        let columns = || E::PrimaryKey::iter().map(|key| read_as_text(key.into_column()));
        let select =
            |keys| Query::select().exprs(columns()).from(self.table.clone()).cond_where(self.any_of(keys)).to_owned();
        keys.chunks(chunk).map(select).collect()
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

    /// Integer keys as one array for PostgreSQL, so that the statement is the same for any number of keys and is prepared once.
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
        Some(Expr::val(list).cast_as(Alias::new("bigint[]")))
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

/// Formats a key as text, which is the same for the same row on every machine.
pub(crate) fn key_text(key: &ValueTuple) -> String {
    let mut text = String::new();
    for value in key.clone() {
        if !text.is_empty() {
            text.push(',');
        }
        if let Some(number) = as_integer(&value) {
            // The usual case, for each row some times.
            let _ = write!(text, "{number}");
            continue;
        }
        let literal = Query::select().expr(Expr::Constant(value)).to_string(SqliteQueryBuilder);
        text.push_str(literal.strip_prefix("SELECT ").unwrap_or(&literal));
    }
    text
}

/// A value as text, without quotes.
pub(super) fn plain_text(value: Value) -> String {
    let literal = key_text(&ValueTuple::One(value));
    match literal.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        Some(text) => text.replace("''", "'"),
        None => literal,
    }
}

/// A row for each element, on PostgreSQL. The elements are one parameter, so that the statement is the same for any number of them
/// and is prepared once.
pub(crate) fn unnest(elements: impl Iterator<Item = String>, array_type: &'static str) -> Expr {
    Func::cust("unnest").arg(Expr::val(text_array(elements, 0)).cast_as(Alias::new(array_type))).into()
}

/// An array of PostgreSQL as text. If there are fewer elements than `least`, further ones are NULL.
pub(crate) fn text_array(elements: impl Iterator<Item = String>, least: usize) -> String {
    let quoted = elements.map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    let mut quoted: Vec<String> = quoted.collect();
    quoted.resize(quoted.len().max(least), "NULL".to_owned());
    format!("{{{}}}", quoted.join(","))
}

/// The value of an integer column.
pub(crate) fn as_integer(value: &Value) -> Option<i64> {
    match *value {
        Value::TinyInt(n) => n.map(i64::from),
        Value::SmallInt(n) => n.map(i64::from),
        Value::Int(n) => n.map(i64::from),
        Value::BigInt(n) => n,
        Value::TinyUnsigned(n) => n.map(i64::from),
        Value::SmallUnsigned(n) => n.map(i64::from),
        Value::Unsigned(n) => n.map(i64::from),
        Value::BigUnsigned(n) => n.and_then(|n| i64::try_from(n).ok()),
        _ => None,
    }
}

/// A status as a constant of the column's type.
pub(crate) fn status_value(column: impl ColumnTrait, status: &'static str) -> Expr {
    column.save_as(Expr::Constant(status.into()))
}

/// Returns the name, or a shorter one with a hash of `distinct`, since PostgreSQL truncates longer names.
pub(crate) fn identifier(name: &str, distinct: &str) -> String {
    const MAX_BYTES: usize = 63;
    if name.len() <= MAX_BYTES {
        return name.to_owned();
    }
    // FNV-1a, because the name must never change.
    let hash = distinct
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{}_{hash:016x}", &name[..name.floor_char_boundary(MAX_BYTES - 17)])
}

/// Quotes a text.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The condition that the table with this quoted name has triggers or rules of the application. A row may be in a partition, or in a
/// table that inherits, which has triggers of its own; the rules of these do not apply.
pub(crate) fn has_triggers_on_postgres(quoted_name: &str) -> String {
    let table = literal(quoted_name);
    format!(
        "(EXISTS (WITH RECURSIVE tables(id) AS (SELECT to_regclass({table})::oid \
         UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = id) \
         SELECT FROM tables JOIN pg_trigger ON tgrelid = id JOIN pg_proc ON pg_proc.oid = tgfoid \
         WHERE NOT tgisinternal AND proname <> 'service_wake') \
         OR EXISTS (SELECT FROM pg_class WHERE oid = to_regclass({table}) AND relhasrules))"
    )
}

/// The condition that the table has triggers.
pub(crate) fn has_triggers_on_sqlite(entity: &impl EntityName) -> String {
    let schema = entity.schema_name().map_or_else(String::new, |schema| format!("{}.", quoted(schema)));
    let table = literal(entity.table_name());
    format!("EXISTS (SELECT 1 FROM {schema}sqlite_master WHERE type = 'trigger' AND tbl_name = {table} COLLATE NOCASE)")
}

/// Quotes an identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table as SQL names it.
pub(crate) fn qualified(entity: &impl EntityName) -> String {
    let table = quoted(entity.table_name());
    entity.schema_name().map_or_else(|| table.clone(), |schema| format!("{}.{table}", quoted(schema)))
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

/// Shortens a message to the column's length, and replaces the zero character, which PostgreSQL refuses.
fn clipped(message: &str, limit: usize) -> String {
    let mut characters = message.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c });
    let mut text: String = characters.by_ref().take(limit).collect();
    if characters.next().is_some() {
        text.pop();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_cap() {
        let backoff = Backoff::default();
        let seconds = [1, 2, 3, 9, 10, 100].map(|attempt| backoff.after(attempt).as_secs());
        assert_eq!(seconds, [10, 20, 40, 2560, 3600, 3600]);
    }

    #[test]
    fn a_message_fits_its_column() {
        assert_eq!(clipped("short", 5), "short");
        assert_eq!(clipped("longer", 5), "long…");
        assert_eq!(clipped("a\0b", 5), "a\u{fffd}b");
    }

    #[test]
    fn different_keys_have_different_texts() {
        let text = |values: Vec<Value>| key_text(&ValueTuple::Many(values));
        assert_eq!(text(vec![5i64.into()]), text(vec![5i32.into()]));
        assert_eq!(text(vec!["a','b".into()]), "'a'',''b'");
        assert_ne!(text(vec!["a','b".into()]), text(vec!["a".into(), "b".into()]));
    }
}
