//! The builder's methods for the database, and the extension that they build.

use std::any::Any;
use std::sync::Arc;

use sea_orm::{ConnectOptions, DatabaseConnection};

use crate::database::availability::Availability;
#[cfg(feature = "postgres")]
use crate::database::connect::direct_options;
use crate::database::connect::{connect_for_registry, default_options};
use crate::database::database_url::display_name;
use crate::database::extension::DatabaseExtension;
use crate::database::registry_pool::RegistryPool;
use crate::database::schema::FrameworkTables;
use crate::database::statement_monitor::StatementMonitor;
use crate::registry::builder::{ExtensionBuilder, RegistryBuilder};
use crate::runtime::extension::{Extension, NoExtension};
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::Result;

/// The database that the builder's methods name. If several name one, the connection is used, else the URL.
#[derive(Debug, Default)]
pub(crate) struct DatabaseBuilder {
    connection: Option<DatabaseConnection>,
    url: Option<String>,
    options: Option<ConnectOptions>,
    #[cfg(feature = "postgres")]
    direct_url: Option<String>,
    skip_migration: bool,
    /// Leases and overrides follow the registry's clock, not the database's.
    pub(crate) is_virtual: bool,
    pub(crate) monitor: Option<Arc<StatementMonitor>>,
}

impl ExtensionBuilder for DatabaseBuilder {
    /// Connects if a URL was given. The database may be down: services that need it wait for it.
    fn build(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Extension>>> {
        Box::pin(async move {
            let tables = FrameworkTables::of_registry(self.skip_migration);
            #[cfg(feature = "postgres")]
            let listen_at = match &self.direct_url {
                Some(url) => Some(direct_options(url).await?),
                None => None,
            };
            let ((db, direct), name) = match (self.connection, self.url, self.options) {
                (Some(db), _, _) => {
                    let name = format!("registry's {:?} database", db.get_database_backend());
                    ((db, None), name)
                }
                (None, Some(url), _) => (connect_for_registry(default_options(&url)?).await?, display_name(&url)),
                (None, None, Some(options)) => {
                    let name = display_name(options.get_url());
                    (connect_for_registry(options).await?, name)
                }
                (None, None, None) => return Ok(Arc::new(NoExtension) as Arc<dyn Extension>),
            };
            let pool = RegistryPool::new(db, direct, self.is_virtual, self.monitor);
            let availability = Availability::new(name, pool.has_direct(), tables);
            let extension = DatabaseExtension::new(pool, availability);
            #[cfg(feature = "postgres")]
            let extension = extension.with_listener(listen_at)?;
            Ok(Arc::new(extension) as Arc<dyn Extension>)
        })
    }
}

impl RegistryBuilder {
    /// Uses a database connection of the application. On PostgreSQL the registry cannot distinguish a pool that
    /// services exhaust from a database that is down; with [`database_url`](Self::database_url) and
    /// [`database_with`](Self::database_with) it can. Replaces [`database_url`](Self::database_url) and
    /// [`database_with`](Self::database_with) if these are called as well.
    pub fn database(self, db: DatabaseConnection) -> Self {
        self.with_database(|database| database.connection = Some(db))
    }

    /// Connects to the database at this URL, such as `sqlite:app.db` or `postgres://…`. The pool has 5 connections on
    /// SQLite, and 10 on PostgreSQL; the wait for a free one ends after 10 s. The database may be down: services that
    /// need it wait for it, and health shows that. A URL that can never work (no driver, no TLS, another engine) is an
    /// error of [`build`](Self::build). The registry reads its tables through the services' pool; if services use all
    /// connections, it opens a connection of its own and closes it afterwards.
    pub fn database_url(self, url: impl Into<String>) -> Self {
        self.with_database(|database| database.url = Some(url.into()))
    }

    /// Connects as [`database_url`](Self::database_url) does, with options of the pool: its size, timeouts,
    /// certificates. A pool has at least two connections. [`database_url`](Self::database_url) replaces these options
    /// if both are called. The framework sets `map_sqlx_sqlite_before_acquire`, and, unless `test_before_acquire` is
    /// off, `map_sqlx_postgres_before_acquire`: a connection that was idle for 100 ms or more is pinged before it is
    /// used again.
    ///
    /// ```
    /// use service_core::ServiceRegistry;
    /// use service_core::sea_orm::ConnectOptions;
    ///
    /// let mut options = ConnectOptions::new("postgres://app:secret@db/app?sslmode=require");
    /// options.max_connections(20).acquire_timeout(std::time::Duration::from_secs(5));
    /// let builder = ServiceRegistry::builder().database_with(options);
    /// # let _ = builder;
    /// ```
    pub fn database_with(self, options: ConnectOptions) -> Self {
        self.with_database(|database| database.options = Some(options))
    }

    /// Sets a URL that leads to the PostgreSQL server itself, for a database behind a pooler in transaction mode, which
    /// drops notifications. The registry listens for notifications there ([`wake_on`](crate::ServiceOptions::wake_on)),
    /// on one connection, and does everything else through the pooler. Needs the feature `postgres`.
    ///
    /// ```
    /// use service_core::ServiceRegistry;
    ///
    /// let builder = ServiceRegistry::builder()
    ///     .database_url("postgres://app:secret@pgbouncer:6432/app")
    ///     .database_direct_url("postgres://app:secret@db:5432/app");
    /// # let _ = builder;
    /// ```
    #[cfg(feature = "postgres")]
    pub fn database_direct_url(self, url: impl Into<String>) -> Self {
        self.with_database(|database| database.direct_url = Some(url.into()))
    }

    /// Sets whether the framework's tables are created at the start. Default: `true`. With `false`, the start only
    /// checks that the tables exist, and is an error if one is missing. Create them with
    /// [`schema_sql`](crate::database::schema_sql).
    pub fn migrate(self, migrate: bool) -> Self {
        self.with_database(|database| database.skip_migration = !migrate)
    }

    pub(crate) fn with_database(mut self, change: impl FnOnce(&mut DatabaseBuilder)) -> Self {
        let known = self.extension.take().map(|builder| (builder as Box<dyn Any>).downcast::<DatabaseBuilder>());
        let mut database = known.and_then(|known| known.ok()).unwrap_or_default();
        change(&mut database);
        self.extension = Some(database);
        self
    }
}
