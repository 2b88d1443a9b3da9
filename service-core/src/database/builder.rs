//! What the builder's methods say about the database, and the extension that comes of it.

use std::any::Any;
use std::sync::Arc;

use sea_orm::DatabaseConnection;

use crate::database::availability::Availability;
use crate::database::connect::{connect_for_registry, display_name};
use crate::database::extension::DatabaseExtension;
use crate::database::schema::FrameworkTables;
use crate::registry::builder::{ExtensionBuilder, RegistryBuilder};
use crate::runtime::extension::{Extension, NoExtension};
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::Result;

/// What the builder was told about the database.
#[derive(Debug, Default)]
struct DatabaseBuilder {
    connection: Option<DatabaseConnection>,
    url: Option<String>,
    skip_migration: bool,
}

impl ExtensionBuilder for DatabaseBuilder {
    /// Connects where a URL was given. The database may be away: whoever needs it waits for it later.
    fn build(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Extension>>> {
        Box::pin(async move {
            let tables = FrameworkTables::of_registry(self.skip_migration);
            let (db, availability) = match (self.connection, self.url) {
                (Some(db), _) => {
                    let name = format!("registry's {:?} database", db.get_database_backend());
                    (db, Availability::new(name, None, tables))
                }
                (None, Some(url)) => {
                    let (db, registry_pool) = connect_for_registry(&url).await?;
                    (db, Availability::new(display_name(&url), registry_pool, tables))
                }
                (None, None) => return Ok(Arc::new(NoExtension) as Arc<dyn Extension>),
            };
            Ok(Arc::new(DatabaseExtension::new(db, availability)) as Arc<dyn Extension>)
        })
    }
}

impl RegistryBuilder {
    /// A database connection of the application. A pool that its services exhaust cannot be told from a database that is
    /// away; with [`database_url`](Self::database_url) it can.
    pub fn database(self, db: DatabaseConnection) -> Self {
        self.with_database(|database| database.connection = Some(db))
    }

    /// A database that the registry connects to by itself, such as `sqlite://app.db` or `postgres://…`. It may be away:
    /// services that need it wait for it, and health says so. Beside the services' pool the registry keeps two connections of
    /// its own.
    pub fn database_url(self, url: impl Into<String>) -> Self {
        self.with_database(|database| database.url = Some(url.into()))
    }

    /// Whether the framework's tables are created at start. Default: `true`.
    pub fn migrate(self, migrate: bool) -> Self {
        self.with_database(|database| database.skip_migration = !migrate)
    }

    fn with_database(mut self, change: impl FnOnce(&mut DatabaseBuilder)) -> Self {
        let known = self.extension.take().map(|builder| (builder as Box<dyn Any>).downcast::<DatabaseBuilder>());
        let mut database = known.and_then(|known| known.ok()).unwrap_or_default();
        change(&mut database);
        self.extension = Some(database);
        self
    }
}
