//! The index that claims need.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityName, IdenStatic, Iterable,
    PrimaryKeyToColumn, Statement,
};

use crate::database::work::due::{instant_sql, is_text_time};
use crate::database::work::sql::{PENDING, identifier, qualified, quoted};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

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
    let entity = E::default();
    let table = entity.table_name();
    identifier(&format!("{table}_claim_idx"), table)
}

/// Creates the index of [`claim_index`] if it is missing. An invalid index of this name, as PostgreSQL leaves it after `CREATE INDEX
/// CONCURRENTLY` has failed, is replaced; on SQLite also one that an earlier version created for times as texts.
///
/// # Errors
/// Another index has this name, and does not serve the claims. Or those of the database: the table, or the right to create an index,
/// is missing.
pub async fn create_claim_index<E: WorkItem>(db: &DatabaseConnection) -> Result<()> {
    let backend = db.get_database_backend();
    let sql = match existing::<E>(db).await? {
        Some((definition, is_valid)) if !is_valid || is_by_text::<E>(&definition) => replace_claim_index::<E>(backend),
        Some((definition, _)) if serves::<E>(&definition, backend) => return Ok(()),
        Some((definition, _)) => {
            let (name, needed) = (claim_index_name::<E>(), claim_index::<E>(backend));
            return Err(Error::msg(format!(
                "the index `{name}` exists, and does not serve the claims: drop or rename it; it is: {definition}; needed is: {needed}"
            )));
        }
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

/// Whether an index of this definition serves the claims.
pub(crate) fn serves<E: WorkItem>(definition: &str, backend: DbBackend) -> bool {
    let work = E::__work();
    let columns = definition.split_once('(').map_or("", |(_, columns)| columns);
    let by_instant = backend == DbBackend::Sqlite
        && work.available_at.is_some_and(|(column, value)| is_text_time(value) && names(columns, column.as_str()));
    names(columns, work.status.as_str()) && (!by_instant || names(columns, "unixepoch"))
}

/// Whether a part of a definition has this name, with or without quotes.
pub(crate) fn names(definition: &str, name: &str) -> bool {
    definition.contains(&quoted(name))
        || definition.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

/// The definition of the index that exists, and whether it is valid. Asked first, since PostgreSQL locks the table to find that the index exists, and reports
/// it at each start of the program.
async fn existing<E: WorkItem>(db: &DatabaseConnection) -> std::result::Result<Option<(String, bool)>, DbErr> {
    let (backend, name, entity) = (db.get_database_backend(), claim_index_name::<E>(), E::default());
    let sql = "SELECT pg_get_indexdef(i.indexrelid) AS definition, i.indisvalid AS is_valid \
               FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1) AND c.relname = $2";
    let sql = match backend {
        DbBackend::Postgres => Statement::from_sql_and_values(backend, sql, [qualified(&entity).into(), name.into()]),
        _ => {
            let schema = schema_prefix(&entity);
            let sql = format!(
                "SELECT coalesce(sql, '') AS definition, true AS is_valid FROM {schema}sqlite_master WHERE type = 'index' AND name = ?"
            );
            Statement::from_sql_and_values(backend, sql, [name.into()])
        }
    };
    let row = db.query_one_raw(sql).await?;
    row.map(|row| Ok((row.try_get("", "definition")?, row.try_get("", "is_valid")?))).transpose()
}
