//! Reads claimed rows: the key by itself, because a row whose other columns cannot be read has a key, too.

use std::collections::VecDeque;

use sea_orm::sea_query::{IntoValueTuple, ValueTuple};
use sea_orm::sqlx::Error as SqlxError;
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, FromQueryResult, IdenStatic, Iterable, ModelTrait, PrimaryKeyToColumn,
    PrimaryKeyTrait, QueryResult, RuntimeErr, TryGetableMany,
};

use crate::database::error_kind::DbResult;
use crate::database::work::attempt::RowRef;
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::as_integer;
use crate::database::work::work_item::WorkItem;
use crate::database::work::work_state::WorkState;
use crate::panic::{self, Caught};

/// A claimed row, and its model.
#[derive(Debug)]
pub(crate) struct ClaimedRow<E: EntityTrait> {
    pub(crate) row: RowRef,
    pub(crate) model: E::Model,
    /// A process died while it worked on the row, or on this row and others.
    pub(crate) is_suspect: bool,
}

pub(crate) type Rows<E> = VecDeque<ClaimedRow<E>>;

/// The error of a claim.
#[derive(Debug, thiserror::Error)]
#[error("cannot claim rows of `{table}`")]
pub(crate) struct ClaimError {
    pub(crate) table: String,
    pub(crate) source: DbErr,
}

/// The entity does not fit its table, so no row is changed.
#[derive(Debug, thiserror::Error)]
#[error(
    "no claimed row of `{table}` can be read, so the rows are left as they are: do the types of the entity fit the columns of the table?"
)]
pub(crate) struct UnreadableRows {
    pub(crate) table: String,
    pub(crate) source: DbErr,
}

/// The table accepts the status `completed` of no row.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{table}` refuses to complete rows, so they stay pending: does its status column accept `completed`, and its error column an empty value? {reason}"
)]
pub(crate) struct CompletionRefused {
    pub(crate) table: String,
    pub(crate) reason: String,
}

/// The names of the key columns, as [`key_in`] takes them.
pub(crate) fn key_columns<E: EntityTrait>() -> Vec<String> {
    E::PrimaryKey::iter().map(|key| key.into_column().as_str().to_owned()).collect()
}

/// Reads the key of a row, even if the other columns cannot be read.
pub(crate) fn key_of<E: EntityTrait>(row: &QueryResult) -> DbResult<ValueTuple> {
    key_in::<E>(row, &key_columns::<E>())
}

/// As [`key_of`], for many rows.
pub(crate) fn key_in<E: EntityTrait>(row: &QueryResult, columns: &[String]) -> DbResult<ValueTuple> {
    let key = catching(|| Ok(<E::PrimaryKey as PrimaryKeyTrait>::ValueType::try_get_many(row, "", columns)?))?;
    Ok(key.into_value_tuple())
}

/// A panic counts as an error. The driver panics at a time that the entity's type cannot hold, such as PostgreSQL's
/// `infinity`; so may a type of the application.
fn catching<T>(read: impl FnOnce() -> DbResult<T>) -> DbResult<T> {
    match panic::catch(read) {
        Caught::Returned(read) => read,
        Caught::Panicked(message) => Err(DbErr::Type(format!("a value cannot be read: {message}"))),
    }
}

/// Reads the row as its model.
pub(crate) fn read<E: WorkItem>(row: &QueryResult) -> DbResult<ClaimedRow<E>> {
    let model = catching(|| E::Model::from_query_result(row, ""))?;
    let attempts = E::__work().attempts.and_then(|column| as_integer(&model.get(column))).unwrap_or(0);
    Ok(ClaimedRow { row: RowRef { key: model.get_primary_key_value(), attempts }, model, is_suspect: false })
}

/// Whether the column has another type than in the entity, whatever the value. The PostgreSQL driver reports this in a
/// text of its own, which does not depend on the server's language.
pub(crate) fn is_type_mismatch(error: &DbErr) -> bool {
    let DbErr::Query(RuntimeErr::SqlxError(error)) = error else { return false };
    match &**error {
        SqlxError::ColumnDecode { source, .. } => source.to_string().starts_with("mismatched types"),
        SqlxError::ColumnNotFound(_) => true,
        _ => false,
    }
}

/// The name of a column that the framework writes and that is NULL, although the entity's type allows no NULL. Such a
/// column was added without a default.
pub(crate) fn null_column<E: WorkItem>(row: &QueryResult) -> Option<&'static str> {
    let work = E::__work();
    let times = [work.available_at, work.updated_at].map(|time| time.map(|(column, _)| column));
    let columns = [work.attempts, work.error].into_iter().chain(times).flatten();
    // NULL can be read as any type.
    columns
        .filter(|column| !column.def().is_null())
        .map(|column| column.as_str())
        .find(|name| matches!(row.try_get::<Option<i64>>("", name), Ok(None)))
}

/// Logs one warning for each table.
pub(crate) fn report_unreadable_key(work: &WorkState, service_id: &str, table: &TableSql, error: &DbErr) {
    if work.report_once(format!("unreadable key in {}", table.name)) {
        let table = &table.name;
        crate::log::warn!(service.id = service_id, table, %error, "a row cannot be read, not even its key: the row is left out of claims; do the types of the entity fit the columns of the table?");
    }
}
