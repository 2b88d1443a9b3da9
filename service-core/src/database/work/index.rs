//! The index that claims need.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityName, IdenStatic, Iterable,
    PrimaryKeyToColumn, Statement,
};

use crate::database::work::due::{instant_sql, is_text_time};
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
            DbBackend::Sqlite if is_text_time(value) => instant_sql(&name),
            _ => name,
        });
    }
    columns.extend(E::PrimaryKey::iter().map(|key| quoted(key.into_column().as_str())));
    // SQLite has the schema in the name of the index, PostgreSQL in the name of the table.
    let (index, table) = match backend {
        DbBackend::Sqlite => (index_path::<E>(), quoted(entity.table_name())),
        _ => (quoted(&claim_index_name::<E>()), qualified(&entity)),
    };
    format!(
        "CREATE INDEX IF NOT EXISTS {index} ON {table} ({}) WHERE {} = '{PENDING}'",
        columns.join(", "),
        quoted(work.status.as_str()),
    )
}

/// The same in place of an index of this name.
pub(crate) fn replace_claim_index<E: WorkItem>(backend: DbBackend) -> String {
    format!("DROP INDEX IF EXISTS {}; {}", index_path::<E>(), claim_index::<E>(backend))
}

/// The claim index with the schema of its table.
fn index_path<E: WorkItem>() -> String {
    format!("{}{}", schema_prefix(&E::default()), quoted(&claim_index_name::<E>()))
}

/// The schema of an entity, before the name of something that it contains.
pub(crate) fn schema_prefix(entity: &impl EntityName) -> String {
    entity.schema_name().map_or_else(String::new, |schema| format!("{}.", quoted(schema)))
}

/// The name of the claim index.
pub(crate) fn claim_index_name<E: WorkItem>() -> String {
    format!("{}_claim_idx", E::default().table_name())
}

/// Creates the index of [`claim_index`] if it is missing. On SQLite, an index that an earlier version created for times as texts
/// is replaced.
///
/// # Errors
/// Those of the database: the table, or the right to create an index, is missing.
pub async fn create_claim_index<E: WorkItem>(db: &DatabaseConnection) -> Result<()> {
    let backend = db.get_database_backend();
    let sql = match definition::<E>(db).await? {
        Some(definition) if is_by_text::<E>(&definition) => replace_claim_index::<E>(backend),
        Some(_) => return Ok(()),
        None => claim_index::<E>(backend),
    };
    db.execute_unprepared(&sql).await?;
    Ok(())
}

/// Whether it is the index of an earlier version, which had no times that are stored as seconds.
fn is_by_text<E: WorkItem>(definition: &str) -> bool {
    E::__work()
        .available_at
        .is_some_and(|(column, _)| definition.contains(&format!("julianday({})", quoted(column.as_str()))))
}

/// The definition of the index that exists. Asked first, since PostgreSQL locks the table to find that the index exists, and reports
/// it at each start of the program.
async fn definition<E: WorkItem>(db: &DatabaseConnection) -> std::result::Result<Option<String>, DbErr> {
    let (backend, name, entity) = (db.get_database_backend(), claim_index_name::<E>(), E::default());
    let sql = "SELECT pg_get_indexdef(i.indexrelid) AS definition FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid \
               WHERE i.indrelid = to_regclass($1) AND c.relname = $2";
    let sql = match backend {
        DbBackend::Postgres => Statement::from_sql_and_values(backend, sql, [qualified(&entity).into(), name.into()]),
        _ => {
            let schema = schema_prefix(&entity);
            let sql = format!("SELECT sql AS definition FROM {schema}sqlite_master WHERE type = 'index' AND name = ?");
            Statement::from_sql_and_values(backend, sql, [name.into()])
        }
    };
    db.query_one_raw(sql).await?.map(|row| row.try_get("", "definition")).transpose()
}
