//! What the builder was told about the database, and what [`Context`] has of it.

use sea_orm::DatabaseConnection;

use crate::database::availability::Availability;
use crate::database::connect::{connect_for_registry, display_name};
use crate::database::schema::FrameworkTables;
use crate::database::service_db::ServiceDb;
use crate::database::store::Store;
use crate::database::transaction::Transaction;
use crate::database::work::builder::{Claim, ClaimEach};
use crate::database::work::work_item::WorkItem;
use crate::runtime::context::Context;
use crate::service::error::{Error, Result};

/// The builder's choice.
#[derive(Debug, Default)]
pub(crate) struct DatabaseSource {
    pub(crate) connection: Option<DatabaseConnection>,
    pub(crate) url: Option<String>,
    pub(crate) skip_migration: bool,
}

impl DatabaseSource {
    /// Connects where a URL was given. The database may be away: it is waited for later, by who needs it.
    pub(crate) async fn open(self) -> Result<(Option<DatabaseConnection>, Availability)> {
        let tables = FrameworkTables::of_registry(self.skip_migration);
        match (self.connection, self.url) {
            (Some(db), _) => {
                let name = format!("registry's {:?} database", db.get_database_backend());
                Ok((Some(db), Availability::new(name, None, tables)))
            }
            (None, Some(url)) => {
                let (db, own) = connect_for_registry(&url).await?;
                Ok((Some(db), Availability::new(display_name(&url), own, tables)))
            }
            (None, None) => Ok((None, Availability::default())),
        }
    }
}

impl Context {
    /// The registry's database.
    ///
    /// # Errors
    /// The registry has none; the error is fatal and says what to write.
    pub fn db(&self) -> Result<&DatabaseConnection> {
        Ok(self.service_db()?.db())
    }

    /// Begins a transaction: `IMMEDIATE` on SQLite, where another writer is waited for. `commit()` makes it last,
    /// dropping it rolls it back. A timeout or stop that falls into the commit waits for its end.
    ///
    /// # Errors
    /// The registry has no database, or it is away.
    pub async fn begin(&self) -> Result<Transaction> {
        self.service_db()?.begin().await
    }

    /// Claims up to `n` pending rows of `E`, the oldest first; nobody else gets them. They end with
    /// [`Batch::commit`](crate::database::Batch::commit): a run that ends without it leaves them as they were, but charges the one
    /// in flight.
    ///
    /// # Errors
    /// When awaited: the registry has no database, or it is away.
    pub fn claim<E: WorkItem>(&self, n: u64) -> Claim<E> {
        Claim::new(self.service_db(), n)
    }

    /// As [`claim`](Self::claim), for work that is slow or has effects outside the database: no transaction is open while
    /// it goes on, and each row is settled by itself.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim).
    pub fn claim_each<E: WorkItem>(&self, n: u64) -> ClaimEach<E> {
        ClaimEach::new(self.service_db(), n)
    }

    /// Small typed values of this service that outlive the process.
    ///
    /// # Errors
    /// When used: the registry has no database, or it is away.
    pub fn store(&self) -> Store {
        Store::new(self.service_db())
    }

    /// This service's way to the database.
    fn service_db(&self) -> Result<&ServiceDb> {
        let db = self.entry.hub.database.as_ref().ok_or_else(|| {
            Error::fatal(format!(
                "service `{}` asks for a database, which the registry does not have; \
                 add `.database(db)` or `.database_url(\"…\")` to the builder",
                self.service_id()
            ))
        })?;
        Ok(self.entry.access(db))
    }
}
