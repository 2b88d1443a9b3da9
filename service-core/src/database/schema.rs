//! The framework's own tables: their SQL, and their creation at the start.
//!
//! The tricky part is that many replicas start at once. PostgreSQL may answer two concurrent
//! `CREATE TABLE IF NOT EXISTS` with a unique violation in its catalogue, so the tables are created under an advisory
//! lock there.

use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::limited::SHORT_LOCK_WAIT;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::service::error::{Error, Result};

/// Times that SQL compares are milliseconds since 1970; other times are RFC 3339 in UTC, which people can read.
const TABLES: [(&str, &str); 10] = [
    (
        "service_claim",
        "CREATE TABLE IF NOT EXISTS service_claim (\
         work_table TEXT NOT NULL, row_key TEXT NOT NULL, service_id TEXT NOT NULL, owner TEXT NOT NULL, \
         expires_at BIGINT NOT NULL, seq BIGINT NOT NULL DEFAULT 0, crashes BIGINT NOT NULL DEFAULT 0, \
         concurrency BIGINT NOT NULL DEFAULT 1, \
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
         service_id TEXT NOT NULL PRIMARY KEY, last_run TEXT, last_fire TEXT, schedule TEXT, \
         marked_fire TEXT)",
    ),
    (
        "service_audit",
        "CREATE TABLE IF NOT EXISTS service_audit (\
         id TEXT NOT NULL PRIMARY KEY, at TEXT NOT NULL, subject TEXT NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL, \
         set_by TEXT NOT NULL, why TEXT NOT NULL)",
    ),
    (
        "service_lease",
        "CREATE TABLE IF NOT EXISTS service_lease (\
         service_id TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, label TEXT NOT NULL, epoch BIGINT NOT NULL, \
         boot TEXT NOT NULL, lease_ms BIGINT NOT NULL, expires_at BIGINT NOT NULL, created_at BIGINT NOT NULL, \
         last_point BIGINT, moved_at BIGINT, moved_to TEXT)",
    ),
    (
        "service_epoch",
        "CREATE TABLE IF NOT EXISTS service_epoch (service_id TEXT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL)",
    ),
    (
        "service_replica",
        "CREATE TABLE IF NOT EXISTS service_replica (\
         id TEXT NOT NULL PRIMARY KEY, host TEXT NOT NULL, pid BIGINT NOT NULL, version TEXT NOT NULL, \
         started_at TEXT NOT NULL, seen_at BIGINT NOT NULL, services TEXT NOT NULL)",
    ),
    (
        "service_request",
        "CREATE TABLE IF NOT EXISTS service_request (\
         id TEXT NOT NULL PRIMARY KEY, service_id TEXT NOT NULL, action TEXT NOT NULL, requested_by TEXT NOT NULL, \
         requested_at BIGINT NOT NULL, taken_by TEXT, report TEXT)",
    ),
];

/// The columns that early versions of a table lack, each with the statement that adds it.
const LATER_COLUMNS: [(&str, &str, &str); 5] = [
    ("service_claim", "seq", "ALTER TABLE service_claim ADD COLUMN seq BIGINT NOT NULL DEFAULT 0"),
    ("service_claim", "crashes", "ALTER TABLE service_claim ADD COLUMN crashes BIGINT NOT NULL DEFAULT 0"),
    ("service_claim", "concurrency", "ALTER TABLE service_claim ADD COLUMN concurrency BIGINT NOT NULL DEFAULT 1"),
    ("service_state", "schedule", "ALTER TABLE service_state ADD COLUMN schedule TEXT"),
    ("service_state", "marked_fire", "ALTER TABLE service_state ADD COLUMN marked_fire TEXT"),
];

/// The key of the advisory lock: "service\0\0" as a number.
const ADVISORY_LOCK: i64 = 0x0073_6572_7669_6365;

/// Returns the SQL that creates the framework's tables. The registry runs it at the start; with `.migrate(false)`, run
/// it in a migration of your own. Running it again changes nothing.
///
/// The result is one text, and also a list of statements.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> service_core::Result<()> {
/// use sea_orm::ConnectionTrait;
/// use service_core::database::{connect, schema_sql};
///
/// let db = connect("sqlite::memory:").await?;
/// db.execute_unprepared(schema_sql(db.get_database_backend())).await?;
///
/// for statement in schema_sql(db.get_database_backend()) {
///     assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS service_"));
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub fn schema_sql(backend: DbBackend) -> &'static SchemaSql {
    static SCHEMA: LazyLock<SchemaSql> = LazyLock::new(|| {
        let statements = TABLES.map(|(_, sql)| sql);
        SchemaSql { script: format!("{};\n", statements.join(";\n")), statements }
    });
    // The same SQL for every engine: it uses only types and clauses that all of them have.
    let _ = backend;
    &SCHEMA
}

/// The SQL of [`schema_sql`], as one text or statement by statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaSql {
    script: String,
    statements: [&'static str; TABLES.len()],
}

impl SchemaSql {
    /// Returns one text, in which each statement ends with `;` and a new line.
    pub fn as_str(&self) -> &str {
        &self.script
    }

    /// Iterates over the statements, without `;`.
    pub fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, &'static str>> {
        self.statements.iter().copied()
    }

    /// Joins the statements with a separator.
    pub fn join(&self, separator: &str) -> String {
        self.statements.join(separator)
    }
}

impl Deref for SchemaSql {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for SchemaSql {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for SchemaSql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl From<&SchemaSql> for String {
    fn from(sql: &SchemaSql) -> Self {
        sql.script.clone()
    }
}

/// For `for statement in &schema_sql(…)`.
impl<'a> IntoIterator for &&'a SchemaSql {
    type Item = &'static str;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, &'static str>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a SchemaSql {
    type Item = &'static str;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, &'static str>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Creates the framework's tables that are missing, and adds missing columns to tables of an earlier version. Many
/// processes may do so at once.
///
/// # Errors
/// The database is down; a lock is not free within 2 s; or it refuses, then the message names `schema_sql`, or the
/// statement that adds the column.
pub async fn migrate(db: &DatabaseConnection) -> Result<()> {
    if missing_tables(db).await?.is_empty() && missing_columns(db).await?.is_empty() {
        // Then neither the right to create tables nor SQLite's write lock is needed.
        return Ok(());
    }
    let backend = db.get_database_backend();
    let tx = Transaction::begin(&TxContext::new(db.clone())).await?;
    if backend == DbBackend::Postgres {
        // A process that has vanished may hold a lock. Statements that wait would hold up those of services, too.
        tx.execute_unprepared(&format!("{SHORT_LOCK_WAIT}SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")).await?;
    }
    // Checked again under the lock: another process may have created them.
    let missing = missing_tables(&tx).await?;
    for (_, sql) in TABLES.into_iter().filter(|(name, _)| missing.contains(name)) {
        tx.execute_unprepared(sql).await.map_err(Refused)?;
    }
    for sql in missing_columns(&tx).await? {
        tx.execute_unprepared(sql).await.map_err(|source| ColumnRefused { sql, source })?;
    }
    tx.commit().await
}

/// Checks that the framework's tables exist, for `.migrate(false)`.
///
/// # Errors
/// The database is down; or tables or columns are missing, then the message names them.
pub async fn check_schema(db: &DatabaseConnection) -> Result<()> {
    let missing = missing_tables(db).await?;
    if !missing.is_empty() {
        return Err(Error::fatal(format!(
            "the tables {} are missing: run the statements of `service_core::database::schema_sql`, or leave out `.migrate(false)`",
            missing.join(", ")
        )));
    }
    let missing = missing_columns(db).await?;
    if !missing.is_empty() {
        return Err(Error::fatal(format!(
            "tables were created by an earlier version: run `{}`, or leave out `.migrate(false)`",
            missing.join("; ")
        )));
    }
    Ok(())
}

/// The statements that add the columns which the tables lack. A table that does not exist lacks none.
async fn missing_columns(db: &impl ConnectionTrait) -> Result<Vec<&'static str>> {
    let backend = db.get_database_backend();
    let sql = match backend {
        DbBackend::Postgres => {
            "SELECT wanted.name AS in_table, attname::text AS name \
             FROM (VALUES ('service_claim'), ('service_state')) AS wanted (name) \
             JOIN pg_attribute ON attrelid = to_regclass(wanted.name) WHERE NOT attisdropped"
        }
        _ => {
            "SELECT wanted.column1 AS in_table, there.name AS name \
             FROM (VALUES ('service_claim'), ('service_state')) AS wanted JOIN pragma_table_info(wanted.column1) AS there"
        }
    };
    let rows = db.query_all_raw(Statement::from_string(backend, sql)).await?;
    let there = rows.iter().map(|row| Ok((row.try_get("", "in_table")?, row.try_get("", "name")?)));
    let there = there.collect::<DbResult<Vec<(String, String)>>>()?;
    let lacks = |(table, column, _): &(&str, &str, &str)| {
        let mut columns = there.iter().filter(|(of, _)| of == table).peekable();
        columns.peek().is_some() && columns.all(|(_, name)| name != column)
    };
    Ok(LATER_COLUMNS.into_iter().filter(lacks).map(|(_, _, sql)| sql).collect())
}

async fn missing_tables(db: &impl ConnectionTrait) -> Result<Vec<&'static str>> {
    let backend = db.get_database_backend();
    let names: Vec<String> = TABLES.iter().map(|(name, _)| format!("('{name}')")).collect();
    let names = names.join(", ");
    let sql = match backend {
        DbBackend::Postgres => {
            format!("SELECT name FROM (VALUES {names}) AS wanted (name) WHERE to_regclass(name) IS NULL")
        }
        DbBackend::Sqlite => format!(
            "SELECT column1 AS name FROM (VALUES {names}) \
             WHERE column1 NOT IN (SELECT name FROM sqlite_master WHERE type IN ('table', 'view'))"
        ),
        _ => return Err(Error::fatal(format!("{backend:?} is not supported: use SQLite or PostgreSQL"))),
    };
    let rows = match db.query_all_raw(Statement::from_string(backend, sql)).await {
        Ok(rows) => rows,
        Err(error) if ErrorKind::of(&error).is_outage() => return Err(error.into()),
        Err(source) => return Err(Error::new(CannotCheck(source))),
    };
    let missing = rows.iter().map(|row| row.try_get("", "name")).collect::<DbResult<Vec<String>>>()?;
    Ok(TABLES.iter().map(|(name, _)| *name).filter(|name| missing.iter().any(|found| found == name)).collect())
}

/// Whether the framework's tables exist.
#[derive(Debug, Default)]
pub(crate) struct FrameworkTables {
    skip_migration: bool,
    ready: AtomicBool,
}

impl FrameworkTables {
    /// Tables that are created before their first use; with `skip_migration` they are only checked.
    pub(crate) fn of_registry(skip_migration: bool) -> Self {
        Self { skip_migration, ready: AtomicBool::new(false) }
    }

    /// Tables that exist already.
    pub(crate) fn ready() -> Self {
        Self { skip_migration: true, ready: AtomicBool::new(true) }
    }

    /// The tables may be missing again.
    pub(crate) fn forget(&self) {
        self.ready.store(false, Ordering::SeqCst);
    }

    pub(crate) fn are_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Creates the tables that are missing. Once they are known to exist, no query is made.
    ///
    /// # Errors
    /// The database is down; or the tables cannot be created, or `skip_migration` forbids it.
    pub(crate) async fn ensure(&self, db: &DatabaseConnection) -> Result<()> {
        if self.are_ready() {
            return Ok(());
        }
        if self.skip_migration {
            check_schema(db).await?;
        } else {
            migrate(db).await?;
        }
        self.ready.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot check whether the framework's tables exist")]
struct CannotCheck(#[source] DbErr);

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot create the framework's tables: grant the right to create tables, or run the statements of `service_core::database::schema_sql` yourself and build with `.migrate(false)`"
)]
struct Refused(#[source] DbErr);

#[derive(Debug, thiserror::Error)]
#[error("cannot add a column to a table of the framework: run `{sql}` as the table's owner")]
struct ColumnRefused {
    sql: &'static str,
    source: DbErr,
}
