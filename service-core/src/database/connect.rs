//! Opening pools: what a URL needs so that background services run well on it.
//!
//! The tricky part is SQLite. A pool of one hangs as soon as a transaction is open, an in-memory database vanishes with
//! its last connection, and without WAL every reader stands in a writer's way; sea-orm's defaults have all three.

use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr};

use crate::config::{REDACTED, is_secret};
use crate::service::error::{Error, Result};

/// How long SQLite itself waits for a lock before it says "busy".
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement waits for a connection, a server that is away included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const SQLITE_CONNECTIONS: u32 = 5;
const POSTGRES_CONNECTIONS: u32 = 10;
/// For the registry's own questions: connections, and how long it waits for one.
const REGISTRY_POOL: (u32, Duration) = (2, Duration::from_secs(5));

/// Opens a pool: `sqlite:app.db`, `sqlite::memory:` or `postgres://user:password@host/database`.
///
/// An SQLite file is created when it is missing and runs in WAL mode, with a busy timeout of 5 s; an in-memory database
/// lives as long as the pool, and its readers do not wait for an open transaction (they see what it has written so far).
/// Waiting for a free connection ends after 10 s. The pool holds 5 (SQLite) or 10 (PostgreSQL) connections.
///
/// # Errors
/// A URL that is none, a driver that is not compiled in, a file that cannot be opened, a server that does not answer.
/// The message says what to do, and never shows the password.
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
    open(url, false).await
}

/// As [`connect`], without waiting for a PostgreSQL server: it may be away now and come later. Until then every use of
/// the pool is an error after 10 s at most. A URL that can never work is still an error here, and an SQLite file is opened at once.
pub async fn connect_lazily(url: &str) -> Result<DatabaseConnection> {
    open(url, true).await
}

/// A registry's pools: the services', and its own, which no service can use up. A database that is away is no error:
/// it may come later. What can never work still is.
pub(crate) async fn connect_for_registry(url: &str) -> Result<(DatabaseConnection, Option<DatabaseConnection>)> {
    let target = Target::parse(url)?;
    match target.engine {
        // Its connections must not end, and others would see another database.
        Engine::SqliteMemory => Ok((open(url, true).await?, None)),
        Engine::Postgres => {
            let own = pool(&target, REGISTRY_POOL, true).await?;
            Ok((open(url, true).await?, Some(own)))
        }
        Engine::SqliteFile => match open(url, false).await {
            Ok(db) => Ok((db, Some(pool(&target, REGISTRY_POOL, false).await?))),
            Err(error) => match lazy_sqlite_pools(&target).filter(|_| error.find::<OpenError>().is_some()) {
                Some(pools) => Ok(pools),
                None => Err(error),
            },
        },
    }
}

/// Pools of an SQLite file that cannot be opened yet: each connection tries anew. sea-orm itself opens a file at once.
#[cfg(feature = "sqlite")]
fn lazy_sqlite_pools(target: &Target<'_>) -> Option<(DatabaseConnection, Option<DatabaseConnection>)> {
    use sea_orm::SqlxSqliteConnector;
    use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    let options: SqliteConnectOptions = target.url().parse().ok()?;
    let mut options = options.busy_timeout(BUSY_TIMEOUT);
    if !target.read_only {
        options = options.pragma("journal_mode", "WAL");
    }
    let pool = |(connections, timeout)| {
        let pool = SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(timeout)
            .before_acquire(|connection, _| Box::pin(is_usable(connection)));
        SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_lazy_with(options.clone()))
    };
    Some((pool((SQLITE_CONNECTIONS, ACQUIRE_TIMEOUT)), Some(pool(REGISTRY_POOL))))
}

#[cfg(not(feature = "sqlite"))]
fn lazy_sqlite_pools(_target: &Target<'_>) -> Option<(DatabaseConnection, Option<DatabaseConnection>)> {
    None
}

async fn open(url: &str, lazily: bool) -> Result<DatabaseConnection> {
    let target = Target::parse(url)?;
    let connections = if target.engine == Engine::Postgres { POSTGRES_CONNECTIONS } else { SQLITE_CONNECTIONS };
    pool(&target, (connections, ACQUIRE_TIMEOUT), lazily).await
}

async fn pool(
    target: &Target<'_>,
    (connections, timeout): (u32, Duration),
    lazily: bool,
) -> Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(target.url());
    options.acquire_timeout(timeout).connect_timeout(timeout);
    if let Ok(level) = "debug".parse() {
        options.sqlx_logging_level(level);
    }
    options.max_connections(connections);
    match target.engine {
        Engine::SqliteFile => {}
        Engine::SqliteMemory => {
            options.min_connections(1).idle_timeout(None).max_lifetime(None);
        }
        Engine::Postgres => {
            options.connect_lazy(lazily);
        }
    }
    tune_sqlite(&mut options, target.engine);
    let db = Database::connect(options).await.map_err(|error| target.explain(error))?;
    if target.engine == Engine::SqliteFile && !target.read_only {
        // Kept in the file, so once is enough for every connection and every later process.
        db.execute_unprepared("PRAGMA journal_mode = WAL").await.map_err(|error| target.explain(error))?;
    }
    Ok(db)
}

/// Whether a connection was not left inside a transaction. The pool closes those that were.
#[cfg(feature = "sqlite")]
async fn is_usable(
    connection: &mut sea_orm::sqlx::SqliteConnection,
) -> std::result::Result<bool, sea_orm::sqlx::Error> {
    Ok(!sea_orm::sqlx::Connection::is_in_transaction(connection))
}

#[cfg(feature = "sqlite")]
fn tune_sqlite(options: &mut ConnectOptions, engine: Engine) {
    options.map_sqlx_sqlite_before_acquire(|connection, _| Box::pin(is_usable(connection)));
    options.map_sqlx_sqlite_opts(move |options| {
        let options = options.busy_timeout(BUSY_TIMEOUT);
        // Connections to one in-memory database share their cache, where a reader waits for a writer without an end.
        if engine == Engine::SqliteMemory { options.pragma("read_uncommitted", "1") } else { options }
    });
}

#[cfg(not(feature = "sqlite"))]
fn tune_sqlite(_options: &mut ConnectOptions, _engine: Engine) {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    SqliteFile,
    SqliteMemory,
    Postgres,
}

impl Engine {
    fn backend(self) -> DbBackend {
        match self {
            Self::SqliteFile | Self::SqliteMemory => DbBackend::Sqlite,
            Self::Postgres => DbBackend::Postgres,
        }
    }
}

#[derive(Debug)]
struct Target<'a> {
    given: &'a str,
    engine: Engine,
    read_only: bool,
}

impl<'a> Target<'a> {
    fn parse(given: &'a str) -> Result<Self> {
        let (scheme, rest) = given.split_once(':').unwrap_or((given, ""));
        // Of what is no URL, not everything can be shown: `host=db password=…` is a way to write it elsewhere.
        if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._/\\".contains(c)) {
            return Err(Error::fatal(
                "what was given is not a database URL: write `sqlite:app.db`, or `postgres://user:password@host/database`",
            ));
        }
        if !given.contains(':') {
            return Err(Error::fatal(format!(
                "`{given}` is not a database URL: write `sqlite:{}` for a file, \
                 or `postgres://user:password@host/database`",
                if given.is_empty() { "app.db" } else { given }
            )));
        }
        let engine = match scheme {
            "sqlite" if is_memory(rest) => Engine::SqliteMemory,
            "sqlite" if rest.trim_start_matches('/').is_empty() => {
                return Err(Error::fatal(
                    "`sqlite:` lacks the file's name: write `sqlite:app.db` or `sqlite::memory:`",
                ));
            }
            "sqlite" => Engine::SqliteFile,
            "postgres" | "postgresql" => Engine::Postgres,
            other => {
                return Err(Error::fatal(format!(
                    "`{other}:` is not a database this crate works with: use `sqlite:…` or `postgres://…`"
                )));
            }
        };
        let read_only = engine == Engine::SqliteFile && parameters(rest).any(|p| p == "mode=ro" || p == "immutable=1");
        Ok(Self { given, engine, read_only })
    }

    /// The URL as the driver wants it: a file that is missing is created, unless the URL has a mode of its own.
    fn url(&self) -> String {
        if self.engine != Engine::SqliteFile || parameters(self.given).any(|p| p.starts_with("mode=")) {
            return self.given.to_owned();
        }
        let joint = if self.given.contains('?') { '&' } else { '?' };
        format!("{}{joint}mode=rwc", self.given)
    }

    fn explain(&self, error: DbErr) -> Error {
        let shown = redacted(self.given);
        let text = error.to_string();
        if text.contains("has no supporting driver") {
            let (name, feature, driver) = match self.engine.backend() {
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
            return Error::fatal(format!(
                "`{shown}` is not a valid database URL: check it for spaces and special characters, which need %-encoding"
            ));
        }
        let advice = match self.engine {
            Engine::SqliteFile => "does its directory exist, and may this process write there?",
            Engine::SqliteMemory => "is there memory left?",
            Engine::Postgres => "does the server run there, and are user, password and database right?",
        };
        Error::new(OpenError { shown, advice, source: error })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot open the database `{shown}`: {advice}")]
struct OpenError {
    shown: String,
    advice: &'static str,
    source: DbErr,
}

fn is_memory(rest: &str) -> bool {
    let name = rest.split('?').next().unwrap_or_default();
    name.trim_start_matches('/') == ":memory:" || parameters(rest).any(|p| p == "mode=memory")
}

fn parameters(url: &str) -> impl Iterator<Item = &str> {
    url.split_once('?').map_or("", |(_, parameters)| parameters).split('&')
}

/// How messages name the database at this URL.
pub(crate) fn display_name(url: &str) -> String {
    format!("database `{}`", redacted(url))
}

/// The URL without its password, which may stand before the host or among the parameters.
fn redacted(url: &str) -> String {
    let (address, parameters) = url.split_once('?').map_or((url, None), |(address, rest)| (address, Some(rest)));
    let mut shown = address.to_owned();
    if let Some((scheme, rest)) = address.split_once("://") {
        if rest.contains(':') && parameters.is_some_and(|parameters| parameters.contains('@')) {
            // A `?` within the password, or an `@` within a parameter: nobody can tell, so neither is shown.
            return format!("{scheme}://{REDACTED}");
        }
        if let Some((login, host)) = rest.rsplit_once('@')
            && let Some((user, _)) = login.split_once(':')
        {
            shown = format!("{scheme}://{user}:{REDACTED}@{host}");
        }
    }
    let Some(parameters) = parameters else { return shown };
    let parameters: Vec<String> = parameters
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            // A name may be encoded, too.
            Some((name, _)) if is_secret(name) || name.contains('%') => format!("{name}={REDACTED}"),
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{shown}?{}", parameters.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_created_unless_the_url_says_otherwise() {
        for (given, opened) in [
            ("sqlite:app.db", "sqlite:app.db?mode=rwc"),
            ("sqlite://app.db?cache=private", "sqlite://app.db?cache=private&mode=rwc"),
            ("sqlite:app.db?mode=ro", "sqlite:app.db?mode=ro"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("postgres://a@b/c", "postgres://a@b/c"),
        ] {
            assert_eq!(Target::parse(given).unwrap().url(), opened);
        }
    }

    #[test]
    fn a_wrong_url_is_told_what_to_write() {
        for (given, part) in [
            ("app.db", "write `sqlite:app.db`"),
            ("", "write `sqlite:app.db`"),
            ("host=db user=ann", "write `sqlite:app.db`, or `postgres://"),
            ("sqlite:", "lacks the file's name"),
            ("mysql://localhost/x", "use `sqlite:…` or `postgres://…`"),
        ] {
            let message = Target::parse(given).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(redacted("postgres://ann:se:cr@t@db:5432/app"), "postgres://ann:•••@db:5432/app");
        assert_eq!(redacted("postgres://ann@db/app"), "postgres://ann@db/app");
        assert_eq!(redacted("sqlite:app.db"), "sqlite:app.db");
        assert_eq!(redacted("sqlite:app.db?key=secret&mode=ro"), "sqlite:app.db?key=•••&mode=ro");
        assert_eq!(redacted("postgres://db/app?user=ann&password=s%20@t"), "postgres://db/app?user=ann&password=•••");
        assert_eq!(redacted("postgres://ann:pw@db/app?host=/run"), "postgres://ann:•••@db/app?host=/run");
        assert_eq!(redacted("postgres://db/app?pass%77ord=secret"), "postgres://db/app?pass%77ord=•••");
        for given in [
            "postgres://db:1/app?user=ann&password=s@ecret",
            "postgres://ann:pw@db:1/app?password=x@ecret",
            "postgres://ann:pw?s@ecret@db/app",
        ] {
            assert_eq!(redacted(given), "postgres://•••");
        }
        for given in ["host=db password=secret", "host=db password=secret:1", "ann:secret@db/app", "//ann:secret@db"] {
            let message = Target::parse(given).unwrap_err().to_string();
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
