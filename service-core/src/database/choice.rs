//! What the builder was told about the database, and what [`Context`] has of it.

use sea_orm::DatabaseConnection;

use super::{Access, Clock, Transaction, connect, migrate};
use crate::context::Context;
use crate::error::{Error, Result};

/// The builder's choice.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub(crate) connection: Option<DatabaseConnection>,
    pub(crate) url: Option<String>,
    pub(crate) skip_migration: bool,
}

impl Choice {
    /// Connects where a URL was given, and creates the framework's tables.
    pub(crate) async fn open(self) -> Result<Option<DatabaseConnection>> {
        let db = match (self.connection, self.url) {
            (Some(db), _) => db,
            (None, Some(url)) => connect(&url).await?,
            (None, None) => return Ok(None),
        };
        if !self.skip_migration {
            migrate(&db).await?;
        }
        Ok(Some(db))
    }
}

impl Context {
    /// The registry's database.
    ///
    /// # Errors
    /// The registry has none; the error is fatal and says what to write.
    pub fn db(&self) -> Result<&DatabaseConnection> {
        self.entry.hub.database.as_ref().ok_or_else(|| {
            Error::fatal(format!(
                "service `{}` asks for a database, which the registry does not have; \
                 add `.database(db)` or `.database_url(\"…\")` to the builder",
                self.service_id()
            ))
        })
    }

    /// Begins a transaction: `IMMEDIATE` on SQLite, where another writer is waited for. `commit()` makes it last,
    /// dropping it rolls it back. A timeout or stop that falls into the commit waits for its end.
    ///
    /// # Errors
    /// The registry has no database, or it is away.
    pub async fn begin(&self) -> Result<Transaction> {
        self.access()?.begin().await
    }

    /// This service's way to the database.
    pub(crate) fn access(&self) -> Result<Access> {
        let hub = self.entry.hub.clone();
        let mut access = Access::new(self.db()?.clone(), self.entry.id.clone());
        access.gate = self.entry.gate().clone();
        Ok(access.with_clock(Clock::new(move || hub.clock.wall_now().into())))
    }
}
