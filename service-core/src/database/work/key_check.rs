//! Checks that keys find their rows again.
//!
//! A statement that names a row by its key changes nothing if the database does not consider the key that was read
//! equal to the one that is stored. PostgreSQL pads a `CHAR(n)` with blanks, which count in a comparison with a text.
//! SQLite keeps times, decimals and the like in any format, and compares bytes. The row would be processed again by
//! every run.

use std::collections::BTreeSet;

use sea_orm::sea_query::ValueTuple;
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, Value};

use crate::database::error_kind::DbResult;
use crate::database::work::row::key_of;
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;

/// A key does not find its row.
#[derive(Debug, thiserror::Error)]
#[error(
    "the key {key} of `{table}` does not find its row again, so no row is changed: the key is stored in another form than the type in the \
     entity is compared in. On PostgreSQL, add `#[sea_orm(column_type = \"Char(Some(n))\")]` to a column of the type CHAR(n). On SQLite, \
     store the keys as sea-orm does"
)]
pub(crate) struct KeyNotFound {
    pub(crate) table: String,
    pub(crate) key: String,
}

/// Finds one of these keys that does not find its row. Makes no query for usual keys.
pub(crate) async fn not_found<E: EntityTrait>(
    db: &impl ConnectionTrait,
    table: &TableSql,
    keys: impl Iterator<Item = &ValueTuple>,
) -> DbResult<Option<KeyNotFound>> {
    let doubtful: Vec<ValueTuple> = keys.filter(|key| is_doubtful(table, key)).cloned().collect();
    let mut missing: BTreeSet<String> = doubtful.iter().map(key_text).collect();
    for select in table.existing_among::<E>(&doubtful) {
        for row in db.query_all(&select).await? {
            missing.remove(&key_text(&key_of::<E>(&row)?));
        }
    }
    Ok(missing.pop_first().map(|key| KeyNotFound { table: table.name.clone(), key }))
}

/// Whether a key may differ from the stored one.
fn is_doubtful(table: &TableSql, key: &ValueTuple) -> bool {
    match key {
        _ if table.backend != DbBackend::Postgres => table.keys_have_formats,
        ValueTuple::One(value) => ends_with_blank(value),
        ValueTuple::Two(first, second) => ends_with_blank(first) || ends_with_blank(second),
        key => key.clone().into_iter().any(|value| ends_with_blank(&value)),
    }
}

fn ends_with_blank(value: &Value) -> bool {
    matches!(value, Value::String(Some(text)) if text.ends_with(' '))
}
