//! Texts of columns that people and other programs write, too. On SQLite they may have bytes that are not text.

use sea_orm::QueryResult;

use crate::database::error_kind::DbResult;

/// Reads a text. What is not UTF-8 becomes `�`, so that one row does not keep all others from being shown.
///
/// # Errors
/// The database's.
pub(crate) fn lossy(row: &QueryResult, column: &str) -> DbResult<Option<String>> {
    row.try_get("", column).or_else(|error| match row.try_get::<Vec<u8>>("", column) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(_) => Err(error),
    })
}
