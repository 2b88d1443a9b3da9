//! The framework's own tables: their SQL, and making them at start.
//!
//! The tricky part is that many replicas start at once: PostgreSQL may answer two simultaneous `CREATE TABLE IF NOT
//! EXISTS` with a unique violation in its catalogue, so there the tables are made under an advisory lock.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

use super::access::Access;
use super::transaction::Transaction;
use crate::error::{Error, Result};

/// Times are in milliseconds since 1970 where SQL compares them, else RFC 3339 in UTC, which people can read.
const TABLES: [(&str, &str); 5] = [
    (
        "service_claim",
        "CREATE TABLE IF NOT EXISTS service_claim (\
         work_table TEXT NOT NULL, row_key TEXT NOT NULL, service_id TEXT NOT NULL, owner TEXT NOT NULL, \
         expires_at BIGINT NOT NULL, seq BIGINT NOT NULL, crashes BIGINT NOT NULL DEFAULT 0, \
         PRIMARY KEY (work_table, row_key))",
    ),
    (
        "service_store",
        "CREATE TABLE IF NOT EXISTS service_store (\
         service_id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, updated_at TEXT NOT NULL, \
         PRIMARY KEY (service_id, key))",
    ),
    (
        "service_config",
        "CREATE TABLE IF NOT EXISTS service_config (\
         service_id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (service_id, key))",
    ),
    (
        "service_override",
        "CREATE TABLE IF NOT EXISTS service_override (\
         service_id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, set_by TEXT NOT NULL, why TEXT NOT NULL, \
         set_at TEXT NOT NULL, until TEXT, PRIMARY KEY (service_id, key))",
    ),
    (
        "service_state",
        "CREATE TABLE IF NOT EXISTS service_state (\
         service_id TEXT NOT NULL PRIMARY KEY, last_run TEXT, last_fire TEXT)",
    ),
];

/// "service\0\0" read as a number: one lock for all who make these tables.
const ADVISORY_LOCK: i64 = 0x0073_6572_7669_6365;

/// The statements that make the framework's tables: what the registry runs at start, and what a migration of your own
/// runs where the registry is built with `.migrate(false)`. Running them again changes nothing.
///
/// ```
/// use sea_orm::DbBackend;
/// use service_core::database::schema_sql;
/// assert!(schema_sql(DbBackend::Postgres).iter().all(|sql| sql.starts_with("CREATE TABLE IF NOT EXISTS service_")));
/// ```
pub fn schema_sql(backend: DbBackend) -> Vec<String> {
    // The same for every engine: only types and clauses that all of them have.
    let _ = backend;
    TABLES.iter().map(|(_, sql)| (*sql).to_owned()).collect()
}

/// Makes the framework's tables where they are missing. Many processes may do so at once.
///
/// # Errors
/// The database is away, or refuses: then the message names `schema_sql`.
pub async fn migrate(db: &DatabaseConnection) -> Result<()> {
    if missing_tables(db).await?.is_empty() {
        // Nothing to make: neither the right to make tables is needed, nor SQLite's write lock.
        return Ok(());
    }
    let backend = db.get_database_backend();
    let tx = Transaction::begin(&Access::new(db.clone(), "service_core")).await?;
    if backend == DbBackend::Postgres {
        tx.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")).await?;
    }
    for sql in schema_sql(backend) {
        tx.execute_unprepared(&sql).await.map_err(Refused)?;
    }
    tx.commit().await
}

/// With `.migrate(false)`: whether somebody else made the tables.
///
/// # Errors
/// The database is away, or tables are missing, which the message names.
pub async fn check_schema(db: &DatabaseConnection) -> Result<()> {
    let missing = missing_tables(db).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::fatal(format!(
        "the tables {} are missing: run the statements of `service_core::database::schema_sql`, or leave out `.migrate(false)`",
        missing.join(", ")
    )))
}

async fn missing_tables(db: &DatabaseConnection) -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for (name, _) in TABLES {
        if !table_exists(db, name).await? {
            missing.push(name);
        }
    }
    Ok(missing)
}

async fn table_exists(db: &DatabaseConnection, name: &str) -> Result<bool> {
    let backend = db.get_database_backend();
    let sql = match backend {
        DbBackend::Sqlite => "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?",
        DbBackend::Postgres => "SELECT 1 WHERE to_regclass($1) IS NOT NULL",
        other => {
            return Err(Error::fatal(format!(
                "{other:?} is not a database this crate works with: use SQLite or PostgreSQL"
            )));
        }
    };
    let row = db.query_one_raw(Statement::from_sql_and_values(backend, sql, [name.into()])).await?;
    Ok(row.is_some())
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot make the framework's tables: grant the right to create tables, or run the statements of `service_core::database::schema_sql` yourself and build with `.migrate(false)`"
)]
struct Refused(#[source] sea_orm::DbErr);
