//! The index that a claim needs, and a look at a table before its first claim: is the index there, and are there rows that
//! nobody will ever claim?

use std::fmt::Write;

use sea_orm::sea_query::{Alias, Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityName, IdenStatic, Iterable,
    PrimaryKeyToColumn, Statement, TransactionTrait,
};

use crate::database::error_kind::ErrorKind;
use crate::database::schema::table_exists;
use crate::database::service_db::ServiceDb;
use crate::database::work::row::ClaimError;
use crate::database::work::sql::{COMPLETED, FAILED, PENDING};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// How many rows are searched for a strange status on SQLite, which has no timeout for a statement.
const SQLITE_LOOK: u64 = 100_000;

/// The SQL of the index that claims of `E` need: over the pending rows alone, in the order in which they are claimed. It stays
/// small however many rows are done. For your migration; [`create_claim_index`] runs it.
///
/// A claim with an order or a filter of its own may want another.
pub fn claim_index<E: WorkItem>(backend: DbBackend) -> String {
    let (work, entity) = (E::__work(), E::default());
    let mut columns = Vec::new();
    if let Some((column, _)) = work.available_at {
        let nulls = if backend == DbBackend::Postgres && column.def().is_null() { " NULLS FIRST" } else { "" };
        columns.push(format!("{}{nulls}", quoted(column.as_str())));
    }
    columns.extend(E::PrimaryKey::iter().map(|key| quoted(key.into_column().as_str())));
    format!(
        "CREATE INDEX IF NOT EXISTS {} ON {} ({}) WHERE {} = '{PENDING}'",
        quoted(&format!("{}_claim_idx", entity.table_name())),
        qualified(&entity),
        columns.join(", "),
        quoted(work.status.as_str()),
    )
}

/// Makes the index of [`claim_index`] where it is missing.
///
/// # Errors
/// The database's: the table is not there, or the right to make an index.
pub async fn create_claim_index<E: WorkItem>(db: &DatabaseConnection) -> Result<()> {
    db.execute_unprepared(&claim_index::<E>(db.get_database_backend())).await?;
    Ok(())
}

/// Looks at a table before this service's first claim from it, and warns of what it finds.
///
/// # Errors
/// The status enum lacks a value that a work item needs. The database's errors are left to the claim itself.
pub(crate) async fn look_at<E: WorkItem>(service_db: &ServiceDb) -> Result<()> {
    let (work, entity) = (E::__work(), E::default());
    let table = entity.table_name();
    let known = (work.known_statuses)();
    if !known.is_empty() {
        check_statuses(table, &known)?;
    }
    let look = format!("looked at {table}");
    if service_db.work.was_reported(&look) {
        return Ok(());
    }
    let has_index = match has_index::<E>(service_db).await {
        Ok(Some(has_index)) => has_index,
        // The claim says so.
        Ok(None) => return Ok(()),
        // The claim would wait as long, and end the same way.
        Err(source) if ErrorKind::of(&source).is_outage() => {
            return Err(Error::new(ClaimError { table: table.to_owned(), source }));
        }
        // A database that cannot be asked now is asked at the next claim.
        Err(_) => return Ok(()),
    };
    if !service_db.work.is_first_report(look) {
        return Ok(());
    }
    if !has_index {
        tracing::warn!(
            service.id = &*service_db.service_id,
            table,
            "no index serves the claims from this table, so each reads it whole: call `service_core::database::create_claim_index` \
             for its entity once, or run: {}",
            claim_index::<E>(service_db.tx.db.get_database_backend())
        );
    }
    if let Ok(Some(status)) = strange_status::<E>(service_db, &known).await {
        tracing::warn!(
            service.id = &*service_db.service_id,
            table,
            status,
            "a row has a status that is none of a work item's, and is passed over: `{PENDING}` rows are claimed, and end as \
             `{COMPLETED}` or `{FAILED}`"
        );
    }
    Ok(())
}

fn check_statuses(table: &str, known: &[String]) -> Result<()> {
    let mut missing = String::new();
    for status in [PENDING, COMPLETED, FAILED] {
        if !known.iter().any(|known| known == status) {
            let _ = write!(missing, "{}`{status}`", if missing.is_empty() { "" } else { ", " });
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::fatal(format!(
        "the status enum of `{table}` has no variant for {missing}: add `#[sea_orm(string_value = \"…\")]` variants for them"
    )))
}

/// Whether an index serves its claims; `None` where there is no such table.
async fn has_index<E: WorkItem>(service_db: &ServiceDb) -> std::result::Result<Option<bool>, DbErr> {
    let (backend, entity) = (service_db.tx.db.get_database_backend(), E::default());
    let (table, status) = (entity.table_name(), E::__work().status);
    let sql = match backend {
        DbBackend::Postgres => "SELECT indexdef FROM pg_indexes WHERE tablename = $1",
        _ => "SELECT sql AS indexdef FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
    };
    let rows = service_db.tx.db.query_all_raw(Statement::from_sql_and_values(backend, sql, [table.into()])).await?;
    let mut names_status = false;
    for row in rows {
        let definition: String = row.try_get("", "indexdef")?;
        let after_table = definition.split_once('(').map_or("", |(_, columns)| columns);
        names_status |=
            after_table.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == status.as_str());
    }
    if names_status {
        return Ok(Some(true));
    }
    let name = if backend == DbBackend::Postgres { qualified(&entity) } else { table.to_owned() };
    Ok(table_exists(&service_db.tx.db, &name).await?.then_some(false))
}

/// A status that is none of ours, if there is one. The search may read the whole table, so it is cut short.
async fn strange_status<E: WorkItem>(
    service_db: &ServiceDb,
    known: &[String],
) -> std::result::Result<Option<String>, DbErr> {
    let (column, entity) = (E::__work().status, E::default());
    if column.enum_type_name().is_some() && service_db.tx.db.get_database_backend() == DbBackend::Postgres {
        return Ok(None);
    }
    let expected = [PENDING, COMPLETED, FAILED].into_iter().chain(known.iter().map(String::as_str));
    let (status, looked_at) = (Alias::new("status"), Alias::new("looked_at"));
    let mut rows = Query::select().expr_as(Expr::col(column), status.clone()).from(entity.table_ref()).to_owned();
    if service_db.tx.db.get_database_backend() == DbBackend::Sqlite {
        rows.limit(SQLITE_LOOK);
    }
    let select = Query::select()
        .column(status.clone())
        .from_subquery(rows, looked_at)
        .and_where(Expr::col(status).is_not_in(expected))
        .limit(1)
        .to_owned();
    let tx = service_db.tx.db.begin().await?;
    if service_db.tx.db.get_database_backend() == DbBackend::Postgres {
        tx.execute_unprepared("SET LOCAL statement_timeout = '1s'").await?;
    }
    let row = tx.query_one(&select).await?;
    tx.rollback().await?;
    row.map(|row| row.try_get("", "status")).transpose()
}

fn qualified(entity: &impl EntityName) -> String {
    let table = quoted(entity.table_name());
    entity.schema_name().map_or_else(|| table.clone(), |schema| format!("{}.{table}", quoted(schema)))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
