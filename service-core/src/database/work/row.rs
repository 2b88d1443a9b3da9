//! Claimed rows as they are read: the key first, as a row whose other columns cannot be read still has one.

use std::collections::VecDeque;

use sea_orm::sea_query::{IntoValueTuple, ValueTuple};
use sea_orm::{
    DbErr, EntityTrait, FromQueryResult, IdenStatic, Iterable, ModelTrait, PrimaryKeyToColumn, PrimaryKeyTrait,
    QueryResult, TryGetableMany,
};

use crate::database::service_db::ServiceDb;
use crate::database::work::sql::{self, RowRef, TableSql};
use crate::database::work::work_item::WorkItem;

/// A claimed row, and its model.
#[derive(Debug)]
pub(crate) struct ClaimedRow<E: EntityTrait> {
    pub(crate) row: RowRef,
    pub(crate) model: E::Model,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot claim rows of `{table}`")]
pub(crate) struct ClaimError {
    pub(crate) table: String,
    pub(crate) source: DbErr,
}

/// Once a table.
pub(crate) fn report_unreadable_key(service_db: &ServiceDb, sql: &TableSql, error: &DbErr) {
    if service_db.work.is_first_report(format!("unreadable key in {}", sql.name)) {
        let (service_id, table) = (&*service_db.service_id, &sql.name);
        crate::log::warn!(service.id = service_id, table, %error, "a row cannot be read, not even its key; it is passed over");
    }
}

/// The key of a row, which need not be readable otherwise.
pub(crate) fn key_of<E: EntityTrait>(row: &QueryResult) -> std::result::Result<ValueTuple, DbErr> {
    let columns: Vec<String> = E::PrimaryKey::iter().map(|key| key.into_column().as_str().to_owned()).collect();
    let key = <E::PrimaryKey as PrimaryKeyTrait>::ValueType::try_get_many(row, "", &columns).map_err(DbErr::from)?;
    Ok(key.into_value_tuple())
}

/// The row as its model.
pub(crate) fn read<E: WorkItem>(row: &QueryResult) -> std::result::Result<ClaimedRow<E>, DbErr> {
    let model = E::Model::from_query_result(row, "")?;
    let attempts = E::__work().attempts.and_then(|column| sql::as_integer(&model.get(column))).unwrap_or(0);
    Ok(ClaimedRow { row: RowRef { key: model.get_primary_key_value(), attempts }, model })
}

pub(crate) type Rows<E> = VecDeque<ClaimedRow<E>>;
