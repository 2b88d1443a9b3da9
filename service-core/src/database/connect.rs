//! Opens pools with the settings that background services need.
//!
//! The tricky part is SQLite. A pool of one hangs as soon as a transaction is open, an in-memory database vanishes with
//! its last connection, and without WAL every reader blocks a writer; sea-orm's defaults have all three.

use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr};

use crate::database::database_url::{DatabaseUrl, Engine};
use crate::database::direct::DirectConnection;
use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::pool_error::{explained, is_refused_parameter};
use crate::service::error::{Error, Result};

/// How long SQLite waits for a lock before it reports "busy".
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that has been idle for this long is pinged before it is used again. The driver also pings each one that
/// is returned, so a ping right after that seldom finds anything, and makes each use a round trip longer.
#[cfg(feature = "postgres")]
const PING_AFTER: Duration = Duration::from_millis(100);
const SQLITE_CONNECTIONS: u32 = 5;
const POSTGRES_CONNECTIONS: u32 = 10;

/// Opens a pool: `sqlite:app.db`, `sqlite::memory:` or `postgres://user:password@host/database`.
///
/// An SQLite file is created if it is missing and runs in WAL mode, with a busy timeout of 5 s. An in-memory database
/// lives as long as the pool, and its readers do not wait for an open transaction (they see what it has written so
/// far). Waiting for a free connection ends after 10 s. The pool holds 5 (SQLite) or 10 (PostgreSQL) connections. A
/// connection to a PostgreSQL server that was idle for 100 ms or more is pinged before it is used again.
///
/// # Errors
/// The URL is not valid, its driver or TLS is not compiled in, the file cannot be opened, or the server does not
/// answer. The message says what to do, and never shows the password.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> service_core::Result<()> {
/// let db = service_core::database::connect("sqlite::memory:").await?;
/// db.ping().await?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub async fn connect(url: &str) -> Result<DatabaseConnection> {
    connect_with(default_options(url)?).await
}

/// As [`connect`], with options of the pool.
pub(crate) async fn connect_with(options: ConnectOptions) -> Result<DatabaseConnection> {
    open(pinged_when_idle(options), false).await
}

/// Opens a pool as [`connect`] does, without waiting for a PostgreSQL server, which may be down now. Until it answers,
/// every use of the pool is an error after 10 s at most. A URL that can never work is still an error here, and an
/// SQLite file is opened at once.
///
/// # Errors
/// As [`connect`], but for a server that does not answer.
pub async fn connect_lazily(url: &str) -> Result<DatabaseConnection> {
    open(pinged_when_idle(default_options(url)?), true).await
}

/// The pool of a test bed. All its connections are open from the start, and stay open: virtual time cannot tell that
/// one is being opened. `begin` is called before each use of a connection, which waits for its future. The pool may
/// have one connection.
pub(crate) async fn connect_for_bed<F>(
    options: ConnectOptions,
    begin: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> Result<DatabaseConnection>
where
    F: Future<Output = ()> + Send + 'static,
{
    let url = options.get_url().to_owned();
    let target = DatabaseUrl::parse(&url)?;
    let connections = options.get_max_connections().filter(|connections| *connections == 1);
    let mut options = tuned(options, &target);
    // Without the ping of the driver, which would come before `begin`.
    options.test_before_acquire(false);
    #[cfg(feature = "sqlite")]
    {
        let engine = target.engine;
        // Real time: a busy machine needs longer, and a busy disk needs seconds for what no test is about.
        options.map_sqlx_sqlite_opts(move |options| {
            let synchronous = sea_orm::sqlx::sqlite::SqliteSynchronous::Off;
            let options = options.busy_timeout(12 * BUSY_TIMEOUT).synchronous(synchronous);
            if engine == Engine::SqliteMemory { in_shared_cache(options) } else { options }
        });
        let begin = begin.clone();
        options.map_sqlx_sqlite_pool_opts(move |pool| {
            let begin = begin.clone();
            stays_open(pool, connections).before_acquire(move |connection, _| {
                let begun = begin();
                Box::pin(async move {
                    begun.await;
                    is_usable(connection).await
                })
            })
        });
    }
    #[cfg(feature = "postgres")]
    {
        let begin = begin.clone();
        options.map_sqlx_postgres_pool_opts(move |pool| {
            let begin = begin.clone();
            stays_open(pool, connections).before_acquire(move |connection, _| {
                let begun = begin();
                Box::pin(async move {
                    begun.await;
                    Ok(sea_orm::sqlx::Connection::ping(connection).await.is_ok())
                })
            })
        });
    }
    let _ = (begin, connections);
    open(options, false).await
}

/// Opens a connection beside the pool of a test bed that keeps its database in memory: the pool closes a connection if a
/// statement is dropped while it waits for its turn. `None` for other databases.
#[cfg(feature = "sqlite")]
pub(crate) async fn keep_in_memory(db: &DatabaseConnection, url: &str) -> Result<Option<DatabaseConnection>> {
    use sea_orm::SqlxSqliteConnector;
    use sea_orm::sqlx::sqlite::SqlitePoolOptions;

    let target = DatabaseUrl::parse(url)?;
    let Some(pool) = crate::database::driver::sqlite_pool(db).filter(|_| target.engine == Engine::SqliteMemory) else {
        return Ok(None);
    };
    let one = stays_open(SqlitePoolOptions::new(), Some(1));
    let opened = one.connect_with((*pool.connect_options()).clone()).await;
    let opened = opened.map_err(|error| explain(&target, DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into()))))?;
    Ok(Some(SqlxSqliteConnector::from_sqlx_sqlite_pool(opened)))
}

#[cfg(not(feature = "sqlite"))]
pub(crate) async fn keep_in_memory(_db: &DatabaseConnection, _url: &str) -> Result<Option<DatabaseConnection>> {
    Ok(None)
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn stays_open<DB: sea_orm::sqlx::Database>(
    pool: sea_orm::sqlx::pool::PoolOptions<DB>,
    connections: Option<u32>,
) -> sea_orm::sqlx::pool::PoolOptions<DB> {
    let connections = connections.unwrap_or(pool.get_max_connections());
    pool.min_connections(connections).max_connections(connections).idle_timeout(None).max_lifetime(None)
}

/// The options of a pool by its URL alone.
pub(crate) fn default_options(url: &str) -> Result<ConnectOptions> {
    // A wrong URL is reported here, because the driver's message would show its password.
    let mut options = ConnectOptions::new(DatabaseUrl::parse(url)?.url());
    options.acquire_timeout(ACQUIRE_TIMEOUT).connect_timeout(ACQUIRE_TIMEOUT);
    if let Ok(level) = "debug".parse() {
        options.sqlx_logging_level(level);
    }
    Ok(options)
}

/// Opens a registry's pool, and what opens connections beside it: nothing for a database in memory, where another
/// connection would open another database. A database that is down is not an error, because it may come up later. A URL
/// that can never work is.
pub(crate) async fn connect_for_registry(
    options: ConnectOptions,
) -> Result<(DatabaseConnection, Option<DirectConnection>)> {
    let url = options.get_url().to_owned();
    let target = DatabaseUrl::parse(&url)?;
    let direct = match target.engine {
        Engine::SqliteMemory => None,
        _ => Some(DirectConnection::new(tuned(pinged_when_idle(options.clone()), &target))),
    };
    match open(pinged_when_idle(options.clone()), true).await {
        Ok(db) => Ok((db, direct)),
        Err(error) if target.engine == Engine::SqliteFile && error.find::<OpenError>().is_some() => {
            match unopened_sqlite(&tuned(options, &target), &target) {
                Some(db) => Ok((db, direct)),
                None => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Returns a pool for an SQLite file that cannot be opened yet: each new connection tries to open it. sea-orm's own
/// function fails at once.
#[cfg(feature = "sqlite")]
fn unopened_sqlite(options: &ConnectOptions, target: &DatabaseUrl<'_>) -> Option<DatabaseConnection> {
    use sea_orm::SqlxSqliteConnector;
    use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    let sqlite: SqliteConnectOptions = options.get_url().parse().ok()?;
    let mut sqlite = sqlite.busy_timeout(BUSY_TIMEOUT);
    if !target.read_only {
        sqlite = sqlite.pragma("journal_mode", "WAL");
    }
    let pool = SqlitePoolOptions::new()
        .max_connections(options.get_max_connections().unwrap_or(SQLITE_CONNECTIONS))
        .acquire_timeout(options.get_acquire_timeout().unwrap_or(ACQUIRE_TIMEOUT))
        .before_acquire(|connection, _| Box::pin(is_usable(connection)));
    Some(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_lazy_with(sqlite)))
}

#[cfg(not(feature = "sqlite"))]
fn unopened_sqlite(_options: &ConnectOptions, _target: &DatabaseUrl<'_>) -> Option<DatabaseConnection> {
    None
}

async fn open(options: ConnectOptions, lazily: bool) -> Result<DatabaseConnection> {
    let url = options.get_url().to_owned();
    let target = DatabaseUrl::parse(&url)?;
    #[cfg(feature = "postgres")]
    check_tls(&target).await?;
    let mut options = tuned(options, &target);
    if target.engine == Engine::Postgres {
        // Always lazily, so that a failure to connect comes later, when its cause can be found.
        options.connect_lazy(true);
    }
    let db = Database::connect(options).await.map_err(|error| explain(&target, error))?;
    if target.engine == Engine::Postgres
        && !lazily
        && let Err(error) = db.ping().await
    {
        let error = explained(&db, error).await;
        return Err(explain(&target, error));
    }
    if target.engine == Engine::SqliteFile && !target.read_only {
        set_wal(&db).await.map_err(|error| explain(&target, error))?;
    }
    Ok(db)
}

/// # Errors
/// The URL requires TLS, and this program has none.
#[cfg(feature = "postgres")]
async fn check_tls(target: &DatabaseUrl<'_>) -> Result<()> {
    let ssl_mode = std::env::var("PGSSLMODE").ok();
    if target.requires_tls(ssl_mode.as_deref()) && !crate::database::driver::tls_is_compiled().await {
        return Err(Error::fatal(format!(
            "`{}` requires TLS, but this program is built without it: enable the feature `tls` of service-core",
            target.shown()
        )));
    }
    Ok(())
}

/// Reads the URL of `database_direct_url`.
///
/// # Errors
/// It can never work.
#[cfg(feature = "postgres")]
pub(crate) async fn direct_options(url: &str) -> Result<sea_orm::sqlx::postgres::PgConnectOptions> {
    let target = DatabaseUrl::parse(url)?;
    if target.engine != Engine::Postgres {
        return Err(Error::fatal(format!(
            "`database_direct_url` is for a PostgreSQL server behind a pooler, `{}` is none",
            target.shown()
        )));
    }
    check_tls(&target).await?;
    // The driver's own message would show the password.
    url.parse().map_err(|_| invalid_url(&target.shown()))
}

fn invalid_url(shown: &str) -> Error {
    Error::fatal(format!(
        "`{shown}` is not a valid database URL: check it for spaces and special characters, which need %-encoding"
    ))
}

/// Sets WAL mode. The mode is stored in the file, so it applies to every connection and every later process.
///
/// SQLite does not wait for its busy timeout here: while another process opens the same new file, the mode cannot be
/// set.
async fn set_wal(db: &DatabaseConnection) -> DbResult<()> {
    let begun = Instant::now();
    loop {
        match db.execute_unprepared("PRAGMA journal_mode = WAL").await {
            Err(error) if ErrorKind::of(&error) == ErrorKind::Contention && begun.elapsed() < BUSY_TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..50))).await;
            }
            set => return set.map(drop),
        }
    }
}

/// Pings connections to a server that were idle, instead of all. Options without a ping, or with another time, stay as
/// they are.
///
/// sea-orm's own option for this would log a warning for each connection that is replaced after an outage.
fn pinged_when_idle(mut options: ConnectOptions) -> ConnectOptions {
    if options.get_test_before_acquire() {
        options.test_before_acquire(false);
        #[cfg(feature = "postgres")]
        options.map_sqlx_postgres_before_acquire(|connection, pooled| {
            Box::pin(async move {
                Ok(pooled.idle_for < PING_AFTER || sea_orm::sqlx::Connection::ping(connection).await.is_ok())
            })
        });
    }
    options
}

/// Adds the options that background services need.
fn tuned(mut options: ConnectOptions, target: &DatabaseUrl<'_>) -> ConnectOptions {
    let usual = if target.engine == Engine::Postgres { POSTGRES_CONNECTIONS } else { SQLITE_CONNECTIONS };
    // With one connection, statements beside an open transaction would wait for it.
    let connections = options.get_max_connections().unwrap_or(usual).max(2);
    options.max_connections(connections);
    if target.engine == Engine::SqliteMemory {
        options.min_connections(1).idle_timeout(None).max_lifetime(None);
    }
    tune_sqlite(&mut options, target.engine);
    options
}

/// Whether a connection is outside of any transaction. The pool closes a connection that was left inside one.
#[cfg(feature = "sqlite")]
async fn is_usable(
    connection: &mut sea_orm::sqlx::SqliteConnection,
) -> std::result::Result<bool, sea_orm::sqlx::Error> {
    Ok(!sea_orm::sqlx::Connection::is_in_transaction(connection))
}

#[cfg(feature = "sqlite")]
fn tune_sqlite(options: &mut ConnectOptions, engine: Engine) {
    if engine == Engine::Postgres {
        return;
    }
    options.map_sqlx_sqlite_before_acquire(|connection, _| Box::pin(is_usable(connection)));
    if engine == Engine::SqliteMemory {
        options.map_sqlx_sqlite_opts(in_shared_cache);
    }
}

/// Connections to one in-memory database share their cache, where a reader waits for a writer without an end.
#[cfg(feature = "sqlite")]
fn in_shared_cache(
    options: sea_orm::sqlx::sqlite::SqliteConnectOptions,
) -> sea_orm::sqlx::sqlite::SqliteConnectOptions {
    options.pragma("read_uncommitted", "1")
}

#[cfg(not(feature = "sqlite"))]
fn tune_sqlite(_options: &mut ConnectOptions, _engine: Engine) {}

fn explain(target: &DatabaseUrl<'_>, error: DbErr) -> Error {
    let shown = target.shown();
    let text = error.to_string();
    if text.contains("has no supporting driver") {
        let (name, feature, driver) = match target.engine.backend() {
            DbBackend::Postgres => ("PostgreSQL", "postgres", "sqlx-postgres"),
            _ => ("SQLite", "sqlite", "sqlx-sqlite"),
        };
        return Error::fatal(format!(
            "this program has no {name} driver for `{shown}`: enable the feature `{feature}` of service-core \
                 (or `{driver}` and `runtime-tokio` of sea-orm)"
        ));
    }
    if text.contains("cannot be parsed") {
        // sea-orm's own message would show the password.
        return invalid_url(&shown);
    }
    let advice = match target.engine {
        Engine::SqliteFile => "does its directory exist, and may this process write there?",
        Engine::SqliteMemory => "is there memory left?",
        Engine::Postgres if is_refused_parameter(&error) => "the connection is refused",
        Engine::Postgres => "does the server run there, and are user, password and database right?",
    };
    Error::new(OpenError { shown, advice, source: error })
}

#[derive(Debug, thiserror::Error)]
#[error("cannot open the database `{shown}`: {advice}")]
struct OpenError {
    shown: String,
    advice: &'static str,
    source: DbErr,
}

#[cfg(all(test, feature = "postgres", not(feature = "tls")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_that_needs_tls_names_the_feature() {
        for mode in ["require", "verify-full"] {
            let url = format!("postgres://ann:secret@127.0.0.1:1/app?sslmode={mode}");
            let error = connect_for_registry(default_options(&url).unwrap()).await.unwrap_err().to_string();
            assert!(error.contains("the feature `tls`") && !error.contains("secret"), "{error}");
        }
        let url = "postgres://ann@127.0.0.1:1/app?sslmode=prefer";
        connect_for_registry(default_options(url).unwrap()).await.unwrap();
    }
}
