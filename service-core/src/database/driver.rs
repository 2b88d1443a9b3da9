//! The pools of the drivers that the features of this crate bring. A pool of another driver, which the application
//! brings, cannot be named here.

use std::time::Duration;

use sea_orm::{DatabaseConnection, DbBackend};

/// The limit of what is done with one connection beside the services, such as opening it.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// The pool of the driver for PostgreSQL, if it is one.
#[cfg(feature = "postgres")]
pub(crate) fn postgres_pool(db: &DatabaseConnection) -> Option<&sea_orm::sqlx::PgPool> {
    match &db.inner {
        sea_orm::DatabaseConnectionType::SqlxPostgresPoolConnection(_) => Some(db.get_postgres_connection_pool()),
        _ => None,
    }
}

/// The pool of the driver for SQLite, if it is one.
#[cfg(feature = "sqlite")]
pub(crate) fn sqlite_pool(db: &DatabaseConnection) -> Option<&sea_orm::sqlx::SqlitePool> {
    match &db.inner {
        sea_orm::DatabaseConnectionType::SqlxSqlitePoolConnection(_) => Some(db.get_sqlite_connection_pool()),
        _ => None,
    }
}

/// How many connections a pool has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSize {
    pub(crate) idle: u32,
    /// One that is being opened counts as open.
    pub(crate) open: u32,
    pub(crate) most: u32,
}

impl PoolSize {
    /// `None` if the driver is not one of this crate.
    pub(crate) fn of(db: &DatabaseConnection) -> Option<Self> {
        #[cfg(feature = "postgres")]
        if let Some(pool) = postgres_pool(db) {
            return Some(Self::of_pool(pool));
        }
        #[cfg(feature = "sqlite")]
        if let Some(pool) = sqlite_pool(db) {
            return Some(Self::of_pool(pool));
        }
        let _ = db;
        None
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn of_pool<DB: sea_orm::sqlx::Database>(pool: &sea_orm::sqlx::Pool<DB>) -> Self {
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        Self { idle, open: pool.size(), most: pool.options().get_max_connections() }
    }

    /// Whether all connections are in use, and no other may be opened.
    pub(crate) fn is_exhausted(self) -> bool {
        self.idle == 0 && self.open >= self.most
    }
}

/// Waits until the pool has an idle connection, so that the registry's queries open no further one: many processes may
/// share few connections. A pool without any connection opens its first.
pub(crate) async fn idle_connection(pool: &DatabaseConnection) {
    let must_wait = |size: PoolSize| match pool.get_database_backend() {
        DbBackend::Postgres => size.open > 0 && size.idle == 0,
        _ => size.is_exhausted(),
    };
    while PoolSize::of(pool).is_some_and(must_wait) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether both are the same pool; `false` if that is not known, because the driver is not one of this crate.
pub(crate) fn is_same_pool(a: &DatabaseConnection, b: &DatabaseConnection) -> bool {
    // A pool has its options once.
    #[cfg(feature = "postgres")]
    if let (Some(a), Some(b)) = (postgres_pool(a), postgres_pool(b)) {
        return std::sync::Arc::ptr_eq(&a.connect_options(), &b.connect_options());
    }
    #[cfg(feature = "sqlite")]
    if let (Some(a), Some(b)) = (sqlite_pool(a), sqlite_pool(b)) {
        return std::sync::Arc::ptr_eq(&a.connect_options(), &b.connect_options());
    }
    let _ = (a, b);
    false
}

/// Makes the idle connections of a PostgreSQL pool forget their prepared statements, because a table was changed.
/// Otherwise a statement that no longer fits would fail again on each of them. Without the feature of the pool's driver
/// it does nothing.
pub(crate) async fn forget_statements(pool: &DatabaseConnection) {
    #[cfg(feature = "postgres")]
    if let Some(pool) = postgres_pool(pool) {
        use sea_orm::sqlx::Connection;

        // All are taken first, because a connection that is returned would be taken again.
        let idle: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
        for mut connection in idle {
            let _ = tokio::time::timeout(LIMIT, connection.clear_cached_statements()).await;
        }
    }
    let _ = pool;
}

/// Whether the PostgreSQL driver was compiled with TLS, by a feature of this crate or of the application. Without TLS
/// the driver refuses to connect before it sends anything.
#[cfg(feature = "postgres")]
pub(crate) async fn tls_is_compiled() -> bool {
    static COMPILED: tokio::sync::OnceCell<bool> = tokio::sync::OnceCell::const_new();

    if cfg!(feature = "tls") {
        return true;
    }
    *COMPILED.get_or_init(try_tls).await
}

#[cfg(feature = "postgres")]
async fn try_tls() -> bool {
    use sea_orm::sqlx::postgres::{PgConnectOptions, PgSslMode};
    use sea_orm::sqlx::{Connection, PgConnection};

    // A connection that is accepted and never answered.
    let Ok(listener) = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await else { return true };
    let Ok(address) = listener.local_addr() else { return true };
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(address.port());
    let options = options.ssl_mode(PgSslMode::Require);
    let connected = tokio::time::timeout(Duration::from_millis(500), PgConnection::connect_with(&options)).await;
    !matches!(connected, Ok(Err(sea_orm::sqlx::Error::Tls(_))))
}
