//! [`Portions`]: the keys of many rows, in portions, so that no statement locks all of them.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, ValueTuple};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, Iterable, Order, PrimaryKeyToColumn, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
};

use crate::database::work::row::key_of;
use crate::database::work::sql::keys_a_portion;
use crate::database::work::work_item::WorkItem;

/// The keys of the rows that meet a condition, in the order of the keys. No row is in two portions, also if it meets the
/// condition again in the meantime.
#[derive(Debug)]
pub(crate) struct Portions {
    condition: Condition,
    after: Option<ValueTuple>,
}

impl Portions {
    pub(crate) fn new(condition: Condition) -> Self {
        Self { condition, after: None }
    }

    /// Returns the keys of the next portion; none if there are no more rows.
    pub(crate) async fn next<E: WorkItem>(&mut self, db: &impl ConnectionTrait) -> Result<Vec<ValueTuple>, DbErr> {
        let columns = || E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column);
        let mut select = E::find().select_only().columns(columns()).filter(self.condition.clone());
        if let Some(after) = &self.after {
            select = select.filter(is_after::<E>(after));
        }
        let select = columns().fold(select, |select, column| select.order_by(column, Order::Asc));
        let rows = db.query_all(&select.limit(keys_a_portion::<E>()).into_query()).await?;
        let keys = rows.iter().map(key_of::<E>).collect::<Result<Vec<_>, _>>()?;
        self.after = keys.last().cloned();
        Ok(keys)
    }
}

/// The condition that a row comes after this key. SQLite versions differ in what they make of `(a, b) > (1, 2)`.
fn is_after<E: EntityTrait>(key: &ValueTuple) -> Condition {
    let columns = E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column);
    let parts: Vec<(Expr, Expr)> = columns
        .zip(key.clone())
        .map(|(column, value)| (Expr::col(column.as_column_ref()), column.save_as(Expr::val(value))))
        .collect();
    (0..parts.len()).fold(Condition::any(), |any, at| {
        let equal = parts[..at].iter().map(|(column, value)| column.clone().eq(value.clone()));
        let (column, value) = parts[at].clone();
        any.add(equal.chain([column.gt(value)]).fold(Condition::all(), Condition::add))
    })
}
