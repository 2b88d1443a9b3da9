//! Inspects a table before a claim: whether the entity fits the table, whether an index serves the claims, whether
//! triggers may change the framework's writes, and whether rows have a status that is never claimed.

use std::fmt::Write;

use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, IdenStatic, QueryResult, Statement, TransactionOptions};

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::limited::begin_uncancelled;
use crate::database::pool_error::explained;
use crate::database::service_db::ServiceDb;
use crate::database::work::index::{claim_index, claim_index_name, names, replace_claim_index, serves};
use crate::database::work::row::ClaimError;
use crate::database::work::sql::{COMPLETED, FAILED, PENDING, TableSql};
use crate::database::work::sql_text::{has_triggers_on_postgres, literal, qualified, schema_prefix};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// How many rows are searched for an unknown status on SQLite, which has no limit for a statement's time.
const SQLITE_ROWS: u64 = 100_000;

/// Inspects a table at its first claim, and again every minute.
///
/// # Errors
/// The status enum lacks a value that a work item needs, or a column cannot store a value that the framework writes.
/// Errors of the database are left to the claim itself, unless the database is down.
pub(crate) async fn inspect<E: WorkItem>(service_db: &ServiceDb, table: &TableSql) -> Result<()> {
    let known = (E::__work().known_statuses)();
    if !known.is_empty() {
        check_statuses(&table.name, &known)?;
    }
    if !service_db.work.inspection_is_due(table) {
        return Ok(());
    }
    let found = match read_schema::<E>(service_db).await {
        Ok(Some(found)) => found,
        // There is no such table. The claim fails with that error.
        Ok(None) => return Ok(()),
        // The claim would wait as long, and fail in the same way.
        Err(source) if ErrorKind::of(&source).is_outage() => {
            let source = explained(service_db.db(), source).await;
            return Err(Error::new(ClaimError { table: table.name.clone(), source }));
        }
        Err(_) => return Ok(()),
    };
    if let Some(problem) = found.problem {
        return Err(Error::msg(format!("`{}` cannot be a table of work: {problem}", table.name)));
    }
    let index = found.has_claim_index.then(claim_index_name::<E>);
    service_db.work.inspected(table, found.has_triggers, found.may_lack_times, index);
    if service_db.work.report_once(format!("inspected {}", table.name)) {
        warn_of_rows_and_index::<E>(service_db, &table.name, &found, &known).await;
    }
    Ok(())
}

async fn warn_of_rows_and_index<E: WorkItem>(
    service_db: &ServiceDb,
    table: &str,
    found: &Inspection,
    known: &[String],
) {
    let service_id = &*service_db.service_id;
    if !found.has_index {
        let backend = service_db.db().get_database_backend();
        let index = if found.has_old_index { replace_claim_index::<E>(backend) } else { claim_index::<E>(backend) };
        crate::log::warn!(
            service.id = service_id,
            table,
            "no index serves the claims from this table, so each claim reads the whole table: call `service_core::database::create_claim_index` \
             for its entity once, or run: {index}"
        );
    }
    if let Ok(Some(status)) = unknown_status::<E>(service_db, known).await {
        crate::log::warn!(
            service.id = service_id,
            table,
            status,
            "a row has an unknown status and is not claimed: `{PENDING}` rows are claimed, and end as `{COMPLETED}` or `{FAILED}`"
        );
    }
}

/// The result of an inspection.
#[derive(Debug, Default)]
struct Inspection {
    has_index: bool,
    /// The index is that of `create_claim_index`.
    has_claim_index: bool,
    /// An index has its name, and does not serve the claims.
    has_old_index: bool,
    has_triggers: bool,
    /// The column `available_at` accepts NULL, whatever its type in the entity is.
    may_lack_times: bool,
    /// Why the framework cannot write into the table.
    problem: Option<String>,
}

/// `None` if there is no such table.
async fn read_schema<E: WorkItem>(service_db: &ServiceDb) -> DbResult<Option<Inspection>> {
    let (db, entity) = (service_db.db(), E::default());
    let backend = db.get_database_backend();
    let query = async |sql: &str, value: &str| {
        db.query_all_raw(Statement::from_sql_and_values(backend, sql, [value.to_owned().into()])).await
    };
    let (objects, columns, name) = match backend {
        DbBackend::Postgres => (
            format!(
                "SELECT 'table' AS kind, '' AS definition FROM pg_class WHERE oid = to_regclass($1) \
                 UNION ALL SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass($1) AND indisvalid \
                 UNION ALL SELECT 'trigger', '' WHERE {}",
                has_triggers_on_postgres(&qualified(&entity))
            ),
            "SELECT attname::text AS name, attnotnull AS is_required, \
             CASE WHEN atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND atttypmod > 4 THEN atttypmod - 4 END AS length \
             FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
                .to_owned(),
            qualified(&entity),
        ),
        _ => {
            let schema = schema_prefix(&entity);
            let argument = entity.schema_name().map_or_else(String::new, |schema| format!(", {}", literal(schema)));
            (
                format!(
                    "SELECT CASE type WHEN 'view' THEN 'table' ELSE type END AS kind, coalesce(sql, '') AS definition \
                     FROM {schema}sqlite_master WHERE tbl_name = ? COLLATE NOCASE"
                ),
                format!(
                    "SELECT name, \"notnull\" AS is_required, CAST(NULL AS INTEGER) AS length FROM pragma_table_info(?{argument})"
                ),
                entity.table_name().to_owned(),
            )
        }
    };
    let mut found = Inspection::default();
    let mut exists = false;
    for row in query(&objects, &name).await? {
        let (kind, definition): (String, String) = (row.try_get("", "kind")?, row.try_get("", "definition")?);
        match kind.as_str() {
            "table" => exists = true,
            "index" => {
                let serves = serves::<E>(&definition, backend);
                found.has_index |= serves;
                let has_name = names(&definition, &claim_index_name::<E>());
                found.has_claim_index |= serves && has_name;
                found.has_old_index |= !serves && has_name;
            }
            _ => found.has_triggers = true,
        }
    }
    if !exists {
        return Ok(None);
    }
    let available_at = E::__work().available_at.map(|(column, _)| column.as_str());
    for column in query(&columns, &name).await? {
        let (name, is_required): (String, bool) = (column.try_get("", "name")?, column.try_get("", "is_required")?);
        found.may_lack_times |= !is_required && available_at == Some(&*name);
        if let Some(problem) = problem_with::<E>(&column, &name, is_required)? {
            found.problem = Some(problem);
        }
    }
    Ok(Some(found))
}

/// Why a column cannot store the values that the framework writes.
fn problem_with<E: WorkItem>(column: &QueryResult, name: &str, is_required: bool) -> DbResult<Option<String>> {
    let work = E::__work();
    let length: Option<i32> = column.try_get("", "length")?;
    let longest = [PENDING, COMPLETED, FAILED].iter().map(|status| status.len()).max().unwrap_or_default();
    if name == work.status.as_str() && length.is_some_and(|length| usize::try_from(length).is_ok_and(|n| n < longest)) {
        return Ok(Some(format!("the column `{name}` is too short for `{COMPLETED}`")));
    }
    let is_error = work.error.is_some_and(|error| name == error.as_str() && error.def().is_null());
    if is_error && is_required {
        return Ok(Some(format!(
            "the column `{name}` is NOT NULL, but the entity's type is an `Option`, so completed rows would be written with NULL"
        )));
    }
    Ok(None)
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

/// Finds a status that is never claimed, if there is one. The search may read the whole table, so it is limited.
async fn unknown_status<E: WorkItem>(service_db: &ServiceDb, known: &[String]) -> DbResult<Option<String>> {
    let (column, entity) = (E::__work().status, E::default());
    if column.enum_type_name().is_some() && service_db.db().get_database_backend() == DbBackend::Postgres {
        return Ok(None);
    }
    let expected = [PENDING, COMPLETED, FAILED].into_iter().chain(known.iter().map(String::as_str));
    let (status, searched) = ("status", "searched");
    let mut rows = Query::select().expr_as(Expr::col(column), status).from(entity.table_ref()).to_owned();
    if service_db.db().get_database_backend() == DbBackend::Sqlite {
        rows.limit(SQLITE_ROWS);
    }
    let select = Query::select()
        .column(status)
        .from_subquery(rows, searched)
        .and_where(Expr::col(status).is_not_in(expected))
        .limit(1)
        .to_owned();
    let tx = begin_uncancelled(service_db.db(), TransactionOptions::default()).await?;
    if service_db.db().get_database_backend() == DbBackend::Postgres {
        tx.execute_unprepared("SET LOCAL statement_timeout = '1s'").await?;
    }
    let row = tx.query_one(&select).await?;
    tx.rollback().await?;
    row.map(|row| row.try_get("", "status")).transpose()
}
