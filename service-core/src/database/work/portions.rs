//! [`Portions`]: the keys of many rows, in portions, so that no statement locks all of them.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, SelectStatement, ValueTuple};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, Iterable, Order, PrimaryKeyToColumn, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
};

use crate::database::error_kind::DbResult;
use crate::database::work::key_check;
use crate::database::work::key_columns::key_value;
use crate::database::work::row::key_of;
use crate::database::work::sql::{TableSql, keys_a_portion};
use crate::database::work::sql_text::key_text;
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// The keys of the rows that meet a condition, in the order of the keys. No row is in two portions, also if it meets
/// the condition again in the meantime.
#[derive(Debug)]
pub(crate) struct Portions {
    condition: Condition,
    after: Option<ValueTuple>,
    /// The last portion was not full, so there are no more rows.
    is_over: bool,
}

impl Portions {
    pub(crate) fn new(condition: Condition) -> Self {
        Self::behind(condition, None)
    }

    /// Only the rows behind this key.
    pub(crate) fn behind(condition: Condition, after: Option<ValueTuple>) -> Self {
        Self { condition, after, is_over: false }
    }

    /// The last key of the last portion.
    pub(crate) fn last(self) -> Option<ValueTuple> {
        self.after
    }

    /// Returns the keys of the next portion; none if there are no more rows.
    ///
    /// # Errors
    /// Those of the database; or a key does not find its row.
    pub(crate) async fn next<E: WorkItem>(
        &mut self,
        db: &impl ConnectionTrait,
        table: &TableSql,
    ) -> Result<Vec<ValueTuple>> {
        if self.is_over {
            self.after = None;
            return Ok(Vec::new());
        }
        let select = self.select::<E>(table.backend);
        let keys = read::<E>(db, &select).await?;
        if let Some(not_found) = key_check::not_found::<E>(db, table, keys.iter()).await?
            // Read again, because the row may have been deleted in the meantime.
            && read::<E>(db, &select).await?.iter().any(|key| key_text(key) == not_found.key)
        {
            return Err(Error::new(not_found));
        }
        self.is_over = (keys.len() as u64) < keys_a_portion::<E>();
        self.after = keys.last().cloned();
        Ok(keys)
    }

    fn select<E: WorkItem>(&self, backend: DbBackend) -> SelectStatement {
        let columns = || E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column);
        let mut select = E::find().select_only().columns(columns()).filter(self.condition.clone());
        if let Some(after) = &self.after {
            select = select.filter(is_after::<E>(after, backend));
        }
        let select = columns().fold(select, |select, column| select.order_by(column, Order::Asc));
        select.limit(keys_a_portion::<E>()).into_query()
    }
}

async fn read<E: WorkItem>(db: &impl ConnectionTrait, select: &SelectStatement) -> DbResult<Vec<ValueTuple>> {
    db.query_all(select).await?.iter().map(key_of::<E>).collect()
}

/// The condition that a row comes after this key. SQLite versions differ in what they make of `(a, b) > (1, 2)`.
fn is_after<E: EntityTrait>(key: &ValueTuple, backend: DbBackend) -> Condition {
    let columns = E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column);
    let parts: Vec<(Expr, Expr)> = columns
        .zip(key.clone())
        .map(|(column, value)| (Expr::col(column.as_column_ref()), key_value(column, backend, value)))
        .collect();
    (0..parts.len()).fold(Condition::any(), |any, at| {
        let equal = parts[..at].iter().map(|(column, value)| column.clone().eq(value.clone()));
        let (column, value) = parts[at].clone();
        any.add(equal.chain([column.gt(value)]).fold(Condition::all(), Condition::add))
    })
}
