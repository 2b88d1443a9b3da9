//! The index that claims need.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, IdenStatic, Iterable, PrimaryKeyToColumn,
    Statement,
};

use crate::database::work::due::is_text_time;
use crate::database::work::sql::{PENDING, qualified, quoted};
use crate::database::work::work_item::WorkItem;
use crate::service::error::Result;

/// Returns the SQL of the index that claims of `E` need, for a migration. The index contains the pending rows only, in the
/// order in which they are claimed, so completed rows do not make it larger. [`create_claim_index`] runs the SQL.
///
/// On SQLite, times that are stored as text are indexed as instants. A claim with `order_by` or `filter` may need another
/// index.
pub fn claim_index<E: WorkItem>(backend: DbBackend) -> String {
    let (work, entity) = (E::__work(), E::default());
    let mut columns = Vec::new();
    if let Some((column, value)) = work.available_at {
        let name = quoted(column.as_str());
        columns.push(match backend {
            DbBackend::Postgres if column.def().is_null() => format!("{name} NULLS FIRST"),
            DbBackend::Sqlite if is_text_time(value) => format!("julianday({name})"),
            _ => name,
        });
    }
    columns.extend(E::PrimaryKey::iter().map(|key| quoted(key.into_column().as_str())));
    format!(
        "CREATE INDEX IF NOT EXISTS {} ON {} ({}) WHERE {} = '{PENDING}'",
        quoted(&claim_index_name::<E>()),
        qualified(&entity),
        columns.join(", "),
        quoted(work.status.as_str()),
    )
}

/// The name of the claim index.
pub(crate) fn claim_index_name<E: WorkItem>() -> String {
    format!("{}_claim_idx", E::default().table_name())
}

/// Creates the index of [`claim_index`] if it is missing.
///
/// # Errors
/// Those of the database: the table, or the right to create an index, is missing.
pub async fn create_claim_index<E: WorkItem>(db: &DatabaseConnection) -> Result<()> {
    if !index_exists::<E>(db).await? {
        db.execute_unprepared(&claim_index::<E>(db.get_database_backend())).await?;
    }
    Ok(())
}

/// Asked first, since PostgreSQL locks the table to find that the index exists, and reports it at each start of the program.
async fn index_exists<E: WorkItem>(db: &DatabaseConnection) -> std::result::Result<bool, DbErr> {
    let (backend, name) = (db.get_database_backend(), claim_index_name::<E>());
    let sql = "SELECT 1 FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid \
               WHERE i.indrelid = to_regclass($1) AND c.relname = $2";
    let sql = match backend {
        DbBackend::Postgres => {
            Statement::from_sql_and_values(backend, sql, [qualified(&E::default()).into(), name.into()])
        }
        _ => {
            let sql = "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?";
            Statement::from_sql_and_values(backend, sql, [name.into()])
        }
    };
    Ok(db.query_one_raw(sql).await?.is_some())
}
