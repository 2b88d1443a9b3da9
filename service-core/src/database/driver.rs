//! The pools of the drivers that the features of this crate bring. A pool of another driver, which the application
//! brings, cannot be named here.

use sea_orm::DatabaseConnection;

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
