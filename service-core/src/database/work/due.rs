//! [`DueRows`]: which rows a claim gets, and in which order.
//!
//! Half of a batch are rows without a time, by key, and half are rows whose time has come, by time; unused places go to
//! the other half. So neither kind can starve the other: new rows cannot keep back a row that waits for its second
//! attempt. Each kind is a query of its own, because a single query for both would read every row that is not due yet.
//!
//! The tricky part is SQLite, which keeps times as text, or as seconds if another program writes them. They are
//! compared as instants, by `julianday`, which reads every offset and format that drivers write; the claim index has
//! the same expression.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{
    Alias, Asterisk, Condition, Expr, ExprTrait, Func, IntoIden, LockBehavior, LockType, NullOrdering,
    PostgresQueryBuilder, Query, SelectStatement, SqlWriterValues, SqliteQueryBuilder,
};
use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, IdenStatic, Iterable, Order, PrimaryKeyToColumn, QueryFilter, QueryOrder,
    QueryResult, QuerySelect, QueryTrait, Select, Statement, StatementBuilder,
};

use crate::database::work::key_columns::read_as_text;
use crate::database::work::sql::{PENDING, status_value};
use crate::database::work::sql_text::{as_integer, has_triggers_on_sqlite, quoted};
use crate::database::work::work_item::{TimeValue, WorkItem};

/// A time on SQLite as an instant, with the column in place of `?`. The driver reads an integer as seconds since 1970,
/// and a text with small letters.
const INSTANT: &str = "CASE typeof(?) WHEN 'integer' THEN julianday(?, 'unixepoch') ELSE julianday(upper(?)) END";

/// The column of a due row that says whether the table has triggers, on SQLite. PostgreSQL, which plans each claim
/// anew, returns this when rows are completed.
const TRIGGERS: &str = "service_triggers";
/// The column of a due row with its kind: its place in [`DueRows::kinds`].
const KIND: &str = "service_kind";

/// The queries for the rows of one claim.
#[derive(Clone, Debug)]
pub(crate) struct DueRows<E: EntityTrait> {
    pub(crate) backend: DbBackend,
    /// The user's conditions.
    pub(crate) filter: Condition,
    /// The user's order, which replaces the usual one.
    pub(crate) order: Vec<(E::Column, Order)>,
    /// Rows may have no time, although the entity requires one. They cannot be read, and are reported.
    pub(crate) may_lack_times: bool,
    /// Rows with a time take the first turn.
    pub(crate) dated_first: bool,
    /// The claim index, if SQLite has it.
    pub(crate) index: Option<String>,
    /// Appended to the statement's text, so that the driver prepares the statement again.
    pub(crate) generation: u32,
}

/// The kind of rows that one query selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    All,
    Undated,
    Dated,
}

impl<E: WorkItem> DueRows<E> {
    /// The kinds of rows, in the order in which they take turns.
    pub(crate) fn kinds(&self) -> &'static [RowKind] {
        match E::__work().available_at {
            Some((column, value)) if self.order.is_empty() && self.may_be_undated(column, value) => {
                if self.dated_first { &[RowKind::Dated, RowKind::Undated] } else { &[RowKind::Undated, RowKind::Dated] }
            }
            _ => &[RowKind::All],
        }
    }

    /// The query for at most `limit` rows that are due at `now`. On PostgreSQL it locks them.
    pub(crate) fn statement(&self, now: DateTime<Utc>, limit: u64) -> Statement {
        match self.backend {
            DbBackend::Postgres => self.of_generation(self.postgres(now, limit)),
            _ => self.sqlite(now, limit),
        }
    }

    /// The statement with a text of its own for each generation.
    fn of_generation(&self, mut statement: Statement) -> Statement {
        if self.generation > 0 {
            statement.sql.push_str(&format!(" /* {} */", self.generation));
        }
        statement
    }

    /// The query for the keys of one kind of rows. It reads only the claim index, which contains the keys.
    pub(crate) fn keys(&self, kind: RowKind, now: DateTime<Utc>, limit: u64) -> Statement {
        let mut select = self.select(kind, now).limit(limit).select_only();
        if self.backend == DbBackend::Sqlite {
            // SQLite accepts NULL in most primary keys, and the join would not find such a row.
            let keys = E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column);
            select = keys.fold(select, |select, key| select.filter(Expr::col(key.as_column_ref()).is_not_null()));
        }
        let select = select.columns(E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column)).into_query();
        let mut statement = StatementBuilder::build(&select, &self.backend);
        if let Some(index) = self.index.as_ref().filter(|_| self.order.is_empty()) {
            // SQLite's own estimates would sometimes choose to read the table.
            statement.sql = statement.sql.replacen(" WHERE ", &format!(" INDEXED BY {} WHERE ", quoted(index)), 1);
        }
        self.of_generation(statement)
    }

    /// For SQLite, a text that is not a time is undated, even in a column that is not nullable.
    fn may_be_undated(&self, column: E::Column, value: TimeValue) -> bool {
        column.def().is_null() || self.may_lack_times || self.is_text(value)
    }

    fn is_text(&self, value: TimeValue) -> bool {
        self.backend == DbBackend::Sqlite && is_text_time(value)
    }

    fn select(&self, kind: RowKind, now: DateTime<Utc>) -> Select<E> {
        let work = E::__work();
        let mut select =
            E::find().filter(Expr::col(work.status.as_column_ref()).eq(status_value(work.status, PENDING)));
        if let Some((column, value)) = work.available_at {
            let (time, now) = comparable(column, value, self.backend, now);
            let due = time.clone().lte(now);
            select = select.filter(match kind {
                // Some builds of SQLite estimate that many rows lack a time, and would read the table.
                RowKind::Undated if self.backend == DbBackend::Sqlite => {
                    Func::cust("unlikely").arg(time.is_null()).into()
                }
                RowKind::Undated => time.is_null(),
                RowKind::All if self.may_be_undated(column, value) => due.or(time.is_null()),
                RowKind::All | RowKind::Dated => due,
            });
        }
        self.in_order(select.filter(self.filter.clone()), kind)
    }

    fn in_order(&self, mut select: Select<E>, kind: RowKind) -> Select<E> {
        if let Some((column, value)) = E::__work().available_at
            && self.order.is_empty()
        {
            select = match self.backend {
                // Explicit NULLS FIRST, so that the order is that of the index.
                DbBackend::Postgres if column.def().is_null() => {
                    select.order_by_with_nulls(column, Order::Asc, NullOrdering::First)
                }
                DbBackend::Postgres => select.order_by(column, Order::Asc),
                // All times are NULL. If the column were named, SQLite would sort.
                _ if kind == RowKind::Undated => select,
                _ if self.is_text(value) => select.order_by(instant(Expr::col(column.as_column_ref())), Order::Asc),
                _ => select.order_by(column, Order::Asc),
            };
        }
        let text_time = E::__work().available_at.filter(|(_, value)| self.is_text(*value));
        for (column, order) in &self.order {
            select = match text_time {
                Some((time, _)) if time.as_str() == column.as_str() => {
                    select.order_by(instant(Expr::col(time.as_column_ref())), order.clone())
                }
                _ => select,
            };
            // Instants are rounded to a millisecond.
            select = select.order_by(*column, order.clone());
        }
        E::PrimaryKey::iter().fold(select, |select, key| select.order_by(key.into_column(), Order::Asc))
    }

    /// The query for the keys of both kinds, in turns, joined with their rows. A direct query for a few whole rows
    /// would make SQLite read and sort the table instead of using the index.
    fn sqlite(&self, now: DateTime<Utc>, limit: u64) -> Statement {
        let names = || E::PrimaryKey::iter().map(|key| quoted(key.into_column().as_str()));
        let key = names().collect::<Vec<_>>().join(", ");
        let (mut parts, mut values) = (Vec::new(), Vec::new());
        for (at, kind) in self.kinds().iter().enumerate() {
            let keys = self.keys(*kind, now, limit);
            parts.push(format!(
                "SELECT {key}, row_number() OVER () AS service_turn, {at} AS {KIND} FROM ({})",
                keys.sql
            ));
            values.extend(keys.values.map(|values| values.0).unwrap_or_default());
        }
        let rows = E::find().into_query().to_string(SqliteQueryBuilder);
        let (columns, table) = rows.split_once(" FROM ").unwrap_or((&rows, ""));
        let same_key =
            names().map(|name| format!("{table}.{name} = service_due.{name}")).collect::<Vec<_>>().join(" AND ");
        // SQLite does not reorder a CROSS JOIN: the keys come first.
        let sql = format!(
            "{columns}, {} AS {TRIGGERS}, {KIND} \
             FROM (SELECT * FROM ({}) ORDER BY service_turn, {KIND} LIMIT {limit}) AS service_due \
             CROSS JOIN {table} ON {same_key} ORDER BY service_turn, {KIND}",
            has_triggers_on_sqlite(&E::default()),
            parts.join(" UNION ALL ")
        );
        Statement::from_sql_and_values(DbBackend::Sqlite, sql, values)
    }

    fn postgres(&self, now: DateTime<Utc>, limit: u64) -> Statement {
        // Rows that refer to a claimed row can be inserted meanwhile.
        let locked = |select: Select<E>, limit| {
            select.limit(limit).lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked).into_query()
        };
        let mut sql = SqlWriterValues::new("$", true);
        let mut write = |text: &str, select: SelectStatement| {
            use std::fmt::Write;
            let _ = sql.write_str(text);
            select.build_collect_any_into(&PostgresQueryBuilder, &mut sql);
        };
        let [first, second] = self.kinds() else {
            write("", locked(self.select(RowKind::All, now), limit));
            return statement(sql);
        };
        let part = |name, kind: i32| {
            let mut part = Query::select().column(Asterisk).from(Alias::new(name)).to_owned();
            part.expr_as(Expr::Constant(kind.into()), KIND).to_owned()
        };
        // Only rows of the result are locked: the outer limits stop the inner queries.
        let taken = E::PrimaryKey::iter().map(|key| Alias::new(key.into_column().as_str()).into_iden());
        let taken = Query::select().columns(taken).from("service_first").to_owned();
        let columns = E::PrimaryKey::iter().map(|key| read_as_text(key.into_column()));
        let rest = self.select(*first, now).filter(Expr::tuple(columns).not_in_subquery(taken));
        write("WITH service_first AS MATERIALIZED (", locked(self.select(*first, now), limit / 2));
        write("), service_second AS MATERIALIZED (SELECT * FROM (", locked(self.select(*second, now), limit));
        let left = format!(") AS part LIMIT {limit} - (SELECT count(*) FROM service_first)");
        write(&format!("{left}), service_rest AS MATERIALIZED (SELECT * FROM ("), locked(rest, limit));
        write(&format!("{left} - (SELECT count(*) FROM service_second)) "), part("service_first", 0));
        for (name, kind) in [("service_second", 1), ("service_rest", 0)] {
            write(" UNION ALL ", part(name, kind));
        }
        statement(sql)
    }
}

/// Whether the table of these due rows, on SQLite, has triggers. They may have been created since it was inspected.
pub(crate) fn have_triggers(rows: &[QueryResult]) -> bool {
    rows.first().is_some_and(|row| row.try_get("", TRIGGERS).is_ok_and(|has_triggers: bool| has_triggers))
}

/// Whether the row is of the second kind. A table with one kind of rows has no such column.
fn is_second(row: &QueryResult) -> bool {
    row.try_get("", KIND).is_ok_and(|kind: i32| kind > 0)
}

/// Whether there are rows of both kinds, and all rows of one kind fulfil the condition.
pub(crate) fn all_of_one_kind(rows: &[QueryResult], condition: impl Fn(&QueryResult) -> bool) -> bool {
    let (second, first): (Vec<_>, Vec<_>) = rows.iter().partition(|row| is_second(row));
    [&first, &second].iter().all(|kind| !kind.is_empty())
        && [first, second].iter().any(|kind| kind.iter().all(|row| condition(row)))
}

/// Orders due rows, each with its key, so that their kinds take turns.
pub(crate) fn in_turns(rows: Vec<(String, QueryResult)>) -> Vec<(String, QueryResult)> {
    let (second, first): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, row)| is_second(row));
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return turns,
            (first, second) => turns.extend(first.into_iter().chain(second)),
        }
    }
}

fn statement(sql: SqlWriterValues) -> Statement {
    let (sql, values) = sql.into_parts();
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}

/// Whether SQLite keeps times of this type as text.
pub(crate) fn is_text_time(value: TimeValue) -> bool {
    as_integer(&value(DateTime::UNIX_EPOCH)).is_none()
}

/// The time in a column and an instant, as the engine can compare them.
pub(crate) fn comparable(
    column: impl ColumnTrait,
    value: TimeValue,
    backend: DbBackend,
    at: DateTime<Utc>,
) -> (Expr, Expr) {
    let (time, at) = (Expr::col(column.as_column_ref()), Expr::val(value(at)));
    if backend == DbBackend::Sqlite && is_text_time(value) {
        // SQLite rounds both to a millisecond in the same way.
        (instant(time), Func::cust("julianday").arg(at).into())
    } else {
        (time, at)
    }
}

fn instant(column: Expr) -> Expr {
    Expr::cust_with_exprs(INSTANT, [column.clone(), column.clone(), column])
}

/// The same for a column of an index.
pub(crate) fn instant_sql(column: &str) -> String {
    INSTANT.replace('?', column)
}
